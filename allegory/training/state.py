r"""The state of a training: everything needed to continue it exactly.

    weights, their average, the best ones, the moments of the optimizer, the random state, the sums of this epoch, the
    running median of the gradient's norm, and the position of the loop

`capture` and `restore` copy and restore all of it in memory; `save` and `load` do so with files of the run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from allegory.model import VAE
from allegory.runtime import processes
from allegory.training import metrics, schema, sharding
from allegory.training.clipping import initial_norms
from allegory.training.clock import Clock
from allegory.training.curves import draw_history
from allegory.training.directory import LAST, WEIGHTS, config_digest, read_config
from allegory.training.tensors import read_tensors, uncompiled, write_tensors

__all__ = ["Position", "Record", "Snapshot", "State", "rank_seed"]

RANDOM = ("random", "random_cuda")


def rank_seed(seed: int) -> int:
    """A seed for each process; the first one's is that of a single process."""
    return seed + 10_000_019 * processes.rank()


@dataclass(repr=False)
class Record:
    """The record of a training.

    Attributes:
        history: one dictionary per epoch: epoch, step, lr, beta, the mean objective over the epoch (train), the
            gradient's norm (gradient_norm), how many gradients were scaled down and skipped (clipped,
            skipped), and on the validation set, at beta = 1, the objective (bound), the ELBO
            and its parts (elbo, reconstruction, kl_per_level), nats per example; where beta is not 1, the objective at
            that beta, too (objective). An epoch that the clock has cut off has a line whose epoch is a fraction.
        epoch, step: finished epochs and updates.
        best_bound, best_epoch: the validation bound, at beta = 1, and the epoch of the weights that are kept: those of
            the best bound, or where beta is not 1 of the best objective; None without validation data.
        baseline: what independent elements, each at its marginal optimum in the training data, reach on the validation
            set, nats per example, see `allegory.evaluation.marginals`; None without validation data.
        best_objective: the validation objective of these weights where beta is not 1; else None.
        stopped: why it ended: "epochs", "minutes" or "patience".
        seconds: wall-clock time, over all resumed parts.
        restarts: epochs that were undone and run again at half the learning rate.
    """

    history: list[dict[str, Any]] = field(default_factory=list)
    epoch: int = 0
    step: int = 0
    best_bound: float | None = None
    best_epoch: float | None = None
    best_objective: float | None = None
    baseline: float | None = None
    stopped: str = ""
    seconds: float = 0.0
    restarts: int = 0

    @property
    def passes(self) -> float:
        """Passes through the data, with the part of an epoch that the clock has cut off; to two digits."""
        return round(max(self.epoch, self.history[-1]["epoch"]), 2) if self.history else self.epoch

    def __repr__(self) -> str:
        parts = [f"{self.passes:g} epochs", f"{self.step:,} steps", f"{self.seconds:.0f} s"]
        parts += [f"stopped by {self.stopped}"] if self.stopped else []
        if self.best_epoch is not None:
            parts += [f"best objective {self.best_objective:.2f}"] if self.best_objective is not None else []
            which = "best bound" if self.best_objective is None else "bound"
            beside = "" if self.baseline is None else f", independent elements {self.baseline:.2f}"
            parts.append(f"{which} {self.best_bound:.2f} in epoch {round(self.best_epoch, 2):g}{beside}")
        parts += [f"{self.restarts} restart{'s' * (self.restarts > 1)}"] if self.restarts else []
        return f"Record({', '.join(parts)})"

    def plot(self, axis: Any = None) -> Any:
        """Draws the bound over the training, in training and in validation.

        Args:
            axis: of matplotlib, to draw on; a new figure by default.

        Returns:
            The axis.

        Raises:
            ValueError: not one epoch has ended.

        >>> al.fit(model, x, epochs=2).plot().get_ylabel()
        'nats per example'
        """
        if not self.history:
            raise ValueError("there is nothing to draw: not one epoch of this training has ended")
        if axis is None:
            from matplotlib import pyplot  # when it is needed: importing it takes a while

            _, axis = pyplot.subplots(layout="constrained")
        draw_history(axis, self.history)
        return axis


@dataclass(repr=False)
class Position(Record):
    """The position of the loop: the record so far, the batches done in this epoch, and the effects of restarts.

    Attributes:
        batch: number of batches of this epoch that are done.
        lr, beta: of the last step.
        lr_scale: the factor on the learning rate after restarts.
        failures: restarts of this epoch.
        stall_step, stall_done: the step at which validation had stalled, None before that, and how much of the budget
            was spent then.
    """

    batch: int = 0
    lr: float = 0.0
    beta: Any = 1.0
    lr_scale: float = 1.0
    failures: int = 0
    stall_step: int | None = None
    stall_done: float = 0.0


