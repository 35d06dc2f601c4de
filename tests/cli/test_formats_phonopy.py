"""Force constants as files that the phonopy command line reads back to the same frequencies."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import phonopy
import pytest
import yaml
from ase.build import bulk
from click.testing import Result

import h5ml
from h5ml.cli.formats_write import Chosen, write_file
from h5ml.compute.lattice.displacements import build_phonopy, displaced_cells, evaluate_cell, fit_force_constants
from h5ml.compute.lattice.force_constants import NAC_FACTOR, dataset_of, phonopy_of
from h5ml.compute.potentials import resolve_potential
from h5ml.schemas.errors import WrongKind
from h5ml.schemas.kinds import TABLE
from h5ml.schemas.kinds_lattice import FORCE_CONSTANTS
from h5ml.tests.kits.samples import sample

Q = [[0.1, 0.2, 0.3], [0.5, 0.5, 0.0]]


@pytest.fixture(scope="module")
def chosen() -> Chosen:
    """Rock salt by springs, with Born charges and masses of its own, from a conventional cell."""
    atoms = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    atoms.set_masses([22.0 if Z == 11 else 37.0 for Z in atoms.numbers])
    phonon = build_phonopy(atoms, np.diag([2, 1, 1]))
    cells = displaced_cells(phonon, resolve_potential("harmonic:springs?k=1.0&r0=3.4&rc=4.2"), 0.01)
    fit_force_constants(phonon, [evaluate_cell(cell) for cell in cells])
    charges = np.array([np.eye(3), -np.eye(3)])
    phonon.nac_params = {"born": charges, "dielectric": 2.3 * np.eye(3), "factor": NAC_FACTOR}
    return Chosen("salt", FORCE_CONSTANTS, dataset_of(phonon), None)


@pytest.fixture(scope="module")
def frequencies(chosen: Chosen) -> np.ndarray:
    return phonopy_of(chosen.dataset).run_qpoints(Q).frequencies


def test_phonopy_loads_the_yaml_file(chosen: Chosen, frequencies: np.ndarray, tmp_path: Path) -> None:
    write_file(chosen, tmp_path / "phonopy_params.yaml")
    loaded = phonopy.load(tmp_path / "phonopy_params.yaml", log_level=0)
    assert loaded.force_constants.shape == (2, 16, 3, 3)
    # The file has 16 decimals, and phonopy imposes the sum rule once more when it loads.
    assert np.allclose(loaded.run_qpoints(Q).frequencies, frequencies, rtol=0, atol=1e-6)


def test_the_command_line_of_phonopy_reads_the_yaml_file(
    chosen: Chosen, frequencies: np.ndarray, tmp_path: Path
) -> None:
    write_file(chosen, tmp_path / "phonopy_params.yaml")
    points = [str(x) for q in Q for x in q]
    command = [Path(sys.executable).with_name("phonopy-load"), "phonopy_params.yaml", "--qpoints", *points]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    found = yaml.safe_load((tmp_path / "qpoints.yaml").read_text())["phonon"]
    theirs = [[band["frequency"] for band in point["band"]] for point in found]
    assert np.allclose(theirs, frequencies, rtol=0, atol=1e-6)  # the file has ten decimals


def test_phonopy_reads_the_other_two_files_of_force_constants(
    chosen: Chosen, frequencies: np.ndarray, tmp_path: Path
) -> None:
    write_file(chosen, tmp_path / "phonopy_params.yaml")
    write_file(chosen, tmp_path / "force_constants.hdf5")
    write_file(chosen, tmp_path / "FORCE_CONSTANTS")
    with h5py.File(tmp_path / "force_constants.hdf5") as file:
        assert np.array_equal(file["force_constants"], chosen.dataset["force_constants"])
        assert file["p2s_map"][:].tolist() == chosen.dataset["primitive_to_supercell"].to_numpy().tolist()
    for name in ("force_constants.hdf5", "FORCE_CONSTANTS"):
        loaded = phonopy.load(tmp_path / "phonopy_params.yaml", force_constants_filename=tmp_path / name, log_level=0)
        assert np.allclose(loaded.run_qpoints(Q).frequencies, frequencies, rtol=0, atol=1e-6)


def test_what_is_no_force_constants_is_refused(tmp_path: Path) -> None:
    table = Chosen("t", TABLE, sample("table"), None)
    for name in ("a.yaml", "a.hdf5", "FORCE_CONSTANTS"):
        with pytest.raises(WrongKind, match="force constants"):
            write_file(table, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_export_takes_the_name_for_the_format(chosen: Chosen, tmp_path: Path, call: Callable[..., Result]) -> None:
    with h5ml.open(tmp_path / "s.h5", make=True) as store:
        store.write("salt", chosen.dataset, "force_constants")
    for name in ("phonopy_params.yaml", "force_constants.hdf5", "FORCE_CONSTANTS"):
        assert name in call("export", "salt", name, store=tmp_path / "s.h5").output
        assert (tmp_path / name).exists()
