"""Campaigns in order: what is missing or stale is made, the rest is left alone, and errors come first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import xarray as xr

import h5ml
from h5ml.compute.campaign import StepsFailed, run_campaign
from h5ml.compute.foresight import StepResult
from h5ml.compute.module import Module
from h5ml.compute.registry import Registry
from h5ml.compute.watching import Watcher
from h5ml.schemas.campaign import ImportStep, load_campaign
from h5ml.schemas.errors import ComputeFailed, H5mlError, InvalidConfig, UnknownKey, WrongKind
from h5ml.store.store import Store
from h5ml.tests.kits.toys import SCALE_ONE, TOYS, observables, toys

TEXT = """\
store: s.h5
steps:
  late/sum:  {compute: toy_scale_one, series: walks/a/series, factor: 3.0}
  walks/a:   {compute: toy_block, n_records: 8}
  data/a:    {import: a.txt, kind: observables}
  scaled/a:  {compute: toy_scale_one, series: data/a, factor: 2.0}
"""


class Place:
    """A folder with a campaign, its store and a file to import."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "a.txt").write_text("1 2 3")
        self.store: Store = h5ml.open(folder / "s.h5", make=True)
        self.read: list[str] = []

    def reader(self, path: Path, step: ImportStep) -> xr.Dataset:
        self.read.append(path.name)
        return observables([float(word) for word in path.read_text().split()])

    def __call__(self, text: str = TEXT, **options: Any) -> list[StepResult]:
        (self.folder / "h5ml.yaml").write_text(text)
        campaign = load_campaign(self.folder / "h5ml.yaml")
        return run_campaign(self.store, campaign, self.reader, **{"registry": toys(), **options})


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def said(results: list[StepResult]) -> dict[str, tuple[str, str]]:
    return {result.key: (result.action, result.reason) for result in results}


def test_steps_are_made_in_the_order_of_their_keys(place: Place) -> None:
    assert [(r.key, r.action, r.reason) for r in place()] == [
        ("walks/a", "compute", "missing"),
        ("late/sum", "compute", "missing"),
        ("data/a", "import", "missing"),
        ("scaled/a", "compute", "missing"),
    ]
    assert place.store["scaled/a/scaled"]["value"].values.tolist() == [2.0, 4.0, 6.0]
    head = place.store.root_digest
    assert {action for action, _ in said(place()).values()} == {"none"}
    assert place.store.root_digest == head
    assert place.read == ["a.txt"]


def test_what_is_stale_is_made_anew_and_the_old_kept(place: Place) -> None:
    place()
    (place.folder / "a.txt").write_text("5 6")
    changed = TEXT.replace("n_records: 8", "n_records: 12").replace("factor: 3.0", "factor: 4.0")
    results = said(place(changed))
    assert results["data/a"] == ("import", "stale: a.txt changed")
    assert results["scaled/a"] == ("compute", "stale: the input series changed")
    assert results["walks/a"][0] == "extend"
    assert results["late/sum"] == ("compute", "stale: factor = 3.0, now 4.0; the input series changed")
    assert place.store["scaled/a/scaled"]["value"].values.tolist() == [10.0, 12.0]
    assert place.store["scaled/a/scaled@1"]["value"].values.tolist() == [2.0, 4.0, 6.0]
    assert {action for action, _ in said(place(changed)).values()} == {"none"}
    assert said(place(TEXT.replace("n_records: 8", "n_records: 12")))["late/sum"][0] == "compute"


class Heard(Watcher):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def began(self, result: StepResult) -> None:
        self.events.append(("began", result.key))

    def ended(self, result: StepResult) -> None:
        self.events.append(("failed" if result.error else result.action, result.key))

    def moved(self, key: str, done: float, total: float, text: str) -> None:
        self.events.append(("moved", key))


def test_a_dry_run_changes_nothing_and_tells_the_plan(place: Place) -> None:
    head = place.store.root_digest
    heard = Heard()
    results = place(dry_run=True, watcher=heard)
    assert said(results)["late/sum"] == ("compute", "missing; waits for walks/a")
    assert said(results)["walks/a"] == ("compute", "missing")
    assert place.store.root_digest == head
    assert len(heard.events) == 4
    place()
    changed = said(place(TEXT.replace("n_records: 8", "n_records: 12"), dry_run=True))
    assert changed["late/sum"] == ("compute", "stale: what walks/a makes is new")


