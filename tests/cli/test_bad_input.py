"""A user's mistakes: each gives one clear message and the documented exit code, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import ase.io
import h5py
import numpy as np
import pytest
import xarray as xr
from ase import Atoms

import h5ml
from h5ml.schemas.kinds import TRAJECTORY as TRAJECTORY_KIND

from .conftest import make_structures, make_trajectory

TRAJECTORY = "training/md/trajectory"


@pytest.fixture
def fails(on, location: Path) -> Callable[..., str]:
    """Call a command that must fail, and see that the store's bytes are as before."""

    def run(*arguments: str, code: int) -> str:
        before = location.read_bytes()
        result = on(*arguments, code=code)
        assert location.read_bytes() == before
        assert result.stdout == ""
        assert 1 <= len(result.stderr.strip().splitlines()) <= 8, result.stderr
        return str(result.stderr)

    return run


@pytest.mark.parametrize(
    "command",
    ["show {}", "export {} x.csv", "plot {} x.png", "tag {} a", "note {} a", "rm {}", "purge {}", "mv {} b", "log {}"],
)
def test_unknown_key_names_the_nearest(fails, command: str) -> None:
    text = fails(*command.format("training/md/trajectry").split(), code=3)
    assert text.startswith("There is no such key")
    assert TRAJECTORY in text


def test_unknown_version(fails) -> None:
    assert "@7" in fails("show", f"{TRAJECTORY}@7", code=3)


@pytest.mark.parametrize("key", ["a//b", ".hidden", "a@x", "a*b", "a/../b"])
def test_illegal_key(fails, tmp_path, key: str) -> None:
    ase.io.write(tmp_path / "x.extxyz", Atoms("H"))
    text = fails("import", "x.extxyz", key, code=2)
    assert "This cannot be a key" in text or "version" in text


def test_wrong_kind(fails) -> None:
    text = fails("plot", "crystals/pair", "x.png", code=5)
    assert "trajectory" in text
    assert "structures" in text


def test_unknown_kind(fails, tmp_path) -> None:
    make_structures().to_netcdf(tmp_path / "x.nc")
    assert "did you mean structures" in fails("import", "x.nc", "x", "--kind", "structurs", code=5)


def test_wrong_unit_in_netcdf(fails, tmp_path) -> None:
    dataset = make_trajectory()
    dataset["positions"].attrs["units"] = "nm"
    dataset.to_netcdf(tmp_path / "x.nc")
    text = fails("import", "x.nc", "x", code=5)
    assert "wrong unit" in text
    assert "Angstrom" in text
    assert "nm" in text


def test_nan_in_positions(fails, tmp_path) -> None:
    (tmp_path / "x.extxyz").write_text('2\nProperties=species:S:1:pos:R:3 pbc="F F F"\nH 0 0 0\nH 0 nan 1\n')
    text = fails("import", "x.extxyz", "x", code=5)
    assert "NaN" in text
    assert "(1, 1)" in text


def test_nan_in_positions_of_netcdf(fails, tmp_path) -> None:
    dataset = make_trajectory()
    dataset["positions"][3, 2, 1] = np.nan
    dataset.to_netcdf(tmp_path / "x.nc")
    assert "(3, 2, 1)" in fails("import", "x.nc", "x", code=5)


def test_missing_variable_in_netcdf(fails, tmp_path) -> None:
    make_trajectory().drop_vars("velocities").to_netcdf(tmp_path / "x.nc")
    assert "velocities" in fails("import", "x.nc", "x", code=5)


def test_netcdf_without_kind(fails, tmp_path) -> None:
    xr.Dataset({"x": (("row",), [1.0])}).to_netcdf(tmp_path / "x.nc")
    assert "--kind" in fails("import", "x.nc", "x", code=5)


@pytest.mark.parametrize("name", ["x.cif", "x.extxyz", "POSCAR", "x.nc", "x.db", "x.unknown", "x.traj"])
def test_unreadable_files(fails, tmp_path, name: str) -> None:
    (tmp_path / name).write_bytes(b"this is\nno such\n\x00file")
    assert "cannot be read" in fails("import", name, "x", code=5)


def test_no_such_file(fails) -> None:
    assert "does not exist" in fails("import", "none.cif", "x", code=2)


def test_key_exists(fails, tmp_path) -> None:
    ase.io.write(tmp_path / "x.extxyz", Atoms("H"))
    text = fails("import", "x.extxyz", "crystals/pair", code=4)
    assert "--new-version" in text
    assert "below another key" in fails("import", "x.extxyz", "crystals/pair/x", code=4)
    assert "other keys" in fails("import", "x.extxyz", "training", code=4)
    assert fails("mv", "crystals/pair", TRAJECTORY, code=4)


def test_new_version_of_a_key_that_exists(on, location, tmp_path) -> None:
    ase.io.write(tmp_path / "x.extxyz", Atoms("H"))
    on("import", "x.extxyz", "crystals/pair", "--new-version")
    assert h5ml.open(location).entry("crystals/pair").version == 2


# --- files that are no store, or a damaged one -------------------------------------------------------------------


def _plain(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(10)


def _truncated(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def _garbage(path: Path) -> None:
    path.write_bytes(b"no HDF5 at all" * 100)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _newer(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file[".h5ml/log"].attrs["h5ml_format"] = 99


def _older(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file[".h5ml/log"].attrs["h5ml_format"] = 0


@pytest.mark.parametrize(
    ("spoil", "code", "word"),
    [
        (_plain, 6, "no h5ml store"),
        (_truncated, 7, ""),
        (_garbage, 6, ""),
        (_empty, 6, ""),
        (_newer, 6, "newer"),
        (_older, 6, "upgrade"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
@pytest.mark.parametrize("command", ["ls", "show training/md/trajectory", "tag training/md/trajectory a", "upgrade"])
def test_a_file_that_is_no_good_store(fails, location, spoil, code, word, command) -> None:
    spoil(location)
    text = fails(*command.split(), code=code)
    assert str(location) in text or "store" in text
    assert word in text


def test_unknown_schema_version(on, location, tmp_path) -> None:
    h5ml.open(location).write("new/trajectory", make_trajectory(), replace(TRAJECTORY_KIND, version=99))
    for command in (["export", "new/trajectory", "x.csv"], ["plot", "new/trajectory", "x.png"]):
        text = on(*command, code=5).stderr
        assert "schema version 99" in text
        assert "newer h5ml" in text
    assert list(tmp_path.glob("x.*")) == []


def test_unknown_schema_version_in_netcdf(fails, tmp_path) -> None:
    dataset = make_trajectory().assign_attrs(kind="trajectory", schema_version=99)
    dataset.to_netcdf(tmp_path / "x.nc")
    assert "schema version 99" in fails("import", "x.nc", "x", code=5)


def test_no_store_there(call, tmp_path) -> None:
    for command in ("ls", "audit", "compact", "upgrade"):
        text = call(command, "--store", "none.h5", code=6).stderr
        assert "h5ml init none.h5" in text
    assert list(tmp_path.iterdir()) == []


def test_a_read_only_store_is_read_and_not_changed(location, program) -> None:
    import os

    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    location.chmod(0o444)
    assert program("ls", "--store", location, cwd=location.parent).returncode == 0
    assert program("tag", TRAJECTORY, "a", "--store", location, cwd=location.parent).returncode == 9
