r"""The JSON of a run: what each of its keys may hold. It is checked once, when a file is read, so that one that was
edited or damaged is an error that names the key. Unknown keys are left alone: newer versions and users add some.
"""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

__all__ = [
    "COMPUTED", "DATA", "EXAMPLES", "FIT", "INPUTS", "LINE", "MACHINE", "MODEL", "POSITION", "Kind", "check", "parse",
]  # fmt: skip

MAX_NESTING = 600
"""How deep lists and objects may be nested: Python can write a little less than a thousand."""


class Kind(NamedTuple):
    """A kind of value, in words and as a condition."""

    wanted: str
    holds: Callable[[Any], bool]


def _list_of(kind: Kind, length: int | None = None) -> Kind:
    size = "" if length is None else f"{length} of "
    return Kind(
        f"a list, {size}{kind.wanted} each",
        lambda v: isinstance(v, list) and (length is None or len(v) == length) and all(map(kind.holds, v)),
    )


def _either(*kinds: Kind) -> Kind:
    return Kind(" or ".join(kind.wanted for kind in kinds), lambda v: any(kind.holds(v) for kind in kinds))


NOTHING = Kind("null", lambda v: v is None)
SWITCH = Kind("true or false", lambda v: isinstance(v, bool))
TEXT = Kind("a string", lambda v: isinstance(v, str))
WHOLE = Kind("a whole number that int64 holds", lambda v: type(v) is int and -(2**63) <= v < 2**63)
COUNT = Kind("a whole number, 1 or more", lambda v: type(v) is int and 1 <= v < 2**31)
INDEX = Kind("a whole number, 0 or more, that int64 holds", lambda v: type(v) is int and 0 <= v < 2**63)
NUMBER = Kind("a number", lambda v: isinstance(v, float) or WHOLE.holds(v))
FINITE = Kind("a finite number", lambda v: NUMBER.holds(v) and math.isfinite(v))
TIME = Kind("a finite number, 0 or more", lambda v: FINITE.holds(v) and v >= 0)
NUMBERS = _list_of(NUMBER)
NAME = _either(TEXT, Kind('{"own": a string}', lambda v: isinstance(v, dict) and isinstance(v.get("own"), str)))

OBJECT = Kind("an object", lambda v: isinstance(v, dict))
COLUMNS = Kind('{"columns": a list}', lambda v: isinstance(v, dict) and isinstance(v.get("columns"), list))
FAMILY = Kind('{"family": an object}', lambda v: isinstance(v, dict) and isinstance(v.get("family"), dict))
TREE = Kind('{"tree": whole numbers}', lambda v: isinstance(v, dict) and _list_of(WHOLE).holds(v.get("tree")))


def _is_condition(v: Any) -> bool:
    return (
        isinstance(v, dict)
        and TEXT.holds(v.get("name"))
        and _list_of(TEXT).holds(v.get("categories"))
        and COUNT.holds(v.get("count"))
        and len(v["categories"]) in (0, v["count"])
        and SWITCH.holds(v.get("exposure", False))
    )


GIVEN = Kind(
    "what is given: parts, each of a name, categories and a count; and a shape",
    lambda v: (
        isinstance(v, dict)
        and isinstance(v.get("parts"), list)
        and all(map(_is_condition, v["parts"]))
        and v.get("shape") == [sum(part["count"] for part in v["parts"])] != [0]
    ),
)

MODEL = {
    "architecture": TEXT, "event_shape": _list_of(COUNT), "likelihood": _either(NAME, COLUMNS, FAMILY, TREE),
    "latent": _list_of(INDEX), "hidden": _list_of(COUNT), "scales": _list_of(COUNT),
    "stem": COUNT, "channels": COUNT, "blocks": COUNT, "posterior_blocks": INDEX,
    "categories": _either(COUNT, _list_of(COUNT), NOTHING),
    "components": COUNT, "activation": NAME, "block": NAME, "prior": NAME,
    "dropout": NUMBER, "top_down": SWITCH, "residual": SWITCH, "markov": SWITCH, "checkpointed": SWITCH,
    "lowest": WHOLE, "padded": SWITCH, "any_size": SWITCH, "gaps": SWITCH, "set_features": COUNT, "exposure": INDEX,
    "levels": _either(COUNT, NOTHING), "net": NAME, "predicts": TEXT, "log_snr": _list_of(FINITE, 2),
    "learned": SWITCH, "spread": SWITCH, "width": COUNT, "cell": COUNT, "bins": COUNT, "prior_levels": COUNT,
    "given": _list_of(COUNT, 1), "latent_family": _either(TEXT, _list_of(TEXT)), "latent_categories": COUNT,
}  # fmt: skip
"""Of `model.config`."""

FIT = {
    "samples": COUNT, "epochs": _either(WHOLE, NOTHING), "minutes": _either(NUMBER, NOTHING), "batch_size": WHOLE,
    "lr": _either(NUMBER, TEXT), "lr_warmup": NUMBER, "lr_final": NUMBER, "kl_warmup": NUMBER,
    "beta": _either(NUMBER, NUMBERS, TEXT), "weight_decay": NUMBER, "clip": _either(NUMBER, NOTHING),
    "skip": _either(NUMBER, NOTHING), "ema": NUMBER,
    "patience": _either(NUMBER, NOTHING), "precision": TEXT, "compile": _either(SWITCH, TEXT), "seed": WHOLE,
    "objective": TEXT,
}  # fmt: skip
"""Of the settings of `fit`."""

