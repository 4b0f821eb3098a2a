"""The command: `python -m tools.sqlstyle sql`."""

import sys

from tools.sqlstyle.rules import main

sys.exit(main())
