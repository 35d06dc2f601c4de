"""Files of mbe-automation: imported with nothing lost, found by their old names, and written again bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import h5ml
from h5ml.cli.formats_mbe import import_file
from h5ml.cli.formats_mbe_lattice import full_force_constants
from h5ml.cli.formats_mbe_names import in_layout, parsed
from h5ml.cli.formats_mbe_write import export_file
from h5ml.store.audit import audit
from h5ml.store.store import Store
from h5ml.tests.kits.mbe import METHOD, OPT, PHONONS, PLACES, SUPERCELL, A, copper, write_file

from .conftest import make_trajectory

PER = "\u2215"
Things = dict[tuple[str, str], Any]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write one file of each layout."""
    folder = tmp_path_factory.mktemp("mbe")
    return {layout: write_file(folder / f"{layout}.hdf5", layout) for layout in PLACES}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Make an empty store."""
    return h5ml.open(tmp_path / "store.h5", make=True)


def content(path: Path) -> Things:
    """Every group, array and attribute of a file: type, shape and bytes."""
    found: Things = {}

    def look(name: str, thing: h5py.Group | h5py.Dataset) -> None:
        found[name, ""] = facts_of(thing.dtype, thing[()]) if isinstance(thing, h5py.Dataset) else "group"
        for attribute in thing.attrs:
            kind = thing.attrs.get_id(attribute).dtype
            found[name, attribute] = facts_of(kind, thing.attrs[attribute])

    with h5py.File(path) as file:
        look("", file)
        file.visititems(look)
    return found


def facts_of(dtype: Any, value: Any) -> Any:
    if isinstance(value, h5py.Empty):
        return str(dtype), "null"
    array = np.asarray(value)
    text = h5py.check_string_dtype(dtype)
    return str(dtype), text, array.shape, array.tolist() if array.dtype.kind in "OU" else array.tobytes()


@pytest.mark.parametrize(("layout", "engine"), [("seed", "h5"), ("head", "h5"), ("head", "icechunk")])
def test_a_file_comes_back_bit_for_bit(files, tmp_path, layout: str, engine: str) -> None:
    store = h5ml.open(tmp_path / f"store.{engine}", make=True)
    done = import_file(store, files[layout])
    export_file(store, "", tmp_path / "back.hdf5")
    before, after = content(files[layout]), content(tmp_path / "back.hdf5")
    left = {(row.path, row.attribute) for row in done.rows if row.left}
    assert left == {("notes/pairs", "")}  # a compound type, which no kind can hold: said, and nothing else
    assert {name: facts for name, facts in before.items() if name not in left} == after
    assert done.layout == layout
    assert audit(store).findings == []
    store.close()


@pytest.mark.parametrize("layout", ["seed", "head"])
def test_the_report_accounts_for_every_array_and_attribute(files, store, layout: str) -> None:
    done = import_file(store, files[layout], "old")
    names = content(files[layout])
    assert {(row.path, row.attribute) for row in done.rows} == set(names)
    assert len(done.rows) == len(names)
    counts = done.counts()
    assert counts["attributes"]["found"] == sum(1 for _, attribute in names if attribute)
    for row in done.rows:
        assert bool(row.key) != bool(row.left)
        if row.key and row.variable.startswith("@"):
            assert row.variable[1:] in store.entry(row.key).attributes
        elif row.key and row.variable:
            assert row.variable in store[row.key]
    assert all(key.startswith("old/") for key in done.keys)
    assert store[done.report].sizes["row"] == len(names)


def test_values_are_in_the_units_of_the_store(files, store) -> None:
    import_file(store, files["seed"])
    places = PLACES["seed"]
    trajectory = store[places["trajectory"]].load()
    with h5py.File(files["seed"]) as file:
        old = {parsed(name)[0]: values[()] for name, values in file[places["trajectory"]].items()}
        truth = {
            name: values[()] for name, values in file[f"{places['clusters']}/cluster_of_molecules/ground_truth"].items()
        }
    np.testing.assert_allclose(trajectory["energy"], old["E_pot"] * 6, rtol=1e-15)
    np.testing.assert_allclose(trajectory["volume"], np.linalg.det(trajectory["cell"]), rtol=1e-12)
    np.testing.assert_array_equal(trajectory["equilibration"], old["time"] < 150)
    assert trajectory["pbc"].to_numpy().tolist() == [1, 1, 1]
    assert trajectory.attrs["target_pressure_GPa"] == 1e-4
    np.testing.assert_array_equal(store[places["trajectory"] + "_features"]["source_atom"][:7], [0, 1, 2, 3, 4, 5, 0])
    labels = store[f"{places['clusters']}_labels/{METHOD.replace('/', '_')}"].load()
    assert labels.attrs["level_of_theory"] == METHOD
    assert labels["status"].to_numpy().tolist() == [0, 0, 2, 1, 3]
    assert labels["converged"].to_numpy().tolist() == [1, 1, 0, 0, 0]
    energies = truth[f"E_{METHOD.replace('/', PER)} (eV{PER}atom)"]
    np.testing.assert_allclose(labels["energy"], 4 * energies, rtol=1e-15)
    clusters = store[places["clusters"]]
    assert clusters["molecule"].to_numpy()[:4].tolist() == [0, 0, 1, 1]
    table = store["training/quasi_harmonic/thermodynamics"]
    assert table["F_vib_crystal"].attrs["units"] == "kJ/mol/unit cell"
    assert table["V"].attrs["units"] == "Angstrom^3/unit cell"


def test_force_constants_are_those_of_phonopy(files, store) -> None:
    """The compact form and the supercell matrix give phonopy the bands that it had computed itself."""
    from phonopy import Phonopy
    from phonopy.structure.atoms import PhonopyAtoms

    import_file(store, files["head"])
    reference = copper()
    dataset = store[PLACES["head"]["force_constants"]].load()
    assert dataset["force_constants"].shape[0] == 1
    np.testing.assert_allclose(full_force_constants(dataset), reference.force_constants, atol=1e-10)
    cell = PhonopyAtoms(
        numbers=dataset["primitive_numbers"], positions=dataset["primitive_positions"], cell=dataset["primitive_cell"]
    )
    phonons = Phonopy(cell, supercell_matrix=dataset["supercell_matrix"].to_numpy().T)
    np.testing.assert_array_equal(dataset["supercell_matrix"].to_numpy().T, 2 * np.array(SUPERCELL))
    phonons.force_constants = dataset["force_constants"].to_numpy()
    bands = store[PLACES["head"]["bands"]].load()
    phonons.run_qpoints(bands["q_point"].to_numpy())
    # the square root of a rounding error at the zone centre: sqrt(1e-14) eV/Angstrom^2 is about 1e-6 THz
    np.testing.assert_allclose(phonons.qpoints.frequencies, bands["frequency"], atol=1e-5)


@pytest.mark.parametrize("layout", ["seed", "head"])
def test_every_old_name_finds_its_key(files, tmp_path, call, layout: str) -> None:
    store = h5ml.open(tmp_path / "store.h5", make=True)
    import_file(store, files[layout], "old")
    store.close()
    for name, real in PLACES[layout].items():
        for places in PLACES.values():
            for old in (places[name], f"old/{places[name]}"):
                assert store.entry(old).key == f"old/{real}"
    misspelt = f"{PHONONS}/{OPT.replace('opt:', 'opt ')}/force_constants"
    shown = call("show", misspelt, store=tmp_path / "store.h5").stdout
    assert f"old/{PLACES[layout]['force_constants']}@1" in shown
    call("show", f"{PLACES[layout]['clusters']}/cluster_of_molecules", store=tmp_path / "store.h5")


@pytest.mark.parametrize(("layout", "other"), [("seed", "head"), ("head", "seed")])
def test_the_other_layout_has_the_same_arrays_elsewhere(files, store, tmp_path, layout: str, other: str) -> None:
    done = import_file(store, files[layout])
    export_file(store, "", tmp_path / "other.hdf5", layout=other)
    before, after = content(files[layout]), content(tmp_path / "other.hdf5")
    for row in done.rows:
        if row.what == "array" and not row.left:
            assert after[in_layout(row.path, other), ""] == before[row.path, ""]
    for name in PLACES[other].values():
        assert (name, "") in after
    if other == "head":
        assert after[PLACES[other]["trajectory"], "dataclass"][-1] == "Trajectory"
    assert not any(PLACES[layout]["trajectory"] in path for path, _ in after)


def test_what_was_imported_is_written_after_moves_and_new_versions(files, store, tmp_path) -> None:
    import_file(store, files["seed"])
    store.write("notes", store[PLACES["seed"]["force_constants"]].load(), "force_constants", new_version=True)
    with store.transaction() as transaction:
        transaction.move("training", "years/2025")
    export_file(store, "", tmp_path / "back.hdf5")
    before = {name: facts for name, facts in content(files["seed"]).items() if name[0] != "notes/pairs"}
    assert content(tmp_path / "back.hdf5") == before


def test_a_molecule_that_crosses_a_face_is_made_whole(tmp_path, store) -> None:
    write_file(tmp_path / "old.hdf5", "head")
    place = PLACES["head"]["crystal"]
    with h5py.File(tmp_path / "old.hdf5", "r+") as file:
        positions = file[f"{place}/supercell/positions ({A})"]
        positions[...] %= 8.0  # the third molecule is cut by the face at x = 8
    import_file(store, tmp_path / "old.hdf5")
    crystal = store[place].load()
    whole = crystal["positions"] + crystal["image"].to_numpy() @ crystal["cell"].to_numpy()
    pairs = whole.to_numpy().reshape(3, 2, 3)
    np.testing.assert_allclose(np.linalg.norm(pairs[:, 0] - pairs[:, 1], axis=1), 1.1, atol=1e-12)
    assert np.abs(crystal["image"]).sum() > 0


def test_keys_of_the_store_are_written_for_it_too(tmp_path, call, location) -> None:
    said = call("export", "training", "new.hdf5", "--format", "mbe-automation", "--layout", "seed", store=location)
    assert "1 keys" in said.stdout
    trajectory = make_trajectory()
    with h5py.File(tmp_path / "new.hdf5") as file:
        group = file["training/md/trajectory"]
        np.testing.assert_allclose(group[f"E_pot (eV{PER}atom)"], trajectory["energy"] / 8)
        assert group.attrs["ensemble"] == "NPT"
    call("init", "second.h5")
    call("import", "new.hdf5", store=tmp_path / "second.h5")
    again = h5ml.open(tmp_path / "second.h5")["training/md/trajectory"]
    for name in ("positions", "velocities", "cell", "temperature"):
        np.testing.assert_array_equal(again[name], trajectory[name])
    np.testing.assert_allclose(again["energy"], trajectory["energy"], rtol=1e-15)
    np.testing.assert_array_equal(again["equilibration"], trajectory["equilibration"])


def test_the_command_prints_the_report(files, tmp_path, call) -> None:
    call("init", "store.h5")
    path = tmp_path / "store.h5"
    said = call("import", files["head"], store=path).stdout
    assert "80 arrays: 79 placed, 1 left out" in said
    assert "left out" in next(line for line in said.splitlines() if line.startswith("notes/pairs"))
    facts = json.loads(call("import", files["head"], "again", "--json", store=path).stdout)
    assert facts["counts"]["arrays"] == {"found": 80, "placed": 79, "left": 1}
    assert len([row for row in facts["rows"] if row["what"] == "array"]) == 80
    call("import", files["head"], code=4, store=path)  # the keys are there
    assert f"{facts['counts']['attributes']['found']} attributes" in (
        call("export", "again", "back.hdf5", "--format", "mbe-automation", store=path).stdout
    )


def test_frames_that_are_not_finite_are_kept_as_they_are(tmp_path, store) -> None:
    write_file(tmp_path / "old.hdf5", "head")
    place = PLACES["head"]["trajectory"]
    with h5py.File(tmp_path / "old.hdf5", "r+") as file:
        file[f"{place}/positions ({A})"][-1] = np.nan  # a simulation that exploded
        file[f"{PLACES['head']['crystal']}/index_map"][0] = 4
    import_file(store, tmp_path / "old.hdf5")
    assert store.entry(place).kind in ("table", "thermodynamics")
    assert store.entry(PLACES["head"]["crystal"] + "_data").kind == "table"
    export_file(store, "", tmp_path / "back.hdf5")
    before = {name: facts for name, facts in content(tmp_path / "old.hdf5").items() if name[0] != "notes/pairs"}
    assert content(tmp_path / "back.hdf5") == before


def test_links_are_left_out_with_a_word(files, tmp_path, store) -> None:
    path = tmp_path / "linked.hdf5"
    path.write_bytes(files["head"].read_bytes())
    with h5py.File(path, "r+") as file:
        file["notes/soft"] = h5py.SoftLink("/nowhere")
        file["notes/round"] = file["/"]
    left = {row.path: row.left for row in import_file(store, path).rows if row.left}
    assert left.keys() == {"notes/pairs", "notes/soft", "notes/round"}
    assert all("link" in why for name, why in left.items() if name != "notes/pairs")


def test_a_part_of_an_import_is_written_alone(files, store, tmp_path) -> None:
    import_file(store, files["seed"])
    export_file(store, "training/md_sampling", tmp_path / "part.hdf5")
    before, after = content(files["seed"]), content(tmp_path / "part.hdf5")
    assert after == {n: f for n, f in before.items() if n in after}
    wanted = {n for n in before if n[0].startswith("training/md_sampling/")}
    assert {n for n in after if n[0].startswith("training/md_sampling/")} == wanted
    assert not any("quasi" in path for path, _ in after)


# --- files that are not good -----------------------------------------------------------------------------------------

TRAJECTORY = PLACES["head"]["trajectory"]


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def not_hdf5(path: Path) -> None:
    path.write_bytes(b"nothing of the kind")


def neither_layout(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["x"] = [1, 2, 3]


def a_store(path: Path) -> None:
    path.unlink()
    h5ml.open(path, make=True).close()


def another_unit(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.move(f"{TRAJECTORY}/positions ({A})", f"{TRAJECTORY}/positions (furlong)")


def another_shape(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file[f"{TRAJECTORY}/forces (eV{PER}{A})"]
        file[f"{TRAJECTORY}/forces (eV{PER}{A})"] = np.zeros((12, 5, 3))


def no_label(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.move(TRAJECTORY, f"{TRAJECTORY}@2")


@pytest.mark.parametrize(
    ("spoil", "says", "code"),
    [
        (cut_off, "truncated", 5),
        (not_hdf5, "no HDF5 file", 5),
        (neither_layout, "no such object", 5),
        (a_store, "h5ml copy", 5),
        (another_unit, "furlong", 5),
        (another_shape, "(12, 5, 3)", 5),
        (no_label, "'@'", 2),
    ],
)
def test_a_bad_file_changes_nothing(
    files, tmp_path, call, location, spoil: Callable[[Path], None], says: str, code: int
) -> None:
    path = tmp_path / "bad.hdf5"
    path.write_bytes(files["head"].read_bytes())
    spoil(path)
    before = h5ml.open(location).root_digest
    assert says in call("import", path, code=code, store=location).stderr
    assert h5ml.open(location).root_digest == before


def test_a_bad_export_leaves_no_file(call, location, tmp_path) -> None:
    call("export", "crystals/pair", "x.hdf5", "--format", "mbe-automation", code=5, store=location)
    call("export", "nothing", "x.hdf5", "--format", "mbe-automation", code=3, store=location)
    call("export", "crystals/pair", "x.nc", "--layout", "seed", code=2, store=location)
    assert list(tmp_path.glob("*x.*")) == []


@pytest.mark.parametrize("sign", ["\u212b", "\u00c5", "A\u030a"])
def test_all_spellings_of_a_unit_are_read(sign: str) -> None:
    assert parsed(f"force_constants (eV\u2215{sign}²)") == ("force_constants", "eV/Angstrom^2")
    assert parsed(f"V ({sign}³/atom)") == ("V", "Angstrom^3/atom")
    assert parsed("E_PBE(D3) (eV\u2215atom)") == ("E_PBE(D3)", "eV/atom")
