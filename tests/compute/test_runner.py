"""The runner in process: validation, cache, reuse, extension, failures, versions."""

from __future__ import annotations

import logging
import os
import warnings
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import h5ml
from h5ml.compute.identity import git_commit, is_alive, process
from h5ml.compute.module import Block, Map, Module
from h5ml.compute.registry import Registry
from h5ml.compute.replay import replay_run
from h5ml.schemas.config import Config
from h5ml.schemas.errors import (
    ComputeFailed,
    InvalidConfig,
    InvalidData,
    KeyTaken,
    MissingPackage,
    UnknownKey,
    WrongKind,
)
from h5ml.schemas.kinds import OBSERVABLES, TABLE
from h5ml.schemas.kinds_training import CHECKPOINT, EVALUATION
from h5ml.schemas.run import Run
from h5ml.store.store import Store
from h5ml.tests.kits.toys import SCALE_ONE, WALK, observables, table, toys


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return h5ml.open(tmp_path / "store.h5", make=True)


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "log"
    path.touch()
    monkeypatch.setenv("H5ML_TOY_LOG", str(path))
    return path


@pytest.fixture
def bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "bad"
    path.touch()
    monkeypatch.setenv("H5ML_TOY_BAD", str(path))
    return path


def lines(path: Path) -> list[str]:
    return path.read_text().split("\n")[:-1]


def go(store: Store, module: Any, root: str, **options: Any) -> Run:
    return h5ml.run(store, module, root_key=root, registry=toys(), **options)


def toy(function: Any, writes: Any = None, name: str = "toy") -> Module:
    class Empty(Config):
        """Nothing to set."""

    return Module(name, "1", Empty, {}, writes or {"out": OBSERVABLES}, function)


# ----------------------------------------------------------------------------- validation


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"serie": "a"}, InvalidConfig, "did you mean series"),
        ({"series": "a", "factr": 1.0}, InvalidConfig, "did you mean factor"),
        ({}, InvalidConfig, "needs the input 'series'"),
        ({"series": ["a", "b"]}, InvalidConfig, "takes one key"),
        ({"series": "b"}, UnknownKey, "no such key"),
        ({"series": "t"}, WrongKind, "expected: observables"),
        ({"series": "a", "factor": "much"}, InvalidConfig, "factor"),
        ({"inputs": {"series": "a"}, "config": {"fctor": 1}}, InvalidConfig, "did you mean factor"),
        ({"inputs": {"sries": "a"}}, InvalidConfig, "did you mean series"),
        ({"inputs": {"series": "a"}, "series": "a"}, InvalidConfig, "twice"),
        ({"series": "a", "scheduler": "slurn"}, InvalidConfig, "no such scheduler"),
    ],
)
def test_wrong_requests_are_refused_before_anything_runs(
    store: Store, log: Path, options: dict[str, Any], error: type[Exception], said: str
) -> None:
    store.write("a", observables([1.0, 2.0]), OBSERVABLES)
    store.write("t", table(x=[1.0]), TABLE)
    head = store.root_digest
    with pytest.raises(error, match=said):
        go(store, "toy_scale_one", "r", **options)
    assert store.root_digest == head
    assert lines(log) == []


def test_an_unknown_module_names_the_nearest(store: Store) -> None:
    with pytest.raises(InvalidConfig, match="did you mean toy_map"):
        go(store, "toy_mapp", "r")


def test_what_is_no_potential_is_said_before_anything_runs(store: Store) -> None:
    from h5ml.compute.module import POTENTIAL, One

    module = Module("m", "1", Config, {"model": One(POTENTIAL)}, {"out": OBSERVABLES}, lambda c, i, x: {})
    store.write("model", xr.Dataset({"w": (("n",), [1.0], {"units": "1"})}), CHECKPOINT)
    store.write("data", table(x=[1.0]), TABLE)
    for text, error, said in [
        ("model", InvalidData, "no description that rebuilds it"),
        ("data", WrongKind, "holds no potential"),
        ("modle", UnknownKey, "did you mean model"),
        ("tbite:GFN1-xTB", InvalidConfig, "no such engine"),
    ]:
        with pytest.raises(error, match=said):
            go(store, module, "r", model=text)


