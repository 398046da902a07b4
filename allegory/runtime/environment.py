"""The environment: what a bug report should state about the machine, as plain JSON.

    environment()  ->  versions, platform, processor, cores, threads, capability, instructions, devices, variables,
                       compiler
    machine()      ->  the few of these that a run keeps, and the date

The last digits of a bound depend on the instructions and the threads that sum it, and the speed on all of these.
Nothing here identifies the machine: no host, no user, no folder, unless one of the variables does.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = ["environment", "machine"]

INSTRUCTIONS = (
    "avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16",
    "amx_fp16", "neon", "bf16", "i8mm", "sve", "sve2", "sme",
)  # fmt: skip
ALIASES = {"avx512_f": "avx512f", "fma3": "fma", "asimd": "neon", "advsimd": "neon"}
VARIABLES = ("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "VECLIB_", "DNNL_", "ONEDNN_", "ATEN_")
CPUINFO = Path("/proc/cpuinfo")


def environment() -> dict[str, Any]:
    """The installed versions and the machine.

    Returns:
        versions: of allegory, python, torch, numpy, safetensors, and the CUDA that torch was built with, or None.
        platform, processor: names of the system and the CPU.
        cores, usable_cores: logical ones of the machine, and those that this process may use.
        threads: per operation of torch.
        capability: the widest vector instructions that torch's own kernels use.
        instructions: those of the CPU for vectors, matrices and low precision, if they can be determined.
        devices: `cpu`, and each GPU by the name that `--device` takes.
        variables: the environment variables of OpenMP, MKL, oneDNN and similar libraries that are set.
        compiler: the name of the C++ compiler that `torch.compile` finds, or None.

    >>> found = environment()
    >>> found["versions"]["allegory"] == al.__version__, found["threads"] == torch.get_num_threads()
    (True, True)
    >>> import json
    >>> json.loads(json.dumps(found)) == found
    True
    """
    import torch

    from allegory.version import __version__

    gpus = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    return {
        "versions": {
            "allegory": __version__,
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "numpy": _version("numpy"),
            "safetensors": _version("safetensors"),
            "cuda": torch.version.cuda,
        },
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "instructions": _instructions(),
        "devices": {"cpu": _processor(), **{f"cuda:{i}": torch.cuda.get_device_name(i) for i in gpus}},
        "variables": {name: os.environ[name] for name in sorted(os.environ) if name.startswith(VARIABLES)},
        "compiler": _compiler(),
    }


def machine(device: Any = "cpu") -> dict[str, Any]:
    """What a run keeps of the machine it is computed on: the date in UTC, the device, the processor, the widest vector
    instructions that torch uses, threads per operation, processes, the system, and the version of Python.

    Args:
        device: of torch.

    >>> found = machine()
    >>> found["device"], found["processes"], found["date"].endswith("+00:00")
    ('cpu', 1, True)
    """
    import torch

    from allegory.runtime.processes import world_size  # which imports torch

    where = torch.device(device)
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name(where) if where.type == "cuda" else where.type,
        "processor": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "processes": world_size(),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    """The CPU by its trade name, or at least its architecture."""
    if CPUINFO.exists():
        name = _cpuinfo().get("model name", "")
    else:
        name = _sysctl("-n", "machdep.cpu.brand_string") if platform.system() == "Darwin" else ""
    return name or platform.processor() or platform.machine()


def _instructions() -> list[str]:
    """Those of `INSTRUCTIONS` that the CPU has, according to torch or else the system."""
    import torch

    capabilities = getattr(torch.cpu, "get_capabilities", None)  # not in every version of torch that allegory supports
    if capabilities is not None:
        words = [name for name, has in capabilities().items() if has is True]
    elif CPUINFO.exists():
        found = _cpuinfo()
        words = (found.get("flags") or found.get("Features") or "").split()
    elif platform.system() == "Darwin":
        lines = [line.partition(": ") for line in _sysctl("hw.optional").splitlines()]
        words = [name.split(".")[-1].removeprefix("FEAT_").lower() for name, _, value in lines if value == "1"]
    else:
        words = []
    names = {ALIASES.get(word, word) for word in words}
    return [name for name in INSTRUCTIONS if name in names]


def _cpuinfo() -> dict[str, str]:
    """The entry of the first core in /proc/cpuinfo."""
    lines = CPUINFO.read_text(errors="replace").split("\n\n")[0].splitlines()
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _sysctl(*arguments: str) -> str:
    try:
        return subprocess.run(["sysctl", *arguments], capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _compiler() -> str | None:
    names = (os.environ.get("CXX"), "g++", "clang++", "c++")  # where `has_compiler` looks, in that order
    return next((Path(found).name for found in (shutil.which(name) for name in names if name) if found), None)
