"""Items that travel together: many short ones make one task of dask, a long one is a task of its own."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..store.blob import pack
from .signals import ItemLimit, OutOfTime, TimeLimit

if TYPE_CHECKING:
    from .distributed_results import Kept

Item = tuple[int, Any]
Outcome = tuple["bytes | Kept | None", str]
"""The packed result of an item (or where it lies in a bucket), or None and why it failed."""

ATTEMPTS = 2
AIM_SECONDS = 0.1
"""How long a worker shall be at one bunch; at most so much is done again when it is killed."""
MOST_SECONDS = 0.5
"""After this time a worker hands back the rest of a bunch whose items take longer than foreseen."""
MOST_ITEMS = 200
MOST_BYTES = 4_000_000


@dataclass(frozen=True, slots=True)
class Answer:
    """What a worker says of a bunch: the outcomes of its first items, and how long they took."""

    outcomes: list[Outcome]
    seconds: float


class Bunches:
    """Deals out numbered items in bunches, so that each takes a worker a moment and no bunch is the last for long.

    Parameters
    ----------
    items : iterable of (int, object)
        The items with their numbers.
    """

    def __init__(self, items: Iterable[Item]) -> None:
        self._waiting = deque(items)
        self._alone: deque[Item] = deque()
        self._seconds: float | None = None
        self._bytes = 0.0

    def take(self, workers: int) -> list[Item]:
        """The next bunch; empty where nothing waits."""
        if self._alone:
            return [self._alone.popleft()]
        count = min(self._size(), max(1, len(self._waiting) // (2 * workers)), len(self._waiting))
        return [self._waiting.popleft() for _ in range(count)]

    def _size(self) -> int:
        """How many items take about as long as a bunch shall take; one as long as that is not known."""
        if self._seconds is None:
            return 1
        return max(1, int(min(AIM_SECONDS / max(self._seconds, 1e-9), MOST_BYTES / max(self._bytes, 1.0), MOST_ITEMS)))

    def sort(self, bunch: list[Item], answer: Answer | str) -> list[tuple[int, Outcome]]:
        """What became of the items of a bunch; those that must be sent again wait again.

        Parameters
        ----------
        bunch : list of (int, object)
            As it was taken.
        answer : Answer or str
            What the worker said, or why it said nothing: then each item is sent again alone, to find the one that
            it failed for.
        """
        if isinstance(answer, str):
            if len(bunch) == 1:
                return [(bunch[0][0], (None, answer))]
            self._alone.extend(bunch)
            return []
        count = len(answer.outcomes)
        self._waiting.extendleft(reversed(bunch[count:]))
        seconds = answer.seconds / count
        self._seconds = seconds if self._seconds is None else 0.5 * (self._seconds + seconds)
        self._bytes = max(len(blob or b"") for blob, _ in answer.outcomes)
        return [(index, outcome) for (index, _), outcome in zip(bunch, answer.outcomes, strict=False)]


def attempt_bunch(function: Callable[[Any], Any], bunch: list[Item], limit: ItemLimit) -> Answer:
    """Apply a function to the items of a bunch on a worker, which ends itself where one of them takes too long."""
    began = time.perf_counter()
    outcomes: list[Outcome] = []
    given_up = limit.given_up()
    with limit.watching() as watch:
        for index, item in bunch:
            if index in given_up:
                outcomes.append((None, given_up[index]))
                continue
            with watch(index):
                outcomes.append(attempt(function, item))
            if time.perf_counter() - began > MOST_SECONDS:
                break
    return Answer(outcomes, time.perf_counter() - began)


def attempt(function: Callable[[Any], Any], item: Any, time_limit_s: float | None = None) -> Outcome:
    """Apply a function to an item: its packed result, or the message of its last failure."""
    message = ""
    for _ in range(ATTEMPTS):
        try:
            with TimeLimit(time_limit_s).counting():
                return pack(function(item)), ""
        except OutOfTime as error:
            return None, error.message
        except Exception as error:  # noqa: BLE001 - whatever a module's function raises is the item's failure
            message = f"{type(error).__name__}: {error}"
    return None, message
