"""Locks: one writer at a time, with a name to ask for, and no lock left behind by the dead."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import pytest

from h5ml.schemas.errors import LockTimeout
from h5ml.store.lock import (
    WriterLock,
    check_flock,
    exclusive_lock,
    holders,
    raise_lock,
    shared_lock,
)
from h5ml.tests.kits.disk import FaultyDisk

HOLD = """
import sys, time
from pathlib import Path
from h5ml.store.lock import WriterLock
with WriterLock(Path(sys.argv[1]), 5):
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def other_writer(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that holds the writer's lock."""
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        yield child
        child.send_signal(signal.SIGKILL)


@contextmanager
def descriptor(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


def test_a_timeout_names_the_holder_and_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    with other_writer(path) as child:
        start = time.monotonic()
        with pytest.raises(LockTimeout) as caught:
            WriterLock(path, 0.1).acquire()
        assert 0.1 <= time.monotonic() - start < 1.0
        text = str(caught.value)
        assert f"PID {child.pid}" in text
        assert f"host {os.uname().nodename}" in text
        assert "since 20" in text
        assert "wait for it" in text
        assert str(path) in text


def test_a_killed_holder_leaves_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    with other_writer(path) as child:
        child.send_signal(signal.SIGKILL)
        child.wait()
        with WriterLock(path, 1.0) as lock:
            assert json.loads(lock.path.read_text())["pid"] == os.getpid()


def test_a_waiting_writer_gets_the_lock_when_it_is_free(tmp_path: Path) -> None:
    lock = WriterLock(tmp_path / "s.h5", 1.0)
    lock.acquire()
    threading.Timer(0.1, lock.release).start()
    start = time.monotonic()
    with WriterLock(tmp_path / "s.h5", 5.0):
        assert time.monotonic() - start < 0.5
    assert not lock.held


@pytest.mark.parametrize("shared", [True, False])
def test_threads_take_turns_with_one_lock_object_or_several(tmp_path: Path, shared: bool) -> None:
    one = WriterLock(tmp_path / "s.h5", 10.0)
    inside: list[int] = []
    most: list[int] = []

    def work() -> None:
        for _ in range(5):
            with one if shared else WriterLock(tmp_path / "s.h5", 10.0):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.001)
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 20


def test_a_lock_object_that_timed_out_can_be_used_again(tmp_path: Path) -> None:
    first, second = WriterLock(tmp_path / "s.h5", 1.0), WriterLock(tmp_path / "s.h5", 0.02)
    with first, pytest.raises(LockTimeout):
        second.acquire()
    with second:
        assert second.held
    second.release()
    with first:
        assert first.held


def test_a_holder_without_a_readable_name_is_said_so(tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    with WriterLock(path, 1.0) as lock:
        lock.path.write_text("{")
        with pytest.raises(LockTimeout, match="left no name"):
            WriterLock(path, 0.0).acquire()


def test_readers_share_and_a_writer_waits_for_them(tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    with descriptor(path) as one, descriptor(path) as two:
        assert shared_lock(one, 0.0)
        assert shared_lock(two, 0.0)
        assert not raise_lock(one, 0.01)
        with descriptor(path) as three:
            assert not exclusive_lock(three, 0.01)
        fcntl.flock(two, fcntl.LOCK_UN)
        assert raise_lock(one, 0.0)
        assert not shared_lock(two, 0.01)
        assert shared_lock(one, 0.0)
        assert shared_lock(two, 0.0)


def test_a_lock_lost_to_a_foreign_writer_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    with descriptor(path) as one, descriptor(path) as two:
        fcntl.flock(two, fcntl.LOCK_EX)
        with pytest.raises(LockTimeout, match="another program"):
            raise_lock(one, 0.0)


def test_a_file_system_without_locks_is_passed_and_other_errors_are_not(tmp_path: Path) -> None:
    disk = FaultyDisk()
    fd = disk.open(tmp_path / "s.h5", os.O_RDWR | os.O_CREAT)
    disk.fault = lambda call, name: errno.ENOLCK
    assert exclusive_lock(fd, 0.0, disk)
    disk.fault = lambda call, name: errno.EBADF
    with pytest.raises(OSError, match="Bad file"):
        shared_lock(fd, 0.0, disk)
    disk.close(fd)


def test_holders_names_the_processes_that_hold_a_file(tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    assert holders(path) == []
    h5py.File(path, "w").close()
    assert holders(path) == []
    code = "import sys, time, h5py; f = h5py.File(sys.argv[1], 'r'); print('open', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        (found,) = holders(path)
        assert found.pid == child.pid
        assert "h5py.File" in found.command
        assert str(found).startswith(f"PID {child.pid} (")
        child.kill()
    with h5py.File(path, "r"):
        assert [holder.pid for holder in holders(path)] == [os.getpid()]


def test_an_unsafe_setting_or_file_system_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s.h5"
    monkeypatch.delenv("HDF5_USE_FILE_LOCKING", raising=False)
    assert check_flock(path) is None
    for setting in ("FALSE", "BEST_EFFORT"):
        monkeypatch.setenv("HDF5_USE_FILE_LOCKING", setting)
        assert setting in (check_flock(path) or "")
    monkeypatch.delenv("HDF5_USE_FILE_LOCKING")

    def refuse(fd: int, operation: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert "no locks" in (check_flock(path) or "")
    assert list(tmp_path.iterdir()) == []
