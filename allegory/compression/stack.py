r"""The stack: a file that is a large number, and takes in and gives out symbols by their probabilities.

    push s with probability m_s / M     the number n becomes about n M / m_s: log2(M / m_s) bits more
    pop                                 the opposite: of a number that is random, s is drawn with that probability

(Asymmetric numeral systems, Duda 2009; by constriction, whose probabilities are whole multiples of 2^-24.) What was
pushed last is popped first. Both sides name a value in the order in which it is read, see `Spell`; to push it, its
symbols are written down first, and pushed in reverse.

Drawing needs something to draw from. The stack begins as words that both sides can compute, and at the end those of
them that nothing ever reached are cut off: what is left of them in the file is what drawing the first examples took.

Shapes: m symbols, each of n values.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, TypeAlias
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

__all__ = ["Code", "Spell", "Stack", "need_constriction"]

Array = NDArray[Any]
Code: TypeAlias = Callable[..., Array]
"""(symbols, kind, *parameters) -> symbols, (m,) int32: those that are given, or None for those that are read."""
Spell: TypeAlias = Callable[[Code, Any], Any]
"""(code, value) -> value: names a value by calls of code, in the order of reading; of None it is read."""

SPARE = 4  # words: a number of 64 bits, and room


def need_constriction() -> Any:
    """The coder, a package that is installed with allegory[compress].

    Raises:
        ValueError: it is not installed.
    """
    try:
        import constriction
    except ImportError:
        raise ValueError("compression needs the package constriction: pip install 'allegory[compress]'") from None
    return constriction.stream


class Stack:
    """Symbols of known probabilities, last in, first out.

    Args:
        words: how many words both sides begin with.
        content: (W,) uint32 of a stack that was filled before; None for the first words.

    Attributes:
        lowest: the fewest words that there ever were.
        check: a checksum of all parameters that the probabilities were made of, in whatever order.

    >>> stack = Stack(8)
    >>> probabilities = np.array([[1.0, 3.0], [2.0, 2.0]])
    >>> stack.push(lambda code, s: code(s, "categorical", probabilities), np.array([1, 0], dtype=np.int32))
    >>> stack.pop(lambda code, s: code(s, "categorical", probabilities))
    array([1, 0], dtype=int32)
    """

    def __init__(self, words: int, content: Array | None = None) -> None:
        stream = need_constriction()
        self._models, self._first, self.check = stream.model, words, 0
        coder = stream.stack.AnsCoder
        self._coder = coder(_first_words(words), seal=True) if content is None else coder(content)
        self.lowest = len(self)

    def __len__(self) -> int:
        """Words, each of 32 bits."""
        return self._coder.num_words()

    def push(self, spell: Spell, value: Any) -> None:
        """Puts a value on the stack."""
        written: list[tuple[Array, Any, tuple[Array, ...]]] = []

        def write(symbols: Array, kind: str, *parameters: Any) -> Array:
            written.append((symbols, *self._model(kind, parameters)))
            return symbols

        spell(write, value)
        for symbols, model, parameters in reversed(written):
            self._coder.encode_reverse(symbols, model, *parameters)

    def pop(self, spell: Spell) -> Any:
        """Takes a value from the stack, or draws one."""

        def read(_: None, kind: str, *parameters: Any) -> Array:
            model, arrays = self._model(kind, parameters)
            symbols = self._coder.decode(model, *arrays)
            self.lowest = min(self.lowest, len(self))
            return symbols

        return spell(read, None)

    def _model(self, kind: str, parameters: tuple[Any, ...]) -> tuple[Any, tuple[Array, ...]]:
        """Of "categorical" masses (m, n), or "normal" between two ends, with means and deviations (m,)."""
        if kind == "categorical":
            return self._models.Categorical(perfect=False), parameters
        low, high, *moments = parameters
        return self._models.QuantizedGaussian(low, high), tuple(moments)

    def note(self, *parameters: Array) -> None:
        """Adds parameters to the check."""
        for part in parameters:
            self.check = (self.check + crc32(part.tobytes())) & 0xFFFFFFFF

    def content(self) -> tuple[int, Array]:
        """How many of the first words anything reached, and all that stands on them, (W,) uint32."""
        kept = min(self._first, self._first - self.lowest + SPARE)
        return kept, self._coder.get_compressed()[self._first - kept :]

    @property
    def starved(self) -> bool:
        """Whether there was too little to draw from, so that what was drawn is nothing."""
        return self.lowest < SPARE

    def is_first(self) -> bool:
        """Whether it holds the first words, and nothing else."""
        try:
            return bool(np.array_equal(self._coder.get_compressed(unseal=True), _first_words(self._first)))
        except AssertionError:  # what is on top is no seal
            return False


def _first_words(count: int) -> Array:
    """(count,) uint32, the same from the top down, however many."""
    digest = hashlib.shake_256(b"allegory").digest(4 * count)
    return np.frombuffer(digest, dtype="<u4")[::-1].astype(np.uint32)