def test_a_potential_is_resolved_and_its_fingerprint_recorded(store: Store) -> None:
    from h5ml.compute.module import POTENTIAL, One

    def energy(config: Config, inputs: Any, context: Any) -> dict[str, xr.Dataset]:
        from ase import Atoms

        atoms = Atoms("Ar2", [[0, 0, 0], [0, 0, 3.1]], calculator=inputs["model"].fresh())
        return {"out": observables([atoms.get_potential_energy()])}

    module = Module("m", "1", Config, {"model": One(POTENTIAL)}, {"out": OBSERVABLES}, energy)
    run = go(store, module, "r", model="harmonic:springs?k=2.0")
    assert run.engines["model"]["engine"] == "harmonic"
    assert run.environment["potentials"] == {"model": ["harmonic:springs?k=2.0"]}
    assert go(store, module, "r2", model="harmonic:springs?k=3.0").id != run.id
    again = replay_run(store, "r/out", registry=Registry([module], points=()))
    assert again.equal


def test_outputs_cannot_lie_on_or_below_other_keys(store: Store) -> None:
    store.write("r", table(x=[1.0]), TABLE)
    store.write("q/squares/more", table(x=[1.0]), TABLE)
    for root in ("r", "q"):
        with pytest.raises(KeyTaken):
            go(store, "toy_map", root)
    assert not store.runs


# ----------------------------------------------------------------------------- cache, reuse, versions, extension


def test_the_same_run_is_found_again(store: Store, log: Path) -> None:
    first = go(store, "toy_block", "w")
    made, head = lines(log), store.root_digest
    again = go(store, "toy_block", "w")
    assert again == first
    assert (lines(log), store.root_digest) == (made, head)
    assert first.status == "done"
    assert first.outputs["series"].digest == store.entry("w/series").digest
    assert first.wall_s > 0
    assert first.environment["packages"]["numpy"] == np.__version__
    assert first.environment["pid"]


def test_a_result_is_taken_over_from_elsewhere(store: Store, log: Path) -> None:
    first = go(store, "toy_block", "w")
    made = lines(log)
    copy = go(store, "toy_block", "elsewhere/w")
    assert lines(log) == made
    assert (copy.reused, copy.root_key, copy.id) == ("w", "elsewhere/w", first.id)
    assert store.entry("elsewhere/w/series").digest == store.entry("w/series").digest
    assert store.entry("elsewhere/w/series").origin == {"reused": "w/series@1"}
    assert store.run(first.id).root_key == "w"
    assert go(store, "toy_block", "elsewhere/w") == copy
    extended = go(store, "toy_block", "elsewhere/w", n_records=40)
    assert extended.continues == first.id
    assert store.restart(first.id) is not None  # w can still be extended
    assert go(store, "toy_block", "w", n_records=40).reused == "elsewhere/w"
    assert store.entry("elsewhere/w/series").digest == store.entry("w/series").digest


def test_a_moved_result_is_still_a_result(store: Store, log: Path) -> None:
    go(store, "toy_map", "w")
    with store.transaction() as transaction:
        transaction.move("w", "v")
    made = lines(log)
    assert go(store, "toy_map", "v").outputs["squares"].key == "v/squares"
    assert go(store, "toy_map", "w").reused == "v"
    assert lines(log) == made


def test_a_taken_key_is_refused_unless_a_new_version_is_asked_for(store: Store) -> None:
    first = go(store, "toy_map", "m")
    with pytest.raises(KeyTaken, match="count = 6, now 7"):
        go(store, "toy_map", "m", count=7)
    second = go(store, "toy_map", "m", count=7, new_version=True)
    assert store.entry("m/squares").version == 2
    assert second.outputs["squares"].version == 2
    assert store.entry("m/squares@1").digest == first.outputs["squares"].digest
    with pytest.raises(KeyTaken):
        go(store, "toy_map", "m")
    third = go(store, "toy_map", "m", new_version=True)
    assert (third.reused, third.outputs["squares"].version) == ("m", 3)
    assert store.entry("m/squares@3").digest == first.outputs["squares"].digest


