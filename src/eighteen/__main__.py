"""``python -m eighteen`` is ``eighteen``."""

import sys

from eighteen.cli import main

sys.exit(main())
