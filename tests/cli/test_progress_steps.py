"""The table of a campaign: a step waits, is queued for a worker, runs, and ends."""

from __future__ import annotations

import io

from rich.console import Console

from h5ml.cli.progress_steps import Table
from h5ml.compute.foresight import StepResult
from h5ml.schemas.errors import ComputeFailed


def shown(table: Table) -> list[list[str]]:
    """What stands on the screen, without the bar."""
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(table)
    return [line.replace("━", "").split() for line in console.export_text().splitlines()]


def test_a_step_waits_is_queued_runs_and_ends() -> None:
    table = Table()
    first, second = StepResult("a", "compute", "missing"), StepResult("b", "resume", "was killed before")
    table.planned([first, second, StepResult("c", "none", "up to date")])
    assert [row[:2] for row in shown(table)[1:4]] == [["a", "waiting"], ["b", "waiting"], ["c", "done"]]
    table.began(first)
    table.began(second)
    assert shown(table)[1:3] == [["a", "queued"], ["b", "queued", "was", "killed", "before"]]
    table.moved("a", 0.0, 0.0, "")
    assert shown(table)[1][:2] == ["a", "running"]
    table.moved("a", 5.0, 10.0, "5.0 fs")
    assert shown(table)[1][-2:] == ["5.0", "fs"]
    table.ended(first)
    table.moved("a", 6.0, 10.0, "late")  # said by a worker before it ended, heard after
    table.ended(StepResult("b", "resume", "", error=ComputeFailed("it broke")))
    rows = shown(table)
    assert rows[1][:2] == ["a", "done"]
    assert rows[2][-2:] == ["it", "broke"]
    assert "3 steps: 1 failed, 2 done" in " ".join(rows[4])
