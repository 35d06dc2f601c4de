"""What a run received from its calls stands in its record: in process, after failures, kills and resumptions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import xarray as xr

import h5ml
from h5ml.compute.module import Block, Call, Module, Wait
from h5ml.compute.registry import Registry
from h5ml.compute.replay import replay_run
from h5ml.schemas.config import Config, horizon
from h5ml.schemas.errors import ComputeFailed
from h5ml.schemas.kinds import OBSERVABLES
from h5ml.schemas.run import Run
from h5ml.store.audit import audit
from h5ml.store.lineage import lineage
from h5ml.store.store import Store
from h5ml.store.transfer import copy
from h5ml.tests.kits.toys import SCALE_ONE, WALK, observables, toys


class Steps(Config):
    """How many calls to make, one after the other."""

    n_steps: int = horizon(3, ge=1, description="How many calls.")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return h5ml.open(tmp_path / "store.h5", make=True)


def caller(function: Callable[..., Any], config: type[Config] = Config) -> Module:
    return Module("caller", "1", config, {}, {"out": OBSERVABLES}, function)


def go(store: Store, module: Module, root: str = "c", **options: Any) -> Run:
    return h5ml.run(store, module, root_key=root, registry=Registry([module, WALK, SCALE_ONE], points=()), **options)


def only(store: Store, module: str = "caller") -> Run:
    (run,) = [run for run in store.runs.values() if run.module == module]
    return run


def one_by_one(config: Any, inputs: Any, context: Any) -> Any:
    """A walk at each step; after each, a block with a state to go on from, so that none is asked for again."""
    done = 0 if context.restart is None else int(context.restart["done"])
    while done < config.n_steps:
        (walk,) = yield Wait([(yield Call("toy_block", {"n_records": 4}, {}, f"walk/{done}", seed=done))])
        if done == 1 and Path("bad").exists():
            raise RuntimeError("in the second step")
        done += 1
        state = xr.Dataset({"done": ((), done)})
        yield Block({"out": observables([float(walk.outputs["best"].load()["value"][0])])}, restart=state)
    return None


def test_a_run_names_the_calls_it_received_and_they_are_not_part_of_its_id(store: Store) -> None:
    run = h5ml.run(store, "toy_orchestrator", root_key="o", registry=toys(), cycles=2)
    assert [call.name for call in run.calls] == sorted(
        [f"cycles/{c:03d}/{n}" for c in range(2) for n in ("scaled", "walk/0", "walk/1")]
    )
    for name, ref in run.received():
        entry = store.entry(f"{ref.key}@{ref.version}")
        assert entry.key.startswith(f"o/{name}/")
        assert entry.digest == ref.digest
    assert all(store.run(call.run).parent == run.id for call in run.calls)
    assert run.model_copy(update={"calls": []}).identity() == run.identity()
    record = {name: value for name, value in run.record().items() if name != "calls"}
    assert Run.model_validate(record).calls == []  # as written before calls were recorded


def test_a_call_that_failed_or_was_not_waited_for_gave_nothing(store: Store) -> None:
    store.write("a", observables([1.0]), OBSERVABLES)

    def function(config: Any, inputs: Any, context: Any) -> Any:
        good = yield Call("toy_block", {}, {}, "good")
        yield Call("toy_block", {}, {}, "unheard", seed=1)
        bad = yield Call("toy_block", {"start": 0.4, "n_records": 8, "fail_at": 8}, {}, "bad")
        yield Wait([good])
        yield Wait([bad])
        raise RuntimeError("after the waits")

    with pytest.raises(ComputeFailed, match="after the waits"):
        go(store, caller(function))
    assert (only(store).status, [call.name for call in only(store).calls]) == ("failed", ["bad", "good"])


def test_calls_made_before_a_restart_state_are_kept_and_a_longer_run_has_those_of_the_shorter(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad").touch()
    module = caller(one_by_one, Steps)
    with pytest.raises(ComputeFailed, match="in the second step"):
        go(store, module)
    Path("bad").unlink()
    assert len(store.marks(only(store).id)) == 1  # what a killed run has, before its end is recorded
    with store.transaction() as transaction:
        transaction.record({"id": only(store).id, "status": "running", "calls": []})  # as after a kill
    run = go(store, module)
    assert run.resumed == 1
    assert [call.name for call in run.calls] == ["walk/0", "walk/1", "walk/2"]
    assert not store.catalogue.marks
    longer = go(store, module, n_steps=5)
    assert longer.continues == run.id
    assert [call.name for call in longer.calls] == [f"walk/{n}" for n in range(5)]
    assert longer.calls[:3] == run.calls
    whole = go(h5ml.open(tmp_path / "whole.h5", make=True), module, n_steps=5)
    assert whole.calls == longer.calls


def test_a_caller_is_replayed_and_the_calls_that_differ_are_named(store: Store) -> None:
    offset = [0.0]

    def drifting(config: Any, inputs: Any, context: Any) -> Any:
        return {"scaled": observables([1.0 + offset[0] * context.seed])}

    def function(config: Any, inputs: Any, context: Any) -> Any:
        handles = []
        for seed in range(3):
            handles.append((yield Call("drifting", {}, {}, f"step/{seed}", seed=seed)))
        ended = yield Wait(handles)
        return {"out": observables([float(handle.outputs["scaled"].load()["value"][0]) for handle in ended])}

    module = caller(function)
    registry = Registry([module, Module("drifting", "1", Config, {}, {"scaled": OBSERVABLES}, drifting)], points=())
    h5ml.run(store, module, root_key="c", registry=registry)
    assert replay_run(store, "c/out", registry=registry).equal
    with store.transaction() as transaction:
        transaction.purge("c/out")
        transaction.purge("c/step/1/scaled")
    assert replay_run(store, "c/out", registry=registry, restore=True).restored == ("c/out@1",)
    offset[0] = 0.5
    found = replay_run(store, "c/out", registry=registry)
    assert found.comparisons["out"].deviations == {"value": 1.0}
    assert found.differing_calls == ["step/1", "step/2"]


def test_a_copied_result_brings_its_calls_and_a_result_taken_over_has_them_too(store: Store, tmp_path: Path) -> None:
    module = caller(one_by_one, Steps)
    run = go(store, module)
    assert go(store, module, "other").reused == "c"
    assert "call walk/2: c/walk/2/best@1" in lineage(store, "other/out").text()
    target = h5ml.open(tmp_path / "target.h5", make=True)
    assert "c/walk/2/series@1" in copy(store, target, ["c/out"]).copied
    assert target.run(run.id).calls == run.calls
    assert audit(target).ok
    one = h5ml.open(tmp_path / "one.h5", make=True)
    copy(store, one, ["c/walk/0/best"])
    assert set(one.runs) == {run.id, run.calls[0].run}  # the record of the caller comes along, its other calls do not
    assert audit(one).findings == []
