from __future__ import annotations

import csv
from pathlib import Path

import ase.db
import ase.io
import h5py
import numpy as np
import pytest
import xarray as xr
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator

import h5ml

from .conftest import UREA_CIF

TRAJECTORY = "training/md/trajectory"


def images() -> list[Atoms]:
    rng = np.random.default_rng(1)
    found = []
    for i, formula in enumerate(("H2O", "CO2", "NH3")):
        atoms = Atoms(formula, cell=[8, 9, 10], pbc=[True, True, i == 0])
        atoms.positions = rng.random((len(atoms), 3))
        forces = rng.random((len(atoms), 3))
        results = {"energy": -10.5 - i, "forces": forces, "stress": rng.random(6)}
        atoms.calc = SinglePointCalculator(atoms, **(results if i < 2 else {}))
        atoms.info |= {"config_type": f"type{i}", "temperature": 300.0 + i, "charge": 0}
        atoms.set_velocities(rng.random((len(atoms), 3)))
        found.append(atoms)
    return found


def test_cif_with_its_origin(on, location, tmp_path) -> None:
    from blake3 import blake3

    (tmp_path / "urea.cif").write_text(UREA_CIF)
    text = on("import", "urea.cif", "crystals/urea").stdout
    assert text.startswith("crystals/urea@1: structures (C2H8N4O2, frame 1, atom 16) from urea.cif")
    entry = h5ml.open(location).entry("crystals/urea")
    assert entry.origin == {"file": "urea.cif", "digest": blake3(UREA_CIF.encode()).hexdigest()}
    dataset = h5ml.open(location)["crystals/urea"]
    reference = ase.io.read(tmp_path / "urea.cif")
    np.testing.assert_allclose(dataset["positions"], reference.positions)
    np.testing.assert_allclose(dataset["cell"][0], reference.cell.array)
    assert dataset["pbc"].to_numpy().tolist() == [[1, 1, 1]]


def test_the_key_is_the_name_of_the_file_by_default(on, location, tmp_path) -> None:
    ase.io.write(tmp_path / "POSCAR", ase.Atoms("H", cell=[3, 3, 3], pbc=True))
    on("import", "POSCAR")
    assert "POSCAR" in h5ml.open(location)


def test_extxyz_keeps_everything(on, location, tmp_path) -> None:
    ase.io.write(tmp_path / "set.extxyz", images())
    on("import", "set.extxyz", "sets/a")
    dataset = h5ml.open(location)["sets/a"].load()
    assert dataset["n_atoms"].to_numpy().tolist() == [3, 3, 4]
    np.testing.assert_allclose(dataset["energy"], [-10.5, -11.5, np.nan])
    np.testing.assert_allclose(dataset["stress"][1], images()[1].get_stress(), atol=1e-7)
    np.testing.assert_allclose(dataset["forces"][3:6], images()[1].get_forces(), atol=1e-7)
    assert np.isnan(dataset["forces"][6:]).all()
    velocities = np.concatenate([a.get_velocities() for a in images()]) * units.fs
    np.testing.assert_allclose(dataset["velocities"], velocities, atol=1e-7)
    assert dataset["label"].to_numpy().tolist() == ["type0", "type1", "type2"]
    np.testing.assert_allclose(dataset["temperature"], [300, 301, 302])
    assert dataset["charge"].to_numpy().tolist() == [0, 0, 0]


def test_ase_database_both_ways(on, location, tmp_path) -> None:
    with ase.db.connect(tmp_path / "set.db") as database:
        for atoms in images():
            database.write(atoms, source="here", number=3)
    on("import", "set.db", "sets/db")
    dataset = h5ml.open(location)["sets/db"].load()
    np.testing.assert_allclose(dataset["energy"], [-10.5, -11.5, np.nan])
    assert set(dataset["source"].to_numpy()) == {"here"}
    on("export", TRAJECTORY, "back.db", "--include-equilibration")
    rows = list(ase.db.connect(tmp_path / "back.db").select())
    trajectory = h5ml.open(location)[TRAJECTORY]
    assert len(rows) == 12
    np.testing.assert_allclose([row.energy for row in rows], trajectory["energy"])
    np.testing.assert_allclose(rows[5].toatoms().positions, trajectory["positions"][5])
    assert rows[5].step == 500


