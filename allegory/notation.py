r"""The distributions of a VAE as text, p(z_1 | z_2) or q(z_2 | x): to print a model, and to name a part of it.

Levels t = 1, ..., T from the data up; t = 0 is x.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["generative", "inference", "p_name", "q_name"]


def p_name(level: int, levels: int) -> str:
    """The name of p(z_t | ...), or p(x | ...) for t = 0.

    Args:
        level: t.
        levels: T.

    >>> p_name(0, 2), p_name(1, 2), p_name(2, 2)
    ('p(x | z_1)', 'p(z_1 | z_2)', 'p(z_2)')
    """
    return f"p({f'z_{level}' if level else 'x'}{'' if level == levels else f' | z_{level + 1}'})"


def q_name(level: int, levels: int, top_down: bool) -> str:
    """The name of q(z_t | ...).

    Args:
        level: t.
        levels: T.
        top_down: whether q is.

    >>> q_name(1, 2, top_down=False), q_name(1, 2, top_down=True)
    ('q(z_1 | x)', 'q(z_1 | z_2, x)')
    """
    if top_down:
        return f"q(z_{level} | {'' if level == levels else f'z_{level + 1}, '}x)"
    return f"q(z_{level} | {'x' if level == 1 else f'z_{level - 1}'})"


def generative(levels: int, markov: bool, shapes: Sequence[Sequence[int]] | None = None) -> str:
    """The generative model, p(z_T) ... p(x | z_1).

    Args:
        levels: T.
        markov: whether each level sees only the one above.
        shapes: of x, z_1, ..., z_T, if they are known.

    >>> generative(2, markov=True, shapes=[(5,), (3,), (2,)])
    'p(z_2: 2) p(z_1: 3 | z_2) p(x: 5 | z_1)'
    """
    parts = []
    for t in range(levels, -1, -1):
        size = "" if shapes is None else f": {'x'.join(map(str, shapes[t])) or '()'}"
        above = "" if t == levels else f" | z_{t + 1}{'' if markov or t + 1 == levels else ', ..'}"
        parts.append(f"p({f'z_{t}' if t else 'x'}{size}{above})")
    return _shortened(parts)


def inference(levels: int, markov: bool, top_down: bool) -> str:
    """The inference model, q(z_1 | x) ..., in the order of drawing.

    Args:
        levels: T.
        markov: whether each level sees only the one above, where q is top-down.
        top_down: whether q is.

    >>> inference(3, markov=False, top_down=True)
    'q(z_3 | x) q(z_2 | z_3, x) q(z_1 | z_2, .., x)'
    """
    if not top_down:
        return _shortened([q_name(t, levels, top_down) for t in range(1, levels + 1)])
    more = ["" if markov or t + 1 >= levels else ", .." for t in range(levels)]
    below = [f"q(z_{t} | z_{t + 1}{more[t]}, x)" for t in range(levels - 1, 0, -1)]
    return _shortened([q_name(levels, levels, top_down), *below])


def _shortened(parts: list[str]) -> str:
    return " ".join(parts if len(parts) <= 7 else [*parts[:3], "...", *parts[-3:]])
