"""Campaigns: the steps of a file, each made where it is missing or stale, as soon as what it reads is there."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..schemas.campaign import Campaign, ComputeStep, ImportStep
from ..schemas.errors import ComputeFailed, H5mlError, Interrupted
from ..schemas.scheduling import Place
from ..store.store import Store
from .crew import Crew, Pending, Services, Terms
from .execution import Setting
from .foresight import StepResult, file_digest, foresee
from .graph import Graph, build_graph, check_engines
from .module import Progress
from .plan import Plan
from .registry import Registry
from .runner import session
from .scheduler import Scheduler
from .staging import Committer
from .watching import Watcher

if TYPE_CHECKING:
    import xarray as xr

Reader = Callable[[Path, ImportStep], "xr.Dataset"]
WAIT_SECONDS = 0.02


class StepsFailed(ComputeFailed):
    """Steps of a campaign failed; those that do not need them may be done.

    Attributes
    ----------
    results : list of StepResult
        What became of every step.
    """

    results: Sequence[StepResult] = ()

    @classmethod
    def of(cls, results: Sequence[StepResult]) -> StepsFailed:
        """The error for what became of the steps; with the exit code of the first that failed."""
        failed = [(result.key, result.error) for result in results if result.error is not None]
        key, error = failed[0]
        if len(failed) == 1:
            said = f"The step {key} failed: {error.message}"
            made = cls(said, key=error.key, expected=error.expected, found=error.found, hint=error.hint)
        else:
            made = cls(f"{len(failed)} steps failed.", found="; ".join(f"{k}: {e.message}" for k, e in failed[:5]))
        made.results, made.exit_code = results, error.exit_code
        return made


def run_campaign(
    store: Store,
    campaign: Campaign,
    reader: Reader,
    *,
    scheduler: str | Place | Scheduler | None = None,
    registry: Registry | None = None,
    watcher: Watcher | None = None,
    only: str | None = None,
    until: str | None = None,
    start: str | None = None,
    dry_run: bool = False,
    force: bool = False,
    keep_going: bool = False,
) -> list[StepResult]:
    """Make every key of a campaign that is missing or stale, each as soon as what it reads is there.

    Parameters
    ----------
    store : Store
        Where.
    campaign : Campaign
        What.
    reader : callable
        ``reader(path, step)`` reads the file of an import as a dataset.
    scheduler : str, Place or Scheduler, optional
        Where work runs; the campaign's own by default. In this process, steps run one after the other.
    registry : Registry, optional
        Modules that it may name; the installed ones by default.
    watcher : Watcher, optional
        Is told how it goes.
    only, until, start : str, optional
        A key, or a pattern with ``*``: just these steps; these and all that they need; these and all that need them.
    dry_run : bool
        Say what would be done, and do nothing.
    force : bool
        Compute also what is up to date, and compare; other data than those that are stored are a failure.
    keep_going : bool
        After a failure, go on with all steps that do not need what failed.

    Returns
    -------
    list of StepResult
        What was done and why, step by step.

    Raises
    ------
    InvalidConfig, UnknownKey, WrongKind
        Before anything is computed.
    StepsFailed
        If steps failed; it says what became of all.
    Interrupted
        If a signal came; running again goes on from the last commits.
    """
    modules, told = registry if registry is not None else Registry(), watcher or Watcher()
    committer = Committer(store, logging.getLogger("h5ml"))
    if not dry_run:
        committer.recover()
    graph = build_graph(campaign, store, modules)
    keys = graph.chosen(only=only, until=until, start=start)
    results = _foresee_all(store, graph, keys, modules, force=force)
    told.planned(results)
    if dry_run or all(result.action == "none" for result in results):
        for result in results:
            told.ended(result)
        if not dry_run:
            _settle(store)
        return results
    check_engines(graph, [result.key for result in results if result.action == "compute"])
    place = scheduler if scheduler is not None else campaign.scheduler
    with session(store, place, modules, None, committer) as (services, setting):
        drive = Drive(graph, keys, reader, services, setting, told, force=force, keep_going=keep_going)
        results = drive.run()
    if any(result.error is not None for result in results):
        raise StepsFailed.of(results)
    return results


def _foresee_all(
    store: Store, graph: Graph, keys: Sequence[str], registry: Registry, *, force: bool
) -> list[StepResult]:
    """What every step needs, as far as it is known before anything is made."""
    changed: set[str] = set()
    results = []
    for key in keys:
        result, _ = foresee(store, graph, key, registry, changed, force=force)
        if result.action not in ("none", "check"):
            changed.add(key)
        results.append(result)
    return results


def _settle(store: Store) -> None:
    """Merge what a killed campaign committed last: nothing else will be written that does it."""
    with contextlib.suppress(H5mlError, OSError):  # a store that may only be read is whole without it
        store.engine.unlock()


class Drive:
    """Begins the steps of a campaign as they become ready, and looks after them.

    Parameters
    ----------
    graph, keys : Graph, sequence of str
        The steps, and which of them to make, in order.
    reader : callable
        Reads the files of imports.
    services, setting : Services, Setting
        What the steps share, and what surrounds them.
    watcher : Watcher
        Is told how it goes.
    force, keep_going : bool
        As in ``run_campaign``.
    """

    def __init__(
        self,
        graph: Graph,
        keys: Sequence[str],
        reader: Reader,
        services: Services,
        setting: Setting,
        watcher: Watcher,
        *,
        force: bool,
        keep_going: bool,
    ) -> None:
        self._graph, self._reader, self._services, self._watcher = graph, reader, services, watcher
        self._store, self._setting = services.store, setting
        self._force, self._keep_going = force, keep_going
        self._keys = list(keys)
        self._waiting = dict.fromkeys(keys)
        self._under_way: dict[str, tuple[StepResult, Pending]] = {}
        self._results: dict[str, StepResult] = {}
        self._crew = StepCrew(services, setting, watcher)
        services.scheduler.listen(self._hear)

    def run(self) -> list[StepResult]:
        """Make all steps; returns what became of them, in order."""
        scheduler = self._services.scheduler
        self._watcher.place(scheduler.told)
        try:
            while self._waiting or self._under_way:
                begun = self._begin_ready()
                self._crew.poll()
                self._collect()
                if self._setting.stop():
                    raise self._setting.stop.error()
                scheduler.check()
                if self._under_way and not begun:
                    time.sleep(WAIT_SECONDS)
        except BaseException:
            self._crew.abandon()
            raise
        self._crew.close()
        return [self._results[key] for key in self._keys]

    def _begin_ready(self) -> bool:
        """Begin the steps whose needs are met; leave out those whose needs cannot be met any more."""
        begun = False
        for key in list(self._waiting):
            needs = [need for need in self._graph.nodes[key].needs if need in self._keys]
            lacking = [need for need in needs if need in self._results and not _is_there(self._results[need])]
            if lacking:
                self._end(StepResult(key, "skip", f"needs {', '.join(lacking)}"))
            elif self._is_over():
                self._end(StepResult(key, "skip", "not begun, because another step failed"))
            elif len(self._under_way) < self._services.scheduler.ahead and all(n in self._results for n in needs):
                del self._waiting[key]
                self._begin(key)
                self._collect()
                begun = True
        return begun

    def _is_over(self) -> bool:
        return not self._keep_going and any(result.error is not None for result in self._results.values())

    def _begin(self, key: str) -> None:
        step = self._graph.nodes[key].step
        try:
            result, plan = foresee(self._store, self._graph, key, self._services.registry, force=self._force)
        except H5mlError as error:
            self._end(StepResult(key, "compute", "cannot be planned", error=error))
            return
        if result.action == "none":
            self._end(result)
            return
        self._watcher.began(result)
        if not self._services.scheduler.remote or result.action in ("import", "check"):
            self._watcher.moved(key, 0.0, 0.0, "")
        try:
            if isinstance(step, ImportStep):
                self._import(step)
                self._end(result)
            elif result.action == "check":
                self._check(result)
            elif plan is not None:
                self._compute(step, result, plan)
        except Interrupted:
            raise
        except H5mlError as error:
            self._end(replace(result, error=error))

    def _compute(self, step: ComputeStep, result: StepResult, plan: Plan) -> None:
        terms = Terms(step.resources, step.retries, step.time_limit_s)
        self._under_way[result.key] = (result, self._crew.begin(plan, result.key, terms))

    def _import(self, step: ImportStep) -> None:
        path = self._graph.campaign.folder / step.file
        origin = {"file": path.name, "digest": file_digest(path)}
        dataset = self._reader(path, step)
        known = step.key in self._store.catalogue
        with self._store.transaction(f"import {step.key}") as transaction:
            transaction.write(step.key, dataset, step.kind, new_version=known, origin=origin)

    def _check(self, result: StepResult) -> None:
        """Compute again what is there, in a store of its own, and compare."""
        from .replay import replay_run

        assert result.run is not None
        first = next(iter(result.run.outputs.values()), None)
        if first is not None:
            services = self._services
            reference = f"{first.key}@{first.version}"
            found = replay_run(self._store, reference, scheduler=services.scheduler, registry=services.registry)
            if not found.equal:
                told = {name: comparison.text() for name, comparison in found.comparisons.items()}
                raise ComputeFailed(
                    "Computed again, the step gives other data; the stored ones are kept.",
                    key=result.key,
                    found="; ".join(f"{name} differs: {text}" for name, text in told.items() if text),
                    hint=f"`h5ml replay {first.key}` shows more; `h5ml rm` what shall be made anew",
                )
        self._end(result)

    def _collect(self) -> None:
        """See which steps ended."""
        for key, (result, pending) in list(self._under_way.items()):
            if pending.ended:
                del self._under_way[key]
                run = self._store.catalogue.runs.get(pending.plan.run_id)
                self._end(replace(result, run=run, error=pending.error, trace=pending.trace))

    def _end(self, result: StepResult) -> None:
        self._waiting.pop(result.key, None)
        self._results[result.key] = result
        self._watcher.ended(result)

    def _hear(self, run_id: str, done: float, total: float, text: str) -> None:
        """Pass on what a worker reports."""
        for key, (_, pending) in list(self._under_way.items()):
            if pending.plan.run_id == run_id:
                self._watcher.moved(key, done, total, text)


class StepCrew(Crew):
    """Looks after steps, each of which reports for itself."""

    def __init__(self, services: Services, setting: Setting, watcher: Watcher) -> None:
        super().__init__(services, setting)
        self._watcher = watcher

    def progress_of(self, pending: Pending) -> Progress:
        """Tell the watcher."""

        def report(done: float, total: float, text: str = "") -> None:
            self._watcher.moved(pending.name, done, total, text)

        return report

    def computes(self, pending: Pending) -> None:
        """Tell the watcher."""
        self._watcher.moved(pending.name, 0.0, 0.0, "")


def _is_there(result: StepResult) -> bool:
    return result.error is None and result.action != "skip"
