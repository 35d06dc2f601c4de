"""Writing mbe-automation files: imported ones as they were, other keys as far as such files have a place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import h5py

from ..schemas.errors import InvalidConfig, InvalidData, UnknownKey
from ..schemas.key import Key
from .formats_mbe_file import NULL, decoded, write_array, write_attribute
from .formats_mbe_names import LAYOUTS, in_layout
from .formats_mbe_native import write_native
from .formats_mbe_parts import Row, restored
from .whole_file import whole_file

if TYPE_CHECKING:
    import xarray as xr

    from ..store.catalogue import Entry
    from ..store.store import Store

NAME = "mbe-automation"
_DATACLASSES = MappingProxyType(
    {
        "trajectory": "Trajectory",
        "structures": "Structure",
        "force_constants": "ForceConstants",
        "molecular_crystal": "MolecularCrystal",
        "clusters": "FiniteSubsystem",
        "phonons": "BrillouinZonePath",
    }
)


@dataclass(slots=True)
class Exported:
    """What an export wrote.

    Attributes
    ----------
    arrays, attributes : int
        How many of imported files came back.
    keys : list of str
        Keys of the store that were written.
    left : dict of str to str
        Keys that such files have no place for, and why.
    """

    arrays: int = 0
    attributes: int = 0
    keys: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)


def export_file(store: Store, root: str, path: Path, *, layout: str | None = None, force: bool = False) -> Exported:
    """Write every key below a path (or one key) to a file of mbe-automation.

    What was imported from such files comes back bit for bit: the report of the import says how.

    Parameters
    ----------
    store : Store
        Where from.
    root : str
        A key, or the path above keys; empty for the whole store.
    path : pathlib.Path
        The file.
    layout : {"seed", "head"}, optional
        By default that of the imported file, and ``head`` for other keys.
    force : bool
        Whether a file that exists is replaced.

    Raises
    ------
    UnknownKey
        If there is nothing to write, or something imported is gone.
    InvalidConfig
        If the file exists, or there is no such layout.
    """
    if layout not in (None, *LAYOUTS):
        raise InvalidConfig("There is no such layout.", expected=" or ".join(LAYOUTS), found=layout)
    path_above, root = root.strip("/"), store.catalogue.resolve(root.strip("/"))
    entries = store.entries(root)
    if path_above != root:  # an alias may stand where keys lie below
        entries += [entry for entry in store.entries(path_above) if entry not in entries]
    if not entries:
        raise UnknownKey("There is nothing to write.", key=root, hint="`h5ml ls` shows the keys")
    done = Exported()
    with _whole(path, force=force) as file:
        covered: set[str] = set()
        for report in (entry for entry in store.entries() if entry.attributes.get("file_format") == NAME):
            covered |= _write_imported(store, report, root, file, layout, done)
        for entry in entries:
            if entry.key not in covered:
                _write_native_key(store, entry, file, layout or "head", root, done)
        if not done.keys:
            raise InvalidData(
                "Such a file has no place for any of these keys.",
                key=root,
                expected="trajectories, structures, clusters or force constants",
                found="; ".join(f"{key}: {why}" for key, why in list(done.left.items())[:3]),
                hint="export them as .nc or .extxyz",
            )
    return done


@contextmanager
def _whole(path: Path, *, force: bool) -> Iterator[h5py.File]:
    """A file that takes its name when it is finished."""
    if path.exists() and not force:
        raise InvalidConfig("The file exists.", key=path, hint="take another name, or add --force")
    with whole_file(path) as part, h5py.File(part, "w") as file:
        yield file


# --- imported files --------------------------------------------------------------------------------------------------


def _write_imported(
    store: Store, report: Entry, root: str, file: h5py.File, layout: str | None, done: Exported
) -> set[str]:
    """Write what one import brought below a path; returns the keys that it stands for."""
    rows = [row for row in _rows(store.dataset(report.reference)) if not row.left]
    if not Key(report.key).is_under(root):
        rows = [row for row in rows if Key(store.catalogue.resolve(row.key)).is_under(root)]
    if not rows:
        return set()
    moved = layout is not None and any(in_layout(row.path, layout) != row.path for row in rows)
    bare = _bare_groups(rows) if moved else set()
    datasets = _Datasets(store, report)
    for row in rows:
        target = in_layout(row.path, layout) if layout is not None else row.path
        if row.what == "group":
            if row.path not in bare:
                file.require_group(target or "/")
        elif row.what == "array":
            group, _, name = target.rpartition("/")
            values = (
                None
                if row.shape == NULL
                else restored(row.rule, row.variable, datasets.of(row.key), row.dtype, row.shape)
            )
            write_array(file.require_group(group or "/"), name, values, row.dtype)
            done.arrays += 1
    for row in rows:
        if row.what == "attribute":
            target = in_layout(row.path, layout) if layout is not None else row.path
            thing = file[target] if target and target in file else file.require_group(target or "/")
            write_attribute(thing, row.attribute, decoded(row.value, row.dtype, row.shape), row.dtype)
            done.attributes += 1
    if moved and layout == "head":
        _add_dataclasses(file, rows, datasets)
    keys = {datasets.resolved(row.key) for row in rows if row.key}
    done.keys += sorted(keys - {report.key})
    return keys | {report.key}


def _rows(dataset: xr.Dataset) -> list[Row]:
    columns = {name: dataset[name].to_numpy().tolist() for name in Row.__dataclass_fields__}
    return [Row(**dict(zip(columns, values, strict=True))) for values in zip(*columns.values(), strict=True)]


def _bare_groups(rows: list[Row]) -> set[str]:
    """Groups that only hold other groups: the other layout has others in their place."""
    above = {row.path.rpartition("/")[0] for row in rows if row.what == "group"} - {""}
    held = {row.path.rpartition("/")[0] for row in rows if row.what == "array"}
    return above - held - {row.path for row in rows if row.what == "attribute"}


def _add_dataclasses(file: h5py.File, rows: list[Row], datasets: _Datasets) -> None:
    """The later layout says what each object is; the first one did not."""
    for row in rows:
        if row.what == "array" and row.variable in ("positions", "force_constants", "molecule_of_atom", "frequency"):
            group = file[in_layout(row.path, "head").rpartition("/")[0]]
            kind = str(datasets.of(row.key).attrs.get("kind", ""))
            inner = kind == "clusters" and group.name.endswith("/cluster_of_molecules")
            thing = group.parent if inner else group
            thing.attrs.setdefault("dataclass", _DATACLASSES.get(kind, kind))
            if inner:
                group.attrs.setdefault("dataclass", "Structure")


class _Datasets:
    """The datasets of one import, each read once: those versions that came with its report."""

    def __init__(self, store: Store, report: Entry) -> None:
        self._store, self._report = store, report
        self._known: dict[str, xr.Dataset] = {}

    def resolved(self, key: str) -> str:
        """The present name of a key."""
        return self._store.catalogue.resolve(key)

    def of(self, key: str) -> xr.Dataset:
        """The dataset of a key."""
        if key not in self._known:
            versions = self._store.catalogue.entries.get(self.resolved(key), {})
            own = [entry for entry in versions.values() if entry.origin == self._report.origin and not entry.purged]
            if not own:
                raise UnknownKey(
                    "An imported key is gone, so the file cannot be written as it was.",
                    key=key,
                    expected=f"data from {self._report.origin.get('file')}",
                    found="removed, purged or never copied here",
                    hint="import the file again, or export the other keys one by one",
                )
            self._known[key] = self._store.dataset(max(own, key=lambda entry: entry.version).reference)
        return self._known[key]


def _write_native_key(store: Store, entry: Entry, file: h5py.File, layout: str, root: str, done: Exported) -> None:
    """Write a key that did not come from such a file."""
    name = entry.key if entry.key != root else entry.key.rpartition("/")[2]
    why = write_native(file, in_layout(name, layout), entry.kind, store.dataset(entry.reference), layout)
    if why:
        done.left[entry.key] = why
    else:
        done.keys.append(entry.key)
