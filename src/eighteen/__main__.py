"""``python -m eighteen`` is ``eighteen``."""

from __future__ import annotations

import sys

from eighteen.cli import main

if __name__ == "__main__":
    sys.exit(main())
