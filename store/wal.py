"""The redo log beside a store: committed pages that wait to be merged into the data file.

``FILE-wal`` is a row of sections, one per commit. Each holds the new contents of the changed pages and the new
length of the file, and ends with a BLAKE3 digest; a section that was cut short by a kill or a power loss fails its
digest and was never acknowledged. Replaying sections twice is harmless. After a merge the log is cleared by
zeroing its first bytes (reusing its blocks makes the next sync twice as fast as truncating them).

Every filling of the log carries a random generation, so that left-over bytes of an earlier filling never count,
and the digest of the data file's first page, so that a log is never replayed into another file of the same name.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Container, Sequence
from pathlib import Path

from blake3 import blake3

from ..schemas.errors import StoreDamaged
from .disk import Bytes, Disk, read_full, write_full

PAGE = 4096
SIGNATURE = b"\x89HDF\r\n\x1a\n"
NEW_MARK = b"h5ml new"
"""Stands at offset 0 of a store until its first commit is merged."""
APPLY_MARK = b"h5ml"
"""Stands at offset 0, with four bytes of the log's generation, while pages are merged."""

_SECTION = struct.Struct("<8s16s16sQQQ")
_MAGIC = b"h5mlwal1"
_DIGEST = 32
_BATCH = 256
_KEEP_BYTES = 64 * 1024 * 1024


