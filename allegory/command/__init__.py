"""The command `allegory`."""

from allegory.command.entry import main

__all__ = ["main"]
