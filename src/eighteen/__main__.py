"""``python -m eighteen`` is ``eighteen``."""

from __future__ import annotations

from eighteen.cli import entry

if __name__ == "__main__":
    entry()
