"""The execution of one planned run: drives the module, answers its requests, commits what it makes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ..schemas.errors import ComputeFailed, H5mlError, Interrupted, nearest
from ..schemas.kind import Kind
from ..schemas.run import CallRef, Run
from ..store.store import Store
from .commit import Displaced, RunTransaction
from .identity import environment, loaded_facts
from .module import Block, Call, Context, Handle, Map, Progress, Recall, Replace, Request, Wait, no_progress
from .plan import Plan
from .scratch import scratch_folder
from .signals import Stop, TimeLimit
from .standing import Start, is_left_behind

if TYPE_CHECKING:
    import xarray as xr

Data = Mapping[str, "xr.Dataset"]
_CALL = "call:"


class Requests:
    """Answers to the requests that need more than a store; the base knows none of them."""

    def map(self, request: Map) -> Sequence[xr.Dataset]:
        """The results of a map."""
        raise NotImplementedError

    def call(self, request: Call) -> Handle:
        """Begin a call."""
        raise NotImplementedError

    def wait(self, request: Wait) -> Sequence[Handle]:
        """Wait for calls."""
        raise NotImplementedError

    def recall(self, request: Recall) -> list[tuple[str, xr.Dataset]]:
        """Data that the store has already."""
        raise NotImplementedError

    def poll(self) -> None:
        """Look after calls under way."""

    def finish(self) -> None:
        """Wait for all calls that nobody waited for."""

    def abandon(self) -> None:
        """Give up calls under way, keeping what they committed."""


@dataclass(slots=True)
class Setting:
    """What surrounds an execution.

    Attributes
    ----------
    stop : callable
        Whether somebody asked to stop.
    progress : Progress
        Where the module reports.
    logger : logging.Logger
        For messages to the user.
    owned : bool
        Whether the run was begun already, and this goes on with it.
    base : mapping or None
        For a worker: what of each output lies in the main store already, by output and dimension.
    time_limit_s : float or None
        How long the module may compute, and each item of its maps; answers to its requests do not count.
    needs : mapping
        What the items of its maps need of a worker, in place of what the module says.
    """

    stop: Stop = field(default_factory=Stop)
    progress: Progress = no_progress
    logger: logging.Logger = field(default_factory=lambda: logging.getLogger("h5ml"))
    owned: bool = False
    base: Mapping[str, Mapping[str, int]] | None = None
    time_limit_s: float | None = None
    needs: Mapping[str, float] = field(default_factory=dict)


class Execution:
    """One execution of a planned run against one store.

    Parameters
    ----------
    store : Store
        Where it commits: the user's store, or the staging store of a worker.
    plan, start : Plan, Start
        What is run, and where it begins.
    setting : Setting
        What surrounds it.
    requests : callable
        Makes what answers Map, Call and Wait for this execution.
    """

    def __init__(
        self, store: Store, plan: Plan, start: Start, setting: Setting, requests: Callable[[Execution], Requests]
    ) -> None:
        self.store, self.plan, self.start, self.setting = store, plan, start, setting
        self.outputs = plan.outputs
        self.committed = dict(start.committed)
        self.present = set(start.committed)
        self.here: set[str] = set() if setting.base is not None else set(start.committed)
        self._has_restart = start.restart is not None
        self._continues = start.continues if setting.base is None else None
        self._limit = TimeLimit(setting.time_limit_s, plan.root_key)
        self._began = (time.perf_counter(), time.process_time())
        self._calls = self._calls_before()
        self._unmarked: dict[str, CallRef] = {}
        self.requests = requests(self)

    # --- the course of a run -------------------------------------------------------------------------------------

    def run(self) -> Run:
        """Execute to the end.

        Raises
        ------
        ComputeFailed
            If the module fails; the run is recorded as failed.
        Interrupted
            If a signal came; the run is recorded as interrupted.
        """
        self.begin()
        try:
            data = self._execute()
            self.requests.finish()
            self._finish(data)
        except (Interrupted, KeyboardInterrupt):
            self.requests.abandon()
            self._record_end("interrupted", "stopped by a signal")
            raise
        except Displaced:  # the record is another's by now
            self.requests.abandon()
            raise
        except Exception as error:
            failure = self._failure(error)
            self.requests.abandon()
            self._record_end("failed", str(failure))
            raise failure from error
        return self.store.catalogue.runs[self.plan.run_id]

    def begin(self) -> None:
        """Record that the run is under way, and remove partial outputs that nothing can go on from."""
        with RunTransaction(self.store, f"{self.plan.module.name} {self.plan.root_key}: start") as transaction:
            if not self.setting.owned and self.setting.base is None:
                transaction.claim(self.plan.run_id)
            for reference in self.start.stale if self.setting.base is None else ():  # a worker's store has none of them
                transaction.remove(reference)
            transaction.record(self._opening())
            if self.setting.base is not None:
                transaction.mark("staging", "base", self._base_facts())

    def _opening(self) -> Run:
        plan, previous = self.plan, self.start.previous
        facts = environment(plan.device)
        specs = plan.specs()
        return Run(
            id=plan.run_id,
            prefix_id=plan.prefix_id,
            module=plan.module.name,
            module_version=plan.module.version,
            root_key=plan.root_key,
            config=plan.config.canonical(),
            seed=plan.seed,
            inputs=plan.refs(),
            engines=plan.engines(),
            calls=self._received(),
            status="running",
            started=previous.started if previous is not None else now(),
            wall_s=previous.wall_s if previous is not None else 0.0,
            cpu_s=previous.cpu_s if previous is not None else 0.0,
            resumed=previous.resumed + (not self.setting.owned) if previous is not None else 0,
            continues=self.start.continues,
            parent=plan.parent,
            environment={**facts, "potentials": specs} if specs else facts,
        )

    def _base_facts(self) -> dict[str, Any]:
        plan = self.plan
        return {
            "run": plan.run_id,
            "sizes": {name: dict(sizes) for name, sizes in (self.setting.base or {}).items()},
            "keys": {name: plan.key(name) for name in self.outputs},
            "new_version": plan.new_version,
            "continues": self.start.continues,
            "extendable": bool(plan.config.horizon_fields()),
        }

    def _execute(self) -> Data:
        plan, stop = self.plan, self.setting.stop
        with scratch_folder() as scratch:
            context = Context(
                seed=plan.seed,
                device=plan.device,
                scratch=scratch,
                logger=self.setting.logger,
                progress=self.setting.progress,
                stopping=self.setting.stop,
                restart=self.start.restart,
                committed=dict(self.committed),
                sources=self.plan.sources(),
            )
            stop.immediate = True  # there is no request to wait for while a plain function computes
            try:
                with self._limit.counting():
                    result = plan.module.function(plan.config, plan.load_inputs(), context)
            finally:
                stop.immediate = False
            return self._drive(result) if isinstance(result, Generator) else result

    def _drive(self, generator: Generator[Request, Any, Data | None]) -> Data:
        answer: Any = None
        error: ComputeFailed | None = None
        try:
            while True:
                if self.setting.stop():
                    raise self.setting.stop.error(self.plan.root_key)
                try:
                    with self._limit.counting():
                        request = generator.send(answer) if error is None else generator.throw(error)
                except StopIteration as end:
                    return end.value or {}
                answer, error = self._answer(request)
        finally:
            generator.close()

    def _answer(self, request: Request) -> tuple[Any, ComputeFailed | None]:
        """The answer to a request, or the failure of what was asked for, to be raised inside the module."""
        try:
            match request:
                case Block() | Replace():
                    self._commit(request.data, request.restart, replace=isinstance(request, Replace))
                    return None, None
                case Map():
                    return self.requests.map(request), None
                case Call():
                    return self.requests.call(request), None
                case Wait():
                    return list(self.requests.wait(request)), None
                case Recall():
                    return self.requests.recall(request), None
        except TaskFailed as failure:
            return None, failure
        raise ComputeFailed(
            f"The module {self.plan.module.name} yielded something that is no request.",
            expected="Block, Replace, Map, Call, Wait or Recall",
            found=type(request).__name__,
        )

    # --- commits -------------------------------------------------------------------------------------------------

    def _commit(self, data: Data, restart: xr.Dataset | None, *, replace: bool) -> None:
        plan = self.plan
        with RunTransaction(self.store, f"{plan.module.name} {plan.root_key}") as transaction:
            added = {name: self._put(transaction, name, dataset, replace) for name, dataset in data.items()}
            if restart is not None:
                transaction.restart(plan.run_id, restart)
                for mark, call in self._unmarked.items():
                    transaction.mark(plan.run_id, mark, call.model_dump(mode="json"))
                self._drop_continued(transaction)
            elif not replace and self._has_restart:
                transaction.forget(plan.run_id, restart=True)
            transaction.record({"id": plan.run_id, **self._times()})
        for name, records in added.items():
            self.committed[name] = records if replace else self.committed.get(name, 0) + records
            self.present.add(name)
            self.here.add(name)
        self._has_restart = restart is not None or (replace and self._has_restart)
        self._unmarked = {} if restart is not None else self._unmarked
        self.requests.poll()

    def _put(self, transaction: RunTransaction, name: str, dataset: xr.Dataset, replace: bool) -> int:
        plan, kind = self.plan, self._kind(name)
        key = plan.key(name)
        records = int(dataset.sizes.get(kind.grows[0], 0)) if kind.grows else 0
        if not replace and not kind.grows:
            raise ComputeFailed(
                f"The module {plan.module.name} yields blocks of {name!r}, but its kind does not grow.",
                key=key,
                expected="Replace, or a kind with a growing dimension",
                found=f"Block of kind {kind.name}",
            )
        if replace:
            if name in self.here or not plan.new_version:
                transaction.replace(key, dataset, kind, run=plan.run_id)
            else:
                transaction.begin(key, dataset, kind, plan.run_id, growing=False, new_version=True)
        elif name in self.here:
            before = self.committed.get(name, 0)
            if self.setting.base is not None:
                before -= self.setting.base.get(name, {}).get(kind.grows[0], 0)
            transaction.extend(key, dataset, plan.run_id, before)
        else:
            transaction.begin(key, dataset, kind, plan.run_id, growing=True, new_version=plan.new_version)
        return records

    def _kind(self, name: str) -> Kind:
        if name not in self.outputs:
            raise ComputeFailed(
                f"The module {self.plan.module.name} made an output that it does not declare.",
                key=self.plan.root_key,
                expected=", ".join(self.outputs) or "no outputs",
                found=name,
                hint=nearest(name, self.outputs),
            )
        return self.outputs[name]

    def _drop_continued(self, transaction: RunTransaction) -> None:
        """Once the extension has its own restart state, that of the shorter run is of use to copies alone."""
        if self._continues is not None:
            if is_left_behind(self.store.catalogue, self._continues, set(map(self.plan.key, self.outputs))):
                transaction.forget(self._continues, restart=True)
            self._continues = None

    def _finish(self, data: Data) -> None:
        plan = self.plan
        for name in data:
            self._kind(name)
        missing = [name for name in self.outputs if name not in data and name not in self.present]
        if missing:
            raise ComputeFailed(
                f"The module {plan.module.name} ended without making all its outputs.",
                key=plan.root_key,
                expected=", ".join(self.outputs),
                found=f"without {', '.join(missing)}",
            )
        with RunTransaction(self.store, f"{plan.module.name} {plan.root_key}: done") as transaction:
            for name, dataset in data.items():
                if name in self.here:
                    transaction.replace(plan.key(name), dataset, self.outputs[name], run=plan.run_id)
                else:
                    transaction.begin(
                        plan.key(name),
                        dataset,
                        self.outputs[name],
                        plan.run_id,
                        growing=False,
                        new_version=plan.new_version,
                    )
            record = {"id": plan.run_id, "status": "done", "ended": now(), "error": None, **self._account()}
            here = {*self.here, *data} if self.setting.base is not None else self.outputs
            transaction.done({**record, **self._environment()}, {name: plan.key(name) for name in here})
            transaction.forget(plan.run_id, restart=not plan.config.horizon_fields())

    # --- records -------------------------------------------------------------------------------------------------

    def _record_end(self, status: str, message: str) -> None:
        """Record how a run ended; a store that refuses this too leaves it as it was, and it can be resumed."""
        record = {"id": self.plan.run_id, "status": status, "ended": now(), "error": message, **self._account()}
        try:
            with RunTransaction(self.store, f"{self.plan.module.name} {self.plan.root_key}: {status}") as transaction:
                transaction.record({**record, **self._environment()})
        except H5mlError as error:
            self.setting.logger.warning("the end of a run could not be recorded: %s", error.message)

    def received(self, call: CallRef) -> None:
        """Note that the module was given the outputs of a call."""
        mark = f"{_CALL}{call.name}:{call.run}"
        if self._calls.get(mark) != call:
            self._calls[mark] = self._unmarked[mark] = call

    def _calls_before(self) -> dict[str, CallRef]:
        """What was received before the restart state: a module that goes on from there does not ask for it again."""
        if self.start.restart is None:
            return {}
        shorter = self.store.catalogue.runs.get(self.start.continues or "")
        found = {f"{_CALL}{call.name}:{call.run}": call for call in (shorter.calls if shorter is not None else ())}
        marks = self.store.marks(self.plan.run_id).items()
        return found | {name: CallRef.model_validate(told) for name, told in marks if name.startswith(_CALL)}

    def _received(self) -> list[CallRef]:
        return sorted(self._calls.values(), key=lambda call: (call.name, call.run))

    def _account(self) -> dict[str, Any]:
        """What the end of a run records, however it ended."""
        return {**self._times(), "calls": [call.model_dump(mode="json") for call in self._received()]}

    def _times(self) -> dict[str, float]:
        previous = self.start.previous
        wall, cpu = (previous.wall_s, previous.cpu_s) if previous is not None else (0.0, 0.0)
        return {
            "wall_s": round(wall + time.perf_counter() - self._began[0], 4),
            "cpu_s": round(cpu + time.process_time() - self._began[1], 4),
        }

    def _environment(self) -> dict[str, Any]:
        known = self.store.catalogue.runs[self.plan.run_id].environment
        return {"environment": {**known, **loaded_facts()}}

    def _failure(self, error: Exception) -> H5mlError:
        if isinstance(error, H5mlError):
            return error
        return ComputeFailed(
            f"The module {self.plan.module.name} failed: {type(error).__name__}: {error}",
            key=self.plan.root_key,
            hint="what it had committed is kept; `-v` shows where it failed",
        )


class TaskFailed(ComputeFailed):
    """An item of a map or a call failed; raised inside the module that asked for it."""


def now() -> str:
    """The time, UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
