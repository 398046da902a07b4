r"""What is said of values: that they are one, lie in a range, or are missing; in Python, and as it is typed.

region=north    age>=30    age<40    income=?

{"region": "north", "age": Range("30", "40", below=True), "income": None}
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

__all__ = ["Range", "as_conditions_of", "as_range", "parse_conditions"]

OPERATOR = re.compile(r">=|<=|==|[=<>≥≤]")
MEANT = {"≥": ">=", "≤": "<=", "==": "="}
MISSING = "?"


@dataclass(frozen=True)
class Range:
    """What lies between two values.

    Attributes:
        low, high: the ends; None for none.
        above, below: whether it is strictly above `low`, strictly below `high`.
    """

    low: Any = None
    high: Any = None
    above: bool = False
    below: bool = False

    def __str__(self) -> str:
        parts = [] if self.low is None else [f"{'>' if self.above else '>='}{self.low}"]
        return ", ".join(parts + ([] if self.high is None else [f"{'<' if self.below else '<='}{self.high}"]))


def as_range(value: Any) -> Range | None:
    """The range that is meant by (low, high), both ends included; None where a value is.

    >>> as_range((30, 40)), as_range(30)
    (Range(low=30, high=40, above=False, below=False), None)
    """
    if isinstance(value, Range):
        return value
    if isinstance(value, tuple) and len(value) == 2:
        return Range(*value)
    return None


def parse_conditions(texts: Sequence[str], names: Sequence[Any]) -> dict[Any, Any]:
    """What is typed of columns, by their names: a value, a `Range`, or None for a gap.

    Args:
        texts: such as region=north, age>=30, age<40, or income=? for a gap.
        names: of all columns.

    Raises:
        ValueError: no condition, no such column, or two that contradict each other.

    >>> parse_conditions(["age>=30", "age<40", "income=?", "town=Rom"], ["age", "income", "town"])
    {'age': Range(low='30', high='40', above=False, below=True), 'income': None, 'town': 'Rom'}
    """
    by_text, found = {str(name): name for name in names}, dict[Any, Any]()
    for text in texts:
        name, operator, value = _split(text, by_text)
        old = found.get(name, Range())
        if operator == "=":
            if name in found:
                raise ValueError(f"given {text!r}: something else is said of {name!r}, too; wanted one of them")
            found[name] = None if value == MISSING else value
            continue
        lower = operator[0] == ">"
        if not isinstance(old, Range) or (old.low if lower else old.high) is not None:
            raise ValueError(f"given {text!r}: something else is said of {name!r}, too; wanted one of them")
        strict = len(operator) == 1
        found[name] = replace(old, low=value, above=strict) if lower else replace(old, high=value, below=strict)
    return found


def _split(text: str, by_text: Mapping[str, Any]) -> tuple[Any, str, str]:
    """The column, the operator and the value. A name may have operators in it: the longest that is known counts."""
    every = [(text[: at.start()].strip(), at[0], text[at.end() :].strip()) for at in OPERATOR.finditer(text)]
    known = [part for part in every if part[0] in by_text]
    if not every or not every[0][0] or (known and not known[-1][2]):
        raise ValueError(f"given {text!r}: wanted NAME=VALUE, NAME>=VALUE, NAME<VALUE, or NAME=? for a gap")
    if not known:
        shown = ", ".join(list(by_text)[:8]) + (", ..." if len(by_text) > 8 else "")
        raise ValueError(f"given {text!r}: {every[0][0]!r} is neither a column nor given; there are {shown or 'none'}")
    name, operator, value = known[-1]
    return by_text[name], MEANT.get(operator, operator), value


def as_conditions_of(said: Mapping[Any, Any]) -> str:
    """What is said, as it could be typed.

    >>> as_conditions_of({"age": (30, 40), "town": "Rom"})
    'age>=30, age<=40, town=Rom'
    """
    words = []
    for name, value in said.items():
        wanted = as_range(value)
        if wanted is None:
            words.append(f"{name}={MISSING if value is None or value != value else value}")
        else:
            words += [f"{name}{part}" for part in str(wanted).split(", ")]
    return ", ".join(words)
