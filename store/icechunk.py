"""The Icechunk engine: a store in a bucket, or in a local folder, that plain Zarr and xarray read.

On a bucket two transactions may run at the same time; whoever commits second executes its function again on the newer
state. On a local folder Icechunk would silently lose the first of two commits, so there they go through h5ml's lock.
"""

from __future__ import annotations

import os
import random
import threading
import time
import uuid
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..schemas.errors import H5mlError, KeyTaken, LockTimeout, NotAStore, StoreDamaged, StoreWriteFailed
from .engine import Engine, Reader, RowReader, Writer
from .icechunk_chunks import Rows, wait
from .icechunk_folder import NewFiles, check_locks, nbytes, publish, sync_tree
from .icechunk_fork import Changes, ForkedChange
from .icechunk_location import BRANCH, REFERENCE, meaning, parse_location, translated
from .icechunk_view import Change, Nodes, View
from .lock import WriterLock

if TYPE_CHECKING:
    import icechunk

T = TypeVar("T")
COMMIT = "h5ml_commit"
GRACE = timedelta(days=1)
_FIRST_WAIT_S = 0.02
_LONGEST_WAIT_S = 2.0


class IcechunkEngine(Engine):
    """A store in an Icechunk repository.

    Parameters
    ----------
    location : str or Path
        A folder, or ``s3://bucket/prefix`` with credentials from the environment (see `parse_location`).
    grace : timedelta
        On a bucket `compact` keeps objects younger than this, because they may belong to a transaction that is still
        running on another machine. A transaction must not last longer.
    """

    kind = "icechunk"

    def __init__(self, location: str | Path, *, grace: timedelta = GRACE) -> None:
        self.location = str(location)
        self._grace = grace
        self._start()

    def _start(self) -> None:
        self._place = parse_location(self.location)
        self.apart = self._place.folder is None
        self._turn = threading.Lock()
        self._repo: icechunk.Repository | None = None
        self._files = NewFiles(self._place.folder) if self._place.folder is not None else None
        self._listed: tuple[str, Nodes] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Only where the store lies travels to another process."""
        return {"location": self.location, "_grace": self._grace}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    # ---- making and opening

    def make(self) -> None:
        """Make a new, empty store."""
        import icechunk

        _refuse_fork()
        folder = self._place.folder
        if folder is not None:
            self._prepare(folder)
        self._place.check()
        try:
            with translated(self.location, writing=True):
                storage = self._place.storage()
                if icechunk.Repository.exists(storage):
                    raise self._taken()
                self._repo = icechunk.Repository.create(storage)
        except StoreWriteFailed as error:
            if "clean prefix" in (error.found or ""):
                raise self._taken() from error
            raise
        if folder is not None:
            sync_tree(folder)

    def _prepare(self, folder: Path) -> None:
        try:
            if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
                raise self._taken()
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _refused(error, self.location) from error

    def _taken(self) -> KeyTaken:
        return KeyTaken("Something lies there already.", key=self.location, hint="open it, or choose another place")

    def _repository(self) -> icechunk.Repository:
        import icechunk

        _refuse_fork()
        if self._repo is None:
            folder = self._place.folder
            if folder is not None and not (folder / REFERENCE).is_file():  # Icechunk would make the folder
                raise NotAStore(
                    f"There is no Icechunk store at {self.location}.",
                    expected="a folder that holds an Icechunk 1 repository",
                    found="no such folder" if not folder.exists() else "something else",
                    hint="check the path, or make a new store there",
                )
            self._place.check()
            with translated(self.location):
                self._repo = icechunk.Repository.open(self._place.storage())
        return self._repo

    # ---- reading

    @contextmanager
    def reading(self) -> Iterator[Reader]:
        """Open a view of the last commit."""
        yield self._view()

    def _view(self) -> View:
        repo = self._repository()
        with translated(self.location):
            session = repo.readonly_session(BRANCH)
            return View(session, lambda: self._nodes(repo, session.snapshot_id), self.location)

    def _nodes(self, repo: icechunk.Repository, snapshot: str) -> Nodes:
        """The groups of a snapshot; those of the last one asked for are kept."""
        listed = self._listed
        if listed is None or listed[0] != snapshot:

            async def inspect() -> str:  # the call that is not async keeps Python's global lock over the network
                return await repo.inspect_snapshot_async(snapshot, pretty=False)

            listed = self._listed = (snapshot, Nodes(wait(inspect())))
        return listed[1]

    def state(self) -> Hashable:
        """The id of the newest snapshot."""
        repo = self._repository()
        with translated(self.location):
            return repo.lookup_branch(BRANCH)

    def rows(self, path: str, names: Sequence[str]) -> RowReader:
        """Random access to rows; chunks once read are kept in memory up to a limit."""
        repo = self._repository()

        def identity(snapshot: str) -> list[str | None]:
            with translated(self.location):
                return [self._nodes(repo, snapshot).arrays.get(f"{path}/{name}") for name in names]

        view = self._view()
        opened = identity(view.snapshot)

        def renew() -> View:
            newest = self._view()
            if identity(newest.snapshot) != opened:
                raise StoreDamaged(
                    "The rows being read were removed by a compaction.", key=path, hint="open the store again"
                )
            return newest

        return Rows(view, path, names, renew)

    def nbytes(self) -> int:
        """Bytes of the folder; on a bucket, of the chunks of all snapshots (it cannot be listed)."""
        repo = self._repository()
        if self._place.folder is not None:
            return nbytes(self._place.folder)
        with translated(self.location):
            stats = repo.chunk_storage_stats()
            return int(stats.native_bytes + stats.inlined_bytes)

    def warnings(self) -> list[str]:
        """What the user should know about this place."""
        return [] if self._place.folder is None else check_locks(self._place.folder)

    # ---- writing

    def transact(self, function: Callable[[Writer], T], *, message: str = "", timeout_s: float = 60.0) -> T:
        """Run a function and commit what it changed."""
        self._repository()
        deadline = time.monotonic() + timeout_s
        with self._writing(timeout_s):
            if self._place.folder is not None:
                return self._transact_folder(self._place.folder, function, message)
            return self._transact_bucket(function, message, deadline)

    @contextmanager
    def _writing(self, timeout_s: float) -> Iterator[None]:
        """One writer at a time: of all processes on a folder, of this engine's threads on a bucket."""
        folder = self._place.folder
        lock: WriterLock | None = None
        if folder is not None:
            lock = WriterLock(folder, timeout_s)
            try:
                lock.acquire()
            except H5mlError:
                raise
            except OSError as error:
                raise _refused(error, self.location) from error
        elif not self._turn.acquire(timeout=timeout_s):
            raise LockTimeout("Another thread of this process writes to the store.", key=self.location)
        try:
            yield
        finally:
            if lock is not None:
                lock.release()
            else:
                self._turn.release()

    def _begin(self) -> tuple[icechunk.Session, Change]:
        repo = self._repository()
        with translated(self.location):
            session = repo.writable_session(BRANCH)
            base = session.snapshot_id
            return session, Change(session, lambda: self._nodes(repo, base), self.location)

    def fork(self, function: Callable[[Writer], T]) -> tuple[T, Changes]:
        """Run a function whose data are written at once, but which another process commits (`Changes.adopt`)."""
        repo = self._repository()
        with translated(self.location):
            session = repo.writable_session(BRANCH).fork()
            base = session.snapshot_id
        change = ForkedChange(session, lambda: self._nodes(repo, base), self.location)
        result = function(change)
        return result, change.changes()

    def _transact_folder(self, folder: Path, function: Callable[[Writer], T], message: str) -> T:
        assert self._files is not None
        self._files.begin()
        session, change = self._begin()
        result = function(change)
        change.finish()
        with translated(self.location, writing=True):
            if not session.has_uncommitted_changes:
                return result
            snapshot = session.flush(message or "h5ml")
        try:
            self._files.sync()
            publish(folder, snapshot)
        except OSError as error:
            raise _refused(error, self.location) from error
        return result

    def _transact_bucket(self, function: Callable[[Writer], T], message: str, deadline: float) -> T:
        pause = _FIRST_WAIT_S
        while True:
            session, change = self._begin()
            result = function(change)
            change.finish()
            if self._commit(session, message):
                return result
            if time.monotonic() > deadline:
                raise LockTimeout(
                    "Other writers kept committing first.",
                    key=self.location,
                    hint="try again, wait longer, or let fewer processes commit at a time",
                )
            time.sleep(random.uniform(0, pause))  # noqa: S311 - not for secrets
            pause = min(2 * pause, _LONGEST_WAIT_S)

    def _commit(self, session: icechunk.Session, message: str) -> bool:
        """Commit; False if another writer came first. An answer may get lost on the way: then the history decides."""
        import icechunk

        if not session.has_uncommitted_changes:
            return True
        base, token = session.snapshot_id, uuid.uuid4().hex
        try:
            session.commit(message or "h5ml", {COMMIT: token})
        except icechunk.ConflictError:
            return self._landed(base, token)
        except icechunk.IcechunkError as error:
            failure = meaning(error, self.location, writing=True)
            try:
                landed = self._landed(base, token)
            except H5mlError:
                failure.message += " Whether this commit arrived is not known."
                raise failure from error
            if not landed:
                raise failure from error
        return True

    def _landed(self, base: str, token: str) -> bool:
        repo = self._repository()
        with translated(self.location):
            for snapshot in repo.ancestry(branch=BRANCH):
                if snapshot.metadata.get(COMMIT) == token:
                    return True
                if snapshot.id == base:
                    return False
        return False

    # ---- upkeep

    def compact(self, copy: Callable[[Reader, Writer], None], *, timeout_s: float = 60.0) -> tuple[int, int]:  # noqa: ARG002
        """Forget old snapshots and delete what only they used; nothing is copied.

        Who still reads an older state may find chunks gone and must open the store again.
        """
        repo = self._repository()
        folder = self._place.folder
        margin = timedelta(minutes=1) if folder is not None else -self._grace
        with self._writing(timeout_s), translated(self.location, writing=True):
            before = self.nbytes()
            limit = datetime.now(UTC) + margin
            repo.expire_snapshots(limit)
            if folder is not None:
                sync_tree(folder / "snapshots")
            freed = repo.garbage_collect(limit)
            self._listed = None
            after = self.nbytes()
            return (before if folder is not None else max(before, after + freed.bytes_deleted)), after

    def close(self) -> None:
        """Forget the repository; it is opened again when needed."""
        self._repo = None
        self._listed = None
        if self._files is not None:
            self._files.close()


def _refused(error: OSError, location: str) -> StoreWriteFailed:
    return StoreWriteFailed(
        "The operating system refused a write; the last commit is intact.",
        key=location,
        found=str(error),
        hint="check free space, quota and permissions",
    )


@cache
def _first_process() -> int:
    """The process that first used the library (a cache survives a fork, the library's threads do not)."""
    return os.getpid()


def _refuse_fork() -> None:
    """Refuse to hang: a forked child has none of the library's threads."""
    if _first_process() != os.getpid():
        raise H5mlError(
            "This process was forked from one that had used Icechunk, which cannot work here.",
            found=f"process {os.getpid()}, a fork of {_first_process()}",
            hint='start processes with "spawn" (multiprocessing) or as dask workers, and send them the engine',
        )
