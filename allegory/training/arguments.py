"""The arguments of `fit`, checked once, before anything is created: the loop does not check data and settings again."""

from __future__ import annotations

import copy
import functools
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from allegory import objectives
from allegory.data.stored import Stored
from allegory.evaluation.marginals import baseline
from allegory.evaluation.speed import tolerates_bfloat16
from allegory.given import Contexts, as_contexts, take_rows
from allegory.model import VAE, check_is_vae
from allegory.objectives import elbo, needs_score
from allegory.runtime import processes
from allegory.runtime.compilation import (
    WORTHWHILE_SECONDS,
    choose_compile,
    compile_seconds,
    has_compiler,
    time_call,
)
from allegory.runtime.messages import call_error, no_tensor
from allegory.runtime.modes import frozen_parts, no_validation, train_mode
from allegory.runtime.precision import choose_precision
from allegory.training.budget import Budget
from allegory.training.directory import stored_settings
from allegory.training.rounding import warn_of_rounding
from allegory.training.scale import warn_of_scale
from allegory.training.schedule import (
    WARMUP_SHARE,
    Cosine,
    Cyclical,
    Schedule,
    Warmup,
    WithinMinutes,
    warmup_steps,
)
from allegory.training.state import Position
from allegory.training.step import score_function

BASELINE_EXAMPLES = 20_000  # transformed examples, for the baseline

__all__ = ["Plan", "as_json", "beta_schedule", "lr_schedule", "name_of", "plan"]


def name_of(function: Any) -> str:
    """The name of an objective or a schedule as a run records it; for a functools.partial with its settings.

    >>> name_of(functools.partial(al.objectives.renyi, alpha=0.5)), name_of(Cosine(0.001))
    ('renyi(alpha=0.5)', 'Cosine(peak=0.001, warmup=0, final=0.0)')
    """
    if isinstance(function, functools.partial):
        return f"{name_of(function.func)}({', '.join(f'{key}={value}' for key, value in function.keywords.items())})"
    if isinstance(function, Cosine | Warmup | Cyclical):
        return repr(function)
    return getattr(function, "__name__", type(function).__name__)


