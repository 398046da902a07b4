r"""Runs: the directory that a training, or `al.save`, has written, as one object.

    run = al.Run("runs/mnist")
    run.model, run.data, run.settings, run.history          the model, its data, the settings of fit, a line per epoch
    run.evaluate(), run.diagnose(), run.sample(64), run.reconstruct(), run.encode(x), run.report()

What a run does not record has to be given: the data of a run made in Python, Run(path, data=...), or a custom class,
Run(path, Class).

Shapes: N examples x, (N, *event); n draws; T levels; K particles of a reported bound. Bounds are in nats per example.
"""

from __future__ import annotations

import reprlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from allegory.architectures import is_of_any_size, resize
from allegory.chain import at_levels
from allegory.data.conditions import Condition, choose_given, recorded_conditions
from allegory.data.description import is_described, recorded_offset
from allegory.data.ranges import as_range
from allegory.data.recoding import binarize, to_binary, two_values
from allegory.data.splits import Data, load_together, read, read_given, reload
from allegory.data.stored import Stored
from allegory.evaluation.annealing import compare_with_ais
from allegory.evaluation.bounds import Evaluation, bound_curve, evaluate, score
from allegory.evaluation.diagnosis import SAMPLES, Diagnosis, diagnose_scored
from allegory.evaluation.gains import ColumnGain, column_gains, has_columns
from allegory.evaluation.marginals import independent_elements, mean_log_prob
from allegory.evaluation.moments import posterior_moments
from allegory.evaluation.passes import few_particles, pairs_per_pass
from allegory.evaluation.speed import choose_speed
from allegory.family import BernoulliFamily
from allegory.given import Contexts, Given, Reading, as_contexts, take_rows
from allegory.model import VAE
from allegory.networks import Standardize
from allegory.runtime.devices import choose_device
from allegory.runtime.messages import check_counts
from allegory.sharing import Exported, export
from allegory.sharing.hub import fetch
from allegory.tabular import Schema
from allegory.training.checkpoint import load
from allegory.training.directory import LAST, read_config
from allegory.views import rows
from allegory.views.figures import expected, save_pictures
from allegory.views.listing import Summary, find, read_history, read_position, summary

if TYPE_CHECKING:
    from allegory.views.packing import Packed

__all__ = ["Draws", "Reconstructions", "Run", "Summary", "find", "summary"]

SPLITS = ("train", "valid", "test")
BYTE = 255
COMPARED_ROWS, MIN_ROWS, FAR_SPREADS = 1000, 10, 20  # rows that are compared with the training data; spreads


class Reconstructions(NamedTuple):
    """What `Run.reconstruct` returns.

    Attributes:
        originals: (n, *event) examples.
        reconstructions: (n, *event) the means of p(x | z_1), z_1 ~ q(z_1 | x).
        rows: (n,) which examples of the split they are.
    """

    originals: Tensor
    reconstructions: Tensor
    rows: Tensor


class Draws(NamedTuple):
    """What `Run.draw` yields: (n, *event) `samples`, and the `means` of the p(x | z_1) they were drawn from."""

    samples: Tensor
    means: Tensor


