"""What the committing process answers to Map, Call and Wait."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..schemas.canonical import canonical_attributes
from ..schemas.errors import ComputeFailed
from ..schemas.run import CallRef
from .commit import RunTransaction
from .crew import Crew, Pending, Services, call_failed
from .execution import Execution, Requests, TaskFailed
from .inputs import StoredInput, StoredOutput
from .maps import run_map
from .module import Call, Handle, Map, Output, Recall, Wait
from .plan import Plan, find_call_inputs, make_plan

if TYPE_CHECKING:
    import xarray as xr

WAIT_SECONDS = 0.02


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
        self._calls: dict[tuple[str, str], Pending] = {}
        self._crew = Crew(services.below(execution.plan.run_id), execution.setting)
        self._waits = 0

    def map(self, request: Map) -> Sequence[xr.Dataset]:
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

    def call(self, request: Call) -> Handle:
        """Plan a call and begin it: at once in this process, or on a worker."""
        plan = self._child(request)
        if (request.name, plan.run_id) not in self._calls:
            self._calls[request.name, plan.run_id] = self._crew.begin(plan, request.name)
        return Handle(request.name, plan.run_id)

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
            raise _failed(failed)
        if mark:
            chosen_one = ended[0]
            with RunTransaction(self._store, f"{self._plan.root_key}: {chosen_one.name} ended first") as transaction:
                transaction.mark(self._plan.run_id, mark, [chosen_one.name, chosen_one.plan.run_id])
        return [self._finished(pending) for pending in ended]

    def _known(self, handle: Handle) -> Pending:
        found = self._calls.get((handle.name, handle.run_id))
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

    def recall(self, request: Recall) -> list[tuple[str, xr.Dataset]]:
        """Every version of every key that has them, newest first; each is read when it is looked at."""
        wanted = canonical_attributes(request.attributes)
        found = [
            entry
            for entry in self._store.catalogue.all_versions()
            if entry.kind == request.kind.name
            and not entry.purged
            and all(entry.attributes.get(name) == value for name, value in wanted.items())
        ]
        found.sort(key=lambda entry: (entry.modified, entry.reference), reverse=True)
        return [(entry.reference, StoredInput.of(self._store, entry).load()) for entry in found]

    def poll(self) -> None:
        """Merge what workers committed, and see which calls ended."""
        self._crew.poll()

    def _finished(self, pending: Pending) -> Handle:
        plan = pending.plan
        outputs, refs = {}, {}
        for name in sorted(plan.outputs):  # as it comes back from the store after a kill
            entry = self._store.entry(plan.key(name))
            load = StoredOutput(StoredInput.of(self._store, entry))
            outputs[name], refs[name] = Output(name, entry.kind, entry.digest, entry.reference, load), entry.ref
        self._execution.received(CallRef(name=pending.name, run=plan.run_id, outputs=dict(sorted(refs.items()))))
        return Handle(pending.name, plan.run_id, outputs)

    def finish(self) -> None:
        """Wait for the calls that nobody waited for; one that failed fails the run."""
        unheard = [pending for pending in self._calls.values() if not pending.ended]
        failed = next((pending for pending in self._until(unheard, first=False) if pending.error is not None), None)
        self._crew.close()
        if failed is not None:
            raise _failed(failed)

    def abandon(self) -> None:
        """Give up what is under way; what it committed is merged and kept."""
        self._crew.abandon()


def _failed(pending: Pending) -> TaskFailed:
    assert pending.error is not None
    said = f"The call {pending.name!r} of {pending.plan.module.name} failed: {pending.error.message}"
    return TaskFailed(said, **call_failed(pending))