@pytest.mark.parametrize("steps", [(8, 20), (9, 10, 23), (4, 8, 30)])
def test_an_extended_run_equals_a_straight_one(store: Store, tmp_path: Path, log: Path, steps: tuple[int, ...]) -> None:
    straight = h5ml.open(tmp_path / "straight.h5", make=True)
    go(straight, "toy_block", "w", n_records=steps[-1], block=1)
    log.write_text("")
    runs = [go(store, "toy_block", "w", n_records=n, block=1) for n in steps]
    assert [run.continues for run in runs] == [None, *(run.id for run in runs[:-1])]
    assert len({run.prefix_id for run in runs}) == 1
    assert len({run.id for run in runs}) == len(runs)
    assert len(lines(log)) == steps[-1]
    for key in ("w/series", "w/best"):
        assert store.entry(key).digest == straight.entry(key).digest
    assert store.entry("w/series").run == runs[-1].id
    with pytest.raises(KeyTaken, match="longer run"):
        go(store, "toy_block", "w", n_records=steps[0], block=1)
    assert go(store, "toy_block", "w", n_records=steps[-1], block=1).id == runs[-1].id


def test_runs_of_one_prefix_at_two_roots_keep_their_own_restart_states(store: Store) -> None:
    go(store, "toy_block", "a", n_records=8)
    go(store, "toy_block", "b", n_records=16)
    go(store, "toy_block", "a", n_records=24)
    go(store, "toy_block", "b", n_records=32)
    straight = store["b/series"]["value"].values
    assert np.array_equal(store["a/series"]["value"].values, straight[:24])


def test_a_finished_run_with_a_removed_part_is_not_thrown_away(store: Store) -> None:
    go(store, "toy_block", "w")
    with store.transaction() as transaction:
        transaction.remove("w/best")
    with pytest.raises(KeyTaken, match="a part of its outputs is gone"):
        go(store, "toy_block", "w")
    assert go(store, "toy_block", "w", new_version=True).status == "done"


# ----------------------------------------------------------------------------- failures


def test_a_failed_run_is_kept_and_goes_on_from_its_restart_state(store: Store, log: Path, bad: Path) -> None:
    with pytest.raises(ComputeFailed, match="the walk broke"):
        go(store, "toy_block", "w", fail_at=10)
    (run,) = store.runs.values()
    assert run.status == "failed"
    assert "the walk broke" in (run.error or "")
    assert store.entry("w/series").records == 8
    bad.unlink()
    done = go(store, "toy_block", "w", fail_at=10)
    assert (done.status, done.resumed, done.error) == ("done", 1, None)
    assert lines(log) == [f"block 0 0.300000 {n}" for n in (4, 8, 12, 16, 20)]
    straight = go(store, "toy_block", "v")
    assert straight.outputs["series"].digest == done.outputs["series"].digest


def test_blocks_without_restart_state_start_over(store: Store, log: Path, bad: Path) -> None:
    with pytest.raises(ComputeFailed):
        go(store, "toy_block", "w", fail_at=10, restartable=False)
    bad.unlink()
    go(store, "toy_block", "w", fail_at=10, restartable=False)
    assert lines(log) == [f"block 0 0.300000 {n}" for n in (4, 8, 4, 8, 12, 16, 20)]
    assert store.entry("w/series").records == 20


def test_a_failing_item_is_named_and_the_others_are_kept(store: Store, log: Path, bad: Path) -> None:
    with pytest.raises(ComputeFailed, match="Item 2 of the map 'squares' failed"):
        go(store, "toy_map", "m", bad=2)
    assert lines(log).count("item 2/6") == 2  # tried twice
    assert len(dict(store.stashed(next(iter(store.runs)), "squares"))) == 5
    bad.unlink()
    log.write_text("")
    run = go(store, "toy_map", "m", bad=2)
    assert lines(log) == ["item 2/6"]
    assert store["m/squares"]["square"].values.tolist() == [0, 1, 4, 9, 16, 25]
    assert not dict(store.stashed(run.id, "squares"))


