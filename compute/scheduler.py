"""Where work runs: in this process, or on the workers of dask.distributed."""

from __future__ import annotations

import contextlib
import queue
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Protocol, Self

from ..schemas.errors import ComputeFailed, InvalidConfig, MissingPackage

Outcome = tuple[bytes | None, str]
ATTEMPTS = 2
POLL_SECONDS = 0.1
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


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


class SchedulerLost(ComputeFailed):
    """The scheduler cannot be reached any more; what was committed is kept."""


class Scheduler(ABC):
    """Runs independent items, and calls if it has workers for them."""

    remote = False
    """Whether calls run on workers."""

    @abstractmethod
    def map(
        self, function: Callable[[Any], Any], items: Iterable[tuple[int, Any]]
    ) -> Iterator[list[tuple[int, Outcome]]]:
        """Apply a function to numbered items; yields what has arrived, which may be nothing, every now and then."""

    def submit(self, function: Callable[[Any], Any], argument: Any, resources: Mapping[str, float]) -> Future:
        """Begin ``function(argument)`` on a worker."""
        raise NotImplementedError

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
        self, function: Callable[[Any], Any], items: Iterable[tuple[int, Any]]
    ) -> Iterator[list[tuple[int, Outcome]]]:
        """Apply a function to one item after the other."""
        for index, item in items:
            yield [(index, attempt(function, item))]


class Dask(Scheduler):
    """Workers of dask.distributed.

    Parameters
    ----------
    address : str
        ``local:N`` for N processes on this machine, or ``tcp://host:port`` of a scheduler that runs.
    """

    remote = True

    def __init__(self, address: str) -> None:
        try:
            from distributed import Client, LocalCluster
        except ImportError as error:
            raise MissingPackage(
                "The scheduler needs dask.distributed.", found=str(error), hint="pip install distributed"
            ) from None
        self.address = address
        self._cluster: Any = None
        if address.startswith("local:"):
            self._cluster = LocalCluster(
                n_workers=_count(address),
                threads_per_worker=1,
                processes=True,
                dashboard_address="127.0.0.1:0",
                scheduler_kwargs={"dashboard": False},
                silence_logs=50,
                env=THREADS,
            )
        try:
            self._client = Client(
                self._cluster if self._cluster is not None else address, timeout=20, set_as_default=False
            )
        except OSError as error:
            raise SchedulerLost(
                "The dask scheduler cannot be reached.", key=address, found=str(error), hint="is it running?"
            ) from None

    def map(
        self, function: Callable[[Any], Any], items: Iterable[tuple[int, Any]]
    ) -> Iterator[list[tuple[int, Outcome]]]:
        """Keep the workers busy with items, a bounded number ahead."""
        waiting = iter(items)
        pending: dict[Any, int] = {}
        arrived: queue.SimpleQueue[Any] = queue.SimpleQueue()
        ahead = max(64, 8 * self.workers)
        try:
            while True:
                while len(pending) < ahead and (following := next(waiting, None)) is not None:
                    index, item = following
                    future = self._client.submit(attempt, function, item, pure=False)
                    pending[future] = index
                    future.add_done_callback(arrived.put)
                if not pending:
                    return
                ready = _drain(arrived)
                self.check()
                yield [(pending.pop(future), outcome) for future, outcome in self._gather(ready)]
        finally:
            if pending:
                with contextlib.suppress(Exception):
                    self._client.cancel(list(pending), force=True)

    def _gather(self, futures: list[Any]) -> list[tuple[Any, Outcome]]:
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
        offered = self._resources() if resources else set()
        known = {name: amount for name, amount in resources.items() if name in offered}
        future: Future = self._client.submit(function, argument, pure=False, retries=1, resources=known or None)
        return future

    def _resources(self) -> set[str]:
        workers = self._client.scheduler_info(n_workers=-1)["workers"].values()
        return {name for worker in workers for name in worker.get("resources", {})}

    @property
    def workers(self) -> int:
        """How many tasks can run at once."""
        return sum(self._client.nthreads().values()) or 1

    def check(self) -> None:
        """Raise ``SchedulerLost`` where the scheduler cannot be reached any more."""
        if self._client.status not in ("running", "connecting"):
            raise self._lost(f"the connection is {self._client.status}")
        comm = self._client.scheduler_comm
        if comm is None or comm.comm.closed():
            raise self._lost("the connection is closed")

    def _lost(self, why: str) -> SchedulerLost:
        return SchedulerLost(
            "The dask scheduler was lost; what was committed is kept.",
            key=self.address,
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


def make_scheduler(text: str | Scheduler | None) -> Scheduler:
    """A scheduler from its text: nothing or ``serial``, ``local:N``, ``tcp://host:port``.

    Raises
    ------
    InvalidConfig
        If it is none of these.
    """
    if isinstance(text, Scheduler):
        return text
    if text in (None, "", "serial"):
        return Serial()
    assert text is not None
    if text.startswith(("local:", "tcp://", "tls://", "ucx://")):
        if text.startswith("local:"):
            _count(text)
        return Dask(text)
    raise InvalidConfig(
        "There is no such scheduler.",
        expected="serial, local:N (N processes on this machine) or tcp://host:port",
        found=text,
        hint="for example --scheduler local:2",
    )


def attempt(function: Callable[[Any], Any], item: Any, attempts: int = ATTEMPTS) -> Outcome:
    """Apply a function to an item: its packed result, or the message of its last failure."""
    from ..store.blob import pack

    message = ""
    for _ in range(attempts):
        try:
            return pack(function(item)), ""
        except Exception as error:  # noqa: BLE001 - whatever a module's function raises is the item's failure
            message = f"{type(error).__name__}: {error}"
    return None, message


def _count(address: str) -> int:
    text = address.removeprefix("local:")
    if not text.isdigit() or int(text) < 1:
        raise InvalidConfig(
            "The number of workers is a whole number from 1.", expected="local:N", found=address, hint="local:2"
        )
    return int(text)


def _drain(arrived: queue.SimpleQueue[Any]) -> list[Any]:
    """What has arrived by now; waits a little where nothing has."""
    found = []
    deadline = time.monotonic() + POLL_SECONDS
    with contextlib.suppress(queue.Empty):
        found.append(arrived.get(timeout=max(0.0, deadline - time.monotonic())))
        while True:
            found.append(arrived.get_nowait())
    return found


def _result(future: Any) -> Outcome:
    try:
        outcome: Outcome = future.result(timeout=60)
    except Exception as error:  # noqa: BLE001 - a killed worker, or a result that cannot travel
        return None, f"{type(error).__name__}: {error}"
    return outcome
