"""HTML: tables that a notebook shows in the place of a repr."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

__all__ = ["html_table"]


def html_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as HTML.

    Args:
        title: above it.
        header: names of the columns.
        rows: cells; indented words stay indented.

    >>> html_table("nats", ["", "value"], [["-ELBO", "3.1"]])[:50]
    '<table><caption>nats</caption><tr><th></th><th>val'
    """

    def row(kind: str, cells: Sequence[str]) -> str:
        spaced = (escape(cell).replace("  ", "&emsp;") for cell in cells)
        return f"<tr>{''.join(f'<{kind}>{cell}</{kind}>' for cell in spaced)}</tr>"

    body = "".join(row("td", cells) for cells in rows)
    return f"<table><caption>{escape(title)}</caption>{row('th', header)}{body}</table>"
