"""The child process around commands: crashes, signals and time limits become messages."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = """
import os, signal, sys, time
from h5ml.cli.guard import supervise
supervise({limit})
{body}
"""


def start(body: str, limit: float | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(limit=limit, body=body)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGBUS", "SIGABRT", "SIGFPE", "SIGILL"])
def test_a_crash_becomes_one_message(name: str) -> None:
    process = start(f"os.kill(os.getpid(), signal.{name})")
    out, err = process.communicate(timeout=30)
    assert process.returncode == 7
    assert out == ""
    assert "The file is damaged" in err
    assert name in err


def test_exit_codes_and_output_pass_through() -> None:
    process = start("print('said'); sys.exit(5)")
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (5, "said\n", "")


def test_a_time_limit_stops_it() -> None:
    began = time.monotonic()
    process = start("time.sleep(60)", 0.3)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 124
    assert "--timeout" in err
    assert time.monotonic() - began < 20


def test_a_killed_child_is_said() -> None:
    process = start("os.kill(os.getpid(), signal.SIGKILL)")
    _, err = process.communicate(timeout=30)
    assert process.returncode == 137
    assert "killed" in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_are_passed_on(number: signal.Signals) -> None:
    body = """
def stop(n, f):
    print("got", n, flush=True); sys.exit(75)
signal.signal(signal.SIGTERM, stop); signal.signal(signal.SIGINT, stop)
print("ready", flush=True)
time.sleep(60)
"""
    process = start(body)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    out, _ = process.communicate(timeout=30)
    assert out == f"got {int(number)}\n"
    assert process.returncode == 75


def test_the_child_dies_with_its_parent() -> None:
    process = start("print(os.getpid(), flush=True); time.sleep(60)")
    assert process.stdout is not None
    child = int(process.stdout.readline())
    process.kill()
    process.wait(timeout=30)
    for _ in range(200):
        if not _runs(child):
            break
        time.sleep(0.05)
    else:
        os.kill(child, signal.SIGKILL)
        pytest.fail("the child lived on")


def _runs(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def test_real_commands_run_guarded(location: Path, program) -> None:
    done = program("ls", "--store", location, cwd=location.parent)
    assert done.returncode == 0
    assert "crystals/pair" in done.stdout
    slow = program("--timeout", "0.001", "ls", "--store", location, cwd=location.parent)
    assert slow.returncode == 124


def test_a_reader_that_ends_early_is_no_error(location: Path) -> None:
    text = f"{sys.executable} -m h5ml.cli.main show training/md/trajectory --store {location} | true"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {text}"], capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