def test_extxyz_export_leaves_out_equilibration(on, location, tmp_path) -> None:
    text = on("export", TRAJECTORY, "t.extxyz").stdout
    assert "8 of 12 frames" in text
    assert "4 of equilibration left out" in text
    found = ase.io.read(tmp_path / "t.extxyz", ":")
    dataset = h5ml.open(location)[TRAJECTORY].load()
    assert len(found) == 8
    np.testing.assert_allclose(found[0].positions, dataset["positions"][4], atol=1e-8)
    np.testing.assert_allclose(found[0].get_forces(), dataset["forces"][4], atol=1e-8)
    np.testing.assert_allclose(found[0].get_velocities() * units.fs, dataset["velocities"][4], atol=1e-8)
    np.testing.assert_allclose(found[0].get_stress(), dataset["stress"][4], atol=1e-8)
    assert found[0].info["time_fs"] == 200.0
    assert "masses" not in found[0].arrays


@pytest.mark.parametrize(
    ("frames", "steps"), [("::4", [4, 8]), ("5", [5]), ("-1", [11]), ("6:9", [6, 7, 8]), ("::-5", [11, 6])]
)
def test_frames_are_numbers_of_the_whole_trajectory(on, tmp_path, frames, steps) -> None:
    on("export", TRAJECTORY, "t.xyz", "--frames", frames)
    assert [a.info["step"] for a in ase.io.read(tmp_path / "t.xyz", ":")] == [100 * s for s in steps]


def test_wrong_frames_are_refused(on, tmp_path) -> None:
    for frames, code in (("x", 2), ("1:2:3:4", 2), ("::0", 2), ("50:", 5), (":3", 5)):
        on("export", TRAJECTORY, "t.xyz", "--frames", frames, code=code)
    assert "--include-equilibration" in on("export", TRAJECTORY, "t.xyz", "--frames", ":3", code=5).stderr
    assert list(tmp_path.glob("*.xyz")) == []


def test_h5md_opens_in_mdanalysis(on, location, tmp_path) -> None:
    mda = pytest.importorskip("MDAnalysis")
    on("export", TRAJECTORY, "t.h5md")
    dataset = h5ml.open(location)[TRAJECTORY].load().isel(frame=slice(4, None))
    universe = mda.Universe.empty(8, trajectory=False)
    universe.load_new(str(tmp_path / "t.h5md"), format="H5MD")
    assert len(universe.trajectory) == 8
    for i, step in enumerate(universe.trajectory):
        np.testing.assert_allclose(step.positions, dataset["positions"][i], atol=1e-5)
        np.testing.assert_allclose(step.velocities, dataset["velocities"][i] * 1000, atol=1e-3)  # Angstrom/ps
        np.testing.assert_allclose(step.forces, dataset["forces"][i] * 96.48533212331, rtol=1e-5, atol=1e-3)
        assert step.time == pytest.approx(dataset["time"][i].item() / 1000)
        a, b, c = dataset["cell"][i].to_numpy()
        assert step.dimensions[:3] == pytest.approx([np.linalg.norm(v) for v in (a, b, c)], rel=1e-6)
        angle = np.degrees(np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b)))
        assert step.dimensions[5] == pytest.approx(angle, rel=1e-5)


def test_h5md_follows_the_specification(on, tmp_path) -> None:
    on("export", TRAJECTORY, "t.h5md")
    with h5py.File(tmp_path / "t.h5md") as file:
        assert file["h5md"].attrs["version"].tolist() == [1, 1]
        assert file["h5md/creator"].attrs["name"] == "h5ml"
        assert "name" in file["h5md/author"].attrs
        box = file["particles/trajectory/box"]
        assert box.attrs["dimension"] == 3
        assert box.attrs["boundary"].tolist() == [b"periodic"] * 3
        for name in ("position", "velocity", "force"):
            element = file[f"particles/trajectory/{name}"]
            assert set(element) == {"step", "time", "value"}
            assert element["step"][0] == 400
            assert element["time"].attrs["unit"] == "fs"
        assert file["observables/potential_energy/value"].attrs["unit"] == "eV"
    assert "trajectories" in on("export", "crystals/pair", "x.h5md", code=5).stderr


def test_netcdf_comes_back_with_the_same_digest(on, location) -> None:
    for i, key in enumerate((TRAJECTORY, "crystals/pair")):
        on("export", key, f"{i}.nc", "--include-equilibration")
        on("import", f"{i}.nc", f"back/{i}")
        store = h5ml.open(location)
        assert store.entry(f"back/{i}").digest == store.entry(key).digest


