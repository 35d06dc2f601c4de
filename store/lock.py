"""Locks between processes: one writer at a time, and the data file's own lock that plain HDF5 readers share.

All of them are ``flock``: the kernel drops them when their holder dies, and they also hold between threads of one
process, because every `open` makes a lock owner of its own.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from ..schemas.errors import LockTimeout
from .disk import Disk, RealDisk, write_full

_FIRST_WAIT_S = 0.001
_LONGEST_WAIT_S = 0.05
_BUSY = (errno.EAGAIN, errno.EACCES, errno.EINTR)
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that holds a lock."""

    pid: int
    """Its process id."""
    command: str
    """Its command line, shortened."""

    def __str__(self) -> str:
        return f"PID {self.pid} ({self.command})"


def shared_lock(fd: int, timeout_s: float, disk: Disk | None = None) -> bool:
    """Take the lock that any number of readers share.

    Parameters
    ----------
    fd : int
        Descriptor of the file.
    timeout_s : float
        How long to wait; 0 tries once.
    disk : Disk, optional
        The system calls.

    Returns
    -------
    bool
        False if a writer held the file all that time. On a file system without locks it is True (see
        `check_flock`).
    """
    system = disk or RealDisk()
    return _poll(lambda: _try_lock(system, fd, fcntl.LOCK_SH), timeout_s)


def exclusive_lock(fd: int, timeout_s: float, disk: Disk | None = None) -> bool:
    """Take the lock that shuts everybody else out; parameters and result as in `shared_lock`.

    A shared lock that the descriptor holds is given up by a vain attempt: that is how the kernel changes locks.
    """
    system = disk or RealDisk()
    return _poll(lambda: _try_lock(system, fd, fcntl.LOCK_EX), timeout_s)


def raise_lock(fd: int, timeout_s: float, disk: Disk | None = None) -> bool:
    """Turn a held shared lock into the exclusive one, or keep it shared.

    Raises
    ------
    LockTimeout
        If another program took the file for writing in between and the shared lock is lost.
    """
    system = disk or RealDisk()

    def attempt() -> bool:
        if _try_lock(system, fd, fcntl.LOCK_EX):
            return True
        if not _try_lock(system, fd, fcntl.LOCK_SH):
            raise LockTimeout(
                "another program opened the data file for writing while h5ml was writing to it",
                hint="stop that program, then open the store again: the commits are kept in the -wal file",
            )
        return False

    return _poll(attempt, timeout_s)


def _try_lock(disk: Disk, fd: int, kind: int) -> bool:
    try:
        disk.flock(fd, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _BUSY:
            return False
        if error.errno not in _NO_LOCKS:
            raise
    return True


def _poll(attempt: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    wait = _FIRST_WAIT_S
    while not attempt():
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(wait, left))
        wait = min(2 * wait, _LONGEST_WAIT_S)
    return True


class WriterLock:
    """One writer at a time, across processes and threads, through a small file beside the store.

    The file stays when the lock is released: removing it would let two writers lock two files of one name.

    Parameters
    ----------
    path : Path
        The store's file; the lock is ``FILE-lock`` beside it.
    timeout_s : float
        How long to wait for another writer.
    """

    def __init__(self, path: Path, timeout_s: float) -> None:
        self.path = path.with_name(path.name + "-lock")
        self._store = path
        self._timeout_s = timeout_s
        self._threads = threading.Lock()
        self._fd = -1
        self._disk = RealDisk()

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._fd >= 0

    def acquire(self) -> None:
        """Take the lock and write down who holds it.

        Raises
        ------
        LockTimeout
            If another writer kept it longer than ``timeout_s``.
        """
        start = time.monotonic()
        if not self._threads.acquire(timeout=self._timeout_s):
            raise self._timed_out()
        try:
            fd = self._disk.open(self.path, os.O_RDWR | os.O_CREAT)
            try:
                left = max(0.0, self._timeout_s - (time.monotonic() - start))
                if not exclusive_lock(fd, left, self._disk):
                    raise self._timed_out()
                self._sign(fd)
            except BaseException:
                self._disk.close(fd)
                raise
        except BaseException:
            self._threads.release()
            raise
        self._fd = fd

    def release(self) -> None:
        """Give the lock back; nothing happens if it is not held."""
        if not self.held:
            return
        fd, self._fd = self._fd, -1
        try:
            with contextlib.suppress(OSError):
                self._disk.truncate(fd, 0)
                self._disk.flock(fd, fcntl.LOCK_UN)  # also for a child that inherited the descriptor by fork
            self._disk.close(fd)
        finally:
            self._threads.release()

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _sign(self, fd: int) -> None:
        """Say in the file who holds it. The lock holds without: a full disk must not stop it."""
        facts = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": " ".join(sys.orig_argv)[:200],
        }
        with contextlib.suppress(OSError):
            self._disk.truncate(fd, 0)
            write_full(self._disk, fd, json.dumps(facts).encode(), 0)

    def _timed_out(self) -> LockTimeout:
        found = "a holder that left no name"
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            facts = json.loads(self.path.read_text(encoding="utf-8"))
            found = f"host {facts['host']}, PID {facts['pid']}, since {facts['since']}: {facts['command']}"
        return LockTimeout(
            f"another writer holds {self._store}; gave up after {self._timeout_s:g} s",
            found=found,
            hint="wait for it to end, or stop it; a dead process holds no lock, so nothing has to be deleted",
        )


def holders(path: Path) -> list[Holder]:
    """Processes on this machine that hold a lock on a file, as far as ``/proc/locks`` tells.

    Parameters
    ----------
    path : Path
        The data file.

    Returns
    -------
    list of Holder
        Other processes; this one is named only if it is the only one.
    """
    try:
        inode = path.stat().st_ino
        rows = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return []
    pids: set[int] = set()
    for row in rows:
        fields = row.split()
        # "1: FLOCK ADVISORY READ 1234 08:01:5678 0 EOF"; rows with "->" only wait
        if len(fields) >= 6 and fields[1] == "FLOCK" and fields[5].split(":")[-1] == str(inode):
            pids.add(int(fields[4]))
    others = pids - {os.getpid()}
    return [Holder(pid, _command(pid)) for pid in sorted(others or pids)]


def _command(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
    except OSError:
        return "ended"
    return words.decode("utf-8", "replace").strip()[:100] or "unknown"


def check_flock(path: Path) -> str | None:
    """Say whether locks protect a store here.

    Parameters
    ----------
    path : Path
        The store's file, which need not exist.

    Returns
    -------
    str or None
        A warning to show, or nothing if all is well.
    """
    setting = os.environ.get("HDF5_USE_FILE_LOCKING", "TRUE").upper()
    if setting in ("FALSE", "0", "BEST_EFFORT"):
        return (
            f"HDF5_USE_FILE_LOCKING={setting}: plain HDF5 programs started so may read {path.name} while a commit "
            "is merged into it. Unset the variable, or do not read the file with them while h5ml writes."
        )
    try:
        with tempfile.TemporaryFile(dir=path.parent) as probe:
            fcntl.flock(probe.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            return None
        return (
            f"the file system of {path.parent} has no locks ({error.strerror}): nothing stops a second writer. "
            "Keep to one writing process, or move the store to a local disk."
        )
    return None
