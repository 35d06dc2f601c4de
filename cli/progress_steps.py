"""How the steps of a campaign are shown: a table that moves on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..compute.foresight import StepResult
from ..compute.watching import Watcher

if TYPE_CHECKING:
    from rich.console import Group

LONGEST_TABLE = 20
_ORDER = ("running", "failed", "queued", "waiting", "left out", "done")
_STYLES = {"queued": "blue", "running": "cyan", "done": "green", "failed": "red", "left out": "yellow"}


class Lines(Watcher):
    """Says what becomes of each step, one line each, on stdout.

    Parameters
    ----------
    dry_run : bool
        Whether nothing is done.
    """

    def __init__(self, *, dry_run: bool) -> None:
        self._dry_run = dry_run

    def began(self, result: StepResult) -> None:
        """Say that a step begins, and why."""
        print(f"{result.key}: {result.action} ({result.reason})", flush=True)

    def ended(self, result: StepResult) -> None:
        """Say how a step ended."""
        print(ended_text(result, dry_run=self._dry_run), flush=True)


def ended_text(result: StepResult, *, dry_run: bool = False) -> str:
    """How a step ended, in a line."""
    if dry_run and result.action != "none":
        return f"{result.key}: would {result.action} ({result.reason})"
    if result.error is not None:
        return f"{result.key}: failed: {result.error.message}"
    if result.action == "none":
        return f"{result.key}: {result.reason}"
    if result.action == "skip":
        return f"{result.key}: left out ({result.reason})"
    if result.action == "check":
        return f"{result.key}: the same again"
    return f"{result.key}: done" + (f", {result.run.wall_s:.1f} s" if result.run is not None else "")


@dataclass(slots=True)
class Row:
    """A step in the table."""

    state: str = "waiting"
    since: float = 0.0
    took: float = 0.0
    done: float = 0.0
    total: float = 0.0
    text: str = ""

    def left(self) -> str:
        """Time left, from the part that is done."""
        if self.state != "running" or not 0 < self.done < self.total:
            return ""
        return _clock((time.monotonic() - self.since) * (self.total - self.done) / self.done)


class Table(Watcher):
    """Keeps what a table of the steps shows: those under way, and as many of the others as there is room for."""

    def __init__(self) -> None:
        self._rows: dict[str, Row] = {}
        self._where = ""
        self._began = time.monotonic()

    def planned(self, results: Sequence[StepResult]) -> None:
        """Take note of all steps."""
        self._rows = {result.key: Row("done" if result.action == "none" else "waiting") for result in results}

    def place(self, text: str) -> None:
        """Take note of where work runs."""
        self._where = text

    def began(self, result: StepResult) -> None:
        """Take note of a step that begins as soon as there is a worker for it."""
        reason = "" if result.reason.startswith("missing") else result.reason
        self._rows[result.key] = Row("queued", text=reason)

    def moved(self, key: str, done: float, total: float, text: str) -> None:
        """Take note of how far a step is."""
        row = self._rows.get(key)
        if row is None or row.state not in ("queued", "running"):
            return
        if row.state == "queued":
            row.state, row.since = "running", time.monotonic()
        if total:
            row.done, row.total, row.text = done, total, text

    def ended(self, result: StepResult) -> None:
        """Take note of how a step ended."""
        row = self._rows.setdefault(result.key, Row())
        row.took = time.monotonic() - row.since if row.since else 0.0
        row.state = "failed" if result.error is not None else "left out" if result.action == "skip" else "done"
        row.text = result.error.message if result.error is not None else ""

    def __rich__(self) -> Group:
        """The table of this moment."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table as RichTable
        from rich.text import Text

        made = RichTable(box=None, pad_edge=False, header_style="bold")
        for name in ("step", "state", "", "time", "left", ""):
            made.add_column(name, no_wrap=True, justify="right" if name in ("time", "left") else "left")
        for key, row in self._shown():
            spent = time.monotonic() - row.since if row.state == "running" else row.took
            bar = ProgressBar(total=row.total, completed=row.done, width=16) if row.total else ""
            style = _STYLES.get(row.state, "dim")
            made.add_row(
                Text(key), Text(row.state, style), bar, _clock(spent) if spent else "", row.left(), Text(row.text)
            )
        return Group(made, Text(self._summary(), "dim"))

    def _shown(self) -> list[tuple[str, Row]]:
        rank = {name: place for place, name in enumerate(_ORDER)}
        chosen = sorted(self._rows, key=lambda key: rank[self._rows[key].state])[:LONGEST_TABLE]
        return [(key, row) for key, row in self._rows.items() if key in chosen]

    def _summary(self) -> str:
        states = [row.state for row in self._rows.values()]
        counts = ", ".join(f"{states.count(name)} {name}" for name in _ORDER if name in states)
        return f"{len(states)} steps: {counts}; {_clock(time.monotonic() - self._began)} {self._where}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


@contextmanager
def watching(*, dry_run: bool, quiet: bool) -> Iterator[Watcher]:
    """What shows a campaign.

    Parameters
    ----------
    dry_run : bool
        Whether nothing is done: then the plan is said in lines.
    quiet : bool
        Show nothing.
    """
    if quiet:
        yield Watcher()
    elif dry_run or not sys.stderr.isatty():
        yield Lines(dry_run=dry_run)
    else:
        from rich.console import Console
        from rich.live import Live

        table = Table()
        with Live(
            console=Console(stderr=True),
            get_renderable=table.__rich__,
            refresh_per_second=4,
            redirect_stdout=sys.stdout.isatty(),
        ):
            yield table
