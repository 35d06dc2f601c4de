"""Bunches: short items travel together, long ones alone, and none is lost on the way."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import xarray as xr

from h5ml.compute import bunches
from h5ml.compute.bunches import Answer, Bunches, attempt_bunch
from h5ml.compute.signals import NO_LIMIT, ItemLimit
from h5ml.tests.kits.toys import table


def answered(count: int, seconds_each: float, blob: bytes = b"x") -> Answer:
    return Answer([(blob, "")] * count, count * seconds_each)


def test_items_travel_alone_until_it_is_known_how_long_they_take() -> None:
    deal = Bunches(enumerate(range(1000)))
    first = deal.take(2)
    assert [index for index, _ in first] == [0]
    assert len(deal.take(2)) == 1
    deal.sort(first, answered(1, 0.002))
    assert len(deal.take(2)) == 50  # 0.1 s of work
    deal.sort([(1, 1)], answered(1, 5.0))
    assert len(deal.take(2)) == 1


def test_large_results_travel_in_small_bunches_and_the_last_bunches_are_small() -> None:
    deal = Bunches(enumerate(range(1000)))
    deal.sort(deal.take(1), answered(1, 1e-6, bytes(1_000_000)))
    assert len(deal.take(1)) == 4
    deal = Bunches(enumerate(range(40)))
    deal.sort(deal.take(1), answered(1, 1e-6))
    sizes = []
    while bunch := deal.take(4):
        sizes.append(len(bunch))
    assert sizes == sorted(sizes, reverse=True)
    assert (sizes[0], sizes[-1], sum(sizes)) == (4, 1, 39)


def test_what_a_worker_hands_back_comes_next_and_a_lost_bunch_is_sent_one_by_one() -> None:
    deal = Bunches(enumerate("abcdefgh"))
    deal.sort(deal.take(1), answered(1, 0.02))
    bunch = deal.take(1)
    assert [item for _, item in bunch] == ["b", "c", "d"]
    assert deal.sort(bunch, answered(1, 0.02)) == [(1, (b"x", ""))]
    bunch = deal.take(1)
    assert [item for _, item in bunch] == ["c", "d", "e"]
    assert deal.sort(bunch, "KilledWorker") == []
    assert [deal.take(1) for _ in range(3)] == [[(2, "c")], [(3, "d")], [(4, "e")]]
    assert deal.sort([(3, "d")], "KilledWorker") == [(3, (None, "KilledWorker"))]


def slow(item: float) -> xr.Dataset:
    time.sleep(item)
    return table(x=[item])


def test_a_worker_hands_back_the_rest_of_a_bunch_that_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bunches, "MOST_SECONDS", 0.05)
    answer = attempt_bunch(slow, list(enumerate([0.0, 0.1, 0.0, 0.0])), NO_LIMIT)
    assert 1 <= len(answer.outcomes) <= 2  # one where the first took so long already, for its imports


STUCK = """\
2
Timeout (0:00:02)!
Thread 0x1 (most recent call first):
  File "/threading.py", line 1 in wait

Thread 0x2 (most recent call first):
  File "/mine.py", line 7 in stuck
  File "/bunches.py", line 9 in attempt
  File "/bunches.py", line 8 in attempt_bunch
"""


def test_an_item_that_a_worker_ended_itself_for_is_given_up_with_where_it_was(tmp_path: Path) -> None:
    with ItemLimit(2.0, tmp_path / "folder" / "notes").kept() as limit:
        (tmp_path / "folder" / "notes.a").write_text(STUCK)
        (tmp_path / "folder" / "notes.b").write_text("1\n")  # this one was killed, by whatever
        answer = attempt_bunch(slow, [(1, 0.0), (2, 0.0), (3, 0.0)], limit)
        assert [bool(blob) for blob, _ in answer.outcomes] == [True, False, True]
        said = 'The time limit of 2 s was reached. It was at File "/mine.py", line 7 in stuck.'
        assert answer.outcomes[1][1] == said
    assert not list((tmp_path / "folder").iterdir())