class Run:
    """A run directory, written by `fit(out=...)`, `allegory train` or `save`. Everything is read lazily, and once.
    Every method draws its noise from its own `seed`, and leaves torch's global generator alone.

    Args:
        path: the directory; or "hf://user/name", which `push` has written.
        model: needed only where the run's model was not made by `allegory.architectures`, as in `load`: the model, or
            the class or function that makes it.
        data: needed only where the run does not record its data, or they have moved: a built-in name, a path, or
            `Data`. A run that records its data accepts no others.
        device: where to compute: "auto", "cpu", "cuda", ...
        levels: of a diffusion, how many it is to have, as in `evaluate`; one of infinitely many needs a number.
        own: custom parts of a model of `allegory.architectures`, as in `load`.

    Raises:
        ValueError: not a run. Later, on access: a model or data that the run cannot provide.

    >>> path = al.save(al.architectures.mlp((1, 8, 8), "poisson", [2], [4]), "run")
    >>> run = al.Run(path, data="digits")
    >>> run
    Run('run', mlp poisson 2, saved)
    >>> run.sample(4).shape, run.encode("digits")[0][0].shape         # draws; the means of q(z_1 | x), test split
    (torch.Size([4, 1, 8, 8]), torch.Size([300, 2]))
    """

    def __init__(
        self,
        path: str | Path,
        model: VAE | Callable[..., VAE] | None = None,
        *,
        data: str | Path | Data | None = None,
        device: str | torch.device = "cpu",
        levels: int | None = None,
        **own: Any,
    ) -> None:
        self.path, self._began_in = fetch(path), Path.cwd()
        self.config = read_config(self.path)
        self.device = choose_device(device)
        self._model, self._data, self._levels, self._own = model, data, levels, own

    def __repr__(self) -> str:
        line = self.summary
        what = " ".join(filter(None, [line.model, line.depth, line.data and f"on {line.data}"]))
        parts = [what or "a custom model", "saved" if line.stopped == "saved" else f"{line.epochs} epochs"]
        parts += [] if line.bound is None else [f"bound {line.bound:.2f}"]
        return f"Run({str(self.path)!r}, {', '.join(parts)})"

    @property
    def folder(self) -> Path:
        """The directory, also where the process has since changed its own: a relative path would lead to another."""
        return self.path if Path.cwd() == self._began_in else self._began_in / self.path

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of `fit`, by name; empty where the model was saved without one."""
        return dict(self.config["fit"] or {})

    @property
    def summary(self) -> Summary:
        """Its model, data, progress and bound, from its files as they are now."""
        return summary(self.folder)

    @property
    def history(self) -> list[dict[str, Any]]:
        """One dictionary per epoch, as in `Record.history`, up to the last checkpoint; empty before the first one.

        Raises:
            ValueError: a damaged file.
        """
        return read_history(self.folder, read_position(self.folder / LAST))

    @cached_property
    def model(self) -> VAE:
        """The model with its best weights, in eval mode, on the run's device.

        Raises:
            ValueError: as `load`.
        """
        with torch.random.fork_rng():
            model = load(self.folder, self._model, **self._own).to(self.device)
            return model if self._levels is None else at_levels(model, self._levels)

    @cached_property
    def data(self) -> Data:
        """The data it was trained on, split and read in the same way, and verified by their checksum.

        Raises:
            ValueError: the run does not record its data and none were given; they are gone or have changed.
        """
        about: Any = self.config.get("data")
        given = self._data
        if _is_description(about):
            if not isinstance(given, Data):
                return reload(about, str(self.path), given)
            if not is_described(given, about):
                raise ValueError(f"{given.name} is not the data {self.path} was trained on, {about['source']}")
            return given
        if given is None and isinstance(about, dict) and about:
            return reload(about, str(self.path))  # raises, naming what is missing
        if given is None:
            raise ValueError(
                f"{self.path} does not record what data it was trained on; give them: --data DATA, or in Python "
                "al.Run(path, data=...)"
            )
        data = given if isinstance(given, Data) else load_together(given)
        return data.scored_as("bernoulli")[0] if self._is_bernoulli else data

    @property
    def source(self) -> str | None:
        """Where its data are, as given or as recorded: a built-in name or a path; None where that is not known."""
        about: Any = self.config.get("data")
        recorded = about["source"] if _is_description(about) else None
        given = self._data.name if isinstance(self._data, Data) else self._data
        return recorded if given is None else str(given)

    @property
    def knows_its_model(self) -> bool:
        """Whether `model` can be built: from an architecture, with all custom parts given, or from the given model."""
        described = self.config["model"] or {}
        own = {key for key, value in described.items() if isinstance(value, dict) and "own" in value}
        return self._model is not None or (self.config["model"] is not None and own <= self._own.keys())

    @property
    def knows_its_data(self) -> bool:
        """Whether it records its data, so that the test split is the one that was held out in training."""
        return _is_description(self.config.get("data"))

    def evaluate(
        self,
        split: str = "test",
        samples: int = 1000,
        *,
        precision: str = "float32",
        compile: bool | str = "auto",
        seed: int = 0,
    ) -> Evaluation:
        """L_K, the ELBO and its parts, of all examples of a split; see `al.evaluate`.

        Args:
            split: "train", "valid" or "test".
            samples: K.
            precision: of the networks, "float32", "bfloat16" or "auto".
            compile: whether to compile the networks; by default where the evaluation is long enough for it to pay.
            seed: of the noise.

        Raises:
            ValueError: as `model` and `data`; data that the model cannot score.
        """

        def found() -> Evaluation:
            (model, x), given = self._split_to_score(split), self._given_with(split)
            result = evaluate(model, x, samples, None, precision, compile, given=given)
            return replace(result, baseline_nll=self.baseline_nll(x), columns=self._column_gains(x, given))

        return self._with_seed(seed, found)

    def bound_curve(
        self,
        split: str = "test",
        samples: int = 1000,
        *,
        precision: str = "float32",
        compile: bool | str = "auto",
        seed: int = 0,
    ) -> list[tuple[int, float, float]]:
        """L_K against K: (K, its mean, its standard error) for K = 1, 2, 5, ... up to `samples`; see `al.bound_curve`.
        The arguments are those of `evaluate`.
        """
        given = self._given_with(split)
        return self._with_seed(
            seed, lambda: bound_curve(*self._split_to_score(split), samples, None, precision, compile, given)
        )

    def choose_speed(
        self, split: str = "test", samples: int = 1000, precision: str = "auto", compile: bool | str = "auto"
    ) -> tuple[str, bool, list[str]]:
        """The precision, and whether to compile, of an evaluation; see `allegory.evaluation.choose_speed`."""
        return choose_speed(*self._split_to_score(split), samples, precision, compile, self._given_with(split))

    def compare_with_ais(self, split: str = "test", examples: int = 100, samples: int = 1000) -> dict[str, Any]:
        """-L_K and the estimate of annealed importance sampling, on random examples of a split; see
        `allegory.evaluation.compare_with_ais`.
        """
        given = self._given_with(split)
        return self._with_seed(
            0, lambda: compare_with_ais(*self._split_to_score(split), examples, samples, given=given)
        )

    def diagnose(self, split: str = "test", examples: int = 1000, seed: int = 0) -> Diagnosis:
        """Which levels work, which have collapsed, and what to try; see `al.diagnose`.

        Args:
            split: "train", "valid" or "test".
            examples: how many of it, and of the training data, drawn at random.
            seed: of the selection and the noise.
        """

        def found() -> Diagnosis:
            drawn = [(part, *self.data.subset(part, examples, seed)) for part in (split, "train")]
            x, train = (part.to(self.device) for _, _, part in drawn)
            given, train_given = (self._given_with(part, rows) for part, rows, _ in drawn)
            known = self.baseline_nll(x)
            k = few_particles(self.model, SAMPLES)
            scores = [score(self.model, part, k, given=c) for part, c in ((x, given), (train, train_given))]
            law = self.independent_elements
            return diagnose_scored(self.model, x, scores[0], train, scores[1], known, law, given)

        return self._with_seed(seed, found)

    @property
    def given_about(self) -> dict[str, Any] | None:
        """What is given with the examples, as the run records it, see `allegory.data.Conditions.about`. None where
        nothing is, or a run that was made in Python does not say.
        """
        about: Any = self.config.get("data")
        given = about.get("given") if isinstance(about, dict) else None
        if given is None and isinstance(self._data, Data) and self._data.given is not None:
            return self._data.given.about()
        return given

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """The parts of what is given with the examples: their names and categories, in the order of c."""
        return () if self.given_about is None else recorded_conditions(self.given_about)

    def given_as(self, said: Any, n: int = 1, seed: int = 0) -> Tensor:
        """(n, k) what is given, from what is said of it: of each part a category, or, of words, its place; a number; or
        a range of numbers, (low, high). What is not said is as in random training examples that agree with the rest.

        Args:
            said: by the names of `conditions`; where there is one alone, what is said of it.
            n: how many.
            seed: of the choice.

        Raises:
            ValueError: no such name, no such category; no training example that agrees; a run without.
        """
        parts = self.conditions
        if not parts:
            raise ValueError(f"given {said!r}: {self.path} does not record that anything is given with its examples")
        if not isinstance(said, Mapping):
            if len(parts) > 1:
                wanted = ", ".join(f"{part.name}=..." for part in parts)
                raise ValueError(f"given {said!r}: wanted some of {wanted}, since several are given")
            said = {parts[0].name: said}
        each = said.keys() == {part.name for part in parts} and not any(map(as_range, said.values()))
        train = torch.empty(0, sum(part.count for part in parts)) if each else self.data.given_with("train")[0]
        c = choose_given(parts, said, train, n, seed)
        self._warn_of_far(c, "given")
        return c

    def _given_with(self, split: str, rows: Tensor | slice = slice(None)) -> Contexts:
        """What is given with examples of the data, on the run's device."""
        if split not in SPLITS:
            return ()  # `_split_to_score` says so
        return tuple(c.to(self.device) for c in self.data.given_with(split, rows)) if self._is_conditional else ()

    def _given_for(self, n: int, given: Given, seed: int) -> Contexts:
        """What is given with n draws: the given; by default that of random training examples."""
        if given is not None:
            contexts = tuple(c.to(self.device) for c in as_contexts(given))
            return tuple(c.expand(n, *c.shape[1:]) if len(c) == 1 else c for c in contexts)
        if not self._is_conditional:
            return ()
        rows = torch.randint(len(self.data.train), (n,), generator=torch.Generator().manual_seed(seed))
        return self._given_with("train", rows)

    @property
    def _is_conditional(self) -> bool:
        return self.given_about is not None

    def generate(self, n: int, temperature: float = 1.0, seed: int = 0, given: Given = None) -> Distribution:
        """p(x | z_1) for n draws from the prior, a distribution over (n, *event).

        Args:
            n: number of draws.
            temperature: factor on the standard deviations of all latents.
            seed: of the draws.
            given: c of a conditional model, (n, *context), or a single row for all; by default what was given with
                random training examples.
        """
        contexts = self._given_for(n, given, seed)
        with torch.no_grad():
            return self._with_seed(seed, lambda: self._generate(n, temperature, contexts))

    def sample(self, n: int, temperature: float = 1.0, seed: int = 0, given: Given = None) -> Tensor:
        """(n, *event) examples: z from the prior, then a draw from p(x | z_1). Arguments as in `generate`."""
        return torch.cat([part.samples for part in self.draw(n, temperature, seed, given)])

    def draw(self, n: int, temperature: float = 1.0, seed: int = 0, given: Given = None) -> Iterator[Draws]:
        """Samples and their means, as many at a time as fit into little memory. Arguments as in `generate`."""
        check_counts(n=n)
        contexts = self._given_for(n, given, seed)
        first = take_rows(contexts, slice(1))
        shape = self._with_seed(seed, lambda: self.model.generate(1, given=first).event_shape)
        size = pairs_per_pass(self.model, torch.empty(1, *shape))
        for start in range(0, max(1, n), size):
            # A seed of its own for each part: the global generator is left alone while the caller works on one.
            count, part = min(size, n - start), take_rows(contexts, slice(start, start + size))
            yield self._with_seed(seed + 1_000_003 * start, partial(self._draw, count, temperature, part))

    def reconstruct(self, split: str = "test", count: int = 32, seed: int = 0) -> Reconstructions:
        """Random examples of a split, and their reconstructions: the means of p(x | z_1), z_1 ~ q(z_1 | x).

        Args:
            split: "train", "valid" or "test".
            count: number of examples.
            seed: of the selection and the noise.
        """
        check_counts(count=count)
        model, data = self.model, self.data

        def found() -> Reconstructions:
            rows, x = data.subset(split, count, seed)
            torch.manual_seed(seed)
            names = data.row_names(split)
            given, size = self._given_with(split, rows), pairs_per_pass(model, x)
            model.check(x.to(self.device), f"{split} data", [names[row] for row in rows.tolist()], given)
            with torch.no_grad():
                parts = [slice(start, start + size) for start in range(0, len(x), size)]
                laws = (model.reconstruct(x[i].to(self.device), given=take_rows(given, i)) for i in parts)
                means = torch.cat([expected(law).cpu() for law in laws])
            return Reconstructions(x, means, rows)

        return self._with_seed(seed, found)

    def encode(self, x: Any, seed: int = 0, given: Given = None) -> list[tuple[Tensor, Tensor]]:
        """Mean and standard deviation of the latents of every example, level 1 first, each (N, *event_t).

        Args:
            x: (N, *event) data as the model takes them; or a source or a frame, read as by `read`.
            seed: of the noise of the levels below.
            given: c of a conditional model, (N, *context); of a source it is read along with x.

        Raises:
            ValueError: data that the model cannot score.
        """
        if not isinstance(x, Tensor | Stored):
            given = self.read_given(x) if given is None else given
            x = self.read(x)
        contexts = tuple(c.to(self.device) for c in as_contexts(given, len(x)))
        model = resize(self.model, x.shape[1:]) if is_of_any_size(self.model) else self.model
        return self._with_seed(seed, lambda: posterior_moments(model, x.to(self.device), given=contexts))

    def read_given(self, source: Any, array: str | None = None) -> Tensor | None:
        """(N, k) what is given with the examples of a source, as this run names it; None for an unconditional run.

        Args:
            source: a path; or a frame, where the run was trained on a table.
            array: as in `read`.
        """
        if self.given_about is None:
            return None
        table = self.is_table
        c = rows.given_rows(self, rows.open_rows(self, source, array)) if table else None
        c = read_given(source, self.given_about, array) if c is None else c
        self._warn_of_far(c, source if isinstance(source, str | Path) else "the frame")
        return c

    def _warn_of_far(self, c: Tensor, where: Any) -> None:
        """Warns of what is given, (n, k), where most of a number is far from those of the training data."""
        reads = next((part for part in self.model.modules() if isinstance(part, Reading) and not part.hidden), None)
        if reads is None or reads.loc.shape != c.shape[1:]:
            return
        with torch.no_grad():
            away, i = reads(c.to(self.device)).abs().nan_to_num().median(0).values.max(0)
        if away > FAR_SPREADS:
            name = [part.name for part in self.conditions for _ in range(part.count)][i]
            warnings.warn(
                f"{where}: {name} is {away:,.3g} spreads of the training data away from their middle, where the model "
                "has seen nothing; is it in the same units?",
                stacklevel=3,
            )

    def read(self, source: Any, array: str | None = None, strict: bool = False) -> Tensor:
        """All examples of a path, or the test split of a built-in set, (N, *event), as this model takes them: two
        values as 0 and 1 where it was trained on binary data, images scaled to the size it was trained on, or in their
        own where the model is of any size, the columns of a table by their names.

        Args:
            source: a path, or a built-in name; or a frame, where it was trained on a table.
            array: the name of the one array of a .npz file that is taken.
            strict: whether values of a table that were never seen are an error.

        Raises:
            ValueError: examples of another shape, other columns; as `allegory.data.read`.
        """
        about: Any = self.config.get("data")
        if self.schema is not None:
            where = str(source) if isinstance(source, str | Path) else ""
            return rows.read_rows(self, rows.open_rows(self, source, array), strict, where)
        if not _is_description(about):
            x = read(source, array=array)
            values = two_values(x) if self._is_bernoulli else None
            return x if values is None else to_binary(x, values)
        folder, shape = Path(source).is_dir(), about["event_shape"]
        size = about.get("size") if folder and not is_of_any_size(self.model) else None
        channels = shape[0] if folder and len(shape) == 3 and shape[0] in (1, 3) else None
        dynamic = about["dynamic"] and str(source) == about["source"]
        offset = 0.0 if self.offset is None else self.offset
        asked = {} if folder else {"gaps": self.gap_codes, "given": [part.name for part in self.conditions]}
        x = read(source, dynamic=dynamic, array=array, size=size, offset=offset, channels=channels, **asked)
        if list(x.shape[1:]) != about["event_shape"] and not self._fits_any_size(x):
            raise ValueError(
                f"{source} has examples of shape {tuple(x.shape[1:])}, {self.path} was trained on "
                f"{tuple(about['event_shape'])}"
            )
        x = to_binary(x, tuple(about["two_values"])) if about["two_values"] else x
        if told := (self._other_bits(x) if folder else "") or self._unlike_training(x):
            warnings.warn(f"{source}: {told}", stacklevel=2)
        return x

    def impute(
        self,
        frame: Any,
        draws: int | None = None,
        point: str | None = None,
        *,
        samples: int = 1000,
        method: str = "sir",
        seed: int = 0,
        strict: bool = False,
        given: Mapping[Any, Any] | None = None,
        copies: bool = False,
    ) -> Any:
        """A table with its gaps filled, everything else as it was; see `al.impute` and `al.fill`.

        Args:
            frame: with the columns of the training data; of any library, or a path.
            draws: m, for a list of m tables, each a draw of what is missing; by default one table, of best values.
            point: what is best: "median" or "mean" of numbers, or the likeliest, "mode"; by default the median. Of
                categories it is the likeliest.
            samples: K, particles of each row.
            method: of draws, "sir" or "gibbs".
            seed: of the noise.
            strict: whether values that were never seen are an error.
            given: what is known of the gaps of some columns: a value, a range (low, high), or None for gaps that stay
                as they are. What is observed stays, whatever is said.
            copies: whether rows of the frame that are seen to come again fill each other's gaps first, see
                `allegory.tabular.copies`; then how a row is filled depends on the others.

        Raises:
            ValueError: no run of a table; other columns; m < 1; gaps that have no value under what is known.
        """
        frame = rows.open_rows(self, frame)
        return rows.filled(self, frame, draws, point, samples, method, seed, strict, given, copies)

    def score(
        self, frame: Any, cells: bool = False, *, samples: int = 1000, seed: int = 0, strict: bool = False
    ) -> Tensor:
        """(N,) minus L_K of each row, nats: the higher, the less likely. A row's score depends on its values alone.

        Args:
            frame: with the columns of the training data; of any library, or a path.
            cells: whether to score cells instead, (N, D), in the order of `schema.names`: minus log p(x_d | the rest of
                the row), NaN in gaps.
            samples: K.
            seed: of the noise.
            strict: whether values that were never seen are an error.

        Raises:
            ValueError: no run of a table; other columns.
        """
        score = rows.cells_of if cells else rows.score_rows
        return score(self, rows.open_rows(self, frame), samples, seed, strict)

    def sample_rows(
        self,
        n: int,
        given: Mapping[Any, Any] | None = None,
        temperature: float = 1.0,
        seed: int = 0,
        samples: int | None = None,
        return_ess: bool = False,
    ) -> Any:
        """A table of n rows that are drawn from the model, with the types of the training data.

        Args:
            n: number of rows.
            given: what all rows have, by column: a value; a range, (low, high), both ends included, None for no end;
                or None for a gap. The rest is drawn from p(rest | given), by importance resampling, see
                `al.sample_given`. Of columns that are not modelled, but given, what is not said is as in random
                training examples.
            temperature: factor on the standard deviations of all latents; of draws without conditions.
            seed: of the draws.
            samples: K, particles among which rows under conditions are drawn; by default 10,000, or 1,000 for each row
                where something else is given with each.
            return_ess: whether to return (rows, ESS), the effective sample size of the K weights; None where there are
                none.

        Raises:
            ValueError: no run of a table; no such column; a condition that no row can meet.
        """
        if self.schema is None:
            raise ValueError(f"{self.path} was not trained on a table; wanted Run.sample")
        found, ess = rows.sample(self, n, given or {}, temperature, seed, samples)
        return (found, ess) if return_ess else found

    def compress(
        self,
        source: str | Path,
        path: str | Path,
        *,
        array: str | None = None,
        resolution: float | None = None,
        jobs: int = 1,
        verify: bool = True,
    ) -> Packed:
        """Writes data as a file that is as long as the likelihood says, from which `decompress` makes them again, to
        the byte or to the value; see `allegory.views.packing`.

        Args:
            source: a path, or a built-in name, of which it is the test split.
            path: of the file.
            array: the name of the one array of a .npz file that is taken.
            resolution: of x where the likelihood is a density, as of `al.compress`.
            jobs: processes.
            verify: whether each chunk is decoded before it counts.

        Raises:
            ValueError: values that the model gives no probability, or that would not come back; as `al.compress`.
        """
        from allegory.views.packing import pack

        return pack(self, source, path, array=array, resolution=resolution, jobs=jobs, verify=verify)

    def decompress(self, path: str | Path, out: str | Path, jobs: int = 1) -> int:
        """Writes the data that `compress` was given; returns how many examples there are.

        Args:
            path: of the compressed file.
            out: .csv, .csv.gz or .parquet for a table, else .npy or .npz.
            jobs: processes.

        Raises:
            ValueError: a file of another model, a damaged one, another name of out.
        """
        from allegory.views.packing import unpack

        return unpack(self, path, out, jobs)

    def export(self, path: str | Path, what: str = "encode") -> Exported:
        """Writes its model as an ONNX graph, with its configuration and how x is read; see `al.export`.

        Args:
            path: the file, .onnx.
            what: "encode", "decode", "generate" or "score".

        Raises:
            ValueError: as `al.export`.
        """
        known: Any = self.config.get("data")
        data = {key: value for key, value in known.items() if key != "source"} if isinstance(known, dict) else None
        about = {"run": {"model": self.config["model"], "fit": self.config["fit"], "data": data}, "x": self.reading}
        unknown = self._is_conditional and self.model.config is None
        return export(self.model, path, what, given=self._given_for(4, None, 0) if unknown else None, about=about)

    @property
    def reading(self) -> str:
        """How the model takes x, where that is not as the data have it, in words; else ""."""
        about: Any = self.config.get("data")
        if self.schema is not None:
            return "x is a row as Schema.encode gives it, NaN where a value is missing: a category is its place"
        if isinstance(about, dict) and about.get("two_values"):
            return "x is 0 and 1, for {} and {} in the data".format(*(f"{value:g}" for value in about["two_values"]))
        return "" if self.offset is None else f"x is the data less {reprlib.repr(self.offset.tolist())}"

    def report(self, out: str | Path | None = None, **settings: Any) -> Path:
        """Writes the run as one page, RUN/report.html by default, and returns its path.

        Args:
            out: the file.
            settings: further arguments of `al.report`.
        """
        from allegory.views.page import report  # imported late, since it imports the plotting libraries

        return report(self, out=out, **settings)

    def save_pictures(self) -> list[Path]:
        """Writes samples.png and reconstructions.png into the run, if the data are images; returns their paths."""
        return save_pictures(self.folder, self.model, self.data.valid, self._given_with("valid"))

    def in_data_units(self, x: Tensor) -> Tensor:
        """Examples, or means, as the data call their values: 0 and 1 become the two values that were read as them, and
        what was taken off is added again, in float64. Categories of a table stay codes, see `Schema.decode`.

        Args:
            x: (*, *event) as the model takes them.
        """
        about: Any = self.config.get("data")
        if not isinstance(about, dict):
            return x
        if values := about.get("two_values"):
            first, second = (torch.full_like(x, value) for value in values)
            x = torch.lerp(first, second, x)  # exact at both ends
        if self.schema is not None:
            origins = [float(column.origin) if not column.unit else 0.0 for column in self.schema.modelled]
            return x.double() + torch.tensor(origins, dtype=torch.float64, device=x.device)
        return x if self.offset is None else x.double() + torch.from_numpy(self.offset).to(x.device)

    @cached_property
    def offset(self) -> Any:
        """(*event) float64, what was taken off the data before they were cast to float32, an array; None where nothing
        was.
        """
        about: Any = self.config.get("data")
        return recorded_offset(about, str(self.path)) if _is_description(about) else None

    @cached_property
    def schema(self) -> Schema | None:
        """What the columns of the table are that it was trained on; None where that was no table."""
        about: Any = self.config.get("data")
        recorded = about.get("schema") if _is_description(about) else None
        return None if recorded is None else Schema.from_json(recorded)

    @property
    def is_table(self) -> bool:
        """Whether it was trained on a table, whose rows have names and types; an array of columns is none."""
        return self.schema is not None and self.schema.container != "array"

    @property
    def gap_codes(self) -> list[Any]:
        """What stands for a gap in its data, besides NaN and empty fields."""
        about = self.config.get("data")
        return list((about.get("reading") or {}).get("gaps", ())) if isinstance(about, dict) else []

    @property
    def range(self) -> tuple[float, float] | None:
        """The smallest and the largest value of the training data, if the run records them."""
        about = self.config.get("data")
        found = about.get("range") if isinstance(about, dict) else None
        return None if found is None else (float(found[0]), float(found[1]))

    def _draw(self, n: int, temperature: float, contexts: Contexts = ()) -> Draws:
        with torch.no_grad():
            law = self._generate(n, temperature, contexts)
            return Draws(law.sample(), expected(law))

    def _generate(self, n: int, temperature: float, contexts: Contexts = ()) -> Distribution:
        if n < 1:
            raise ValueError(f"n={n}: wanted at least 1")
        return self.model.generate(n, temperature, contexts or None)

    def _other_bits(self, x: Any) -> str:
        """Whether images are of 8 bits a channel and those of the training data of 16, or the reverse, in words."""
        (low, high), (first, last) = (x.min().item(), x.max().item()), self.range or (0.0, 0.0)
        if self.config["data"]["two_values"] or (high > BYTE) == (last > BYTE):
            return ""
        found, known, change = ("16", "8", "divided") if high > BYTE else ("8", "16", "multiplied")
        return (
            f"its images are of {found} bits a channel, {low:g}..{high:g}, those of the training data of {known}, "
            f"{first:g}..{last:g}: as they are they mean something else; wanted them {change} by 257, or saved as those"
        )

    def _unlike_training(self, x: Any) -> str:
        """Where the values of x, (N, *event), are far from what the encoder reads as usual, in words; else ""."""
        reads = [part for part in self.model.encoders.modules() if isinstance(part, Standardize)]
        if not reads or (reads[0].loc.shape != x.shape[1:] and not is_of_any_size(self.model)):
            return ""
        with torch.no_grad():
            y = reads[0](x[:COMPARED_ROWS].to(self.device)).double()
        usual = y.abs().nanmedian().item()
        if usual > FAR_SPREADS:
            away = f"{usual:,.3g} spreads of the training data away from their mean"
            return f"its values are {away}; are they in the same units?"
        spread = (y - y.nanmean(0)).square().nanmean(0).sqrt().nanmedian().item()
        if len(y) >= MIN_ROWS and 0 < spread < 1 / FAR_SPREADS:
            return f"its values vary by {spread:.2g} of what the training data do; are they in the same units?"
        return ""

    def _fits_any_size(self, x: Any) -> bool:
        """Whether x, (N, *event), are images that the model takes once it is resized."""
        if not is_of_any_size(self.model) or self.offset is not None:
            return False
        shape, own = list(x.shape[1:]), (self.model.config or {})["event_shape"]
        return len(shape) == len(own) and shape[:-2] == own[:-2]

    @cached_property
    def _is_bernoulli(self) -> bool:
        """Whether p(x | z_1) is a Bernoulli."""
        return any(isinstance(part, BernoulliFamily) for part in self.model.decoders[0].modules())

    @cached_property
    def independent_elements(self) -> Distribution | None:
        """The baseline: independent elements, fitted to all of the training data, a distribution over one event, on the
        CPU; None where the likelihood has none, see `allegory.evaluation.marginals`.

        Raises:
            ValueError: as `data`.
        """
        given = self._given_with("train")

        def found() -> Distribution | None:
            model, x = self._split_to_score("train")
            model.check(x, "train", given=given)
            return independent_elements(model, x, given)

        return self._with_seed(0, found)

    def baseline_nll(self, x: Tensor) -> float | None:
        """What independent elements reach on x, (N, *event), nats per example, fitted to all of the training data; None
        where there is no such baseline, see `allegory.evaluation.marginals`.
        """
        return None if self.independent_elements is None else -mean_log_prob(self.independent_elements, x)

    def _column_gains(self, x: Tensor, given: Contexts) -> list[ColumnGain] | None:
        """What the model says of each column of a table beyond its marginal; None of anything else."""
        if self.independent_elements is None or not has_columns(self.model):
            return None
        return column_gains(self.model, x, self.independent_elements, given=given)

    def _split_to_score(self, split: str) -> tuple[VAE, Tensor]:
        """The model and the examples; dynamically binarised data are binarised once."""
        if split not in SPLITS:
            raise ValueError(f"split={split!r}: wanted one of {', '.join(SPLITS)}")
        x = getattr(self.data, split)
        return self.model, (binarize(x) if self.data.dynamic and split == "train" else x).to(self.device)

    def _with_seed(self, seed: int, function: Callable[[], Any]) -> Any:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return function()


def _is_description(about: Any) -> bool:
    """Whether this is a complete description, as `allegory.data.describe` writes it."""
    return isinstance(about, dict) and {"source", "dynamic", "seed", "event_shape", "two_values", "checksum"} <= {
        *about
    }