def test_a_failed_step_is_made_again_where_it_stopped(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = tmp_path / "bad"
    bad.touch()
    monkeypatch.setenv("H5ML_TOY_BAD", str(bad))
    text = TEXT.replace("n_records: 8", "n_records: 12, fail_at: 10")
    with pytest.raises(ComputeFailed, match="the walk broke"):
        place(text)
    bad.unlink()
    results = place(text)
    assert results[0].action == "resume"
    assert results[0].reason.startswith("failed before: The module toy_block failed: RuntimeError: the walk broke")
    assert results[0].run is not None
    assert results[0].run.resumed == 1


@pytest.mark.parametrize("scheduler", [None, pytest.param("local:2", marks=pytest.mark.long)])
def test_after_a_failure_what_does_not_need_it_is_made_if_asked(
    place: Place, monkeypatch: pytest.MonkeyPatch, scheduler: str | None
) -> None:
    bad = place.folder / "bad"
    bad.touch()
    monkeypatch.setenv("H5ML_TOY_BAD", str(bad))
    text = TEXT.replace("n_records: 8", "n_records: 12, fail_at: 10, retries: 1")
    if scheduler is None:
        with pytest.raises(StepsFailed):
            place(text)
        assert "data/a" not in place.store
    heard = Heard()
    with pytest.raises(StepsFailed) as caught:
        place(text, keep_going=True, watcher=heard, scheduler=scheduler)
    states = {r.key: (r.action, r.error is not None) for r in caught.value.results}
    assert states == {
        "walks/a": ("resume" if scheduler is None else "compute", True),
        "late/sum": ("skip", False),
        "data/a": ("import", False),
        "scaled/a": ("compute", False),
    }
    assert ("failed", "walks/a") in heard.events
    assert "RuntimeError: the walk broke" in caught.value.results[0].trace or scheduler is None
    assert place.store["scaled/a/scaled"]["value"].values.tolist() == [2.0, 4.0, 6.0]
    assert place.store.run(next(iter(place.store.runs))).resumed >= 1  # tried again, as its retries allow
    bad.unlink()
    assert said(place(text))["late/sum"] == ("compute", "missing")


def test_up_to_a_key_and_from_a_key(place: Place) -> None:
    assert [r.key for r in place(until="scaled/a/scaled")] == ["data/a", "scaled/a"]
    assert [r.key for r in place(start="data/a")] == ["data/a", "scaled/a"]
    assert [r.key for r in place(start="walks/a", until="late/*")] == ["walks/a", "late/sum"]
    empty = h5ml.open(place.folder / "empty.h5", make=True)
    with pytest.raises(UnknownKey, match="walks/a/series"):  # nothing made it, and it is not asked for
        run_campaign(empty, load_campaign(place.folder / "h5ml.yaml"), place.reader, registry=toys(), only="late/sum")


def test_force_computes_again_and_compares(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    log = place.folder / "log"
    monkeypatch.setenv("H5ML_TOY_LOG", str(log))
    place()
    head, once = place.store.root_digest, log.read_text()
    results = place(force=True)
    assert said(results)["walks/a"][0] == "check"
    assert place.store.root_digest == head
    assert sorted(log.read_text().splitlines()) == sorted(2 * once.splitlines())
    lying = Module("toy_scale_one", "1", SCALE_ONE.config, SCALE_ONE.reads, SCALE_ONE.writes, other_scale)
    with pytest.raises(StepsFailed, match="gives other data"):
        place(force=True, only="scaled/a", registry=Registry([*TOYS, lying], points=()))
    assert place.store.root_digest == head


def other_scale(config: Any, inputs: Any, context: Any) -> dict[str, xr.Dataset]:
    return {"scaled": observables([0.0, 1.0, 2.0])}


MATRIX = """\
store: s.h5
steps:
  walks/{name}/seed={seed:02d}:
    matrix: {name: [a, b], seed: [1, 2]}
    compute: toy_block
    n_records: 4
    seed: "{seed}"
  sums/{name}:
    matrix: {name: [a, b]}
    compute: toy_scale
    series: walks/{name}/seed=01/series
    others: walks/{name}/seed=*/series
  all:
    compute: toy_scale
    series: sums/a/scaled
    others: "sums/*/scaled"
"""


def test_a_matrix_makes_a_step_for_each_point_and_patterns_read_them_all(place: Place) -> None:
    assert [r.key for r in place(MATRIX)] == [
        "walks/a/seed=01",
        "walks/a/seed=02",
        "walks/b/seed=01",
        "walks/b/seed=02",
        "sums/a",
        "sums/b",
        "all",
    ]
    run = place.store.run(place.store.entry("all/scaled").run or "")
    assert [ref.key for ref in run.inputs["others"]] == ["sums/a/scaled", "sums/b/scaled"]
    assert {run.seed for run in place.store.runs.values() if run.module == "toy_block"} == {1, 2}
    more = MATRIX.replace("[1, 2]", "[1, 2, 3]")
    results = said(place(more))
    assert [key for key, (action, _) in results.items() if action == "none"] == [
        "walks/a/seed=01",
        "walks/a/seed=02",
        "walks/b/seed=01",
        "walks/b/seed=02",
    ]
    assert results["sums/a"][1] == "stale: the input others changed"


def test_steps_that_make_the_same_key_are_refused(place: Place) -> None:
    for extra in (
        "  scaled:  {compute: toy_scale_one, series: data/a}\n  scaled/scaled: {import: a.txt}\n",
        "  data/a/b: {compute: toy_block}\n",
    ):
        with pytest.raises(InvalidConfig, match=r"h5ml\.yaml:[78]"):
            place(TEXT + extra)


def test_one_step_alone(place: Place) -> None:
    assert [result.key for result in place(only="walks/a")] == ["walks/a"]


@pytest.mark.parametrize(
    ("old", "new", "error", "line", "message"),
    [
        ("toy_block", "toy_blok", InvalidConfig, 4, "did you mean toy_block"),
        ("n_records: 8", "n_record: 8", InvalidConfig, 4, "did you mean n_records"),
        ("n_records: 8", "n_records: 0", InvalidConfig, 4, "greater than or equal to 1"),
        ("series: data/a", "series: data/b", UnknownKey, 6, "did you mean data/a"),
        ("walks/a/series", "walks/a/serie", UnknownKey, 3, "did you mean walks/a/series"),
        ("series: data/a, ", "", InvalidConfig, 6, "needs the input"),
        ("walks/a/series", "scaled/m/squares", WrongKind, 3, "wrong kind"),
        ("series: data/a", "series: late/sum/scaled", None, 0, ""),
        ("walks/a/series", "late/sum/scaled", InvalidConfig, 3, "wait for each other"),
        ("kind: observables", "kind: observable", WrongKind, 5, "did you mean observables"),
    ],
)
def test_errors_come_before_anything_runs(
    place: Place, old: str, new: str, error: type[H5mlError] | None, line: int, message: str
) -> None:
    text = TEXT.replace(old, new) + "  scaled/m:  {compute: toy_map, count: 2}\n"
    if error is None:
        assert place(text)[-1].action == "compute"
        return
    head = place.store.root_digest
    with pytest.raises(error) as caught:
        place(text)
    assert f"h5ml.yaml:{line}" in str(caught.value)
    assert message in str(caught.value)
    assert place.store.root_digest == head
    assert place.read == []


@pytest.mark.parametrize(
    ("model", "filter_text", "line", "message"),
    [
        ("ase:emtt", "", 7, "did you mean emt"),
        ("ase", "", 7, "written engine:method, such as ase:METHOD"),
        ("aze:emt", "", 7, "did you mean ase"),
        ("ase:emt", "    finite_subsystem_filter:\n      n_molecule: [2]\n", 9, "did you mean n_molecules"),
    ],
)
def test_a_wrong_model_or_nested_setting_is_said_with_its_line(
    place: Place, model: str, filter_text: str, line: int, message: str
) -> None:
    text = f"""\
store: s.h5
steps:
  data/a: {{import: a.txt, kind: structures}}
  md:
    compute: md
    crystal: data/a
    model: {model}
{filter_text}"""
    with pytest.raises(H5mlError) as caught:
        place(text, registry=Registry())
    assert f"h5ml.yaml:{line}" in str(caught.value)
    assert message in str(caught.value)
    assert place.read == []


def test_a_missing_file_is_named_with_its_line(place: Place) -> None:
    with pytest.raises(InvalidConfig, match=r"h5ml\.yaml:5"):
        place(TEXT.replace("a.txt", "b.txt"))
