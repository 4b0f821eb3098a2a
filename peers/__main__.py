"""`python -m peers` is `peers`."""

import sys

from peers.cli import main

sys.exit(main())
