"""Other engines, each in a process of its own with `pronk bench`'s options, and what a comparison with them says."""
