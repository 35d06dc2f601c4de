"""Replay: compute again what a run made, compare it bit by bit, and put back what was purged."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..schemas.errors import InvalidConfig, UnknownKey
from ..schemas.run import Run
from ..store.catalogue import Entry
from ..store.opening import open_store
from ..store.store import Store
from .crew import Services
from .execution import Setting
from .inputs import EngineInput, Input, StoredInput
from .module import Module, Progress, no_progress
from .plan import Plan, make_plan
from .registry import Registry
from .runner import execute_plan
from .scheduler import Scheduler, make_scheduler
from .signals import interruptible
from .staging import Committer

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True, slots=True)
class Comparison:
    """How a recomputed output compares with the recorded one.

    Attributes
    ----------
    output, reference : str
        Its name and ``KEY@VERSION``.
    recorded, found : str
        Content digests.
    deviations : mapping
        Largest absolute deviation of each variable that differs; infinite where shape or text differ. Empty where the
        stored payload was purged and cannot be compared.
    """

    output: str
    reference: str
    recorded: str
    found: str
    deviations: Mapping[str, float] = field(default_factory=dict)

    @property
    def equal(self) -> bool:
        """Whether every bit is the same."""
        return self.recorded == self.found

    @property
    def largest(self) -> float:
        """The largest deviation; zero where all is equal."""
        return 0.0 if self.equal else max(self.deviations.values(), default=float("inf"))


@dataclass(frozen=True, slots=True)
class Replay:
    """A run that was computed again.

    Attributes
    ----------
    run : Run
        The record of the run that was replayed.
    again : Run
        The record of its recomputation.
    comparisons : mapping
        By output.
    restored : tuple of str
        ``KEY@VERSION`` of the purged payloads that were put back.
    """

    run: Run
    again: Run
    comparisons: Mapping[str, Comparison]
    restored: tuple[str, ...] = ()

    @property
    def equal(self) -> bool:
        """Whether every bit of every output is the same."""
        return all(comparison.equal for comparison in self.comparisons.values())

    @property
    def differing_calls(self) -> list[str]:
        """Names of the calls that gave other digests now: where a result that differs parted from the recorded one."""
        then, now = (
            {(call.name, name): ref.digest for call in run.calls for name, ref in call.outputs.items()}
            for run in (self.run, self.again)
        )
        return sorted({call for call, name in then if then[call, name] != now.get((call, name))})


def replay_run(
    store: Store,
    reference: str,
    *,
    restore: bool = False,
    scheduler: str | Scheduler | None = None,
    progress: Progress | None = None,
    registry: Registry | None = None,
    potentials: Mapping[str, Any] | None = None,
    trust_pickle: bool = False,
) -> Replay:
    """Compute again what made a key, in a scratch store, and compare.

    Parameters
    ----------
    store : Store
        Where the key lies; nothing is changed there, except to ``restore``.
    reference : str
        ``KEY`` or ``KEY@VERSION``.
    restore : bool
        Put the payload of purged outputs back where the bits are the same.
    scheduler, progress, registry
        As in ``run``.
    potentials : mapping, optional
        Input name to ``engine:method``, where the recorded text does not hold any more (a model file that was moved).
    trust_pickle : bool
        Whether potentials may be read from files that can run code.

    Raises
    ------
    UnknownKey
        If no run made the key, or an input is gone.
    InvalidConfig
        If module or potentials are other ones by now.
    InvalidData
        If a purged payload does not come out the same.
    """
    entry = store.entry(reference)
    run = _maker(store, entry)
    modules = registry if registry is not None else Registry()
    module = modules.named(run.module)
    plan = _plan(store, run, module, potentials or {}, trust_pickle=trust_pickle)
    logger = logging.getLogger("h5ml")
    chosen = make_scheduler(scheduler)
    with tempfile.TemporaryDirectory(prefix="h5ml-replay-") as folder:
        try:
            with open_store(Path(folder) / "replay.h5", make=True) as scratch, interruptible() as stop:
                services = Services(scratch, modules, chosen, Committer(scratch, logger), execute_plan)
                again = execute_plan(plan, services, Setting(stop, progress or no_progress, logger), owned=False)
                comparisons = {name: _compare(store, scratch, plan, run, name) for name in run.outputs}
                restored = _restore(store, scratch, plan, run) if restore else ()
        finally:
            if chosen is not scheduler:
                chosen.close()
    return Replay(run, again, comparisons, restored)


def _maker(store: Store, entry: Entry) -> Run:
    run = store.catalogue.runs.get(entry.run or "")
    if run is None or run.status != "done":
        raise UnknownKey(
            "There is no finished run to replay.",
            key=entry.reference,
            found="data put in by hand or by import" if run is None else f"a run that is {run.status}",
            hint=f"import it again from {entry.origin.get('file', 'its file')}" if run is None else "finish it first",
        )
    return run


def _plan(store: Store, run: Run, module: Module, potentials: Mapping[str, Any], *, trust_pickle: bool) -> Plan:
    inputs: dict[str, list[Input]] = {}
    device = str(run.environment.get("device", "cpu"))
    specs: dict[str, list[str]] = {**run.environment.get("potentials", {})}
    for name in module.reads:
        found: list[Input] = []
        for ref in run.inputs.get(name, []):
            located = store.catalogue.locate(ref)
            if located is None:
                where = f"{ref.key}@{ref.version}"
                raise UnknownKey("An input of the run is gone.", key=where, expected=ref.digest[:16])
            found.append(StoredInput(store, ref, _sizes(store, located, ref.digest)))
        given = potentials.get(name, specs.get(name, []))
        texts = [given] if isinstance(given, str) else given
        found += [EngineInput.of(text, trust_pickle=trust_pickle, device=device) for text in texts]
        if found:
            inputs[name] = found
    plan = make_plan(module, run.config, inputs, run.root_key, seed=run.seed, device=device)
    if plan.run_id != run.id:
        raise InvalidConfig(
            "The run cannot be replayed: module or potentials are other ones by now.",
            key=run.root_key,
            expected=f"version {run.module_version} of {run.module}, {dict(run.engines)}",
            found=f"version {module.version}, {plan.engines()}",
            hint="install the versions that the run names: `h5ml show` prints them",
        )
    return plan


def _sizes(store: Store, entry: Entry, digest: str) -> dict[str, int]:
    """The lengths that an input had when its digest was this one: it may have grown since."""
    if entry.digest == digest:
        return dict(entry.sizes)
    for commit in store.commits():
        for event in commit.events:
            if event.get("digest") == digest and event["event"] in ("write", "append", "replace"):
                return dict(event["sizes"])
    raise UnknownKey(
        "An input of the run is not what it was.", key=entry.reference, expected=digest[:16], found=entry.digest[:16]
    )


def _compare(store: Store, scratch: Store, plan: Plan, run: Run, name: str) -> Comparison:
    ref = run.outputs[name]
    found = scratch.entry(plan.key(name))
    entry = store.catalogue.locate(ref)
    reference = entry.reference if entry is not None else f"{ref.key}@{ref.version}"
    if found.digest == ref.digest or entry is None or entry.purged or entry.digest != ref.digest:
        return Comparison(name, reference, ref.digest, found.digest)
    old, new = store.dataset(entry.reference), scratch.dataset(found.reference)
    deviations = {}
    for label in sorted({*map(str, old.variables), *map(str, new.variables)}):
        deviation = _deviation(old, new, label)
        if deviation != 0.0:
            deviations[label] = deviation
    return Comparison(name, reference, ref.digest, found.digest, deviations)


def _deviation(old: xr.Dataset, new: xr.Dataset, label: str) -> float:
    import numpy as np

    if label not in old.variables or label not in new.variables or old[label].shape != new[label].shape:
        return float("inf")
    if old.variables[label].attrs.get("volatile"):
        return 0.0
    a, b = old[label].to_numpy(), new[label].to_numpy()
    if a.dtype.kind not in "iuf" or b.dtype.kind not in "iuf":
        return 0.0 if np.array_equal(a, b) else float("inf")
    if np.array_equal(a, b, equal_nan=a.dtype.kind == "f"):
        return 0.0
    with np.errstate(invalid="ignore"):
        difference = np.abs(a.astype(np.float64) - b.astype(np.float64))
    return float("inf") if np.isnan(difference).all() else float(np.nanmax(difference))


def _restore(store: Store, scratch: Store, plan: Plan, run: Run) -> tuple[str, ...]:
    purged = []
    for name, ref in run.outputs.items():
        entry = store.catalogue.locate(ref)
        if entry is not None and entry.purged:
            purged.append((name, entry))
    if purged:
        with store.transaction(f"replay {run.root_key}: restore") as transaction:
            for name, entry in purged:
                transaction.restore(entry.key, entry.version, scratch.dataset(plan.key(name)))
    return tuple(entry.reference for _, entry in purged)
