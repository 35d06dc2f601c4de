"""The SLURM example runs, with stand-ins for sbatch and scancel that really start and end the jobs on this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import h5ml

EXAMPLE = Path(__file__).parents[2] / "examples" / "slurm"
SBATCH = """#!/bin/bash
cp "$1" "$SLURM_STAND_IN/job-$$.sh"
setsid bash "$SLURM_STAND_IN/job-$$.sh" >"$SLURM_STAND_IN/out-$$" 2>&1 &
echo $! >>"$SLURM_STAND_IN/started"
echo "Submitted batch job $!"
"""
SCANCEL = """#!/bin/bash
echo "$1" >>"$SLURM_STAND_IN/cancelled"
kill -- -"$1"
"""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose SLURM is a folder."""
    folder = tmp_path / "slurm"
    (folder / "bin").mkdir(parents=True)
    for name, text in (("sbatch", SBATCH), ("scancel", SCANCEL), ("squeue", "#!/bin/bash\n")):
        path = folder / "bin" / name
        path.write_text(text)
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_STAND_IN", str(folder))
    monkeypatch.delenv("H5ML_STORE", raising=False)
    return folder


def test_the_example_runs_in_jobs_that_are_submitted_and_given_back(cluster: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    shutil.copytree(EXAMPLE, work)
    done = subprocess.run(
        [sys.executable, "-m", "h5ml.cli.main", "run"], cwd=work, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 of 4 steps made" in done.stdout
    store = h5ml.open(work / "copper.h5")
    runs = [run for run in store.runs.values() if run.module == "md"]
    assert {run.status for run in runs} == {"done"}
    assert len(runs) == 3
    assert all(run.environment["worker"]["threads"]["OMP_NUM_THREADS"] == "1" for run in runs)
    started = (cluster / "started").read_text().split()
    assert 1 <= len(started) <= 2  # maximum_jobs
    script = next(cluster.glob("job-*.sh")).read_text()
    for line in ("#SBATCH --cpus-per-task=1", "#SBATCH -t 00:30:00", "--resources threads=1,memory_GB=2"):
        assert line in script
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in started) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(Path(f"/proc/{pid}").exists() for pid in started)


def test_without_slurm_the_missing_command_is_named(tmp_path: Path) -> None:
    work = tmp_path / "work"
    shutil.copytree(EXAMPLE, work)
    path = str(Path(sys.executable).parent)
    done = subprocess.run(
        [sys.executable, "-m", "h5ml.cli.main", "run"],
        cwd=work,
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": path},
    )
    assert done.returncode == 11
    assert "sbatch" in done.stderr
