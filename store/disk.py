"""The operating-system calls under the store, behind one small protocol.

All that the journal and the locks ask of the system goes through `Disk`, so that tests can record every call,
drop or tear what was not yet synced, and let a disk be full or fail.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Protocol

Bytes = bytes | bytearray | memoryview


class Disk(Protocol):
    """What the store needs of a file system. Every method raises `OSError` as the system does."""

    def open(self, path: Path, flags: int) -> int:
        """Open a file and return its descriptor (``os.open``)."""
        ...

    def close(self, fd: int) -> None:
        """Close a descriptor."""
        ...

    def size(self, fd: int) -> int:
        """Length of the file in bytes."""
        ...

    def read(self, fd: int, buffer: memoryview, offset: int) -> int:
        """Read into ``buffer`` from ``offset``; may be short."""
        ...

    def write(self, fd: int, data: Bytes, offset: int) -> int:
        """Write ``data`` at ``offset``; may be short."""
        ...

    def sync(self, fd: int) -> None:
        """Return once the file's data and length are on the medium."""
        ...

    def sync_folder(self, path: Path) -> None:
        """Return once the entries of the folder are on the medium."""
        ...

    def truncate(self, fd: int, length: int) -> None:
        """Set the length of the file."""
        ...

    def unlink(self, path: Path) -> None:
        """Remove the file's entry from its folder."""
        ...

    def flock(self, fd: int, operation: int) -> None:
        """Take or release an advisory lock (``fcntl.flock``)."""
        ...


class RealDisk:
    """The file system itself."""

    def open(self, path: Path, flags: int) -> int:
        """Open a file; new files get the permissions that the process's mask leaves of 0666."""
        return os.open(path, flags | os.O_CLOEXEC, 0o666)

    def close(self, fd: int) -> None:
        """Close a descriptor."""
        os.close(fd)

    def size(self, fd: int) -> int:
        """Length of the file in bytes."""
        return os.fstat(fd).st_size

    def read(self, fd: int, buffer: memoryview, offset: int) -> int:
        """Read straight into ``buffer``, without a copy."""
        return os.preadv(fd, [buffer], offset)

    def write(self, fd: int, data: Bytes, offset: int) -> int:
        """Write ``data`` at ``offset``."""
        return os.pwrite(fd, data, offset)

    def sync(self, fd: int) -> None:
        """``fdatasync``, or on macOS ``F_FULLFSYNC``: its ``fsync`` stops at the drive's cache."""
        full_sync = getattr(fcntl, "F_FULLFSYNC", None)
        if full_sync is None:
            os.fdatasync(fd)
        else:
            fcntl.fcntl(fd, full_sync)

    def sync_folder(self, path: Path) -> None:
        """Sync the folder's own descriptor."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def truncate(self, fd: int, length: int) -> None:
        """Set the length of the file."""
        os.ftruncate(fd, length)

    def unlink(self, path: Path) -> None:
        """Remove the file's entry; a missing one is as good."""
        path.unlink(missing_ok=True)

    def flock(self, fd: int, operation: int) -> None:
        """Take or release an advisory lock."""
        fcntl.flock(fd, operation)


def read_full(disk: Disk, fd: int, buffer: memoryview, offset: int) -> int:
    """Fill ``buffer`` from ``offset``, stopping only at the end of the file.

    Returns
    -------
    int
        The bytes read; the rest of ``buffer`` is zeroed.
    """
    done, size = 0, len(buffer)
    while done < size:
        got = disk.read(fd, buffer[done:] if done else buffer, offset + done)
        if got == 0:
            buffer[done:] = bytes(size - done)
            break
        done += got
    return done


def write_full(disk: Disk, fd: int, data: Bytes, offset: int) -> None:
    """Write all of ``data`` at ``offset``, or raise the `OSError` that stopped it."""
    size = len(data)
    done = disk.write(fd, data, offset)
    while done < size:
        done += disk.write(fd, memoryview(data)[done:], offset + done)
