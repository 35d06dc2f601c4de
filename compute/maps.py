"""Maps: independent items, each result committed as it arrives and never computed again."""

from __future__ import annotations

import contextlib
import tempfile
import time
import uuid
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, overload

from ..store.blob import unpack
from .bunches import Outcome
from .commit import RunTransaction
from .distributed_results import Keeper, Kept, Place, keeper_for
from .execution import Execution, TaskFailed
from .module import Map
from .scheduler import Scheduler
from .signals import NO_LIMIT, ItemLimit
from .staging import staging_folder

if TYPE_CHECKING:
    import xarray as xr

BATCH_SECONDS = 0.05
"""Results that arrive within this time are committed together, at least."""
COMMIT_SHARE = 4.0
"""How many times as long as a commit took the next one is put off, so that they never take up most of the time."""
LONGEST_SECONDS = 1.0
"""But no longer than this."""
KEPT_BYTES = 1 << 26
"""What results may take of memory; beyond, they lie in a scratch file."""


class Results(Sequence["xr.Dataset"]):
    """Results of a map in the order of its items, unpacked when they are looked at.

    Parameters
    ----------
    total : int
        How many items there are.
    keeper : Keeper, optional
        Reads those that lie in a bucket.
    """

    def __init__(self, total: int, keeper: Keeper | None = None) -> None:
        self._total, self._keeper = total, keeper
        self._kept: dict[int, Place] = {}
        self._spans: dict[int, tuple[int, int]] = {}
        self._size = 0
        self._file = tempfile.SpooledTemporaryFile(KEPT_BYTES, prefix="h5ml-")  # noqa: SIM115
        weakref.finalize(self, self._file.close)

    def add(self, index: int, blob: bytes | Kept) -> None:
        """Keep the packed result of an item, or where it lies."""
        self._spans[index] = (self._size, len(blob))
        if not isinstance(blob, bytes):
            self._kept[index] = blob.place
            return
        self._file.seek(self._size)
        self._file.write(blob)
        self._size += len(blob)

    @property
    def arrived(self) -> Collection[int]:
        """The items whose results are here."""
        return self._spans.keys()

    def __len__(self) -> int:
        return self._total

    @overload
    def __getitem__(self, index: int) -> xr.Dataset: ...

    @overload
    def __getitem__(self, index: slice) -> list[xr.Dataset]: ...

    def __getitem__(self, index: int | slice) -> xr.Dataset | list[xr.Dataset]:
        chosen = range(self._total)[index]
        if isinstance(chosen, range):
            return [self[one] for one in chosen]
        if self._keeper is not None and chosen in self._kept:
            return unpack(self._keeper.read(self._kept[chosen]))
        start, size = self._spans[chosen]
        self._file.seek(start)
        return unpack(self._file.read(size))


class _Batch:
    """Results of a map that wait for their commit."""

    def __init__(self, commit: Callable[[dict[int, bytes | Kept]], None]) -> None:
        self._commit = commit
        self._items: dict[int, bytes | Kept] = {}
        self._since, self._put_off = time.monotonic(), BATCH_SECONDS

    def add(self, index: int, blob: bytes | Kept) -> None:
        self._items[index] = blob

    def flush(self, *, now: bool) -> None:
        began = time.monotonic()
        if not self._items or not (now or began - self._since >= self._put_off):
            return
        self._commit(self._items)
        self._items = {}
        self._since = time.monotonic()
        self._put_off = min(max(BATCH_SECONDS, COMMIT_SHARE * (self._since - began)), LONGEST_SECONDS)


def run_map(execution: Execution, request: Map, scheduler: Scheduler, poll: Callable[[], None]) -> Results:
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
    Results
        Datasets in the order of the items.

    Raises
    ------
    TaskFailed
        If items failed, once all others are computed and committed.
    Interrupted
        If somebody asked to stop; results that have arrived are committed.
    """
    plan, setting = execution.plan, execution.setting
    total = len(request.items)
    keeper = keeper_for(execution.store, plan.run_id, request.name, remote=scheduler.remote)
    results = Results(total, keeper)
    for index, blob in execution.store.stashed(plan.run_id, request.name):
        results.add(index, blob)
    todo = [(index, request.items[index]) for index in range(total) if index not in results.arrived]
    failures: dict[int, str] = {}
    batch = _Batch(lambda items: _stash(execution, request.name, items, keeper))
    try:
        with _limit(execution, remote=scheduler.remote) as limit:
            needs = {**plan.module.resources, **setting.needs}
            for arrived in scheduler.map(request.function, todo, limit, needs, keeper):
                _sort(arrived, results, failures, batch)
                batch.flush(now=False)
                setting.progress(len(results.arrived) + len(failures), total, request.name)
                poll()
                if setting.stop():
                    raise setting.stop.error(plan.root_key)
    finally:
        batch.flush(now=True)
    if keeper is not None:
        keeper.settle()
    if failures:
        raise _failed(plan.root_key, request.name, failures, total)
    return results


@contextlib.contextmanager
def _limit(execution: Execution, *, remote: bool) -> Iterator[ItemLimit]:
    """The time limit of the items, with a place for what workers note."""
    seconds = execution.setting.time_limit_s
    if seconds is None:
        yield NO_LIMIT
        return
    notes = staging_folder(execution.store) / f"{execution.plan.run_id}-{uuid.uuid4().hex[:12]}"
    with ItemLimit(seconds, notes if remote else None).kept() as limit:
        yield limit


def _sort(arrived: list[tuple[int, Outcome]], results: Results, failures: dict[int, str], batch: _Batch) -> None:
    for index, (blob, message) in arrived:
        if blob is None:
            failures[index] = message
        else:
            results.add(index, blob)
            batch.add(index, blob)


def _stash(execution: Execution, name: str, items: Mapping[int, bytes | Kept], keeper: Keeper | None) -> None:
    plan = execution.plan
    with RunTransaction(execution.store, f"{plan.module.name} {plan.root_key}: {name}") as transaction:
        if keeper is not None:
            keeper.commit(transaction, items)
        else:
            transaction.stash(
                plan.run_id, name, {index: blob for index, blob in items.items() if isinstance(blob, bytes)}
            )


def _failed(where: str, name: str, failures: Mapping[int, str], total: int) -> TaskFailed:
    first = min(failures)
    others = f", and {len(failures) - 1} more" if len(failures) > 1 else ""
    return TaskFailed(
        f"Item {first} of the map {name!r} failed{others} (of {total}).",
        key=where,
        found="; ".join(f"item {index}: {failures[index]}" for index in sorted(failures)[:3]),
        hint="the results of the other items are kept; a new run computes the failed ones again",
    )
