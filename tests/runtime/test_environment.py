"""The environment is plain JSON, agrees with what torch and the system say, and names nobody."""

import getpass
import json
import os
import platform
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors
import torch

import allegory
from allegory.runtime import environment as module
from allegory.runtime.environment import environment

X86 = "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nflags\t\t: fpu avx2 avx512f avx512_bf16 amx_tile fma\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd bf16 sve i8mm\nCPU part\t: 0xd40\n"
MAC = "hw.optional.AdvSIMD: 1\nhw.optional.arm.FEAT_BF16: 1\nhw.optional.arm.FEAT_SME: 0\nhw.optional.floatingpoint: 1"


@pytest.fixture
def system(monkeypatch, tmp_path):
    """A machine whose system says what it is told to, and whose torch says nothing."""
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(module, "CPUINFO", tmp_path / "cpuinfo")

    def says(name, cpuinfo=None, sysctl=""):
        if cpuinfo is not None:
            (tmp_path / "cpuinfo").write_text(cpuinfo)
        monkeypatch.setattr(platform, "system", lambda: name)
        monkeypatch.setattr(platform, "processor", lambda: "")
        monkeypatch.setattr(platform, "machine", lambda: "a machine")
        answers = {"-n": "Apple M9", "hw.optional": sysctl}
        monkeypatch.setattr(subprocess, "run", lambda command, **_: SimpleNamespace(stdout=answers[command[1]] + "\n"))

    return says


def test_it_is_plain_json_and_has_the_versions():
    found = environment()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["versions"] == {
        "allegory": allegory.__version__,
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "numpy": np.__version__,
        "safetensors": safetensors.__version__,
        "cuda": torch.version.cuda,
    }


def test_threads_cores_and_variables_are_those_of_this_process(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("KMP_AFFINITY", "compact")
    monkeypatch.setenv("SECRET_OMP_", "do not tell")
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        found = environment()
    finally:
        torch.set_num_threads(before)
    assert found["threads"] == before + 1
    assert 1 <= found["usable_cores"] <= found["cores"] == os.cpu_count()
    assert found["variables"].items() >= {"OMP_NUM_THREADS": "3", "KMP_AFFINITY": "compact"}.items()
    assert "do not tell" not in json.dumps(found)


def test_the_kernels_of_torch_use_no_instruction_that_the_processor_lacks():
    needs = {"AVX2": {"avx2", "fma"}, "AVX512": {"avx2", "fma", "avx512f"}}
    found = environment()
    assert found["capability"] == torch.backends.cpu.get_cpu_capability()
    assert needs.get(found["capability"], set()) <= set(found["instructions"])


@pytest.mark.skipif(not module.CPUINFO.exists(), reason="Linux alone has it")
def test_the_system_and_torch_agree_on_vectors(monkeypatch):
    vectors = {"avx2", "fma", "avx512f", "neon", "sve"}
    told = vectors & set(environment()["instructions"])
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert vectors & set(environment()["instructions"]) == told


@pytest.mark.parametrize(
    ("name", "says", "processor", "instructions"),
    [
        ("Linux", dict(cpuinfo=X86), "Some CPU @ 2 GHz", ["avx2", "fma", "avx512f", "avx512_bf16", "amx_tile"]),
        ("Linux", dict(cpuinfo=ARM), "a machine", ["neon", "bf16", "i8mm", "sve"]),
        ("Darwin", dict(sysctl=MAC), "Apple M9", ["neon", "bf16"]),
        ("Windows", {}, "a machine", []),
    ],
    ids=["x86", "arm", "mac", "elsewhere"],
)
def test_a_system_is_asked_where_torch_does_not_know(system, name, says, processor, instructions):
    system(name, **says)
    found = environment()
    assert found["processor"] == found["devices"]["cpu"] == processor
    assert found["instructions"] == instructions


def test_what_torch_knows_has_the_names_of_linux(monkeypatch):
    told = {"avx512_f": True, "fma3": True, "amx_bf16": False, "num_sockets": 1, "architecture": "x86_64"}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: told, raising=False)
    assert environment()["instructions"] == ["fma", "avx512f"]


def test_a_tool_that_is_not_there_leaves_a_gap_alone(system, monkeypatch):
    system("Darwin")

    def missing(*_, **__):
        raise FileNotFoundError("sysctl")

    monkeypatch.setattr(subprocess, "run", missing)
    found = environment()
    assert (found["processor"], found["instructions"]) == ("a machine", [])


def test_every_gpu_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"GPU {index}")
    devices = environment()["devices"]
    assert list(devices) == ["cpu", "cuda:0", "cuda:1"]
    assert (devices["cuda:0"], devices["cuda:1"]) == ("GPU 0", "GPU 1")


def test_a_compiler_is_named_without_its_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert environment()["compiler"] is None
    for name in ("c++", "g++", "mine"):
        tool = tmp_path / (f"{name}.exe" if os.name == "nt" else name)
        tool.touch()
        tool.chmod(0o755)
    assert environment()["compiler"] in ("g++", "g++.exe")
    monkeypatch.setenv("CXX", str(tmp_path / "mine"))
    assert environment()["compiler"].startswith("mine")


def test_nobody_is_named():
    text = json.dumps(environment())
    assert str(Path.home()) not in text
    for name in (getpass.getuser(), socket.gethostname()):
        assert len(name) < 5 or name not in text  # "root" may be a part of any word
    assert str(Path.cwd()) not in text


def test_importing_it_does_not_wait_for_torch():
    code = "import sys, allegory.runtime.environment; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
