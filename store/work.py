"""What a transaction does under the writer lock, operation by operation."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
from blake3 import blake3

from ..schemas.errors import InvalidData, KeyTaken, StoreDamaged, UnknownKey, nearest
from ..schemas.key import Key, parse_reference
from ..schemas.kinds import kind_named
from .catalogue import Catalogue, Entry, version_path
from .digest import DatasetHasher, VariableHeader, row_blocks
from .engine import ArrayLayout, GroupLayout, Writer
from .log import Commit, Event, event_of
from .prepare import Prepared, facts, merged_facts

RESTARTS = ".h5ml/restart"
STASHES = ".h5ml/stash"
STASH_CHUNK = 1 << 16
Hashers = dict[tuple[str, int], tuple[str, DatasetHasher]]


class Work:
    """One execution of a transaction: a writer, the catalogue as it changes, and the events so far.

    Parameters
    ----------
    writer : Writer
        The engine's transaction.
    catalogue : Catalogue
        Follows each event at once; thrown away by the store if the commit fails.
    commit : Commit
        Number, time and message of the commit being made.
    hashers : dict
        Running digests of growing datasets, kept from commit to commit.
    """

    def __init__(self, writer: Writer, catalogue: Catalogue, commit: Commit, hashers: Hashers) -> None:
        self.writer = writer
        self.catalogue = catalogue
        self.events: list[Event] = []
        self._commit = commit
        self._hashers = hashers

    def emit(self, event: Event) -> None:
        """Add an event to the commit."""
        self.catalogue.apply_event(event, self._commit)
        self.events.append(event)

    # --- datasets ------------------------------------------------------------------------------------------------

    def write(
        self, key: Key, ready: Prepared, extra: Mapping[str, Any], *, new_version: bool, expect: Entry | None
    ) -> None:
        """Make a key, or a new version of it."""
        self._check_free(key, new_version=new_version)
        if key in self.catalogue:
            current = self.catalogue.newest(key)
            if not current.purged:
                self.writer.move(current.path, version_path(key, current.version))
        version = self.catalogue.next_version(key)
        if expect is not None:
            version = max(version, expect.version)
        hasher, digest = self._fill(key, ready)
        if expect is not None and digest != expect.digest:
            raise StoreDamaged(
                "The copied data differ from their record.",
                key=expect.reference,
                expected=expect.digest[:16],
                found=digest[:16],
                hint="run `h5ml audit` on the source",
            )
        if ready.layout().grows:
            self._hashers[key, version] = (digest, hasher)
        self.emit(
            event_of(
                "write",
                key=str(key),
                version=version,
                **self._description(ready, hasher, digest),
                created=expect.created if expect else None,
                **extra,
            )
        )

    def append(self, key: Key, ready: Prepared, run: str | None) -> None:
        """Add records to a key."""
        entry = self.catalogue.entry(key)
        _check_payload(entry)
        layout = self.writer.layout(entry.path)
        if not layout.grows:
            layout = self._make_growable(entry, layout)
        hasher = self._hasher(entry, layout)
        _check_append(entry, layout, ready, hasher)
        old = {dim: layout.sizes[dim] for dim in layout.grows}
        sizes = {dim: old[dim] + ready.sizes.get(dim, 0) for dim in layout.grows}
        self.writer.grow(entry.path, sizes)
        for name, array in layout.arrays.items():
            if array.dims and array.dims[0] in sizes:
                self._write_rows(entry.path, name, ready, hasher, start=old[array.dims[0]])
        digest = hasher.hexdigest({**layout.sizes, **sizes})
        self._hashers[entry.key, entry.version] = (digest, hasher)
        merged = merged_facts(entry.facts, facts(ready)) if ready.kind.ragged else entry.facts
        chains = {name: chain for name, chain in hasher.chains().items() if entry.chains.get(name) != chain}
        self.emit(
            event_of(
                "append",
                key=entry.key,
                version=entry.version,
                sizes=sizes,
                records=sizes[layout.grows[0]],
                digest=digest,
                chains=chains,
                facts=merged if merged != entry.facts else None,
                run=run if run != entry.run else None,
            )
        )

    def replace(self, key: Key, ready: Prepared, run: str | None) -> None:
        """Make a key, or put other content into its newest version."""
        if key not in self.catalogue:
            self.write(key, ready, {"run": run}, new_version=False, expect=None)
            return
        entry = self.catalogue.entry(key)
        hasher, digest = self._refill(entry.path, ready, exists=not entry.purged)
        self._hashers.pop((entry.key, entry.version), None)
        description = self._description(ready, hasher, digest)
        self.emit(event_of("replace", key=entry.key, version=entry.version, **description, run=run))

    def restore(self, key: Key, version: int, ready: Prepared) -> None:
        """Put back a purged payload."""
        entry = self.catalogue.entry(f"{key}@{version}")
        _, digest = self._fill(entry.path, ready)
        if digest != entry.digest:
            raise InvalidData(
                "The data differ from the purged ones.",
                key=entry.reference,
                expected=entry.digest[:16],
                found=digest[:16],
                hint="`h5ml replay` recomputes them; data of another engine or version need a new version",
            )
        self.emit(event_of("restore", key=entry.key, version=entry.version))

    def _description(self, ready: Prepared, hasher: DatasetHasher, digest: str) -> dict[str, Any]:
        grows = ready.kind.grows
        return {
            "kind": ready.kind.name,
            "schema_version": ready.kind.version,
            "digest": digest,
            "sizes": ready.sizes,
            "records": ready.sizes.get(grows[0], 0) if grows else 0,
            "attributes": ready.attributes,
            "facts": facts(ready),
            "chains": hasher.chains() if ready.storage.growing else {},
        }

    def _fill(self, path: str, ready: Prepared) -> tuple[DatasetHasher, str]:
        self.writer.create(path, ready.layout())
        hasher = DatasetHasher(ready.headers, ready.attributes, ready.shapes)
        for name in ready.headers:
            self._write_rows(path, name, ready, hasher)
        return hasher, hasher.hexdigest(ready.sizes)

    def _refill(self, path: str, ready: Prepared, *, exists: bool) -> tuple[DatasetHasher, str]:
        """Write into the same arrays where they fit, so that the file does not grow with each replacement."""
        if exists and self.writer.exists(path):
            if _same_arrays(self.writer.layout(path), ready.layout()):
                hasher = DatasetHasher(ready.headers, ready.attributes, ready.shapes)
                for name in ready.headers:
                    self._write_rows(path, name, ready, hasher)
                self.writer.attributes(path, ready.attributes)
                return hasher, hasher.hexdigest(ready.sizes)
            self.writer.remove(path)
        return self._fill(path, ready)

    def _write_rows(self, path: str, name: str, ready: Prepared, hasher: DatasetHasher, start: int = 0) -> None:
        header, shape = ready.headers[name], ready.shapes[name]
        blocks = list(row_blocks(shape, header.dtype))
        if len(blocks) > 1:
            self._write_blocks(path, name, ready, hasher, start, blocks)
            return
        for rows in blocks:
            values = ready.block(name, rows)
            self.writer.write(path, name, values, start + (rows.start or 0))
            hasher.update(name, values)

    def _write_blocks(
        self, path: str, name: str, ready: Prepared, hasher: DatasetHasher, start: int, blocks: list[slice]
    ) -> None:
        """Write much data: the digest of a block is computed while the block is written (BLAKE3 frees the GIL)."""
        with ThreadPoolExecutor(1) as pool:
            for rows in blocks:
                values = ready.block(name, rows)
                hashed = pool.submit(hasher.update, name, values)
                self.writer.write(path, name, values, start + rows.start)
                hashed.result()

    def _hasher(self, entry: Entry, layout: GroupLayout) -> DatasetHasher:
        """The running digest of an entry: the one kept from its last commit, or made from chains and last rows."""
        kept = self._hashers.get((entry.key, entry.version))
        if kept is not None and kept[0] == entry.digest:
            return kept[1]
        hasher = hasher_of(layout, entry.attributes, entry.chains)
        for name, variable in hasher.variables.items():
            rows = layout.arrays[name].shape[0] if layout.arrays[name].shape else 0
            variable.rows = rows
            variable.rows = variable.partial_start
            selection = (slice(variable.rows, rows),) if layout.arrays[name].shape else ()
            variable.update(self.writer.read(entry.path, name, selection))
        if hasher.hexdigest(layout.sizes) != entry.digest:
            raise StoreDamaged(
                "The data differ from their record; nothing was appended.", key=entry.reference, hint="run `h5ml audit`"
            )
        return hasher

    def _make_growable(self, entry: Entry, layout: GroupLayout) -> GroupLayout:
        """Rewrite a dataset that was stored in one piece into chunks."""
        kind = kind_named(entry.kind)
        grows = tuple(dim for dim in kind.grows if dim in layout.sizes)
        if not grows:
            raise InvalidData(
                f"Data of kind {entry.kind} do not grow.", key=entry.reference, hint="store a new version instead"
            )
        headers = {n: VariableHeader(a.dims, a.dtype, a.attributes) for n, a in layout.arrays.items()}
        shapes = {n: a.shape for n, a in layout.arrays.items()}
        values = {n: self.writer.read(entry.path, n) for n in layout.arrays}
        storage = replace(Prepared(kind, {}, {}, {}, {}, {}).storage, growing=True)
        ready = Prepared(kind, values, headers, shapes, dict(entry.attributes), dict(layout.sizes), storage)
        self.writer.remove(entry.path)
        hasher, digest = self._fill(entry.path, ready)
        self._hashers[entry.key, entry.version] = (digest, hasher)
        return self.writer.layout(entry.path)

    # --- what a run keeps ----------------------------------------------------------------------------------------

    def restart(self, identity: str, ready: Prepared) -> None:
        """Keep a restart state."""
        hasher, digest = self._refill(f"{RESTARTS}/{identity}", ready, exists=True)
        del hasher
        self.emit(event_of("restart", id=identity, digest=digest))

    def stash(self, identity: str, name: str, items: Mapping[int, bytes]) -> None:
        """Keep finished items of a map, end to end in one growing array."""
        path = f"{STASHES}/{identity}"
        size = self.catalogue.stashes.get(identity, {}).get("size", 0) if self.writer.exists(path) else 0
        rows = []
        for index, blob in items.items():
            rows.append([name, int(index), size, size + len(blob)])
            size += len(blob)
        self.lengthen_stash(identity, size)
        text = b"".join(items.values())
        data = np.frombuffer(text, dtype=np.uint8)
        self.writer.write(path, "bytes", data, size - len(data))
        piece = [size - len(data), size, blake3(text).hexdigest()]
        self.emit(event_of("stash", id=identity, items=rows, piece=piece))

    def lengthen_stash(self, identity: str, size: int) -> None:
        """Make the array for a run's finished items, or make it as long as this at least."""
        path = f"{STASHES}/{identity}"
        if not self.writer.exists(path):
            array = ArrayLayout(("byte",), (0,), "|u1", {"units": "1"}, (STASH_CHUNK,))
            self.writer.create(path, GroupLayout({"bytes": array}, {"byte": 0}, {}, ("byte",)))
        if size > self.writer.layout(path).sizes["byte"]:
            self.writer.grow(path, {"byte": size})

    def forget(self, identity: str, *, restart: bool) -> None:
        """Drop what a run kept for resuming."""
        paths = [f"{STASHES}/{identity}"] if identity in self.catalogue.stashes else []
        paths += [f"{RESTARTS}/{identity}"] if restart and identity in self.catalogue.restarts else []
        known = paths or identity in self.catalogue.marks
        for path in paths:
            if self.writer.exists(path):
                self.writer.remove(path)
        if known:
            self.emit(event_of("forget", id=identity, restart=restart or None))

    # --- keys ----------------------------------------------------------------------------------------------------

    def move(self, source: str, target: Key) -> None:
        """Rename a key or a subtree."""
        moved = (
            [source] if source in self.catalogue else [k for k in self.catalogue.entries if k.startswith(source + "/")]
        )
        if not moved:
            raise UnknownKey("There is no such key.", key=source, hint=nearest(source, self.catalogue.entries))
        for key in sorted(moved):
            new = Key(str(target) + key[len(source) :])
            self._check_free(new, new_version=False)
            for entry in self.catalogue.entries[key].values():
                if not entry.purged:
                    path = new if entry.path == key else version_path(new, entry.version)
                    self.writer.move(entry.path, path)
            self.emit(event_of("move", source=key, target=str(new)))

    def alias(self, name: Key, key: Key) -> None:
        """Let another name stand for a key."""
        target = self.catalogue.entry(key).key
        if name in self.catalogue:
            raise KeyTaken(
                "The name of an alias is a key.", key=name, expected="a name that is no key", hint="use another name"
            )
        found = self.catalogue.resolve(name)
        if found == target:
            return
        if found in self.catalogue:
            raise KeyTaken(
                "The name stands for another key.", key=name, expected=target, found=found, hint="use another name"
            )
        self.emit(event_of("alias", source=str(name), target=target))

    def remove(self, reference: str) -> None:
        """Remove a key or a version."""
        key, version = parse_reference(reference)
        entries = list(self.catalogue.entries[key].values()) if key in self.catalogue else []
        chosen = [entry for entry in entries if version in (None, entry.version)] or [self.catalogue.entry(reference)]
        for entry in sorted(chosen, key=lambda e: e.version):
            if not entry.purged:
                self.writer.remove(entry.path)
            self.emit(event_of("remove", key=entry.key, version=entry.version))
        if key in self.catalogue:
            self._move_home(self.catalogue.newest(key), key)

    def _move_home(self, entry: Entry, key: Key) -> None:
        """After the newest version is gone, the one before lies at the key again."""
        if not entry.purged and not self.writer.exists(key):
            self.writer.move(version_path(key, entry.version), key)

    def purge(self, reference: str) -> None:
        """Drop a payload."""
        entry = self.catalogue.entry(reference)
        if entry.purged:
            return
        self.writer.remove(entry.path)
        self.emit(event_of("purge", key=entry.key, version=entry.version))

    def tag(self, reference: str, tag: str, *, remove: bool) -> None:
        """Put a tag on, or take it off."""
        entry = self.catalogue.entry(reference)
        if remove and tag not in entry.tags:
            raise UnknownKey(
                "The entry has no such tag.", key=entry.reference, expected=", ".join(entry.tags), found=tag
            )
        self.emit(event_of("tag", key=entry.key, version=entry.version, tag=tag, remove=remove or None))

    def note(self, reference: str, text: str, author: str) -> None:
        """Write a note."""
        entry = self.catalogue.entry(reference)
        self.emit(event_of("note", key=entry.key, version=entry.version, text=text, author=author))

    def _check_free(self, key: Key, *, new_version: bool) -> None:
        if key in self.catalogue:
            if new_version:
                return
            entry = self.catalogue.newest(key)
            maker = f"run {entry.run[:12]}" if entry.run else "an import"
            raise KeyTaken(
                "The key exists.",
                key=key,
                found=f"version {entry.version}, made by {maker} at {entry.created}",
                hint="take another key, or add --new-version to keep both",
            )
        above = key
        while "/" in above:
            above = Key(above.rpartition("/")[0])
            if above in self.catalogue:
                raise KeyTaken(
                    "A key cannot lie below another key.",
                    key=key,
                    found=f"data at {above}",
                    hint="take a key beside it",
                )
        if key in self.catalogue.interior:
            below = min(k for k in self.catalogue.entries if k.startswith(key + "/"))
            raise KeyTaken(
                "A key cannot hold data and other keys.", key=key, found=f"the key {below}", hint="take a key below it"
            )


