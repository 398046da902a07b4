"""The floors point one way, imports have no effects, and public names are documented."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import allegory

PACKAGE = Path(allegory.__file__).parent
# What each wing may import besides itself: what stands below it.
RUNTIME, CORE = {"runtime", "version"}, {
    "support", "distributions", "positivity", "families", "conditional", "ladder", "trace", "checks", "notation",
    "model", "objectives", "units", "networks", "priors", "activations", "likelihoods", "initialization",
    "convolutions", "architectures", "quantiles", "missingness", "legacy", "given", "draws", "held", "gaps",
    "intervals", "family", "columnar", "exposure", "marginal", "trees", "factors", "discrete",
    "mixtures", "elements", "chain", "diffusion", "masked", "perceptrons",
}  # fmt: skip
BELOW = {
    "version": set(),
    "moved": set(),
    "runtime": {"version"},
    **dict.fromkeys(CORE, RUNTIME | CORE),
    "data": RUNTIME | {"tabular"},
    "tabular": RUNTIME | CORE,
    "compression": RUNTIME | CORE | {"tabular"},
    "evaluation": RUNTIME | CORE,
    "sharing": RUNTIME | CORE,
    "training": RUNTIME | CORE | {"data", "evaluation", "sharing"},
    "estimators": RUNTIME | CORE | {"tabular", "evaluation", "training"},
    "views": RUNTIME | CORE | {"compression", "data", "evaluation", "sharing", "tabular", "training"},
    "command": RUNTIME | CORE | {"compression", "data", "evaluation", "sharing", "tabular", "training", "views"},
    "__main__": {"command"},
}
# The order within the core.
MAY_IMPORT = {
    "support": set(),
    "positivity": set(),
    "distributions": {"support"},
    "gaps": set(),
    "intervals": {"distributions", "gaps"},
    "family": {"distributions", "positivity"},
    "quantiles": {"distributions", "intervals"},
    "missingness": {"distributions", "family", "gaps", "intervals", "positivity", "quantiles"},
    "trees": {"distributions", "family", "support"},
    "discrete": {"family"},
    "columnar": {"discrete", "family", "gaps", "intervals", "missingness", "positivity", "trees"},
    "families": {"columnar", "discrete", "family", "missingness", "positivity", "trees"},
    "exposure": {"columnar", "distributions", "gaps", "intervals", "missingness"},
    "conditional": {"exposure"},
    "ladder": {"discrete", "distributions", "draws"},
    "networks": {"intervals"},
    "notation": set(),
    "units": set(),
    "activations": set(),
    "trace": {"distributions"},
    "mixtures": {"intervals", "quantiles"},
    "checks": {"conditional", "gaps", "support"},
    "given": {"networks", "units"},
    "draws": {"checks", "discrete", "distributions"},
    "held": {"checks", "given"},
    "model": {
        "checks", "conditional", "distributions", "draws", "given", "held", "ladder", "notation", "trace",
    },
    "elements": {"distributions", "families", "family", "networks", "positivity"},
    "chain": {"checks", "given", "ladder", "model", "trace"},
    "diffusion": {"chain", "conditional", "distributions", "elements", "ladder", "positivity"},
    "masked": {"chain", "families", "family", "given", "networks", "trace"},
    "objectives": {"trace"},
    "priors": {
        "conditional", "distributions", "draws", "families", "ladder", "marginal", "networks", "positivity", "units",
    },
    "factors": {"columnar", "family", "likelihoods", "positivity"},
    "likelihoods": {"columnar", "families", "family", "missingness", "networks", "trees"},
    "marginal": {"columnar", "family", "gaps", "intervals", "missingness", "positivity", "units"},
    "initialization": {"columnar", "family", "marginal", "networks", "trees", "units"},
    "convolutions": {"conditional", "families", "given", "ladder", "networks"},
    "perceptrons": {"conditional", "family", "given", "ladder", "networks"},
    "architectures": {
        "activations", "columnar", "conditional", "convolutions", "diffusion", "discrete", "elements", "exposure",
        "factors", "families", "given", "initialization", "ladder", "likelihoods", "masked", "model", "networks",
        "perceptrons", "priors", "support", "trees",
    },
    "legacy": {"family", "networks", "priors"},
}  # fmt: skip
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
WINGS = sorted(path.parent for path in PACKAGE.glob("*/__init__.py"))


def name_of(path):
    """allegory.wing.room, of a file."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            if node.module == "allegory":
                yield from (f"allegory.{alias.name}" for alias in node.names)


