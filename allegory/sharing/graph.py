r"""Models as ONNX graphs, for where there is no Python, or no torch.

    encode      x, noise     z_t, and mean and standard deviation of q(z_t | ...)                     VAE.encode
    decode      z            mean and parameters of p(x | s_1)                                        VAE.decode
    generate    noise        z_t, and mean and parameters of p(x | s_1)                               VAE.generate
    score       x, noise     log_px, log_pz, log_qz, of which every bound is a function               Trace

A graph draws nothing: noise is an input, eps_t ~ N(0, I) of a normal level, z_t = mu + sigma eps_t, and u_t ~ U[0, 1)
of a discrete one, see `allegory.draws.from_noise`. So L_K can be computed anywhere,

    L_K = log 1/K sum_k w_k,    log w = log_px + sum_t (log_pz[t] - log_qz[t]),    from K particles of noise,

and with zeros for noise the encoder gives means. Numbers of examples and of particles are free. What a runtime would
compute otherwise is written so that it does not, see `allegory.sharing.arithmetic`; and whatever is exported is first
run, by onnxruntime where that is installed, on other numbers of examples and particles than those that it was traced
with, also where latents are far out, and has to give the model's numbers.

Shapes: S particles, B examples, T levels; x is (B, *event), eps_t, u_t and z_t (S, B, *event_t); to decode and to
generate (B, *event_t).
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Size, Tensor, nn
from torch.distributions import Categorical, Distribution, Independent

from allegory.chain import FixedChain, at_levels
from allegory.draws import draw_to, from_noise, law_of, noise_of
from allegory.gaps import takes_gaps
from allegory.given import Contexts, Given, as_contexts
from allegory.model import VAE, check_is_vae
from allegory.runtime.messages import first_line
from allegory.runtime.modes import forked_rng, no_validation
from allegory.runtime.storage import GENERATOR, write_atomically
from allegory.sharing.arithmetic import DECOMPOSITIONS
from allegory.support import rows_in_support
from allegory.version import __version__

__all__ = ["WHAT", "Exported", "export", "weights_digest"]

WHAT = ("encode", "decode", "generate", "score")
"""What a graph can do; see the module."""

MAX_LEVELS = 10  # of a diffusion: a graph has its network so often
MAX_BYTES = 2**31 - 2**20  # of weights: a file of this format holds no more
FAR = 6.0  # standard deviations, of noise and latents in a second comparison
TRACED, COMPARED = (2, 3), (4, 5)  # S, B
CLOSE = {torch.float32: 1e-4, torch.float64: 1e-8}  # relative to the size of a number
ROUNDINGS = 10  # as many as the model has itself, in its type, a graph may differ by
NOISE = ("normal", "uniform")


class Exported(NamedTuple):
    """What `export` returns.

    Attributes:
        path: the file.
        inputs, outputs: shapes by name; what is free is a word.
        difference: the largest between onnxruntime's numbers and the model's, of all outputs, relative to their
            size; None where onnxruntime is not installed, so that nothing was compared.
    """

    path: Path
    inputs: dict[str, list[int | str]]
    outputs: dict[str, list[int | str]]
    difference: float | None


def export(
    model: VAE, path: str | Path, what: str = "encode", *, given: Given = None, about: dict[str, Any] | None = None
) -> Exported:
    """Writes a model as an ONNX graph, with weights and metadata, in eval mode, in the type of its parameters.

    Args:
        model: any VAE whose draws are made of noise: levels that are normal, of two values, or one-hot.
        path: the file, .onnx.
        what: the graph does: "encode", "decode", "generate" or "score"; see the module.
        given: for a conditional model that `allegory.architectures` did not make: what is given with a few examples,
            (n, *context), or several.
        about: more JSON for the metadata.

    Returns:
        The names and shapes of inputs and outputs, and how far the graph is from the model.

    Raises:
        ValueError: packages that are missing (pip install "allegory[export]"); a model that has no such graph; a graph
            that does not give the model's numbers, which is not written.

    >>> model = al.architectures.mlp((3,), "bernoulli", latent=[2], hidden=[4])
    >>> al.export(model, "model.onnx", "decode").inputs                 # doctest: +SKIP
    {'z_1': ['batch', 2]}
    """
    if what not in WHAT:
        raise ValueError(f"what={what!r}: wanted one of {', '.join(WHAT)}")
    if Path(path).suffix.lower() != ".onnx":
        raise ValueError(f"{path}: wanted a name that ends in .onnx")
    check_is_vae(model)
    model = getattr(model, "_orig_mod", model)
    at_levels(model, None)
    if isinstance(model, FixedChain) and len(model.encoders) > MAX_LEVELS:
        raise ValueError(
            f"a graph has the network of a diffusion once for each level, and {len(model.encoders)} are too many; "
            f"export model.with_levels(n) with at most {MAX_LEVELS}"
        )
    size = sum(p.numel() * p.element_size() for p in (*model.parameters(), *model.buffers()))
    if size > MAX_BYTES:
        raise ValueError(f"the weights have {size / 2**30:.1f} GiB, and an .onnx file holds 2 at most")
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        raise ValueError(f"to export, install {' and '.join(missing)}: pip install 'allegory[export]'")
    with forked_rng(model), torch.no_grad(), no_validation():
        graph = _Graph(copy.deepcopy(model).cpu().eval(), what, given)
        proto = _traced(graph)
        proto.producer_name, proto.producer_version = GENERATOR, __version__
        for key, value in _metadata(graph.model, what, about or {}).items():
            proto.metadata_props.add(key=key, value=value)
        serialized = proto.SerializeToString()
        difference = _largest_difference(serialized, graph) if find_spec("onnxruntime") else None
    write_atomically(Path(path), serialized)
    inputs, outputs = ({end.name: _shape(end) for end in ends} for ends in (proto.graph.input, proto.graph.output))
    return Exported(Path(path), inputs, outputs, difference)


class _Graph(nn.Module):
    """A model as a function from tensors to tensors, both by name.

    Attributes:
        inputs: what each is, and the shape of its part of one example.
    """

    def __init__(self, model: VAE, what: str, given: Given = None) -> None:
        super().__init__()
        self.model, self.what = model, what
        self.like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0)).new_empty(0)
        self.given = _example_given(model, given, self.like)
        x = self._draw_x(TRACED[1])
        contexts = self._rows_given(TRACED[1])
        latents, q = model._infer(x, TRACED[0], None, contexts)
        above = latents if model.states is not None else latents[:1]
        self.inputs: dict[str, tuple[str, Size]] = {}
        if what in ("encode", "score"):
            self.inputs["x"] = "x", x.shape[1:]
        if what == "decode":
            self.inputs |= {f"z_{t}": ("z", z.shape[2:]) for t, z in enumerate(above, start=1)}
        else:
            laws = model._generate_down(lambda t, p, state: draw_to(p, TRACED[1:]), contexts)[1]
            named = enumerate(laws if what == "generate" else q, start=1)
            self.inputs |= dict(_noise_input(t, law, what) for t, law in named)
        names = ["given"] if len(self.given) == 1 else [f"given_{i}" for i in range(1, len(self.given) + 1)]
        self.inputs |= {name: ("given", c.shape[1:]) for name, c in zip(names, self.given, strict=True)}
        self.outputs = list(self.named(*self.example(*TRACED)))

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.named(*tensors).values())

    def named(self, *tensors: Tensor) -> dict[str, Tensor]:
        """The outputs, from the inputs in their order."""
        kinds: dict[str, list[Tensor]] = {}
        for (kind, _), value in zip(self.inputs.values(), tensors, strict=True):
            kinds.setdefault("noise" if kind in NOISE else kind, []).append(value)
        contexts, noise = tuple(kinds.get("given", ())), kinds.get("noise", [])
        if self.what == "decode":
            z = kinds["z"]
            *_, seen = self.model._generate_down(lambda t, p, state: z[t - 1], contexts, len(z))
            return _of_x(law_of(self.model.decoders[0], *seen))
        if self.what == "generate":
            return self._generate(noise, contexts)
        (x,), samples = kinds["x"], noise[0].shape[0]

        def draw(t: int, q: Distribution, p: Distribution | None) -> Tensor:
            return from_noise(q, noise[t - 1], samples, t)

        if self.what == "score":
            trace: Any = self.model._trace(x, samples, draw, contexts)
            log_px = trace.log_px.masked_fill(~rows_in_support(trace.p[0], x), torch.nan)
            return {"log_px": log_px, "log_pz": trace.log_pz, "log_qz": trace.log_qz}
        latents, q = self.model._infer(x, samples, draw, contexts)
        found: dict[str, Tensor] = {}
        for t, (drawn, law) in enumerate(zip(latents, q, strict=True), start=1):
            found |= {f"z_{t}": drawn, f"z_{t}_mean": law.mean, f"z_{t}_std": law.stddev}
        return found

    def _generate(self, noise: Sequence[Tensor], contexts: Contexts) -> dict[str, Tensor]:
        batch = noise[0].shape[:1]

        def choose(t: int, p: Distribution, state: Tensor | None) -> Tensor:
            return from_noise(p if p.batch_shape else p.expand(batch), noise[t - 1][None], 1, t)[0]

        latents, _, seen = self.model._generate_down(choose, contexts)
        return {f"z_{t}": z for t, z in enumerate(latents, start=1)} | _of_x(law_of(self.model.decoders[0], *seen))

    def free(self, kind: str) -> tuple[str, ...]:
        """The leading dimensions of an input, which are free."""
        return ("samples", "batch") if kind in NOISE and self.what != "generate" else ("batch",)

    def example(self, samples: int, batch: int, far: float = 1.0) -> tuple[Tensor, ...]:
        """Inputs, where latents and normal noise are `far` standard deviations wide, and x has gaps where it may."""
        sizes, made = {"samples": samples, "batch": batch}, []
        given = iter(self._rows_given(batch))
        for kind, shape in self.inputs.values():
            size = (*(sizes[name] for name in self.free(kind)), *shape)
            if kind == "x":
                x = self._draw_x(batch)
                made.append(x.masked_fill(torch.rand_like(x) < 1 / 3, torch.nan) if self.gaps and far > 1 else x)
            elif kind == "given":
                made.append(next(given))
            else:
                made.append(
                    torch.rand(size).to(self.like) if kind == "uniform" else far * torch.randn(size).to(self.like)
                )
        return tuple(made)

    def _draw_x(self, batch: int) -> Tensor:
        """(B, *event) from the model, and whether it may have gaps."""
        law = self.model.generate(batch, given=self._rows_given(batch) or None)
        self.gaps = takes_gaps(law)
        return law.sample().to(self.like)

    def _rows_given(self, batch: int) -> Contexts:
        return tuple(c[torch.arange(batch) % len(c)] for c in self.given)


def _noise_input(t: int, law: Distribution, what: str) -> tuple[str, tuple[str, Size]]:
    """The input of the noise of z_t: its name, what it is, and the shape of one event."""
    kind = noise_of(law)
    if kind is None:
        base: Any = law.base_dist if isinstance(law, Independent) else law
        of = f"p(z_{t} | ...)" if what == "generate" else f"q(z_{t} | ...)"
        instead = '; export "decode", which reads z' if what == "generate" else ""
        raise ValueError(f"{what}: {of} is {type(base).__name__}, whose draws no single noise makes{instead}")
    return f"{'eps' if kind[0] == 'normal' else 'u'}_{t}", kind


def _of_x(law: Any) -> dict[str, Tensor]:
    """The mean of p(x | s_1), of categories their places as numbers, and of independent elements the parameters."""
    base = law.base_dist if isinstance(law, Independent) else law
    found: dict[str, Tensor] = {}
    with suppress(NotImplementedError):
        found["x_mean"] = _expected(base)
    known = [name for name in base.arg_constraints if isinstance(vars(base).get(name), Tensor)]
    known = [name for name in known if name != "probs" or "logits" not in known]
    return found | {f"x_{name}": getattr(base, name) for name in known}


def _expected(base: Any) -> Tensor:
    if not isinstance(base, Categorical):
        return base.mean
    places = torch.arange(base.logits.shape[-1], dtype=base.logits.dtype)
    return (base.logits.softmax(-1) * places).sum(-1) + getattr(base, "lowest", 0)


def _example_given(model: VAE, given: Given, like: Tensor) -> Contexts:
    """What is given with a few examples."""
    if given is not None:
        return tuple(c.to(like) if c.is_floating_point() else c.cpu() for c in as_contexts(given))
    read = (model.config or {}).get("given")
    return () if read is None else (torch.ones(1, *read).to(like),)


def _traced(graph: _Graph) -> Any:
    """The graph, in the format of ONNX, with the names of inputs, outputs and free dimensions."""
    example = graph.example(*TRACED)
    free = {name: torch.export.Dim(name) for name in ("samples", "batch")}
    shapes = tuple({i: free[name] for i, name in enumerate(graph.free(kind))} for kind, _ in graph.inputs.values())
    with _quiet():
        try:
            program = torch.export.export(graph, example, dynamic_shapes=(shapes,), strict=False)
            program = program.run_decompositions(DECOMPOSITIONS)
            made: Any = torch.onnx.export(
                program, input_names=list(graph.inputs), output_names=graph.outputs, verbose=False
            )
        except Exception as error:  # of torch's exporter, of any kind
            raise ValueError(f"{graph.what}: torch cannot export this model: {_reason(error)}") from None
    proto = made.model_proto
    ends = [(proto.graph.input[i], graph.free(kind)) for i, (kind, _) in enumerate(graph.inputs.values())]
    symbols = {end.type.tensor_type.shape.dim[i].dim_param: name for end, names in ends for i, name in enumerate(names)}
    if "" in symbols or len(set(symbols.values())) < len(symbols):
        raise ValueError(
            f"{graph.what}: a network of this model fixes the number of examples or of particles; wanted shapes that "
            "are read of its input, such as x.shape[0] and no len(x)"
        )
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = re.sub(r"\w+", lambda m: symbols.get(m[0], m[0]), dim.dim_param)
    return proto


def _reason(error: Any) -> str:
    """The innermost cause, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = re.sub(r"\x1b\[\d+m", "", str(error))
    if "specialized it to be a constant" in text:
        return "one of its networks fixes the number of examples or of particles, as len(x) does; wanted x.shape[0]"
    return first_line(type(error)(text)) if text.strip() else type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter tells its own developers."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _metadata(model: VAE, what: str, about: dict[str, Any]) -> dict[str, str]:
    """What the file says of itself: a text for each key, JSON where it is more than a word."""
    described = model.config or {}
    said = {
        "allegory": __version__,
        "torch": torch.__version__,
        "what": what,
        "levels": len(model.encoders),
        "likelihood": described.get(
            "likelihood", type(getattr(model.decoders[0], "family", model.decoders[0])).__name__
        ),
        "model": described,
        "weights_blake2b": weights_digest(model),
        **about,
    }
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in said.items()}


