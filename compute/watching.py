"""Those who are told how a campaign goes: the terminal, and the log file of a session."""

from __future__ import annotations

import json
import logging
import threading
import traceback
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from ..store.store import Store
from .foresight import StepResult


class Watcher:
    """Is told how a campaign goes; the base does nothing with it."""

    def planned(self, results: Sequence[StepResult]) -> None:
        """Take note of all steps, before anything is done."""

    def place(self, text: str) -> None:
        """Take note of where work runs, once something runs."""

    def began(self, result: StepResult) -> None:
        """Take note of a step that begins, or waits for a worker; once it computes, ``moved`` says so."""

    def moved(self, key: str, done: float, total: float, text: str) -> None:
        """Take note of how far a step is; a total of 0 says only that it computes."""

    def ended(self, result: StepResult) -> None:
        """Take note of a step that ended, was up to date, or is left out."""


class Watchers(Watcher):
    """Passes everything on.

    Parameters
    ----------
    watchers : iterable of Watcher
        To whom.
    """

    def __init__(self, watchers: Iterable[Watcher]) -> None:
        self._all = list(watchers)

    def planned(self, results: Sequence[StepResult]) -> None:
        """Tell all."""
        for one in self._all:
            one.planned(results)

    def place(self, text: str) -> None:
        """Tell all."""
        for one in self._all:
            one.place(text)

    def began(self, result: StepResult) -> None:
        """Tell all."""
        for one in self._all:
            one.began(result)

    def moved(self, key: str, done: float, total: float, text: str) -> None:
        """Tell all."""
        for one in self._all:
            one.moved(key, done, total, text)

    def ended(self, result: StepResult) -> None:
        """Tell all."""
        for one in self._all:
            one.ended(result)


def log_folder(store: Store) -> Path:
    """Where the logs of a store's campaigns lie: beside it, or in the current folder for a store in a bucket."""
    location = store.location.rstrip("/")
    return Path((location.rpartition("/")[2] if "://" in location else location) + "-logs").absolute()


class LogFile(Watcher, logging.Handler):
    """One line of JSON for each event, and for each message of the logger ``h5ml``; begun with the first event.

    Parameters
    ----------
    store : Store
        Beside which it lies: ``STORE-logs/TIME-PID.jsonl``.
    """

    def __init__(self, store: Store) -> None:
        logging.Handler.__init__(self, logging.INFO)
        import os

        moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        self.path = log_folder(store) / f"{moment}-{os.getpid()}.jsonl"
        self._writing = threading.Lock()

    def __enter__(self) -> Self:
        logging.getLogger("h5ml").addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("h5ml").removeHandler(self)

    def place(self, text: str) -> None:
        """Write where work runs."""
        self._write("place", place=text)

    def began(self, result: StepResult) -> None:
        """Write that a step begins, and why."""
        self._write("began", step=result.key, action=result.action, reason=result.reason)

    def ended(self, result: StepResult) -> None:
        """Write how a step ended; for a failure with its traceback."""
        if result.action == "none":
            return
        error = result.error
        if error is None:
            run = result.run
            facts = {} if run is None else {"run": run.id, "status": run.status, "wall_s": run.wall_s}
            self._write("skipped" if result.action == "skip" else "ended", step=result.key, **facts)
            return
        trace = result.trace or "".join(traceback.format_exception(error))
        self._write("failed", step=result.key, error=str(error), traceback=trace)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a message of the logger."""
        if self.path.exists():  # messages of a session that computes nothing are on the terminal alone
            self._write("message", level=record.levelname.lower(), text=record.getMessage())

    def _write(self, event: str, **facts: Any) -> None:
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **facts}
        try:
            with self._writing:
                self.path.parent.mkdir(exist_ok=True)
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
        except OSError:  # a full disk must not stop a campaign that can still commit
            return