def test_what_a_module_does_wrong_is_said(store: Store) -> None:
    def undeclared(config: Any, inputs: Any, context: Any) -> Any:
        return {"oout": observables([1.0])}

    def missing(config: Any, inputs: Any, context: Any) -> Any:
        return {}

    def misfit(config: Any, inputs: Any, context: Any) -> Any:
        return {"out": xr.Dataset({"x": (("record",), [1j])})}

    def whole(config: Any, inputs: Any, context: Any) -> Any:
        yield Block({"out": EVALUATION.dataset({})})

    def nonsense(config: Any, inputs: Any, context: Any) -> Any:
        yield 1

    def twice(config: Any, inputs: Any, context: Any) -> Any:
        yield Map(observables, [[1.0]])
        yield Map(observables, [[1.0]])

    for number, (function, kind, error, said) in enumerate(
        [
            (undeclared, OBSERVABLES, ComputeFailed, "did you mean out"),
            (missing, OBSERVABLES, ComputeFailed, "without out"),
            (misfit, OBSERVABLES, InvalidData, "type that not every tool reads"),
            (whole, EVALUATION, ComputeFailed, "does not grow"),
            (nonsense, OBSERVABLES, ComputeFailed, "no request"),
            (twice, OBSERVABLES, ComputeFailed, "same name"),
        ]
    ):
        with pytest.raises(error, match=said):
            go(store, toy(function, {"out": kind}, f"toy{number}"), f"r{number}")
    assert {run.status for run in store.runs.values()} == {"failed"}
    assert len(store.runs) == 6


def test_a_live_run_is_not_run_twice(store: Store, log: Path) -> None:
    import threading

    seen: list[Exception] = []

    def inside(config: Any, inputs: Any, context: Any) -> Any:
        def other() -> None:
            try:
                go(store, module, "r")
            except ComputeFailed as error:
                seen.append(error)

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        return {"out": observables([1.0])}

    module = toy(inside)
    go(store, module, "r")
    assert "is being computed by a process that is alive" in str(seen[0])


def test_two_that_begin_at_the_same_instant_do_not_both_go_on(store: Store) -> None:
    from h5ml.compute.execution import Execution, Requests, Setting
    from h5ml.compute.identity import process_start
    from h5ml.compute.runner import plan_run
    from h5ml.compute.standing import Start, look_up

    plan = plan_run(store, WALK, root_key="w")
    start = look_up(store, plan)
    assert isinstance(start, Start)
    slow, quick = (Execution(store, plan, start, Setting(), lambda execution: Requests()) for _ in range(2))
    quick.begin()
    other = {**process(), "pid": os.getppid(), "process_started": process_start(os.getppid())}
    with store.transaction() as transaction:
        transaction.record({"id": plan.run_id, "environment": other})
    with pytest.raises(ComputeFailed, match=f"process {os.getppid()} of"):
        slow.run()
    assert store.run(plan.run_id).status == "running"


def test_aliveness_knows_a_process_number_that_was_given_to_another() -> None:
    run = Run(id="a", prefix_id="a", module="m", module_version="1", root_key="r", config={}, environment=process())
    assert not is_alive(run)  # this very thread cannot be at it
    assert not is_alive(run.model_copy(update={"environment": {**process(), "pid": 1, "process_started": "7"}}))
    assert not is_alive(run.model_copy(update={"environment": {**process(), "host": "elsewhere"}}))


def test_the_commit_of_a_checkout_is_read_without_git(tmp_path: Path) -> None:
    home = tmp_path / ".git"
    (home / "refs/heads").mkdir(parents=True)
    assert git_commit(tmp_path) is None
    (home / "HEAD").write_text("ref: refs/heads/main\n")
    (home / "packed-refs").write_text("# pack\nabc refs/heads/main\n")
    assert git_commit(tmp_path) == "abc"
    (home / "refs/heads/main").write_text("def\n")
    assert git_commit(tmp_path) == "def"


# ----------------------------------------------------------------------------- calls


def test_calls_are_real_runs_below_the_root(store: Store, log: Path) -> None:
    run = go(store, "toy_orchestrator", "o", nested=True)
    child = store.run(store.entry("o/cycles/000/walk/0/series").run or "")
    assert (child.module, child.parent, child.root_key) == ("toy_block", run.id, "o/cycles/000/walk/0")
    scaled = store.run(store.entry("o/cycles/000/scaled/scaled").run or "")
    assert scaled.inputs["series"][0].key == "o/cycles/000/walk/0/series"
    assert store.marks(run.id) == {}
    log.write_text("")
    with store.transaction() as transaction:
        transaction.remove("o/summary")
    again = go(store, "toy_orchestrator", "o", nested=True)
    assert again.outputs["summary"].digest == run.outputs["summary"].digest
    assert all(line.startswith("halve") for line in lines(log))  # every call came back by its run id


