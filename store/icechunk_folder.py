"""What Icechunk leaves open on a local folder: it neither syncs its files nor notices a commit that came first.

Under h5ml's writer lock a transaction first lays down all its files; they are synced; then the branch is pointed to
them by one synced rename. So neither a kill nor a power cut shows half a commit or loses an acknowledged one.
"""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import orjson

from .icechunk_location import REFERENCE

_KINDS = ("chunks", "manifests", "transactions", "snapshots")
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
_AT_ONCE = 4


class NewFiles:
    """Finds the files that a transaction added, and syncs them.

    Parameters
    ----------
    folder : Path
        Of the repository.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, set[str]] = {}
        self._pool: ThreadPoolExecutor | None = None

    def begin(self) -> None:
        """Remember what is there, once; files that others add later are synced once too often, not too seldom."""
        if not self._known:
            self._known = {kind: self._names(kind) for kind in _KINDS}

    def sync(self) -> None:
        """Sync what was added since, then the folders it was added to."""
        files: list[Path] = []
        folders: list[Path] = []
        now = {kind: self._names(kind) for kind in _KINDS}
        for kind, names in now.items():
            added = names - self._known.get(kind, set())
            files += [self._folder / kind / name for name in added]
            folders += [self._folder / kind] if added else []
        if self._pool is None:  # several at once, because the file system then writes its journal once
            self._pool = ThreadPoolExecutor(_AT_ONCE, "h5ml-sync")
        list(self._pool.map(_sync, files))
        list(self._pool.map(_sync, [*folders, self._folder]))
        self._known = now

    def close(self) -> None:
        """End the threads and forget what is there."""
        if self._pool is not None:
            self._pool.shutdown()
        self._pool = None
        self._known = {}

    def _names(self, kind: str) -> set[str]:
        with suppress(FileNotFoundError):
            return set(os.listdir(self._folder / kind))  # noqa: PTH208 - names alone, and fast
        return set()


def sync_tree(folder: Path) -> None:
    """Sync everything under a folder, the folder and its place in its parent."""
    for root, _, names in os.walk(folder):
        for name in names:
            _sync(Path(root, name))
        _sync(Path(root))
    _sync(folder.resolve().parent)


def _sync(path: Path) -> None:
    with suppress(FileNotFoundError):  # a compaction of another process may have removed it
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def publish(folder: Path, snapshot: str) -> None:
    """Point the branch to a snapshot, durably: the same file that Icechunk 1 writes, but synced before its rename.

    Parameters
    ----------
    folder : Path
        Of the repository.
    snapshot : str
        Its id; its files are synced already.
    """
    reference = folder / REFERENCE
    staged = reference.with_name(reference.name + "#1")  # the name under which Icechunk stages it: readers skip it
    fd = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        os.write(fd, orjson.dumps({"snapshot": snapshot}))
        os.fsync(fd)
    finally:
        os.close(fd)
    staged.replace(reference)
    _sync(reference.parent)


def nbytes(folder: Path) -> int:
    """Bytes of all files under a folder."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += Path(root, name).stat().st_size
    return total


def check_locks(folder: Path) -> list[str]:
    """A warning if the file system has no locks."""
    try:
        with tempfile.TemporaryFile(dir=folder.resolve().parent) as probe:
            fcntl.flock(probe.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            text = (
                f"the file system of {folder} has no locks ({error.strerror}): nothing stops a second writer, and "
                "Icechunk loses commits then. Keep to one writing process, or use a bucket."
            )
            return [text]
    return []
