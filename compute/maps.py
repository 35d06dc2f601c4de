"""Maps: independent items, each result committed as it arrives and never computed again."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..store.blob import unpack
from .commit import RunTransaction
from .execution import Execution, TaskFailed
from .module import Map
from .scheduler import Outcome, Scheduler

if TYPE_CHECKING:
    import xarray as xr

BATCH_SECONDS = 0.05
"""Results that arrive within this time are committed together."""


@dataclass(slots=True)
class _Batch:
    """Results of a map that wait for their commit."""

    commit: Callable[[dict[int, bytes]], None]
    items: dict[int, bytes] = field(default_factory=dict)
    since: float = field(default_factory=time.monotonic)

    def add(self, index: int, blob: bytes) -> None:
        self.items[index] = blob

    def flush(self, *, now: bool) -> None:
        if self.items and (now or time.monotonic() - self.since >= BATCH_SECONDS):
            self.commit(self.items)
            self.items = {}
            self.since = time.monotonic()


def run_map(execution: Execution, request: Map, scheduler: Scheduler, poll: Callable[[], None]) -> list[xr.Dataset]:
    """Compute the items whose results were not committed before.

    Parameters
    ----------
    execution : Execution
        The run that asks.
    request : Map
        What it asks for.
    scheduler : Scheduler
        Where the items are computed.
    poll : callable
        Called every now and then, to look after calls under way.

    Returns
    -------
    list of xarray.Dataset
        In the order of the items.

    Raises
    ------
    TaskFailed
        If items failed, once all others are computed and committed.
    Interrupted
        If somebody asked to stop; results that have arrived are committed.
    """
    plan, setting = execution.plan, execution.setting
    results = execution.store.stashed(plan.run_id, request.name)
    total = len(request.items)
    todo = [(index, request.items[index]) for index in range(total) if index not in results]
    failures: dict[int, str] = {}
    batch = _Batch(lambda items: _stash(execution, request.name, items))
    try:
        for arrived in scheduler.map(request.function, todo):
            _sort(arrived, results, failures, batch)
            batch.flush(now=False)
            setting.progress(len(results) + len(failures), total, request.name)
            poll()
            if setting.stop():
                raise setting.stop.error(plan.root_key)
    finally:
        batch.flush(now=True)
    if failures:
        raise _failed(plan.root_key, request.name, failures, total)
    return [results[index] for index in range(total)]


def _sort(
    arrived: list[tuple[int, Outcome]], results: dict[int, xr.Dataset], failures: dict[int, str], batch: _Batch
) -> None:
    for index, (blob, message) in arrived:
        if blob is None:
            failures[index] = message
        else:
            results[index] = unpack(blob)
            batch.add(index, blob)


def _stash(execution: Execution, name: str, items: Mapping[int, bytes]) -> None:
    plan = execution.plan
    with RunTransaction(execution.store, f"{plan.module.name} {plan.root_key}: {name}") as transaction:
        transaction.stash(plan.run_id, name, items)


def _failed(where: str, name: str, failures: Mapping[int, str], total: int) -> TaskFailed:
    first = min(failures)
    others = f", and {len(failures) - 1} more" if len(failures) > 1 else ""
    return TaskFailed(
        f"Item {first} of the map {name!r} failed{others} (of {total}).",
        key=where,
        found="; ".join(f"item {index}: {failures[index]}" for index in sorted(failures)[:3]),
        hint="the results of the other items are kept; a new run computes the failed ones again",
    )
