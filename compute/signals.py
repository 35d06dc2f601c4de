"""Signals: a first SIGTERM or SIGINT stops a run at its next request, a second SIGINT at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from ..schemas.errors import Interrupted


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
