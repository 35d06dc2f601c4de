"""Folders for the files of a computation, removed afterwards; those of killed processes by the next that needs one."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

PREFIX = "h5ml-scratch-"
_LOCK = ".lock"
YOUNG_SECONDS = 60.0
"""A folder younger than this may belong to a process that has not locked it yet."""


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """An empty folder that is removed afterwards.

    It holds a lock while it is in use. The lock of a killed process is free, on whatever host it was; so the first
    scratch folder of each process removes what was left beside it.
    """
    sweep_once(tempfile.gettempdir())
    with tempfile.TemporaryDirectory(prefix=PREFIX) as name, (Path(name) / _LOCK).open("w") as lock:
        with contextlib.suppress(OSError):  # a file system without locks: there nothing is swept either
            fcntl.flock(lock, fcntl.LOCK_EX)
        folder = Path(name) / Path(name).name.removeprefix(PREFIX)
        folder.mkdir()
        yield folder


@functools.cache
def sweep_once(place: str) -> None:
    """Remove, once in each process, what killed processes left."""
    sweep_scratch(Path(place))


def sweep_scratch(place: Path, young_s: float = YOUNG_SECONDS) -> None:
    """Remove the scratch folders that no process uses any more.

    Parameters
    ----------
    place : Path
        Where they lie.
    young_s : float
        Younger ones are left alone (s).
    """
    for folder in place.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # another's, in use, or removed just now
            if time.time() - folder.stat().st_mtime > young_s and not _in_use(folder / _LOCK):
                shutil.rmtree(folder, ignore_errors=True)


def _in_use(path: Path) -> bool:
    if not path.exists():
        return False
    with path.open("r+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
