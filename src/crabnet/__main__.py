"""``python -m crabnet``."""

import sys

from crabnet.cli.main import main

sys.exit(main())
