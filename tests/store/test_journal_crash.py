"""No kill and no power loss, at any call, loses a commit or shows half of one."""

from __future__ import annotations

import os
import random
import tempfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from h5ml.store.journal import PagedFile
from h5ml.store.wal import PAGE, SIGNATURE, end_of_file
from h5ml.tests.kits.disk import FastDisk, Op, RecordingDisk, crash_image
from h5ml.tests.kits.journal import (
    STEPS,
    VERSIONS,
    State,
    committed,
    contents,
    killed_writer,
    transaction,
)

KEEPS = ("all", "none", "torn", "torn", "torn", "ops", "ops")


@pytest.fixture(autouse=True)
def small_tails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a quarter of a megabyte a large tail, so that small scenarios reach the code for both sizes."""
    monkeypatch.setattr("h5ml.store.journal._SMALL_TAIL", 128 * 1024)


# ---- crashes, simulated


def record(folder: Path, *, apply_every: int = 1, reopen_every: int = 3) -> tuple[list[Op], list[State]]:
    """Run `STEPS` on a recording disk; give its calls and the state after each commit."""
    folder.mkdir()
    disk, states = RecordingDisk(), [{}]
    paged = PagedFile(folder / "s.h5", disk, writable=True)
    for number, step in enumerate(STEPS, start=1):
        with h5py.File(paged, "r+" if paged.committed_length else "w", libver=VERSIONS) as file:
            step(file)
        states.append(contents(paged))
        disk.mark("begin")
        assert paged.commit(apply=number % apply_every == 0)
        disk.mark("acknowledged")
        if number % reopen_every == 0:
            paged.close()
            paged = PagedFile(folder / "s.h5", disk, writable=True)
    paged.close()
    return disk.ops, states


def put(folder: Path, image: dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    for name, data in image.items():
        (folder / name).write_bytes(data)
    return folder / "s.h5"


def check_image(path: Path, states: list[State], done: int, begun: int, *, oldest: int, after: bool) -> None:
    """A crashed store opens, plainly and through us, in a state that was promised."""
    try:
        plain = contents(path)
    except OSError:
        plain = states[done]
    assert plain in states[oldest : begun + 1], "a plain reader saw half a commit"
    assert committed(path) in states[done : begun + 1], "the read-only view is wrong"
    with PagedFile(path, FastDisk(), writable=True) as paged:
        found = contents(paged) if paged.committed_length else {}
        assert found in states[done : begun + 1], "recovery is wrong"
        if after:
            with transaction(paged) as file:
                file["after"] = np.ones(700)
    head = path.read_bytes()[:64]
    assert path.stat().st_size == (8 if head == b"h5ml new" else end_of_file(head))
    if after:
        state = contents(path)
        del state["after"]
        assert {**found, "/": ({}, None)} == {**state, "/": ({}, None)}


def crash_everywhere(
    folder: Path, ops: list[Op], states: list[State], *, stride: int, lazy: bool = False, start: int = 0
) -> int:
    rng = random.Random(stride + len(ops))
    done = begun = count = 0
    for index, op in enumerate(ops):
        done += op.name == "acknowledged"
        begun += op.name == "begin"
        if index < start:
            continue
        for keep in KEEPS:
            if rng.randrange(stride):
                continue
            path = put(folder, crash_image(ops[: index + 1], keep, rng))
            oldest = 0 if lazy else done
            check_image(path, states, done, begun, oldest=oldest, after=rng.random() < 0.3)
            count += 1
    return count


def test_a_crash_at_a_sample_of_all_calls_leaves_the_state_before_or_after(tmp_path: Path) -> None:
    ops, states = record(tmp_path / "run")
    assert crash_everywhere(tmp_path / "image", ops, states, stride=8) > 80


def test_a_crash_loses_nothing_that_waits_in_the_log(tmp_path: Path) -> None:
    ops, states = record(tmp_path / "run", apply_every=3, reopen_every=5)
    assert crash_everywhere(tmp_path / "image", ops, states, stride=8, lazy=True) > 50


@pytest.mark.long
@pytest.mark.parametrize(("apply_every", "reopen_every"), [(1, 3), (1, 100), (3, 5), (100, 100), (100, 4)])
def test_a_crash_at_every_call_leaves_the_state_before_or_after(
    tmp_path: Path, apply_every: int, reopen_every: int
) -> None:
    ops, states = record(tmp_path / "run", apply_every=apply_every, reopen_every=reopen_every)
    crash_everywhere(tmp_path / "image", ops, states, stride=1, lazy=apply_every > 1)


def crash_in_recovery(tmp_path: Path, stride: int) -> int:
    """Crash, recover, crash inside the recovery, recover again."""
    ops, states = record(tmp_path / "run", apply_every=2, reopen_every=100)
    rng = random.Random(stride)
    done = begun = count = 0
    for index, op in enumerate(ops):
        done += op.name == "acknowledged"
        begun += op.name == "begin"
        if rng.randrange(stride):
            continue
        path = put(tmp_path / "first", crash_image(ops[: index + 1], rng.choice(KEEPS), rng))
        disk = RecordingDisk()
        PagedFile(path, disk, writable=True).close()
        for end in range(1, len(disk.ops) + 1):
            if {op.name for op in disk.ops[:end] if op.kind == "present"} != {"s.h5", "s.h5-wal"}:
                continue
            again = put(tmp_path / "second", crash_image(disk.ops[:end], rng.choice(KEEPS), rng))
            check_image(again, states, done, begun, oldest=0, after=False)
            count += 1
    return count


def test_a_crash_inside_the_recovery_is_recovered_too(tmp_path: Path) -> None:
    assert crash_in_recovery(tmp_path, stride=12) > 20


@pytest.mark.long
def test_a_crash_inside_any_recovery_is_recovered_too(tmp_path: Path) -> None:
    assert crash_in_recovery(tmp_path, stride=1) > 500


# ---- crashes, real


def kill_often(path: Path, kills: int) -> None:
    rng = random.Random(kills)
    for number in range(kills):
        acknowledged = killed_writer(path, rng.uniform(0, 0.05), 1 + number % 3)
        try:
            plain = contents(path)
        except OSError:
            plain = {}
        with PagedFile(path, writable=number % 2 == 0) as paged, h5py.File(paged, "r") as file:
            count = file.attrs["count"]
            assert count >= acknowledged
            assert np.array_equal(file["rows"][:], np.repeat(np.arange(count)[:, None], 32, axis=1))
        if plain:
            assert np.frombuffer(plain["/"][0]["count"], "i8")[0] == plain["rows"][1][0][0]


def test_a_killed_writer_loses_no_acknowledged_commit(tmp_path: Path) -> None:
    kill_often(tmp_path / "s.h5", 15)


@pytest.mark.long
def test_a_writer_killed_300_times_loses_no_acknowledged_commit(tmp_path: Path) -> None:
    kill_often(tmp_path / "s.h5", 300)


# ---- any order of calls


class Model(RuleBasedStateMachine):
    """`PagedFile` against plain bytes in memory, with rollbacks, waiting commits and reopening."""

    @initialize(folder=st.builds(lambda: None))
    def begin(self, folder: None) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name, "s.h5")
        self.paged = PagedFile(self.path, FastDisk(), writable=True)
        self.data, self.saved = bytearray(), b""

    @rule(
        start=st.integers(0, 6 * PAGE),
        size=st.sampled_from([1, 100, PAGE, 3 * PAGE + 5]),
        fill=st.binary(min_size=1, max_size=9),
    )
    def write(self, start: int, size: int, fill: bytes) -> None:
        start = min(start, len(self.data) + 2 * PAGE)
        new = (fill * size)[:size]
        self.data.extend(bytes(max(0, start + size - len(self.data))))
        self.data[start : start + size] = new
        self.paged.seek(start)
        assert self.paged.write(new) == size

    @rule(size=st.integers(0, 10 * PAGE))
    def truncate(self, size: int) -> None:
        self.data.extend(bytes(max(0, size - len(self.data))))
        del self.data[size:]
        self.paged.truncate(size)

    @rule(start=st.integers(0, 10 * PAGE), size=st.integers(0, 4 * PAGE))
    def read(self, start: int, size: int) -> None:
        self.paged.seek(start)
        assert self.paged.read(size) == self.data[start : start + size]
        buffer = bytearray(b"?" * size)
        self.paged.seek(start)
        got = self.paged.readinto(buffer)
        assert buffer[:got] == self.data[start : start + size]

    @rule(apply=st.booleans())
    def commit(self, apply: bool) -> None:
        size = max(100, len(self.data))
        head = SIGNATURE + b"\x02\x08\x08\x00" + bytes(16) + size.to_bytes(8, "little")
        self.data.extend(bytes(size - len(self.data)))
        self.data[: len(head)] = head
        self.paged.truncate(size)
        self.paged.seek(0)
        self.paged.write(head)
        self.paged.commit(apply=apply)
        self.saved = bytes(self.data)
        if apply:
            assert self.path.read_bytes() == self.data

    @rule()
    def rollback(self) -> None:
        self.paged.rollback()
        self.data = bytearray(self.saved)

    @precondition(lambda self: self.saved)
    @rule()
    def view(self) -> None:
        with PagedFile(self.path, FastDisk(), writable=False) as view:
            assert view.read() == self.saved

    @rule(kill=st.booleans())
    def reopen(self, kill: bool) -> None:
        if kill:
            os.close(self.paged._fd)
            self.paged._fd = -1
            if self.paged._wal and self.paged._wal._fd >= 0:
                os.close(self.paged._wal._fd)
        self.paged.close()
        self.paged = PagedFile(self.path, FastDisk(), writable=True)
        self.data = bytearray(self.saved)
        assert self.paged.read() == self.saved

    def teardown(self) -> None:
        if hasattr(self, "paged"):
            self.paged.close()
            self.folder.cleanup()


Model.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestAgainstPlainBytes = Model.TestCase


@pytest.mark.long
class TestAgainstPlainBytesForLong(Model.TestCase):
    settings = settings(max_examples=3000, stateful_step_count=40, deadline=None)
