"""Runs on workers: each commits to a staging store of its own, and the committing process merges what it finds there.

A staging store is an ordinary HDF5 store, ``STORE-staging/RUN_ID-ATTEMPT.h5``. It holds what one attempt added to what
the main store had when it began. Merging compares what is there with what the main store has by then, so that it can
be done at any time, again, and after any kill.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..schemas.errors import ComputeFailed, NotAStore
from ..schemas.kinds import kind_named
from ..schemas.run import Run
from ..store.catalogue import Entry
from ..store.opening import open_store
from ..store.store import Store
from .commit import Displaced, RunTransaction
from .distributed_writes import Desk
from .execution import Execution, Setting
from .hand_back import Outcome, WorkerRequests, outcome_of
from .identity import is_alive
from .plan import Plan
from .scheduler import Future, Scheduler, reporter
from .signals import LinkedStop, out_of_time, watchdog
from .standing import Start, chain, is_left_behind, look_up
from .workers import limited_threads

if TYPE_CHECKING:
    import xarray as xr

STUCK = ".stuck"
"""What follows the name of a staging store where a worker that took too long writes what it was at."""
FRESH_SECONDS = 900.0
"""What a process on another host staged within this time is left alone."""


def staging_folder(store: Store) -> Path:
    """Where the workers of a store commit: beside it, or in the current folder for a store in a bucket."""
    location = store.location
    if "://" in location:
        return Path.cwd() / (location.rstrip("/").rpartition("/")[2] + "-staging")
    return Path(location.rstrip("/") + "-staging").absolute()


@dataclass(frozen=True, slots=True)
class Task:
    """A run for a worker: what to execute, and where to read and to stage.

    Attributes
    ----------
    store, plan, folder : Store, Plan, Path
        Where to read, what to execute, and where to stage.
    needs : mapping
        What was asked of the worker; ``threads`` is kept to.
    time_limit_s : float or None
        After this time the worker ends itself.
    """

    store: Store
    plan: Plan
    folder: Path
    needs: Mapping[str, float] = field(default_factory=dict)
    time_limit_s: float | None = None


def work(task: Task) -> Outcome:
    """Execute a run on a worker; called by dask."""
    stuck = _stuck_before(task)
    if stuck is not None and task.time_limit_s is not None:
        return "failed", str(out_of_time(task.time_limit_s, task.plan.root_key)), stuck
    start = look_up(task.store, task.plan, owned=True)
    if not isinstance(start, Start):
        return "done", "", ""
    kinds = task.plan.outputs
    base = {
        name: {dim: size for dim, size in sizes.items() if dim in kinds[name].grows}
        for name, sizes in start.sizes.items()
    }
    if not task.folder.is_dir():
        return "interrupted", "the campaign was given up", ""
    path = task.folder / f"{task.plan.run_id}-{uuid.uuid4().hex[:12]}.h5"
    report = reporter(task.plan.run_id)
    report(0.0, 0.0)
    setting = Setting(LinkedStop(lambda: not path.exists()), report, base=base)
    with (
        limited_threads(task.needs.get("threads")),
        watchdog(task.time_limit_s, path.with_name(path.name + STUCK)),
        open_store(path, make=True) as staging,
    ):
        return outcome_of(Execution(staging, task.plan, start, setting, WorkerRequests))


def _stuck_before(task: Task) -> str | None:
    """Where a worker was when it ended itself because the run took too long; None where none did."""
    texts = [path.read_text() for path in task.folder.glob(f"{task.plan.run_id}-*{STUCK}")]
    return next((text for text in texts if text), None)


@dataclass(frozen=True, slots=True)
class Picture:
    """A staging store at one instant."""

    base: Mapping[str, Any]
    run: Run
    entries: Mapping[str, Entry]
    grows: Mapping[str, tuple[str, ...]]
    datasets: Mapping[str, xr.Dataset]
    restart: xr.Dataset | None
    restart_digest: str | None

    @classmethod
    def of(cls, staging: Store) -> Picture | None:
        """Look until nothing changed meanwhile; None where nothing was begun yet."""
        while True:
            head = staging.root_digest
            base = staging.marks("staging").get("base")
            if base is None:
                return None
            entries = {n: staging.entry(key) for n, key in base["keys"].items() if key in staging.catalogue}
            grows, datasets = {}, {}
            for name, entry in entries.items():
                with staging.at(entry) as (reader, path):
                    grows[name] = tuple(reader.layout(path).grows)
                dataset = staging.dataset(entry.reference)
                datasets[name] = dataset if grows[name] else dataset.load()
            found = staging.catalogue.restarts.get(base["run"], {}).get("digest")
            picture = cls(base, staging.run(base["run"]), entries, grows, datasets, staging.restart(base["run"]), found)
            if staging.root_digest == head:
                return picture


def merge(main: Store, staging: Store) -> str:
    """Bring into the main store what a staging store has and the main store lacks, in one transaction.

    Returns
    -------
    str
        Status of the staged run; empty where nothing was begun.
    """
    picture = Picture.of(staging)
    if picture is None:
        return ""
    for _ in range(5):
        transaction = RunTransaction(main, f"merge {picture.run.module} {picture.run.root_key}")
        if not _collect(main, picture, transaction):
            return picture.run.status
        try:
            transaction.commit()
        except Displaced:  # somebody else merged the same just now
            continue
        return picture.run.status
    raise ComputeFailed("What a worker staged cannot be merged.", key=picture.run.root_key, hint="run again")


def _collect(main: Store, picture: Picture, transaction: RunTransaction) -> bool:
    """Put the difference into a transaction; says whether this staging store is not behind."""
    base, run = picture.base, picture.run
    own = set(chain(main.catalogue, run.id)) | {run.id, *chain(main.catalogue, base["continues"])}
    fresh = False
    for name, entry in picture.entries.items():
        newest = main.entry(base["keys"][name]) if base["keys"][name] in main.catalogue else None
        mine = newest if newest is not None and newest.run in own else None
        if not picture.grows[name]:
            _collect_whole(picture, transaction, name, mine)
            continue
        added = _collect_rows(picture, transaction, name, entry, mine)
        if added is None:
            return False
        fresh = fresh or added > 0
    if picture.restart is not None:
        if main.catalogue.restarts.get(run.id, {}).get("digest") != picture.restart_digest:
            transaction.restart(run.id, picture.restart)
            continues = base["continues"]
            if continues is not None and is_left_behind(main.catalogue, continues, set(base["keys"].values())):
                transaction.forget(continues, restart=True)
    elif fresh:
        transaction.forget(run.id, restart=True)
    _collect_record(main, picture, transaction)
    return True


def _collect_whole(picture: Picture, transaction: RunTransaction, name: str, mine: Entry | None) -> None:
    base, entry = picture.base, picture.entries[name]
    key, kind, run = base["keys"][name], kind_named(entry.kind), picture.run.id
    if mine is None:
        transaction.begin(key, picture.datasets[name], kind, run, growing=False, new_version=bool(base["new_version"]))
    elif mine.digest != entry.digest:
        transaction.replace(key, picture.datasets[name], kind, run=run)


def _collect_rows(
    picture: Picture, transaction: RunTransaction, name: str, entry: Entry, mine: Entry | None
) -> int | None:
    """Add the rows that the main store lacks; None where its rows and these do not meet."""
    base, dims = picture.base, picture.grows[name]
    before = base["sizes"].get(name, {})
    have = mine.sizes if mine is not None else {}
    first = {dim: have.get(dim, 0) - before.get(dim, 0) for dim in dims}
    lead = dims[0]
    if not 0 <= first[lead] <= entry.sizes[lead]:
        return None
    count = int(entry.sizes[lead]) - int(first[lead])
    if mine is not None and not count:
        return 0
    part = picture.datasets[name].isel({dim: slice(first[dim], entry.sizes[dim]) for dim in dims})
    key, run = base["keys"][name], picture.run.id
    if mine is not None:
        transaction.extend(key, part, run, mine.records)
    else:
        transaction.begin(key, part, kind_named(entry.kind), run, growing=True, new_version=bool(base["new_version"]))
    return count


def _collect_record(main: Store, picture: Picture, transaction: RunTransaction) -> None:
    run, known = picture.run, main.catalogue.runs[picture.run.id]
    record: dict[str, Any] = {"id": run.id, "wall_s": run.wall_s, "cpu_s": run.cpu_s}
    if run.status == "running":
        transaction.record(record)
        return
    worker = {name: run.environment.get(name) for name in ("host", "pid", "threads")}
    packages = run.environment.get("packages", {})
    record |= {"ended": run.ended, "error": run.error, "status": run.status}
    record["environment"] = {**known.environment, "packages": packages, "worker": worker}
    if run.status == "done":
        transaction.done(record, picture.base["keys"])
        transaction.forget(run.id, restart=not picture.base["extendable"])
    else:
        transaction.record(record)


class Committer:
    """Merges staging stores of runs under way, each only when it changed.

    Where the store is in a bucket nothing is staged: workers write data themselves, and a `Desk` commits it.

    Parameters
    ----------
    main : Store
        Where to.
    logger : logging.Logger
        For warnings.
    """

    def __init__(self, main: Store, logger: logging.Logger) -> None:
        self.main = main
        self.folder = staging_folder(main)
        self._logger = logger
        self._desk = Desk(main, logger) if main.engine.apart else None
        self._open: dict[Path, Store] = {}
        self._merged: dict[Path, str] = {}

    def send(
        self, scheduler: Scheduler, plan: Plan, needs: Mapping[str, float], time_limit_s: float | None = None
    ) -> Future:
        """Begin a run on a worker."""
        if self._desk is not None:
            return self._desk.send(scheduler, plan, needs, time_limit_s)
        self.folder.mkdir(parents=True, exist_ok=True)
        return scheduler.submit(work, Task(self.main, plan, self.folder, needs, time_limit_s), needs)

    def files(self, run_id: str = "") -> list[Path]:
        """Staging stores of a run, or of all, oldest first."""
        found = self.folder.glob(f"{run_id}*.h5") if self.folder.is_dir() else []
        return sorted(found, key=lambda path: path.stat().st_mtime)

    def merge(self, run_id: str) -> str:
        """Merge what the workers of a run committed; returns the status of the newest attempt."""
        status = ""
        if self._desk is not None:
            self._desk.serve()
        for path in self.files(run_id):
            try:
                staging = self._open.get(path) or open_store(path)
                self._open[path] = staging
                head = staging.root_digest
                if self._merged.get(path) != head:
                    status = merge(self.main, staging) or status
                    self._merged[path] = head
            except (NotAStore, FileNotFoundError):  # being made just now, or killed while it was made
                continue
        return status

    def clear(self, run_id: str) -> None:
        """Remove the staging stores of a run; a worker that is still at it stops at its next request."""
        if self._desk is not None:
            self._desk.clear(run_id)
        for path in self.files(run_id):
            opened = self._open.pop(path, None)
            if opened is not None:
                opened.close()
            self._merged.pop(path, None)
            for file in self.folder.glob(f"{path.name}*"):
                file.unlink(missing_ok=True)

    def recover(self) -> list[str]:
        """Merge what killed campaigns left, at the beginning and end of a session; returns the runs concerned."""
        found: list[str] = []
        if self._desk is not None:
            self._desk.close()
        for run_id in dict.fromkeys(path.stem.partition("-")[0] for path in self.files()):
            run = self.main.catalogue.runs.get(run_id)
            if run is not None and (is_alive(run) or self._is_fresh(run)):
                continue
            if run is None:
                self._logger.warning("what was staged in %s belongs to no run of this store", self.folder)
                continue
            self.merge(run_id)
            self.clear(run_id)
            found.append(run_id)
        self._sweep()
        return found

    def _is_fresh(self, run: Run) -> bool:
        """Whether a process on another host, which cannot be asked, may still be at it."""
        if run.status != "running" or run.environment.get("host") == socket.gethostname():
            return False
        newest = max((path.stat().st_mtime for path in self.files(run.id)), default=0.0)
        return time.time() - newest < FRESH_SECONDS

    def _sweep(self) -> None:
        """Remove files beside staging stores that are gone, and the folder once it is empty and nobody needs it."""
        if not self.folder.is_dir():
            return
        runs = self.main.catalogue.runs
        for file in self.folder.iterdir():
            run = runs.get(file.name.partition("-")[0])
            whole = self.folder / (file.name.partition(".h5")[0] + ".h5")
            if run is not None and not is_alive(run) and not self._is_fresh(run) and not whole.exists():
                file.unlink(missing_ok=True)
        if any(is_alive(run) for run in runs.values() if run.status == "running"):  # another campaign, about to use it
            return
        with contextlib.suppress(OSError):  # something is in it
            self.folder.rmdir()
