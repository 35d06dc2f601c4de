"""What the committing process answers to Map, Call and Wait."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..schemas.errors import ComputeFailed, H5mlError, Interrupted
from ..schemas.run import Run
from ..store.store import Store
from .commit import RunTransaction
from .execution import Execution, Requests, Setting, TaskFailed, now
from .inputs import StoredInput, StoredOutput
from .maps import run_map
from .module import Call, Handle, Map, Output, Progress, Wait
from .plan import Plan, find_call_inputs, make_plan
from .registry import Registry
from .scheduler import Future, Scheduler
from .signals import LinkedStop
from .staging import Committer, Task, work
from .standing import Elsewhere, Found, Start, look_up
from .take_over import take_over

if TYPE_CHECKING:
    import xarray as xr

WAIT_SECONDS = 0.02


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
    """

    store: Store
    registry: Registry
    scheduler: Scheduler
    committer: Committer
    execute: Callable[[Plan, Services, Setting, bool], Run]
    ancestors: tuple[str, ...] = ()

    def below(self, run_id: str) -> Services:
        """The same for the calls of a run."""
        return Services(
            self.store, self.registry, self.scheduler, self.committer, self.execute, (*self.ancestors, run_id)
        )


@dataclass(slots=True)
class Pending:
    """A call under way, or ended."""

    plan: Plan
    name: str
    future: Future | None = None
    on_worker: bool = False
    ended: int = 0
    error: H5mlError | None = None
    twin: Pending | None = None


