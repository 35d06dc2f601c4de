"""Writing datasets to files of other formats."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from ..schemas.errors import InvalidConfig, InvalidData, WrongKind
from .frames import Array, images, selected
from .whole_file import whole_file

if TYPE_CHECKING:
    import xarray as xr

    from ..schemas.kind import Kind
    from ..store.store import Store

_ROWS = 4096


@dataclass(frozen=True, slots=True)
class Chosen:
    """What is to be written.

    Attributes
    ----------
    key : str
        Where it comes from.
    kind : Kind
        Its kind.
    dataset : xarray.Dataset
        All of it, lazy.
    records : numpy.ndarray or None
        The records to write; None where the data have none.
    store : Store or None
        Where frames lie that the data refer to.
    """

    key: str
    kind: Kind
    dataset: xr.Dataset
    records: Array | None
    store: Store | None = None

    @property
    def count(self) -> int:
        """How many records."""
        return 0 if self.records is None else len(self.records)


def write_extxyz(chosen: Chosen, path: Path) -> None:
    """Write structures as extended XYZ; a training set with its targets by the names of MACE."""
    if chosen.kind.name == "training_set":
        from .formats_training import write_extxyz as write_labelled

        write_labelled(chosen, path)
        return
    from ase.io.extxyz import write_extxyz as write

    with path.open("w") as file:
        for atoms in images(chosen.dataset, chosen.kind, chosen.records, key=chosen.key):
            write(file, atoms)


def write_database(chosen: Chosen, path: Path) -> None:
    """Write structures as an ASE database (SQLite)."""
    import ase.db

    with ase.db.connect(str(path), type="db", append=False) as database:
        for atoms in images(chosen.dataset, chosen.kind, chosen.records, key=chosen.key):
            pairs = {name: value for name, value in atoms.info.items() if isinstance(value, str | int | float)}
            pairs = {name: value for name, value in pairs.items() if name != "charge" and _is_word(value)}
            database.write(atoms, key_value_pairs=pairs)


def _is_word(value: object) -> bool:
    """Whether ASE's database takes a value: it refuses texts that read as numbers or truth values."""
    if not isinstance(value, str):
        return True
    try:
        float(value)
    except ValueError:
        return value.lower() not in ("true", "false", "none") and bool(value)
    return False


def write_with_ase(chosen: Chosen, path: Path, name: str) -> None:
    """Write structures in another format that ASE writes."""
    import ase.io

    found = list(images(chosen.dataset, chosen.kind, chosen.records, key=chosen.key))
    try:
        ase.io.write(str(path), found if len(found) > 1 else found[0], format=name)
    except Exception as error:  # noqa: BLE001 - a writer of a foreign format may fail in any way
        raise InvalidData(
            f"ASE cannot write this as {name}.",
            key=chosen.key,
            found=f"{type(error).__name__}: {error}",
            hint="choose one frame with --frames, or another format",
        ) from None


def write_cif(chosen: Chosen, path: Path) -> None:
    """Write structures as CIF, one data block each."""
    write_with_ase(chosen, path, "cif")


def write_netcdf(chosen: Chosen, path: Path) -> None:
    """Write the dataset as a plain netCDF-4 file, one that ``h5ml import`` reads back unchanged."""
    dataset = selected(chosen.dataset, chosen.kind, chosen.records)
    encoding = {
        str(name): {"_FillValue": None} for name, variable in dataset.variables.items() if variable.dtype.kind == "f"
    }
    dataset.to_netcdf(path, engine="h5netcdf", encoding=encoding)


def write_csv(chosen: Chosen, path: Path) -> None:
    """Write one column for every variable along the records; wider ones get a column per component.

    Raises
    ------
    WrongKind
        If the data have no variable along their first growing dimension.
    """
    dataset, along = chosen.dataset, _row_dimension(chosen)
    columns: list[tuple[str, str, int | None]] = []
    for name, variable in dataset.variables.items():
        unit = variable.attrs.get("units")
        title = f"{name} ({unit})" if unit not in (None, "1") else str(name)
        if variable.dims == (along,):
            columns.append((title, str(name), None))
        elif len(variable.dims) == 2 and variable.dims[0] == along and variable.shape[1] <= 64:
            columns += [(f"{title} [{i}]", str(name), i) for i in range(variable.shape[1])]
    if not columns:
        raise WrongKind(
            "There is nothing to put into a table.",
            key=chosen.key,
            expected=f"variables along {along}",
            found=", ".join(f"{name}{tuple(v.dims)}" for name, v in dataset.variables.items()),
            hint="use .nc",
        )
    columns.sort(key=lambda column: column[1] not in ("time", "step"))
    rows = chosen.records if chosen.records is not None else np.arange(dataset.sizes[along])
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([title for title, _, _ in columns])
        for start in range(0, len(rows), _ROWS):
            part = dataset[sorted({name for _, name, _ in columns})].isel({along: rows[start : start + _ROWS]}).load()
            values = {str(name): variable.to_numpy() for name, variable in part.variables.items()}
            table = [values[name] if i is None else values[name][:, i] for _, name, i in columns]
            writer.writerows([[_cell(value) for value in row] for row in zip(*table, strict=True)])


