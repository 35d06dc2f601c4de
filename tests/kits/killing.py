"""A process that kills itself in the midst of a commit, as the file that ``H5ML_TOY_KILL`` names tells it to.

The file holds a role and a number: the first process of that role to make so many calls of the store's disk removes the
file and dies. Dask's workers get their role from this module by ``DASK_DISTRIBUTED__WORKER__PRELOAD``.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from h5ml.store.disk import RealDisk

ORDER = "H5ML_TOY_KILL"
CALLS = ("write", "sync", "truncate", "unlink")


def order(path: Path, role: str, count: int) -> None:
    """Tell the first process of a role to die at a call of its disk."""
    path.write_text(f"{role} {count}")


def arm(role: str) -> None:
    """Let this process follow an order for its role."""
    path = Path(os.environ.get(ORDER, "/nowhere"))
    told = path.read_text().split() if path.exists() else []
    if not told or told[0] != role:
        return
    left = [int(told[1])]
    for name in CALLS:
        setattr(RealDisk, name, _counted(getattr(RealDisk, name), left, path))


def _counted(call: Callable[..., Any], left: list[int], path: Path) -> Callable[..., Any]:
    def counted(*arguments: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            try:
                path.unlink()
            except FileNotFoundError:  # another died already
                return call(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments)

    return counted


def dask_setup(worker: Any) -> None:
    """Called by dask in each worker that starts."""
    del worker
    arm("worker")
