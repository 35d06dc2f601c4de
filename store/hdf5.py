"""The HDF5 engine: one ordinary HDF5 file that any tool opens, made crash-safe by a journal.

`hdf5_layout` says how groups lie in the file, `hdf5_view` reads and changes them, `hdf5_session` and `hdf5_keeper`
keep the file open between transactions, `hdf5_rows` gathers batches from a memory map.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from ..schemas.errors import H5mlError, KeyTaken, LockTimeout, NotAStore, NotMadeYet
from .disk import RealDisk
from .engine import Array, Engine, Reader, RowReader, Writer
from .hdf5_keeper import Keeper
from .hdf5_rows import MappedRows, locate, map_file
from .hdf5_session import Session
from .lock import check_flock
from .pages import write_failed
from .wal import NEW_MARK

T = TypeVar("T")


class HDF5Engine(Engine):
    """A store in one HDF5 file.

    One object serves any number of threads, one after the other. It pickles as its path, and a forked child opens
    the file anew.

    Parameters
    ----------
    location : str or Path
        The file, ``.h5`` or ``.hdf5``. Beside it lie ``FILE-lock``, and while it is being written ``FILE-wal``.
    """

    kind = "hdf5"

    def __init__(self, location: str | os.PathLike[str]) -> None:
        self.location = str(location)
        self.path = Path(location).absolute()
        self._keeper = Keeper(self.path)
        weakref.finalize(self, self._keeper.close)

    def __reduce__(self) -> tuple[type[HDF5Engine], tuple[str]]:
        return (HDF5Engine, (self.location,))

    def make(self) -> None:
        """Make a new, empty store."""
        if self._is_taken():
            raise KeyTaken("There is already a file of this name.", key=self.path, hint="open it, or choose another")
        try:
            with self._keeper.writing(60.0, make=True) as session:
                if session.paged.committed_length:
                    raise KeyTaken("Another process made this store just now.", key=self.path, hint="open it")
                session.commit()
                session.apply(1.0)
        except OSError as error:
            if isinstance(error, H5mlError):
                raise
            raise write_failed(self.path, "making", error) from error

    def is_unmade(self) -> bool:
        """Whether the file holds nothing at all: no object, no attribute."""
        try:
            with self._keeper.reading() as session:
                return session.reader.is_bare
        except NotMadeYet:
            return True
        except NotAStore:
            return False

    def _is_taken(self) -> bool:
        """Whether there is a file, other than one that a killed process was about to make."""
        try:
            with self.path.open("rb") as file:
                return file.read(len(NEW_MARK)) not in (b"", NEW_MARK)
        except FileNotFoundError:
            return False
        except OSError:
            return True

    @contextlib.contextmanager
    def reading(self) -> Iterator[Reader]:
        """Open a view of the last committed state for a short time."""
        with self._keeper.reading() as session:
            yield session.reader

    def transact(self, function: Callable[[Writer], T], *, message: str = "", timeout_s: float = 60.0) -> T:  # noqa: ARG002
        """Run ``function(writer)`` and commit; see `h5ml.store.engine.Engine.transact`."""
        with self._keeper.writing(timeout_s) as session:
            try:
                result = function(session.writer)
                self._keeper.commit(session)
            except BaseException as error:
                failure = session.paged.failure
                self._keeper.roll_back(session)
                if failure is not None and failure is not error:
                    raise failure from error
                raise
            return result

    def state(self) -> Hashable:
        """Identity, length and time of the file and of its redo log."""
        return self._keeper.state()

    def rows(self, path: str, names: Sequence[str]) -> RowReader:
        """Random access to rows through a memory map; see `h5ml.store.engine.Engine.rows`."""
        with self._keeper.reading() as session:
            stored = {name: session.reader.stored(path, name) for name in names}
            mapped = map_file(session.paged)
            tables = {name: locate(array, mapped) for name, array in stored.items()}
            lengths = {name: array.layout.shape[0] if array.layout.shape else 0 for name, array in stored.items()}

        def read(name: str, rows: Array) -> Array:
            with self.reading() as reader:
                return reader.read(path, name, (np.asarray(rows),))

        return MappedRows(tables, lengths, read)

    def compact(self, copy: Callable[[Reader, Writer], None], *, timeout_s: float = 60.0) -> tuple[int, int]:
        """Write a new file with what is still linked and put it in the place of the old one.

        Whoever has the old file open or mapped keeps it until he lets go.
        """
        new = self.path.with_name(self.path.name + "-compact.tmp")
        with self._keeper.writing(timeout_s) as session:
            self._keeper.merge(session, timeout_s)
            before = self.nbytes()
            try:
                _discard(new)
                self._fill(new, session, copy)
                session.close(apply=True)
                self._keeper.drop()
                new.replace(self.path)
                RealDisk().sync_folder(self.path.parent)
            except OSError as error:
                _discard(new)
                if isinstance(error, H5mlError):
                    raise
                raise write_failed(self.path, "compacting", error) from error
            except BaseException:
                _discard(new)
                raise
        return before, self.nbytes()

    def _fill(self, new: Path, session: Session, copy: Callable[[Reader, Writer], None]) -> None:
        target = Session(new, writable=True)
        try:
            copy(session.reader, target.writer)
            target.commit()
            self._keeper.merge(target, 10.0)
        except BaseException as error:
            failure = target.paged.failure
            target.close()
            if failure is not None and failure is not error:
                raise failure from error
            raise
        target.close(apply=True)
        new.chmod(self.path.stat().st_mode & 0o7777)
        fd = os.open(new, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def nbytes(self) -> int:
        """Bytes of the file and of its redo log."""
        sizes = self._keeper.state()
        return int(sizes[1] + sizes[4])

    def warnings(self) -> list[str]:
        """A file system without locks, and commits that wait for a reader."""
        found = [check_flock(self.path)]
        with contextlib.suppress(NotAStore), self._keeper.reading() as session:
            found.append(session.paged.waiting_message())
        return [message for message in found if message]

    def unlock(self) -> str:
        """Finish what a dead writer began; locks die with their holders."""
        try:
            with self._keeper.writing(0.0) as session:
                merged = session.apply()
        except LockTimeout as error:
            return f"Nothing was done: {error}"
        return (
            "No writer holds the store, and all commits are merged."
            if merged
            else "No writer holds the store; commits wait because a program has the file open for reading."
        )

    def close(self) -> None:
        """Merge what waits and close the file."""
        self._keeper.close()


def _discard(new: Path) -> None:
    """Remove a half-written file of a compaction and its log."""
    for name in (new, new.with_name(new.name + "-wal")):
        name.unlink(missing_ok=True)
