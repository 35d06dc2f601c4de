"""Transactions: several changes that appear together at their commit, or not at all."""

from __future__ import annotations

import getpass
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ..schemas.key import Key
from ..schemas.kind import Kind
from ..schemas.kinds import kind_named
from ..schemas.run import Run
from .catalogue import Entry
from .log import event_of
from .prepare import Prepared, Storage, prepare
from .work import Work

if TYPE_CHECKING:
    import xarray as xr

    from .store import Store


class Transaction:
    """Changes to a store, collected and then committed at once.

    Use it as a context manager: a clean exit commits, an exception forgets everything.

    Parameters
    ----------
    store : Store
        What it changes.
    message : str
        Why, for the log.
    timeout_s : float
        How long to wait for another writer.
    """

    def __init__(self, store: Store, message: str = "", timeout_s: float = 60.0) -> None:
        self._store = store
        self._message = message
        self._timeout_s = timeout_s
        self._operations: list[Callable[[Work], None]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.commit()

    def commit(self) -> str | None:
        """Do all that was asked, durably.

        Returns
        -------
        str or None
            The root digest of the new state; None where nothing changed.

        Raises
        ------
        KeyTaken, UnknownKey, InvalidData, LockTimeout, StoreWriteFailed
            Then nothing is changed.
        """
        operations, self._operations = self._operations, []
        return self._store.execute(operations, self._message, self._timeout_s) if operations else None

    # --- datasets ------------------------------------------------------------------------------------------------

    def write(
        self,
        key: str,
        dataset: xr.Dataset,
        kind: Kind | str | None = None,
        *,
        run: str | None = None,
        new_version: bool = False,
        storage: Storage | None = None,
        origin: Mapping[str, Any] | None = None,
        expect: Entry | None = None,
    ) -> None:
        """Store a dataset under a new key, or as a new version of one.

        Parameters
        ----------
        key : str
            Where.
        dataset : xarray.Dataset
            Lazy variables are read in blocks at the commit.
        kind : Kind or str, optional
            By default the dataset's attribute ``kind``, else ``table``.
        run : str, optional
            Id of the run that made it.
        new_version : bool
            Whether a key that exists gets a new version; the old one is kept until ``gc``.
        storage : Storage, optional
            Chunks, compression, and whether it will grow.
        origin : mapping, optional
            Where data that no run made came from (file name and digest).
        expect : Entry, optional
            Copying: what the digest must come out as, with version and times to keep.

        Raises
        ------
        InvalidData
            At once, if it does not fit its kind.
        """
        path = Key(key)
        ready = prepare(dataset, _kind_of(dataset, kind), storage, key=path)
        facts = {"run": run, "origin": dict(origin) if origin else None}
        self._operations.append(lambda work: work.write(path, ready, facts, new_version=new_version, expect=expect))

    def append(self, key: str, dataset: xr.Dataset, *, run: str | None = None) -> None:
        """Add records to the newest version of a key."""
        self._operations.append(lambda work: work.append(Key(key), self._prepared(work, key, dataset), run))

    def replace(self, key: str, dataset: xr.Dataset, kind: Kind | str | None = None, *, run: str | None = None) -> None:
        """Store a dataset, and keep only this newest content of the key's newest version."""
        ready = prepare(dataset, _kind_of(dataset, kind), key=key)
        self._operations.append(lambda work: work.replace(Key(key), ready, run))

    def restore(self, key: str, version: int, dataset: xr.Dataset) -> None:
        """Put back the payload of a purged entry; the digest must be the recorded one."""
        self._operations.append(lambda work: work.restore(Key(key), version, self._prepared(work, key, dataset)))

    # --- what a run keeps ----------------------------------------------------------------------------------------

    def record(self, run: Run | Mapping[str, Any]) -> None:
        """Record a run, or changed fields of one (``id`` among them)."""
        record = run.record() if isinstance(run, Run) else dict(run)
        self._operations.append(lambda work: work.emit(event_of("run", run=record)))

    def restart(self, identity: str, dataset: xr.Dataset) -> None:
        """Keep the restart state of a run (by its id) in place of the one before."""
        ready = prepare(dataset, kind_named("observables"))
        self._operations.append(lambda work: work.restart(identity, ready))

    def stash(self, identity: str, name: str, items: Mapping[int, bytes]) -> None:
        """Keep finished items of a map until the run is done."""
        self._operations.append(lambda work: work.stash(identity, name, items))

    def mark(self, identity: str, name: str, value: Any) -> None:
        """Keep a small decision of a run (which call ended first)."""
        self._operations.append(lambda work: work.emit(event_of("mark", id=identity, name=name, value=value)))

    def forget(self, identity: str, *, restart: bool = False) -> None:
        """Drop what a finished run kept for resuming; with ``restart`` also its restart state."""
        self._operations.append(lambda work: work.forget(identity, restart=restart))

    # --- keys ----------------------------------------------------------------------------------------------------

    def move(self, source: str, target: str) -> None:
        """Rename a key, or every key below a path; lineage is kept and the old name still resolves."""
        self._operations.append(lambda work: work.move(source.strip("/"), Key(target)))

    def alias(self, name: str, key: str) -> None:
        """Let another name (of an imported file, say) stand for a key, through its later moves.

        Parameters
        ----------
        name : str
            The other name; it must not be a key, nor stand for another one. A key written there later wins.
        key : str
            A key, which may be written in the same transaction.

        Raises
        ------
        KeyTaken
            At the commit, if the name is a key or stands for another one.
        UnknownKey
            At the commit, if there is no such key.
        """
        self._operations.append(lambda work: work.alias(Key(name), Key(key)))

    def remove(self, reference: str) -> None:
        """Remove a key with all versions (``KEY``) or one version (``KEY@2``); the log remembers them."""
        self._operations.append(lambda work: work.remove(reference))

    def purge(self, reference: str) -> None:
        """Drop the payload of an entry; keep its lineage and digests."""
        self._operations.append(lambda work: work.purge(reference))

    def tag(self, reference: str, tag: str, *, remove: bool = False) -> None:
        """Put a tag on an entry, or take it off."""
        self._operations.append(lambda work: work.tag(reference, tag, remove=remove))

    def note(self, reference: str, text: str, author: str | None = None) -> None:
        """Write a note on an entry."""
        name = author if author is not None else getpass.getuser()
        self._operations.append(lambda work: work.note(reference, text, name))

    @staticmethod
    def _prepared(work: Work, key: str, dataset: xr.Dataset) -> Prepared:
        entry = work.catalogue.entry(key)
        return prepare(dataset, kind_named(entry.kind), Storage(growing=True), key=key)


def _kind_of(dataset: xr.Dataset, kind: Kind | str | None) -> Kind:
    if isinstance(kind, Kind):
        return kind
    return kind_named(kind or str(dataset.attrs.get("kind", "table")))
