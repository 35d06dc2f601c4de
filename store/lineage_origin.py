"""Frames followed back from key to key: to the structures that were labelled, and the trajectories they are of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..schemas.errors import InvalidData
from ..schemas.key import parse_reference
from ..schemas.run import DataRef, Run
from .catalogue import Entry
from .gather_reader import REFERRING, Array

if TYPE_CHECKING:
    from .store import Store

HOLDING = ("structures", "trajectory", "clusters", "labels")
"""Kinds that hold frames."""
_REFERENCES = ("source", "source_frame", "source_key", "source_digest")
_DEEPEST = 1000


@dataclass(frozen=True, slots=True)
class Places:
    """Frames by the key that they lie at.

    Attributes
    ----------
    node : array (N,) of int
        Which key, as ``Trail.texts`` numbers them; -1 where there is none.
    frame : array (N,) of int
        Which of its frames; -1 where there is none.
    """

    node: Array
    frame: Array

    @classmethod
    def nowhere(cls, count: int) -> Places:
        """No frame, so many times."""
        return cls(np.full(count, -1, dtype=np.int64), np.full(count, -1, dtype=np.int64))

    @classmethod
    def joined(cls, parts: Sequence[Places]) -> Places:
        """Several, end to end."""
        several = (cls.nowhere(0), *parts)
        return cls(np.concatenate([one.node for one in several]), np.concatenate([one.frame for one in several]))

    def where(self, chosen: Array, other: Places) -> Places:
        """These where ``chosen`` is true, the others elsewhere."""
        return Places(np.where(chosen, self.node, other.node), np.where(chosen, self.frame, other.frame))


class Trail:
    """Follows frames through the keys that name the frames they were made of.

    Parameters
    ----------
    store : Store
        Where they lie.

    Attributes
    ----------
    texts : list of str
        ``KEY@VERSION`` of every key that was met.
    entries : list of Entry or None
        Where each lies now; None where it is gone.
    notes : list of str
        Where a trail ends too early, and why.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.texts: list[str] = []
        self.entries: list[Entry | None] = []
        self.notes: list[str] = []
        self._numbers: dict[str, int] = {}
        self._parents: dict[int, Places | None] = {}

    def node(self, key: str, digest: str = "") -> int:
        """The number of ``KEY@VERSION``, wherever it lies by now."""
        if key not in self._numbers:
            path, version = parse_reference(key)
            ref = DataRef(key=path, version=version or 1, kind="", digest=digest)
            entry = self.store.catalogue.locate(ref)
            if entry is None:
                self.note(f"{key} is not in this store: its frames cannot be followed further")
            self._numbers[key] = self._number(key, entry)
        return self._numbers[key]

    def _number(self, text: str, entry: Entry | None) -> int:
        text = entry.reference if entry is not None else text
        if text not in self._numbers:
            self._numbers[text] = len(self.texts)
            self.texts.append(text)
            self.entries.append(entry)
        return self._numbers[text]

    def note(self, text: str) -> None:
        """Keep a remark, once."""
        if text not in self.notes:
            self.notes.append(text)

    def columns(self, entry: Entry, names: Iterable[str]) -> dict[str, Array]:
        """Whole variables of an entry, of those that it has; nothing where it was purged."""
        if entry.purged:
            self.note(f"{entry.reference} was purged: its frames cannot be followed further")
            return {}
        with self.store.at(entry) as (reader, path):
            there = reader.layout(path).arrays
            return {name: np.asarray(reader.read(path, name, (slice(None),))) for name in names if name in there}

    def referred(self, entry: Entry, source: str = "source", frame: str = "source_frame") -> Places | None:
        """The frames that an entry names, one for each of its own; None where it names none."""
        columns = self.columns(entry, (source, frame, *_REFERENCES[2:]))
        if source not in columns or frame not in columns or "source_key" not in columns:
            return None
        keys = columns["source_key"].tolist()
        digests = columns["source_digest"].tolist() if "source_digest" in columns else [""] * len(keys)
        nodes = [self.node(str(key), str(digest)) for key, digest in zip(keys, digests, strict=True)]
        return Places(np.array([*nodes, -1], dtype=np.int64)[columns[source]], columns[frame].astype(np.int64))

    def back(self, places: Places, kinds: Sequence[str] | None = None) -> Places:
        """One step back; frames that name no others, and those of other ``kinds``, stay.

        Raises
        ------
        InvalidData
            If a key has no frame of a number that another names.
        """
        node, frame = places.node.copy(), places.frame.copy()
        for number in np.unique(places.node).tolist():
            entry = self.entries[number] if number >= 0 else None
            if entry is None or (kinds is not None and entry.kind not in kinds):
                continue
            parents = self._parents_of(number, entry)
            if parents is None:
                continue
            mine = np.flatnonzero(places.node == number)
            index = places.frame[mine]
            if len(index) and (index.min() < 0 or index.max() >= len(parents.node)):
                raise InvalidData(
                    "A frame is referred to that its key does not have.",
                    key=entry.reference,
                    expected=f"frames 0 to {len(parents.node) - 1}",
                    found=int(index.max() if index.max() >= len(parents.node) else index.min()),
                )
            node[mine], frame[mine] = parents.node[index], parents.frame[index]
        return Places(node, frame)

    def to_frames(self, places: Places) -> Places:
        """Through selections to the frames that they stand for."""
        return self._until_still(places, REFERRING)

    def to_origins(self, places: Places) -> Places:
        """Through all that names the frames it was made of, to the frames that were sampled."""
        return self._until_still(places, None)

    def _until_still(self, places: Places, kinds: Sequence[str] | None) -> Places:
        for _ in range(_DEEPEST):
            further = self.back(places, kinds)
            if np.array_equal(further.node, places.node) and np.array_equal(further.frame, places.frame):
                break
            places = further
        return places

    def _parents_of(self, number: int, entry: Entry) -> Places | None:
        if number not in self._parents:
            found = self.referred(entry)
            if found is None and entry.kind == "clusters":
                found = self._cut_from(entry)
            self._parents[number] = found
        return self._parents[number]

    def _cut_from(self, entry: Entry) -> Places | None:
        """The frames that clusters were cut from: they say which, and their run of what."""
        ref = self._source_of_clusters(entry)
        columns = self.columns(entry, ("source_frame",))
        if ref is None or not columns:
            return None
        frame = columns["source_frame"].astype(np.int64)
        return Places(np.full(len(frame), self.node(f"{ref.key}@{ref.version}", ref.digest)), frame)

    def _source_of_clusters(self, entry: Entry) -> DataRef | None:
        """The trajectory that the same run made (of several the one of the same name), else what the run read."""
        run = self.store.catalogue.runs.get(entry.run or "")
        if run is None:
            return None
        made = {name: ref for name, ref in run.outputs.items() if ref.kind == "trajectory"} or self._making(run)
        if len(made) > 1:
            own = next((name for name, ref in run.outputs.items() if self._is(ref, entry)), entry.key)
            made = {name: ref for name, ref in made.items() if name.rpartition("/")[2] == own.rpartition("/")[2]}
        read = [ref for refs in run.inputs.values() for ref in refs if ref.kind in (*HOLDING, *REFERRING)]
        found = list(made.values()) or read
        return found[0] if len(found) == 1 else None

    def _is(self, ref: DataRef, entry: Entry) -> bool:
        return ref.version == entry.version and self.store.catalogue.resolve(ref.key) == entry.key

    def _making(self, run: Run) -> dict[str, DataRef]:
        """The trajectories of a run that is not done and has no record of its outputs."""
        entries = self.store.entries(run.root_key) if run.status != "done" else []
        return {entry.key: entry.ref for entry in entries if entry.kind == "trajectory" and entry.run == run.id}

    def values(self, places: Places, name: str, missing: Any) -> Array:
        """A variable along frames at some places; ``missing`` where a key has none."""
        found = np.full(len(places.node), missing)
        for number in np.unique(places.node).tolist():
            entry = self.entries[number] if number >= 0 else None
            if entry is None or entry.purged:
                continue
            column = self.columns(entry, (name,)).get(name)
            if column is not None and column.ndim == 1:
                mine = places.node == number
                found[mine] = column[places.frame[mine]]
        return found

    def told(self, nodes: Array, texts: Sequence[str]) -> Array:
        """A text for each node, as a column; empty where there is no node."""
        return np.array([*texts, ""], dtype=object)[nodes]
