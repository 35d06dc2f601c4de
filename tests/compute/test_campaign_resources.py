"""Campaigns that run out of disk or memory: one clear error, the rest goes on, and so does the next run."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import h5ml
from h5ml.compute.campaign import StepsFailed, run_campaign
from h5ml.compute.registry import Registry
from h5ml.compute.scheduler import Dask
from h5ml.compute.staging import staging_folder
from h5ml.schemas.campaign import parse_campaign
from h5ml.schemas.errors import ComputeFailed
from h5ml.schemas.scheduling import LocalPlace
from h5ml.tests.kits.campaigns import nothing_to_read
from h5ml.tests.kits.places import GREEDY
from h5ml.tests.kits.toys import TOYS, toys

from .test_runner_kills import compare

LONG_WALK = """\
store: s.h5
steps:
  walk: {compute: toy_block, n_records: 1200, block: 4}
  squares: {compute: toy_map, count: 3}
"""


def with_full_staging(store: Path, campaign: Path) -> subprocess.CompletedProcess[str]:
    """Run a campaign whose workers stage to a file system of one megabyte that only it sees."""
    folder = f"{store}-staging"
    command = [sys.executable, "-m", "h5ml.tests.kits.campaigns", str(store), str(campaign), "local:1", "keep-going"]
    script = 'mkdir -p "$0" && mount -t tmpfs -o size=1m tmpfs "$0" && exec "$@"'
    inside = ["unshare", "--mount", "--map-root-user", "sh", "-c", script, folder, *command]
    return subprocess.run(inside, capture_output=True, text=True, timeout=120)


def can_mount() -> bool:
    """Whether a file system of one's own can be made here."""
    if shutil.which("unshare") is None:
        return False
    command = ["unshare", "--mount", "--map-root-user", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.long
@pytest.mark.skipif(not can_mount(), reason="needs a user who may mount a file system of his own")
def test_a_full_staging_disk_is_said_and_the_next_run_goes_on(tmp_path: Path) -> None:
    path, campaign = tmp_path / "s.h5", tmp_path / "campaign.yaml"
    campaign.write_text(LONG_WALK)
    done = with_full_staging(path, campaign)
    assert done.returncode == ComputeFailed.exit_code, done.stderr
    assert done.stderr.count("The step walk failed") == 1
    assert "the disk is full; the last commit is intact" in done.stderr
    assert "free some space, then run again" in done.stderr
    store = h5ml.open(path)
    assert {run.module: run.status for run in store.runs.values()} == {"toy_block": "failed", "toy_map": "done"}
    assert 0 < store.entry("walk/series").records < 1200
    run_campaign(store, parse_campaign(LONG_WALK), nothing_to_read, registry=toys())
    whole = h5ml.open(tmp_path / "whole.h5", make=True)
    run_campaign(whole, parse_campaign(LONG_WALK), nothing_to_read, registry=toys())
    compare(store, whole)
    assert not staging_folder(store).exists()


GREED = """\
store: s.h5
steps:
  whole: {compute: toy_greedy}
  items: {compute: toy_greedy, in_map: true}
  other: {compute: toy_map, count: 2}
"""


@pytest.mark.long
def test_a_task_that_takes_all_memory_is_given_up_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark, log = tmp_path / "stuck", tmp_path / "log"
    mark.touch()
    monkeypatch.setenv("H5ML_TOY_STUCK", str(mark))
    monkeypatch.setenv("H5ML_TOY_LOG", str(log))
    store, campaign = h5ml.open(tmp_path / "s.h5", make=True), parse_campaign(GREED)
    registry = Registry([*TOYS, GREEDY], points=())
    with Dask(LocalPlace(workers=2, memory_GB=0.6)) as workers:
        with pytest.raises(StepsFailed) as caught:
            run_campaign(store, campaign, nothing_to_read, registry=registry, scheduler=workers, keep_going=True)
        whole, items, other = caught.value.results
        assert "out of memory" in str(whole.error)
        assert "item 1: 3 workers died" in str(items.error)
        assert other.error is None
        assert set(log.read_text().splitlines()) >= {"greedy 0", "greedy 2", "item 0/2", "item 1/2"}
        mark.unlink()
        done = run_campaign(store, campaign, nothing_to_read, registry=registry, scheduler=workers)
    assert [result.action for result in done] == ["resume", "resume", "none"]
    assert not staging_folder(store).exists()
