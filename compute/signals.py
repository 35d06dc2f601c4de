"""Signals: a first SIGTERM or SIGINT stops a run at its next request, a second SIGINT at once; and time limits."""

from __future__ import annotations

import faulthandler
import signal
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from ..schemas.errors import ComputeFailed, Interrupted


class Stop:
    """Whether a run was asked to stop; calling it says so.

    Attributes
    ----------
    signal : int or None
        The first signal that came.
    immediate : bool
        Whether the first signal shall raise ``Interrupted`` on the spot, because there is no request to wait for.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.immediate = False

    def __call__(self) -> bool:
        """Whether to stop."""
        return self.signal is not None

    def error(self, where: str | None = None) -> Interrupted:
        """The error to raise at the next request."""
        name = signal.Signals(self.signal).name if self.signal is not None else "a request to stop"
        return Interrupted(
            f"The run was stopped by {name}; what was committed is kept.",
            key=where,
            hint="run the same command again: it goes on from its last commit",
        )

    def handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Take note of a signal."""
        again, self.signal = self.signal is not None, number
        if again and number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.immediate:
            raise self.error()


class LinkedStop(Stop):
    """A stop that also follows another condition.

    Parameters
    ----------
    also : callable
        Whether to stop for another reason.
    """

    def __init__(self, also: Callable[[], bool]) -> None:
        super().__init__()
        self._also = also

    def __call__(self) -> bool:
        """Whether to stop."""
        return super().__call__() or self._also()


@contextmanager
def interruptible() -> Iterator[Stop]:
    """Take note of SIGTERM and SIGINT while inside; outside of the main thread nothing is installed."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before: dict[int, Any] = {}
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            before[int(number)] = signal.signal(number, stop.handle)
        yield stop
    finally:
        for installed, handler in before.items():
            signal.signal(installed, handler if handler is not None else signal.SIG_DFL)


class OutOfTime(ComputeFailed):
    """A task took longer than it may."""


def out_of_time(limit_s: float, where: str | None = None) -> OutOfTime:
    """The error that says so."""
    return OutOfTime(
        f"The time limit of {limit_s:g} s was reached.",
        key=where,
        hint="what was committed is kept; raise time_limit_s of the step if it was not stuck",
    )


class TimeLimit:
    """Limits the time that a task computes in this process; only the main thread can be limited so.

    Parameters
    ----------
    limit_s : float or None
        The limit; None for none.
    where : str, optional
        The key, for the message.
    """

    def __init__(self, limit_s: float | None, where: str | None = None) -> None:
        self._limit_s, self._where = limit_s, where
        self._left = limit_s or 0.0

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count the time inside; raises ``OutOfTime`` there, in the midst of whatever computes."""
        if self._limit_s is None or threading.current_thread() is not threading.main_thread():
            yield
            return
        limit_s = self._limit_s

        def ring(number: int, frame: FrameType | None) -> None:
            del number, frame
            raise out_of_time(limit_s, self._where)

        before = signal.signal(signal.SIGALRM, ring)
        try:
            signal.setitimer(signal.ITIMER_REAL, max(self._left, 1e-3))
            yield
        finally:
            self._left = signal.setitimer(signal.ITIMER_REAL, 0)[0]
            signal.signal(signal.SIGALRM, before)


@contextmanager
def watchdog(limit_s: float | None, trace: Path | None = None) -> Iterator[None]:
    """End this worker process if what is inside takes longer, even where it is stuck in a library.

    Parameters
    ----------
    limit_s : float or None
        The limit; None for none.
    trace : Path, optional
        Where to write what it was at; stderr by default.
    """
    if limit_s is None:
        yield
        return
    with open(trace or "/dev/stderr", "w" if trace else "a") as file, _bounded(limit_s, file):  # noqa: PTH123 - a device
        yield


@contextmanager
def _bounded(limit_s: float, file: TextIO) -> Iterator[None]:
    faulthandler.dump_traceback_later(limit_s, exit=True, file=file)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


@dataclass(frozen=True, slots=True)
class ItemLimit:
    """The time limit of each item of a map.

    Attributes
    ----------
    seconds : float or None
        The limit; None for none.
    notes : Path or None
        How the names of files begin in which a worker that ends itself says for which item, and what it was at: that
        item is then given up, and not begun again on the next worker.
    """

    seconds: float | None = None
    notes: Path | None = None

    @contextmanager
    def kept(self) -> Iterator[ItemLimit]:
        """Keep the notes while inside; for the process that waits for the items."""
        if self.notes is None:
            yield self
            return
        self.notes.parent.mkdir(parents=True, exist_ok=True)
        self.notes.touch()  # nobody takes the folder for an empty one
        try:
            yield self
        finally:
            for path in self._files():
                path.unlink(missing_ok=True)

    def given_up(self) -> dict[int, str]:
        """The items for which a worker ended itself, and the message that says so, with where each was stuck."""
        texts = (path.read_text(errors="replace").partition("\n") for path in self._files())
        said = out_of_time(self.seconds or 0.0).message
        return {int(index): f"{said} It was at {_innermost(trace)}." for index, _, trace in texts if trace}

    @contextmanager
    def watching(self) -> Iterator[Callable[[int], AbstractContextManager[None]]]:
        """Gives what ends this worker if an item, by its number, takes too long inside."""
        limit_s = self.seconds
        if limit_s is None or self.notes is None or not self.notes.exists():  # or no folder that this host shares
            yield lambda _: watchdog(limit_s)
            return
        path = self.notes.with_name(f"{self.notes.name}.{uuid.uuid4().hex[:12]}")
        with path.open("w") as file:

            @contextmanager
            def watch(index: int) -> Iterator[None]:
                file.seek(0)
                file.truncate()
                file.write(f"{index}\n")
                file.flush()
                with _bounded(limit_s, file):
                    yield

            yield watch
        path.unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        return sorted(self.notes.parent.glob(f"{self.notes.name}*")) if self.notes is not None else []


NO_LIMIT = ItemLimit()


def _innermost(trace: str) -> str:
    """Where the thread that computes was, from what faulthandler wrote of all threads, innermost call first."""
    threads = [part.strip().splitlines() for part in trace.split("\n\n")]
    calls = next((lines for lines in threads if any(line.endswith(" in attempt_bunch") for line in lines)), threads[0])
    return next((line.strip() for line in calls if line.lstrip().startswith("File ")), "an unknown place")
