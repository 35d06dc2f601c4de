"""Disks for tests: one that records every call so that crashes can be replayed, and one that fails on demand."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from h5ml.store.disk import Bytes, RealDisk

SECTOR = 512


class FastDisk(RealDisk):
    """The real file system without waiting for the medium: for images of crashes, where syncs prove nothing."""

    def sync(self, fd: int) -> None:
        """Do nothing."""

    def sync_folder(self, path: Path) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class Op:
    """One recorded change."""

    kind: str  # present create write truncate sync unlink sync_folder mark
    inode: int = -1
    name: str = ""
    offset: int = 0
    data: bytes = b""


@dataclass
class RecordingDisk(FastDisk):
    """Runs on the file system and writes down every change, in order."""

    ops: list[Op] = field(default_factory=list)
    _inodes: dict[str, int] = field(default_factory=dict)
    _open: dict[int, int] = field(default_factory=dict)
    _count: int = 0

    def mark(self, text: str) -> None:
        """Note an event of the test, such as an acknowledged commit."""
        self.ops.append(Op("mark", name=text))

    def open(self, path: Path, flags: int) -> int:
        new = flags & os.O_CREAT and not path.exists()
        fd = super().open(path, flags)
        if new or path.name not in self._inodes:
            self._count += 1
            self._inodes[path.name] = self._count
            if new:
                self.ops.append(Op("create", self._count, path.name))
            else:
                self.ops.append(Op("present", self._count, path.name, data=path.read_bytes()))
        self._open[fd] = self._inodes[path.name]
        return fd

    def write(self, fd: int, data: Bytes, offset: int) -> int:
        self.ops.append(Op("write", self._open[fd], offset=offset, data=bytes(data)))
        return super().write(fd, data, offset)

    def truncate(self, fd: int, length: int) -> None:
        self.ops.append(Op("truncate", self._open[fd], offset=length))
        super().truncate(fd, length)

    def sync(self, fd: int) -> None:
        self.ops.append(Op("sync", self._open[fd]))

    def sync_folder(self, path: Path) -> None:
        self.ops.append(Op("sync_folder"))

    def unlink(self, path: Path) -> None:
        self.ops.append(Op("unlink", self._inodes.pop(path.name), path.name))
        super().unlink(path)


def crash_image(ops: list[Op], keep: str, rng: random.Random) -> dict[str, bytes]:
    """The files after a crash behind the last of ``ops``.

    Parameters
    ----------
    ops : list of Op
        What was done before the crash.
    keep : str
        What becomes of changes that were not yet synced: ``all`` (a killed process), ``none``, ``torn``
        (each sector at random) or ``ops`` (each call at random).
    rng : random.Random
        The dice.

    Returns
    -------
    dict of str to bytes
        File name to contents.
    """
    files: dict[int, bytearray] = {}
    entries: dict[str, int] = {}
    last: dict[tuple[str, int], int] = {}
    for index, op in enumerate(ops):
        if op.kind in ("sync", "sync_folder"):
            last[op.kind, op.inode] = index
    for index, op in enumerate(ops):
        if op.kind == "present":
            files[op.inode], entries[op.name] = bytearray(op.data), op.inode
        elif op.kind in ("create", "unlink"):
            files.setdefault(op.inode, bytearray())
            if index < last.get(("sync_folder", -1), -1) or _chance(keep, rng):
                if op.kind == "create":
                    entries[op.name] = op.inode
                elif entries.get(op.name) == op.inode:
                    del entries[op.name]
        elif op.kind in ("write", "truncate"):
            synced = index < last.get(("sync", op.inode), -1)
            _change(files[op.inode], op, "all" if synced else keep, rng)
    return {name: bytes(files[inode]) for name, inode in entries.items()}


def _chance(keep: str, rng: random.Random) -> bool:
    return keep == "all" or (keep != "none" and rng.random() < 0.5)


def _change(file: bytearray, op: Op, keep: str, rng: random.Random) -> None:
    if op.kind == "truncate":
        if _chance(keep, rng):
            file.extend(bytes(max(0, op.offset - len(file))))
            del file[op.offset :]
        return
    whole = keep != "torn"
    if whole and not _chance(keep, rng):
        return
    start, end = op.offset, op.offset + len(op.data)
    while start < end:
        stop = end if whole else min(end, (start // SECTOR + 1) * SECTOR)
        if whole or rng.random() < 0.5:
            file.extend(bytes(max(0, stop - len(file))))
            file[start:stop] = op.data[start - op.offset : stop - op.offset]
        start = stop


@dataclass
class FaultyDisk(RealDisk):
    """Fails where ``fault`` says so: it gets the call's name and the file, and returns an errno or 0."""

    fault: Callable[[str, str], int] = lambda call, name: 0
    chunk: int = 1 << 30  # the most bytes one write takes
    calls: list[tuple[str, str]] = field(default_factory=list)
    _names: dict[int, str] = field(default_factory=dict)

    def _check(self, call: str, name: str) -> None:
        self.calls.append((call, name))
        number = self.fault(call, name)
        if number:
            raise OSError(number, os.strerror(number))

    def open(self, path: Path, flags: int) -> int:
        self._check("open" if not flags & os.O_RDWR else "open for writing", path.name)
        fd = super().open(path, flags)
        self._names[fd] = path.name
        return fd

    def write(self, fd: int, data: Bytes, offset: int) -> int:
        self._check("write", self._names[fd])
        return super().write(fd, memoryview(data)[: self.chunk], offset)

    def sync(self, fd: int) -> None:
        self._check("sync", self._names[fd])
        super().sync(fd)

    def truncate(self, fd: int, length: int) -> None:
        self._check("truncate", self._names[fd])
        super().truncate(fd, length)

    def flock(self, fd: int, operation: int) -> None:
        self._check("flock", self._names[fd])
        super().flock(fd, operation)
