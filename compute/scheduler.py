"""Where work runs: in this process, or on the workers of dask.distributed."""

from __future__ import annotations

import contextlib
import queue
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Protocol, Self

from ..schemas.scheduling import LocalPlace, Place, SerialPlace, parse_place
from .bunches import Answer, Bunches, Item, Outcome, attempt, attempt_bunch
from .module import Progress, no_progress
from .workers import SchedulerLost, connect, describe

Items = Iterable[Item]
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

    @abstractmethod
    def map(
        self, function: Callable[[Any], Any], items: Items, time_limit_s: float | None = None
    ) -> Iterator[list[tuple[int, Outcome]]]:
        """Apply a function to numbered items; yields what has arrived, which may be nothing, every now and then."""

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
        self, function: Callable[[Any], Any], items: Items, time_limit_s: float | None = None
    ) -> Iterator[list[tuple[int, Outcome]]]:
        """Apply a function to one item after the other."""
        for index, item in items:
            yield [(index, attempt(function, item, time_limit_s))]


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
        self.told = describe(self.place, self._client)
        self._with_workers = time.monotonic()
        self._workers, self._counted = 1, float("-inf")

    def map(
        self, function: Callable[[Any], Any], items: Items, time_limit_s: float | None = None
    ) -> Iterator[list[tuple[int, Outcome]]]:
        """Keep the workers busy with bunches of items, a bounded number ahead."""
        bunches = Bunches(items)
        pending: dict[Any, list[Item]] = {}
        arrived: queue.SimpleQueue[Any] = queue.SimpleQueue()
        try:
            while True:
                while self._has_room(pending) and (bunch := bunches.take(max(1, self.workers))):
                    call = _packed(attempt_bunch, function, [item for _, item in bunch], time_limit_s)
                    future = self._client.submit(unpacked, call, pure=False)
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
        offered = self._offered() if resources else {}
        asked = {name: min(amount, offered[name]) for name, amount in resources.items() if name in offered}
        future: Future = self._client.submit(
            unpacked, _packed(function, argument), pure=False, retries=1, resources=asked or None
        )
        return future

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
            self._with_workers = time.monotonic()
        elif time.monotonic() - self._with_workers > ALONE_SECONDS:
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
        with contextlib.suppress(Exception):
            self._client.close(timeout=5)
        if self._cluster is not None:
            with contextlib.suppress(Exception):
                self._cluster.close(timeout=10)


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


@contextlib.contextmanager
def limited_threads(count: float | None) -> Iterator[None]:
    """Let the libraries of this process use so many threads while inside."""
    if count is None:
        yield
        return
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    number = max(1, int(count))
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch is not None else 0
    with threadpool_limits(number):
        if torch is not None:
            torch.set_num_threads(number)
        try:
            yield
        finally:
            if torch is not None:
                torch.set_num_threads(before)


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
        return f"{type(error).__name__}: {error}"
    return answer
