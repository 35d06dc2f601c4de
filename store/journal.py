"""Atomic, durable commits under h5py: a file-like object with a redo log.

A transaction's new bytes past the committed end go straight to the data file, where nobody can reach them yet;
changed pages of the older part stay in memory. `PagedFile.commit` appends those pages to ``FILE-wal`` and syncs
it: from then on the commit survives a kill or a power loss. `PagedFile.apply` merges the log into the data file
under the exclusive lock, with a foreign mark in place of the HDF5 signature, so that a plain HDF5 reader meets
either the state before, or the state after, or a file that it refuses. While a reader keeps the file open the
commits wait in the log, and every `PagedFile` shows them.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from ..schemas.errors import H5mlError, LockTimeout, NotAStore, NotMadeYet, StoreDamaged, StoreWriteFailed
from .disk import Bytes, Disk, RealDisk, read_full, write_full
from .lock import holders, raise_lock, shared_lock
from .pages import Pages, write_failed
from .wal import (
    APPLY_MARK,
    NEW_MARK,
    PAGE,
    SIGNATURE,
    Wal,
    end_of_file,
    pages_for,
)

_LOGGER = logging.getLogger(__name__)
_SMALL_TAIL = 1 << 20
"""New bytes up to this many go into the log as well, which saves a sync of the data file."""
_CLEAN_PAGES = 1024


class PagedFile(Pages):
    """A store's bytes, for ``h5py.File(paged, ...)``; a transaction runs from one `commit` to the next.

    Not safe for use by several threads at once.

    Parameters
    ----------
    path : Path
        The data file; made if absent and ``writable``.
    disk : Disk, optional
        The system calls.
    writable : bool
        True: the caller holds the `WriterLock`. False: show the committed state and write nothing.
    lock_timeout_s : float
        How long to wait for a plain HDF5 program that has the file open for writing.

    Raises
    ------
    NotAStore
        If there is no file, or no HDF5 file.
    StoreDamaged
        If the file is cut short, or its log is missing or belongs to another file.
    LockTimeout
        If another program keeps the file open for writing.
    """

    def __init__(self, path: Path, disk: Disk | None = None, *, writable: bool, lock_timeout_s: float = 10.0) -> None:
        super().__init__(Path(path), disk or RealDisk(), writable=writable)
        self._fd = self._open()
        try:
            self._lock(lock_timeout_s)
            self._wal = Wal(self._disk, self.path.with_name(self.path.name + "-wal"), writable=writable)
            self._load(self._wal)
        except OSError as error:
            self._release()
            if isinstance(error, H5mlError):
                raise
            raise write_failed(self.path, "opening", error) from error
        except BaseException:
            self._release()
            raise

    # ---- opening and closing

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_CREAT if self.writable else os.O_RDONLY
        try:
            return self._disk.open(self.path, flags)
        except FileNotFoundError as error:
            raise NotAStore("there is no such store", key=self.path, hint="check the path") from error
        except OSError as error:
            raise write_failed(self.path, "opening", error) from error

    def _lock(self, timeout_s: float) -> None:
        if not shared_lock(self._fd, timeout_s, self._disk):
            raise LockTimeout(
                f"another program has {self.path} open for writing; gave up after {timeout_s:g} s",
                found=", ".join(map(str, holders(self.path))) or None,
                hint="close the file there, then try again",
            )

    def _load(self, wal: Wal) -> None:
        """Find the committed state, and merge or cut what a killed writer left."""
        self._physical = self._disk.size(self._fd)
        head = self._head()
        if wal.sections:
            wal.check_belongs(head)
            self._settle(wal.length, max(wal.reach, self._base_end(head)))
        elif head.startswith(SIGNATURE):
            end = self._base_end(head)
            if end > self._physical:
                raise StoreDamaged(
                    f"{self.path} is cut short",
                    expected=f"{end} bytes",
                    found=f"{self._physical} bytes",
                    hint="take it back from a backup",
                )
            self._settle(end, end)
        else:
            self._load_unfinished(head)
        if self.writable:
            if self._physical > self._reach:
                self._resize(self._reach)
            self.apply()

    def _load_unfinished(self, head: bytes) -> None:
        if self._physical and not head.startswith(NEW_MARK) and any(head[: self._physical]):
            if head.startswith(APPLY_MARK):
                raise StoreDamaged(
                    f"{self.path} was being merged with {self.path.name}-wal, which is missing",
                    hint="put that file back beside it, or take both from a backup",
                )
            raise NotAStore("this is no HDF5 file", key=self.path, found=repr(bytes(head[:8])))
        if self._physical > len(NEW_MARK) and not head.startswith(NEW_MARK):
            raise NotAStore("this is no HDF5 file", key=self.path, found="zeros")
        if not self.writable:
            raise NotMadeYet("nothing was committed to this store yet", key=self.path)
        self._settle(0, 0)
        if not head.startswith(NEW_MARK):
            write_full(self._disk, self._fd, NEW_MARK, 0)
            self._disk.sync(self._fd)
            self._disk.sync_folder(self.path.parent)
            self._physical = max(self._physical, len(NEW_MARK))
        self._reach = len(NEW_MARK)

    def _base_end(self, head: bytes) -> int:
        if not head.startswith(SIGNATURE):
            return 0
        try:
            return end_of_file(head)
        except (ValueError, IndexError) as error:
            raise NotAStore("this HDF5 file is of a form that h5ml cannot write", key=self.path) from error

    def _settle(self, length: int, reach: int) -> None:
        """Take ``length`` as committed; nothing below ``reach`` may be overwritten in place."""
        self._length = self._committed = length
        self._reach = reach
        self._edge = max(PAGE, pages_for(reach) * PAGE)

    def close(self) -> None:
        """Roll back what was not committed, try once more to merge, and let go of the files."""
        if self._fd < 0:
            return
        try:
            if self.writable and not self._refused:
                self.rollback()
                self.apply()
        finally:
            self._release()

    def _release(self) -> None:
        try:
            if self._wal is not None:
                self._wal.close()
        except OSError as error:
            _LOGGER.warning("cannot remove %s: %s", self._wal and self._wal.path, error)
        finally:
            self._disk.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- state

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._fd < 0

    @property
    def committed_length(self) -> int:
        """Length of the committed store; 0 for one that holds nothing yet."""
        return self._committed

    @property
    def waiting(self) -> int:
        """How many durable commits wait in the log to be merged."""
        return self._log.sections

    @property
    def pending(self) -> bool:
        """Whether any durable commit waits in the log to be merged."""
        return self._log.sections > 0

    @property
    def has_overlay(self) -> bool:
        """Whether the log holds pages: then the data file alone must not be memory-mapped."""
        return bool(self._log.index) or self.pending

    @property
    def failure(self) -> StoreWriteFailed | None:
        """What stopped the running transaction; h5py may have swallowed it."""
        return self._failure

    def waiting_message(self) -> str | None:
        """Say how many commits wait and who keeps them waiting.

        Returns
        -------
        str or None
            A warning to show, or nothing if none wait.
        """
        if not self.pending:
            return None
        names = ", ".join(map(str, holders(self.path))) or "a program elsewhere"
        return f"{self.waiting} committed blocks wait in {self._log.path.name}; {names} holds the file open"

    # ---- transactions

    def commit(self, *, apply: bool = True) -> bool:
        """Make the transaction durable: once this returns, no kill and no power loss undoes it.

        The caller has closed or flushed the h5py file before.

        Parameters
        ----------
        apply : bool
            Also merge the log into the data file; without, plain HDF5 readers see this commit only after a
            later `apply`, which costs less when commits follow each other quickly.

        Returns
        -------
        bool
            False if nothing had changed.

        Raises
        ------
        StoreWriteFailed
            If the system refused a write, in this call or earlier in the transaction: it is rolled back and
            the last commit is intact.
        """
        self._check_writable()
        try:
            if self._failure is not None:
                raise self._failure
            pages = self._changed()
            changed = bool(pages) or self._length != self._committed
            if changed:
                self._write_log(pages)
        except OSError as error:
            self.rollback()
            if isinstance(error, H5mlError):
                raise
            raise write_failed(self.path, "committing", error) from error
        if changed:
            self._remember()
            self._settle(self._length, max(self._reach, self._length))
        else:
            self.rollback()
        if apply:
            self.apply(0.0 if self.waiting > 1 else 0.1)
        return changed

    def _remember(self) -> None:
        """Keep what was just committed at hand: the next transaction changes much the same pages."""
        if self._length < self._committed or len(self._clean) + len(self._dirty) > _CLEAN_PAGES:
            self._clean.clear()
        self._clean.update((page, bytes(block)) for page, block in self._dirty.items())
        self._dirty.clear()

    def _changed(self) -> list[tuple[int, Bytes]]:
        """Pages of the older part that differ from what is committed."""
        changed: list[tuple[int, Bytes]] = []
        for page in sorted(self._dirty):
            block = self._dirty[page]
            if page * PAGE >= self._committed or self._committed_page(page) != block:
                changed.append((page, block))
        return changed

    def _write_log(self, pages: list[tuple[int, Bytes]]) -> None:
        if pages and pages[0][0] == 0:
            head = bytes(pages[0][1])
            if not head.startswith(SIGNATURE):
                raise ValueError("no HDF5 file was written: its signature is missing at offset 0")
        tail, in_file = self._length - self._edge, range(0)
        if 0 < tail <= _SMALL_TAIL:
            block = memoryview(bytearray(pages_for(tail) * PAGE))
            read_full(self._disk, self._fd, block[:tail], self._edge)
            first = self._edge // PAGE
            in_file = range(first, first + tail // PAGE)
            pages += [(first + i, block[i * PAGE : (i + 1) * PAGE]) for i in range(len(block) // PAGE)]
        elif tail > 0:
            self._sync(self._fd)
        try:
            self._log.append(pages, self._length, self._head() if not self.pending else b"", in_file)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                self._refuse()
            raise

    def rollback(self) -> None:
        """Forget the running transaction."""
        self._dirty.clear()
        self._failure = None
        self._length = self._committed
        if self._physical > self._reach:
            with contextlib.suppress(OSError):
                self._resize(self._reach)

    def apply(self, timeout_s: float = 0.1) -> bool:
        """Merge the waiting commits into the data file.

        Parameters
        ----------
        timeout_s : float
            How long to wait for plain HDF5 readers to close the file.

        Returns
        -------
        bool
            True if none wait any more. A failing merge is logged and loses nothing.
        """
        self._check_writable()
        if not self.pending:
            return True
        if self._dirty or self._length != self._committed:
            return False
        try:
            if not raise_lock(self._fd, timeout_s, self._disk):
                return False
            try:
                self._merge(self._log)
            finally:
                shared_lock(self._fd, 0.0, self._disk)
        except OSError as error:
            if isinstance(error, LockTimeout):
                self._refuse()
            _LOGGER.warning("%d commits are kept in %s: %s", self.waiting, self._log.path, error)
            return False
        return True

    def _merge(self, wal: Wal) -> None:
        mark = APPLY_MARK + wal.generation[:4]
        write_full(self._disk, self._fd, mark, 0)
        self._sync(self._fd)
        for first, count, place in wal.runs():
            block = wal.read_run(count, place)
            if first == 0:
                block[: len(mark)] = mark
            write_full(self._disk, self._fd, block, first * PAGE)
            self._physical = max(self._physical, first * PAGE + len(block))
        if self._physical != self._committed:
            self._resize(self._committed)
        self._sync(self._fd)
        write_full(self._disk, self._fd, SIGNATURE, 0)
        self._sync(self._fd)
        wal.clear()
        self._settle(self._committed, self._committed)

    def _sync(self, fd: int) -> None:
        try:
            self._disk.sync(fd)
        except OSError:
            self._refuse()
            raise

    def _refuse(self) -> None:
        """After a failed sync the system may have dropped the data: trying again would only seem to work."""
        self._refused = f"{self.path} takes no more writes after a failure; the last commit is intact"
