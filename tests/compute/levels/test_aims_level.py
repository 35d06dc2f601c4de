"""FHI-aims through ASE, driven by a program that writes its genuine output with numbers from tblite."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from h5ml.compute.levels.labelling import Labelling, Limits, label_frame
from h5ml.compute.levels.level import Level, System, level_id
from h5ml.compute.levels.level_config import LevelSettings
from h5ml.compute.levels.registry import make_level
from h5ml.schemas.errors import InvalidConfig, MissingPackage
from h5ml.tests.kits.aims import write_aims, write_species

pytest.importorskip("tblite")


WATER = molecule("H2O")


def aims(tmp_path: Path, mode: str = "converged", **settings: Any) -> Level:
    """A level that the program computes."""
    command = str(write_aims(tmp_path / "bin", mode))
    species = str(write_species(tmp_path / "light"))
    return make_level(LevelSettings.parse({"engine": "aims", "command": command, "species_dir": species, **settings}))


def labelled(level: Level, atoms: Atoms, *properties: str) -> Any:
    """One label."""
    system = System.of(atoms)
    level.check(system, frozenset(properties), "the test")
    work = Labelling(level, ("energy", *properties), Limits(100.0, 1e6))
    return label_frame(work.tasks([system], ["x"], {})["x"])


def of_tblite(atoms: Atoms, *properties: str) -> Any:
    """The same numbers, directly."""
    return labelled(make_level(LevelSettings(method="GFN1-xTB")), atoms, *properties)


def test_a_run_that_converges_gives_the_numbers_of_its_output(tmp_path: Path) -> None:
    water, radical = molecule("H2O"), molecule("OH")
    level = aims(tmp_path, tier=1, keywords={"relativistic": "atomic_zora scalar"})
    for atoms in (water, radical):
        found, truth = labelled(level, atoms, "forces"), of_tblite(atoms, "forces")
        # aims prints 15 digits; the charge and the multiplicity reached the program
        assert float(found["energy"][0]) == pytest.approx(float(truth["energy"][0]), abs=1e-8)
        np.testing.assert_allclose(found["forces"], truth["forces"], rtol=0, atol=1e-10)
    assert int(found["iterations"][0]) == 5
    assert int(found["status"][0]) == 0
    assert level.theory()["version"] == "240920"


def test_a_crystal_gets_its_stress_and_a_mesh_of_k_points(tmp_path: Path) -> None:
    silicon = bulk("Si")
    silicon.positions[1] += [0.1, 0.05, 0.0]
    found = labelled(aims(tmp_path, kpts=15.0), silicon, "forces", "stress")
    truth = of_tblite(silicon, "forces", "stress")
    np.testing.assert_allclose(found["forces"], truth["forces"], rtol=0, atol=1e-6)  # printed cell and positions
    np.testing.assert_allclose(found["stress"], truth["stress"], rtol=0, atol=2e-8)  # eight digits are printed


def test_a_run_that_does_not_converge_is_said_to_though_aims_ends_nicely(tmp_path: Path) -> None:
    found = labelled(aims(tmp_path, "unconverged", fallbacks=[]), molecule("H2O"), "forces")
    assert int(found["status"][0]) == 2
    assert int(found["converged"][0]) == 0
    assert np.isnan(found["energy"][0])
    assert np.isnan(found["forces"]).all()
    assert "SCF cycle not converged" in found["message"].item()


def test_a_fallback_that_helps_is_recorded_and_is_no_other_level_of_theory(tmp_path: Path) -> None:
    level = aims(tmp_path, "helped")
    found, truth = labelled(level, molecule("H2O"), "forces"), of_tblite(molecule("H2O"), "forces")
    assert (int(found["status"][0]), int(found["attempt"][0])) == (0, 1)
    assert float(found["energy"][0]) == pytest.approx(float(truth["energy"][0]), abs=1e-8)
    assert level_id(level.theory()) == level_id(aims(tmp_path, "helped", fallbacks=[], max_cycles=7).theory())
    assert level_id(level.theory()) != level_id(aims(tmp_path, "helped", method="PBE0").theory())
    assert level_id(level.theory()) != level_id(aims(tmp_path, "helped", tier=2).theory())


def test_a_run_that_crashes_leaves_the_end_of_its_output(tmp_path: Path) -> None:
    found = labelled(aims(tmp_path, "crash"), molecule("H2O"))
    assert (int(found["status"][0]), int(found["attempt"][0])) == (3, 0)
    assert "all is lost" in found["message"].item()
    assert "exit code 3" in found["message"].item()


def test_a_run_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    level = aims(tmp_path, "hang", calculation_limit_s=1.5)
    began = time.monotonic()
    found = labelled(level, molecule("H2O"))
    assert time.monotonic() - began < 60
    assert int(found["status"][0]) == 3
    assert "time limit of 1.5 s" in found["message"].item()
    child = int((tmp_path / "bin" / "pid").read_text())
    while _is_running(child):
        assert time.monotonic() - began < 60, "a process of the program is still there"
        time.sleep(0.05)


def _is_running(number: int) -> bool:
    """Whether a process exists and is no zombie that nobody has asked for yet."""
    status = Path(f"/proc/{number}/stat")
    if status.exists():
        return status.read_text().rpartition(")")[2].split()[0] != "Z"
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_socket_gives_the_same_numbers_as_the_files(tmp_path: Path) -> None:
    found = labelled(aims(tmp_path, interface="socket", calculation_limit_s=60), molecule("H2O"), "forces")
    truth = of_tblite(molecule("H2O"), "forces")
    assert found["message"].item() == ""
    assert float(found["energy"][0]) == pytest.approx(float(truth["energy"][0]), abs=1e-8)
    np.testing.assert_allclose(found["forces"], truth["forces"], rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("mode", "limit_s", "status", "words"),
    [
        ("unconverged", 60, 2, "SCF cycle not converged"),
        ("crash", None, 3, "all is lost"),
        ("dies", None, 3, "aims was killed"),
        ("stalls", 4, 3, "time limit of 4 s"),  # it needs some 2 s until it connects
        ("hang", 1, 3, "time limit of 1 s"),
    ],
)
def test_a_client_of_the_socket_that_gives_up_makes_a_failed_label_and_is_gone(
    tmp_path: Path, mode: str, limit_s: float | None, status: int, words: str
) -> None:
    found = labelled(
        aims(tmp_path, mode, interface="socket", calculation_limit_s=limit_s, fallbacks=[]), WATER, "forces"
    )
    assert (int(found["status"][0]), int(found["converged"][0])) == (status, 0)
    assert words in found["message"].item()
    assert np.isnan(found["forces"]).all()
    until = time.monotonic() + 30
    while any(str(tmp_path) in command for command in _commands()):
        assert time.monotonic() < until, "a process of the program is still there"
        time.sleep(0.05)


def _commands() -> Iterator[str]:
    """The command lines of all processes; those of zombies are empty."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # ended just now
            yield path.read_text(errors="replace")


