"""Where in a changed key the first change lies: its digests after every commit, computed anew from its rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..schemas.errors import StoreDamaged
from .catalogue import Entry
from .digest import DatasetHasher, row_blocks
from .engine import GroupLayout, Reader
from .log import decode, read_bytes, split_lines
from .work import hasher_of


@dataclass(frozen=True, slots=True)
class State:
    """A key after one commit.

    Attributes
    ----------
    sizes : mapping
        Dimension lengths.
    records : int
        Frames, records or rows.
    digest : str
        Content digest.
    """

    sizes: Mapping[str, int]
    records: int
    digest: str


def first_change(reader: Reader, entry: Entry, layout: GroupLayout) -> tuple[int, int] | None:
    """The records of the first commit whose digest does not come out any more.

    Parameters
    ----------
    reader : Reader
        A view that is open.
    entry, layout : Entry, GroupLayout
        What was committed, and what lies there now.

    Returns
    -------
    tuple of int or None
        First record and the one past the last; those before are as they were committed. None where the key was written
        in one commit, or the log does not say.
    """
    states = history(read_bytes(reader), entry)
    if len(states) < 2 or states[-1].digest != entry.digest or dict(entry.sizes) != dict(layout.sizes):
        return None
    hasher = hasher_of(layout, entry.attributes)
    done = dict.fromkeys(hasher.variables, 0)
    first = 0
    for state in states:
        _advance(reader, entry, layout, hasher, done, state)
        if hasher.hexdigest(state.sizes) != state.digest:
            return first, state.records
        first = state.records
    return None


def _advance(
    reader: Reader, entry: Entry, layout: GroupLayout, hasher: DatasetHasher, done: dict[str, int], state: State
) -> None:
    """Hash the rows that a commit added."""
    for name in hasher.variables:
        array = layout.arrays[name]
        stop = state.sizes[array.dims[0]] if array.dims else 1
        for block in row_blocks((stop - done[name], *array.shape[1:]) if array.dims else (), array.dtype):
            if array.dims:
                rows = slice(done[name] + block.start, done[name] + block.stop)
                hasher.update(name, reader.read(entry.path, name, (rows,)))
            elif not done[name]:
                hasher.update(name, reader.read(entry.path, name, ()))
        done[name] = stop


def history(text: bytes, entry: Entry) -> list[State]:
    """What an entry was after each commit that touched it, oldest first; nothing where the log is broken."""
    states: dict[tuple[str, int], list[State]] = {}
    for event in _events(text):
        name = event.get("key", ""), event.get("version", 0)
        if event.get("event") in ("write", "replace"):
            states[name] = [State(event["sizes"], event.get("records", 0), event["digest"])]
        elif event.get("event") == "append" and name in states:
            sizes = {**states[name][-1].sizes, **event["sizes"]}
            states[name].append(State(sizes, event["records"], event["digest"]))
        elif event.get("event") == "move":
            moved = {key: states.pop(key) for key in list(states) if key[0] == event["source"]}
            states |= {(event["target"], version): found for (_, version), found in moved.items()}
    return states.get((entry.key, entry.version), [])


def _events(text: bytes) -> Iterator[dict[str, Any]]:
    for line in split_lines(text):
        try:
            yield from decode(line).events
        except StoreDamaged:
            return
