"""The runner on dask: the same digests, staging and merging, and nothing committed is lost."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import h5ml
from h5ml.compute.commit import RunTransaction
from h5ml.compute.identity import process
from h5ml.compute.module import Call, Map, Module, Wait
from h5ml.compute.plan import make_plan
from h5ml.compute.runner import plan_run
from h5ml.compute.scheduler import Dask, SchedulerLost
from h5ml.compute.staging import Committer, Task, merge, staging_folder, work
from h5ml.schemas.config import Config
from h5ml.schemas.errors import ComputeFailed
from h5ml.schemas.kinds import OBSERVABLES, TABLE
from h5ml.store.store import Store
from h5ml.tests.kits.toys import SCALE_ONE, WALK, observables, square, table, toys

from .test_runner_kills import CYCLES, child, compare, kill_often, lines, straight, wait_for


@pytest.fixture(scope="module")
def dask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dask]:
    folder = tmp_path_factory.mktemp("dask")
    before = {name: os.environ.get(name) for name in ("H5ML_TOY_LOG", "H5ML_TOY_BAD")}
    os.environ["H5ML_TOY_LOG"] = str(folder / "log")
    os.environ["H5ML_TOY_BAD"] = str(folder / "bad")
    with Dask("local:2") as scheduler:
        yield scheduler
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


@pytest.fixture
def log(dask: Dask) -> Path:
    path = Path(os.environ["H5ML_TOY_LOG"])
    path.write_text("")
    return path


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return h5ml.open(tmp_path / "store.h5", make=True)


def go(store: Store, module: Any, root: str = "r", **options: Any) -> Any:
    return h5ml.run(store, module, root_key=root, registry=toys(), **options)


@pytest.mark.parametrize(
    ("module", "config"), [("toy_map", {"count": 30}), ("toy_orchestrator", {"nested": True}), ("toy_block", {})]
)
def test_dask_gives_the_same_digests(
    store: Store, tmp_path: Path, dask: Dask, module: str, config: dict[str, Any]
) -> None:
    run = go(store, module, scheduler=dask, config=config)
    assert run.status == "done"
    compare(store, straight(tmp_path, module, config))
    assert not staging_folder(store).exists()
    for made in store.runs.values():
        assert made.resumed == 0
        assert made.wall_s > 0


def test_calls_run_on_workers_at_once(store: Store, dask: Dask) -> None:
    config = {"cycles": 1, "n_records": 60, "sleep_s": 0.02}
    run = go(store, "toy_orchestrator", scheduler=dask, config=config)
    walks = [made for made in store.runs.values() if made.module == "toy_block"]
    assert max(made.started for made in walks) < min(str(made.ended) for made in walks)
    assert all(made.wall_s > 1.2 for made in walks)
    assert all(made.environment["worker"]["pid"] != os.getpid() for made in walks)
    assert all(made.parent == run.id for made in walks)


def test_a_failing_item_and_a_failing_call(store: Store, dask: Dask, log: Path) -> None:
    bad = Path(os.environ["H5ML_TOY_BAD"])
    bad.touch()

    def caller(config: Any, inputs: Any, context: Any) -> Any:
        yield Wait([(yield Call("toy_block", {"fail_at": 10}, {}, "call"))])

    module = Module("caller", "1", Config, {}, {}, caller)
    try:
        with pytest.raises(ComputeFailed, match="Item 2 of the map"):
            go(store, "toy_map", "m", scheduler=dask, bad=2)
        with pytest.raises(ComputeFailed, match="the walk broke"):
            go(store, module, "c", scheduler=dask)
    finally:
        bad.unlink()
    assert store.entry("c/call/series").records == 8  # what the worker had committed
    assert {run.status for run in store.runs.values()} == {"failed"}
    log.write_text("")
    go(store, "toy_map", "m", scheduler=dask, bad=2)
    done = go(store, module, "c", scheduler=dask)
    assert log.read_text().splitlines() == ["item 2/6", *(f"block 0 0.300000 {n}" for n in (12, 16, 20))]
    assert done.status == "done"
    plain = go(store, "toy_block", "plain", fail_at=10)
    assert plain.reused == "c/call"


def test_a_killed_worker_is_replaced(store: Store, tmp_path: Path, dask: Dask, log: Path) -> None:
    killed: list[int] = []

    def progress(done: float, total: float, text: str = "") -> None:
        if done >= 5 and not killed:
            killed.extend(dask._client.run(os.getpid).values())
            os.kill(killed[0], signal.SIGKILL)

    config = {"count": 40, "sleep_s": 0.03}
    run = go(store, "toy_map", scheduler=dask, progress=progress, config=config)
    assert killed
    assert run.status == "done"
    assert store["r/squares"]["square"].values.tolist() == [n * n for n in range(40)]


@pytest.mark.long  # a sample of it is in test_campaign_kills
def test_killed_campaigns_on_dask_end_as_unkilled_ones(tmp_path: Path) -> None:
    path = tmp_path / "store.h5"
    h5ml.open(path, make=True).close()
    hits = kill_often(path, "toy_orchestrator", CYCLES, 1, 11, "local:2")
    assert hits
    compare(h5ml.open(path), straight(tmp_path, "toy_orchestrator", CYCLES))
    assert not staging_folder(h5ml.open(path)).exists()


@pytest.mark.long
def test_many_killed_campaigns_on_dask(tmp_path: Path) -> None:
    config = {**CYCLES, "cycles": 6}
    path = tmp_path / "store.h5"
    h5ml.open(path, make=True).close()
    kill_often(path, "toy_orchestrator", config, 20, 12, "local:2")
    compare(h5ml.open(path), straight(tmp_path, "toy_orchestrator", config))
    assert not staging_folder(h5ml.open(path)).exists()


def test_a_signal_keeps_what_the_workers_committed(tmp_path: Path) -> None:
    path = tmp_path / "store.h5"
    h5ml.open(path, make=True).close()
    config = {"cycles": 1, "n_records": 400, "sleep_s": 0.01}
    running = child(path, "toy_orchestrator", "r", config, "local:2")
    wait_for(running, lambda: len(lines(path)) >= 6)
    running.terminate()
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 75, errors
    store = h5ml.open(path)
    assert {run.status for run in store.runs.values()} == {"interrupted"}
    assert sum(store.entry(key).records for key in store if key.endswith("series")) >= 4 * 4
    assert not staging_folder(store).exists()


def test_a_lost_scheduler_is_said_and_keeps_what_was_committed(store: Store, log: Path) -> None:
    from distributed import LocalCluster

    cluster = LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=50)
    closed: list[int] = []

    def progress(done: float, total: float, text: str = "") -> None:
        if done >= 3 and not closed:
            closed.append(1)
            cluster.close()

    try:
        with (
            Dask(cluster.scheduler_address) as remote,
            pytest.raises(SchedulerLost, match="was lost"),
        ):
            go(store, "toy_map", scheduler=remote, config={"count": 30, "sleep_s": 0.05}, progress=progress)
    finally:
        cluster.close()
    (run,) = store.runs.values()
    assert run.status == "failed"
    assert len(dict(store.stashed(run.id, "squares"))) >= 3
    assert go(store, "toy_map", config={"count": 30, "sleep_s": 0.05}).status == "done"


# ----------------------------------------------------------------------------- staging, without dask


def staged(store: Store, module: Any, config: dict[str, Any], **options: Any) -> tuple[Any, Committer, Task]:
    """A run that was begun in the main store by a process that is dead, for a worker to execute."""
    import logging

    plan = plan_run(store, module, root_key="r", config=config, registry=toys(), **options)
    committer = Committer(store, logging.getLogger("h5ml"))
    committer.folder.mkdir(exist_ok=True)
    from h5ml.compute.execution import Execution, Requests, Setting
    from h5ml.compute.standing import look_up

    start = look_up(store, plan)
    Execution(store, plan, start, Setting(), lambda execution: Requests()).begin()  # type: ignore[arg-type]
    with store.transaction() as transaction:
        transaction.record({"id": plan.run_id, "environment": {**process(), "pid": 1, "process_started": "0"}})
    return plan, committer, Task(store, plan, committer.folder)


def test_what_a_killed_campaign_staged_is_merged_before_anything_is_computed(
    store: Store, tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, committer, task = staged(store, "toy_block", {"n_records": 40})
    assert work(task) == ("done", "", "")
    (tmp_path / "store.h5-staging" / f"{plan.run_id}-half.h5").write_bytes(b"")
    log.write_text("")
    run = go(store, "toy_block", n_records=40)
    assert log.read_text() == ""
    assert run.status == "done"
    assert run.environment["worker"]["pid"] == os.getpid()
    compare(store, straight(tmp_path, "toy_block", {"n_records": 40}))
    assert not committer.folder.exists()


def test_a_worker_begins_anew_where_another_died_before_its_first_block_was_merged(
    store: Store, tmp_path: Path
) -> None:
    plan, committer, task = staged(store, "toy_block", {})
    with RunTransaction(store, "what was merged of it") as transaction:
        transaction.replace("r/best", observables([0.1]), OBSERVABLES, run=plan.run_id)
    assert work(task) == ("done", "", "")
    assert committer.merge(plan.run_id) == "done"
    committer.clear(plan.run_id)
    compare(store, straight(tmp_path, "toy_block", {}))


def test_files_that_a_dying_worker_left_are_swept(store: Store) -> None:
    run = go(store, "toy_map", "m")
    folder = staging_folder(store)
    folder.mkdir()
    (folder / f"{run.id}-abc.h5-lock").touch()
    go(store, "toy_map", "m")
    assert not folder.exists()


def test_merging_again_or_an_older_attempt_changes_nothing(store: Store, tmp_path: Path) -> None:
    _, committer, task = staged(store, "toy_block", {"n_records": 20})
    assert work(task)[0] == "done"
    assert work(task)[0] == "done"
    first, second = (h5ml.open(path) for path in committer.files())
    assert merge(store, first) == "done"
    digest = store.entry("r/series").digest
    merge(store, second)
    merge(store, first)
    assert store.entry("r/series").digest == digest
    assert store.entry("r/series").records == 20


def test_a_worker_goes_on_from_what_is_in_the_main_store(store: Store, tmp_path: Path, log: Path) -> None:
    go(store, "toy_block", n_records=20, block=1)
    log.write_text("")
    _, committer, task = staged(store, "toy_block", {"n_records": 50, "block": 1})
    assert work(task)[0] == "done"
    assert len(log.read_text().splitlines()) == 30
    (path,) = committer.files()
    assert h5ml.open(path).entry("r/series").records == 30
    merge(store, h5ml.open(path))
    other = straight(tmp_path, "toy_block", {"n_records": 50, "block": 1})
    for key in other:
        assert store.entry(key).digest == other.entry(key).digest
    assert store.run(task.plan.run_id).continues is not None


def test_a_worker_hands_back_a_run_that_asks_for_others(store: Store) -> None:
    _, _, task = staged(store, "toy_map", {})
    assert work(task) == ("escalate", "", "")


def test_a_worker_stops_when_its_staging_store_is_gone(store: Store) -> None:
    import threading

    _, committer, task = staged(store, "toy_block", {"n_records": 2000, "sleep_s": 0.005})
    outcome: list[tuple[str, str, str]] = []
    thread = threading.Thread(target=lambda: outcome.append(work(task)))
    thread.start()
    while not committer.files():
        time.sleep(0.01)
    time.sleep(0.2)
    committer.clear(task.plan.run_id)
    thread.join(timeout=20)
    assert outcome[0][0] in ("interrupted", "failed")


def test_a_growing_input_shows_as_it_was_planned(store: Store) -> None:
    store.write("a", observables([1.0, 2.0]), OBSERVABLES)
    plan = plan_run(store, SCALE_ONE, root_key="r", series="a")
    store.append("a", observables([3.0]))
    assert plan.load_inputs()["series"]["value"].values.tolist() == [1.0, 2.0]
    assert make_plan(SCALE_ONE, {}, plan.inputs, "r").run_id == plan.run_id


def test_maps_of_kits_are_importable_by_workers() -> None:
    assert square({"index": 3, "count": 4, "bad": -1, "sleep_s": 0})["square"].item() == 9
    assert WALK.outputs(WALK.config())["series"] is OBSERVABLES
    assert isinstance(Map(square, []), Map)
    assert table(x=[1.0]).sizes == {"row": 1}
    assert TABLE.name == "table"
