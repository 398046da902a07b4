"""`python -m allegory` is the command `allegory`."""

import sys

from allegory.command.entry import main

if __name__ == "__main__":
    sys.exit(main())
