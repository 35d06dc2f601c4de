"""Results of maps whose store is in a bucket: workers write them there, a bunch at a time.

What travels over dask is where they lie (`Kept`), and the committing process adopts a whole bunch by reference. It
deals out the room: each bunch that is sent gets a stretch of the array of kept results that no other has. A bunch that
is small, or larger than its room, travels as it would without a bucket.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import numpy as np
from blake3 import blake3

from ..schemas.errors import H5mlError
from ..store.engine import Engine, Reader
from ..store.icechunk import IcechunkEngine
from ..store.icechunk_distributed import Piece, stash_pieces
from ..store.icechunk_fork import Changes
from ..store.store import Store
from ..store.work import STASH_CHUNK, STASHES
from .bunches import Answer, Outcome
from .commit import RunTransaction

LEAST_BYTES = 2 * STASH_CHUNK
"""A bunch with less than this travels over dask: many of them share a chunk and a commit."""
SPARE = 1.5
"""How much more room a bunch gets than its results are expected to take."""
LENGTH = 1 << 40
"""How long the array of kept results is made at once: Icechunk merges no forks of arrays whose lengths differ."""

Place = tuple[int, int, int, int]
"""First byte and end of a result, and of its bunch."""


@dataclass(frozen=True, slots=True)
class Written:
    """A bunch of results that lies in the bucket.

    Attributes
    ----------
    changes : Changes
        What the worker changed.
    start, stop : int
        Where it lies.
    digest : str
        Of its bytes.
    """

    changes: Changes
    start: int
    stop: int
    digest: str


@dataclass(frozen=True, slots=True)
class Kept:
    """The packed result of an item, in the bucket: a part of a bunch."""

    written: Written
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def place(self) -> Place:
        """Where it lies, for when it is committed."""
        return self.start, self.stop, self.written.start, self.written.stop


@dataclass(frozen=True, slots=True)
class Room:
    """Where a worker may write the results of a bunch; travels with it."""

    location: str
    path: str
    start: int
    stop: int

    def keep(self, answer: Answer) -> Answer:
        """Write the results of a bunch; as they are where they do not fit, or cannot be written."""
        blobs = [blob for blob, _ in answer.outcomes if isinstance(blob, bytes)]
        text = b"".join(blobs)
        if not LEAST_BYTES <= len(text) <= self.stop - self.start:
            return answer
        data = np.zeros(_whole(len(text)), dtype=np.uint8)
        data[: len(text)] = np.frombuffer(text, dtype=np.uint8)
        try:
            _, changes = _opened(self.location).fork(lambda writer: writer.write(self.path, "bytes", data, self.start))
        except H5mlError:
            return answer
        written = Written(changes, self.start, self.start + len(text), blake3(text).hexdigest())
        ends = accumulate(map(len, blobs), initial=self.start)
        spans = iter([Kept(written, end, end + len(blob)) for end, blob in zip(ends, blobs, strict=False)])
        outcomes: list[Outcome] = [
            (next(spans) if blob is not None else None, message) for blob, message in answer.outcomes
        ]
        return Answer(outcomes, answer.seconds)


@lru_cache(4)
def _opened(location: str) -> IcechunkEngine:
    """The engine of this process for a bucket: opening a repository takes longer than writing a bunch."""
    return IcechunkEngine(location)


def _whole(size: int) -> int:
    return -(-size // STASH_CHUNK) * STASH_CHUNK


@dataclass(slots=True)
class Keeper:
    """Deals out room for the results of one map, commits them, and reads them when they are looked at.

    Attributes
    ----------
    store, run_id, name : Store, str, str
        Where, of which run, and the map.
    """

    store: Store
    run_id: str
    name: str
    _end: int = 0
    _made: bool = False
    _largest: int = 0
    _window: tuple[int, int, bytes] = (0, 0, b"")
    _reader: Reader | None = None

    def __post_init__(self) -> None:
        self._end = _whole(self.store.catalogue.stashes.get(self.run_id, {}).get("size", 0))

    def room(self, items: int) -> Room | None:
        """A stretch for a bunch; None before it is known how large results are, or where none is left."""
        size = _whole(int(SPARE * self._largest * items))
        if size < LEAST_BYTES or self._end + size > LENGTH or not self._made:
            return None
        return Room(self.store.location, self._path, *self._take(size))

    def _take(self, size: int) -> tuple[int, int]:
        start, self._end = self._end, self._end + size
        return start, self._end

    @property
    def _path(self) -> str:
        return f"{STASHES}/{self.run_id}"

    def commit(self, transaction: RunTransaction, items: Mapping[int, bytes | Kept]) -> None:
        """Keep results in a transaction: those in the bucket by reference, the others with their bytes."""
        self._largest = max(self._largest, *map(len, items.values()))
        pieces: dict[int, Piece] = {}
        for index, blob in items.items():
            if isinstance(blob, Kept):
                written = blob.written
                piece = pieces.setdefault(written.start, Piece(written.start, written.stop, written.digest))
                piece.changes = written.changes
                piece.rows.append((index, blob.start, blob.stop))
        here = {index: blob for index, blob in items.items() if isinstance(blob, bytes)}
        if here:
            text = b"".join(here.values())
            start, _ = self._take(_whole(len(text)))
            ends = list(accumulate(map(len, here.values()), initial=start))
            rows = list(zip(here, ends, ends[1:], strict=False))
            pieces[start] = Piece(start, start + len(text), blake3(text).hexdigest(), rows, text)
        length = max(self._end, LENGTH)
        transaction.also(lambda work: stash_pieces(work, self.run_id, self.name, list(pieces.values()), length))
        self._made = True

    def settle(self) -> None:
        """Read from the store as it is now, with all results committed, even when the run forgets them later."""
        with self.store.engine.reading() as reader:
            self._reader = reader

    def read(self, place: Place) -> bytes:
        """The packed result of an item; its whole bunch is read at once."""
        first, end, start, stop = place
        if self._window[:2] != (start, stop):
            assert self._reader is not None
            self._window = start, stop, self._reader.read(self._path, "bytes", (slice(start, stop),)).tobytes()
        return self._window[2][first - start : end - start]


def keeper_for(store: Store, run_id: str, name: str, *, remote: bool) -> Keeper | None:
    """A keeper where workers may write the store themselves; else None."""
    engine: Engine = store.engine
    return Keeper(store, run_id, name) if remote and engine.apart else None
