"""`python -m pronk`."""

from pronk.cli import main

raise SystemExit(main())
