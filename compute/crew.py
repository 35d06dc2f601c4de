"""Runs under way: begun in this process or on workers, looked after until each of them has ended.

The calls of one run are looked after so, and the steps of a campaign. All of it happens in the process that commits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from ..schemas.errors import ComputeFailed, H5mlError, Interrupted
from ..schemas.run import Run
from ..store.store import Store
from .commit import RunTransaction
from .execution import Execution, Requests, Setting, now
from .module import Progress
from .plan import Plan
from .registry import Registry
from .scheduler import Future, Scheduler, failure_text
from .signals import LinkedStop
from .staging import Committer
from .standing import Elsewhere, Found, Start, look_up
from .take_over import take_over

MOST_THREADS = 1000
"""Threads of runs that ask for others: they wait, nearly all of the time."""


@dataclass(frozen=True, slots=True)
class Services:
    """What the runs of one session share.

    Attributes
    ----------
    store : Store
        Where they commit.
    registry : Registry
        Modules that calls may name.
    scheduler : Scheduler
        Where work runs.
    committer : Committer
        Merges what workers staged.
    execute : callable
        Runs a plan in this process: ``execute(plan, services, setting, owned)``.
    ancestors : tuple of str
        Ids of the runs that this one was called from.
    claims : dict
        Run id to who computes it now, so that nothing is computed twice at the same time.
    """

    store: Store
    registry: Registry
    scheduler: Scheduler
    committer: Committer
    execute: Callable[[Plan, Services, Setting, bool], Run]
    ancestors: tuple[str, ...] = ()
    claims: dict[str, Pending] = field(default_factory=dict)

    def below(self, run_id: str) -> Services:
        """The same for the calls of a run."""
        return replace(self, ancestors=(*self.ancestors, run_id))


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms a run is executed; none of it changes the result.

    Attributes
    ----------
    resources : mapping
        What it needs of a worker, in place of what its module says.
    retries : int
        How often it is begun again after a failure.
    time_limit_s : float or None
        After this time its process is given up.
    """

    resources: Mapping[str, float] = field(default_factory=dict)
    retries: int = 0
    time_limit_s: float | None = None


@dataclass(slots=True, eq=False)
class Pending:
    """A run under way, or ended.

    Attributes
    ----------
    plan, name, terms : Plan, str, Terms
        What is run, what it is called, and on what terms.
    ended : int
        Zero while it is under way; else its place among those that ended.
    error : H5mlError or None
        Why it failed.
    trace : str
        The traceback of a failure on a worker.
    """

    plan: Plan
    name: str
    terms: Terms
    future: Future | None = None
    on_worker: bool = False
    ended: int = 0
    error: H5mlError | None = None
    trace: str = ""
    given_up: bool = False
    tried: int = 0
    twin: Pending | None = None