class LocalRequests(Requests):
    """Answers of the committing process.

    Parameters
    ----------
    execution : Execution
        The run that asks.
    services : Services
        What it shares with others.
    """

    def __init__(self, execution: Execution, services: Services) -> None:
        self._execution, self._services = execution, services
        self._plan, self._store, self._setting = execution.plan, execution.store, execution.setting
        self._maps: set[str] = set()
        self._pending: dict[tuple[str, str], Pending] = {}
        self._ended = 0
        self._waits = 0
        self._given_up = LinkedStop(self._setting.stop)
        self._threads: ThreadPoolExecutor | None = None

    def map(self, request: Map) -> list[xr.Dataset]:
        """Compute what is not stashed yet, and commit results as they arrive."""
        if request.name in self._maps:
            raise ComputeFailed(
                "Two maps of one run have the same name.",
                key=self._plan.root_key,
                found=request.name,
                hint="name them: Map(function, items, name=...)",
            )
        self._maps.add(request.name)
        return run_map(self._execution, request, self._services.scheduler, self.poll)

    # --- calls ---------------------------------------------------------------------------------------------------

    def call(self, request: Call) -> Handle:
        """Plan a call and begin it: at once in this process, or on a worker."""
        plan = self._child(request)
        handle = Handle(request.name, plan.run_id)
        if (request.name, plan.run_id) in self._pending:
            return handle
        pending = Pending(plan, request.name)
        pending.twin = next((p for p in self._pending.values() if p.plan.run_id == plan.run_id), None)
        self._pending[request.name, plan.run_id] = pending
        if pending.twin is None:
            self._begin(pending)
        return handle

    def _child(self, request: Call) -> Plan:
        root = f"{self._plan.root_key}/{request.name}"
        module = self._services.registry.named(request.module)
        inputs = find_call_inputs(self._plan, module, request.inputs, root)
        plan = make_plan(
            module,
            request.config,
            inputs,
            root,
            seed=request.seed,
            parent=self._plan.run_id,
            new_version=self._plan.new_version,
            device=self._plan.device,
        )
        if plan.run_id in (*self._services.ancestors, self._plan.run_id):
            raise ComputeFailed("A run calls itself.", key=root, found=f"{module.name} with the same settings")
        return plan

    def _begin(self, pending: Pending) -> None:
        if self._services.scheduler.remote:
            self._begin_remote(pending)
            return
        try:
            self._services.execute(pending.plan, self._below(), self._quiet(pending.name), False)
        except (Interrupted, KeyboardInterrupt):
            raise
        except H5mlError as error:
            pending.error = error
        self._end(pending)

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
        services.committer.folder.mkdir(parents=True, exist_ok=True)
        task = Task(self._store, plan, services.committer.folder)
        pending.future = services.scheduler.submit(work, task, plan.module.resources)
        pending.on_worker = True

    def _below(self) -> Services:
        return self._services.below(self._plan.run_id)

    def _quiet(self, name: str) -> Setting:
        """The setting of a call: it reports through the run that called it."""
        outer: Progress = self._setting.progress

        def report(done: float, total: float, text: str = "") -> None:
            outer(done, total, f"{name}: {text}" if text else name)

        return Setting(self._setting.stop, report, self._setting.logger)

    def _end(self, pending: Pending) -> None:
        self._ended += 1
        pending.ended, pending.future = self._ended, None

    # --- waiting -------------------------------------------------------------------------------------------------

    def wait(self, request: Wait) -> Sequence[Handle]:
        """Wait for all handles, or for the first; which that was is replayed."""
        wanted = [self._known(handle) for handle in request.handles]
        mark = ""
        if request.first:
            mark = f"wait:{self._waits}"
            self._waits += 1
            told = self._store.marks(self._plan.run_id).get(mark)
            chosen = [p for p in wanted if told is not None and [p.name, p.plan.run_id] == list(told)]
            if chosen:
                wanted, mark = chosen, ""
            elif told is not None:
                self._setting.logger.warning("%s: %s ended first before, but is not waited for now", mark, told)
        ended = self._until(wanted, first=bool(mark))
        failed = next((pending for pending in ended if pending.error is not None), None)
        if failed is not None:
            raise _call_failed(failed)
        if mark:
            chosen_one = ended[0]
            with RunTransaction(self._store, f"{self._plan.root_key}: {chosen_one.name} ended first") as transaction:
                transaction.mark(self._plan.run_id, mark, [chosen_one.name, chosen_one.plan.run_id])
        return [self._finished(pending) for pending in ended]

    def _known(self, handle: Handle) -> Pending:
        found = self._pending.get((handle.name, handle.run_id))
        if found is None:
            raise ComputeFailed("A handle comes from no call of this run.", key=self._plan.root_key, found=handle.name)
        return found

    def _until(self, wanted: list[Pending], *, first: bool) -> list[Pending]:
        if not wanted:
            return []
        while True:
            self.poll()
            ended = sorted((p for p in wanted if p.ended), key=lambda p: p.ended)
            if ended and first:
                return ended[:1]
            if len(ended) == len(wanted):
                return wanted
            if self._setting.stop():
                raise self._setting.stop.error(self._plan.root_key)
            self._services.scheduler.check()
            time.sleep(WAIT_SECONDS)

    def poll(self) -> None:
        """Merge what workers committed, and see which calls ended."""
        for pending in list(self._pending.values()):
            if not pending.ended:
                self._look_after(pending)

    def _look_after(self, pending: Pending) -> None:
        if pending.twin is not None:
            twin = pending.twin
            if twin.ended and twin.error is None:
                pending.twin = None
                self._begin(pending)
            elif twin.ended:
                pending.error = twin.error
                self._end(pending)
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
            raise
        except H5mlError as error:
            pending.error = error
        except Exception as error:  # noqa: BLE001 - whatever dask says of a worker that died
            self._services.scheduler.check()
            pending.error = self._lost(pending, f"{type(error).__name__}: {error}")
        else:
            if pending.on_worker:
                self._collect(pending, outcome)
                return
        self._end(pending)

    def _collect(self, pending: Pending, outcome: tuple[str, str]) -> None:
        """What a worker said: the run ended, or must go on in this process."""
        status, message = outcome
        plan, committer = pending.plan, self._services.committer
        committer.merge(plan.run_id)
        committer.clear(plan.run_id)
        if status == "escalate":
            self._threads = self._threads or ThreadPoolExecutor(thread_name_prefix="h5ml-run")
            setting = self._quiet(pending.name)
            setting.stop = self._given_up
            pending.on_worker = False
            pending.future = self._threads.submit(self._services.execute, plan, self._below(), setting, True)
            return
        if self._store.catalogue.runs[plan.run_id].status != "done":
            pending.error = ComputeFailed(message.partition("\n")[0] or status, key=plan.root_key, found=message)
        self._end(pending)

    def _lost(self, pending: Pending, message: str) -> ComputeFailed:
        run_id = pending.plan.run_id
        self._services.committer.clear(run_id)
        error = ComputeFailed("A worker was lost, again and again.", key=pending.plan.root_key, found=message)
        self._record(run_id, "failed", str(error))
        return error

    def _record(self, run_id: str, status: str, message: str) -> None:
        with RunTransaction(self._store, f"{self._plan.root_key}: a call {status}") as transaction:
            transaction.record({"id": run_id, "status": status, "error": message, "ended": now()})

    def _finished(self, pending: Pending) -> Handle:
        plan = pending.plan
        outputs = {}
        for name in plan.outputs:
            entry = self._store.entry(plan.key(name))
            load = StoredOutput(StoredInput.of(self._store, entry))
            outputs[name] = Output(name, entry.kind, entry.digest, entry.reference, load)
        return Handle(pending.name, plan.run_id, outputs)

    # --- the end -------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Wait for the calls that nobody waited for; one that failed fails the run."""
        unheard = [pending for pending in self._pending.values() if not pending.ended]
        failed = next((pending for pending in self._until(unheard, first=False) if pending.error is not None), None)
        self._close_threads()
        if failed is not None:
            raise _call_failed(failed)

    def abandon(self) -> None:
        """Give up what is under way; what it committed is merged and kept."""
        self._given_up.signal = 15
        for pending in self._pending.values():
            if pending.ended or pending.future is None:
                continue
            pending.future.cancel()
            if pending.on_worker:
                self._services.committer.merge(pending.plan.run_id)
                self._services.committer.clear(pending.plan.run_id)
                if self._store.catalogue.runs[pending.plan.run_id].status == "running":
                    self._record(pending.plan.run_id, "interrupted", "given up with the run that called it")
        self._close_threads()

    def _close_threads(self) -> None:
        if self._threads is not None:
            self._threads.shutdown(wait=True, cancel_futures=True)
            self._threads = None


def _no_requests(execution: Execution) -> Requests:
    del execution
    return Requests()


def _call_failed(pending: Pending) -> TaskFailed:
    error: Any = pending.error
    return TaskFailed(
        f"The call {pending.name!r} of {pending.plan.module.name} failed: {error.message}",
        key=pending.plan.root_key,
        expected=error.expected,
        found=error.found,
        hint=error.hint,
    )
