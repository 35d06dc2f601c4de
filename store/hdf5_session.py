"""A kept-open HDF5 file over the journal, and the token that tells whether it is still the committed state."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py

from ..schemas.errors import H5mlError, NotAStore, StoreDamaged
from .disk import Bytes, RealDisk
from .hdf5_view import FAULTS, HDF5Reader, HDF5Writer
from .journal import PagedFile
from .lock import shared_lock
from .wal import PAGE

LIBVER = ("v108", "v110")
"""Superblock 2: checksummed and without a mark while open. Only the note that freed space is not reused (the file
space strategy) needs HDF5 1.10 to read it."""

Token = tuple[int, ...]


def token(path: Path) -> Token:
    """What changes with every commit: identity, length and time of the data file and of its redo log."""
    values: list[int] = []
    for name in (path, path.with_name(path.name + "-wal")):
        try:
            facts = name.stat()
            values += [facts.st_ino, facts.st_size, facts.st_mtime_ns]
        except FileNotFoundError:
            values += [0, 0, 0]
    return tuple(values)


class SessionDisk(RealDisk):
    """The file system, as long as the session is in force and in the process that opened it.

    A forked child inherits descriptors and memory: nothing that its copies of the objects do may reach the files
    or the locks of its parent. The same holds for a session that another writer has made stale.
    """

    def __init__(self) -> None:
        self._process = os.getpid()
        self.detached = False

    @property
    def in_force(self) -> bool:
        """Whether writes and locks reach the system."""
        return not self.detached and os.getpid() == self._process

    def write(self, fd: int, data: Bytes, offset: int) -> int:
        """Write, or only say so."""
        return super().write(fd, data, offset) if self.in_force else len(data)

    def sync(self, fd: int) -> None:
        """Sync."""
        if self.in_force:
            super().sync(fd)

    def sync_folder(self, path: Path) -> None:
        """Sync a folder."""
        if self.in_force:
            super().sync_folder(path)

    def truncate(self, fd: int, length: int) -> None:
        """Set the length."""
        if self.in_force:
            super().truncate(fd, length)

    def unlink(self, path: Path) -> None:
        """Remove an entry."""
        if self.in_force:
            super().unlink(path)

    def flock(self, fd: int, operation: int) -> None:
        """Change a lock."""
        if self.in_force:
            super().flock(fd, operation)


class SessionFile(PagedFile):
    """The journal's file object with what a kept session needs."""

    def __init__(self, path: Path, *, writable: bool, timeout_s: float) -> None:
        self.session_disk = SessionDisk()
        super().__init__(path, self.session_disk, writable=writable, lock_timeout_s=timeout_s)

    def fileno(self) -> int:
        """Descriptor of the data file."""
        return self._fd

    def abandon(self) -> None:
        """Let go of the descriptors and change nothing on disk."""
        self.session_disk.detached = True
        self._refused = self._refused or "another writer came in between"
        self.close()

    @property
    def log_bytes(self) -> int:
        """Bytes of changed pages that wait in the redo log."""
        return len(self._log.index) * PAGE

    def waiting_pages(self) -> set[int]:
        """Pages of the data file that the redo log holds newer."""
        return set(self._log.index)


class Session:
    """One open file; between uses it holds no lock.

    Parameters
    ----------
    path : Path
        The data file.
    writable : bool
        Whether the caller holds the writer lock now and will whenever it writes.
    timeout_s : float
        How long to wait for a program that has the file open for writing.
    """

    def __init__(self, path: Path, *, writable: bool, timeout_s: float = 10.0) -> None:
        self.path = path
        self.writable = writable
        self.views = 0
        self._process = os.getpid()
        self.paged, self.token = self._open(timeout_s)
        self.file: Any = None
        try:
            self._open_file()
        except BaseException:
            self.paged.abandon()
            raise

    def _open(self, timeout_s: float) -> tuple[SessionFile, Token]:
        """Open data file and log; once more if a compaction put a new file in place meanwhile."""
        if self.path.is_dir():
            raise NotAStore("This is a folder, not an HDF5 file.", key=self.path, hint="check the path")
        while True:
            before = token(self.path)
            try:
                paged = SessionFile(self.path, writable=self.writable, timeout_s=timeout_s)
            except (StoreDamaged, NotAStore):
                if token(self.path) == before:
                    raise
                continue
            now = token(self.path)
            if self.writable or now == before:
                return paged, now
            if os.fstat(paged.fileno()).st_ino == now[0]:
                # commits that came while it was opened may be missing: never equal to a token
                return paged, (*before, -1)
            paged.abandon()

    def _open_file(self) -> None:
        mode = ("r+" if self.paged.committed_length else "w") if self.writable else "r"
        options: dict[str, Any] = {"fs_strategy": "none"} if mode == "w" else {}
        try:
            self.file = h5py.File(self.paged, mode, libver=LIBVER, **options)
        except H5mlError:
            raise
        except FAULTS as error:
            raise StoreDamaged(
                f"{self.path} cannot be opened.",
                found=str(error),
                hint="take it back from a backup",
            ) from error
        self.writer = HDF5Writer(self.file, str(self.path))
        self.reader = HDF5Reader(self.file, str(self.path), self.writer.opened)

    @property
    def own(self) -> bool:
        """Whether this process opened it."""
        return self._process == os.getpid()

    @property
    def current(self) -> bool:
        """Whether nobody committed since; call it under a lock."""
        return self.token == token(self.path)

    @contextlib.contextmanager
    def locked(self, timeout_s: float = 10.0) -> Iterator[bool]:
        """Hold the data file's lock as a reader; gives whether the session still shows the committed state."""
        held = shared_lock(self.paged.fileno(), timeout_s, self.paged.session_disk)
        self.views += 1
        try:
            yield held and self.current
        finally:
            self.views -= 1
            if not self.views:
                self.unlock()

    def unlock(self) -> None:
        """Give up the data file's lock."""
        if not self.paged.closed:
            self.paged.session_disk.flock(self.paged.fileno(), fcntl.LOCK_UN)

    def commit(self) -> None:
        """Make what was written durable."""
        self.file.flush()
        if self.paged.commit(apply=False):
            self.stamp()

    def apply(self, timeout_s: float = 0.0) -> bool:
        """Merge waiting commits into the data file; gives whether none wait any more."""
        if not self.paged.pending:
            return True
        done = self.paged.apply(timeout_s)
        self.stamp()
        return done

    def stamp(self) -> None:
        """Give the data file a time of change that no other state has: the kernel's clock ticks too coarsely."""
        now = time.time_ns()
        os.utime(self.paged.fileno(), ns=(now, now))
        self.token = token(self.path)

    def roll_back(self) -> None:
        """Forget what was written since the last commit, in the file and in HDF5's memory."""
        self._close_file()
        self.paged.rollback()
        self._open_file()

    def _close_file(self) -> None:
        with contextlib.suppress(*FAULTS):
            self.file.close()

    def close(self, *, apply: bool = False) -> None:
        """Close everything; ``apply`` only under the writer lock and on the committed state."""
        self.paged.session_disk.detached |= not apply
        self._close_file()
        if self.paged.closed:
            return
        if apply:
            self.paged.close()
            if self.path.exists():
                now = time.time_ns()
                os.utime(self.path, ns=(now, now))
        else:
            self.paged.abandon()