DATA = {
    "source": TEXT, "dynamic": SWITCH, "seed": INDEX, "event_shape": _list_of(INDEX), "examples": _list_of(INDEX, 3),
    "likelihood": TEXT, "categories": _either(COUNT, NOTHING), "two_values": _either(_list_of(FINITE, 2), NOTHING),
    "range": _list_of(NUMBER, 2), "checksum": TEXT, "split": TEXT, "array": TEXT, "size": _list_of(COUNT, 2),
    "lowest": FINITE, "offset": _either(_list_of(FINITE), NOTHING), "given": GIVEN,
    "schema": OBJECT, "reading": OBJECT, "dialect": OBJECT,
}  # fmt: skip
"""Of the description of the data, as `allegory.data.describe` writes it."""

INPUTS = {
    "data": OBJECT, "valid": _either(OBJECT, NOTHING), "transform": _either(TEXT, NOTHING), "networks": TEXT,
    "schedules": Kind(
        "an object of lists of numbers or null",
        lambda v: isinstance(v, dict) and all(w is None or NUMBERS.holds(w) for w in v.values()),
    ),
    "computes": _either(OBJECT, NOTHING), "objective": _either(OBJECT, NOTHING),
    "given": _list_of(OBJECT), "valid_given": _list_of(OBJECT),
}  # fmt: skip
"""Of what a training was given, as `allegory.training.identity` describes it."""

EXAMPLES = {"shape": _list_of(INDEX), "dtype": TEXT, "checksum": TEXT}
"""Of its data there."""

COMPUTED = {"values": _list_of(NUMBER), "device": TEXT, "buffers": TEXT}
"""Of what its networks compute there."""

MACHINE = {
    "date": TEXT, "device": TEXT, "processor": TEXT, "instructions": TEXT, "threads": WHOLE, "processes": WHOLE,
    "system": TEXT, "python": TEXT,
}  # fmt: skip
"""Of a machine that a run was computed on, as `allegory.runtime.environment.machine` describes it."""

LINE = {
    "epoch": TIME, "step": INDEX, "lr": NUMBER, "beta": _either(NUMBER, NUMBERS), "train": NUMBER,
    "gradient_norm": NUMBER, "clipped": INDEX, "skipped": INDEX, "bound": NUMBER, "objective": NUMBER, "elbo": NUMBER,
    "reconstruction": NUMBER, "kl_per_level": NUMBERS,
}  # fmt: skip
"""Of an epoch's line of the history."""

POSITION = {
    "epoch": INDEX, "step": INDEX, "batch": INDEX, "lines": INDEX, "metrics": TEXT, "config": TEXT,
    "best_bound": _either(NUMBER, NOTHING), "best_epoch": _either(TIME, NOTHING),
    "best_objective": _either(NUMBER, NOTHING), "baseline": _either(NUMBER, NOTHING),
    "stopped": TEXT, "seconds": TIME, "restarts": INDEX, "lr": NUMBER,
    "beta": _either(NUMBER, NUMBERS), "lr_scale": FINITE, "failures": INDEX,
    "stall_step": _either(INDEX, NOTHING), "stall_done": FINITE,
}  # fmt: skip
"""Of the position of a training, in its last checkpoint."""


def parse(text: str | bytes, where: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: not JSON, or nested too deep, or a number that is too long, or a key that stands twice.
    """
    try:
        found = json.loads(text, object_pairs_hook=_object)
        level, depth = [found], 0
        while level := [part for value in level for part in _parts(value)]:
            depth += 1
            if depth > MAX_NESTING:
                raise RecursionError
        return found
    except RecursionError:
        raise ValueError(f"{where} is damaged: lists or objects nested too deep") from None
    except ValueError as error:  # also of bytes that are no text, and of a number of thousands of digits
        raise ValueError(f"{where} is damaged: {' '.join(str(error).split())[:100]}") from None


def _parts(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
        raise ValueError(f"{twice!r} stands in it twice")
    return found


def check(values: Any, schema: Mapping[str, Kind], where: str, required: Sequence[str] = ()) -> Any:
    """The values, if each is of its kind.

    Args:
        values: an object of JSON.
        schema: the kind of each key.
        where: the file, and the place in it.
        required: keys that have to be there.

    Raises:
        ValueError: not an object, a missing key, a value of another kind.

    >>> check({"seed": 3, "mine": []}, FIT, "run/config.json, fit")
    {'seed': 3, 'mine': []}
    >>> check({"seed": "3"}, FIT, "run/config.json, fit")
    Traceback (most recent call last):
    ValueError: run/config.json, fit: seed is '3', wanted a whole number that int64 holds
    """
    if not isinstance(values, dict):
        raise ValueError(f"{where}: got {reprlib.repr(values)}, wanted an object with {', '.join(schema)}")
    for key in required:
        if key not in values:
            raise ValueError(f"{where}: it has no {key!r}")
    for key, kind in schema.items():
        if key in values and not kind.holds(values[key]):
            raise ValueError(f"{where}: {key} is {reprlib.repr(values[key])}, wanted {kind.wanted}")
    return values
