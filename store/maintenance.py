"""Keeping a store in order: copying between stores, garbage collection, compaction, and who takes how much space."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ..schemas.key import Key
from .audit_data import nbytes, unknown_groups
from .catalogue import Catalogue, Entry
from .digest import row_blocks
from .engine import Reader, Writer
from .log import LOG_PATH
from .store import Store
from .transfer import CopyReport, copy
from .work import RESTARTS, STASHES, Work

__all__ = ["CopyReport", "GcReport", "Item", "Usage", "compact", "copy", "copy_groups", "du", "gc"]

COPY_BYTES = 8 << 20


# --- garbage collection ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that garbage collection removes.

    Attributes
    ----------
    what : {"version", "restart", "stash", "orphan"}
        ``version``: the payload of an older version of a key; its lineage and digests stay.
    name : str
        ``KEY@VERSION``, the id of a run, or a path.
    bytes : int
        Bytes of its values, before compression.
    why : str
        One sentence.
    """

    what: str
    name: str
    bytes: int
    why: str


@dataclass(slots=True)
class GcReport:
    """What garbage collection removed, or would remove.

    Attributes
    ----------
    items : list of Item
        What.
    dry_run : bool
        Whether nothing was changed.
    leftovers : list of str
        Files beside the store and groups that no commit made: only reported.
    kept : dict of str to str
        Older versions that stay, each with what is there in its newest version and was made of it.
    """

    items: list[Item] = field(default_factory=list)
    dry_run: bool = False
    leftovers: list[str] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Bytes of all items; ``compact`` gives them back to the file system."""
        return sum(item.bytes for item in self.items)


def gc(store: Store, *, dry_run: bool = False, keep_versions: int = 0, restarts: bool = False) -> GcReport:
    """Remove what nobody needs any more, in one transaction.

    - Payloads of older versions, except the last ``keep_versions`` of each key, those with a tag, and those that the
      newest version of another key was made of (``purge`` drops these too). Their lineage and digests stay, and
      ``replay`` can restore them.
    - Kept results of maps whose run is done.
    - Restart states that nothing can be continued from: no run of that prefix is unfinished, and none has data in
      the store. The restart state of a finished run stays, because a longer run continues from it, unless
      ``restarts`` says that this is not wanted.
    - Restart and stash groups that the log does not know.

    Parameters
    ----------
    store : Store
        What to clean.
    dry_run : bool
        Only say what would be done.
    keep_versions : int
        How many older versions of each key to keep.
    restarts : bool
        Whether restart states of finished runs go too.

    Returns
    -------
    GcReport
    """
    report = GcReport(dry_run=dry_run, leftovers=leftovers(store))
    options: dict[str, Any] = {"keep_versions": keep_versions, "restarts": restarts, "report": report}
    if dry_run:
        with store.engine.reading() as reader:
            report.items = _garbage(reader, store.catalogue, **options)
            report.leftovers += _strangers(reader, store.catalogue)
        return report

    def collect(work: Work) -> None:
        report.items = _garbage(work.writer, work.catalogue, **options)
        for item in report.items:
            _remove(work, item)

    store.execute([collect], "gc")
    with store.engine.reading() as reader:
        report.leftovers += _strangers(reader, store.catalogue)
    return report


def _garbage(
    reader: Reader, catalogue: Catalogue, *, keep_versions: int, restarts: bool, report: GcReport
) -> list[Item]:
    items = []
    needed = _needed(catalogue)
    for key in sorted(catalogue.entries):
        older = sorted(catalogue.entries[key])[:-1]
        for version in older[: max(0, len(older) - keep_versions)]:
            entry = catalogue.entries[key][version]
            if entry.purged or entry.tags:
                continue
            if entry.reference in needed:
                report.kept[entry.reference] = needed[entry.reference]
            else:
                why = f"an older version; @{max(catalogue.entries[key])} is the newest"
                items.append(Item("version", entry.reference, group_bytes(reader, entry.path), why))
    for identity in catalogue.stashes:
        run = catalogue.runs.get(identity)
        if run is not None and run.status == "done":
            size = group_bytes(reader, f"{STASHES}/{identity}")
            items.append(Item("stash", identity, size, f"the run of {run.root_key} is done"))
    for identity in catalogue.restarts:
        why = _restart_is_garbage(catalogue, identity, finished=restarts)
        if why:
            items.append(Item("restart", identity, group_bytes(reader, f"{RESTARTS}/{identity}"), why))
    orphans = [p for p in unknown_groups(reader.groups(), catalogue) if p.startswith((f"{RESTARTS}/", f"{STASHES}/"))]
    return items + [Item("orphan", p, group_bytes(reader, p), "nothing in the log refers to it") for p in orphans]


def _needed(catalogue: Catalogue) -> dict[str, str]:
    """Everything that the newest versions of keys were made of, at any distance, each with one that was."""
    found: dict[str, str] = {}
    for newest in catalogue:
        waiting = [newest.run]
        while waiting:
            run = catalogue.runs.get(waiting.pop() or "")
            refs = [ref for refs in run.inputs.values() for ref in refs] if run is not None else []
            for entry in filter(None, map(catalogue.locate, refs)):
                if entry.reference not in found:
                    found[entry.reference] = newest.reference
                    waiting.append(entry.run)
    return found


def _restart_is_garbage(catalogue: Catalogue, identity: str, *, finished: bool) -> str:
    runs = [run for run in catalogue.runs.values() if run.id == identity]
    if not runs:
        return "no run refers to it"
    if any(run.status != "done" for run in runs):
        return ""
    if finished:
        return f"the run of {runs[-1].root_key} is done"
    made = {run.id for run in runs}
    alive = any(entry.run in made and not entry.purged for entry in catalogue)
    return "" if alive else "the data that it continues are gone"


def _remove(work: Work, item: Item) -> None:
    if item.what == "version":
        work.purge(item.name)
    elif item.what == "orphan":
        work.writer.remove(item.name)
    else:
        work.forget(item.name, restart=item.what == "restart")


def _strangers(reader: Reader, catalogue: Catalogue) -> list[str]:
    return [
        f"{path}: no commit made this group; `h5ml audit` says more"
        for path in unknown_groups(reader.groups(), catalogue)
        if not path.startswith((f"{RESTARTS}/", f"{STASHES}/"))
    ]


def leftovers(store: Store) -> list[str]:
    """Files beside a local store that killed processes may have left; never removed."""
    place = Path(store.location)
    if "://" in store.location or not place.is_file():
        return []
    known = {place.name, f"{place.name}-lock", f"{place.name}-wal", f"{place.name}-journal"}
    names = sorted(p.name for p in place.absolute().parent.glob(f"{_escaped(place.name)}*") if p.name not in known)
    return [f"{place.parent / name}: a file beside the store; remove it if no process is at work" for name in names]


def _escaped(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


# --- compaction ------------------------------------------------------------------------------------------------------


def compact(store: Store, *, timeout_s: float = 60.0, progress: Callable[[str], None] | None = None) -> tuple[int, int]:
    """Give back the space of what was removed; digests, history and the root digest stay the same.

    Parameters
    ----------
    store : Store
        What to compact.
    timeout_s : float
        How long to wait for another writer.
    progress : callable, optional
        Called with the path of each group that is copied.

    Returns
    -------
    tuple of int
        Bytes before and after.
    """
    return store.engine.compact(partial(copy_groups, progress=progress), timeout_s=timeout_s)


def copy_groups(old: Reader, new: Writer, *, progress: Callable[[str], None] | None = None) -> None:
    """Copy every group as it is, the log among them, in blocks of about 8 MiB."""
    for path in list(old.groups()):
        if progress is not None:
            progress(path)
        layout = old.layout(path)
        new.create(path, layout)
        for name, array in layout.arrays.items():
            for rows in row_blocks(array.shape, array.dtype, COPY_BYTES):
                values = old.read(path, name, (rows,) if array.shape else ())
                new.write(path, name, values, rows.start or 0)


# --- space -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Usage:
    """What one version of a key takes.

    Attributes
    ----------
    key, version, kind : str, int, str
        Which.
    records : int
        Frames or rows.
    bytes : int
        Bytes of its values, before compression (a text counts 16 bytes and its characters are not counted).
    compressed : bool
        Whether some of it is compressed on disk.
    purged : bool
        Whether only lineage and digests are kept.
    """

    key: str
    version: int
    kind: str
    records: int
    bytes: int
    compressed: bool
    purged: bool


def du(store: Store, under: str = "") -> list[Usage]:
    """Bytes of every version of every key below a path, in the order of the keys.

    The bytes of the whole store on disk are ``store.engine.nbytes()``; the difference is the log, restart states,
    metadata, and space that ``compact`` gives back.
    """
    with store.engine.reading() as reader:
        entries = [entry for entry in store.catalogue.all_versions() if Key(entry.key).is_under(under)]
        return [_usage(reader, entry) for entry in entries]


def _usage(reader: Reader, entry: Entry) -> Usage:
    size, compressed = 0, False
    if not entry.purged:
        layout = reader.layout(entry.path)
        size = sum(nbytes(array) for array in layout.arrays.values())
        compressed = any(array.compression for array in layout.arrays.values())
    return Usage(entry.key, entry.version, entry.kind, entry.records, size, compressed, entry.purged)


def group_bytes(reader: Reader, path: str) -> int:
    """Bytes of the values of a group; 0 where nothing lies."""
    if not reader.exists(path):
        return 0
    return sum(nbytes(array) for array in reader.layout(path).arrays.values())


def log_bytes(store: Store) -> int:
    """Bytes of the commit log."""
    with store.engine.reading() as reader:
        return group_bytes(reader, LOG_PATH)
