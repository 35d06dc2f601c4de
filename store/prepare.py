"""From an xarray Dataset to what an engine can keep: normal dtypes, canonical attributes, chunks and compression."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..schemas.canonical import Attribute, canonical_attributes
from ..schemas.errors import InvalidData
from ..schemas.kind import Kind
from .digest import VariableHeader
from .engine import TEXT, Array, ArrayLayout, GroupLayout

if TYPE_CHECKING:
    import xarray as xr

KEPT_DTYPES = {"<f8", "<f4", "<i8", "<i4", "<i2", "|i1", "|u1", "<u2", "<u4", "<u8"}
REFUSED_ATTRIBUTES = {"scale_factor", "add_offset", "_FillValue", "missing_value", "CLASS", "NAME", "DIMENSION_LIST"}
SMALLEST_CHUNK, LARGEST_CHUNK = 4096, 1 << 20


@dataclass(frozen=True, slots=True)
class Storage:
    """How a dataset shall lie on disk; by default chosen from its kind and shape.

    Parameters
    ----------
    growing : bool
        Whether records will be appended.
    compression : str or None
        ``zstd``, ``gzip``, ``none``, or None for the kind's choice.
    chunk_rows : int or None
        Rows per chunk of every growing array, or None to choose.
    """

    growing: bool = False
    compression: str | None = None
    chunk_rows: int | None = None


@dataclass(slots=True)
class Prepared:
    """A dataset made ready: lazy values, and the headers that the digest needs."""

    kind: Kind
    values: dict[str, Any]
    headers: dict[str, VariableHeader]
    shapes: dict[str, tuple[int, ...]]
    attributes: dict[str, Attribute]
    sizes: dict[str, int]
    storage: Storage = field(default_factory=Storage)

    def layout(self) -> GroupLayout:
        """The group that holds it."""
        grows = tuple(dim for dim in self.kind.grows if dim in self.sizes) if self.storage.growing else ()
        compression = self.storage.compression or self.kind.compression
        arrays = {
            name: _array_layout(header, self.shapes[name], grows, compression, self.storage.chunk_rows)
            for name, header in self.headers.items()
        }
        return GroupLayout(arrays, dict(self.sizes), dict(self.attributes), grows)

    def block(self, name: str, rows: slice) -> Array:
        """Rows of a variable as a plain array of the kept type."""
        header = self.headers[name]
        values = self.values[name]
        part = np.asarray(values) if not header.dims else np.asarray(values[rows])
        if header.dtype == TEXT:
            return np.asarray(part, dtype=object)
        return np.asarray(part, dtype=np.dtype(header.dtype), order="C")


def prepare(dataset: xr.Dataset, kind: Kind, storage: Storage | None = None, *, key: str | None = None) -> Prepared:
    """Check a dataset against its kind and bring it into storable form.

    Raises
    ------
    InvalidData
        If it does not fit the kind, or holds types that not every tool can read.
    """
    kind.check(dataset, key=key)
    values: dict[str, Any] = {}
    headers: dict[str, VariableHeader] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for label in sorted(dataset.variables, key=str):
        name, variable = str(label), dataset.variables[label]
        dtype, attributes = _storable(name, variable, key)
        if len(set(variable.dims)) != len(variable.dims):
            raise InvalidData(
                f"The variable {name} repeats a dimension.",
                key=key,
                expected="distinct names, for example (atom, atom_2)",
                found=str(tuple(variable.dims)),
                hint="rename one of them",
            )
        values[name] = variable.data if variable.dtype.kind != "b" else variable.astype("int8").data
        headers[name] = VariableHeader(tuple(map(str, variable.dims)), dtype, attributes)
        shapes[name] = tuple(variable.shape)
    attributes = canonical_attributes({**dataset.attrs, "kind": kind.name, "schema_version": kind.version})
    sizes = {dim: size for name in headers for dim, size in zip(headers[name].dims, shapes[name], strict=True)}
    return Prepared(kind, values, headers, shapes, attributes, sizes, storage or Storage())


def _storable(name: str, variable: xr.Variable, key: str | None) -> tuple[str, dict[str, Attribute]]:
    attributes = dict(variable.attrs)
    refused = REFUSED_ATTRIBUTES.intersection(map(str, attributes))
    if refused:
        raise InvalidData(
            f"An attribute of {name} has a name that readers interpret.",
            key=key,
            expected="another name",
            found=", ".join(sorted(refused)),
            hint="remove or rename it",
        )
    kind = variable.dtype.kind
    if kind == "b":
        attributes |= {"flag_values": [0, 1], "flag_meanings": "false true"}
        attributes.setdefault("units", "1")
        return "|i1", canonical_attributes(attributes)
    if kind in "OUT":
        return TEXT, canonical_attributes(attributes)
    dtype = variable.dtype.newbyteorder("<").str
    if dtype not in KEPT_DTYPES:
        raise InvalidData(
            f"The variable {name} has a type that not every tool can read.",
            key=key,
            expected="float32, float64, integers or text",
            found=str(variable.dtype),
            hint="store complex numbers as two variables, half floats as float32",
        )
    return dtype, canonical_attributes(attributes)


def _array_layout(
    header: VariableHeader, shape: tuple[int, ...], grows: tuple[str, ...], compression: str | None, rows: int | None
) -> ArrayLayout:
    growing = bool(header.dims) and header.dims[0] in grows
    compression = None if compression == "none" or not shape or header.dtype == TEXT else compression
    chunks = None
    if growing or (compression and 0 not in shape):
        chunks = (rows or chunk_rows(header.dtype, shape, growing=growing), *(max(1, n) for n in shape[1:]))
    return ArrayLayout(header.dims, shape, header.dtype, header.attributes, chunks, compression if chunks else None)


def chunk_rows(dtype: str, shape: tuple[int, ...], *, growing: bool) -> int:
    """Rows per chunk: a whole number of first blocks where data grow, so that block and chunk edges meet."""
    row = max(1, (16 if dtype == TEXT else np.dtype(dtype).itemsize) * int(np.prod(shape[1:], dtype=np.int64)))
    most = max(1, LARGEST_CHUNK // row)
    first = max(1, shape[0])
    if first > most or not growing:
        return min(most, first)
    return int(min(most, first * -(-SMALLEST_CHUNK // (first * row))))


def facts(prepared: Prepared) -> dict[str, Any]:
    """What queries need to know of a dataset: its formulas and elements.

    Returns
    -------
    dict
        ``formulas`` (at most 64 distinct ones, Hill order) and ``elements``; empty for data without atoms.
    """
    name = "atomic_numbers" if "atomic_numbers" in prepared.headers else None
    if name is None:
        return {}
    numbers = np.asarray(prepared.values[name]).astype(np.int64)
    if "n_atoms" in prepared.headers:
        counts = np.asarray(prepared.values["n_atoms"]).astype(np.int64)
        frames = _distinct_frames(numbers, counts)
    else:
        frames = [numbers]
    formulas = sorted({hill_formula(frame) for frame in frames})
    return {"formulas": formulas[:64], "elements": sorted({SYMBOLS[z] for z in np.unique(numbers) if z < len(SYMBOLS)})}


def _distinct_frames(numbers: Array, counts: Array) -> list[Array]:
    frames: dict[bytes, Array] = {}
    ends = np.cumsum(counts)
    for stop, count in zip(ends.tolist(), counts.tolist(), strict=True):
        frame = numbers[stop - count : stop]
        frames.setdefault(frame.tobytes(), frame)
    return list(frames.values())


def hill_formula(numbers: Array) -> str:
    """The formula of some atoms in Hill order (C, H, then the alphabet)."""
    found = {
        SYMBOLS[z] if z < len(SYMBOLS) else f"Z{z}": int((numbers == z).sum()) for z in np.unique(numbers).tolist()
    }
    first = [s for s in ("C", "H") if s in found] if "C" in found else []
    order = first + sorted(s for s in found if s not in first)
    return "".join(s + (str(found[s]) if found[s] > 1 else "") for s in order)


SYMBOLS = tuple(
    (
        "X H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y "
        "Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os "
        "Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh "
        "Fl Mc Lv Ts Og"
    ).split()
)


def merged_facts(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a dataset after an append."""
    return {name: sorted({*old.get(name, ()), *new.get(name, ())})[:128] for name in {*old, *new}}
