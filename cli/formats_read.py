"""Reading files of other formats into datasets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..schemas.errors import H5mlError, InvalidData
from ..schemas.kinds import STRUCTURES, kind_named

if TYPE_CHECKING:
    import xarray as xr
    from ase import Atoms

NETCDF_SUFFIXES = frozenset({".nc", ".nc4", ".cdf", ".netcdf"})
DATABASE_SUFFIXES = frozenset({".db", ".aselmdb"})
REFUSED_SUFFIXES = frozenset({".pkl", ".pickle", ".pckl", ".pt", ".pth", ".model", ".npz"})
HDF5_SUFFIXES = frozenset({".h5", ".hdf5"})
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
LABEL_NAMES = ("label", "name", "config_type")
_STANDARD_ARRAYS = frozenset(
    {"numbers", "positions", "momenta", "masses", "forces", "force", "tags", "spacegroup_kinds"}
)
_NOISE = frozenset({"spacegroup", "unit_cell", "occupancy"})  # ASE's reader of CIF leaves these behind
_MASS_TOLERANCE = 1e-6

Tell = Callable[[str], None]


def _silent(_: str) -> None:
    """Tell no one."""


def file_origin(path: Path) -> dict[str, str]:
    """Where imported data came from: the file's name and the BLAKE3 digest of its bytes."""
    from blake3 import blake3

    digest = blake3()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return {"file": path.name, "digest": digest.hexdigest()}


def is_hdf5(path: Path) -> bool:
    """Whether a file that is no netCDF file by its name is an HDF5 file, by its first bytes or its name."""
    if path.suffix.lower() in NETCDF_SUFFIXES | DATABASE_SUFFIXES | REFUSED_SUFFIXES:
        return False
    with path.open("rb") as file:
        return file.read(8) == HDF5_SIGNATURE or path.suffix.lower() in HDF5_SUFFIXES


def read_file(
    path: Path, kind: str | None = None, *, tell: Tell = _silent, name: str | None = None, index: str = ":"
) -> xr.Dataset:
    """Read a file.

    Parameters
    ----------
    path : pathlib.Path
        netCDF of a kind, or anything that ASE reads.
    kind : str, optional
        What it is; by default the attribute ``kind`` of a netCDF file, and structures for all others.
    tell : callable
        Receives remarks on what is left out.
    name : str, optional
        ASE's name of the format, where the file's name does not tell.
    index : str
        Which structures, as ASE writes it.

    Raises
    ------
    InvalidData
        If it cannot be read, or does not fit the kind.
    """
    if path.suffix.lower() in REFUSED_SUFFIXES:
        raise InvalidData(
            "Such files are not imported: reading them can run code, or they say nothing of their units.",
            key=path,
            expected="CIF, POSCAR, extxyz, an ASE db, netCDF, or another format that ASE reads",
            found=path.suffix,
            hint="a model of mace-torch becomes a checkpoint with `h5ml import FILE.model --trust-pickle`",
        )
    if path.suffix.lower() in NETCDF_SUFFIXES:
        return read_netcdf(path, kind)
    if kind not in (None, "structures"):
        raise InvalidData(
            "Labels need their level of theory." if kind == "labels" else "This file holds structures.",
            key=path,
            expected="--level TEXT" if kind == "labels" else "kind structures (or a netCDF file of another kind)",
            found=f"--kind {kind}",
        )
    return structures(read_images(path, name, index), tell=tell)


def read_netcdf(path: Path, kind: str | None = None) -> xr.Dataset:
    """Read a netCDF file of one of our kinds, without changing a value."""
    import xarray as xr

    try:
        with xr.open_dataset(path, engine="h5netcdf", decode_cf=False) as opened:
            dataset = opened.load()
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise _unreadable(path, error, "a netCDF-4 file") from None
    named = kind or dataset.attrs.get("kind")
    if named is None:
        raise InvalidData(
            "The file does not say of which kind its data are.",
            key=path,
            expected="an attribute kind",
            found="none",
            hint="add --kind NAME; `h5ml kinds` lists them",
        )
    dataset.attrs["kind"] = str(named)
    for variable in dataset.variables.values():
        variable.attrs.pop("_FillValue", None)
        variable.attrs.pop("coordinates", None)
        variable.encoding.clear()
    found = dataset.attrs.get("schema_version", 1)
    version = found.item() if hasattr(found, "item") else found
    known = kind_named(str(named))
    known.check_version(version, path)
    known.check(dataset, key=str(path))
    return dataset


