"""Where work runs: in this process, or on the workers of dask.distributed."""

from __future__ import annotations

import contextlib
import queue
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from ..schemas.scheduling import LocalPlace, Place, SerialPlace, parse_place
from .bunches import Answer, Bunches, Item, Outcome, attempt, attempt_bunch
from .module import Progress, no_progress
from .signals import NO_LIMIT, ItemLimit
from .workers import SchedulerLost, connect, describe, disconnect, limited_threads

if TYPE_CHECKING:
    from .distributed_results import Keeper, Room

Items = Iterable[Item]
Needs = Mapping[str, float]
NOTHING: Needs = MappingProxyType({})
Told = Callable[[str, float, float, str], None]
POLL_SECONDS = 0.1
TELL_SECONDS = 0.5
TOPIC = "h5ml-progress"
COUNT_SECONDS = 2.0
"""How long the number of workers is taken to be what it was."""
ALONE_SECONDS = 60.0
"""How long a scheduler on this machine may be without any worker."""


class Future(Protocol):
    """Work under way."""

    def done(self) -> bool:
        """Whether it ended."""
        ...

    def result(self) -> Any:
        """What it returned; raises what it raised."""
        ...

    def cancel(self) -> Any:
        """Give it up if it has not begun."""
        ...


class Scheduler(ABC):
    """Runs independent items, and calls if it has workers for them."""

    remote = False
    """Whether calls run on workers."""

    ahead = 1
    """How many runs to begin before the first of them ends."""
    told = "in this process"
    """Where it is, for people."""
    client: Any = None
    """The connection to the workers, where there is one."""

    @abstractmethod
    def map(
        self,
        function: Callable[[Any], Any],
        items: Items,
        limit: ItemLimit = NO_LIMIT,
        needs: Needs = NOTHING,
        keeper: Keeper | None = None,
    ) -> Iterator[list[tuple[int, Outcome]]]:
        """Apply a function to numbered items where there is what each needs.

        Yields what has arrived, which may be nothing, every now and then.
        """

    def submit(self, function: Callable[[Any], Any], argument: Any, resources: Mapping[str, float]) -> Future:
        """Begin ``function(argument)`` on a worker."""
        raise NotImplementedError

    def listen(self, hear: Told) -> None:
        """Call ``hear(run_id, done, total, text)`` with what runs on workers report."""

    def check(self) -> None:
        """Raise ``SchedulerLost`` where the workers cannot be reached any more."""

    def close(self) -> None:
        """Give back what was started for it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Serial(Scheduler):
    """Everything in this process, one after the other."""

    def map(
        self,
        function: Callable[[Any], Any],
        items: Items,
        limit: ItemLimit = NO_LIMIT,
        needs: Needs = NOTHING,
        keeper: Keeper | None = None,
    ) -> Iterator[list[tuple[int, Outcome]]]:
        """Apply a function to one item after the other."""
        del needs, keeper  # there is but this process
        for index, item in items:
            yield [(index, attempt(function, item, limit.seconds))]


class Dask(Scheduler):
    """Workers of dask.distributed.

    Parameters
    ----------
    place : Place or str
        Where they are; see ``parse_place``.
    """

    remote = True

    def __init__(self, place: Place | str) -> None:
        self.place = parse_place(place)
        self._client, self._cluster = connect(self.place)
        self.client = self._client
        self.told = describe(self.place, self._client)
        self._alone_since: float | None = None
        self._workers, self._counted = 1, float("-inf")

    def map(
        self,
        function: Callable[[Any], Any],
        items: Items,
        limit: ItemLimit = NO_LIMIT,
        needs: Needs = NOTHING,
        keeper: Keeper | None = None,
    ) -> Iterator[list[tuple[int, Outcome]]]:
        """Keep the workers busy with bunches of items, a bounded number ahead."""
        bunches, asked = Bunches(items), self._asked(needs)
        pending: dict[Any, list[Item]] = {}
        arrived: queue.SimpleQueue[Any] = queue.SimpleQueue()
        try:
            while True:
                while self._has_room(pending) and (bunch := bunches.take(max(1, self.workers))):
                    room = keeper.room(len(bunch)) if keeper is not None else None
                    call = _packed(_attempt_bunch, function, bunch, limit, needs.get("threads"), room)
                    future = self._client.submit(unpacked, call, pure=False, resources=asked)
                    pending[future] = bunch
                    future.add_done_callback(arrived.put)
                if not pending:
                    return
                ready = _drain(arrived)
                self.check()
                yield [one for future, said in self._gather(ready) for one in bunches.sort(pending.pop(future), said)]
        finally:
            if pending:
                with contextlib.suppress(Exception):
                    self._client.cancel(list(pending), force=True)

    def _has_room(self, pending: Mapping[Any, list[Item]]) -> bool:
        """Whether more should be sent: a few bunches for each worker, or more where each is one item."""
        return len(pending) < 4 * self.workers or sum(map(len, pending.values())) < self.ahead

    def _gather(self, futures: list[Any]) -> list[tuple[Any, Answer | str]]:
        good = [future for future in futures if future.status == "finished"]
        try:
            found = list(zip(good, self._client.gather(good), strict=True)) if good else []
        except Exception:  # noqa: BLE001 - a worker died with its results: one by one, each with its own error
            found = [(future, _result(future)) for future in good]
        others = [future for future in futures if future not in good]
        if any(future.status in ("cancelled", "lost") for future in others):
            raise self._lost("it cancelled what was under way")
        return found + [(future, _result(future)) for future in others]

    def submit(self, function: Callable[[Any], Any], argument: Any, resources: Mapping[str, float]) -> Future:
        """Begin ``function(argument)`` on a worker that has the resources."""
        asked = self._asked(resources)
        future: Future = self._client.submit(
            unpacked, _packed(function, argument), pure=False, retries=1, resources=asked
        )
        return future

    def _asked(self, needs: Needs) -> dict[str, float] | None:
        """What is asked of dask: no more than the most that a worker has."""
        offered = self._offered() if needs else {}
        return {name: min(amount, offered[name]) for name, amount in needs.items() if name in offered} or None

    def _offered(self) -> dict[str, float]:
        """The most that a worker has of each resource; what none has is not asked for."""
        found = dict(getattr(self._cluster, "h5ml_offers", {}))
        for worker in self._client.scheduler_info(n_workers=-1)["workers"].values():
            for name, amount in worker.get("resources", {}).items():
                found[name] = max(found.get(name, 0.0), amount)
        return found

    def listen(self, hear: Told) -> None:
        """Call ``hear(run_id, done, total, text)`` with what runs on workers report."""
        self._client.subscribe_topic(TOPIC, lambda event: hear(*event[1]))

    @property
    def ahead(self) -> int:  # type: ignore[override]
        """Enough to keep the workers busy, and no more than that: what is begun may be staged."""
        return max(64, 8 * self.workers)

    @property
    def workers(self) -> int:
        """How many tasks can run at once; asked of the scheduler now and then, as jobs come and go."""
        if time.monotonic() - self._counted > COUNT_SECONDS:
            self._check_connection()
            try:
                self._workers, self._counted = sum(self._client.nthreads().values()), time.monotonic()
            except Exception as error:  # noqa: BLE001 - whatever dask says of a scheduler that is gone
                raise self._lost(f"{type(error).__name__}: {error}") from None
        return self._workers

    def check(self) -> None:
        """Raise ``SchedulerLost`` where the scheduler cannot be reached any more."""
        self._check_connection()
        if self.workers or not isinstance(self.place, LocalPlace):
            self._alone_since = None
        elif self._alone_since is None:
            self._alone_since = time.monotonic()
        elif time.monotonic() - self._alone_since > ALONE_SECONDS:
            raise self._lost("all its workers are gone")

    def _check_connection(self) -> None:
        if self._client.status not in ("running", "connecting"):
            raise self._lost(f"the connection is {self._client.status}")
        comm = self._client.scheduler_comm
        if comm is None or comm.comm.closed():
            raise self._lost("the connection is closed")

    def _lost(self, why: str) -> SchedulerLost:
        return SchedulerLost(
            "The dask scheduler was lost; what was committed is kept.",
            key=getattr(self.place, "address", None),
            found=why,
            hint="run the same command again: it goes on from its last commit",
        )

    def close(self) -> None:
        """Close the connection, and the workers where they were started here."""
        disconnect(self._client, self._cluster)


def make_scheduler(place: str | Place | Scheduler | None) -> Scheduler:
    """A scheduler from a text or settings; see ``parse_place``.

    Raises
    ------
    InvalidConfig
        If it is neither.
    """
    if isinstance(place, Scheduler):
        return place
    parsed = parse_place(place)
    return Serial() if isinstance(parsed, SerialPlace) else Dask(parsed)


def reporter(run_id: str) -> Progress:
    """Tells from a worker how far a run is, now and then; silent where there is no worker."""
    if "distributed" not in sys.modules:
        return no_progress
    from distributed import get_worker

    try:
        worker = get_worker()
    except ValueError:
        return no_progress
    told = [0.0]

    def report(done: float, total: float, text: str = "") -> None:
        if time.monotonic() - told[0] >= TELL_SECONDS or done >= total:
            told[0] = time.monotonic()
            worker.log_event(TOPIC, (run_id, done, total, text))

    return report


def _attempt_bunch(
    function: Callable[[Any], Any], bunch: list[Item], limit: ItemLimit, threads: float | None, room: Room | None
) -> Answer:
    with limited_threads(threads):
        answer = attempt_bunch(function, bunch, limit)
    return answer if room is None else room.keep(answer)


def _packed(function: Callable[..., Any], *arguments: Any) -> bytes:
    """A call as bytes: what cannot be read on a worker fails the task, and not the worker."""
    import cloudpickle  # type: ignore[import-untyped]

    packed: bytes = cloudpickle.dumps((function, arguments))
    return packed


def unpacked(call: bytes) -> Any:
    """Make a call on a worker."""
    import pickle

    function, arguments = pickle.loads(call)  # noqa: S301 - made by this very program a moment ago
    return function(*arguments)


def _drain(arrived: queue.SimpleQueue[Any]) -> list[Any]:
    """What has arrived by now; waits a little where nothing has."""
    found = []
    deadline = time.monotonic() + POLL_SECONDS
    with contextlib.suppress(queue.Empty):
        found.append(arrived.get(timeout=max(0.0, deadline - time.monotonic())))
        while True:
            found.append(arrived.get_nowait())
    return found


def _result(future: Any) -> Answer | str:
    try:
        answer: Answer = future.result(timeout=60)
    except Exception as error:  # noqa: BLE001 - a killed worker, or a result that cannot travel
        return failure_text(error)
    return answer


def failure_text(error: Exception) -> str:
    """What an error of dask means for a task, for people."""
    if type(error).__name__ == "KilledWorker":
        count = getattr(error, "allowed_failures", 0) + 1
        last = getattr(getattr(error, "last_worker", None), "address", "an unknown place")
        return f"{count} workers died at it, the last at {last}: killed, or out of memory"
    return f"{type(error).__name__}: {error}"
