"""Stored data against the log: digests recomputed from the bytes, and groups that no commit made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, nullcontext
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from blake3 import blake3

from ..schemas.errors import H5mlError
from ..schemas.kinds import kinds
from .audit_rows import first_change
from .catalogue import Catalogue, Entry
from .digest import DatasetHasher, row_blocks
from .engine import TEXT, Array, ArrayLayout, Engine, GroupLayout, Reader, RowReader
from .findings import Finding
from .log import FORMAT, LOG_PATH
from .work import RESTARTS, STASHES, hasher_of

if TYPE_CHECKING:
    from .store import Store

FAST_BYTES, FAST_ROW = 1 << 20, 256  # from here on a memory map pays
BLOCK_BYTES = 2 << 20  # fits the cache, so that what was just read is hashed from there
_CHANGED = (
    "`h5ml replay KEY` names the values that differ; `h5ml purge KEY`, then `h5ml replay KEY`, puts back what was "
    "computed; what no run made comes back from a backup only"
)


def nbytes(array: ArrayLayout) -> int:
    """Bytes of the values of an array (text: 16 a string)."""
    item = 16 if array.dtype == TEXT else np.dtype(array.dtype).itemsize
    return item * int(np.prod(array.shape, dtype=np.int64))


def hash_group(reader: Reader, path: str, layout: GroupLayout, engine: Engine | None = None) -> DatasetHasher:
    """Recompute the digest machine of a stored group from its bytes.

    Parameters
    ----------
    reader : Reader
        A view that is open.
    path, layout : str, GroupLayout
        What lies where.
    engine : Engine, optional
        Large chunked arrays without compression are gathered from its memory map, where it has one.
    """
    hasher = hasher_of(layout, layout.attributes)
    fast = [name for name in hasher.variables if _is_fast(layout.arrays[name])]
    rows = engine.rows(path, fast) if engine is not None and fast else None
    with closing(rows) if rows is not None else nullcontext():
        for name in hasher.variables:
            array = layout.arrays[name]
            through = rows if name in fast else None
            for block in row_blocks(array.shape, array.dtype, BLOCK_BYTES):
                hasher.update(name, _block(reader, through, path, name, block, array))
    return hasher


def stored_digest(store: Store, entry: Entry) -> str:
    """The content digest of what lies at an entry, computed from its bytes."""
    with store.at(entry) as (reader, path):
        layout = reader.layout(path)
        return hash_group(reader, path, layout).hexdigest(layout.sizes)


def _is_fast(array: ArrayLayout) -> bool:
    if array.dtype == TEXT or array.compression is not None or array.chunks is None:
        return False
    return nbytes(array) >= FAST_BYTES and nbytes(array) >= FAST_ROW * array.shape[0]


def _block(reader: Reader, rows: RowReader | None, path: str, name: str, block: slice, array: ArrayLayout) -> Array:
    if rows is not None:
        return rows.ranges(name, np.array([block.start]), np.array([block.stop - block.start]))
    return reader.read(path, name, (block,) if array.shape else ())


# --- entries ---------------------------------------------------------------------------------------------------------


def check_entry(reader: Reader, engine: Engine | None, entry: Entry) -> tuple[list[Finding], int]:
    """Compare one version of a key with its record.

    Returns
    -------
    tuple of list of Finding and int
        What differs, and how many bytes were read.
    """
    try:
        if not reader.exists(entry.path):
            message = f"Nothing lies at {entry.reference}, though the log has it."
            return [Finding("data_missing", message, **_of(entry), expected=f"a group {entry.path}", hint=_CHANGED)], 0
        layout = reader.layout(entry.path)
        size = sum(nbytes(array) for array in layout.arrays.values())
        findings = _compare_layout(entry, layout)
        hasher = hash_group(reader, entry.path, layout, engine)
        if hasher.hexdigest(layout.sizes) != entry.digest and engine is not None:
            hasher = hash_group(reader, entry.path, layout)  # a second look, as every reader would see it
        if hasher.hexdigest(layout.sizes) != entry.digest:
            findings = list(_explain(reader, entry, layout, hasher, findings))
        elif findings:  # the log and the digest disagree with each other
            findings = [*findings, _data_changed(entry, "the log contradicts its own digest", entry.digest, "")]
    except Exception as error:  # noqa: BLE001 - a damaged file may fail in any way; the audit goes on
        return [unreadable(entry.reference, error, **_of(entry))], 0
    return findings, size


def unreadable(what: str, error: BaseException, **facts: Any) -> Finding:
    """A finding for a group that cannot be read."""
    told = error.message if isinstance(error, H5mlError) else f"{type(error).__name__}: {error}"
    return Finding("unreadable", f"{what} cannot be read: the file is damaged there.", **facts, found=told[:300])


def _of(entry: Entry) -> dict[str, Any]:
    return {"key": entry.reference, "run": entry.run}


def _compare_layout(entry: Entry, layout: GroupLayout) -> list[Finding]:
    findings = []
    changed = _differences(entry.attributes, layout.attributes)
    if changed:
        names = ", ".join(changed)
        message = f"Attributes of {entry.reference} were changed: {names}."
        expected, found = (_part(side, changed) for side in (entry.attributes, layout.attributes))
        findings.append(
            Finding("attributes_changed", message, **_of(entry), expected=expected, found=found, hint=_CHANGED)
        )
    sizes = _differences(entry.sizes, layout.sizes)
    if sizes:
        message = f"Dimensions of {entry.reference} were changed: {', '.join(sizes)}."
        expected, found = _part(entry.sizes, sizes), _part(layout.sizes, sizes)
        findings.append(
            Finding("dimensions_changed", message, **_of(entry), expected=expected, found=found, hint=_CHANGED)
        )
    return findings


def _part(side: Mapping[str, Any], names: list[str]) -> str:
    return str({name: side[name] for name in names if name in side})[:300]


def _differences(recorded: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    return sorted(
        name
        for name in {*recorded, *found}
        if name not in recorded
        or name not in found
        or type(recorded[name]) is not type(found[name])
        or recorded[name] != found[name]
    )


def _explain(
    reader: Reader, entry: Entry, layout: GroupLayout, hasher: DatasetHasher, known: list[Finding]
) -> Iterator[Finding]:
    """Say what differs, as narrowly as the record allows."""
    yield from known
    hasher.attributes = dict(entry.attributes)
    if hasher.hexdigest(layout.sizes) == entry.digest:
        return  # only the attributes of the dataset differ, which was said
    added = _added(entry, layout, hasher)
    if added:
        for name in added:
            message = f"The variable {name} of {entry.reference} was added by hand; the others are as recorded."
            yield Finding("variable_added", message, **_of(entry), found=name, hint=_CHANGED)
        return
    kind = kinds().get(entry.kind)
    needed = {v.name for v in kind.variables if v.required} if kind is not None else set()
    for name in sorted((needed | set(entry.chains)) - set(layout.arrays)):
        message = f"The variable {name} of {entry.reference} is missing."
        yield Finding("variable_missing", message, **_of(entry), expected=name, hint=_CHANGED)
    chains = hasher.chains()
    changed = [n for n in sorted(layout.arrays) if n in entry.chains and chains.get(n) != entry.chains[n]]
    where = f"in {', '.join(changed)}" if changed else f"in one or more of its {len(hasher.variables)} variables"
    told = f"{where}: values, type or attributes{_rows(first_change(reader, entry, layout))}"
    yield _data_changed(entry, told, entry.digest, hasher.hexdigest(layout.sizes))


def _rows(changed: tuple[int, int] | None) -> str:
    """Which records of the first axis a change lies in, as far as the log tells."""
    if changed is None:
        return ""
    first, stop = changed
    if not first:
        return f"; the first change is in records 0 to {stop - 1}, or in what all records share"
    return f"; records 0 to {first - 1} are as they were committed, the first change is in {first} to {stop - 1}"


def _data_changed(entry: Entry, where: str, expected: str, found: str) -> Finding:
    message = f"The data of {entry.reference} differ from their record ({where})."
    return Finding("data_changed", message, **_of(entry), expected=expected, found=found or None, hint=_CHANGED)


def _added(entry: Entry, layout: GroupLayout, hasher: DatasetHasher, most: int = 3) -> tuple[str, ...]:
    """The variables without which the digest comes out right."""
    names = sorted(layout.arrays)
    for count in range(1, most + 1):
        if len(names) > 40 and count > 1:
            break
        for left_out in combinations(names, count):
            headers = {n: h for n, h in hasher.headers.items() if n not in left_out}
            trial = DatasetHasher(headers, hasher.attributes, {n: layout.arrays[n].shape for n in headers})
            trial.variables = {n: v for n, v in hasher.variables.items() if n in headers}
            if trial.hexdigest(layout.sizes) == entry.digest:
                return left_out
    return ()


# --- what runs keep --------------------------------------------------------------------------------------------------


def check_kept(reader: Reader, catalogue: Catalogue) -> Iterator[Finding]:
    """Restart states and stashes against their digests."""
    for identity, restart in catalogue.restarts.items():
        path = f"{RESTARTS}/{identity}"
        yield from _check_restart(reader, path, identity, restart.get("digest", ""))
    for identity, stash in catalogue.stashes.items():
        yield from _check_stash(reader, f"{STASHES}/{identity}", identity, stash)


def _check_restart(reader: Reader, path: str, identity: str, digest: str) -> Iterator[Finding]:
    told = f"The restart state {identity[:16]}"
    try:
        if not reader.exists(path):
            yield Finding("restart_changed", f"{told} is missing.", run=identity, expected=f"a group {path}")
            return
        layout = reader.layout(path)
        found = hash_group(reader, path, layout).hexdigest(layout.sizes)
    except Exception as error:  # noqa: BLE001 - a damaged file may fail in any way; the audit goes on
        yield unreadable(told, error, run=identity)
        return
    if found != digest:
        hint = "`h5ml gc` drops it; the run then starts again from its beginning"
        message = f"{told} differs from its digest."
        yield Finding("restart_changed", message, run=identity, expected=digest, found=found, hint=hint)


def _check_stash(reader: Reader, path: str, identity: str, stash: Mapping[str, Any]) -> Iterator[Finding]:
    told = f"The kept results of run {identity[:16]}"
    try:
        layout = reader.layout(path)
        wrong = layout.sizes["byte"] < stash["size"]
        for start, stop, digest in stash.get("pieces", ()):
            text = reader.read(path, "bytes", (slice(start, stop),)).tobytes()
            wrong = wrong or blake3(text).hexdigest() != digest
    except Exception as error:  # noqa: BLE001 - a damaged file may fail in any way; the audit goes on
        yield unreadable(told, error, run=identity)
        return
    if wrong:
        yield Finding("stash_changed", f"{told} differ from their digests.", run=identity, hint="execute the run again")


# --- groups ----------------------------------------------------------------------------------------------------------


def check_log_group(reader: Reader) -> Iterator[Finding]:
    """The group of the log besides its text."""
    layout = reader.layout(LOG_PATH)
    expected = {"h5ml_format": FORMAT, "about": "commit log of h5ml: JSON, tab, BLAKE3, newline"}
    for name, value in expected.items():
        if layout.attributes.get(name) != value:
            message = f"The attribute {name} of the log was changed."
            found = str(layout.attributes.get(name))[:200]
            yield Finding("log_changed", message, key=LOG_PATH, expected=str(value), found=found)
    if set(layout.arrays) != {"bytes"} or dict(layout.arrays["bytes"].attributes) != {"units": "1"}:
        message = "The arrays of the log, or their attributes, were changed."
        yield Finding("log_changed", message, key=LOG_PATH, expected="bytes", found=", ".join(layout.arrays))


def known_paths(catalogue: Catalogue) -> set[str]:
    """Every group that the log accounts for."""
    paths = {entry.path for entry in catalogue.all_versions() if not entry.purged}
    paths |= {f"{RESTARTS}/{identity}" for identity in catalogue.restarts}
    paths |= {f"{STASHES}/{identity}" for identity in catalogue.stashes}
    return paths | {LOG_PATH}


def unknown_groups(paths: Iterable[str], catalogue: Catalogue) -> list[str]:
    """Groups that the log does not account for, in order."""
    known = known_paths(catalogue)
    return sorted(path for path in paths if path not in known)


def check_groups(paths: Iterable[str], catalogue: Catalogue) -> Iterator[Finding]:
    """A finding for each group that no commit made."""
    for path in unknown_groups(paths, catalogue):
        if path.startswith((f"{RESTARTS}/", f"{STASHES}/")):
            message = f"Nothing refers to {path} any more."
            yield Finding("leftover", message, key=path, hint="`h5ml gc` removes it")
        else:
            message = f"The data at {path or '/'} were put there by hand: no commit of the log made them."
            hint = "store them with `h5ml import` and remove the group, or restore the log"
            yield Finding("unknown_group", message, key=path or "/", hint=hint)
