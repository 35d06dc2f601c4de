"""Campaigns whose store is in a bucket: workers write their data there themselves, and one process commits."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import h5ml
from h5ml.cli.main import cli
from h5ml.compute.campaign import StepsFailed, run_campaign
from h5ml.compute.registry import Registry
from h5ml.compute.scheduler import Dask
from h5ml.compute.staging import staging_folder
from h5ml.compute.watching import Watcher
from h5ml.schemas.campaign import parse_campaign
from h5ml.schemas.errors import ComputeFailed
from h5ml.store.audit import audit
from h5ml.store.blob import unpack
from h5ml.store.icechunk import IcechunkEngine
from h5ml.store.log import CHUNK
from h5ml.store.store import Store
from h5ml.store.work import STASH_CHUNK
from h5ml.tests.kits.bucket import BULK, WHO, Bucket, bucket, bulky
from h5ml.tests.kits.bucket import ROWS as BULKY_ROWS
from h5ml.tests.kits.campaigns import nothing_to_read
from h5ml.tests.kits.toys import toys

EXAMPLE = Path(__file__).parents[2] / "examples" / "s3"
LOG = "H5ML_TOY_LOG"
ROWS = 4000
"""Records of a block: 32 kB, which is a chunk (less than 512 bytes Icechunk would put into its manifests)."""
WALKS = f"  walk/{{n}}: {{matrix: {{n: [1, 2]}}, compute: toy_block, n_records: 7000, block: {ROWS}, seed: '{{n}}'}}\n"
OTHERS = """\
  sum:     {compute: toy_scale_one, series: "walk/1/series"}
  squares: {compute: toy_map, count: 7}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    with pytest.MonkeyPatch.context() as monkeypatch, bucket(monkeypatch) as found:
        folder = tmp_path_factory.mktemp("log")
        monkeypatch.setenv(LOG, str(folder / "log"))
        monkeypatch.setenv("H5ML_TOY_BAD", str(folder / "bad"))
        yield found


@pytest.fixture(scope="module")
def workers(server: Bucket) -> Iterator[Dask]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv(WHO, "worker")
        with Dask("local:2") as scheduler:
            monkeypatch.setenv(WHO, "committer")
            yield scheduler


@pytest.fixture
def store(server: Bucket, workers: Dask, tmp_path: Path) -> Store:
    server.written.clear()
    Path(os.environ[LOG]).write_text("")
    return h5ml.open(f"s3://bucket/{tmp_path.name}/store", make=True)


def go(store: Store, text: str, **options: Any) -> None:
    run_campaign(store, parse_campaign("store: s.h5\nsteps:\n" + text), nothing_to_read, registry=toys(), **options)
    assert not staging_folder(store).exists()


def same_as_a_file(store: Store, tmp_path: Path, text: str) -> None:
    """The digests are those of an undisturbed run in one process, and an audit finds nothing."""
    file = h5ml.open(tmp_path / "file.h5", make=True)
    go(file, text)
    assert {e.key: e.digest for e in store.entries()} == {e.key: e.digest for e in file.entries()}
    assert {run.status for run in store.runs.values()} == {"done"}
    assert audit(store).findings == []
    assert set(store.catalogue.restarts) == set(file.catalogue.restarts)


def test_workers_write_the_data_and_the_committing_process_writes_none(
    store: Store, server: Bucket, workers: Dask, tmp_path: Path
) -> None:
    go(store, WALKS + OTHERS, scheduler=workers)
    by_worker, by_committer = server.written["worker", "chunks"], server.written["committer", "chunks"]
    assert set(by_committer) <= {CHUNK, STASH_CHUNK}  # the log, and the few bytes of the map
    assert by_worker.count(8 * ROWS) >= 4  # two blocks of two walks
    assert not [folder for who, folder in server.written if who == "worker" and folder != "chunks"]
    assert len({run.environment["worker"]["pid"] for run in store.runs.values() if run.module == "toy_block"}) == 2
    same_as_a_file(store, tmp_path, WALKS + OTHERS)


def test_results_of_maps_are_written_by_workers_and_found_after_a_failure(
    store: Store, server: Bucket, workers: Dask, tmp_path: Path
) -> None:
    """All but one item are kept; a run in one process goes on with them, and appends to what the workers wrote."""
    bad = Path(os.environ["H5ML_TOY_BAD"])
    bad.touch()
    options: dict[str, Any] = {"root_key": "r", "registry": Registry([BULK], points=()), "count": 600, "bad": 577}
    with pytest.raises(ComputeFailed, match="Item 577"):
        h5ml.run(store, BULK, scheduler=workers, **options)
    assert sum(server.written["worker", "chunks"]) > 0.5 * 600 * 8 * BULKY_ROWS
    assert sum(server.written["committer", "chunks"]) < 0.5 * 600 * 8 * BULKY_ROWS
    run_id = next(iter(store.runs))
    kept = dict(store.stashed(run_id, "bulky"))
    assert sorted(kept) == [index for index in range(600) if index != 577]
    for index in (0, 1, 300, 599):
        assert unpack(kept[index]).identical(bulky((index, -1)))
    assert audit(store).findings == []
    bad.unlink()
    Path(os.environ[LOG]).write_text("")
    h5ml.run(store, BULK, **options)
    assert Path(os.environ[LOG]).read_text().splitlines() == ["item 577"]
    file = h5ml.open(tmp_path / "file.h5", make=True)
    h5ml.run(file, BULK, **options)
    assert store.entry("r/sums").digest == file.entry("r/sums").digest
    assert not store.catalogue.stashes
    assert audit(store).findings == []