def read_images(path: Path, name: str | None = None, index: str = ":") -> list[Atoms]:
    """Structures of a file (all of them by default), by ASE."""
    import ase.io

    try:
        if path.suffix.lower() in DATABASE_SUFFIXES and name is None:
            return _read_database(path, index)
        found = ase.io.read(str(path), index=index, format=name, do_not_split_by_at_sign=True)
    except H5mlError:
        raise
    except Exception as error:  # noqa: BLE001 - a reader of a foreign format may fail in any way
        raise _unreadable(path, error, "a format that ASE reads") from None
    images: list[Atoms] = list(found) if isinstance(found, list) else [found]
    if not images:
        raise _unreadable(path, "no structures in it", "at least one structure")
    return images


def _read_database(path: Path, index: str) -> list[Atoms]:
    import ase.db

    from .frames import parse_slice

    images = []
    for row in ase.db.connect(str(path)).select():
        atoms = row.toatoms()
        atoms.info.update(row.key_value_pairs)
        images.append(atoms)
    if not images:
        raise _unreadable(path, "no rows in it", "at least one row")
    return images[parse_slice(index)]


def _unreadable(path: Path, error: object, expected: str) -> InvalidData:
    text = f"{type(error).__name__}: {error}" if isinstance(error, Exception) else str(error)
    return InvalidData(
        "The file cannot be read.",
        key=path,
        expected=expected,
        found=" ".join(text.split())[:300],
        hint="name the format with --format (as in ASE), or repair the file",
    )


# --- from ASE's structures to a dataset --------------------------------------------------------------------------


def structures(images: Sequence[Atoms], *, tell: Tell = _silent) -> xr.Dataset:
    """A dataset of kind ``structures`` with everything that the images carry.

    Parameters
    ----------
    images : sequence of ase.Atoms
        Energies, forces and stresses are taken from their calculators, NaN where one lacks them.
    tell : callable
        Receives remarks on what is left out.
    """
    counts = np.array([len(atoms) for atoms in images])
    values: dict[str, Any] = {
        "n_atoms": counts,
        "positions": np.concatenate([atoms.get_positions() for atoms in images]),
        "atomic_numbers": np.concatenate([atoms.get_atomic_numbers() for atoms in images]),
        "cell": np.array([atoms.cell.array for atoms in images]),
        "pbc": np.array([atoms.pbc for atoms in images]).astype(np.int8),
        "masses": _masses(images),
        "velocities": _velocities(images),
        "energy": _results(images, "energy", (), per_atom=False),
        "forces": _results(images, "forces", (3,), per_atom=True),
        "stress": _results(images, "stress", (6,), per_atom=False),
    }
    used = {"energy", "forces", "stress", "free_energy"}
    label = next((n for n in LABEL_NAMES if any(n in atoms.info for atoms in images)), None)
    if label is not None:
        values["label"] = np.array([str(atoms.info.get(label, "")) for atoms in images], dtype=object)
        used.add(label)
    for name in ("charge", "spin_multiplicity"):
        if all(name in atoms.info for atoms in images):
            values[name] = np.array([atoms.info[name] for atoms in images])
            used.add(name)
    values |= _extra_info(images, used, tell) | _extra_arrays(images, tell)
    if any(atoms.constraints for atoms in images):
        tell("constraints are not kept in a store (give them to the module: --fixed-atoms)")
    return STRUCTURES.dataset(values, {"kind": "structures"})