class Crew:
    """Looks after runs under way.

    Parameters
    ----------
    services : Services
        What they share with others.
    setting : Setting
        What surrounds them.
    """

    def __init__(self, services: Services, setting: Setting) -> None:
        self._services, self._setting, self._store = services, setting, services.store
        self._under_way: list[Pending] = []
        self._ended = 0
        self._given_up = LinkedStop(setting.stop)
        self._threads: ThreadPoolExecutor | None = None

    def begin(self, plan: Plan, name: str, terms: Terms | None = None) -> Pending:
        """Begin a run: in this process, where it has ended when this returns, or on a worker."""
        pending = Pending(plan, name, terms or Terms())
        self._under_way.append(pending)
        self._begin(pending)
        return pending

    def _begin(self, pending: Pending) -> None:
        holder = self._services.claims.setdefault(pending.plan.run_id, pending)
        pending.twin = holder if holder is not pending else None
        if pending.twin is not None:  # the same run is under way: its result will be taken over
            return
        pending.tried += 1
        try:
            if self._services.scheduler.remote:
                self._begin_remote(pending)
            else:
                self._services.execute(pending.plan, self._services, self._setting_of(pending), False)
                self._end(pending)
        except (Interrupted, KeyboardInterrupt):
            self._end(pending, given_up=True)
            raise
        except H5mlError as error:
            self._fail(pending, error)

    def _begin_remote(self, pending: Pending) -> None:
        plan, services = pending.plan, self._services
        standing = look_up(self._store, plan)
        if isinstance(standing, Elsewhere):
            take_over(self._store, plan, standing)
        if isinstance(standing, Found | Elsewhere):
            self._end(pending)
            return
        assert isinstance(standing, Start)
        Execution(self._store, plan, standing, self._setting, _no_requests).begin()
        if plan.module.calls is not None:  # it will ask for other runs, which only this process can answer
            self._begin_thread(pending)
            return
        needs = {**plan.module.resources, **pending.terms.resources}
        pending.future = services.committer.send(services.scheduler, plan, needs, pending.terms.time_limit_s)
        pending.on_worker = True

    def _begin_thread(self, pending: Pending) -> None:
        """Go on with a run in a thread of this process."""
        self._threads = self._threads or ThreadPoolExecutor(MOST_THREADS, thread_name_prefix="h5ml-run")
        setting = self._setting_of(pending)
        setting.stop = self._given_up
        self.computes(pending)
        pending.on_worker = False
        pending.future = self._threads.submit(self._services.execute, pending.plan, self._services, setting, True)

    def _setting_of(self, pending: Pending) -> Setting:
        progress, terms = self.progress_of(pending), pending.terms
        return Setting(
            self._setting.stop,
            progress,
            self._setting.logger,
            time_limit_s=terms.time_limit_s,
            needs=terms.resources,
        )

    def progress_of(self, pending: Pending) -> Progress:
        """Where a run reports: through the one that began it."""
        outer, name = self._setting.progress, pending.name

        def report(done: float, total: float, text: str = "") -> None:
            outer(done, total, f"{name}: {text}" if text else name)

        return report

    def computes(self, pending: Pending) -> None:
        """Take note of a run that goes on in a thread of this process."""

    # --- looking after them --------------------------------------------------------------------------------------

    def poll(self) -> None:
        """Merge what workers committed, and see which runs ended."""
        for pending in list(self._under_way):
            self._look_after(pending)

    def _look_after(self, pending: Pending) -> None:
        if pending.ended:
            self._under_way.remove(pending)
            return
        if pending.twin is not None:
            self._follow(pending, pending.twin)
            return
        future = pending.future
        over = future is None or future.done()
        if pending.on_worker:
            self._services.committer.merge(pending.plan.run_id)
        if not over or future is None:
            return
        try:
            outcome = future.result()
        except (Interrupted, KeyboardInterrupt):
            self._end(pending, given_up=True)
            raise
        except H5mlError as error:
            self._fail(pending, error)
        except Exception as error:  # noqa: BLE001 - whatever dask says of a worker that died
            self._services.scheduler.check()
            self._fail(pending, self._lost(pending, failure_text(error)))
        else:
            if pending.on_worker:
                self._collect(pending, outcome)
            else:
                self._end(pending)

    def _follow(self, pending: Pending, twin: Pending) -> None:
        """See what became of the same run, begun by another."""
        if twin.ended and (twin.error is None or twin.given_up):
            self._begin(pending)
        elif twin.ended:
            pending.error, pending.trace = twin.error, twin.trace
            self._end(pending)

    def _collect(self, pending: Pending, outcome: tuple[str, str, str]) -> None:
        """What a worker said: the run ended, or must go on in this process."""
        status, message, trace = outcome
        plan, committer = pending.plan, self._services.committer
        committer.merge(plan.run_id)
        committer.clear(plan.run_id)
        if status == "escalate":
            self._begin_thread(pending)
            return
        if self._store.catalogue.runs[plan.run_id].status == "done":
            self._end(pending)
            return
        pending.trace = trace
        first, _, rest = message.partition("\n")
        error = ComputeFailed(first or status, key=plan.root_key, found=rest.strip() or None)
        if self._store.catalogue.runs[plan.run_id].status == "running":  # it died before it could say so itself
            self._record(plan.run_id, "failed", message)
        self._fail(pending, error)

    def _fail(self, pending: Pending, error: H5mlError) -> None:
        """Begin a run again that failed, as often as its terms allow; it goes on from its last commit."""
        if pending.tried <= pending.terms.retries and not self._given_up():
            self._setting.logger.warning("%s failed and is tried again: %s", pending.plan.root_key, error.message)
            self._services.claims.pop(pending.plan.run_id, None)
            pending.future = None
            self._begin(pending)
            return
        pending.error = error
        self._end(pending)

    def _end(self, pending: Pending, *, given_up: bool = False) -> None:
        self._ended += 1
        pending.given_up = given_up
        pending.ended, pending.future = self._ended, None
        if self._services.claims.get(pending.plan.run_id) is pending:
            del self._services.claims[pending.plan.run_id]

    def _lost(self, pending: Pending, message: str) -> ComputeFailed:
        run_id = pending.plan.run_id
        self._services.committer.merge(run_id)
        self._services.committer.clear(run_id)
        error = ComputeFailed("A worker was lost, again and again.", key=pending.plan.root_key, found=message)
        self._record(run_id, "failed", str(error))
        return error

    def _record(self, run_id: str, status: str, message: str) -> None:
        with RunTransaction(self._store, f"{run_id[:12]}: {status}") as transaction:
            transaction.record({"id": run_id, "status": status, "error": message, "ended": now()})

    # --- the end -------------------------------------------------------------------------------------------------

    def abandon(self) -> None:
        """Give up what is under way; what it committed is merged and kept."""
        self._given_up.signal = self._setting.stop.signal or 15
        for pending in self._under_way:
            if pending.ended:
                continue
            if pending.future is not None:
                pending.future.cancel()
            if pending.on_worker and pending.twin is None:
                self._services.committer.merge(pending.plan.run_id)
                self._services.committer.clear(pending.plan.run_id)
                if self._store.catalogue.runs[pending.plan.run_id].status == "running":
                    self._record(pending.plan.run_id, "interrupted", "given up with what began it")
        self.close()
        for pending in self._under_way:
            if not pending.ended:
                self._end(pending, given_up=True)

    def close(self) -> None:
        """Wait for the threads."""
        if self._threads is not None:
            self._threads.shutdown(wait=True, cancel_futures=True)
            self._threads = None


def _no_requests(execution: Execution) -> Requests:
    del execution
    return Requests()


def call_failed(pending: Pending) -> dict[str, Any]:
    """What an error says, to say it again in another."""
    error = pending.error
    assert error is not None
    return {"key": pending.plan.root_key, "expected": error.expected, "found": error.found, "hint": error.hint}
