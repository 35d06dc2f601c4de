"""Campaigns in order: what is missing or stale is made, the rest is left alone, and errors come first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import xarray as xr

import h5ml
from h5ml.compute.campaign import StepResult, run_campaign
from h5ml.schemas.campaign import ImportStep, load_campaign
from h5ml.schemas.errors import ComputeFailed, H5mlError, InvalidConfig, UnknownKey, WrongKind
from h5ml.store.store import Store
from h5ml.tests.kits.toys import observables, toys

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
        return run_campaign(self.store, campaign, self.reader, registry=toys(), **options)


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


def test_a_dry_run_changes_nothing_and_tells_the_plan(place: Place) -> None:
    head = place.store.root_digest
    heard: list[str] = []
    results = place(dry_run=True, report=lambda result, done: heard.append(result.key))
    assert said(results)["late/sum"] == ("compute", "waits for walks/a")
    assert said(results)["walks/a"] == ("compute", "missing")
    assert place.store.root_digest == head
    assert len(heard) == 4


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
    assert (results[0].action, results[0].reason) == ("resume", "failed before")
    assert results[0].run is not None
    assert results[0].run.resumed == 1


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


def test_a_missing_file_is_named_with_its_line(place: Place) -> None:
    with pytest.raises(InvalidConfig, match=r"h5ml\.yaml:5"):
        place(TEXT.replace("a.txt", "b.txt"))