def inside(path):
    """The parts of the package that a file imports: wings, and modules of the core."""
    modules = {name.split(".")[1] for name in imports(path) if name and name.startswith("allegory.")}
    return {name for name in modules if (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").exists()}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_floors_point_one_way(path):
    here = name_of(path).split(".")[1]
    assert inside(path) - {here} <= BELOW[here]
    if here in MAY_IMPORT:
        assert inside(path) & CORE <= MAY_IMPORT[here]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_nothing_asks_the_package_that_stands_above_it(path):
    top = {name for name in imports(path) if name == "allegory"}
    assert not top or name_of(path).split(".")[1] == "command" or inside(path)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "allegory":
            rooms = {alias.name for alias in node.names}
            known = {part.stem for part in PACKAGE.iterdir()}
            assert rooms <= known or name_of(path).split(".")[1] == "command"


@pytest.mark.parametrize("wing", WINGS, ids=name_of)
def test_a_wing_hands_names_on_and_does_nothing_else(wing):
    for node in ast.parse((wing / "__init__.py").read_text()).body:
        handed = isinstance(node, ast.ImportFrom) and node.module.startswith(name_of(wing))
        listed = isinstance(node, ast.Assign) and [target.id for target in node.targets] == ["__all__"]
        assert handed or listed or isinstance(node, ast.Expr)  # the docstring


def test_a_module_and_a_function_never_share_a_name():
    rooms = {path.stem for path in MODULES} | {wing.name for wing in WINGS}
    names = {name for name, thing in vars(allegory).items() if callable(thing)} | {
        name for name in allegory.__all__ if callable(getattr(allegory, name))
    }
    for wing in WINGS:
        module = importlib.import_module(name_of(wing))
        names |= {name for name in getattr(module, "__all__", ()) if inspect.isroutine(getattr(module, name))}
    assert not rooms & names


@pytest.mark.parametrize("name", sorted(CORE))
def test_the_core_needs_torch_alone(name):
    outside = {module.split(".")[0] for module in imports(PACKAGE / f"{name}.py")}
    optional = {"zuko"} if name == "priors" else set()  # imported where it is asked for
    assert outside - set(sys.stdlib_module_names) <= {"torch", "allegory"} | optional


def test_importing_has_no_effect_and_needs_no_optional_package():
    code = (
        "import sys, torch\n"
        "from torch.distributions import Distribution\n"
        "state, flag = torch.get_rng_state(), Distribution._validate_args\n"
        "threads, dtype = torch.get_num_threads(), torch.get_default_dtype()\n"
        "before = set(sys.modules)\n"
        "import allegory\n"
        "assert torch.equal(state, torch.get_rng_state()) and flag == Distribution._validate_args\n"
        "assert (threads, dtype) == (torch.get_num_threads(), torch.get_default_dtype())\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "optional = {'sklearn', 'matplotlib', 'PIL', 'pooch', 'rich', 'scipy', 'zuko'}\n"
        "optional |= {'tensorboard', 'wandb', 'IPython', 'onnx', 'onnxruntime', 'huggingface_hub'}\n"
        "print(sorted(new & optional))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert done.stderr == ""


def test_asking_what_can_be_asked_does_not_wait_for_torch():
    code = "import sys; from allegory.command import main; import allegory; assert dir(allegory)\n"
    code += "codes = [main(['train', '--help']), main(['--version']), main(['train', '--nothing'])]\n"
    code += "print(codes, 'torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[0, 0, 2] False False"


def test_torch_is_all_that_importing_waits_for():
    code = "import sys, allegory; [getattr(allegory, name) for name in allegory.__all__]\n"
    code += "print('torch._dynamo' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_the_names_of_the_package_are_those_it_fetches():
    fetched = {name for names in allegory._MODULES.values() for name in names}
    assert (
        {*fetched, "architectures", "families", "networks", "__version__"}
        == set(allegory.__all__)
        <= set(dir(allegory))
    )
    with pytest.raises(AttributeError, match="module 'allegory' has no attribute 'gan'"):
        _ = allegory.gan


def test_every_name_that_the_readme_uses_is_there_from_the_start():
    names = sorted(set(re.findall(r"\bal\.([a-z_]+)", (PACKAGE.parent / "README.md").read_text())))
    assert "priors" in names
    code = (  # the package anew for each, torch once
        "import importlib, sys, torch\n"
        "for name in sys.argv[1:]:\n"
        "    for module in [name for name in sys.modules if name.split('.')[0] == 'allegory']:\n"
        "        del sys.modules[module]\n"
        "    getattr(importlib.import_module('allegory'), name)\n"
    )
    subprocess.run([sys.executable, "-c", code, *(set(names) - set(allegory.__all__))], check=True)


def test_the_command_knows_every_likelihood():
    from allegory.architectures import LIKELIHOODS
    from allegory.command.options import LIKELIHOODS as KNOWN

    assert ("auto", *LIKELIHOODS, "columns") == KNOWN


def test_the_command_knows_every_kind_of_column_and_every_table():
    from allegory.command.options import KINDS, TABLES
    from allegory.data.tables import SUFFIXES
    from allegory.tabular.columns import KINDS as KNOWN

    assert (KINDS, TABLES) == (KNOWN, SUFFIXES)


def test_the_command_knows_every_graph():
    from allegory.command.options import GRAPHS
    from allegory.sharing.graph import WHAT

    assert GRAPHS == WHAT


def public():
    for path in MODULES:
        if path.stem not in ("__main__", "__init__", "version"):
            module = importlib.import_module(name_of(path))
            yield name_of(path), module
            for name in module.__all__:
                thing = getattr(module, name)
                if inspect.isfunction(thing) or inspect.isclass(thing):
                    yield f"{name_of(path)}.{name}", thing
                if inspect.isclass(thing):
                    for method, value in vars(thing).items():
                        value = value.fget if isinstance(value, property) else value
                        if not method.startswith("_") and inspect.isfunction(value) and method != "forward":
                            yield f"{name_of(path)}.{name}.{method}", value


INHERITED = {
    "enumerate_support",
    "arg_constraints",
    "entropy",
    "rsample",
    "expand",
    "support",
    "log_prob",
    "sample",
    "mean",
    "mode",
    "variance",
    "extra_repr",
    "law",
}


@pytest.mark.parametrize(("name", "thing"), list(public()), ids=[name for name, _ in public()])
def test_every_public_name_is_documented(name, thing):
    if name.split(".")[-1] not in INHERITED:
        assert thing.__doc__, name
        assert len(thing.__doc__) > 20


def test_every_module_opens_with_words():
    for path in [*MODULES, PACKAGE / "__init__.py"]:
        assert ast.get_docstring(ast.parse(path.read_text())), path.stem