def pages_for(length: int) -> int:
    """Count the pages that hold ``length`` bytes."""
    return -(-length // PAGE)


def end_of_file(head: Bytes) -> int:
    """Read the end-of-file address from an HDF5 superblock (versions 0 to 3).

    Raises
    ------
    ValueError
        If the bytes are no such superblock.
    """
    if bytes(head[:8]) != SIGNATURE:
        raise ValueError("no HDF5 signature at offset 0")
    version = head[8]
    first = {0: 24, 1: 28, 2: 12, 3: 12}.get(version)
    width = head[9] if version >= 2 else head[13]
    if first is None or width not in (4, 8):
        raise ValueError(f"HDF5 superblock version {version} with addresses of {width} bytes is not known")
    base = int.from_bytes(head[first : first + width], "little")
    return base + int.from_bytes(head[first + 2 * width : first + 3 * width], "little")


class Wal:
    """The sections of one redo log, scanned at opening.

    Parameters
    ----------
    disk : Disk
        The system calls.
    path : Path
        The log; a missing file is an empty log, and the first `append` makes it.
    writable : bool
        False: only read.

    Attributes
    ----------
    index : dict of int to int
        For each page that waits: where its newest contents stand in the log.
    sections : int
        How many commits wait.
    length : int
        Length of the store after the last of them.
    reach : int
        The greatest length that any of them had.
    generation : bytes
        Identity of this filling of the log.
    """

    def __init__(self, disk: Disk, path: Path, *, writable: bool) -> None:
        self.index: dict[int, int] = {}
        self.sections = self.length = self.reach = 0
        self.generation = b""
        self.path = path
        self._disk = disk
        self._writable = writable
        self._states: set[bytes] = set()
        self._base = b""
        self._end = 0
        self._new_entry = False
        self._fd = -1
        flags = os.O_RDWR if writable else os.O_RDONLY
        with contextlib.suppress(FileNotFoundError):
            self._fd = disk.open(path, flags)
        if self._fd >= 0:
            self._scan()

    def _scan(self) -> None:
        size = self._disk.size(self._fd)
        while self._scan_section(size):
            pass

    def _scan_section(self, size: int) -> bool:
        """Take in the section at the end of the known ones, if it is whole."""
        head = bytearray(_SECTION.size)
        read_full(self._disk, self._fd, memoryview(head), self._end)
        magic, generation, base, number, length, count = _SECTION.unpack(head)
        total = _SECTION.size + count * (8 + PAGE) + _DIGEST
        if magic != _MAGIC or number != self.sections or self._end + total > size:
            return False
        if self.sections and (generation, base) != (self.generation, self._base):
            return False
        body = _SECTION.size + 8 * count
        if not self._is_whole(total):
            return False
        numbers = bytearray(8 * count)
        read_full(self._disk, self._fd, memoryview(numbers), self._end + _SECTION.size)
        pages = struct.unpack(f"<{count}Q", numbers)
        self.generation, self._base = generation, base
        self._states.add(base)
        if pages and pages[0] == 0:
            page = bytearray(PAGE)
            read_full(self._disk, self._fd, memoryview(page), self._end + body)
            self._states.add(_state(page))
        self._adopt(pages, self._end + body, length)
        self._end += total
        return True

    def _is_whole(self, total: int) -> bool:
        hasher = blake3()
        start, end = self._end, self._end + total - _DIGEST
        buffer = memoryview(bytearray(min(end - start, _BATCH * PAGE)))
        while start < end:
            part = buffer[: end - start]
            read_full(self._disk, self._fd, part, start)
            hasher.update(part)
            start += len(part)
        digest = memoryview(bytearray(_DIGEST))
        read_full(self._disk, self._fd, digest, end)
        return hasher.digest() == digest

    def _adopt(self, pages: Sequence[int], start: int, length: int, in_file: Container[int] = ()) -> None:
        places = range(start, start + len(pages) * PAGE, PAGE)
        self.index.update((page, at) for page, at in zip(pages, places, strict=True) if page not in in_file)
        if length < self.length:
            for page in [page for page in self.index if page * PAGE >= length]:
                del self.index[page]
        self.length = length
        self.reach = max(self.reach, length)
        self.sections += 1

    def check_belongs(self, head: Bytes) -> None:
        """Refuse a data file whose first page is none that this log has seen.

        Parameters
        ----------
        head : bytes
            The first page of the data file.
        """
        if bytes(head[:4]) == APPLY_MARK and bytes(head[:8]) != NEW_MARK:
            belongs = bytes(head[4:8]) == self.generation[:4]
        else:
            belongs = _state(head) in self._states
        if not belongs:
            raise StoreDamaged(
                f"{self.path.name} holds {self.sections} commits of another state of the file beside it",
                expected="the file that these commits were made to",
                found="a file that was replaced, or changed by another program",
                hint=f"put the original file back, or move {self.path} away to give those commits up",
            )

    def read(self, page: int, buffer: memoryview, inner: int) -> None:
        """Read a part of a waiting page, from its byte ``inner``."""
        read_full(self._disk, self._fd, buffer, self.index[page] + inner)

    def runs(self) -> list[tuple[int, int, int]]:
        """Waiting pages as (first page, count, place in the log), each run together in file and log."""
        runs: list[tuple[int, int, int]] = []
        first = count = start = 0
        for page, place in sorted(self.index.items()):
            if count and page == first + count and place == start + count * PAGE and count < _BATCH:
                count += 1
                continue
            if count:
                runs.append((first, count, start))
            first, count, start = page, 1, place
        if count:
            runs.append((first, count, start))
        return runs

    def read_run(self, count: int, start: int) -> bytearray:
        """Read the contents of one of `runs`."""
        block = bytearray(count * PAGE)
        read_full(self._disk, self._fd, memoryview(block), start)
        return block

    def append(
        self, pages: Sequence[tuple[int, Bytes]], length: int, head: Bytes, in_file: Container[int] = ()
    ) -> None:
        """Append one section and sync it: on return the commit is durable.

        Parameters
        ----------
        pages : sequence of (int, bytes)
            Number and contents of each changed page, in ascending order.
        length : int
            Length of the store after this commit.
        head : bytes
            The data file's first page as it stands, wanted only for the first section.
        in_file : container of int
            Pages that this process has also written to the data file, past the end that readers see: only a
            recovery takes them from the log.
        """
        if not self.sections:
            self.generation, self._base = os.urandom(16), _state(head)
        numbers = [number for number, _ in pages]
        lead = _SECTION.pack(_MAGIC, self.generation, self._base, self.sections, length, len(pages))
        try:
            if self._fd < 0:
                self._fd = self._disk.open(self.path, os.O_RDWR | os.O_CREAT)
                self._new_entry = True
            end = self._write_section(lead + struct.pack(f"<{len(pages)}Q", *numbers), pages)
            self._disk.sync(self._fd)
            if self._new_entry:
                self._disk.sync_folder(self.path.parent)
                self._new_entry = False
        except OSError:
            self._cut()
            raise
        self._adopt(numbers, self._end + len(lead) + 8 * len(pages), length, in_file)
        self._end = end

    def _write_section(self, lead: bytes, pages: Sequence[tuple[int, Bytes]]) -> int:
        hasher = blake3()
        place = self._end
        for start in range(0, max(1, len(pages)), _BATCH):
            batch = [contents for _, contents in pages[start : start + _BATCH]]
            block = b"".join(batch if start else [lead, *batch])
            hasher.update(block)
            if start + _BATCH >= len(pages):
                block += hasher.digest()
            write_full(self._disk, self._fd, block, place)
            place += len(block)
        return place

    def _cut(self) -> None:
        """Take back a section that failed, as far as the disk lets us."""
        with contextlib.suppress(OSError):
            if self._fd >= 0:
                self._disk.truncate(self._fd, self._end)

    def clear(self) -> None:
        """Forget all sections: the data file holds them now, synced.

        Nothing is synced here. Should the old sections come back after a power loss, they are replayed into
        the state that they made.
        """
        if self._end > _KEEP_BYTES:
            self._disk.truncate(self._fd, 0)
        elif self._end:
            write_full(self._disk, self._fd, bytes(len(_MAGIC)), 0)
        self.index.clear()
        self._states.clear()
        self.sections = self.length = self.reach = self._end = 0

    def close(self) -> None:
        """Close the log; an empty one is removed for good."""
        if self._fd < 0:
            return
        self._disk.close(self._fd)
        self._fd = -1
        if self._writable and not self.sections:
            self._disk.unlink(self.path)
            self._disk.sync_folder(self.path.parent)


def _state(head: Bytes) -> bytes:
    return blake3(head).digest(length=16)