def test_an_input_is_passed_on_to_a_call(store: Store) -> None:
    store.write("a", observables([1.0, 2.0]), OBSERVABLES)
    go(store, "toy_forward", "f", series="a")
    assert store["f/copy"]["value"].values.tolist() == [3.0, 6.0]
    assert store.run(store.entry("f/call/scaled").run or "").inputs["series"][0].key == "a"


def test_a_failing_call_fails_its_caller_and_says_so(store: Store) -> None:
    from h5ml.compute.module import Call, InputRef, One, Wait

    caught: list[str] = []

    def caller(config: Any, inputs: Any, context: Any) -> Any:
        options = {"fail": True}
        handle = yield Call("toy_scale_one", options, {"series": InputRef("series")}, "call")
        try:
            yield Wait([handle])
        except ComputeFailed as error:
            caught.append(str(error))
            raise

    module = Module("caller", "1", Config, {"series": One(OBSERVABLES)}, {"out": OBSERVABLES}, caller)
    store.write("a", observables([1.0]), OBSERVABLES)
    with pytest.raises(ComputeFailed, match="The call 'call' of toy_scale_one failed"):
        go(store, module, "c", series="a")
    assert caught
    assert {run.status for run in store.runs.values()} == {"failed"}


def test_two_calls_of_one_run_are_computed_once(store: Store, log: Path) -> None:
    from h5ml.compute.module import Call, Wait

    def caller(config: Any, inputs: Any, context: Any) -> Any:
        a = yield Call("toy_block", {}, {}, "a")
        b = yield Call("toy_block", {}, {}, "b")
        done = yield Wait([a, b])
        return {"out": observables([float(d.outputs["series"].load()["value"][-1]) for d in done])}

    go(store, toy(caller), "c")
    assert len(lines(log)) == 5
    assert store.entry("c/a/series").digest == store.entry("c/b/series").digest


def test_progress_hears_of_records_and_items(store: Store) -> None:
    heard: list[tuple[float, float, str]] = []
    go(store, "toy_block", "w", progress=lambda done, total, text="": heard.append((done, total, text)))
    go(store, "toy_map", "m", progress=lambda done, total, text="": heard.append((done, total, text)))
    assert (20, 20, "records") in heard
    assert (6, 6, "squares") in heard


# ----------------------------------------------------------------------------- registry, replay