Snapshot = tuple[dict[str, Tensor], dict[str, Any]]
"""Tensors by name, and the position."""


class State:
    """Everything that `fit` needs to continue exactly; see the module.

    Args:
        model: the model that is trained, in place.
        average: a copy of it, for the average of its weights; sharded as the model is.
        lr, weight_decay: of AdamW.
        baseline: of the validation data, for the record.

    Attributes:
        learned: the model's parameters that have a gradient.
        parameters, averages: this process's parts of them and of their average, updated in place.
        best: the weights that were best on the validation set; empty before the first.
        position: of the loop.
        totals, norms: (6,) sums over this epoch, and (3,) the state of `clip_scale`.
    """

    def __init__(self, model: VAE, average: VAE, lr: float, weight_decay: float, baseline: float | None = None) -> None:
        self.model, self.average = model, average
        self.learned = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            sharding.param_groups(self.learned), lr, betas=(0.9, 0.99), weight_decay=weight_decay, fused=True
        )
        both = zip(average.parameters(), model.parameters(), strict=True)
        self.averages = [sharding.to_local(mean) for mean, p in both if p.requires_grad]
        self.parameters = [sharding.to_local(p) for p in self.learned]
        self.best: dict[str, Tensor] = {}
        self.position = Position(baseline=baseline)
        self.metrics = metrics.Metrics()
        device = next(model.parameters()).device
        # Over this epoch: sums of this process's bounds and of the gradient's norm; steps, clipped, skipped, bursts.
        # A NaN stays a NaN.
        self.totals = torch.zeros(6, dtype=torch.float64, device=device)
        self.norms = initial_norms(device)

    def all_totals(self) -> Tensor:
        """The totals, with the bounds summed over all processes."""
        totals = self.totals.clone()
        processes.all_reduce(totals[:1])
        return totals

    def has_finite_weights(self) -> bool:
        """Whether all weights are finite, and no buffer is NaN, in every process: the last step may be too large though
        its gradient was finite, and no pass through the model follows it.
        """
        weights = [p for p in self.parameters if p.numel()]
        finite = torch.isfinite(torch.stack(torch._foreach_norm(weights, math.inf))).all()
        numbers = [sharding.to_local(b) for b in self.model.buffers() if b.is_floating_point()]
        whole = all(not bool(torch.isnan(b).any()) for b in numbers)
        return processes.all_reduce_max(float(not (bool(finite) and whole)))[0] == 0

    def running_bound(self, batch_size: int) -> float | None:
        """The mean objective over this epoch so far, to be shown; None where other processes have parts of it."""
        bound, _, count, *_ = self.totals.tolist() if processes.world_size() == 1 else [0.0] * 3
        return bound / (count * batch_size) if count else None

    def weights(self) -> dict[str, Tensor]:
        """The weights to use: the best on the validation set, else the average."""
        return self.best or self.average.state_dict()

    def load_best(self) -> None:
        """Leaves the model in eval mode, with the weights to use."""
        self.model.load_state_dict(self.weights())
        self.model.eval()

    def end_epoch(self, examples: int, batch_size: int, warmed: float | None) -> dict[str, Any]:
        """Counts the epoch, and returns its line of the history, without the results of validation. An epoch that the
        clock has cut off is not counted, and goes on when the training is resumed; its line has a fraction as epoch.

        Args:
            examples, batch_size: of the training data.
            warmed: the fraction of the KL's weight that its warm-up has reached. None where beta is a schedule; the
                line holds beta itself.
        """
        now, batches = self.position, math.ceil(examples / batch_size)
        bound, norm, count, clipped, skipped, _ = self.all_totals().tolist()
        epoch: float = now.epoch + 1
        if now.batch < batches:
            epoch = now.epoch + now.batch / batches
        else:
            now.epoch, now.batch, now.failures = now.epoch + 1, 0, 0
            self.totals.zero_()
        line = dict(epoch=epoch, step=now.step, lr=now.lr, beta=now.beta if warmed is None else warmed)
        line |= dict(train=bound / min(examples, count * batch_size), gradient_norm=norm / count)
        return line | dict(clipped=int(clipped - skipped), skipped=int(skipped))

    def keep_if_best(self, line: dict[str, Any], warm: bool) -> None:
        """Keeps the averaged weights if their bound, or at another beta than 1 their objective, is the best so far.

        Args:
            line: of the history, with the results of validation.
            warm: whether the warm-ups have ended; before that, no weights count as best.
        """
        now, objective = self.position, line.get("objective")
        value, best = (line["bound"], now.best_bound) if objective is None else (objective, now.best_objective)
        if warm and not math.isnan(value) and (best is None or value > best):
            now.best_bound, now.best_objective, now.best_epoch = line["bound"], objective, line["epoch"]
            self.best = _clone(self.average.state_dict())

    def go_back_to_best(self, done: float) -> str:
        """Goes back to the best weights, from which the schedules are gone through to their end; returns a line.

        Args:
            done: how much of the budget is spent.
        """
        now = self.position
        now.stall_step, now.stall_done = now.step, done
        self.model.load_state_dict(self.best)
        self.average.load_state_dict(self.best)
        return f"no better bound since epoch {now.best_epoch:g}: back to those weights, and the rate falls to its end"

    def capture(self) -> Snapshot:
        """A copy of the whole state."""
        return _clone(self._tensors()), {**vars(self.position), "history": list(self.position.history)}

    def _tensors(self) -> dict[str, Tensor]:
        """All tensors of the state by name, as they are."""
        tensors = {"totals": self.totals, "norms": self.norms, "random": torch.get_rng_state()}
        if self.totals.is_cuda:
            tensors["random_cuda"] = torch.cuda.get_rng_state(self.totals.device)
        parts = {"model": self.model.state_dict(), "average": self.average.state_dict(), "best": self.best}
        for part, weights in parts.items():
            tensors |= {f"{part}/{key}": value for key, value in weights.items()}
        for i, p in enumerate(self.learned):
            moments = self.optimizer.state.get(p) or _first_moments(p)
            tensors |= {f"optimizer/{i}/{key}": value for key, value in moments.items()}
        return tensors

    def restore(self, snapshot: Snapshot) -> None:
        """Restores a captured state."""
        tensors, position = snapshot
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "best": {}, "optimizer": {}}
        for key, value in tensors.items():
            if "/" in key:
                part, name = key.split("/", 1)
                parts[part][name] = value
        self.model.load_state_dict(parts["model"])
        self.average.load_state_dict(parts["average"])
        self.best = _clone(parts["best"])
        self.optimizer.state.clear()
        for name, value in parts["optimizer"].items():
            i, key = name.split("/")
            p = self.learned[int(i)]
            self.optimizer.state[p][key] = value.to(p.device, copy=True)
        self.totals.copy_(tensors["totals"])
        self.norms.copy_(tensors["norms"])
        torch.set_rng_state(tensors["random"].cpu())
        if self.totals.is_cuda:
            torch.cuda.set_rng_state(tensors["random_cuda"].cpu(), self.totals.device)
        for key in Position.__dataclass_fields__.keys() & position.keys():
            setattr(self.position, key, list(position[key]) if key == "history" else position[key])

    def begin(self, seed: int, run: Path | None) -> None:
        """Seeds torch's generator, and continues from a run's last checkpoint if there is one.

        Args:
            seed: of the training.
            run: the directory of the resumed run.
        """
        torch.manual_seed(rank_seed(seed))
        if run is not None and processes.broadcast((run / LAST).exists):
            self.load(run, seed)

    def save(self, run: Path | None, clock: Clock) -> None:
        """Writes the last checkpoint of a run, its weights and metrics; the position last, so that neither the weights
        to use nor the metrics are ever older than it; the first time it is written first, too.

        Args:
            run: its directory; None to write nothing.
            clock: of the training.
        """
        self.position.seconds = clock.seconds
        if run is not None:
            self._write(run)
        clock.checkpoint_written()

    def _write(self, run: Path) -> None:
        tensors, position = self.capture()
        for key in filter(tensors.__contains__, RANDOM):  # every process has its own
            tensors[key] = torch.stack(processes.all_gather(tensors[key].cpu()))
        tensors["totals"] = self.all_totals()
        tensors = sharding.full_tensors(tensors)
        if processes.rank() == 0:
            of_run = {"config": config_digest(read_config(run))}
            position |= of_run
            if not (run / LAST).exists():  # the first time, so that weights without it have lost it
                write_tensors(run / LAST, tensors, position)
            part = "best/" if self.best else "average/"
            weights = {key.removeprefix(part): value for key, value in tensors.items() if key.startswith(part)}
            write_tensors(run / WEIGHTS, uncompiled(weights), of_run | {"step": position["step"]})
            position |= self.metrics.write(run, position.pop("history"))
            write_tensors(run / LAST, tensors, position)
        processes.all_reduce_max(0.0)  # the others wait until it is written

    def load(self, run: Path, seed: int) -> None:
        """Reads the last checkpoint of a run.

        Args:
            run: its directory.
            seed: of new noise, if the number of processes has changed.
        """
        tensors, position = processes.broadcast(lambda: _read(run))
        try:
            self._check_tensors(tensors, position)
            self._select_local(tensors, seed + position["step"])
            self._shard(tensors)
            self.restore((tensors, position))
        except (RuntimeError, KeyError, IndexError, ValueError) as error:
            detail = " ".join(str(error).split())
            raise ValueError(
                f"{run / LAST} does not fit this model: {detail}; restore the file, or train into a new directory"
            ) from None
        if processes.rank() == 0:  # what was written beyond the checkpoint goes
            self.metrics.write(run, self.position.history)

    def _check_tensors(self, tensors: dict[str, Tensor], position: dict[str, Any]) -> None:
        """Checks every tensor's name, shape and type before one is used: fused AdamW reads as many numbers as it
        expects, wherever they end.
        """
        wanted = {key: value for key, value in self._tensors().items() if not key.startswith("best/")}
        if position["best_epoch"] is not None:
            wanted |= {f"best/{key}": value for key, value in self.average.state_dict().items()}
        wanted.pop("random_cuda", None)  # of a run on the CPU there is none
        learned = {key for key in wanted if key.startswith("optimizer/")}
        parts = [part for part in ("model", "average", "best") if part != "best" or position["best_epoch"] is not None]
        named = [name for name, p in self.model.named_parameters() if p.requires_grad]
        learned |= {f"{part}/{name}" for part in parts for name in named}
        lacking, foreign = wanted.keys() - tensors.keys(), tensors.keys() - wanted.keys() - {*RANDOM}
        for names, what in ((lacking, "lacks"), (foreign, "has no place for")):
            if names:
                raise ValueError(f"it {what} {len(names)} tensors, such as {min(names)}")
        for key in sorted(wanted):
            (found, like), free = (tensors[key], wanted[key]), 1 if key in RANDOM else 0  # a state of each process
            shape = found.shape[max(0, found.dim() - like.dim()) :] if free else found.shape
            if shape != like.shape or found.dtype != like.dtype:
                raise ValueError(
                    f"{key} is {found.dtype} of shape {tuple(found.shape)}, wanted {like.dtype} of {tuple(like.shape)}"
                )
            if key in learned and not bool(torch.isfinite(found).all()):
                raise ValueError(f"{key} has values that are not finite, which no checkpoint is written with")

    def _select_local(self, tensors: dict[str, Tensor], seed: int) -> None:
        """Selects this process's random state from those of all; new noise if the number of processes, or the kind of
        device, has changed.
        """
        device = self.totals.device
        for key in RANDOM[: 1 + self.totals.is_cuda]:
            states = torch.atleast_2d(tensors[key]) if key in tensors else ()  # a run on the CPU has none of a GPU
            if len(states) == processes.world_size():
                tensors[key] = states[processes.rank()].clone()  # torch does not accept views
            else:
                torch.manual_seed(rank_seed(seed))
                tensors[key] = torch.get_rng_state() if key == "random" else torch.cuda.get_rng_state(device)
        if processes.rank() > 0:
            tensors["totals"][0] = 0

    def _shard(self, tensors: dict[str, Tensor]) -> None:
        """Shards the saved, whole tensors like the model, if it is sharded."""
        parts = {"model": self.model.state_dict(), "average": self.average.state_dict()}
        parts["best"] = parts["average"]
        for key, value in tensors.items():
            part, _, name = key.partition("/")
            if part == "optimizer" and value.dim():
                tensors[key] = sharding.distribute(value, self.learned[int(name.split("/")[0])])
            elif part in parts and name in parts[part]:
                tensors[key] = sharding.distribute(value, parts[part][name])


def _first_moments(p: Tensor) -> dict[str, Tensor]:
    """The moments of a parameter that has had no gradient yet."""
    step = torch.zeros((), dtype=torch.float32, device=p.device)
    return dict(step=step, exp_avg=torch.zeros_like(p), exp_avg_sq=torch.zeros_like(p))


def _read(run: Path) -> Snapshot:
    """The last checkpoint of a run, with its history."""
    tensors, position = read_tensors(run / LAST)
    schema.check(position, schema.POSITION, f"{run / LAST}, position", ("epoch", "step", "batch"))
    history = metrics.read(run, position)
    return tensors, {**position, "history": history}


def _clone(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in tensors.items()}
