r"""Passes: how N examples with K particles each go through a model, some pairs (example, particle) at a time.

Everything runs without gradients, in eval mode, in passes of about `pairs` pairs, so that memory does not grow with K
or N. By default a pass makes about a million numbers for p(x | z_1), which still fit into a cache; compiled, which goes
over them once, four times as many. Where q is normal, the noise of an example depends only on torch's seed and on its
position among the examples: a result does not depend on `pairs`. With `row_seeds` it depends on a given seed and on the
values of the example instead, and so does the result, whatever stands beside the example; what draws without the given
noise, such as a q that is not normal, then takes one example at a time.

Where all passes will take more than a minute, as the second of them shows, that is said, and how many particles would
take one.

Within `al.together()` each process takes its share of the examples, and all get the whole result.

Shapes: S particles per pass, B examples per pass, N examples, K particles in all, T levels.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from allegory.chain import FixedChain, at_levels
from allegory.columnar import ColumnsFamily
from allegory.given import Contexts, Given, as_contexts, take_rows
from allegory.missingness import SelfMaskedFamily
from allegory.model import VAE, check_is_vae
from allegory.runtime import processes
from allegory.runtime.memory import caching
from allegory.runtime.modes import eval_mode, forked_rng, no_validation
from allegory.runtime.precision import autocast
from allegory.runtime.progress import about, tell
from allegory.runtime.threads import one_at_a_time

__all__ = [
    "Noise",
    "Particles",
    "RowNoise",
    "check_scored",
    "evaluating",
    "few_particles",
    "pairs_per_pass",
    "row_seeds",
    "run_passes",
]

LONG_SECONDS = 60.0
EDGE = 1e-12  # from 0 and 1, where a normal quantile is still finite
Noise = tuple[int, Sequence[Tensor | None]]  # S, and the noise of S particles for `VAE.forward`


@contextmanager
def evaluating(model: nn.Module, precision: str = "float32") -> Iterator[None]:
    """No gradients, eval mode, no argument validation; restores the mode of every part afterwards."""
    device = next(model.parameters(), torch.empty(0)).device
    with one_at_a_time(), eval_mode(model), torch.no_grad(), no_validation(), caching(), autocast(device, precision):
        yield


def check_scored(model: VAE, x: Tensor, samples: int, given: Given = None) -> Contexts:
    """Checks what is to be scored: K, and that x and what is given fit the model; and that all processes have the same.
    Returns what is given.
    """
    check_is_vae(model)
    at_levels(model, None)
    if not hasattr(samples, "__index__") or not 1 <= samples < 2**31:
        raise ValueError(f"samples={samples}: wanted K >= 1 particles, a whole number below 2^31")
    processes.check_same("an evaluation", samples=samples, x=getattr(x, "rows", x), model=model, given=given)
    model.check(x, given=given)
    return as_contexts(given, len(x))


def pairs_per_pass(model: VAE, x: Tensor, whole: bool = True) -> int:
    """How many (example, particle) pairs of x: (N, *event) to take in one pass, given the numbers that p(x | z_1)
    needs; where these are few, the hidden layers are the limit. A whole pass through a chain of the kind of
    `allegory.chain` keeps as many of each of its levels.
    """
    family = getattr(model.decoders[0], "family", None)
    size = getattr(family, "size", 1)
    width = size * math.prod(x.shape[1:])
    if isinstance(family, ColumnsFamily):  # of a limit that is not known, a number at each place that it may have
        width = size + sum(block.places.numel() for block in family.blocks if isinstance(block, SelfMaskedFamily))
    if whole and isinstance(model, FixedChain) and model.levels is not None:
        return max(1, min(2**14, 2**23 // (width * max(8, model.levels))))
    return max(100, min(2**14, 2**20 // width))


def few_particles(model: VAE, usual: int) -> int:
    """K where none is asked for: as usual, and for a chain of the kind of `allegory.chain` with more than ten levels,
    whose passes take time in proportion to them, so many fewer.

    Args:
        model: any VAE.
        usual: K of others.

    >>> few_particles(al.architectures.diffusion((3,), levels=100, width=8), 200)
    20
    """
    levels = model.levels if isinstance(model, FixedChain) else None
    return usual if levels is None or levels <= 10 else max(2, 10 * usual // levels)


def row_seeds(x: Any, seed: int, apart: bool = False) -> np.ndarray:
    """(N,) a seed for each example, from `seed` and its values: of equal examples the same.

    Args:
        x: (N, *event) data, a tensor or `Stored`.
        seed: a whole number.
        apart: whether equal examples get different seeds, the first, the second, ... of them.

    >>> a, b, c = row_seeds(torch.tensor([[1.0, math.nan], [0.0, 2.0], [1.0, math.nan]]), seed=0)
    >>> bool(a == c), bool(a == b)
    (True, False)
    """
    if not hasattr(seed, "__index__") or not -(2**63) <= seed < 2**63:
        raise ValueError(f"seed={seed!r}: wanted a whole number of at most 63 bits")
    key, seen = int(seed).to_bytes(8, "little", signed=True), Counter[bytes]()
    seeds = np.empty(len(x), dtype=np.int64)
    for start in range(0, len(x), 2**14):
        part = x[start : start + 2**14].detach().double().cpu().flatten(1)
        rows = torch.where(part.isnan(), math.nan, part + 0.0).numpy()  # one kind of NaN, and one zero
        for i, row in enumerate(rows, start=start):
            found = blake2b(row.tobytes(), digest_size=16, key=key).digest()
            if apart:
                seen[found] += 1
                found = blake2b(found, digest_size=16, salt=seen[found].to_bytes(16, "little")).digest()
            seeds[i] = int.from_bytes(found[:4], "little")  # of a seed torch's generator uses 32 bits
    return seeds


class RowNoise:
    """Noise that each of B examples draws from a generator of its own.

    Args:
        seeds: (B,) of the generators.
        like: a tensor of the wanted type and device.

    >>> noise = RowNoise([1, 2, 1], torch.zeros(()))
    >>> u = noise.uniform(4)
    >>> u.shape, bool((u[:, 0] == u[:, 2]).all())
    (torch.Size([4, 3]), True)
    """

    def __init__(self, seeds: Sequence[int] | np.ndarray, like: Tensor) -> None:
        self.like = like
        self.generators = [torch.Generator(like.device).manual_seed(int(seed)) for seed in seeds]

    @classmethod
    def of(cls, generators: Sequence[torch.Generator], like: Tensor) -> RowNoise:
        """Of generators, one for each example, that are there."""
        noise = cls([], like)
        noise.generators = list(generators)
        return noise

    def normal(self, particles: int, *shape: int) -> Tensor:
        """(S, B, *shape) standard normal."""
        return self._each(torch.Tensor.normal_, particles, *shape)

    def uniform(self, particles: int, *shape: int) -> Tensor:
        """(S, B, *shape) uniform in (0, 1)."""
        u = self._each(torch.Tensor.uniform_, particles, *shape)
        return u.clamp(min=torch.finfo(u.dtype).eps / 4)

    def _each(self, draw: Callable[..., Tensor], *size: int) -> Tensor:
        return torch.stack([draw(self.like.new_empty(size), generator=g) for g in self.generators], 1)


class Particles:
    """K particles for each of N examples: how many a pass takes, and their noise.

    Args:
        model: any VAE, in eval mode.
        x: (N, *event) data.
        samples: K.
        pairs: (example, particle) pairs per pass.
        compile: whether a pass is compiled.
        seeds: (N,) of the examples, as `row_seeds` gives them; else torch's generator gives one for all.
        even: whether the noise of an example, which then has a seed, is spread evenly over the particles: points of
            Sobol's sequence, all shifted by the same random vector, so that each particle's is standard normal.
        alone: whether what takes a pass draws from torch's generator, too, so that with seeds of their own the examples
            have to come one at a time.
        contexts: what is given, (N, *context) each.
    """

    PAIRS_PER_GENERATOR = 64  # pairs that share a generator: seeding one takes as long as drawing a thousand numbers

    def __init__(
        self,
        model: VAE,
        x: Tensor,
        samples: int,
        pairs: int | None = None,
        compile: bool = False,
        seeds: np.ndarray | None = None,
        alone: bool = False,
        contexts: Contexts = (),
        even: bool = False,
    ) -> None:
        limit = pairs_per_pass(model, x)
        pairs = pairs or limit * (4 if compile else 1)
        self.size = math.ceil(samples / math.ceil(samples / limit))
        self.passes = [min(self.size, samples - start) for start in range(0, samples, self.size)]
        self.block = max(1, self.PAIRS_PER_GENERATOR // self.size) if seeds is None else 1
        self.rows = max(1, pairs // (self.size * self.block)) * self.block
        self.chunk = max(1, pairs // self.rows)  # particles at a time, for the rows of a pass
        self.device, self.seeds, self.seed, self.contexts = x.device, seeds, 0, contexts
        self.samples, self.examples, self.passed = samples, len(x), 0
        self.levels = model.levels if isinstance(model, FixedChain) else None
        if seeds is None:
            seed = int(torch.randint(2**62, ()))
            self.seed = processes.broadcast(lambda: seed)
        with forked_rng(model) if seeds is not None else nullcontext():
            laws = model.encode(x[:1], given=take_rows(contexts, slice(1)))
            self.shapes = [(q.event_shape, q.mean.dtype) if _is_normal(q) else None for q in laws]
        if seeds is not None and (alone or None in self.shapes):
            self.rows = 1
        widths = [math.prod(shape[0]) for shape in self.shapes if shape is not None]
        self.points: Tensor | None = None
        if even and 0 < sum(widths) <= torch.quasirandom.SobolEngine.MAXDIM:
            points = torch.quasirandom.SobolEngine(sum(widths)).draw(samples, dtype=torch.float64).to(x.device)
            self.points = points

    def seed_of(self, start: int) -> int:
        """Of torch's generator, for what does not use the given noise, in the pass that begins at example `start`."""
        return self.seed + start if self.seeds is None else int(self.seeds[start])

    def noise(self, start: int, count: int) -> Iterator[Noise]:
        """The noise of each pass, for the examples from `start` on, a multiple of the block."""
        blocks = range(start // self.block, math.ceil((start + count) / self.block))
        seeds = [self.seed + i if self.seeds is None else int(self.seeds[i]) for i in blocks]
        generators = [torch.Generator(self.device).manual_seed(seed) for seed in seeds]

        def draw(particles: int, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
            size = (particles, self.block, *shape)
            parts = [torch.randn(size, generator=g, dtype=dtype, device=self.device) for g in generators]
            return torch.cat(parts, 1)[:, :count]

        shift = None if self.points is None else RowNoise.of(generators, self.points).uniform(1, self.points.shape[1])
        for i, particles in enumerate(self.passes):
            if self.points is not None and shift is not None:
                first = sum(self.passes[:i])
                drawn = self._even(self.points[first : first + particles, None], shift)
            else:
                drawn = [None if shape is None else draw(particles, *shape) for shape in self.shapes]
            for part in range(0, particles, self.chunk):
                noises = [None if noise is None else noise[part : part + self.chunk] for noise in drawn]
                yield min(self.chunk, particles - part), noises

    def announcing(self, noises: Iterator[Noise], rows: int) -> Iterator[Noise]:
        """The same noise; after the second pass it is said what all take, if that is long: the first may compile.

        Args:
            noises: of some examples.
            rows: how many they are.
        """
        for count, noise in noises:
            began = time.monotonic()
            yield count, noise
            self.passed += 1
            if self.passed == 2:
                if self.device.type == "cuda":
                    torch.cuda.synchronize(self.device)
                pairs = self.examples * self.samples / processes.world_size()
                seconds = (time.monotonic() - began) / (count * rows) * pairs
                if seconds > LONG_SECONDS:
                    tell(self._announcement(seconds))

    def _announcement(self, seconds: float) -> str:
        """In words, with what takes a minute."""
        levels = f", through {self.levels:,} levels each," if self.levels else ""
        pairs = LONG_SECONDS / seconds * self.samples * self.examples
        fewer = max(1, int(pairs / self.examples))
        some = "" if pairs >= self.examples else f" for {max(1, int(pairs)):,} of them"
        return (
            f"{self.examples:,} examples with K = {self.samples:,} particles{levels} will take about "
            f"{about(seconds)} here; K = {fewer:,}{some} would take a minute"
        )

    def _even(self, points: Tensor, shift: Tensor) -> list[Tensor | None]:
        """The noise of each level, from points (S, 1, width) in (0, 1) and a shift, (1, B, width)."""
        normal = [shape for shape in self.shapes if shape is not None]
        u = (points + shift).frac().clamp(EDGE, 1 - EDGE)
        parts = iter(torch.special.ndtri(u).split([math.prod(event) for event, _ in normal], -1))
        drawn = [None if shape is None else next(parts).to(shape[1]) for shape in self.shapes]
        return [
            None if eps is None or shape is None else eps.reshape(*eps.shape[:2], *shape[0])
            for eps, shape in zip(drawn, self.shapes, strict=True)
        ]


def _is_normal(q: Distribution) -> bool:
    """Whether its draws are mu + sigma eps."""
    law = type(q.base_dist if isinstance(q, Independent) else q)
    return issubclass(law, Normal) and law.rsample is Normal.rsample


def run_passes(
    x: Tensor,
    particles: Particles,
    score: Callable[..., tuple[Tensor, ...]],
    summed: int = 0,
) -> tuple[Tensor, ...]:
    """Calls `score` on some rows of x at a time, their noise, and what is given with them, an argument each; gathers
    the results, (B, *) each, as (N, *); the last `summed` of them are summed over x instead. Several processes take the
    rows in turn.

    Results are written into preallocated tensors: small results kept from one pass to the next would be allocated in
    the large blocks that a pass frees, the next pass would need new blocks, and memory would grow with N.
    """
    whole: list[Tensor] = []
    starts = processes.local_rows(torch.arange(0, len(x), particles.rows)).tolist()
    for start in starts or [0]:  # a process without rows needs the shapes of the results, too
        part_of = slice(start, start + particles.rows)
        rows, contexts = x[part_of], take_rows(particles.contexts, part_of)
        with torch.random.fork_rng([x.device] if x.device.type == "cuda" else []):
            torch.manual_seed(particles.seed_of(start))
            parts = score(rows, particles.announcing(particles.noise(start, len(rows)), len(rows)), *contexts)
        each = len(parts) - summed
        if not whole:
            whole = [part.new_zeros(len(x), *part.shape[1:]) for part in parts[:each]]
            whole += [torch.zeros_like(part) for part in parts[each:]]
        if starts:
            for all_rows, part in zip(whole[:each], parts[:each], strict=True):
                all_rows[start : start + len(rows)] = part
            for sums, part in zip(whole[each:], parts[each:], strict=True):
                sums += part
    return tuple(map(processes.all_reduce, whole))