def test_a_broken_plug_in_warns_and_breaks_nothing(store: Store) -> None:
    points = [
        EntryPoint("broken", "h5ml.tests.kits.nowhere:MODULE", "h5ml.modules"),
        EntryPoint("wrong", "h5ml.tests.kits.toys:note", "h5ml.modules"),
        EntryPoint("toy_block", "h5ml.tests.kits.toys:WALK", "h5ml.modules"),
    ]
    registry = Registry([SCALE_ONE], points)
    with pytest.warns(UserWarning, match="could not be loaded"):
        assert sorted(registry) == ["toy_block", "toy_scale_one"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it warns once
        assert registry.named("toy_block") is WALK
        with pytest.raises(MissingPackage, match="nowhere"):
            registry.named("broken")


def test_the_built_in_module_comes_in_by_the_same_door() -> None:
    assert Registry().named("md").name == "md"


def test_replay_compares_and_restores(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    go(store, "toy_block", "w")
    run = go(store, "toy_block", "w", n_records=30)
    store.write("a", observables([1.0]), OBSERVABLES)
    assert replay_run(store, "w/series", registry=toys()).equal
    with store.transaction() as transaction:
        transaction.purge("w/series")
    result = replay_run(store, "w/series", registry=toys(), restore=True)
    assert result.equal
    assert result.restored == ("w/series@1",)
    assert store["w/series"].sizes["record"] == 30
    assert store.entry("w/series").digest == run.outputs["series"].digest
    with pytest.raises(UnknownKey, match="no finished run"):
        replay_run(store, "a", registry=toys())


def test_replay_says_by_how_much_a_result_differs(store: Store) -> None:
    offsets = [0.0, 0.25]

    def drifting(config: Any, inputs: Any, context: Any) -> Any:
        return {"out": observables([1.0, 2.0 + offsets[0]])}

    module = toy(drifting)
    go(store, module, "d")
    offsets.reverse()
    result = replay_run(store, "d/out", registry=Registry([module], points=()))
    assert not result.equal
    assert result.comparisons["out"].deviations == {"value": 0.25}
    assert (result.comparisons["out"].within(0.25), result.comparisons["out"].within(0.2)) == (True, False)


def test_replay_names_the_attributes_and_forms_that_differ(store: Store) -> None:
    made = [observables([1.0, 2.0]).assign_attrs(method="one"), observables([1.0, 2.0]).assign_attrs(method="two")]
    made[1]["value"].attrs["units"] = "eV"
    made[1]["value"] = made[1]["value"].astype("float32")

    def drifting(config: Any, inputs: Any, context: Any) -> Any:
        return {"out": made[0]}

    module = toy(drifting)
    go(store, module, "d")
    made.reverse()
    (found,) = replay_run(store, "d/out", registry=Registry([module], points=())).comparisons.values()
    assert found.deviations == {}
    assert not found.within(1.0)
    assert found.text() == (
        "attribute method was 'one', is 'two'; attribute units of value was '1', is 'eV'; "
        "dtype of value was float64, is float32"
    )


def test_replay_reads_an_input_as_it_was(store: Store) -> None:
    store.write("a", observables([1.0, 2.0]), OBSERVABLES)
    go(store, "toy_scale_one", "s", series="a")
    store.append("a", observables([3.0]))
    assert replay_run(store, "s/scaled", registry=toys()).equal


# ----------------------------------------------------------------------------- what ended first


def test_what_ended_first_is_replayed(store: Store, bad: Path) -> None:
    from h5ml.compute.module import Call, Wait

    told: list[str] = []

    def caller(config: Any, inputs: Any, context: Any) -> Any:
        handles = []
        for k in range(3):
            handles.append((yield Call("toy_block", {}, {}, f"walk/{k}", seed=k)))
        while handles:
            (first,) = yield Wait(handles, first=True)
            told.append(first.name)
            handles = [handle for handle in handles if handle.run_id != first.run_id]
        if bad.exists():
            raise RuntimeError("after the waits")
        return {"out": observables([1.0])}

    module = toy(caller)
    with pytest.raises(ComputeFailed, match="after the waits"):
        go(store, module, "c")
    assert told == ["walk/0", "walk/1", "walk/2"]
    (run,) = [run for run in store.runs.values() if run.module == "toy"]
    marks = store.marks(run.id)
    assert sorted(marks) == ["wait:0", "wait:1", "wait:2"]
    ids = {name: store.entry(f"c/{name}/series").run for name in told}
    order = ["walk/2", "walk/0", "walk/1"]  # as if another had ended first
    with store.transaction() as transaction:
        for number, name in enumerate(order):
            transaction.mark(run.id, f"wait:{number}", [name, ids[name]])
    bad.unlink()
    told.clear()
    go(store, module, "c")
    assert told == order


def test_a_wait_for_what_never_was_is_refused(store: Store) -> None:
    from h5ml.compute.module import Handle, Wait

    def caller(config: Any, inputs: Any, context: Any) -> Any:
        yield Wait([Handle("nowhere", "0")])

    with pytest.raises(ComputeFailed, match="comes from no call"):
        go(store, toy(caller), "c")


def test_a_run_that_calls_itself_is_refused(store: Store) -> None:
    from h5ml.compute.module import Call

    def caller(config: Any, inputs: Any, context: Any) -> Any:
        yield Call("toy", {}, {}, "again")

    module = toy(caller)
    with pytest.raises(ComputeFailed, match="calls itself"):
        h5ml.run(store, module, root_key="c", registry=Registry([module], points=()))


def test_an_icechunk_store_holds_the_same(store: Store, tmp_path: Path) -> None:
    other = h5ml.open(tmp_path / "store.icechunk", make=True)
    for place in (store, other):
        go(place, "toy_block", "w", n_records=8)
        go(place, "toy_block", "w")
        go(place, "toy_orchestrator", "o", cycles=1)
    assert {key: store.entry(key).digest for key in store} == {key: other.entry(key).digest for key in other}
