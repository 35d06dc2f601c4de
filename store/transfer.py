"""Copying keys between stores, whatever their engines: data, versions, runs, ancestors, tags and notes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from ..schemas.errors import KeyTaken, UnknownKey, nearest
from ..schemas.key import Key, parse_reference
from ..schemas.kind import Kind
from ..schemas.kinds import kinds
from ..schemas.run import Run
from .audit_data import nbytes
from .catalogue import Entry, version_path
from .digest import VariableHeader
from .engine import Array, GroupLayout, Reader
from .log import event_of
from .prepare import Prepared, Storage
from .store import Store
from .work import RESTARTS, Work

Progress = Callable[[int, int, str], None]
Operation = Callable[[Work], None]
BATCH_BYTES = 256 << 20


@dataclass(slots=True)
class CopyReport:
    """What a copy did.

    Attributes
    ----------
    copied, skipped : list of str
        ``KEY@VERSION`` in the target; skipped ones were there with the same digest.
    older : list of str
        Versions left out because the target has a later one already.
    runs : int
        Records of runs that were new to the target.
    bytes : int
        Bytes of data copied.
    """

    copied: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    older: list[str] = field(default_factory=list)
    runs: int = 0
    bytes: int = 0


def copy(
    source: Store,
    target: Store,
    keys: Collection[str] | None = None,
    *,
    ancestors: bool = True,
    versions: bool = True,
    new_version: bool = False,
    progress: Progress | None = None,
) -> CopyReport:
    """Copy keys into another store; their digests stay the same and are verified.

    What is there already with the same digest is passed over, so a copy that was interrupted is simply made again.
    Keys come in batches of at most 256 MiB (or one key), ancestors first, each batch all at once.

    Parameters
    ----------
    source, target : Store
        Of any engines.
    keys : collection of str, optional
        ``KEY``, ``KEY@VERSION`` or paths above keys; by default everything (to merge a colleague's store).
    ancestors : bool
        Whether what they were made from comes too. The records of their runs always do.
    versions : bool
        Whether older versions come too.
    new_version : bool
        Whether a key that holds other data in the target gets a new version.
    progress : callable, optional
        Called with entries done, entries in all, and the entry that comes next.

    Returns
    -------
    CopyReport

    Raises
    ------
    KeyTaken
        If the target holds other data at a key and ``new_version`` is not given; then nothing is changed.
    UnknownKey
        If the source has no such key.
    StoreDamaged
        If data of the source do not give their digest.
    """
    if source.location == target.location:
        raise KeyTaken("A store cannot be copied into itself.", key=target.location, hint="name another target")
    entries = choose(source, keys, ancestors=ancestors, versions=versions)
    report = CopyReport()
    plan = _plan(target, entries, report, new_version=new_version)
    runs = _runs(source, entries)
    tags = [entry for entry in entries if entry.tags or entry.notes]
    done = 0
    for batch in _batches(source, plan):
        if progress is not None:
            progress(done, len(plan), batch[0][0].reference)
        operations: list[Operation] = [partial(_record, runs=runs, report=report)] if not done else []
        operations += [partial(_copy_entry, source=source, entry=entry, report=report) for entry, _ in batch]
        target.execute([_once(operations, report)], f"copy from {source.location}")
        done += len(batch)
    rest: list[Operation] = [partial(_record, runs=runs, report=report)] if not plan else []
    rest += [partial(_annotate, entry=entry) for entry in tags]
    rest += [partial(_copy_restart, source=source, identity=run.id) for run in runs]
    rest += [partial(_alias, name=name, key=key) for name, key in _aliases(source, target, entries)]
    if rest:
        target.execute([_once(rest, report)], f"copy from {source.location}")
    if progress is not None:
        progress(len(plan), len(plan), "")
    return report


def _once(operations: list[Operation], report: CopyReport) -> Operation:
    """Operations of one commit; where it is executed again, the report forgets the attempt before."""
    before = replace(report, copied=list(report.copied), skipped=list(report.skipped), older=list(report.older))

    def perform(work: Work) -> None:
        report.copied, report.skipped = list(before.copied), list(before.skipped)
        report.runs, report.bytes = before.runs, before.bytes
        for operation in operations:
            operation(work)

    return perform


# --- what to copy ----------------------------------------------------------------------------------------------------


def choose(store: Store, keys: Collection[str] | None, *, ancestors: bool, versions: bool) -> list[Entry]:
    """Entries by keys, references or paths; ancestors before what was made from them, versions in order."""
    catalogue = store.catalogue
    chosen: dict[str, Entry] = {}

    def visit(entry: Entry) -> None:
        waiting = [(entry, False)]
        while waiting:
            current, ready = waiting.pop()
            if current.reference in chosen:
                continue
            if ready:
                chosen[current.reference] = current
                continue
            waiting.append((current, True))
            if ancestors:
                waiting += [(parent, False) for parent in parents(store, current) if parent.reference not in seen]
                seen.add(current.reference)

    seen: set[str] = set()
    for text in keys if keys is not None else sorted(catalogue.entries):
        for entry in _named(store, text, versions=versions):
            visit(entry)
    # an older version always before a newer one of its key
    order = {reference: n for n, reference in enumerate(chosen)}
    first = {e.key: min(order[o.reference] for o in chosen.values() if o.key == e.key) for e in _multiple(chosen)}
    return sorted(chosen.values(), key=lambda e: (first.get(e.key, order[e.reference]), e.key, e.version))


def _multiple(chosen: dict[str, Entry]) -> list[Entry]:
    counts: dict[str, int] = {}
    for entry in chosen.values():
        counts[entry.key] = counts.get(entry.key, 0) + 1
    return [entry for entry in chosen.values() if counts[entry.key] > 1]


def parents(store: Store, entry: Entry) -> list[Entry]:
    """The entries that the run which made an entry read, and received from its calls."""
    run = store.catalogue.runs.get(entry.run or "")
    refs = [ref for group in (run.inputs if run else {}).values() for ref in group]
    refs += [ref for _, ref in (run.received() if run else ())]
    return [found for ref in refs if (found := store.catalogue.locate(ref)) is not None]


def _named(store: Store, text: str, *, versions: bool) -> list[Entry]:
    catalogue = store.catalogue
    key, version = parse_reference(text)
    if version is not None:
        return [catalogue.entry(text)]
    name = catalogue.resolve(key)
    found = [name] if name in catalogue else []
    if key not in catalogue:  # an alias may stand where keys lie below
        found += [k for k in sorted(catalogue.entries) if Key(k).is_under(key) and k != name]
    if not found:
        raise UnknownKey("There is no such key or path.", key=text, hint=nearest(key, catalogue.entries))
    if versions:
        return [catalogue.entries[k][v] for k in found for v in sorted(catalogue.entries[k])]
    return [catalogue.newest(k) for k in found]


def _runs(store: Store, entries: list[Entry]) -> list[Run]:
    """The records of the runs that made entries, of their calls, and of those that they continue or belong to."""
    runs = store.catalogue.runs
    waiting = [entry.run for entry in entries if entry.run]
    waiting += [call.run for name in dict.fromkeys(waiting) if name in runs for call in runs[name].calls]
    found: dict[str, Run] = {}
    while waiting:
        run = runs.get(waiting.pop())
        if run is not None and run.id not in found:
            found[run.id] = run
            waiting += [name for name in (run.continues, run.parent) if name]
    return list(found.values())


def _plan(target: Store, entries: list[Entry], report: CopyReport, *, new_version: bool) -> list[tuple[Entry, bool]]:
    """What must be copied, refusing conflicts before anything is changed."""
    catalogue = target.catalogue
    by_key: dict[str, set[str]] = {}
    for entry in entries:
        by_key.setdefault(entry.key, set()).add(entry.digest)
    plan = []
    for entry in entries:
        present = catalogue.entries.get(entry.key, {})
        there = next((e for e in present.values() if e.digest == entry.digest), None)
        if there is not None and not (there.purged and not entry.purged):
            report.skipped.append(there.reference)
        elif there is None and present and not new_version:
            newest = catalogue.newest(entry.key)
            if newest.digest not in by_key[entry.key]:
                raise _conflict(entry, newest, target)
            if entry.version < newest.version:
                report.older.append(entry.reference)
            else:
                plan.append((entry, False))
        else:
            plan.append((entry, there is not None))
    return plan


def _conflict(entry: Entry, newest: Entry, target: Store) -> KeyTaken:
    return KeyTaken(
        "The target holds other data at this key; nothing was copied.",
        key=entry.reference,
        expected=f"digest {entry.digest[:16]}",
        found=f"{newest.reference} with digest {newest.digest[:16]} in {target.location}",
        hint="--new-version keeps both; or `h5ml mv` the key in one of the stores",
    )


def _batches(source: Store, plan: list[tuple[Entry, bool]]) -> Iterator[list[tuple[Entry, bool]]]:
    batch: list[tuple[Entry, bool]] = []
    total = 0
    for entry, restored in plan:
        size = 0 if entry.purged else entry_bytes(source, entry)
        if batch and total + size > BATCH_BYTES:
            yield batch
            batch, total = [], 0
        batch.append((entry, restored))
        total += size
    if batch:
        yield batch


def entry_bytes(store: Store, entry: Entry) -> int:
    """Bytes of the values of an entry, before compression."""
    with store.at(entry) as (reader, path):
        return sum(nbytes(array) for array in reader.layout(path).arrays.values())


# --- under the writer lock -------------------------------------------------------------------------------------------


def _copy_entry(work: Work, *, source: Store, entry: Entry, report: CopyReport) -> None:
    present = work.catalogue.entries.get(entry.key, {})
    there = next((e for e in present.values() if e.digest == entry.digest), None)
    if there is not None and (entry.purged or not there.purged):
        report.skipped.append(there.reference)  # another process was faster
        return
    if entry.purged:
        _record_purged(work, entry)
        report.copied.append(f"{entry.key}@{work.catalogue.newest(entry.key).version}")
        return
    with source.at(entry) as (reader, path):
        layout = clipped(reader.layout(path), entry.sizes)
        ready = stored_group(reader, path, layout, entry)
        if there is not None:
            work.restore(Key(entry.key), there.version, ready)
            report.copied.append(there.reference)
        else:
            extra = {"run": entry.run, "origin": dict(entry.origin) or None}
            work.write(Key(entry.key), ready, extra, new_version=True, expect=entry)
            report.copied.append(f"{entry.key}@{work.catalogue.newest(entry.key).version}")
    report.bytes += sum(nbytes(array) for array in layout.arrays.values())


def _record_purged(work: Work, entry: Entry) -> None:
    """Make an entry whose payload is gone already."""
    version = max(work.catalogue.next_version(entry.key), entry.version)
    if entry.key in work.catalogue:
        current = work.catalogue.newest(entry.key)
        if not current.purged:
            work.writer.move(current.path, version_path(entry.key, current.version))
    facts = {
        name: getattr(entry, name)
        for name in (
            "kind",
            "schema_version",
            "run",
            "digest",
            "sizes",
            "records",
            "attributes",
            "facts",
            "chains",
            "created",
        )
    }
    work.emit(event_of("write", key=entry.key, version=version, **facts, origin=dict(entry.origin) or None))
    work.emit(event_of("purge", key=entry.key, version=version))


def _record(work: Work, *, runs: list[Run], report: CopyReport) -> None:
    for run in runs:
        known = work.catalogue.runs.get(run.id)
        if known is None or (known.status != "done" and run.status == "done"):
            work.emit(event_of("run", run=run.record()))
            report.runs += 1


def _annotate(work: Work, *, entry: Entry) -> None:
    """Bring tags and notes that the same data in the target do not have."""
    present = work.catalogue.entries.get(entry.key, {})
    there = next((e for e in present.values() if e.digest == entry.digest), None)
    if there is None:
        return
    for tag in entry.tags:
        if tag not in there.tags:
            work.tag(there.reference, tag, remove=False)
    known = {(note["author"], note["text"], note["time"]) for note in there.notes}
    for note in entry.notes:
        if (note["author"], note["text"], note["time"]) not in known:
            work.emit(event_of("note", key=there.key, version=there.version, **note))


def _aliases(source: Store, target: Store, entries: list[Entry]) -> list[tuple[str, str]]:
    """Other names of the copied keys that mean nothing yet in the target; what has a meaning there keeps it."""
    copied = {entry.key for entry in entries}
    names = {name: source.catalogue.resolve(name) for name in sorted(source.catalogue.aliases)}
    there = target.catalogue
    return [(name, key) for name, key in names.items() if key in copied and there.resolve(name) not in there]


def _alias(work: Work, *, name: str, key: str) -> None:
    if key in work.catalogue and work.catalogue.resolve(name) not in work.catalogue:
        work.alias(Key(name), Key(key))


def _copy_restart(work: Work, *, source: Store, identity: str) -> None:
    """Bring the restart state of a run, so that it can be continued in the target."""
    restart = source.catalogue.restarts.get(identity)
    if restart is None or identity in work.catalogue.restarts:
        return
    path = f"{RESTARTS}/{identity}"
    with source.engine.reading() as reader:
        if reader.exists(path):
            work.restart(identity, stored_group(reader, path, reader.layout(path), None))


# --- stored groups as prepared data ----------------------------------------------------------------------------------


class _Values:
    """Values of a stored array, read in the blocks that are asked for."""

    def __init__(self, reader: Reader, path: str, name: str, shape: tuple[int, ...]) -> None:
        self._reader, self._path, self._name, self._shape = reader, path, name, shape

    def __getitem__(self, rows: slice) -> Array:
        start, stop, _ = rows.indices(self._shape[0])
        return self._reader.read(self._path, self._name, (slice(start, stop),))

    def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
        del copy
        values = self[slice(None)] if self._shape else self._reader.read(self._path, self._name)
        return np.asarray(values, dtype=dtype)


def clipped(layout: GroupLayout, sizes: dict[str, int]) -> GroupLayout:
    """A layout at the lengths that a record says: rows appended since then are left out."""
    arrays = {
        name: replace(array, shape=tuple(min(sizes.get(d, n), n) for d, n in zip(array.dims, array.shape, strict=True)))
        for name, array in layout.arrays.items()
    }
    return replace(layout, arrays=arrays, sizes={dim: min(sizes.get(dim, n), n) for dim, n in layout.sizes.items()})


def stored_group(reader: Reader, path: str, layout: GroupLayout, entry: Entry | None) -> Prepared:
    """A stored group made ready to be written elsewhere, block by block and without loading it."""
    name = entry.kind if entry is not None else "observables"
    version = entry.schema_version if entry is not None else 1
    known = kinds().get(name) or Kind(name, "A kind that is not installed here.", grows=layout.grows, open=True)
    compression = next((array.compression for array in layout.arrays.values() if array.compression), "none")
    storage = Storage(growing=bool(layout.grows), compression=compression)
    return Prepared(
        replace(known, version=version),
        {n: _Values(reader, path, n, a.shape) for n, a in layout.arrays.items()},
        {n: VariableHeader(a.dims, a.dtype, dict(a.attributes)) for n, a in layout.arrays.items()},
        {n: a.shape for n, a in layout.arrays.items()},
        dict(layout.attributes),
        dict(layout.sizes),
        storage,
    )
