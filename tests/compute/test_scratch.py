"""Scratch folders go with their process, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from h5ml.compute.scratch import scratch_folder, sweep_once, sweep_scratch

CHILD = """
import sys, time
from h5ml.compute.scratch import scratch_folder
with scratch_folder() as folder:
    (folder / "big").write_text("x")
    print(folder, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    sweep_once.cache_clear()
    return tmp_path


def test_what_a_killed_process_left_is_removed_and_what_is_in_use_is_not(place: Path) -> None:
    killed, alive = (
        subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE, text=True) for _ in range(2)
    )
    folders = []
    for child in (killed, alive):
        assert child.stdout is not None
        folders.append(Path(child.stdout.readline().strip()).parent)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    with scratch_folder() as own:
        assert folders[0].exists()  # young ones are left alone
        assert not list(own.iterdir())
        hour_ago = time.time() - 3600
        for folder in (*folders, own.parent):
            os.utime(folder, (hour_ago, hour_ago))
        sweep_scratch(place)
        assert [folder.exists() for folder in (*folders, own)] == [False, True, True]
    alive.terminate()
    alive.communicate()
    assert list(place.iterdir()) == [folders[1]]