def _row_dimension(chosen: Chosen) -> str:
    if chosen.kind.grows and chosen.kind.grows[0] in chosen.dataset.sizes:
        return chosen.kind.grows[0]
    found = [str(v.dims[0]) for v in chosen.dataset.variables.values() if len(v.dims) == 1]
    if not found:
        raise WrongKind(
            "There is nothing to put into a table.",
            key=chosen.key,
            expected="variables of one dimension",
            found=f"kind {chosen.kind.name}",
            hint="use .nc",
        )
    return max(set(found), key=found.count)


def _cell(value: Any) -> Any:
    return repr(float(value)) if isinstance(value, np.floating) else value


def write_h5md(chosen: Chosen, path: Path) -> None:
    """Write a trajectory as H5MD."""
    from .formats_h5md import write_h5md as write

    write(chosen, path)


def write_phonopy_yaml(chosen: Chosen, path: Path) -> None:
    """Write force constants and their cells as one YAML file of phonopy."""
    from .formats_phonopy import write_yaml as write

    write(chosen, path)


def write_phonopy_hdf5(chosen: Chosen, path: Path) -> None:
    """Write compact force constants as phonopy's HDF5 file."""
    from .formats_phonopy import write_hdf5 as write

    write(chosen, path)


def write_phonopy_text(chosen: Chosen, path: Path) -> None:
    """Write compact force constants as phonopy's text file."""
    from .formats_phonopy import write_text as write

    write(chosen, path)


def write_chemiscope(chosen: Chosen, path: Path) -> None:
    """Write a map of features with its structures for chemiscope."""
    from .formats_chemiscope import write_chemiscope as write

    write(chosen, path)


def write_mace_hdf5(chosen: Chosen, path: Path) -> None:
    """Write a training set as MACE's HDF5 file."""
    from .formats_training import write_mace_hdf5 as write

    write(chosen, path)


def write_model(chosen: Chosen, path: Path) -> None:
    """Write a checkpoint as a model file of mace-torch."""
    from .formats_models import write_model as write

    write(chosen, path)


def write_torchscript(chosen: Chosen, path: Path) -> None:
    """Write a checkpoint as TorchScript."""
    from .formats_models import write_torchscript as write

    write(chosen, path)


def write_lammps(chosen: Chosen, path: Path) -> None:
    """Write a checkpoint for LAMMPS."""
    from .formats_models import write_lammps as write

    write(chosen, path)


def write_mliap(chosen: Chosen, path: Path) -> None:
    """Write a checkpoint for the ML-IAP interface of LAMMPS."""
    from .formats_models import write_mliap as write

    write(chosen, path)


Format = Callable[[Chosen, Path], None]

FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        ".extxyz": write_extxyz,
        ".xyz": write_extxyz,
        ".db": write_database,
        ".h5md": write_h5md,
        ".cif": write_cif,
        ".csv": write_csv,
        ".nc": write_netcdf,
        ".yaml": write_phonopy_yaml,
        ".hdf5": write_phonopy_hdf5,
        ".h5": write_mace_hdf5,
        "FORCE_CONSTANTS": write_phonopy_text,
        ".model": write_model,
        ".pt": write_torchscript,
        ".lammps.pt": write_lammps,
        ".mliap.pt": write_mliap,
        ".chemiscope.json.gz": write_chemiscope,
        ".chemiscope.json": write_chemiscope,
    }
)


def write_file(chosen: Chosen, path: Path, *, name: str | None = None, force: bool = False) -> None:
    """Write to a file, whole or not at all.

    Parameters
    ----------
    chosen : Chosen
        What.
    path : pathlib.Path
        Where; its suffix (or, where it has none, its name) says the format.
    name : str, optional
        ASE's name of another format.
    force : bool
        Whether a file that exists is replaced.

    Raises
    ------
    InvalidConfig
        If the suffix is unknown, or the file exists.
    StoreWriteFailed
        If the operating system refuses.
    """
    if path.exists() and not force:
        raise InvalidConfig("The file exists.", key=path, hint="take another name, or add --force")
    double = "".join(path.suffixes).lower()
    ends = (end for end in FORMATS if end.count(".") > 1 and double.endswith(end))
    writer = FORMATS.get(next(ends, path.suffix.lower() or path.name))
    if writer is None and name is None:
        raise InvalidConfig(
            "The name does not say which format to write.",
            key=path,
            expected=", ".join(FORMATS),
            found=path.suffix or "no suffix",
            hint="add --format NAME for another format that ASE writes (vasp, xyz, traj, ...)",
        )
    with whole_file(path) as part:
        if name is not None:
            write_with_ase(chosen, part, name)
        elif writer is not None:
            writer(chosen, part)
