"""Replay: compute again what a run made, compare it bit by bit, and put back what was purged."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import TYPE_CHECKING, Any

from ..schemas.canonical import canonical_attributes
from ..schemas.errors import InvalidConfig, UnknownKey
from ..schemas.run import Run
from ..store.audit_data import stored_digest
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
from .scratch import scratch_folder
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
        Largest absolute deviation of each variable whose values differ; infinite for text.
    places : mapping
        Where that deviation is: indices along the dimensions of the variable.
    differences : tuple of str
        What else differs, in words: attributes, dimensions, types and shapes. Both are empty where the stored payload
        was purged and cannot be compared.
    altered : bool
        Whether what lies in the store is no longer what the run recorded: somebody changed it outside h5ml.
    """

    output: str
    reference: str
    recorded: str
    found: str
    deviations: Mapping[str, float] = field(default_factory=dict)
    places: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    differences: tuple[str, ...] = ()
    altered: bool = False

    @property
    def equal(self) -> bool:
        """Whether every bit is the same."""
        return self.recorded == self.found and not self.altered

    def within(self, tolerance: float) -> bool:
        """Whether all is equal but for numbers that deviate by at most so much."""
        if self.equal:
            return True
        numbers = bool(self.deviations) and not (self.differences or self.altered)
        return numbers and max(self.deviations.values()) <= tolerance

    def text(self) -> str:
        """What differs, for people; empty where all is equal."""
        if self.equal:
            return ""
        values = [
            (f"{name} by {value:.3g}" if isfinite(value) else f"values of {name}") + _at(self.places.get(name, ()))
            for name, value in sorted(self.deviations.items())
        ]
        told = "; ".join([*values, *self.differences]) or "its data are not there to compare"
        return f"the stored data were changed by hand: {told}" if self.altered else told


def _at(place: tuple[int, ...]) -> str:
    return f" at {list(place)}" if place else ""


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
    with scratch_folder() as folder:
        try:
            with open_store(folder / "replay.h5", make=True) as scratch, interruptible() as stop:
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
    if entry is None or entry.purged or entry.digest != ref.digest:
        return Comparison(name, reference, ref.digest, found.digest)
    altered = stored_digest(store, entry) != entry.digest
    if found.digest == ref.digest and not altered:
        return Comparison(name, reference, ref.digest, found.digest)
    old, new = store.dataset(entry.reference), scratch.dataset(found.reference)
    deviations: dict[str, float] = {}
    places: dict[str, tuple[int, ...]] = {}
    differences = _attributes(old.attrs, new.attrs, "")
    for label in sorted({*map(str, old.variables), *map(str, new.variables)}):
        differences += _form(old, new, label)
        comparable = label in old and label in new and old[label].shape == new[label].shape
        if comparable and (worst := _deviation(old, new, label)):
            deviations[label], places[label] = worst
    return Comparison(name, reference, ref.digest, found.digest, deviations, places, tuple(differences), altered)


def _attributes(old: Mapping[Any, Any], new: Mapping[Any, Any], of: str) -> list[str]:
    """Attributes that differ, in words."""
    then, now = canonical_attributes(old), canonical_attributes(new)
    told = [f"attribute {name}{of} is new" for name in now if name not in then]
    told += [f"attribute {name}{of} is gone" for name in then if name not in now]
    both = [name for name in then if name in now and then[name] != now[name]]
    return told + [f"attribute {name}{of} was {then[name]!r}, is {now[name]!r}" for name in both]


def _form(old: xr.Dataset, new: xr.Dataset, label: str) -> list[str]:
    """What differs of a variable beside its values, in words."""
    if label not in old.variables or label not in new.variables:
        return [f"{label} is {'new' if label not in old.variables else 'gone'}"]
    then, now = old.variables[label], new.variables[label]
    told = _attributes(then.attrs, now.attrs, f" of {label}")
    for what in ("dims", "dtype", "shape"):
        if getattr(then, what) != getattr(now, what):
            told.append(f"{what} of {label} was {getattr(then, what)}, is {getattr(now, what)}")
    return told


def _deviation(old: xr.Dataset, new: xr.Dataset, label: str) -> tuple[float, tuple[int, ...]] | None:
    """The largest deviation of values of the same form, and where; infinite where text differs, or one is NaN."""
    import numpy as np

    if old.variables[label].attrs.get("volatile") or new.variables[label].attrs.get("volatile"):
        return None
    a, b = old[label].to_numpy(), new[label].to_numpy()
    if np.array_equal(a, b, equal_nan=a.dtype.kind == "f"):
        return None
    if a.dtype.kind in "iuf":
        with np.errstate(invalid="ignore"):
            distance = np.abs(a.astype(np.float64) - b.astype(np.float64))
        distance = np.where(np.isnan(a) != np.isnan(b), np.inf, np.nan_to_num(distance, nan=0.0, posinf=np.inf))
    else:
        distance = np.where(a != b, np.inf, 0.0)
    place = np.unravel_index(int(np.argmax(distance)), distance.shape)
    return float(distance[place]), tuple(int(i) for i in place)


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
