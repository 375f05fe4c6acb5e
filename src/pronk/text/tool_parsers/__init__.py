"""How models write tool calls: a file for each syntax, one contract (`syntax.py`), and what runs them on a stream."""