def as_json(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as a run stores them: functions by their names."""
    plain = {key: name_of(value) if callable(value) else value for key, value in settings.items()}
    return {key: value.tolist() if hasattr(value, "tolist") else value for key, value in plain.items()}


class Plan(NamedTuple):
    """The consequences of the arguments of `fit`.

    Attributes:
        lr, beta: schedules.
        full_beta: the KL's weight by which the best weights are chosen: that of the schedule after its warm-up, or of a
            function at the end of the budget. None where it is 1.
        held: whether the objective needs a trace of a held posterior.
        bound: the function that validation measures: the objective, or its `bound` attribute.
        precision, compile: of the steps, with "auto" resolved.
        warmup: steps until both warm-ups have ended, as far as they are known.
        has_minutes: whether the budget has minutes, so that warm-ups end within a quarter of it.
        before: the settings of the resumed run; empty if there is none.
        baseline: of the validation data, see `allegory.evaluation.marginals`; None without them.
        fuse: whether a step may be compiled whole: the objective is known to map tensors, and do nothing else.
        notes: on that choice, to be printed.
        given, valid_given: what is given with the data, on the model's device.
    """

    lr: Schedule
    beta: Schedule
    full_beta: float | Tensor | None
    held: bool
    bound: Callable[..., Tensor]
    precision: str
    compile: bool
    warmup: int
    has_minutes: bool
    before: dict[str, Any]
    baseline: float | None
    fuse: bool
    notes: list[str]
    given: Contexts = ()
    valid_given: Contexts = ()

    def is_warm(self, step: int, done: float) -> bool:
        """Whether both warm-ups have ended.

        Args:
            step: updates so far.
            done: how much of the budget is spent.
        """
        return step >= self.warmup or (self.has_minutes and done >= WARMUP_SHARE)

    def warmed(self, step: int, done: float) -> float:
        """The fraction of the KL's weight that its warm-up had reached at the last step."""
        fraction = Warmup(1.0, warmup_steps(self.beta))
        return (WithinMinutes(fraction) if self.has_minutes else fraction)(step - 1, done)

    def note_on_schedules(self, now: Position, budget: Budget) -> list[str]:
        """What another budget does to the schedules of a resumed training, in a line, if anything.

        Args:
            now: where it goes on.
            budget: what it has from now on.
        """
        limits = [(name, self.before.get(name), getattr(budget, name)) for name in ("epochs", "minutes")]
        changed = [f"{name} {old} -> {new}" for name, old, new in limits if old != new]
        if not now.step or not changed:
            return []
        done = budget.done(now, now.seconds)
        rate, beta = self.lr(now.step, done) * now.lr_scale, self.beta(now.step, done)
        moved = [f"the learning rate goes from {now.lr:.1e} to {rate:.1e}"] if abs(rate - now.lr) > 0.1 * now.lr else []
        if (torch.as_tensor(beta) - torch.as_tensor(now.beta)).abs().max() > 0.1:
            moved.append(f"beta from {now.beta} to {beta}")
        if not moved:
            return []
        return [f"resumed with another budget, {', '.join(changed)}: {', '.join(moved)}, since schedules end with it"]


def plan(
    model: VAE,
    data: Any,
    valid: Any,
    transform: Callable[[Tensor], Tensor] | None,
    settings: dict[str, Any],
    shard: str | None,
    out: str | Path | None,
    resume: bool,
    row_names: Sequence[Any] | None = None,
    given: Any = None,
    valid_given: Any = None,
) -> Plan:
    """Checks everything that can be checked before anything is created; returns the consequences.

    Args:
        model, data, valid, transform, shard, out, resume, row_names, given, valid_given: as in `fit`.
        settings: its other arguments, by name.

    Raises:
        ValueError: an invalid setting, in one line.
    """
    _check_kinds(model, data, valid)
    device = next(model.parameters()).device
    contexts, valid_contexts = _contexts_of(data, valid, given, valid_given, device)
    processes.check_same(
        "fit",
        model=[(name, None if is_lazy(x) else tuple(x.shape)) for name, x in model.state_dict().items()],
        data=getattr(data, "rows", data),
        valid=getattr(valid, "rows", valid),
        given=given,
        valid_given=valid_given,
        **as_json(settings),
    )
    objective, samples, requested = settings["objective"], settings["samples"], dict(settings)
    _check_objective_kind(objective)
    _check_numbers(settings)
    lr = lr_schedule(settings["lr"], settings["lr_warmup"], settings["lr_final"])
    beta = beta_schedule(settings["beta"], settings["kl_warmup"], model.levels)
    seen, seen_given = _check_data(model, data, valid, transform, row_names, contexts, valid_contexts)
    reference = None if valid is None else processes.broadcast(lambda: baseline(model, seen, valid, contexts))
    _check_last_batch(model, data, transform, settings["batch_size"], contexts)
    plain = getattr(objective, "func", objective)
    held, bound = getattr(plain, "held", False), getattr(plain, "bound", objective)
    if shard:
        _check_shard(shard, settings["compile"] is True, held, objective, out)
    if held or getattr(objective, "__module__", None) != elbo.__module__:
        first = take_rows(contexts, slice(2))
        _check_objective(model, objective, held, data, transform, samples, beta(settings["kl_warmup"], 0.0), first)
    before = processes.broadcast(lambda: stored_settings(out) if resume else {})  # the choices measured then
    requested |= {key: before[key] for key in ("precision", "compile") if settings[key] == "auto" and key in before}
    precision, first_note = processes.broadcast(
        lambda: choose_precision(requested["precision"], device, tolerates_bfloat16(model))
    )

    def expected_seconds() -> tuple[float, float]:
        """Of the training uncompiled, and of compiling."""
        trial, x = _training_copy(model), data[: settings["batch_size"]].to(device)
        given = take_rows(contexts, slice(len(x)))
        score = score_function(trial, objective, samples=samples, held=held, precision=precision)
        weight = beta(0, 0.0)
        weight = weight.to(device) if isinstance(weight, Tensor) else weight
        steps = math.ceil(len(data) / settings["batch_size"]) * (settings["epochs"] or math.inf)
        stop_below = (
            WORTHWHILE_SECONDS / steps if processes.world_size() == 1 else math.inf
        )  # several call it once, as often as each other
        with torch.random.fork_rng(), no_validation():
            x = x if transform is None else transform(x.clone())
            seconds = time_call(lambda: score(x, weight, *given).sum().backward(), device, stop_below=stop_below)
            cost = compile_seconds(score(x, weight, *given).sum())
        return processes.all_reduce_max(min(60 * (settings["minutes"] or math.inf), steps * seconds))[0], cost

    if not before and processes.rank() == 0:
        warn_of_scale(model, seen, seen_given)
        warn_of_rounding(model, seen)

    # All processes take part in the measurement, so one of them decides whether there is one.
    open_question = requested["compile"] == "auto" and not shard and processes.broadcast(lambda: has_compiler(device))
    requested["compile"] = requested["compile"] is True or ("auto" if open_question else False)
    seconds, cost = expected_seconds() if open_question else (0.0, 0.0)
    compile, second_note = processes.broadcast(
        lambda: choose_compile(requested["compile"], device, lambda: seconds, cost=cost)
    )
    fuse = compile and not held and getattr(plain, "__module__", None) == elbo.__module__
    warmup, has_minutes = max(warmup_steps(lr), warmup_steps(beta)), settings["minutes"] is not None
    steps = None if settings["epochs"] is None else settings["epochs"] * math.ceil(len(data) / settings["batch_size"])
    full_beta = _full_beta(beta, steps)
    if has_minutes:
        lr, beta = WithinMinutes(lr), WithinMinutes(beta)
    elif steps is not None and warmup > steps:
        _warn_of_warmup(lr, beta, steps)
    notes = [note for note in (first_note, second_note) if note]
    return Plan(
        lr, beta, full_beta, held, bound, precision, compile, warmup, has_minutes, before, reference, fuse, notes,
        contexts, valid_contexts,
    )  # fmt: skip


def _contexts_of(
    data: Any, valid: Any, given: Any, valid_given: Any, device: torch.device
) -> tuple[Contexts, Contexts]:
    """What is given with the training and with the validation data, on the model's device."""
    if valid is None and valid_given is not None:
        raise ValueError("valid_given: there is no valid that it is given with; wanted both, or neither")
    contexts = as_contexts(given, len(data) if data.dim() else None)
    other = () if valid is None else as_contexts(valid_given, len(valid) if valid.dim() else None, "valid_given")
    if valid is not None and len(contexts) != len(other):
        raise ValueError(
            f"given has {len(contexts)} tensors, valid_given {len(other)}: wanted the same for the validation data"
        )
    return tuple(c.detach().to(device) for c in contexts), tuple(c.detach().to(device) for c in other)


def _check_kinds(model: Any, data: Any, valid: Any) -> None:
    """Checks what kind of thing each is, before any is used."""
    check_is_vae(model)
    if torch.is_inference_mode_enabled() or any(p.is_inference() for p in model.parameters() if not is_lazy(p)):
        raise ValueError(
            "model: it was made, or fit was called, under torch.inference_mode(), where nothing has a gradient; wanted "
            "both outside of it"
        )
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError("model: none of its parameters has requires_grad, so there is nothing to train")
    for name, x in {"training data": data, "validation data": valid}.items():
        if x is not None and not isinstance(x, Tensor | Stored):
            raise ValueError(no_tensor(name, x))


def _training_copy(model: VAE) -> VAE:
    """A copy to try, in the modes of the training."""
    trial = copy.deepcopy(model)
    train_mode(trial, frozen_parts(trial))
    return trial


def _check_objective_kind(objective: Any) -> None:
    if not callable(objective):
        known = isinstance(objective, str) and hasattr(objectives, objective)
        name = objective if known else "elbo"
        given = repr(objective) if isinstance(objective, str) else type(objective).__name__
        raise ValueError(f"objective={given}: wanted a function, such as objective=al.{name}")
    error = call_error(objective, None, 1.0)
    if error:
        raise ValueError(
            f"objective {name_of(objective)} cannot be called with (trace, beta): {error}; wanted a function of both, "
            "since fit gives it the weight of the KL: fit(..., beta=4.0)"
        )


def _check_numbers(settings: dict[str, Any]) -> None:
    optional, others = ("epochs", "minutes", "patience"), ("lr_warmup", "kl_warmup", "lr_final", "ema", "weight_decay")
    for name in (*optional, "lr", "clip", "skip", *others):
        value = settings[name]
        if value is None and name in optional:
            continue
        if not callable(value) and (isinstance(value, str) or not hasattr(value, "__float__")):
            raise ValueError(f"{name}={value!r}: wanted a number")
    if settings["epochs"] is not None and settings["epochs"] % 1:
        raise ValueError(f"epochs={settings['epochs']}: wanted a whole number")
    for name, least in {"batch_size": 1, "samples": 1, "seed": -(2**63)}.items():
        value = settings[name]
        if not hasattr(value, "__index__") or not least <= value < 2**63:
            raise ValueError(f"{name}={value!r}: wanted a whole number{', 1 or more' if least == 1 else ''}")
    if settings["epochs"] is None and settings["minutes"] is None:
        raise ValueError("fit needs a budget: epochs, minutes, or both")
    for name in ("epochs", "minutes", "batch_size", "samples", "lr", "clip", "skip", "patience"):
        value = settings[name]
        if value is not None and not callable(value) and not value > 0:
            raise ValueError(f"{name}={value}: wanted a number above zero")
    if not callable(settings["lr"]) and not settings["lr"] < math.inf:
        raise ValueError(f"lr={settings['lr']}: wanted a finite number")
    for name in ("lr_warmup", "kl_warmup", "weight_decay"):
        if not settings[name] >= 0:
            raise ValueError(f"{name}={settings[name]}: wanted a number, at least 0")
    if not 0 <= settings["lr_final"] < math.inf:
        raise ValueError(f"lr_final={settings['lr_final']}: wanted the fraction of lr at the end, at least 0")
    if not 0 <= settings["ema"] < 1:
        raise ValueError(f"ema={settings['ema']}: wanted the fraction kept per step, at least 0 and below 1")
    _check_speed(settings["precision"], settings["compile"])


def _check_speed(precision: Any, compile: Any) -> None:
    if precision not in ("float32", "bfloat16", "auto"):
        raise ValueError(f"precision={precision!r}: wanted 'float32', 'bfloat16' or 'auto'")
    if compile not in (True, False, "auto"):
        raise ValueError(f"compile={compile!r}: wanted True, False or 'auto'")


def _check_last_batch(
    model: VAE, data: Any, transform: Callable[[Tensor], Tensor] | None, batch_size: int, contexts: Contexts = ()
) -> None:
    """Batch normalisation of vectors has no statistics of a single example, which may be the last batch of an epoch, or
    the share that one of several processes has of it.
    """
    several = processes.world_size()

    def leaves_one(size: int) -> bool:
        return any(0 < batch < 2 * several for batch in (min(size, len(data)), len(data) % size))

    if not leaves_one(batch_size) or not any(isinstance(part, _BatchNorm) for part in model.modules()):
        return
    trial = copy.deepcopy(model).train()
    with torch.random.fork_rng():
        x = data[:1] if transform is None else transform(data[:1].clone())
        try:
            with torch.no_grad():
                trial(x.to(next(trial.parameters()).device), given=take_rows(contexts, slice(1)))
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            fits = (size for size in range(batch_size + 1, len(data) + 1) if not leaves_one(size))
            share = "a batch of one" if several == 1 else f"one of {several} processes a single example"
            raise ValueError(
                f"{len(data)} examples in batches of {batch_size} leave {share}, and BatchNorm has no statistics of "
                f"one example; wanted another batch_size, such as {next(fits, 'that of more data')}"
            ) from None


def _check_objective(
    model: VAE,
    objective: Any,
    held: bool,
    data: Any,
    transform: Callable[[Tensor], Tensor] | None,
    samples: int,
    beta: Any,
    contexts: Contexts = (),
) -> None:
    """Tries a custom objective, or one with conditions or settings, on two examples, before a run is created.

    Args:
        model, objective, data, transform, samples: as in `fit`.
        held: whether the objective needs the posterior held.
        beta: a value of it.
        contexts: what is given with the first two.
    """
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(0)
        x = data[:2] if transform is None else transform(data[:2].clone())
        trial, device = _training_copy(model), next(model.parameters()).device
        beta = beta.to(device) if isinstance(beta, Tensor) else beta
        bound = objective(
            trial(x.to(device), samples=samples, held=held, given=contexts, scored=needs_score(objective)), beta
        )
    if not isinstance(bound, Tensor) or bound.shape != x.shape[:1]:
        raise ValueError(
            f"objective {name_of(objective)}: got {tuple(bound.shape) if isinstance(bound, Tensor) else bound!r} for "
            f"{len(x)} examples, wanted (B,), nats per example; average over the particles, not over the examples"
        )
    if not bound.requires_grad:
        raise ValueError(f"objective {name_of(objective)}: its result has no gradient to learn from")


def lr_schedule(lr: Any, warmup: int, final: float) -> Schedule:
    """The learning rate of each step.

    Args:
        lr: a number, for `Cosine`, or a schedule.
        warmup, final: of the cosine; with a schedule they have no effect, and have to be 0.
    """
    if not callable(lr):
        return Cosine(float(lr), warmup, final)
    if warmup or final:
        raise ValueError(f"lr_warmup={warmup}, lr_final={final}: wanted neither of them where lr is a schedule")
    return _Checked("lr", lr, levels=0)


def beta_schedule(beta: Any, warmup: int, levels: int) -> Schedule:
    """The KL's weight at each step: a number, or (T,) one for each level.

    Args:
        beta: a number, or one for each level, for `Warmup`; or a schedule.
        warmup: steps; with a schedule it has no effect, and has to be 0.
        levels: T.
    """
    if callable(beta):
        if warmup:
            raise ValueError(f"kl_warmup={warmup}: wanted none where beta is a schedule")
        return _Checked("beta", beta, levels)
    beta = beta.tolist() if hasattr(beta, "tolist") else beta
    several = isinstance(beta, Sequence) and all(isinstance(value, int | float) for value in beta)
    if not isinstance(beta, int | float) and not several:
        raise ValueError(f"beta={beta!r}: wanted a number, or one for each of {levels} levels")
    values = [beta] if isinstance(beta, int | float) else list(beta)
    if any(not 0 <= value < math.inf for value in values) or (
        not isinstance(beta, int | float) and len(values) != levels
    ):
        each = "" if levels is None else f", or one for each of {levels} levels"
        raise ValueError(f"beta={beta}: wanted a number, at least 0{each}")
    return Warmup(beta, warmup)


class _Checked:
    """A schedule whose every value is checked: a float, or of levels a tensor of one for each."""

    def __init__(self, name: str, schedule: Schedule, levels: int) -> None:
        self.name, self.schedule, self.levels = name, schedule, levels
        self(0, 0.0)

    def __call__(self, step: int, done: float) -> Any:
        value = self.schedule(step, done)
        try:
            values = torch.as_tensor(value, device="cpu")
            fits = values.shape in ((), (self.levels,)) and bool((torch.isfinite(values) & (values >= 0)).all())
        except (TypeError, ValueError, RuntimeError):
            fits = False
        if not fits:
            each = f", or one for each of {self.levels} levels" if self.levels else ""
            raise ValueError(
                f"{self.name}: the schedule gives {value!r} at step {step}; wanted a number, at least 0{each}"
            )
        return values.to(torch.get_default_dtype()) if values.dim() else float(values)


def _full_beta(schedule: Schedule, steps: int | None) -> float | Tensor | None:
    """The KL's weight that a training is for: after its warm-up, or of a function at the end of the budget; None for 1.

    Args:
        schedule: of beta.
        steps: of the whole training; None if unknown.
    """
    known = getattr(schedule, "schedule", schedule)
    value = known.value if isinstance(known, Warmup | Cyclical) else schedule((steps or 2**40) - 1, 1.0)
    value = value if isinstance(value, int | float | Tensor) else torch.tensor(value)
    return None if bool((torch.as_tensor(value) == 1).all()) else value


def _warn_of_warmup(lr: Schedule, beta: Schedule, steps: int) -> None:
    parts = [("lr_warmup", warmup_steps(lr), "learning rate"), ("kl_warmup", warmup_steps(beta), "KL")]
    long = [
        f"{name}={warmup} (the {what} reaches {steps / warmup:.0%} of its value)"
        for name, warmup, what in parts
        if warmup > steps
    ]
    if processes.rank() == 0:
        warnings.warn(
            f"{' and '.join(long)} of a training of {steps} steps: no weights count as the best on validation data "
            "before a warm-up has ended, so the last are kept; train longer, or warm up for fewer steps",
            stacklevel=6,
        )


def _check_shard(shard: str, compile: bool, held: bool, objective: Any, out: Any) -> None:
    """Checks the settings of a sharded training."""
    if shard not in ("cpu", "cuda"):
        raise ValueError(f"shard={shard!r}: wanted 'cpu' or 'cuda', the device for the parts of the model")
    if out is None:
        raise ValueError("shard: wanted out, a run directory, since the model itself stays sharded")
    if compile:
        raise ValueError("shard: a sharded model is not compiled; leave out one of the two")
    if held:
        raise ValueError(
            f"shard: {name_of(objective)} holds the posterior's weights, which are sharded; use elbo or iwae"
        )
    if processes.world_size() == 1:
        raise ValueError("shard: there is one process, which has to hold the whole model; start several with torchrun")


def _check_data(
    model: VAE,
    data: Any,
    valid: Any,
    transform: Callable[[Tensor], Tensor] | None,
    row_names: Sequence[Any] | None,
    contexts: Contexts,
    valid_contexts: Contexts,
) -> tuple[Any, Contexts]:
    """Checks that the model can score the data, after the transform if there is one; returns the training data as the
    model sees them, of data on disk with a transform some, and what is given with them.
    """
    if data.dim() < 1 or len(data) < 2:
        raise ValueError(f"training data: got shape {tuple(data.shape)}, wanted at least two examples, (N, *event)")
    device = next(model.parameters()).device
    seen, seen_given = data, contexts
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        if transform is None:
            model.check(data.to(device), "training data", row_names, contexts)
        else:
            samples, chosen = [], []
            for rows, places, part in _chunks(data, row_names):
                changed = _transformed(transform, part)
                model.check(changed.to(device), "training data", rows, take_rows(contexts, places))
                step = max(1, len(data) // BASELINE_EXAMPLES)
                samples.append(changed[::step])
                chosen.append(places[::step])
            seen, seen_given = torch.cat(samples), take_rows(contexts, torch.cat(chosen))
        if valid is not None:
            model.check(valid.to(device), "validation data", given=valid_contexts)
    return seen, seen_given


def _chunks(data: Any, row_names: Sequence[Any] | None) -> Iterator[tuple[Any, Tensor, Tensor]]:
    """The data in parts: what their rows are called, their places among the data, and themselves."""
    if isinstance(data, Tensor):
        yield row_names, torch.arange(len(data)), data.clone()
        return
    order, start = data.in_file_order(), 0
    for rows, part in data.chunks():
        yield rows, order[start : start + len(part)], part
        start += len(part)


def _transformed(transform: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A transform's result, which has to be as many examples: a bound is averaged over those that were drawn."""
    if not callable(transform):
        raise ValueError(f"transform={transform!r}: wanted a function, such as allegory.data.binarize")
    changed = transform(x)
    if not isinstance(changed, Tensor):
        raise ValueError(f"transform: got {type(changed).__name__} for a batch of examples, wanted a tensor")
    if len(changed) != len(x):
        raise ValueError(
            f"transform: got {len(changed)} examples for {len(x)}, wanted as many, each in the place of one; leave "
            "some out, or add others, before fit"
        )
    return changed
