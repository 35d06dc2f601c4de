"""Programs end with what they started, and with the process that started them, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from h5ml.compute.levels.external import OutOfTime, ProgramFailed, run_program

# a program that starts another, as mpirun does, and minds no polite request to end
STUBBORN = "trap '' TERM; (trap '' TERM; exec sleep 60) & echo $! $$ > pids; wait; sleep 60"
STARTER = f"""
import sys
from pathlib import Path
from h5ml.compute.levels.external import run_program
with open("out", "wb") as out:
    run_program(["/bin/sh", "-c", {STUBBORN!r}], Path(), out, out, None, 1)
"""


def pids(folder: Path) -> list[psutil.Process]:
    """The program and what it started, once both are there."""
    deadline = time.monotonic() + 30
    while not (folder / "pids").exists() or len((folder / "pids").read_text().split()) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return [psutil.Process(int(word)) for word in (folder / "pids").read_text().split()]


def test_a_killed_process_leaves_no_program_behind(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", STARTER], cwd=tmp_path)
    found = pids(tmp_path)
    assert all(one.is_running() for one in found)
    process.send_signal(signal.SIGKILL)
    process.wait()
    gone, alive = psutil.wait_procs(found, timeout=10)
    assert (len(gone), alive) == (2, [])


def test_a_program_that_takes_too_long_is_ended_with_what_it_started(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as out, pytest.raises(OutOfTime, match=r"0\.5 s"):
        run_program(["/bin/sh", "-c", STUBBORN], tmp_path, out, out, 0.5, 1)
    numbers = map(int, (tmp_path / "pids").read_text().split())
    _, alive = psutil.wait_procs([psutil.Process(n) for n in numbers if psutil.pid_exists(n)], timeout=10)
    assert not alive


def test_a_program_has_its_output_threads_and_exit_code_and_nothing_to_read(tmp_path: Path) -> None:
    told = tmp_path / "told"
    script = "cat; echo $OMP_NUM_THREADS; echo 'a  b' $1; echo $PPID"
    with told.open("wb") as out:
        run_program(["/bin/sh", "-c", script, "sh", "c d"], tmp_path, out, out, 9, 3)
    *words, group = told.read_text().splitlines()
    assert words == ["3", "a  b c d"]
    with pytest.raises(ProcessLookupError):  # not even a dead one that nobody asked for
        os.killpg(int(group), 0)
    with told.open("wb") as out, pytest.raises(ProgramFailed, match="exit code 7"):
        run_program(["/bin/sh", "-c", "exit 7"], tmp_path, out, out, None, 1)
