"""`python -m allegory` is the command `allegory`."""

import signal
import sys


def main() -> int:
    """Runs the command and returns its exit code. Until its imports are done Ctrl-C ends the process at once, since the
    import of a C extension may swallow a KeyboardInterrupt; `allegory.command.console.imports_done` gives it back.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from allegory.command.entry import main

    return main()


if __name__ == "__main__":
    sys.exit(main())
