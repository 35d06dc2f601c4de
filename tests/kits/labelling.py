"""A process that labels with tblite, slowly and with a log, to be killed: ``python -m h5ml.tests.kits.labelling``."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import molecule

from h5ml.compute.levels import tblite_level
from h5ml.schemas.errors import H5mlError

LOG = "H5ML_LABEL_LOG"


def waters(count: int, seed: int = 0) -> list[Atoms]:
    """Water molecules, each deformed in another way."""
    rng = np.random.default_rng(seed)
    found = [molecule("H2O") for _ in range(count)]
    for atoms in found:
        atoms.positions += 0.05 * rng.normal(size=(3, 3))
    return found


class SlowLevel(tblite_level.TbliteLevel):
    """tblite that takes its time, and says which structure it computed."""

    def compute(self, system: Any, *rest: Any) -> Any:
        """A single point with a line in the log, once its outcome is there."""
        found = super().compute(system, *rest)
        time.sleep(0.06)  # results that arrive within 0.05 s are committed together
        with Path(os.environ[LOG]).open("a") as log:
            log.write(system.digest().hex() + "\n")
        return found


def main(store: str, root: str, frames: str, block: str) -> int:
    """Label the frames of a key."""
    import h5ml
    from h5ml.compute.dft import MODULE

    tblite_level.TbliteLevel = SlowLevel  # type: ignore[misc]
    settings = {"method": "GFN1-xTB", "block_frames": int(block)}
    try:
        h5ml.run(h5ml.open(store), MODULE, root_key=root, frames=frames, config=settings)
    except H5mlError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
