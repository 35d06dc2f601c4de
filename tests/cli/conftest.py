"""A small store with a crystal and a trajectory, and a way to call the command line on it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner, Result

import h5ml
from h5ml.schemas.kinds import STRUCTURES, TRAJECTORY

UREA_CIF = """data_urea
_cell_length_a 5.565
_cell_length_b 5.565
_cell_length_c 4.684
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'P -4 21 m'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
C1 C 0 .5 .3260
O1 O 0 .5 .5953
N1 N .1459 .6459 .1766
H1 H .2575 .7575 .2827
H2 H .1441 .6441 -.0380
"""


def make_trajectory(frames: int = 12, equilibration: int = 4, seed: int = 0) -> xr.Dataset:
    """A made-up NPT trajectory of eight atoms in a triclinic cell."""
    rng = np.random.default_rng(seed)
    numbers = np.array([6, 8, 7, 7, 1, 1, 1, 1])
    cell = np.array([[5.0, 0.1, 0.0], [0.3, 6.0, 0.2], [0.0, 0.1, 7.0]])
    cells = cell * (1 + 0.01 * rng.normal(size=(frames, 1, 1)))
    time = np.arange(frames) * 50.0
    return TRAJECTORY.dataset(
        {
            "positions": rng.random((8, 3)) @ cell + 0.1 * rng.normal(size=(frames, 8, 3)),
            "velocities": 0.01 * rng.normal(size=(frames, 8, 3)),
            "forces": rng.normal(size=(frames, 8, 3)),
            "energy": -100 + 0.1 * rng.normal(size=frames),
            "kinetic_energy": 0.3 + 0.01 * rng.normal(size=frames),
            "temperature": 300 + 20 * rng.normal(size=frames),
            "pressure": 0.1 * rng.normal(size=frames),
            "stress": 0.01 * rng.normal(size=(frames, 6)),
            "cell": cells,
            "volume": np.linalg.det(cells),
            "time": time,
            "step": np.arange(frames) * 100,
            "equilibration": (np.arange(frames) < equilibration).astype(np.int8),
            "target_temperature": np.full(frames, 298.15),
            "conserved_energy": -99 + 0.001 * rng.normal(size=frames),
            "atomic_numbers": numbers,
            "masses": np.array([12.011, 15.999, 14.007, 14.007, 1.008, 1.008, 1.008, 1.008]),
            "pbc": [1, 1, 1],
        },
        {"kind": "trajectory", "ensemble": "NPT", "algorithm": "mtk_full", "pressure_GPa": 1e-4},
    )


def make_structures() -> xr.Dataset:
    """Two structures of different size; only the first has an energy."""
    return STRUCTURES.dataset(
        {
            "n_atoms": [2, 1],
            "positions": [[0.0, 0.0, 0.0], [0.0, 0.0, 0.74], [1.0, 1.0, 1.0]],
            "atomic_numbers": [1, 1, 2],
            "cell": np.zeros((2, 3, 3)),
            "pbc": np.zeros((2, 3), dtype=np.int8),
            "energy": [-31.7, np.nan],
        }
    )


@pytest.fixture
def location(tmp_path: Path) -> Path:
    """A store with two keys."""
    path = tmp_path / "store.h5"
    store = h5ml.open(path, make=True)
    store.write("crystals/pair", make_structures(), "structures")
    store.write("training/md/trajectory", make_trajectory(), "trajectory")
    store.close()
    return path


Call = Callable[..., Result]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Call the command line in this process, in an empty folder."""
    from h5ml.cli.main import cli

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("H5ML_STORE", raising=False)

    def run(*arguments: Any, code: int | None = 0, store: Path | None = None) -> Result:
        env = {"H5ML_STORE": str(store)} if store is not None else {}
        result = CliRunner().invoke(cli, [str(a) for a in arguments], env=env)
        assert code is None or result.exit_code == code, result.output
        assert "Traceback" not in result.output
        return result

    return run


@pytest.fixture
def on(call: Call, location: Path) -> Call:
    """Call the command line on the store."""

    def run(*arguments: Any, code: int | None = 0) -> Result:
        return call(*arguments, code=code, store=location)

    return run


@pytest.fixture
def read(on: Call) -> Callable[..., Any]:
    """Call a command with ``--json`` and read its answer."""

    def run(*arguments: Any, code: int = 0) -> Any:
        return json.loads(on(*arguments, "--json", code=code).stdout)

    return run


def real(*arguments: Any, cwd: Path, timeout: float = 60, **env: str) -> subprocess.CompletedProcess[str]:
    """Call the installed program in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "h5ml.cli.main", *map(str, arguments)],
        cwd=cwd,
        env={k: v for k, v in os.environ.items() if k != "H5ML_STORE"} | env,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout,
    )


@pytest.fixture
def program() -> Callable[..., subprocess.CompletedProcess[str]]:
    """The function ``real``."""
    return real