def _masses(images: Sequence[Atoms]) -> np.ndarray[Any, Any] | None:
    from ase.data import atomic_masses

    masses = np.concatenate([atoms.get_masses() for atoms in images])
    standard = atomic_masses[np.concatenate([atoms.get_atomic_numbers() for atoms in images])]
    return None if np.allclose(masses, standard, rtol=0, atol=_MASS_TOLERANCE, equal_nan=True) else masses


def _velocities(images: Sequence[Atoms]) -> np.ndarray[Any, Any] | None:
    from ase import units

    if not all(atoms.has("momenta") for atoms in images):
        return None
    return np.concatenate([atoms.get_velocities() for atoms in images]) * units.fs


def _results(
    images: Sequence[Atoms], name: str, shape: tuple[int, ...], *, per_atom: bool
) -> np.ndarray[Any, Any] | None:
    """Results of the images' calculators; NaN where one has none, None where no one has any."""
    found = [_result(atoms, name) for atoms in images]
    if all(value is None for value in found):
        return None
    rows = []
    for atoms, value in zip(images, found, strict=True):
        wanted = (len(atoms), *shape) if per_atom else shape
        array = np.full(wanted, np.nan) if value is None else np.asarray(value, dtype=float)
        rows.append(array)
    return np.concatenate(rows) if per_atom else np.array(rows)


def _result(atoms: Atoms, name: str) -> Any:
    results = getattr(atoms.calc, "results", {}) if atoms.calc is not None else {}
    value = results.get(name)
    if value is None:
        return None
    if name == "stress" and np.shape(value) == (3, 3):
        full = np.asarray(value)
        return np.array([full[0, 0], full[1, 1], full[2, 2], full[1, 2], full[0, 2], full[0, 1]])
    return value


def _extra_info(images: Sequence[Atoms], used: set[str], tell: Tell) -> dict[str, Any]:
    """Numbers and texts of ``atoms.info`` that every image has, as variables along the frames."""
    names = list(dict.fromkeys(str(name) for atoms in images for name in atoms.info if name not in used | _NOISE))
    found: dict[str, Any] = {}
    for name in names:
        values = [atoms.info.get(name) for atoms in images]
        good = name.isidentifier() and STRUCTURES.variable(name) is None
        if good and all(isinstance(v, bool | np.bool_) for v in values):
            flags = {"flag_values": [0, 1], "flag_meanings": "no yes"}
            found[name] = (("frame",), np.array(values, dtype=np.int8), flags)
        elif good and all(isinstance(v, int | float | np.number) for v in values):
            array = np.array(values)
            kind = np.int64 if array.dtype.kind in "iu" else np.float64
            found[name] = (("frame",), array.astype(kind), {})
        elif good and all(isinstance(v, str) for v in values):
            found[name] = (("frame",), np.array(values, dtype=object), {})
        else:
            tell(f"{name!r} is left out: it is not a number or a text in every structure")
    return found


def _extra_arrays(images: Sequence[Atoms], tell: Tell) -> dict[str, Any]:
    """Per-atom arrays of numbers that every image has, as variables along the atoms."""
    names = list(dict.fromkeys(name for atoms in images for name in atoms.arrays if name not in _STANDARD_ARRAYS))
    found: dict[str, Any] = {}
    for name in names:
        arrays = [atoms.arrays.get(name) for atoms in images]
        good = name.isidentifier() and STRUCTURES.variable(name) is None and all(a is not None for a in arrays)
        kinds = {a.dtype.kind for a in arrays if a is not None}
        shapes = {a.shape[1:] for a in arrays if a is not None}
        if good and kinds <= {"i", "u", "f"} and len(shapes) == 1 and len(next(iter(shapes))) <= 1:
            dims = ("atom", f"{name}_component")[: 1 + len(next(iter(shapes)))]
            values = np.concatenate([a for a in arrays if a is not None])
            found[name] = (dims, values.astype(np.float64 if "f" in kinds else np.int64), {})
        else:
            tell(f"the atoms' {name!r} is left out: it is not an array of numbers in every structure")
    return found
