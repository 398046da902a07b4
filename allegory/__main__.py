"""`python -m allegory` is the command `allegory`."""

import signal
import sys

if __name__ == "__main__":
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # while it imports; see allegory.command.options
    from allegory.command.entry import main

    sys.exit(main())
