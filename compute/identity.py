"""What names a run and the facts around it: run ids, environment, and whether its process still lives."""

from __future__ import annotations

import functools
import getpass
import os
import platform
import socket
import sys
import threading
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..schemas.config import Config
from ..schemas.run import Run, run_identity
from ..store.digest import digest_json
from .module import Module

PACKAGES = {
    "numpy": "numpy",
    "xarray": "xarray",
    "scipy": "scipy",
    "ase": "ase",
    "tblite": "tblite",
    "torch": "torch",
    "mace": "mace-torch",
    "e3nn": "e3nn",
    "torch_sim": "torch-sim-atomistic",
    "phonopy": "phonopy",
    "spglib": "spglib",
    "pyscf": "pyscf",
    "h5py": "h5py",
    "zarr": "zarr",
    "icechunk": "icechunk",
    "distributed": "distributed",
}
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def run_ids(
    module: Module,
    config: Config,
    inputs: Mapping[str, list[str]],
    engines: Mapping[str, Mapping[str, Any]],
    seed: int,
) -> tuple[str, str]:
    """The run id, and the prefix id: the same without the fields that only say how far to go.

    Parameters
    ----------
    module, config : Module, Config
        What is executed and its settings.
    inputs : mapping
        Input name to content digests.
    engines : mapping
        Input name to the fingerprint of a potential that is no stored key.
    seed : int
        Of all random numbers.
    """
    settings = config.canonical()
    horizon = config.horizon_fields()
    short = {name: value for name, value in settings.items() if name not in horizon}
    identity, prefix = (
        digest_json(run_identity(module.name, module.version, chosen, inputs, engines, seed))
        for chosen in (settings, short)
    )
    return identity, prefix


def environment(device: str = "cpu") -> dict[str, Any]:
    """Facts that do not decide a result but help to understand it."""
    facts: dict[str, Any] = {
        "h5ml": _version("h5ml"),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "user": getpass.getuser(),
        "device": device,
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        **loaded_facts(),
        **process(),
    }
    commit = git_commit(Path(__file__).resolve().parents[1])
    return {**facts, "git_commit": commit} if commit else facts


def loaded_facts() -> dict[str, Any]:
    """Versions of the packages that matter, as far as they are loaded by now, and the threads they may use."""
    found = {name: _version(name) for module, name in PACKAGES.items() if module in sys.modules}
    threads: dict[str, Any] = {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ}
    if "torch" in sys.modules:
        threads["torch"] = sys.modules["torch"].get_num_threads()
    return {"packages": {name: found[name] for name in sorted(found) if found[name] is not None}, "threads": threads}


@functools.cache
def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def git_commit(folder: Path) -> str | None:
    """The commit that is checked out in a folder, read without git; None outside of a checkout."""
    home = folder / ".git"
    try:
        head = (home / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head
        name = head.removeprefix("ref: ")
        if (home / name).is_file():
            return (home / name).read_text().strip()
        lines = (home / "packed-refs").read_text().splitlines()
    except OSError:
        return None
    return next((line.split()[0] for line in lines if line.endswith(f" {name}")), None)


def process() -> dict[str, Any]:
    """What tells this process and thread from all others, also after its number is given to another."""
    pid = os.getpid()
    return {
        "host": socket.gethostname(),
        "pid": pid,
        "process_started": process_start(pid),
        "thread": threading.get_native_id(),
    }


def process_start(pid: int) -> str | None:
    """When a process was started, in the kernel's ticks; None where no such process is there."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None if Path("/proc/self/stat").exists() else _start_elsewhere(pid)
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]


def _start_elsewhere(pid: int) -> str | None:
    try:
        os.kill(pid, 0)
    except OSError:
        return None
    return "unknown"


def is_alive(run: Run) -> bool:
    """Whether the process (and the thread) that last worked on a run is still at it.

    A process on another host cannot be asked and counts as dead.
    """
    facts = run.environment
    if run.status != "running" or facts.get("host") != socket.gethostname():
        return False
    pid = facts.get("pid")
    if not isinstance(pid, int) or process_start(pid) != facts.get("process_started"):
        return False
    if pid != os.getpid():
        return True
    others = {thread.native_id for thread in threading.enumerate()} - {threading.get_native_id()}
    return facts.get("thread") in others
