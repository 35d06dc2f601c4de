"""The journal: full and failing disks, readers that stay, files that are no stores."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from h5ml.schemas.errors import LockTimeout, NotAStore, StoreDamaged, StoreWriteFailed
from h5ml.store.journal import PagedFile
from h5ml.store.wal import SIGNATURE
from h5ml.tests.kits.disk import FaultyDisk
from h5ml.tests.kits.journal import (
    STEPS,
    VERSIONS,
    add_big,
    add_rows,
    committed,
    contents,
    killed_writer,
    make,
    transaction,
)

# ---- disks that fail


def fails(number: int, *calls: tuple[str, str], skip: int = 0) -> Callable[[str, str], int]:
    left = [skip]

    def fault(call: str, name: str) -> int:
        if (call, name) not in calls:
            return 0
        left[0] -= 1
        return number if left[0] < 0 else 0

    return fault


@pytest.mark.parametrize("name", ["s.h5", "s.h5-wal"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_says_so_and_keeps_the_last_commit(tmp_path: Path, name: str, number: int) -> None:
    path = tmp_path / "s.h5"
    make(path)
    before = contents(path)
    disk = FaultyDisk()
    with PagedFile(path, disk, writable=True) as paged:
        disk.fault = fails(number, ("write", name))
        with pytest.raises(StoreWriteFailed, match="last commit is intact"), transaction(paged) as file:
            file["more"] = np.zeros(100_000)
        disk.fault = lambda call, name: 0
        paged.rollback()
        assert contents(paged) == before
    assert committed(path) == before


def test_after_a_full_disk_the_same_object_goes_on(tmp_path: Path) -> None:
    path, disk = tmp_path / "s.h5", FaultyDisk()
    with PagedFile(path, disk, writable=True) as paged:
        with transaction(paged) as file:
            add_rows(file, 10, 1.0)
        disk.fault = fails(errno.ENOSPC, ("write", "s.h5-wal"))
        with pytest.raises(StoreWriteFailed, match="disk is full"), transaction(paged) as file:
            add_rows(file, 10, 2.0)
        disk.fault = lambda call, name: 0
        with transaction(paged) as file:
            add_rows(file, 5, 3.0)
    with h5py.File(path, "r") as file:
        assert file["rows"].shape == (15, 16)


def test_short_writes_are_completed(tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    disk = FaultyDisk(chunk=1000)
    make(path, disk, commits=3)
    assert contents(path)["x2++"][1][0] == (3000,)


@pytest.mark.parametrize("name", ["s.h5", "s.h5-wal"])
def test_after_a_failing_sync_nothing_more_is_written_until_reopened(tmp_path: Path, name: str) -> None:
    path, disk = tmp_path / "s.h5", FaultyDisk()
    make(path)
    before = contents(path)
    with PagedFile(path, disk, writable=True) as paged:
        disk.fault = fails(errno.EIO, ("sync", name))
        with pytest.raises(StoreWriteFailed, match="last commit is intact"), transaction(paged) as file:
            file["more"] = np.zeros(300_000)
        disk.fault = lambda call, name: 0
        with pytest.raises(StoreWriteFailed, match="no more writes"):
            paged.commit()
        assert contents(paged) == before
    assert contents(path) == before
    make(path)


@pytest.mark.parametrize("skip", range(6))
def test_a_failing_merge_keeps_the_commit(tmp_path: Path, skip: int) -> None:
    path, disk = tmp_path / "s.h5", FaultyDisk()
    make(path)
    with PagedFile(path, disk, writable=True) as paged:
        with transaction(paged, apply=False) as file:
            file["more"] = np.ones(1000)
        state = contents(paged)
        disk.fault = fails(errno.EIO, ("write", "s.h5"), ("sync", "s.h5"), skip=skip)
        merged = paged.apply()
        assert contents(paged) == state
    assert merged == (skip > 5) or skip >= 5
    assert committed(path) == state
    with PagedFile(path, writable=True):
        assert contents(path) == state


def test_a_read_only_file_is_refused_in_plain_words(tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    make(path)
    for number, text in ((errno.EROFS, "read-only"), (errno.EACCES, "permission denied")):
        disk = FaultyDisk(fault=fails(number, ("open for writing", "s.h5")))
        with pytest.raises(StoreWriteFailed, match=text):
            PagedFile(path, disk, writable=True)
        with PagedFile(path, disk, writable=False) as paged, pytest.raises(OSError, match="reading only"):
            paged.write(b"x")


def test_a_real_size_limit_keeps_the_last_commit(tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    make(path)
    code = (
        "import resource, sys, h5py, numpy\n"
        "from pathlib import Path\n"
        "from h5ml.store.journal import PagedFile\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"
        "with PagedFile(Path(sys.argv[1]), writable=True) as paged:\n"
        "    with h5py.File(paged, 'r+', libver=('v108', 'v110')) as file:\n"
        "        file['big'] = numpy.zeros(1_000_000)\n"
        "    paged.commit()\n"
    )
    before = contents(path)
    run = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "size limit" in run.stderr
    assert contents(path) == before
    make(path)


# ---- readers that stay


def test_a_plain_reader_that_stays_delays_the_merge_but_no_commit(tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    make(path)
    before = contents(path)
    paged = PagedFile(path, writable=True)
    with h5py.File(path, "r") as reader:
        for number in range(5):
            with transaction(paged) as file:
                add_rows(file, 100, number)
        assert paged.pending
        assert paged.has_overlay
        assert paged.waiting == 5
        assert f"PID {os.getpid()}" in (paged.waiting_message() or "")
        state = committed(path)
        assert state["rows"][1][0] == (500, 16)
        assert contents(path) == before
        assert reader["x0"][0] == 0
        paged.close()
        assert committed(path) == state
    with PagedFile(path, writable=True) as paged:
        assert not paged.pending
        assert paged.waiting_message() is None
    assert contents(path) == state
    assert sorted(os.listdir(tmp_path)) == ["s.h5"]


def test_commits_that_wait_survive_the_kill_of_their_writer(tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    killed_writer(path, 0.0, 1)
    PagedFile(path, writable=True).close()
    old = contents(path)
    with h5py.File(path, "r"):
        acknowledged = killed_writer(path, 0.1, 1)
        assert contents(path) == old
        assert committed(path)["rows"][1][0][0] >= acknowledged > old["rows"][1][0][0]
        with PagedFile(path, writable=True) as paged:
            assert paged.pending
    PagedFile(path, writable=True).close()
    assert contents(path)["rows"][1][0][0] >= acknowledged


def test_a_view_does_not_change_while_it_is_open(tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    make(path)
    with PagedFile(path, writable=True) as paged:
        with h5py.File(path, "r"):
            with transaction(paged) as file:
                add_big(file)
            with PagedFile(path, writable=False) as view:
                state, length = contents(view), paged.committed_length
                with transaction(paged) as file:
                    del file["big"]
                assert paged.committed_length < length
                with transaction(paged) as file:
                    file["other"] = np.ones(60_000)
                assert contents(view) == state
                assert contents(paged)["other"][1][0] == (60_000,)
        assert paged.apply()
    assert set(contents(path)) == {"/", "x0", "other"}


def test_a_plain_writer_is_kept_out_and_keeps_us_out(tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    make(path)
    with PagedFile(path, writable=True), pytest.raises(BlockingIOError):
        h5py.File(path, "r+")
    with h5py.File(path, "r+"), pytest.raises(LockTimeout, match="open for writing"):
        PagedFile(path, writable=True, lock_timeout_s=0.05)


# ---- what may lie there at opening


def test_a_log_is_not_replayed_into_another_file(tmp_path: Path) -> None:
    path, other = tmp_path / "s.h5", tmp_path / "other.h5"
    make(path)
    with h5py.File(path, "r"), PagedFile(path, writable=True) as paged, transaction(paged) as file:
        file["more"] = 1
    make(other, commits=2)
    other.replace(path)
    for writable in (True, False):
        with pytest.raises(StoreDamaged, match="another state"):
            PagedFile(path, writable=writable)


def test_files_that_are_no_stores_are_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    with pytest.raises(NotAStore):
        PagedFile(path, writable=False)
    for data in (b"hello", b"text " * 9000, bytes(5000), SIGNATURE + b"\x09" + bytes(100)):
        path.write_bytes(data)
        for writable in (True, False):
            with pytest.raises(NotAStore):
                PagedFile(path, writable=writable)
        assert path.read_bytes() == data


def test_a_file_cut_short_or_without_its_log_is_called_damaged(tmp_path: Path) -> None:
    path, disk = tmp_path / "s.h5", FaultyDisk()
    make(path)
    os.truncate(path, 5000)
    with pytest.raises(StoreDamaged, match="cut short"):
        PagedFile(path, writable=True)
    path.unlink()
    make(path)
    with PagedFile(path, disk, writable=True) as paged:
        disk.fault = fails(errno.EIO, ("sync", "s.h5"), skip=1)
        with transaction(paged) as file:
            file["y"] = 1
    (tmp_path / "s.h5-wal").unlink()
    with pytest.raises(StoreDamaged, match="missing"):
        PagedFile(path, writable=True)


@pytest.mark.parametrize("oldest", ["earliest", "v108", "v110"])
def test_files_of_plain_hdf5_programs_are_taken_up(tmp_path: Path, oldest: str) -> None:
    path = tmp_path / "s.h5"
    with h5py.File(path, "w", libver=(oldest, "v110")) as file:
        file["x"] = np.arange(5000)
    with PagedFile(path, writable=True) as paged:
        assert paged.committed_length == path.stat().st_size
        with h5py.File(paged, "r+") as file:
            file["y"] = 1
        paged.commit()
    assert set(contents(path)) == {"/", "x", "y"}


@pytest.mark.parametrize("versions", [("v108", "v110"), ("v110", "v110")])
def test_a_file_kept_open_may_be_flushed_and_committed_again_and_again(
    tmp_path: Path, versions: tuple[str, str]
) -> None:
    path = tmp_path / "s.h5"
    with PagedFile(path, writable=True) as paged, h5py.File(paged, "w", libver=versions) as file:
        for number in range(4):
            add_rows(file, 10, number)
            file.flush()
            paged.commit()
            assert contents(path)["rows"][1][0] == (10 * (number + 1), 16)


# ---- other promises


def test_a_commit_without_changes_writes_nothing(tmp_path: Path) -> None:
    path, disk = tmp_path / "s.h5", FaultyDisk()
    make(path)
    with PagedFile(path, disk, writable=True) as paged:
        with h5py.File(paged, "r+", libver=VERSIONS) as file:
            file["x0"][:10] = file["x0"][:10]
        disk.calls.clear()
        assert not paged.commit()
        assert "write" not in {call for call, _ in disk.calls}


def test_a_rollback_leaves_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    make(path)
    data = path.read_bytes()
    with PagedFile(path, writable=True) as paged:
        with h5py.File(paged, "r+", libver=VERSIONS) as file:
            file["big"] = np.ones(100_000)
            file["x0"][:] = 7
        assert path.stat().st_size > len(data)
        paged.rollback()
        assert path.read_bytes() == data
        with h5py.File(paged, "r+", libver=VERSIONS) as file:
            file["big"] = np.ones(100_000)
    assert path.read_bytes() == data


def test_committed_raw_data_never_move(tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    with PagedFile(path, writable=True) as paged:
        with transaction(paged) as file:
            file["x"] = np.arange(3000.0)
            place = file["x"].id.get_offset()
        for step in STEPS:
            with transaction(paged) as file:
                step(file)
                assert file["x"].id.get_offset() == place
            assert path.read_bytes()[place : place + 24000] == np.arange(3000.0).tobytes()


def test_appending_much_takes_little_memory(tmp_path: Path) -> None:
    code = (
        "import resource, sys, h5py, numpy\n"
        "from pathlib import Path\n"
        "from h5ml.store.journal import PagedFile\n"
        "block = numpy.ones(1_000_000)\n"
        "with PagedFile(Path(sys.argv[1]), writable=True) as paged:\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "    with h5py.File(paged, 'w', libver=('v108', 'v110')) as file:\n"
        "        for number in range(25):\n"
        "            file[str(number)] = block\n"
        "    paged.commit()\n"
        "    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "s.h5")], capture_output=True, text=True, check=True
    )
    assert int(run.stdout) < 40_000  # KiB, of 195,000 written
