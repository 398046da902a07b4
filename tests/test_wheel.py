"""What is built is the package, all of it and nothing else, and it works where the sources are not."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import allegory

ROOT = Path(__file__).parents[1]
PACKAGE = Path(allegory.__file__).parent
PIP = ("-m", "pip", "--disable-pip-version-check", "--quiet")
AROUND = {
    ".gitignore",
    "CHANGELOG.md",
    "CITATION.cff",
    "LICENSE",
    "PKG-INFO",
    "README.md",
    "conftest.py",
    "pyproject.toml",
}


def run(*command, cwd):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=cwd, env=environment, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The wheel and the sdist."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-d", out, cwd=ROOT)
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return wheel, sdist


def contents(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def sources():
    """Every file of the package, by its path, but what Python and editors leave there."""
    files = [path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix not in (".pyc", ".swp")]
    return {path.relative_to(PACKAGE.parent).as_posix(): path.read_bytes() for path in files}


def test_a_wheel_is_the_package_and_nothing_else(built):
    files = contents(built[0])
    information = f"allegory-{allegory.__version__}.dist-info"
    told = {"METADATA", "WHEEL", "entry_points.txt", "licenses/LICENSE", "RECORD"}
    assert {name for name in files if not name.startswith("allegory/")} == {f"{information}/{name}" for name in told}
    package = {name: content for name, content in files.items() if name.startswith("allegory/")}
    assert package == sources()
    assert "allegory/py.typed" in package
    assert [name for name in package if name.endswith("report.html")]
    assert f"\nVersion: {allegory.__version__}\n" in files[f"{information}/METADATA"].decode()


def test_an_sdist_is_the_package_and_its_tests_and_builds_the_same_wheel(built, tmp_path):
    wheel, sdist = built
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {name for name in names if name.startswith("allegory/")} == set(sources())
    assert {name for name in names if not name.startswith(("allegory/", "tests/"))} == AROUND
    assert "tests/test_wheel.py" in names
    run(
        sys.executable,
        *PIP,
        "wheel",
        "--no-index",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        tmp_path,
        sdist,
        cwd=tmp_path,
    )
    assert contents(tmp_path / wheel.name) == contents(wheel)


@pytest.mark.slow
def test_an_installed_wheel_trains(built, tmp_path):
    home = tmp_path / "home"
    venv.create(home, with_pip=False)
    scripts = home / ("Scripts" if os.name == "nt" else "bin")
    python = scripts / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip())
    run(sys.executable, *PIP, "--python", python, "install", "--no-index", "--no-deps", built[0], cwd=tmp_path)
    # What allegory needs is where the tests have it. A .pth file names folders alone: what is installed there in place,
    # by a .pth file of its own, as allegory is, cannot be seen from here.
    here = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    (site / "needed.pth").write_text("\n".join(here))

    where = Path(run(python, "-c", "import allegory; print(allegory.__file__)", cwd=tmp_path).strip())
    assert where == site / "allegory" / "__init__.py"
    assert "digits" in run(python, "-m", "allegory", "datasets", cwd=tmp_path)
    settings = ("--epochs", "1", "--hidden", "8", "--latent", "2", "--precision", "float32", "--no-compile")
    told = run(scripts / "allegory", "train", "digits", *settings, "--out", "run", cwd=tmp_path)
    assert "1 epochs" in told
    assert (tmp_path / "run" / "config.json").exists()
