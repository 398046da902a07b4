r"""Compression: a file as long as the likelihood says.

    bits of a file = (sum over examples of -log p(x, z) + log q(z | x)) / log 2  +  what drawing the first of them took

on average N times -ELBO, see `allegory.compression.bits_back`. Whoever has the same model gets the same examples back,
to the bit, or an error. What makes it so: networks in float64, parameters that are rounded, a checksum of the weights;
in each chunk checksums of what is written, of the examples and of the parameters, and the words that its stack began
with, which have to be there at the end; and each chunk is decoded before it counts as written.

ANS is a stack, so that the last examples are sent first. The first of all is sent alone, from words that are not yet
anybody's; each batch is as large as what is on the stack lets it draw.

Shapes: N examples, B of them in a batch; x is (N, *event).
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from zlib import crc32

import torch
from joblib import Parallel, delayed
from torch import Size, Tensor
from torch.distributions import Independent

from allegory.architectures import is_of_any_size, resize
from allegory.chain import at_levels
from allegory.columnar import Columns
from allegory.compression.bits_back import BitsBack, find_grids
from allegory.compression.container import Chunk, Reader, Writer
from allegory.compression.examples import Examples, digits_beside, find_resolution, with_digits
from allegory.compression.stack import Stack, need_constriction
from allegory.draws import draw_to, law_of
from allegory.given import Contexts, Given, as_contexts, take_rows
from allegory.masked import Unmasking
from allegory.model import VAE, check_is_vae
from allegory.runtime.messages import check_counts
from allegory.runtime.modes import forked_rng, no_validation
from allegory.runtime.storage import atomic_path, check_regular
from allegory.runtime.threads import one_at_a_time
from allegory.version import __version__

__all__ = ["Report", "compress", "decompress", "read_about", "read_file", "write_file"]

BATCH, NUMBERS = 256, 2**16  # examples of a batch, at most, and numbers, which then fit into a cache
FILLED = 0.7  # of what is on the stack, that the next batch may take
FIRST_WORDS = (2**14, 2**18, 2**22, 2**26)  # that may be drawn from, until they are enough
MISFIT = 0.25  # nats of a latent, by which its log q is below that of a draw from q where that is no draw
SURVEYED = 256  # examples, from which the grids are found


@dataclass(frozen=True)
class Report:
    """What a file is made of.

    Attributes:
        examples: N.
        numbers: of an example, without gaps.
        total: bytes of the file.
        header: bytes of what is not the stacks of the chunks.
        initial_bits: what drawing the first latents took, of all chunks.
        negative_elbo: nats per example, -log p(x, z) + log q(z | x) of the very latents that were drawn; where x has a
            density, of an interval as wide as the resolution. NaN where a posterior is too narrow for any lattice, so
            that what was drawn does not follow it.
        gaps: nats per example, of which values are missing, where the model does not say so.
    """

    examples: int
    numbers: int
    total: int
    header: int
    initial_bits: int
    negative_elbo: float
    gaps: float

    @property
    def bits(self) -> float:
        """Bits per example, of the whole file."""
        return 8 * self.total / self.examples

    @property
    def net_bits(self) -> float:
        """Bits per example, without the header and the initial bits."""
        return (8 * (self.total - self.header) - self.initial_bits) / self.examples

    @property
    def bits_per_dimension(self) -> float:
        """Bits per number of an example, of the whole file."""
        return self.bits / self.numbers

    @property
    def overhead(self) -> float:
        """By which part the net bits are more than -ELBO and gaps."""
        return self.net_bits * math.log(2) / (self.negative_elbo + self.gaps) - 1


@dataclass(frozen=True)
class _Coded:
    """A chunk, and what there is to tell of it."""

    chunk: Chunk
    initial_bits: int
    nats: Tensor  # (3,) sums over its examples: -ELBO, log q(z) + H(q) per latent, gaps


class _Codec:
    """A model, and what both sides know.

    Args:
        model: any VAE.
        header: of the file.
        given: what is given with the examples, of at least one.
    """

    def __init__(self, model: VAE, header: dict[str, Any], given: Contexts) -> None:
        self.model, self.header = model, header
        self.dtype: torch.dtype = getattr(torch, header["dtype"])
        with _coding(), forked_rng(model):
            x, p = _shapes(model, take_rows(given, slice(1)))
        self.event = x.event_shape
        if self.event != Size(header["event"]):
            raise ValueError(f"this file holds examples of {header['event']}, and p(x | z_1) is over {[*self.event]}")
        self.examples = Examples(x, header["resolution"])
        self.latents = [law.event_shape for law in p]

    @property
    def _batch(self) -> int:
        """How many examples a batch has, at most."""
        return max(1, min(BATCH, NUMBERS // self.event.numel()))

    def _coder(self, numbers: Iterator[int], rows: int) -> BitsBack:
        return BitsBack(self.model, self.header["grids"], self.latents, self.examples.coding(numbers, rows))

    def encode(self, x: Tensor, given: Contexts, first: int, verify: bool) -> _Coded:
        """A chunk of x: (N, *event), of which the first has a number for messages."""
        with _coding():
            part = self._batch
            exact = torch.cat([self.examples.exact(x[i : i + part], first + i) for i in range(0, len(x), part)])
            measured = self.examples.measure(exact)
            for words in FIRST_WORDS:
                stack, sizes, nats = self._fill(Stack(words), exact, given, measured)
                if not stack.starved:
                    break
            kept, content = stack.content()
            numbers = [kept, crc32(_bytes(x)), stack.check, _check_given(given), len(sizes), *sizes, len(measured)]
            chunk = Chunk(len(x), (*numbers, *measured, *digits_beside(x, exact)), content)
        if verify:
            self._check_decoded(chunk, x, given, first)
        gaps = torch.tensor([self.examples.nats_of_gaps(exact)], dtype=torch.float64)
        return _Coded(chunk, 32 * kept, torch.cat([-nats - self.examples.log_steps(exact), gaps]))

    def _check_decoded(self, chunk: Chunk, x: Tensor, given: Contexts, first: int) -> None:
        try:
            same = _bytes(self.decode(chunk, given, 0)) == _bytes(x)
        except ValueError:
            same = False
        if not same:
            raise ValueError(
                f"x: the {len(x)} examples from {first} on were coded and not decoded to the same, so nothing is "
                "written: run again on the same numbers, a network of this model gives others; wanted one that draws "
                "nothing itself"
            )

    def _fill(
        self, stack: Stack, x: Tensor, given: Contexts, measured: Sequence[int]
    ) -> tuple[Stack, list[int], Tensor]:
        """Sends a chunk from its end. Returns the stack, how many examples each batch had, and (2,) nats."""
        coder, sizes, nats, end, each = self._coder(iter(measured), len(x)), [], torch.zeros(2), len(x), 0.0
        while end:
            spare = FILLED * (len(stack) - stack.lowest) / each if each else 0
            sizes.append(min(self._batch, end, max(1, int(spare))))
            rows, before, lowest = slice(end - sizes[-1], end), len(stack), stack.lowest
            stack.lowest = before
            nats = nats + coder.send(stack, x[rows], take_rows(given, rows)).sum(1)
            each = max(each, (before - stack.lowest) / sizes[-1])
            stack.lowest = min(lowest, stack.lowest)
            end -= sizes[-1]
            if stack.starved:
                break
        return stack, sizes, nats

    def decode(self, chunk: Chunk, given: Contexts, index: int) -> Tensor:
        """(N, *event) the examples of a chunk.

        Raises:
            ValueError: they are not those that were encoded.
        """
        numbers = iter(chunk.numbers)
        kept, of_x, of_parameters, of_given, batches = (next(numbers) for _ in range(5))
        sizes = [next(numbers) for _ in range(batches)]
        measured = [next(numbers) for _ in range(next(numbers))]
        if of_given != _check_given(given):
            raise ValueError("given: not what was given when this file was made; wanted the same rows, in their order")
        found, begin = [], 0
        with _coding():
            coder, stack = self._coder(iter(measured), chunk.rows), Stack(kept, chunk.words)
            try:
                for size in reversed(sizes):
                    rows = slice(begin, begin + size)
                    found.append(coder.receive(stack, size, self.event, take_rows(given, rows)))
                    begin += size
            except Exception as error:  # what was read until then means nothing
                raise ValueError(self._otherwise(index)) from error
            x = with_digits(torch.cat(found), self.dtype, numbers)
        if not stack.is_first() or stack.check != of_parameters or crc32(_bytes(x)) != of_x:
            raise ValueError(self._otherwise(index))
        return x

    def _otherwise(self, index: int) -> str:
        made = f"allegory {self.header['allegory']} and torch {self.header['torch']}"
        return (
            f"chunk {index} cannot be decoded here: this machine computes other probabilities than the one that wrote "
            f"it, with {made} (here {__version__} and {torch.__version__}); nothing of it is returned: decode it where "
            "it was made, or with those versions"
        )


def compress(
    model: VAE,
    x: Tensor,
    given: Given = None,
    resolution: float | Tensor | None = None,
    chunk: int = 10_000,
    jobs: int = 1,
    verify: bool = True,
) -> bytes:
    """The examples as a file, as long as the likelihood says: about N times -ELBO / log 2 bits. Only the same model
    reads it, and that model is not in the file.

    Args:
        model: any VAE, of a prior that is normal, a mixture of normals or discrete. It is left alone: a copy works, in
            float64, on the CPU and in eval mode, so that dropout and the like do nothing.
        x: (N, *event) data; NaN is a gap, where the likelihood takes gaps, and which values are missing is coded, too.
            Images of another size than the training's, where the model was made with any_size=True.
        given: c of a conditional model, (N, *context), or several. It is not in the file; who decompresses gives it.
        resolution: of x where the likelihood is a density: the step of which all numbers are multiples, (*event) or one
            for all. By default the largest step that x has, of each column of a table.
        chunk: how many examples are decoded together. Each chunk takes some bits to begin with.
        jobs: processes; each codes a chunk.
        verify: whether each chunk is decoded before it counts. It takes as long again.

    Raises:
        ValueError: x that the model gives no probability, a density of numbers without a resolution, a law that cannot
            be coded, such as a flow as prior; the package constriction is not installed.

    >>> code = al.compress(model, x)
    >>> torch.equal(al.decompress(model, code), x)
    True
    """
    stream = io.BytesIO()
    _write(stream, model, x, given, resolution, chunk, jobs, verify)
    return stream.getvalue()


def decompress(model: VAE, code: bytes, given: Given = None, rows: slice | None = None, jobs: int = 1) -> Tensor:
    """(N, *event) the examples that `compress` was given, to the bit, on the CPU.

    Args:
        model: with the same weights.
        code: what `compress` returned.
        given: as it was given to `compress`, all N rows.
        rows: which examples, such as slice(5, 8); only their chunks are decoded. By default all.
        jobs: processes; each decodes a chunk.

    Raises:
        ValueError: code of another model, of a newer version, truncated or damaged (which chunk), or of a machine whose
            arithmetic is another. Never anything else than the examples.

    >>> al.decompress(model, al.compress(model, x), rows=slice(1, 3)).shape
    torch.Size([2, 6])
    """
    if not isinstance(code, bytes | bytearray | memoryview):
        raise ValueError(f"code: got {type(code).__name__}, wanted the bytes that al.compress returned")
    return torch.cat(list(_read(io.BytesIO(code), model, given, rows, jobs)))


def write_file(
    path: str | Path,
    model: VAE,
    x: Any,
    given: Given = None,
    resolution: float | Tensor | None = None,
    chunk: int = 10_000,
    jobs: int = 1,
    verify: bool = True,
    about: dict[str, Any] | None = None,
) -> Report:
    """As `compress`, to a file, which is in its place when it is complete. Memory does not grow with N.

    Args:
        path: of the file.
        model, given, resolution, chunk, jobs, verify: as of `compress`.
        x: (N, *event), a tensor or examples that stay on disk.
        about: JSON to keep with it, see `read_about`.

    >>> write_file("x.alg", model, x).examples
    7
    """
    with atomic_path(Path(path)) as part:
        with part.open("wb") as stream:
            report = _write(stream, model, x, given, resolution, chunk, jobs, verify, about)
        if verify:
            with part.open("rb") as stream:
                written = Reader(stream)
                for index in range(len(written.rows)):
                    written.chunk(index)
    return report


def read_about(path: str | Path) -> dict[str, Any]:
    """What was kept with a file.

    Args:
        path: of the file.

    Raises:
        ValueError: no such file, or a damaged one.

    >>> write_file("x.alg", model, x, about={"title": "seven"}).examples
    7
    >>> read_about("x.alg")
    {'title': 'seven'}
    """
    check_regular(Path(path))
    with Path(path).open("rb") as stream:
        return Reader(stream).header.get("about") or {}


def read_file(
    path: str | Path, model: VAE, given: Given = None, rows: slice | None = None, jobs: int = 1
) -> Iterator[Tensor]:
    """The examples of a file, chunk by chunk.

    Args:
        path: of the file.
        model, given, rows, jobs: as of `decompress`.

    >>> write_file("x.alg", model, x, chunk=4).examples
    7
    >>> [len(part) for part in read_file("x.alg", model)]
    [4, 3]
    """
    with Path(path).open("rb") as stream:
        yield from _read(stream, model, given, rows, jobs)


def _write(
    stream: BinaryIO,
    model: VAE,
    x: Any,
    given: Given,
    resolution: float | Tensor | None,
    chunk: int,
    jobs: int,
    verify: bool,
    about: dict[str, Any] | None = None,
) -> Report:
    need_constriction()
    check_is_vae(model)
    check_counts(chunk=chunk, jobs=jobs)
    model = resize(model, x.shape[1:]) if is_of_any_size(model) else model
    own = _in_float64(model)
    contexts = _checked(model, x, given)
    header = _header(own, x, contexts, resolution) | ({} if about is None else {"about": about})
    codec = _Codec(own, header, contexts)
    writer, initial, nats, words, numbers = Writer(stream, codec.header), 0, torch.zeros(3), 0, math.prod(x.shape[1:])

    def parts() -> Iterator[tuple[Any, ...]]:
        for begin in range(0, len(x), chunk):
            rows = slice(begin, begin + chunk)
            yield x[rows].contiguous(), take_rows(contexts, rows), begin, verify

    for coded in _in_processes(codec.encode, parts(), jobs):
        writer.add(coded.chunk)
        initial, nats, words = initial + coded.initial_bits, nats + coded.nats, words + len(coded.chunk.words)
    total, (negative_elbo, misfit, gaps) = writer.close(), (nats / len(x)).tolist()
    negative_elbo = negative_elbo if misfit > -MISFIT else math.nan
    return Report(len(x), numbers, total, total - 4 * words, initial, negative_elbo, gaps)


def _read(stream: BinaryIO, model: VAE, given: Given, rows: slice | None, jobs: int) -> Iterator[Tensor]:
    need_constriction()
    check_is_vae(model)
    check_counts(jobs=jobs)
    reader = Reader(stream)
    own = _in_float64(resize(model, reader.header["event"]) if is_of_any_size(model) else model)
    if reader.header["model"] != _checksum(own):
        raise ValueError(
            f"this file was made with another model, or with other weights (checksum {reader.header['model'][:8]}, not "
            f"{_checksum(own)[:8]}): wanted the one that it was made with"
        )
    count = sum(reader.rows)
    contexts = tuple(c.cpu().double() for c in as_contexts(given, count))
    begin, end, step = (slice(None) if rows is None else rows).indices(count)
    if step != 1:
        raise ValueError(f"rows={rows}: wanted rows that follow on each other, such as slice(5, 8)")
    codec = _Codec(own, reader.header, contexts)
    places = [(sum(reader.rows[:i]), size) for i, size in enumerate(reader.rows)]
    wanted = [i for i, (first, size) in enumerate(places) if first < end and begin < first + size]

    def parts() -> Iterator[tuple[Any, ...]]:
        for i in wanted:
            first, size = places[i]
            yield reader.chunk(i), take_rows(contexts, slice(first, first + size)), i

    for i, x in zip(wanted, _in_processes(codec.decode, parts(), jobs), strict=True):
        yield x[max(0, begin - places[i][0]) : end - places[i][0]]


def _header(own: VAE, x: Any, contexts: Contexts, resolution: Any) -> dict[str, Any]:
    """What is the same for all chunks, for JSON."""
    with _coding(), forked_rng(own):
        torch.manual_seed(0)
        law, _ = _shapes(own, take_rows(contexts, slice(1)))
        steps = None
        if resolution is not None:
            step = torch.as_tensor(resolution, dtype=torch.float64)
            if not bool((step > 0).all()) or (step.dim() and step.shape != law.event_shape[:1]):
                raise ValueError(f"resolution={resolution}: wanted numbers above 0, one or one for each column of x")
            many = law.event_shape[0] if len(law.event_shape) == 1 else 1
            steps = step.expand(many).tolist(), [0.0] * many
        elif _is_density(law):
            steps = find_resolution(x, law.event_shape)
        some = x[:: max(1, len(x) // SURVEYED)][:SURVEYED] if isinstance(x, Tensor) else x[:SURVEYED]
        rows = slice(None, None, max(1, len(x) // SURVEYED)) if isinstance(x, Tensor) else slice(None)
        seen = tuple(c[rows][:SURVEYED] for c in contexts)
        grids = find_grids(own, Examples(law, steps).exact(some), seen)
    return dict(
        allegory=__version__,
        torch=torch.__version__,
        model=_checksum(own),
        event=list(law.event_shape),
        dtype=str(x.dtype).removeprefix("torch."),
        resolution=steps,
        grids=grids,
    )


def _in_float64(model: VAE) -> VAE:
    """A copy on the CPU, in eval mode."""
    own = copy.deepcopy(getattr(model, "_orig_mod", model)).cpu().double().eval()
    return at_levels(own, None)


def _checked(model: VAE, x: Any, given: Given) -> Contexts:
    """Checks what is to be coded. Returns what is given."""
    like = next(model.parameters(), None)
    if isinstance(x, Tensor) and like is not None and x.is_floating_point():
        model.check(x.to(like), given=given)
    else:
        model.check(x, given=given)
    return tuple(c.cpu().double() for c in as_contexts(given, len(x)))


def _checksum(own: VAE) -> str:
    """Of the weights, and of the arguments that build such a model."""
    digest = hashlib.blake2b(json.dumps(own.config, sort_keys=True, default=str).encode(), digest_size=16)
    for name, part in sorted(own.state_dict().items()):
        digest.update(f"{name} {tuple(part.shape)}".encode() + part.numpy().tobytes())
    return digest.hexdigest()


@contextmanager
def _coding() -> Iterator[None]:
    with one_at_a_time(), torch.no_grad(), no_validation():
        yield


def _shapes(model: VAE, contexts: Contexts) -> tuple[Any, Sequence[Any]]:
    """p(x | s_1) of a draw, of batch shape (1,), and p(z_1 | s_2), ..., p(z_T)."""
    _, p, seen = model._generate_down(lambda t, p, state: draw_to(p, (1,)), contexts)
    return law_of(model.decoders[0], *seen), p


def _is_density(law: Any) -> bool:
    """Whether any element has a density."""
    if isinstance(law, Columns):
        return any(_is_density(part) for part in law.parts)
    support = law.base_dist.support if isinstance(law, Independent) else law.support
    return not getattr(support, "is_discrete", False) and not isinstance(law, Unmasking)


def _check_given(given: Contexts) -> int:
    check = 0
    for c in given:
        check = crc32(_bytes(c), check)
    return check


def _bytes(x: Tensor) -> bytes:
    return x.contiguous().numpy().tobytes()


def _in_processes(function: Callable[..., Any], calls: Iterator[tuple[Any, ...]], jobs: int) -> Iterator[Any]:
    """function(*arguments) of each call, in order."""
    if jobs == 1:
        return (function(*arguments) for arguments in calls)
    return Parallel(n_jobs=jobs, return_as="generator")(delayed(function)(*arguments) for arguments in calls)
