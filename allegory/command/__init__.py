"""The command `allegory`."""

from allegory.command.entry import main
from allegory.command.options import command_line

__all__ = ["command_line", "main"]
