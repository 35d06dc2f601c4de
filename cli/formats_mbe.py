"""Importing mbe-automation files, with a report that accounts for every array and attribute."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from ..schemas.errors import H5mlError, InvalidData
from ..schemas.key import Key
from ..schemas.kinds import TABLE
from .formats_mbe_file import Group, Item, opened, read_group
from .formats_mbe_frames import Unfit, structures
from .formats_mbe_lattice import bands, force_constants
from .formats_mbe_molecules import finite_subsystem, molecular_crystal, table
from .formats_mbe_names import key_of, layout_of, other_names, segment_of
from .formats_mbe_parts import Part, Row, attribute_row
from .formats_read import file_origin

if TYPE_CHECKING:
    from ..store.store import Store

NAME = "mbe-automation"
REPORTS = "imports"
COLUMNS = ("path", "what", "attribute", "dtype", "shape", "key", "variable", "rule", "value", "left")
Converter = Callable[[Group], list[Part]]
# The objects of such files: what is never absent from one, and the groups inside it that belong to it.
_CLASSES: tuple[tuple[str, tuple[str, ...], Converter, tuple[str, ...]], ...] = (
    ("ForceConstants", ("force_constants", "primitive", "supercell"), force_constants, ("primitive", "supercell")),
    ("MolecularCrystal", ("index_map", "supercell"), molecular_crystal, ("supercell",)),
    ("FiniteSubsystem", ("molecule_indices", "cluster_of_molecules"), finite_subsystem, ("cluster_of_molecules",)),
    ("BrillouinZonePath", ("path_connections", "frequencies_segment_0"), bands, ()),
    ("Structure", ("positions", "atomic_numbers"), structures, ("ground_truth",)),
)
_TABLES = frozenset({"EOSCurves", "EOSMetadata", "EEC", "DebyeModel", "AtomicReference", "Trajectory"})


@dataclass(slots=True)
class Imported:
    """What an import did.

    Attributes
    ----------
    layout : str
        ``seed``, ``head``, or ``either`` where nothing in the file tells them apart.
    keys : dict of str to str
        The imported keys and their kinds.
    aliases : dict of str to str
        Other names and the keys that they stand for.
    rows : list of Row
        One per group, array and attribute of the file.
    report : str
        The key that the rows lie at.
    """

    layout: str
    keys: dict[str, str] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    report: str = ""

    def counts(self) -> dict[str, dict[str, int]]:
        """How many arrays and attributes were found, placed and left out."""
        found = {}
        for what in ("array", "attribute"):
            rows = [row for row in self.rows if row.what == what]
            left = sum(bool(row.left) for row in rows)
            found[f"{what}s"] = {"found": len(rows), "placed": len(rows) - left, "left": left}
        return found


def recognised(path: Path) -> bool:
    """Whether a file is one of mbe-automation: an HDF5 file with at least one of its objects, and no store."""
    if not h5py.is_hdf5(path):
        return False
    found: list[str] = []

    def look(_: str, thing: h5py.Group | h5py.Dataset) -> bool | None:
        if isinstance(thing, h5py.Group) and _is_object(thing):
            found.append(str(thing.name))
        return True if found else None

    with opened(path) as file:
        if ".h5ml" not in file:
            file.visititems(look)
    return bool(found)


def _is_object(group: h5py.Group) -> bool:
    from .formats_mbe_names import parsed

    stems = {parsed(name)[0] for name in group}
    spoken = str(group.attrs.get("dataclass", ""))
    known = {name for name, *_ in _CLASSES} | _TABLES
    return spoken in known or any(stems.issuperset(needed) for _, needed, *_ in _CLASSES if len(stems) > 2)


def import_file(store: Store, path: Path, root: str = "", *, new_version: bool = False) -> Imported:
    """Import a file, all of it in one transaction.

    Parameters
    ----------
    store : Store
        Where to.
    path : pathlib.Path
        The file.
    root : str
        Path above the keys, which are otherwise named as in the file.
    new_version : bool
        Whether keys that exist get a new version.

    Returns
    -------
    Imported
        The report; it also lies in the store, under ``ROOT/imports``.

    Raises
    ------
    InvalidData
        If it is no such file, or an array has a wrong shape or unit. Then the store is as it was.
    InvalidKey
        If the name of a group cannot be a key.
    KeyTaken
        If a key exists.
    """
    if not recognised(path):
        raise _not_one(path)
    with opened(path) as file:
        tree = read_group(file)
    items = {item.full_name: item for group in tree.walk() for item in group.arrays}
    parts = list(_parts(tree))
    for part in parts:
        part.secure(items)
    parts += [part.extra for part in parts if part.extra is not None]
    names = _keys(parts, root)
    report = key_of(f"{REPORTS}/{segment_of(path.stem)}", root)
    done = Imported(_layout(tree), report=report)
    done.rows = _rows(tree, parts, names, report)
    origin = file_origin(path)
    with store.transaction(f"import {path.name} ({NAME})") as transaction:
        for part, key in zip(parts, names, strict=True):
            transaction.write(key, part.dataset(), part.kind, new_version=new_version, origin=origin)
            done.keys[key] = part.kind.name
        for name, key in _aliases(store, parts, names, root):
            transaction.alias(name, key)
            done.aliases[name] = key
        transaction.write(report, _table(done, root), TABLE, new_version=new_version, origin=origin)
    return done


def _not_one(path: Path) -> InvalidData:
    hint, found = "`h5ml import` also reads what ASE reads, and netCDF files of h5ml's kinds", "no such object in it"
    if not h5py.is_hdf5(path):
        found = "no HDF5 file"
    else:
        with opened(path) as file:
            if ".h5ml" in file:
                found, hint = "a store of h5ml", "`h5ml copy SOURCE TARGET` brings keys from another store"
    return InvalidData(
        "This is no file of mbe-automation; nothing was imported.",
        key=path,
        expected="an HDF5 file with structures, trajectories, force constants or molecular crystals of mbe-automation",
        found=found,
        hint=hint,
    )


# --- from groups to datasets -----------------------------------------------------------------------------------------


def _parts(group: Group) -> Iterator[Part]:
    """The datasets that a group and all below it become."""
    inside: tuple[str, ...] = ()
    stems = {item.stem for item in group.arrays} | set(group.children)
    for _name, needed, converter, own in _CLASSES:
        if not stems.issuperset(needed):
            continue
        try:
            yield from converter(group)
        except H5mlError:
            raise
        except (Unfit, TypeError, ValueError, IndexError):  # an object that only looks like one: kept as a table
            continue
        inside = tuple(child for child in own if child in group.children)
        break
    else:
        if any(item.values is not None for item in group.arrays):
            yield from table(group)
    for child_name, child in group.children.items():
        if child_name not in inside:
            yield from _parts(child)
        else:
            yield from (part for below in _strangers(child) for part in _parts(below))


def _strangers(group: Group) -> Iterator[Group]:
    """Groups inside a part of an object that such files do not have there."""
    for name, child in group.children.items():
        if name == "ground_truth":
            yield from child.children.values()
        else:
            yield child


def _keys(parts: list[Part], root: str) -> list[Key]:
    """The keys of the parts; a key above others becomes ``KEY_data``, because data and keys cannot lie together."""
    names = [key_of(part.path or "file", root) + part.suffix for part in parts]
    above = {name.rsplit("/", n)[0] for name in names for n in range(1, name.count("/") + 1)}
    found: list[Key] = []
    for name in names:
        wanted = f"{name}_data" if name in above else name
        taken = {*found, *(above if wanted != name else ())}
        free = next(n for n in (wanted, *(f"{wanted}_{i}" for i in range(2, len(names) + 3))) if n not in taken)
        found.append(Key(free))
    return found


def _rows(tree: Group, parts: list[Part], names: list[Key], report: str) -> list[Row]:
    """All rows, each with its key; what no part has taken stands in the report itself, or is left out with a reason."""
    rows: list[Row] = []
    for part, key in zip(parts, names, strict=True):
        for row in part.rows:
            row.key = "" if row.left else key
            rows.append(row)
    seen = {(row.path, row.attribute) for row in rows}
    for group in tree.walk():
        rows.append(Row(group.path, "group", key=report))
        rows += [_bare(item, report) for item in group.arrays if (item.full_name, "") not in seen]
        for item in group.attributes:
            path = f"{group.path}/{item.owner}".strip("/") if item.owner else group.path
            if (path, item.name) not in seen:
                row = attribute_row(item, path, "value")
                row.key = "" if row.left else report
                rows.append(row)
    return sorted(rows, key=lambda row: (row.path, row.what != "group", row.what == "attribute", row.attribute))


def _bare(item: Item, report: str) -> Row:
    """The row of an array that holds nothing, or that cannot be kept."""
    left = item.problem
    key, rule = ("", "") if left else (report, "null")
    return Row(item.full_name, "array", "", item.dtype, item.shape, key, "", rule, "", left)


def _aliases(store: Store, parts: list[Part], names: list[Key], root: str) -> Iterator[tuple[Key, Key]]:
    """Names that the objects have had, where they are free: below the root, and as the file had them."""
    taken = {*names, *(f"{REPORTS}",)}
    for part, key in zip(parts, names, strict=True):
        paths = [part.path] if part.path and not part.suffix else []
        paths += [f"{part.path}/supercell"] if part.suffix == "_supercell" else []
        paths += [f"{part.path}/cluster_of_molecules"] if part.kind.name == "clusters" else []
        for old in (name for path in paths for name in other_names(path)):
            for name in dict.fromkeys((key_of(old, root), key_of(old))):
                if name not in taken and store.catalogue.resolve(name) not in store.catalogue:
                    taken.add(name)
                    yield name, key


def _layout(tree: Group) -> str:
    found = {layout_of(group.path) for group in tree.walk()} - {None}
    if len(found) == 1:
        return str(found.pop())
    spoken = any(item.name == "dataclass" for group in tree.walk() for item in group.attributes)
    return "head" if spoken else "either"


def _table(done: Imported, root: str) -> Any:
    """The rows as a table, from which the file can be written again."""
    columns = {name: (("row",), np.array([getattr(row, name) for row in done.rows], dtype=object)) for name in COLUMNS}
    return TABLE.dataset(columns, {"kind": "table", "file_format": NAME, "layout": done.layout, "root": root})