def test_the_s3_example_runs_through_the_command_line(
    server: Bucket, workers: Dask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(EXAMPLE, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")

    def run(*more: str) -> None:
        done = CliRunner().invoke(cli, ["run", *more])
        assert done.exit_code == 0, done.output
        assert "3 of 3 steps made" in done.output

    run("--scheduler", workers.client.scheduler.address)
    run("--store", "file.h5")
    store, file = h5ml.open("s3://bucket/copper"), h5ml.open("file.h5")
    assert {run.status for run in store.runs.values()} == {"done"}
    assert {e.key: e.digest for e in store.entries()} == {e.key: e.digest for e in file.entries()}
    assert store["md/T=200/trajectory"].sizes["frame"] == 11
    assert not Path("copper-staging").exists()


class Killer(Watcher):
    """Kills a worker once it has committed a block."""

    def __init__(self, workers: Dask) -> None:
        self.running = list(workers.client.run(os.getpid).values())

    def moved(self, key: str, done: float, total: float, text: str) -> None:
        if done >= 8 and len(self.running) == 2:
            Path(os.environ[LOG]).write_text("")
            os.kill(self.running.pop(), signal.SIGKILL)


@pytest.mark.long
def test_a_killed_worker_costs_the_block_that_it_was_in(store: Store, workers: Dask, tmp_path: Path) -> None:
    text = "  walk/{n}: {matrix: {n: [1, 2]}, compute: toy_block, n_records: 16, sleep_s: 0.02, seed: '{n}'}\n"
    killer = Killer(workers)
    go(store, text, scheduler=workers, watcher=killer)
    assert len(killer.running) == 1
    again = Path(os.environ[LOG]).read_text().splitlines()  # after the kill: each block of a walk at most twice
    assert max(again.count(line) for line in again) <= 2
    assert not any(line.startswith("block 1 ") and line.endswith(" 4") for line in again)
    same_as_a_file(store, tmp_path, text)


@pytest.mark.long
def test_a_worker_that_hangs_is_ended_and_named(store: Store, workers: Dask) -> None:
    text = "  walk: {compute: toy_block, n_records: 400, sleep_s: 0.2, time_limit_s: 6}\n"
    with pytest.raises(StepsFailed, match="time limit of 6 s"):
        go(store, text, scheduler=workers)
    assert "walk/series" not in store or store.entry("walk/series").records < 400
    assert audit(store).findings == []


@pytest.mark.long
def test_two_processes_commit_to_one_store_at_once(store: Store, workers: Dask, tmp_path: Path) -> None:
    texts = [WALKS.replace("walk/", f"{name}/").replace("[1, 2]", seeds) for name, seeds in SEEDS]
    others = [threading.Thread(target=go, args=(h5ml.open(store.location), text), kwargs=SERIAL) for text in texts[1:]]
    for thread in others:
        thread.start()
    go(store, texts[0], scheduler=workers)
    for thread in others:
        thread.join()
    same_as_a_file(store, tmp_path, "".join(texts))


SEEDS = (("one", "[1, 2]"), ("two", "[3, 4]"))
SERIAL: dict[str, Any] = {"scheduler": "serial"}


@pytest.mark.long
@pytest.mark.parametrize("blocks", [1, 3, 5])
def test_a_killed_committer_loses_nothing_that_was_committed(
    store: Store, server: Bucket, tmp_path: Path, blocks: int
) -> None:
    """All processes are killed; a rerun goes on, and a compaction leaves no chunk that is not named."""
    text = WALKS.replace(str(ROWS), "500").replace("7000", "4000, sleep_s: 0.001")
    file = tmp_path / "c.yaml"
    file.write_text("store: s.h5\nsteps:\n" + text)
    command = [sys.executable, "-m", "h5ml.tests.kits.campaigns", store.location, str(file), "local:2"]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 120
        while len(Path(os.environ[LOG]).read_text().splitlines()) < 2 * blocks and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    committed = {e.key: e.records for e in store.entries() if e.key.endswith("series")}
    Path(os.environ[LOG]).write_text("")
    go(store, text)
    done = Path(os.environ[LOG]).read_text().splitlines()
    for key, records in committed.items():
        number = key.split("/")[1]
        assert sorted(int(line.split()[-1]) for line in done if line.startswith(f"block {number} ")) == list(
            range(records + 500, 4001, 500)
        )
    same_as_a_file(store, tmp_path, text)
    engine = IcechunkEngine(store.location, grace=timedelta(0))
    engine.compact(lambda reader, writer: None)
    left = server.objects(f"{store.location.removeprefix('s3://bucket/')}/chunks/")
    assert sum(left.values()) == engine._repository().chunk_storage_stats().native_bytes
