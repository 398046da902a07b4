"""Tables on the terminal: readable where it is narrow, in a pipe, and without colours."""

from __future__ import annotations

import os
import sys
from typing import Any

__all__ = ["show"]


def show(table: Any) -> None:
    """Prints a table; row by row where it would have to cut words or numbers to fit the terminal.

    Args:
        table: a rich table whose cells are all strings.
    """
    from rich.console import Console
    from rich.measure import Measurement
    from rich.padding import Padding

    plain = "NO_COLOR" in os.environ
    console = Console(color_system=None if plain else "auto", highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = max(80, Measurement.get(console, console.options.update(width=1000), table).maximum)
    with console.capture() as drawn:
        console.print(table)
    fits = Measurement.get(console, console.options.update(width=1000), table).minimum <= console.width
    if fits and "…" not in drawn.get():
        sys.stdout.write(drawn.get())
        return
    if table.title:
        console.print(table.title)
    heads = [column.header for column in table.columns]
    for cells in zip(*(column.cells for column in table.columns), strict=True):
        console.print(" ".join(filter(None, [heads[0], cells[0]])), overflow="fold")
        for head, cell in zip(heads[1:], cells[1:], strict=True):
            if cell:
                console.print(Padding(f"{head}: {cell}", (0, 0, 0, 4), expand=False))
