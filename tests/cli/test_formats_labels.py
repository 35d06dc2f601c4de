"""Labels that were computed elsewhere come in with their level of theory, and only in units that can be true."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator

import h5ml
from h5ml.cli.formats_labels import Stated, read_labels
from h5ml.compute.dft import MODULE
from h5ml.compute.levels.level_config import LevelSettings
from h5ml.compute.levels.registry import make_level
from h5ml.compute.potentials import resolve_potential
from h5ml.schemas.canonical import canonical_json
from h5ml.schemas.errors import InvalidConfig, InvalidData
from h5ml.tests.kits.aims import write_aims
from h5ml.tests.kits.labelling import waters

LEVEL = "PBE/def2-SVP (ORCA 5)"


def frames(energy: float = 1.0, force: float = 1.0, prefix: str = "REF_", count: int = 6) -> list[Atoms]:
    """Water molecules with GFN1-xTB, in other units: divided by the factors."""
    pytest.importorskip("tblite")
    found = []
    potential = resolve_potential("tblite:GFN1-xTB")
    for atoms in waters(count):
        atoms.positions = atoms.positions.round(8)  # extxyz keeps so many digits
        atoms.calc = potential.fresh()
        atoms.info[f"{prefix}energy"] = atoms.get_potential_energy() / energy
        atoms.arrays[f"{prefix}forces"] = atoms.get_forces() / force
        atoms.calc = None
        found.append(atoms)
    return found


def written(path: Path, images: list[Atoms]) -> Path:
    ase.io.write(path, images, format="extxyz")
    return path


def test_labels_come_in_by_the_command_and_are_found_again_by_dft(on: Any, location: Any, tmp_path: Path) -> None:
    level = make_level(LevelSettings(method="GFN1-xTB"))
    written(tmp_path / "set.extxyz", frames())
    on("import", "set.extxyz", "sets/words", "--kind", "labels", "--level", LEVEL)
    on("import", "set.extxyz", "sets/theirs", "--kind", "labels", "--level", canonical_json(level.theory()))
    store = h5ml.open(location)
    words, theirs = store["sets/words"].load(), store["sets/theirs"].load()
    assert store.entry("sets/words").kind == "labels"
    assert words.attrs["method"] == LEVEL
    assert words["status"].to_numpy().tolist() == [0] * 6
    assert not set(words["identity"].to_numpy()) & set(theirs["identity"].to_numpy())
    options = {"method": "GFN1-xTB", "properties": ["energy", "forces"]}
    h5ml.run(store, MODULE, root_key="again", frames="sets/words", config=options)
    again = store["again/labels"].load()
    assert [text.split()[0] for text in again["reused_from"].to_numpy()] == ["sets/theirs@1"] * 6
    np.testing.assert_allclose(again["energy"], words["energy"], rtol=0, atol=1e-6)


def test_the_level_must_be_stated(on: Any, tmp_path: Path) -> None:
    written(tmp_path / "set.extxyz", frames(count=1))
    assert "--level" in on("import", "set.extxyz", "a", "--kind", "labels", code=5).stderr
    with pytest.raises(InvalidConfig, match="level of theory"):
        read_labels(tmp_path / "set.extxyz", Stated(" "))


@pytest.mark.parametrize(
    ("energy", "force", "words"),
    [
        (units.Hartree, 1.0, "--energy-unit Hartree --forces-unit eV/Angstrom"),
        (units.Hartree, units.Hartree / units.Bohr, "--energy-unit Hartree --forces-unit Hartree/Bohr"),
        (1e-3, 1.0, "wrong order of magnitude"),
        (1.0, 1e-3, "forces are too large"),
        (3.0, 1.0, "per atom"),
        (1.0, -1.0, "do not belong together"),
    ],
)
def test_other_units_are_found_out(tmp_path: Path, energy: float, force: float, words: str) -> None:
    path = written(tmp_path / "set.extxyz", frames(energy, force))
    with pytest.raises(InvalidData) as caught:
        read_labels(path, Stated(LEVEL))
    assert words in str(caught.value)


def test_units_that_are_named_are_converted(tmp_path: Path) -> None:
    plain = read_labels(written(tmp_path / "a.extxyz", frames()), Stated(LEVEL))
    path = written(tmp_path / "b.extxyz", frames(units.Hartree, units.Hartree / units.Bohr))
    found = read_labels(path, Stated(LEVEL, "Hartree", "Hartree/Bohr"))
    # eight digits of Hartree
    np.testing.assert_allclose(found["energy"], plain["energy"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(found["forces"], plain["forces"], rtol=0, atol=1e-6)
    with pytest.raises(InvalidData, match="unit does not fit"):
        read_labels(path, Stated(LEVEL, "parsec"))


def test_what_a_calculator_left_and_what_is_missing(tmp_path: Path) -> None:
    first, second = molecule("H2O"), molecule("H2O")
    first.calc = SinglePointCalculator(first, energy=-14.0, forces=np.zeros((3, 3)), stress=np.arange(6.0))
    second.info |= {"charge": 1, "spin_multiplicity": 2}
    told: list[str] = []
    found = read_labels(written(tmp_path / "a.extxyz", [first, second]), Stated(LEVEL), tell=told.append)
    assert found["energy"].to_numpy()[0] == -14.0
    assert found["status"].to_numpy().tolist() == [0, 1]
    assert found["spin_multiplicity"].to_numpy().tolist() == [1, 2]
    np.testing.assert_array_equal(found["stress"][0], np.arange(6.0))
    assert told == [
        "units are checked by their size alone: taken as eV and eV/Angstrom",
        "1 of 2 frames have no energy; they are marked as undefined",
    ]
    with pytest.raises(InvalidData, match="no energies"):
        read_labels(written(tmp_path / "b.extxyz", [second]), Stated(LEVEL))


@pytest.mark.filterwarnings("ignore::FutureWarning")  # ASE announces that its reader of aims will move
def test_the_output_of_a_program_comes_in_by_its_reader(on: Any, location: Any, tmp_path: Path) -> None:
    pytest.importorskip("tblite")
    water = molecule("H2O")
    ase.io.write(tmp_path / "geometry.in", water, format="aims")
    (tmp_path / "control.in").write_text("xc pbe\ncompute_forces .true.\n")
    with (tmp_path / "run.out").open("w") as output:
        subprocess.run([write_aims(tmp_path / "bin")], cwd=tmp_path, stdout=output, check=True)
    on("import", "run.out", "sets/aims", "--level", "PBE/light (FHI-aims 240920)", "--format", "aims-output")
    found = h5ml.open(location)["sets/aims"].load()
    water.calc = resolve_potential("tblite:GFN1-xTB").calculator()
    assert found["energy"].item() == pytest.approx(water.get_potential_energy(), abs=1e-8)
    np.testing.assert_allclose(found["forces"], water.get_forces(), rtol=0, atol=1e-6)  # printed positions
    assert found["attempt"].item() == -1


def test_absurd_forces_are_marked(tmp_path: Path) -> None:
    images = frames(count=5)
    images[2].arrays["REF_forces"] = images[2].arrays["REF_forces"] + 200.0
    images[2].positions += 5.0  # far from its neighbours in the file, so that only its size tells
    assert read_labels(written(tmp_path / "a.extxyz", images), Stated(LEVEL))["status"].to_numpy().tolist() == [
        0, 0, 4, 0, 0,
    ]  # fmt: skip


def spoiled(path: Path, spoil: Any) -> str:
    """The error, or the remarks, that labels give once they are spoiled."""
    images = frames(count=4)
    spoil(images)
    remarks: list[str] = []
    try:
        read_labels(written(path / "a.extxyz", images), Stated(LEVEL), tell=remarks.append)
    except (InvalidConfig, InvalidData) as error:
        return str(error)
    return "\n".join(remarks)


def _drop(images: list[Atoms], name: str) -> None:
    del images[1].arrays[name]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (
            lambda a: a[1].info.update(REF_energy="much"),
            "frame 1\n  expected: numbers in REF_energy\n  found:    'much'",
        ),
        (lambda a: a.insert(1, Atoms(info={"REF_energy": 1.0})), "frame 1\n  expected: at least one atom"),
        (lambda a: a[1].info.update(charge=0.5), "frame 1\n  expected: a whole charge"),
        (lambda a: a[1].info.update(spin_multiplicity=2), "multiplicity 2 with 10 electrons"),
        (lambda a: [x.info.update(REF_energy=np.nan) for x in a], "energies, but none of 4 is finite"),
        (lambda a: _drop(a, "REF_forces"), "1 of 4 frames have an energy but no forces"),
        (lambda a: a.append(a[1].copy()), "1 of 5 frames equal one before; training sets keep the first"),
        (lambda a: [a.append(a[1].copy()), a[-1].info.update(REF_energy=-150.0)], "energies that differ by up to"),
    ],
)
def test_what_is_wrong_with_a_file_is_named_with_its_frame(tmp_path: Path, spoil: Any, words: str) -> None:
    assert words in spoiled(tmp_path, spoil)