def test_netcdf_is_plain(on, tmp_path) -> None:
    on("export", TRAJECTORY, "t.nc", "--frames", "6:8")
    for engine in ("h5netcdf", "netcdf4"):
        with xr.open_dataset(tmp_path / "t.nc", engine=engine) as dataset:
            assert dataset.sizes["frame"] == 2
            assert dataset["energy"].attrs["units"] == "eV"


def test_ragged_frames_are_cut_with_their_atoms(on, tmp_path) -> None:
    on("export", "crystals/pair", "p.nc", "--frames", "1")
    with xr.open_dataset(tmp_path / "p.nc") as dataset:
        assert dataset["atomic_numbers"].to_numpy().tolist() == [2]
    on("export", "crystals/pair", "p.extxyz")
    found = ase.io.read(tmp_path / "p.extxyz", ":")
    assert [str(a.symbols) for a in found] == ["H2", "He"]
    assert found[0].get_potential_energy() == -31.7
    assert found[1].calc is None


def test_csv_of_a_trajectory_and_of_a_table(on, location, tmp_path) -> None:
    on("export", TRAJECTORY, "t.csv")
    rows = list(csv.DictReader((tmp_path / "t.csv").open()))
    dataset = h5ml.open(location)[TRAJECTORY].load()
    assert len(rows) == 8
    assert [float(row["energy (eV)"]) for row in rows] == dataset["energy"][4:].to_numpy().tolist()
    assert next(iter(rows[0])) in ("step", "time (fs)")
    assert "stress (eV/Angstrom^3) [5]" in rows[0]
    table = xr.Dataset({"x": (("row",), [1.5, 2.5], {"units": "eV"}), "name": (("row",), np.array(["a", "b"], object))})
    h5ml.open(location).write("tables/a", table, "table")
    on("export", "tables/a", "a.csv")
    assert (tmp_path / "a.csv").read_text().splitlines() == ["name,x (eV)", "a,1.5", "b,2.5"]


def test_cif_and_other_formats_of_ase(on, tmp_path) -> None:
    on("export", TRAJECTORY, "t.cif", "--frames", "6")
    assert len(ase.io.read(tmp_path / "t.cif")) == 8
    on("export", TRAJECTORY, "POSCAR", "--format", "vasp", "--frames", "6")
    assert len(ase.io.read(tmp_path / "POSCAR")) == 8
    assert "ASE cannot write" in on("export", TRAJECTORY, "x", "--format", "nonsense", code=5).stderr


def test_a_file_is_not_replaced_unless_forced(on, tmp_path) -> None:
    (tmp_path / "t.csv").write_text("mine")
    on("export", TRAJECTORY, "t.csv", code=2)
    assert (tmp_path / "t.csv").read_text() == "mine"
    on("export", TRAJECTORY, "t.csv", "--force")
    assert (tmp_path / "t.csv").read_text() != "mine"


def test_unknown_suffix_names_the_formats(on, tmp_path) -> None:
    text = on("export", TRAJECTORY, "t.foo", code=2).stderr
    for suffix in (".extxyz", ".h5md", ".cif", ".csv", ".nc", ".db"):
        assert suffix in text


def test_a_full_or_missing_folder_is_said(on, tmp_path) -> None:
    assert "cannot be written" in on("export", TRAJECTORY, "none/t.csv", code=9).stderr


def test_export_without_file_says_how(on) -> None:
    assert "--prov" in on("export", TRAJECTORY, code=2).stderr


def test_remarks_on_what_is_left_out(on, tmp_path) -> None:
    atoms = Atoms("H2", positions=[[0, 0, 0], [0, 0, 1]], info={"odd": {"a": [1]}})
    other = Atoms("H")
    other.info["once"] = 1.0
    ase.io.write(tmp_path / "x.extxyz", [atoms, other])
    result = on("import", "x.extxyz", "x")
    assert "'once' is left out" in result.stderr


def test_pickles_are_refused(on, tmp_path) -> None:
    for name in ("a.pkl", "a.pt"):
        Path(tmp_path / name).write_bytes(b"x")
        assert "can run code" in on("import", name, "x", code=5).stderr


def test_a_model_file_is_refused_without_permission(on, tmp_path) -> None:
    Path(tmp_path / "a.model").write_bytes(b"x")
    assert "--trust-pickle" in on("import", "a.model", "x", code=2).stderr
