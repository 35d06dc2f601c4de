"""The store: keys, datasets, runs and the log over an engine. One interface for HDF5 and Icechunk."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

from ..schemas.errors import H5mlError, KeyTaken, StoreDamaged, UnknownKey
from ..schemas.key import Key
from ..schemas.kind import Kind
from ..schemas.run import Run
from . import log
from .catalogue import Catalogue, Entry
from .engine import Array, Engine, Reader, Selection, Writer
from .prepare import Storage
from .query import Query, select
from .work import RESTARTS, STASHES, Hashers, Work

if TYPE_CHECKING:
    import xarray as xr

    from .frames import Frames
    from .transaction import Transaction

STASH_WINDOW = 1 << 22
"""Bytes of kept results that are read at a time."""


class Store:
    """A store of keyed datasets with provenance.

    Parameters
    ----------
    engine : Engine
        Where the bytes lie; ``h5ml.open`` chooses it from the path.

    Examples
    --------
    >>> store = h5ml.open("training_set.h5")  # doctest: +SKIP
    >>> store["training/md_sampling/trajectory"]["energy"].mean()  # doctest: +SKIP
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._lock = threading.RLock()
        self._catalogue = Catalogue()
        self._state: object = None
        self._hashers: Hashers = {}
        self._unfinished = False

    @classmethod
    def make(cls, engine: Engine, *, again: bool = False) -> Self:
        """Make a new, empty store.

        Parameters
        ----------
        engine : Engine
            Where.
        again : bool
            Whether to finish what another process had begun, or has finished meanwhile.

        Raises
        ------
        KeyTaken
            If something lies there already.
        """
        import uuid

        try:
            engine.make()
        except KeyTaken:
            if not again:
                raise

        def make_log(writer: Writer) -> None:
            if not writer.exists(log.LOG_PATH):
                log.make_log(writer, uuid.uuid4().hex)

        engine.transact(make_log, message="make the store")
        return cls(engine)

    def __getstate__(self) -> dict[str, Any]:
        return {"engine": self.engine}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["engine"])  # type: ignore[misc]

    def __repr__(self) -> str:
        return f"<h5ml.Store {self.location} ({self.engine.kind})>"

    @property
    def location(self) -> str:
        """Path or URL of the store."""
        return self.engine.location

    def close(self) -> None:
        """Release handles; the store can be used again afterwards."""
        self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- the catalogue -------------------------------------------------------------------------------------------

    @property
    def catalogue(self) -> Catalogue:
        """What the log adds up to, as of now."""
        with self._lock:
            state = self.engine.state()
            if self._state is None or state != self._state:
                with self.engine.reading() as reader:
                    self._refresh(reader)
                self._state = state
            return self._catalogue

    def _refresh(self, reader: Reader) -> Catalogue:
        """Fold the part of the log that is new; from the beginning where the store was exchanged."""
        size = log.check_log(reader, self.location)
        try:
            self._fold(reader, size)
        except StoreDamaged:
            if not self._catalogue.commits:
                raise
            self._reset()
            self._fold(reader, size)
        return self._catalogue

    def _fold(self, reader: Reader, size: int) -> None:
        if size < self._catalogue.size:
            self._reset()
        if size > self._catalogue.size:
            for line in log.split_lines(log.read_bytes(reader, self._catalogue.size)):
                self._catalogue.apply(log.decode(line), len(line) + 1)

    def _reset(self) -> None:
        self._catalogue, self._state, self._hashers = Catalogue(), None, {}

    @property
    def root_digest(self) -> str:
        """The digest that names the store's whole state and history."""
        return self.catalogue.head

    def commits(self, *, verify: bool = False) -> list[log.Commit]:
        """Every commit, oldest first."""
        with self.engine.reading() as reader:
            log.check_log(reader, self.location)
            text = log.read_bytes(reader)
        return [log.decode(line, verify=verify) for line in log.split_lines(text)]

    def execute(
        self, operations: Sequence[Callable[[Work], None]], message: str = "", timeout_s: float = 60.0
    ) -> str | None:
        """Run the operations of a transaction under the writer lock and commit them (see ``Transaction``)."""
        with self._lock:
            try:
                done = self.engine.transact(
                    lambda writer: self._perform(writer, operations, message), message=message, timeout_s=timeout_s
                )
            except BaseException:
                self._reset()
                raise
            self._unfinished = False
            if done is not None:
                self._catalogue.advance(*done)
                self._state = None
                return done[0].digest
            return None

    def _perform(
        self, writer: Writer, operations: Sequence[Callable[[Work], None]], message: str
    ) -> tuple[log.Commit, int] | None:
        if self._unfinished:  # an attempt before this one failed half-way
            self._reset()
        self._unfinished = True
        catalogue = self._refresh(writer)
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        pending = log.Commit(catalogue.commits + 1, catalogue.head, "", max(now, catalogue.last_time), message, [])
        work = Work(writer, catalogue, pending, self._hashers)
        for operation in operations:
            operation(work)
        if not work.events:
            return None
        line, digest = log.encode(pending.number, pending.previous, pending.time, message, work.events)
        log.append(writer, catalogue.size, line)
        return log.Commit(pending.number, pending.previous, digest, pending.time, message, work.events), len(line)

    # --- writing -------------------------------------------------------------------------------------------------

    def transaction(self, message: str = "", *, timeout_s: float = 60.0) -> Transaction:
        """Several changes that appear together, or not at all (a context manager)."""
        from .transaction import Transaction

        return Transaction(self, message, timeout_s)

    def write(
        self,
        key: str,
        dataset: xr.Dataset,
        kind: Kind | str | None = None,
        *,
        new_version: bool = False,
        storage: Storage | None = None,
        run: str | None = None,
    ) -> Entry:
        """Store one dataset in a transaction of its own; see ``Transaction.write``."""
        with self.transaction(f"write {key}") as transaction:
            transaction.write(key, dataset, kind, new_version=new_version, storage=storage, run=run)
        return self._own(key)

    def append(self, key: str, dataset: xr.Dataset) -> Entry:
        """Add records to a key in a transaction of its own; see ``Transaction.append``."""
        with self.transaction(f"append to {key}") as transaction:
            transaction.append(key, dataset)
        return self._own(key)

    def _own(self, key: str) -> Entry:
        """The entry that this store has just written: no need to look for commits of others."""
        with self._lock:
            return self._catalogue.entry(key)

    # --- reading -------------------------------------------------------------------------------------------------

    def __contains__(self, key: str) -> bool:
        try:
            self.entry(key)
        except H5mlError:
            return False
        return True

    def __getitem__(self, reference: str) -> xr.Dataset:
        return self.dataset(reference)

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def keys(self, under: str = "") -> list[str]:
        """All keys, or those below a path, in order."""
        return [key for key in sorted(self.catalogue.entries) if Key(key).is_under(under)]

    def entry(self, reference: str) -> Entry:
        """What is known of ``KEY`` or ``KEY@VERSION`` without reading it.

        Raises
        ------
        UnknownKey
            Names the nearest keys.
        """
        return self.catalogue.entry(reference)

    def entries(self, under: str = "") -> list[Entry]:
        """The newest version of every key below a path."""
        return [self.catalogue.newest(key) for key in self.keys(under)]

    def query(self, **conditions: Any) -> list[Entry]:
        """Entries that fulfil all conditions; see ``Query`` for their names.

        Examples
        --------
        >>> store.query(kind="trajectory", elements=["C", "N"], min_records=100)  # doctest: +SKIP
        """
        return list(select(self.catalogue, Query.parse(conditions, where="query")))

    def dataset(self, reference: str, chunks: Any = None) -> xr.Dataset:
        """A stored dataset, read when looked at.

        Parameters
        ----------
        reference : str
            ``KEY`` or ``KEY@VERSION``.
        chunks : optional
            As in ``xarray.Dataset.chunk``: gives dask arrays.

        Raises
        ------
        UnknownKey
            If there is no such key, or its payload was purged.
        """
        from .lazy import lazy_dataset

        entry = self.entry(reference)
        source = EntrySource(self, entry.key, entry.version)
        with self.at(entry) as (reader, path):
            layout = reader.layout(path)
        dataset = lazy_dataset(source, layout, layout.attributes)
        return dataset if chunks is None else dataset.chunk(chunks)

    def tree(self, under: str = "", chunks: Any = None) -> xr.DataTree:
        """All keys below a path as one ``xarray.DataTree``, read when looked at."""
        import xarray as xr

        under = under.strip("/")
        keys = [entry.key for entry in self.entries(under) if not entry.purged]
        return xr.DataTree.from_dict({f"/{key}": self.dataset(key, chunks) for key in keys}, name=under or None)

    def frames(self, reference: str, names: Sequence[str] | None = None) -> Frames:
        """Random batches of frames, fixed or ragged, at memory speed; see ``Frames``."""
        from .frames import Frames

        return Frames(self, self.entry(reference), names)

    @contextmanager
    def at(self, entry: Entry) -> Iterator[tuple[Reader, str]]:
        """A reader and the path where an entry lies by now."""
        if entry.purged:
            raise UnknownKey(
                "The payload of this key was purged; its lineage and digests are kept.",
                key=entry.reference,
                hint=f"`h5ml replay {entry.reference}` restores it",
            )
        with ExitStack() as stack:
            with self._lock:  # before the engine, as whoever commits does
                reader = stack.enter_context(self.engine.reading())
                if self.engine.state() != self._state:
                    self._refresh(reader)
                path = self._catalogue.entry(entry.reference).path
            yield reader, path

    def read(self, key: str, version: int, name: str, selection: Selection) -> Array:
        """A part of one variable of an entry, wherever it lies by now."""
        with self.at(self.entry(f"{key}@{version}")) as (reader, path):
            return reader.read(path, name, selection)

    # --- runs ----------------------------------------------------------------------------------------------------

    @property
    def runs(self) -> dict[str, Run]:
        """All runs by id."""
        return dict(self.catalogue.runs)

    def run(self, identity: str) -> Run:
        """A run by its id or the beginning of it.

        Raises
        ------
        UnknownKey
            If none or several runs begin so.
        """
        found = [run for name, run in self.catalogue.runs.items() if name.startswith(identity)]
        if len(found) != 1:
            raise UnknownKey(
                "There is no such run." if not found else "Several runs begin so.",
                key=identity,
                hint="`h5ml log` lists them",
            )
        return found[0]

    def restart(self, identity: str) -> xr.Dataset | None:
        """The restart state kept for a run id, loaded; None where there is none."""
        from .lazy import lazy_dataset

        if identity not in self.catalogue.restarts:
            return None
        path = f"{RESTARTS}/{identity}"
        with self.engine.reading() as reader:
            layout = reader.layout(path)
            return lazy_dataset(PathSource(reader, path), layout, layout.attributes).load()

    def stashed(self, identity: str, name: str) -> Iterator[tuple[int, bytes]]:
        """Finished items of a map that were kept: index and packed result, in the order in which they lie."""
        stash = self.catalogue.stashes.get(identity)
        if stash is None:
            return
        spans = sorted((span, i) for (n, i), span in stash["items"].items() if n == name)
        begin, text = 0, b""
        for (start, stop), index in spans:
            if stop > begin + len(text):
                with self.engine.reading() as reader:
                    selection = (slice(start, max(stop, min(start + STASH_WINDOW, stash["size"]))),)
                    begin, text = start, reader.read(f"{STASHES}/{identity}", "bytes", selection).tobytes()
            yield index, text[start - begin : stop - begin]

    def marks(self, identity: str) -> dict[str, Any]:
        """Small decisions that a run kept for when it is executed again."""
        return dict(self.catalogue.marks.get(identity, {}))


class PathSource:
    """Reads variables of one group through a reader that is open."""

    def __init__(self, reader: Reader, path: str) -> None:
        self._reader, self._path = reader, path

    def read(self, name: str, selection: Selection) -> Array:
        """Read a part of one variable."""
        return self._reader.read(self._path, name, selection)


class EntrySource:
    """Reads variables of one entry, wherever it lies at the time."""

    def __init__(self, store: Store, key: str, version: int) -> None:
        self._store, self._key, self._version = store, key, version

    def read(self, name: str, selection: Selection) -> Array:
        """Read a part of one variable."""
        return self._store.read(self._key, self._version, name, selection)