def weights_digest(model: nn.Module) -> str:
    """The BLAKE2b of all tensors that a model stores, their names, types, shapes and values; 32 bytes, hexadecimal."""
    digest = hashlib.blake2b(digest_size=32)
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)};".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _largest_difference(serialized: bytes, graph: _Graph) -> float:
    """Between what onnxruntime and the model compute of the same, relative to the size of the numbers.

    Raises:
        ValueError: it is more than rounding, of which the model in float64 shows how much there is.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    exact = copy.deepcopy(graph).double()
    largest = 0.0
    for far in (1.0, FAR):
        inputs = graph.example(*COMPARED, far)
        feeds = {name: value.numpy() for name, value in zip(graph.inputs, inputs, strict=True)}
        try:
            session = onnxruntime.InferenceSession(serialized, options, providers=["CPUExecutionProvider"])
            read = [end.name for end in session.get_inputs()]
            found = session.run(graph.outputs, {name: feeds[name] for name in read})
        except Exception as error:  # of the runtime, of any kind
            raise ValueError(f"{graph.what}: onnxruntime cannot run this graph: {first_line(error)}") from None
        known_inputs = [value.double() for value in inputs]
        each = zip(graph.outputs, map(torch.from_numpy, found), graph(*inputs), exact(*known_inputs), strict=True)
        for name, got, wanted, known in each:
            rounding = (wanted.double() - known.double()).abs().nan_to_num(0, 0).max().item()
            apart = _difference(got, wanted, ROUNDINGS * rounding)
            if not apart <= CLOSE[graph.like.dtype]:
                raise ValueError(
                    f"{graph.what}: the graph's {name} is not the model's, by {apart:.2g} of its size, so that it is "
                    "not written; try float64, model.double()"
                )
            largest = max(largest, _difference(got, wanted))
    return largest


def _difference(got: Tensor, wanted: Tensor, allowed: float = 0.0) -> float:
    """The largest beyond what is allowed, relative to the size of the numbers; infinite where the shapes, or the places
    of NaN and of infinities, are not the same.
    """
    if got.shape != wanted.shape:
        return math.inf
    got, wanted = got.double(), wanted.double()
    finite = wanted.isfinite()
    gap = torch.where(finite, ((got - wanted).abs() - allowed).clamp(min=0) / (1 + wanted.abs()), 0.0)
    same = torch.where(wanted.isnan(), got.isnan(), finite | (got == wanted))
    return float(gap.nan_to_num(math.inf).max()) if bool(same.all()) else math.inf


def _shape(end: Any) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in end.type.tensor_type.shape.dim]
