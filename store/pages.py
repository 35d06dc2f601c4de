"""The bytes of a store as a running transaction sees them, in the form of a file.

A read shows the transaction's own changed pages, above the pages that wait in the redo log, above the data file.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from ..schemas.errors import StoreWriteFailed
from .disk import Disk, read_full, write_full
from .wal import PAGE, Wal, pages_for


class Pages:
    """The file-like half of `h5ml.store.journal.PagedFile`: what ``h5py.File`` calls.

    Parameters
    ----------
    path : Path
        The data file.
    disk : Disk
        The system calls.
    writable : bool
        Whether writes are allowed.
    """

    def __init__(self, path: Path, disk: Disk, *, writable: bool) -> None:
        self.path = path
        self.writable = writable
        self._disk = disk
        self._fd = -1
        self._wal: Wal | None = None
        self._dirty: dict[int, bytearray] = {}
        self._clean: dict[int, bytes] = {}
        self._position = self._length = self._committed = 0
        self._reach = self._edge = self._physical = 0
        self._failure: StoreWriteFailed | None = None
        self._refused = ""

    @property
    def _log(self) -> Wal:
        if self._wal is None or self._fd < 0:
            raise ValueError(f"{self.path} is closed")
        return self._wal

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move the position, as ``io`` files do."""
        start = (0, self._position, self._length)[whence]
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def flush(self) -> None:
        """Do nothing: durability comes from `commit`."""

    def read(self, size: int = -1) -> bytes:
        """Read ``size`` bytes, or to the end."""
        left = max(0, self._length - self._position)
        buffer = bytearray(left if size < 0 else min(size, left))
        self.readinto(buffer)
        return bytes(buffer)

    def readinto(self, buffer: Any) -> int:
        """Fill ``buffer`` from the position and return how many bytes there were."""
        view = memoryview(buffer).cast("B")
        start = self._position
        size = max(0, min(len(view), self._length - start))
        if size < len(view):
            view[size:] = bytes(len(view) - size)
            view = view[:size]
        self._position = start + size
        first, inner = divmod(start, PAGE)
        block = self._dirty.get(first) or self._clean.get(first)
        if block is not None and inner + size <= PAGE:
            view[:] = block[inner : inner + size]
        elif size:
            self._read_committed(view, start)
            for page, part, inner in _overlaps(self._dirty, view, start):
                part[:] = self._dirty[page][inner : inner + len(part)]
        return size

    def write(self, data: Any) -> int:
        """Write ``data`` at the position; nobody sees it before `commit`."""
        self._check_writable()
        view = memoryview(data).cast("B")
        start, edge = self._position, self._edge
        end = start + len(view)
        if end > self._length:
            self._extend(end)
        if start < edge:
            self._stage(view[: edge - start], start)
        if end > edge:
            self._write_tail(view[max(0, edge - start) :], max(start, edge))
        self._position = end
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """Set the length to ``size``, or to the position."""
        self._check_writable()
        length = self._position if size is None else size
        if length >= self._length:
            self._extend(length)
            return length
        page, inner = divmod(length, PAGE)
        if inner and length < self._edge:
            self._page(page)[inner:] = bytes(PAGE - inner)
        for page in [page for page in self._dirty if page * PAGE >= length]:
            del self._dirty[page]
        self._length = length
        if self._physical > max(length, self._reach):
            with self._poisoning("shortening"):
                self._resize(max(length, self._reach))
        return length

    def _check_writable(self) -> None:
        if not self.writable:
            raise io.UnsupportedOperation(f"{self.path} is open for reading only")
        if self._refused:
            raise StoreWriteFailed(self._refused, key=self.path, hint="open the store again")
        if self._fd < 0:
            raise ValueError(f"{self.path} is closed")

    def _extend(self, length: int) -> None:
        """Lengthen; pages of the older part that come back to life after a shortening are zero."""
        for page in range(pages_for(self._length), min(pages_for(length), self._edge // PAGE)):
            self._dirty[page] = bytearray(PAGE)
        self._length = length

    def _stage(self, view: memoryview, start: int) -> None:
        done, size = 0, len(view)
        while done < size:
            page, inner = divmod(start + done, PAGE)
            part = view[done : done + PAGE - inner]
            if len(part) == PAGE:
                self._dirty[page] = bytearray(part)
            else:
                self._page(page)[inner : inner + len(part)] = part
            done += len(part)

    def _page(self, page: int) -> bytearray:
        """Return the running transaction's copy of a page."""
        block = self._dirty.get(page)
        if block is None:
            block = self._dirty[page] = bytearray(self._committed_page(page))
        return block

    def _committed_page(self, page: int) -> bytes:
        """Return the committed content of a page; a writer keeps those that it changed lately."""
        block = self._clean.get(page)
        if block is None:
            buffer = bytearray(PAGE)
            self._read_committed(memoryview(buffer), page * PAGE)
            block = bytes(buffer)
        return block

    def _write_tail(self, view: memoryview, start: int) -> None:
        if self._failure is not None:
            return  # the transaction is lost; HDF5 must still be able to close
        with self._poisoning("writing"):
            self._physical = max(self._physical, start + len(view))
            write_full(self._disk, self._fd, view, start)

    def _read_committed(self, view: memoryview, start: int) -> None:
        read_full(self._disk, self._fd, view, start)
        if start < self._edge and self._log.index:
            for page, part, inner in _overlaps(self._log.index, view, start):
                self._log.read(page, part, inner)

    def _head(self) -> bytes:
        head = bytearray(PAGE)
        read_full(self._disk, self._fd, memoryview(head), 0)
        return bytes(head)

    def _resize(self, length: int) -> None:
        self._disk.truncate(self._fd, length)
        self._physical = length

    @contextlib.contextmanager
    def _poisoning(self, doing: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._failure = write_failed(self.path, doing, error)
            raise self._failure from error


def write_failed(path: Path, doing: str, error: OSError) -> StoreWriteFailed:
    """Say in plain words what the system refused.

    Parameters
    ----------
    path : Path
        The data file.
    doing : str
        What was being done to it.
    error : OSError
        What the system said.
    """
    reasons = {
        errno.ENOSPC: ("the disk is full", "free some space, then run again: it goes on from there"),
        errno.EDQUOT: ("the disk quota is used up", "free some space, then run again"),
        errno.EFBIG: ("the file grew past the size limit", "raise the limit (ulimit -f), then run again"),
        errno.EROFS: ("the file system is read-only", "write to another place, or remount it"),
        errno.EACCES: ("permission denied", "check the permissions of the file and its folder"),
        errno.EPERM: ("not permitted", "check the permissions of the file and its folder"),
    }
    reason, hint = reasons.get(
        error.errno or 0, (error.strerror or str(error), "check the disk, then open the store again")
    )
    return StoreWriteFailed(f"{doing} {path} failed: {reason}; the last commit is intact", key=path, hint=hint)


def _overlaps(pages: Collection[int], view: memoryview, start: int) -> Iterator[tuple[int, memoryview, int]]:
    """Give those of ``pages`` that a read touches, the part of the read's buffer, and where in the page it begins."""
    end = start + len(view)
    first, last = start // PAGE, pages_for(end)
    nearby = [p for p in range(first, last) if p in pages] if last - first < len(pages) else list(pages)
    for page in nearby:
        low, high = max(start, page * PAGE), min(end, (page + 1) * PAGE)
        if low < high:
            yield page, view[low - start : high - start], low - page * PAGE