_ASI = """
import os, warnings
from tblite.ase import TBLite
class Library:
    is_scf_converged = bool(int(os.environ["TEST_CONVERGED"]))
class ASI_ASE_calculator:
    def __init__(self, library, write, communicator, atoms, work_dir):
        assert os.path.isfile(library)
        text = open(os.path.join(work_dir, "control.in")).read()
        assert "compute_forces" in text and "species        H" in text
        write(self)
        self.asi, self.calculator = Library(), TBLite(method="GFN1-xTB", verbosity=0)
    def calculate(self, atoms, properties, changes):
        self.calculator.calculate(atoms, properties, changes)
        self.results = self.calculator.results
    def close(self):
        pass
"""


def test_the_library_computes_in_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # a stand-in for asi4py, which needs a licensed library
    (tmp_path / "asi4py").mkdir()
    (tmp_path / "asi4py" / "__init__.py").touch()
    (tmp_path / "asi4py" / "asecalc.py").write_text(_ASI)
    (tmp_path / "libaims.so").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("ASI_LIB_PATH", str(tmp_path / "libaims.so"))
    truth = of_tblite(molecule("H2O"), "forces")
    monkeypatch.setenv("TEST_CONVERGED", "it crashes")
    crashed = labelled(aims(tmp_path, interface="library"), molecule("H2O"), "forces")
    assert crashed["status"].item() == 3
    assert "it crashes" in crashed["message"].item()
    for converged in (1, 0):
        monkeypatch.setenv("TEST_CONVERGED", str(converged))
        found = labelled(aims(tmp_path, interface="library", fallbacks=[]), molecule("H2O"), "forces")
        assert found["status"].item() == (0 if converged else 2), found["message"].item()
        if converged:
            np.testing.assert_allclose(found["forces"], truth["forces"], rtol=0, atol=1e-8)


def test_what_aims_cannot_do_is_said_before_anything_is_computed(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="no 26_Fe_default"):
        _told(lambda: labelled(aims(tmp_path), Atoms("Fe")))
    with pytest.raises(InvalidConfig, match="species_dir"):
        _told(lambda: aims(tmp_path, species_dir=str(tmp_path / "none")))
    with pytest.raises(MissingPackage, match=r"no-such-aims\.x"):
        _told(lambda: aims(tmp_path, command="no-such-aims.x"))
    with pytest.raises(MissingPackage, match="asi4py"):
        _told(lambda: aims(tmp_path, interface="library"))
    with pytest.raises(InvalidConfig, match="k_grid"):
        _told(lambda: aims(tmp_path, keywords={"k_grid": "2 2 2"}))
    with pytest.raises(InvalidConfig, match="change the level of theory"):
        _told(lambda: aims(tmp_path, fallbacks=[{"xc": "pw-lda"}]))


def _told(attempt: Any) -> None:
    """Run, and let the match see the whole text of an error."""
    try:
        attempt()
    except (InvalidConfig, MissingPackage) as error:
        raise type(error)(str(error)) from None
