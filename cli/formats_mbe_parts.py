"""Datasets made from mbe-automation files, with the way back of every array.

An array of the file becomes a variable by one of a few rules, each of which can be undone. Whether undoing it gives
the same bits is tried at once; where it does not (a total energy divided by its atoms may differ in the last bit), the
array is kept beside it as it was.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from ..schemas.kind import Kind
from ..schemas.kinds import OBSERVABLES
from .formats_mbe_file import NULL, Group, Item, Values, encoded, sizes_of
from .formats_mbe_names import attribute_name, identifier

if TYPE_CHECKING:
    import xarray as xr

EXTRA = "_extra"
FLAGS = MappingProxyType({"flag_values": [0, 1], "flag_meanings": "false true", "units": "1"})


@dataclass(slots=True)
class Row:
    """One line of the report: an array, attribute or group of the file, and where it went.

    Attributes
    ----------
    path : str
        The group or array in the file.
    attribute : str
        The name of the attribute; empty for arrays and groups.
    what : {"array", "attribute", "group"}
        What it is.
    dtype, shape : str
        As in the file.
    key, variable, rule : str
        Where it lies in the store, and how it comes back. ``@name`` is an attribute of the dataset.
    value : str
        The value of an attribute.
    left : str
        Why it was left out; empty where it was not.
    """

    path: str
    what: str
    attribute: str = ""
    dtype: str = ""
    shape: str = ""
    key: str = ""
    variable: str = ""
    rule: str = ""
    value: str = ""
    left: str = ""


@dataclass(slots=True)
class Part:
    """A dataset in the making, and the rows of what went into it.

    Attributes
    ----------
    path : str
        The group of the file.
    kind : Kind
        What it becomes.
    suffix : str
        What the key has beyond the path.
    records : tuple of str and int, optional
        The dimension of arrays of that length that are kept as they are.
    values, attributes : dict
        The variables and attributes.
    rows : list of Row
        What came from where.
    kept : set of str
        Arrays that are stored as they were.
    extra : Part, optional
        What the kind has no place for.
    """

    path: str
    kind: Kind
    suffix: str = ""
    records: tuple[str, int] | None = None
    values: dict[str, Any] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    kept: set[str] = field(default_factory=set)
    extra: Part | None = None

    def put(self, item: Item | None, name: str, values: Any, rule: str = "as is", **of: Any) -> None:
        """Store an array of the file as a variable.

        Parameters
        ----------
        item : Item, optional
            The array; nothing is done where there is none.
        name : str
            The variable.
        values : array
            What to store.
        rule : str
            How the array comes back from it.
        **of
            ``dims`` and ``units`` for variables that the kind does not name.
        """
        if item is None or item.values is None:
            return
        self.set(name, values, **of)
        self.row(item, name, rule)

    def set(self, name: str, values: Any, dims: tuple[str, ...] | None = None, units: str = "1") -> None:
        """Store a variable that comes back from others."""
        named = dims is None or self.kind.variable(name) is not None
        self.values[name] = values if named else (dims, values, {"units": units})

    def row(self, item: Item, name: str, rule: str) -> None:
        """Say where an array went."""
        self.rows.append(Row(item.full_name, "array", "", item.dtype, item.shape, "", name, rule))

    def keep(self, item: Item, dims: tuple[str, ...] | None = None) -> None:
        """Store an array as it was, under its own name."""
        if item.values is None:
            left = item.problem
            rule = "" if left else NULL
            self.rows.append(Row(item.full_name, "array", "", item.dtype, item.shape, "", "", rule, "", left))
            return
        if not self.kind.open:
            self.companion().keep(item, dims)
            return
        name = self.free_name(identifier(item.stem))
        values, rule = verbatim(item)
        if dims is None and self.records is not None and item.values.shape[:1] == (self.records[1],):
            dims = (self.records[0],)
        dims = None if rule == "bytes" else dims
        axes = (*(dims or ()), *(f"{name}_axis_{i}" for i in range(values.ndim)))[: values.ndim]
        attributes: dict[str, Any] = {} if values.dtype.kind == "O" else {"units": item.unit or "1"}
        if item.dtype.endswith("b1"):
            attributes = dict(FLAGS)
        self.values[name] = (axes, values, attributes)
        self.kept.add(item.full_name)
        self.rows.append(Row(item.full_name, "array", "", item.dtype, item.shape, "", name, rule))

    def keep_rest(self, *groups: Group, taken: Collection[str] = ()) -> None:
        """Keep the arrays of groups that no rule has taken."""
        used = {row.path for row in self.rows}.union(taken)
        for item in (item for group in groups for item in group.arrays):
            if item.full_name not in used:
                self.keep(item)

    def companion(self) -> Part:
        """Where this kind has no place for an array: the observables beside it."""
        if self.extra is None:
            records = None if self.records is None else (OBSERVABLES.grows[0], self.records[1])
            self.extra = Part(self.path, OBSERVABLES, self.suffix + EXTRA, records)
        return self.extra

    def free_name(self, name: str) -> str:
        """The name, or one like it that is not taken by a variable or a dimension."""
        dims = {dim for value in self.values.values() if isinstance(value, tuple) for dim in value[0]}
        taken = {*self.values, *dims, *(v.name for v in self.kind.variables)}
        taken |= {dim for v in self.kind.variables for dim in v.dims} | {*self.kind.grows}
        other = f"{name}_imported"
        return next(n for n in (name, other, *(f"{other}_{i}" for i in range(2, len(taken) + 3))) if n not in taken)

    def add_attributes(self, group: Group, prefix: str = "") -> None:
        """Keep the attributes of a group, and those of its arrays."""
        for item in group.attributes:
            name = attribute_name("_".join(p for p in (prefix, item.owner, item.name) if p))
            path = f"{group.path}/{item.owner}".strip("/") if item.owner else group.path
            if not item.problem:
                self.attributes[name] = _as_attribute(item.values)
            self.rows.append(attribute_row(item, path, f"@{name}"))

    def dataset(self) -> xr.Dataset:
        """The dataset, checked against its kind."""
        return self.kind.dataset(self.values, {"kind": self.kind.name, **self.attributes})

    def secure(self, items: Mapping[str, Item], only: Collection[str] | None = None) -> None:
        """Keep each array that its rule does not give back bit for bit; say so where even that is not exact."""
        dataset = self.dataset()
        again: set[str] = set()
        for row in list(self.rows):
            if row.what != "array" or not row.variable or (only is not None and row.path not in only):
                continue
            item = items[row.path]
            if same_bits(restored(row.rule, row.variable, dataset, row.dtype, row.shape), item):
                continue
            if row.path in self.kept:
                del self.values[row.variable]
                row.variable, row.rule, row.left = "", "", "its bits cannot be kept in a type that every tool reads"
            else:
                self.rows.remove(row)
                self.keep(item)
                again.add(row.path)
        if again:
            self.secure(items, again)
        if self.extra is not None and only is None:
            self.extra.secure(items)


def _as_attribute(values: Values | None) -> Any:
    if values is None:
        return None
    return str(values) if values.dtype.kind == "c" else values.tolist()


def attribute_row(item: Item, path: str, variable: str) -> Row:
    """The row of an attribute."""
    value = "" if item.problem else encoded(item.values)
    return Row(path, "attribute", item.name, item.dtype, item.shape, "", variable, "as is", value, item.problem)


def verbatim(item: Item) -> tuple[Values, str]:
    """The values of an array in a type that a store keeps, and the rule of the way back."""
    values = item.values
    assert values is not None
    if values.dtype.kind == "c":
        parts = np.ascontiguousarray(values).astype(values.dtype.newbyteorder("="))
        return np.stack([parts.real, parts.imag], axis=-1), "complex"
    if values.dtype.kind == "b":
        return values.astype(np.int8), "as is"
    if values.dtype.kind == "f" and values.dtype.itemsize not in (4, 8):
        return (values.astype(np.float32), "as is") if values.dtype.itemsize == 2 else (_bytes(values), "bytes")
    if values.dtype.kind == "O" and any("\ud800" <= c <= "\udfff" for text in values.reshape(-1) for c in text):
        return np.vectorize(lambda text: text.encode("utf-8", "surrogateescape").hex(), otypes=[object])(values), "hex"
    return values, "as is"


def _bytes(values: Values) -> Values:
    return np.frombuffer(values.tobytes(), dtype=np.uint8)


def restored(rule: str, name: str, dataset: xr.Dataset, dtype: str, shape: str) -> Values:
    """An array of the file from its variable.

    Rules: ``as is``; ``first`` (it is repeated for every frame); ``per atom N``; ``rows A:B``; ``transposed``;
    ``index map``; ``full`` (force constants, from the compact ones by translations); ``complex``, ``bytes``, ``hex``.
    """
    values = dataset[name].to_numpy()
    word, _, detail = rule.partition(" ")
    sizes = sizes_of(shape)
    if word == "first":
        values = values.reshape(-1)[: int(np.prod(sizes))]
    elif word == "per":
        values = values / int(detail.split()[-1])
    elif word == "rows":
        start, stop = map(int, detail.split(":"))
        values = values[start:stop]
    elif word == "transposed":
        values = values.T
    elif word == "index":
        values = _index_map(values, sizes[-1])
    elif word == "full":
        from .formats_mbe_lattice import full_force_constants

        values = full_force_constants(dataset)
    elif word == "complex":
        values = np.ascontiguousarray(values).view(np.complex64 if values.dtype.itemsize == 4 else np.complex128)
    elif word == "bytes":
        values = np.frombuffer(values.tobytes(), dtype=np.dtype(dtype))
    elif word == "hex":
        decode = np.vectorize(lambda text: bytes.fromhex(text).decode("utf-8", "surrogateescape"), otypes=[object])
        values = decode(values)
    values = values.reshape(sizes)
    return values.astype(object) if dtype.startswith("text") else values.astype(np.dtype(dtype))


def _index_map(molecule_of_atom: Values, width: int) -> Values:
    rows = [np.flatnonzero(molecule_of_atom == molecule) for molecule in range(int(molecule_of_atom.max()) + 1)]
    return np.array([np.pad(row[:width], (0, max(0, width - len(row))), constant_values=-1) for row in rows])


def same_bits(found: Values, item: Item) -> bool:
    """Whether an array came back exactly."""
    wanted = item.values
    if wanted is None or found.shape != wanted.shape:
        return False
    return found.tolist() == wanted.tolist() if wanted.dtype.kind == "O" else found.tobytes() == wanted.tobytes()