def hasher_of(
    layout: GroupLayout, attributes: Mapping[str, Any], chains: Mapping[str, str] | None = None
) -> DatasetHasher:
    """The digest machine for a stored group."""
    headers = {name: VariableHeader(array.dims, array.dtype, array.attributes) for name, array in layout.arrays.items()}
    return DatasetHasher(headers, attributes, {n: a.shape for n, a in layout.arrays.items()}, chains)


def _same_arrays(found: GroupLayout, wanted: GroupLayout) -> bool:
    def shape(layout: GroupLayout) -> dict[str, Any]:
        return {n: (a.dims, a.shape, a.dtype, dict(a.attributes)) for n, a in layout.arrays.items()}

    return shape(found) == shape(wanted) and not found.grows


def _check_payload(entry: Entry) -> None:
    if entry.purged:
        raise UnknownKey("The payload was purged.", key=entry.reference, hint="`h5ml replay` restores it")


def _check_append(entry: Entry, layout: GroupLayout, ready: Prepared, hasher: DatasetHasher) -> None:
    def wrong(message: str, expected: Any, found: Any) -> InvalidData:
        return InvalidData(message, key=entry.reference, expected=expected, found=found, hint="nothing was appended")

    if set(ready.headers) != set(layout.arrays):
        raise wrong("An append has other variables.", sorted(layout.arrays), sorted(ready.headers))
    for name, array in layout.arrays.items():
        header, shape = ready.headers[name], ready.shapes[name]
        grows = bool(array.dims) and array.dims[0] in layout.grows
        first = 1 if grows else 0
        if header.dims != array.dims or header.dtype != array.dtype or shape[first:] != array.shape[first:]:
            raise wrong(
                f"The variable {name} of an append does not fit.",
                f"{array.dims} {array.dtype} {array.shape}",
                f"{header.dims} {header.dtype} {shape}",
            )
        if not grows and name in hasher.variables:
            alone = DatasetHasher({name: header}, {}, {name: shape})
            for rows in row_blocks(shape, header.dtype):
                alone.update(name, ready.block(name, rows))
            if alone.variables[name].hexdigest() != hasher.variables[name].hexdigest():
                raise wrong(
                    f"The variable {name} does not grow, and an append changes it.", "the same values", "others"
                )
