"""Distributed writes: a store whose transactions are executed here and committed by another process.

The worker executes a transaction as if it were alone: on a fork of the branch, with the catalogue as it stood there.
So it computes the digests that a commit here would have, from the rows that it has in memory. What it hands over are
the changes of the fork and the events for the log. The committing process adopts them, if the keys concerned stand as
they stood, in one commit with what others handed over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np

from ..schemas.errors import StoreWriteFailed
from . import log
from .catalogue import Catalogue, Entry
from .engine import Writer
from .icechunk import IcechunkEngine
from .icechunk_fork import Changes
from .icechunk_view import Change
from .log import event_of
from .store import Store
from .work import STASHES, Work

Standing = tuple[str, int, bool]


class Outdated(StoreWriteFailed):
    """What was handed over does not fit the store as it is by now."""


@dataclass(frozen=True, slots=True)
class Handover:
    """A transaction that was executed on a fork, on its way to the process that commits it.

    Attributes
    ----------
    changes : Changes
        Of groups and arrays.
    events : sequence of dict
        For the log.
    before : mapping
        How each key concerned stood: the digest of its newest version (empty where there was no such key), the highest
        number that a version of it ever had, and whether it was purged.
    message : str
        Why, for the log.
    """

    changes: Changes
    events: Sequence[log.Event]
    before: Mapping[str, Standing]
    message: str = ""


def adopt(work: Work, handover: Handover) -> None:
    """Do in a transaction what was done on a fork.

    Raises
    ------
    Outdated
        If a key concerned has changed since; then nothing was done.
    """
    for key, before in handover.before.items():
        found = _standing(work.catalogue, key)
        if found != before or (not before[0] and _is_in_the_way(work.catalogue, key)):
            raise Outdated(
                "The key has changed since the data for it were written.",
                key=key,
                expected=_told(before),
                found=_told(found),
                hint="nothing was changed; run again",
            )
    assert isinstance(work.writer, Change)
    handover.changes.adopt(work.writer)
    for event in handover.events:
        work.emit(event)


def _standing(catalogue: Catalogue, key: str) -> Standing:
    highest = catalogue.next_version(key) - 1
    if key not in catalogue:
        return "", highest, False
    entry = catalogue.newest(key)
    return entry.digest, highest, entry.purged


def _told(standing: Standing) -> str:
    digest, highest, purged = standing
    return f"version {highest}, {'purged' if purged else digest[:16]}" if digest else "no such key"


def _is_in_the_way(catalogue: Catalogue, key: str) -> bool:
    """Whether a new key would lie above or below another."""
    parts = key.split("/")
    return key in catalogue.interior or any("/".join(parts[:i]) in catalogue for i in range(1, len(parts)))


@dataclass(slots=True)
class Piece:
    """Finished items of a map that lie end to end.

    Attributes
    ----------
    start, stop : int
        Where, in the array of the run's finished items.
    digest : str
        Of these bytes.
    rows : list of (int, int, int)
        Item, first byte, end.
    text : bytes
        The bytes, where they are still to be written; else
    changes : Changes or None
        what a worker changed when it wrote them.
    """

    start: int
    stop: int
    digest: str
    rows: list[tuple[int, int, int]] = field(default_factory=list)
    text: bytes = b""
    changes: Changes | None = None


def stash_pieces(work: Work, identity: str, name: str, pieces: Sequence[Piece], length: int) -> None:
    """Keep finished items of a map, each piece where it lies.

    Parameters
    ----------
    work : Work
        The transaction.
    identity, name : str
        The run and its map.
    pieces : sequence of Piece
        No two share a chunk.
    length : int
        How long the array shall be at least, so that workers may write behind these pieces.
    """
    work.lengthen_stash(identity, length)
    assert isinstance(work.writer, Change)
    for piece in pieces:
        if piece.changes is not None:
            piece.changes.adopt(work.writer)
        else:
            data = np.frombuffer(piece.text, dtype=np.uint8)
            work.writer.write(f"{STASHES}/{identity}", "bytes", data, piece.start)
        rows = [[name, *row] for row in piece.rows]
        work.emit(event_of("stash", id=identity, items=rows, piece=[piece.start, piece.stop, piece.digest]))


class ForkedStore(Store):
    """A store as a worker sees it: it reads like any other, and what it commits it hands over.

    Parameters
    ----------
    engine : IcechunkEngine
        On a bucket.
    hand_over : callable
        Returns once a transaction is durable, with the root digest that it led to; raises where it was refused.
    """

    def __init__(self, engine: IcechunkEngine, hand_over: Callable[[Handover], str]) -> None:
        super().__init__(engine)
        self._fork, self._hand_over = engine.fork, hand_over
        self._after: Catalogue | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """What travels to another process is the plain store."""
        return Store, (self.engine,)

    @property
    def catalogue(self) -> Catalogue:
        """The catalogue as the last transaction of this store left it; before the first, as of now."""
        return self._after if self._after is not None else super().catalogue

    def execute(
        self,
        operations: Sequence[Callable[[Work], None]],
        message: str = "",
        timeout_s: float = 60.0,  # noqa: ARG002
    ) -> str | None:
        """Run the operations of a transaction on a fork, and wait until they are committed."""
        with self._lock:
            try:
                (work, before), changes = self._fork(lambda writer: self._executed(writer, operations, message))
                if not work.events:
                    return None
                digest = self._hand_over(Handover(changes, work.events, before, message))
            except BaseException:
                self._reset()
                self._after = None
                raise
            self._state, self._after = None, work.catalogue
            return digest

    def _own(self, key: str) -> Entry:
        return self.entry(key)

    def _executed(
        self, writer: Writer, operations: Sequence[Callable[[Work], None]], message: str
    ) -> tuple[Work, dict[str, Standing]]:
        known = self._refresh(writer)
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        pending = log.Commit(known.commits + 1, known.head, "", max(now, known.last_time), message, [])
        work = Work(writer, known.copied(), pending, self._hashers)
        for operation in operations:
            operation(work)
        keys = {event["key"] for event in work.events if "key" in event}
        return work, {key: _standing(known, key) for key in sorted(keys)}
