"""The layers point one way, imports have no effects, and public names are documented."""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import allegory

PACKAGE = Path(allegory.__file__).parent
MAY_IMPORT = {
    "distributions": {"processes"},
    "families": {"distributions"},
    "conditional": set(),
    "ladder": set(),
    "priors": {"distributions", "families", "ladder"},
    "model": {"distributions", "ladder"},
    "objectives": {"model", "processes"},
    "networks": set(),
    "architectures": {"families", "conditional", "ladder", "model", "networks", "priors"},
    "processes": set(),
    "sharding": {"conditional", "ladder", "model", "networks", "processes"},
    "memory": set(),
    "evaluation": {"memory", "model", "processes"},
    "annealing": {"evaluation", "model"},
    "diagnosis": {"evaluation", "ladder", "model"},
    "stored": {"memory"},
    "files": {"stored"},
    "checkpoint": {"architectures", "files", "model"},
    "progress": set(),
    "trackers": set(),
    "train": {
        "checkpoint",
        "evaluation",
        "files",
        "memory",
        "model",
        "objectives",
        "processes",
        "progress",
        "sharding",
        "stored",
    },
    "cave": set(),
    "builtin": {"cave", "files", "stored"},
    "data": {"builtin", "files", "stored"},
    "figures": {"files"},
    "demo": {"architectures", "checkpoint", "data", "evaluation", "figures", "model", "report", "tables", "train"},
    "options": set(),
    "command": {
        "options",
        "architectures",
        "builtin",
        "checkpoint",
        "data",
        "demo",
        "evaluation",
        "figures",
        "files",
        "model",
        "objectives",
        "processes",
        "report",
        "runs",
        "tables",
        "trackers",
        "train",
    },
    "runs": {"checkpoint"},
    "plots": set(),
    "tables": set(),
    "report": {"checkpoint", "diagnosis", "evaluation", "figures", "files", "model", "plots", "runs"},
    "__main__": {"command"},
}
CORE = (
    "distributions",
    "families",
    "conditional",
    "ladder",
    "model",
    "objectives",
    "networks",
    "priors",
    "architectures",
    "processes",
    "sharding",
    "evaluation",
    "annealing",
    "diagnosis",
)


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            if node.module == "allegory":
                yield from (f"allegory.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.stem)
def test_dependencies_go_one_way(path):
    if path.stem == "__init__":
        return
    modules = {name.split(".")[1] for name in imports(path) if name.startswith("allegory.")}
    inside = {module for module in modules if (PACKAGE / f"{module}.py").exists()}
    assert inside <= MAY_IMPORT[path.stem]


@pytest.mark.parametrize("name", CORE)
def test_the_core_needs_torch_alone(name):
    outside = {module.split(".")[0] for module in imports(PACKAGE / f"{name}.py")}
    optional = {"zuko"} if name == "architectures" else set()  # imported where it is asked for
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
        "optional |= {'tensorboard', 'wandb', 'IPython'}\n"
        "print(sorted(new & optional))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert done.stderr == ""


def test_asking_what_can_be_asked_does_not_wait_for_torch():
    code = "import sys; from allegory.command import main; import allegory; assert dir(allegory)\n"
    code += "try: main(['train', '--help'])\nexcept SystemExit: print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False False"


def test_torch_is_all_that_importing_waits_for():
    code = "import sys, allegory; [getattr(allegory, name) for name in allegory.__all__]\n"
    code += "print('torch._dynamo' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_the_names_of_the_package_are_those_it_fetches():
    fetched = {name for names in allegory._MODULES.values() for name in names}
    assert {*fetched, "architectures", "families", "networks"} == set(allegory.__all__) <= set(dir(allegory))
    with pytest.raises(AttributeError, match="module 'allegory' has no attribute 'gan'"):
        _ = allegory.gan


def test_every_name_that_the_readme_uses_is_there_from_the_start():
    names = sorted(set(re.findall(r"\bal\.([a-z_]+)", (PACKAGE.parent / "README.md").read_text())))
    assert "priors" in names
    for name in set(names) - set(allegory.__all__):
        subprocess.run([sys.executable, "-c", f"import allegory as al; al.{name}"], check=True)


def test_the_command_knows_every_likelihood():
    from allegory.architectures import LIKELIHOODS
    from allegory.options import LIKELIHOODS as KNOWN

    assert ("auto", *LIKELIHOODS) == KNOWN


def public():
    for path in sorted(PACKAGE.glob("*.py")):
        if path.stem not in ("__main__", "__init__"):
            module = __import__(f"allegory.{path.stem}", fromlist=["x"])
            yield path.stem, module
            for name in module.__all__:
                thing = getattr(module, name)
                if inspect.isfunction(thing) or inspect.isclass(thing):
                    yield f"{path.stem}.{name}", thing
                if inspect.isclass(thing):
                    for method, value in vars(thing).items():
                        value = value.fget if isinstance(value, property) else value
                        if not method.startswith("_") and inspect.isfunction(value) and method != "forward":
                            yield f"{path.stem}.{name}.{method}", value


INHERITED = {
    "arg_constraints",
    "entropy",
    "rsample",
    "expand",
    "support",
    "log_prob",
    "sample",
    "mean",
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
    for path in PACKAGE.glob("*.py"):
        assert ast.get_docstring(ast.parse(path.read_text())), path.stem
