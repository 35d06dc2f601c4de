"""How a planned run stands in a store: found, done elsewhere, to be continued, or to be computed from the start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..schemas.errors import ComputeFailed, KeyTaken, UnknownKey
from ..schemas.run import Run
from ..store.catalogue import Catalogue, Entry
from ..store.store import Store
from .commit import busy
from .identity import is_alive
from .plan import Plan

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True, slots=True)
class Found:
    """The result lies at the root already."""

    run: Run


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """The result lies elsewhere in the store and can be taken over.

    Attributes
    ----------
    run : Run
        The run that made it.
    entries : mapping
        Where its outputs lie.
    extends : str or None
        Id of a shorter run that lies at the root, whose data are the first part of these.
    """

    run: Run
    entries: Mapping[str, Entry]
    extends: str | None = None


@dataclass(frozen=True, slots=True)
class Start:
    """Where an execution begins.

    Attributes
    ----------
    restart : xarray.Dataset or None
        State to go on from.
    committed : mapping
        Records of each output that are there.
    sizes : mapping
        Their lengths along every dimension.
    continues : str or None
        Id of the shorter run whose data these are.
    stale : tuple of str
        ``KEY@VERSION`` of partial outputs that nothing can go on from; removed first.
    previous : Run or None
        The record of an earlier attempt.
    """

    restart: xr.Dataset | None = None
    committed: Mapping[str, int] = field(default_factory=dict)
    sizes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    continues: str | None = None
    stale: tuple[str, ...] = ()
    previous: Run | None = None


Standing = Found | Elsewhere | Start


def chain(catalogue: Catalogue, run_id: str | None) -> list[str]:
    """A run and those that it continues, newest first."""
    found: list[str] = []
    while run_id is not None and run_id not in found:
        found.append(run_id)
        run = catalogue.runs.get(run_id)
        run_id = run.continues if run is not None else None
    return found


def is_left_behind(catalogue: Catalogue, run_id: str, keys: set[str]) -> bool:
    """Whether nothing but these keys, which a longer run goes on with, was made by a run."""
    return all(entry.key in keys for entry in catalogue.made_by(run_id))


def look_up(store: Store, plan: Plan, *, owned: bool = False) -> Standing:
    """Find out how a run stands.

    Parameters
    ----------
    store : Store
        Where.
    plan : Plan
        What shall be run.
    owned : bool
        Whether the caller works for the process that the run's record names (a worker).

    Raises
    ------
    KeyTaken
        If an output key holds something else, or a longer run.
    ComputeFailed
        If another process is at it.
    """
    for _ in range(20):
        head = store.root_digest
        try:
            standing = _look_up(store, plan, owned=owned)
        except RuntimeError:  # another thread committed while this one walked the catalogue
            continue
        if store.root_digest == head:
            return standing
    raise ComputeFailed("The store changes too fast to be looked at.", key=plan.root_key, hint="run again")


def _look_up(store: Store, plan: Plan, *, owned: bool) -> Standing:
    catalogue = store.catalogue
    run = catalogue.runs.get(plan.run_id)
    keys = {name: plan.key(name) for name in plan.outputs}
    newest = {name: catalogue.newest(key) for name, key in keys.items() if key in catalogue}
    if run is not None and not owned and is_alive(run):
        raise busy(run)
    if run is not None and run.status == "done":
        if _is_hit(catalogue, run, newest, plan):
            return Found(as_found(catalogue, run, plan, newest))
        found = _elsewhere(catalogue, run, plan)
        if found is not None:
            own = {run.id}
            makers = {entry.run for entry in newest.values()} - own
            shorter = _shorter(catalogue, plan, makers, newest, owned=owned) if makers else None
            if shorter is not None and not plan.new_version:
                own |= set(chain(catalogue, shorter.id))
            _check_free(catalogue, plan, newest, own)
            return Elsewhere(run, found, shorter.id if shorter is not None else None)
        if not any(run.id in chain(catalogue, entry.run)[1:] for entry in newest.values()):
            _check_complete(run, plan, newest)
        run = None
    return _start(store, plan, run, newest, owned=owned)


def _start(store: Store, plan: Plan, run: Run | None, newest: Mapping[str, Entry], *, owned: bool) -> Start:
    catalogue = store.catalogue
    own = set(chain(catalogue, plan.run_id)) if run is not None else set()
    continues = run.continues if run is not None else None
    makers = {entry.run for entry in newest.values()} - own
    if makers and not plan.new_version:
        shorter = _shorter(catalogue, plan, makers, newest, owned=owned)
        if shorter is not None:
            continues = shorter.id
            own |= set(chain(catalogue, shorter.id))
    _check_free(catalogue, plan, newest, own)
    ours = {name: entry for name, entry in newest.items() if entry.run in own}
    restart = store.restart(plan.run_id) if run is not None else None
    if restart is None and continues is not None:
        restart = store.restart(continues)
    if restart is None:
        stale = tuple(entry.reference for entry in ours.values() if entry.run == plan.run_id)
        return Start(stale=stale, previous=run)
    return Start(
        restart,
        {name: entry.records for name, entry in ours.items()},
        {name: dict(entry.sizes) for name, entry in ours.items()},
        continues,
        (),
        run,
    )


def _shorter(
    catalogue: Catalogue, plan: Plan, makers: set[str | None], newest: Mapping[str, Entry], *, owned: bool
) -> Run | None:
    """The run with the same prefix that made what lies at the root, if this one extends it."""
    runs = [catalogue.runs[maker] for maker in makers if maker in catalogue.runs]
    last = next((run for run in runs if makers <= set(chain(catalogue, run.id))), None)
    if last is None or last.prefix_id != plan.prefix_id or last.module != plan.module.name:
        return None
    if not owned and is_alive(last):
        raise busy(last)
    fields = plan.config.horizon_fields()
    settings = plan.config.canonical()
    longer = [name for name in fields if _exceeds(last.config.get(name), settings[name])]
    where = plan.key(next(iter(newest)))
    if longer:
        name = longer[0]
        raise KeyTaken(
            "The key holds a longer run with the same settings.",
            key=where,
            expected=f"{name} of at least {last.config.get(name)}",
            found=f"{name} = {settings[name]}",
            hint=f"its first records are the shorter run: store[{where!r}].isel(...); or take another root key",
        )
    if any(entry.purged for entry in newest.values()):
        raise UnknownKey(
            "The run to be extended was purged.", key=where, hint=f"`h5ml replay {where}` restores it, then extend it"
        )
    return last if last.id in catalogue.restarts else None


def _exceeds(old: Any, new: Any) -> bool:
    return isinstance(old, int | float) and isinstance(new, int | float) and old > new


def _is_hit(catalogue: Catalogue, run: Run, newest: Mapping[str, Entry], plan: Plan) -> bool:
    if not run.outputs:
        return run.root_key == plan.root_key
    own = chain(catalogue, run.id)
    return all(
        name in newest and newest[name].digest == ref.digest and newest[name].run in own
        for name, ref in run.outputs.items()
    )


def as_found(catalogue: Catalogue, run: Run, plan: Plan, newest: Mapping[str, Entry]) -> Run:
    """The record of a run as it stands at a root: itself, or a copy that says where it was taken over from."""
    outputs = {name: newest[name].ref for name in run.outputs}
    taken = any("reused" in newest[name].origin for name in outputs)
    if run.root_key == plan.root_key and outputs == run.outputs and not taken:
        return run
    reused = run.reused
    for name, ref in run.outputs.items():
        original = catalogue.locate(ref)
        if "reused" in newest[name].origin:
            reused = str(newest[name].origin["reused"]).rpartition("@")[0].removesuffix(f"/{name}")
        elif original is not None and original.reference != newest[name].reference:
            reused = original.key.removesuffix(f"/{name}")
    return run.model_copy(update={"root_key": str(plan.root_key), "outputs": outputs, "reused": reused})


def _elsewhere(catalogue: Catalogue, run: Run, plan: Plan) -> dict[str, Entry] | None:
    found = {name: catalogue.locate(ref) for name, ref in run.outputs.items()}
    if not found or set(found) != set(plan.outputs):
        return None
    entries = {
        name: entry
        for name, entry in found.items()
        if entry is not None and not entry.purged and entry.digest == run.outputs[name].digest
    }
    return entries if set(entries) == set(found) else None


def _check_complete(run: Run, plan: Plan, newest: Mapping[str, Entry]) -> None:
    """Never throw away finished data because a part of them was removed by hand."""
    left = [entry.reference for entry in newest.values() if entry.run == run.id]
    if left and not plan.new_version:
        gone = [name for name in run.outputs if name not in newest]
        raise KeyTaken(
            "The run is done, but a part of its outputs is gone.",
            key=plan.root_key,
            expected=", ".join(run.outputs),
            found=f"without {', '.join(gone)}" if gone else "changed outputs",
            hint=f"remove {', '.join(left)} too, or add --new-version to compute all anew",
        )


def _check_free(catalogue: Catalogue, plan: Plan, newest: Mapping[str, Entry], own: set[str]) -> None:
    """Refuse a taken key before anything is computed."""
    for name in plan.outputs:
        key = plan.key(name)
        entry = newest.get(name)
        if entry is not None and entry.run not in own and not plan.new_version:
            maker = catalogue.runs.get(entry.run or "")
            raise KeyTaken(
                "The key exists, made by something else.",
                key=key,
                expected="no such key, or one made with the same settings and inputs",
                found=f"version {entry.version}, made by {_said(maker, plan)}",
                hint="take another root key, or add --new-version to keep both",
            )
        above = key
        while "/" in above:
            above = above.rpartition("/")[0]
            if above in catalogue:
                raise KeyTaken("A key cannot lie below another key.", key=key, found=f"data at {above}")
        if key in catalogue.interior:
            raise KeyTaken("A key cannot hold data and other keys.", key=key, hint="take another root key")


def _said(maker: Run | None, plan: Plan) -> str:
    if maker is None:
        return "an import or by hand"
    return f"run {maker.id[:12]} of {maker.module} ({'; '.join(differences(maker, plan)) or 'it is ' + maker.status})"


def differences(run: Run, plan: Plan) -> list[str]:
    """What sets a plan apart from a run that was made before."""
    said = []
    if run.module != plan.module.name:
        return [f"module {run.module}, not {plan.module.name}"]
    if run.module_version != plan.module.version:
        said.append(f"module version {run.module_version}, now {plan.module.version}")
    settings = plan.config.canonical()
    said += [f"{name} = {old}, now {new}" for name, old, new in _changed(run.config, settings)]
    before, after = ({n: [r.digest for r in refs] for n, refs in found.items()} for found in (run.inputs, plan.refs()))
    said += [f"the input {name} changed" for name, _, _ in _changed(before, after)]
    said += [f"the potential {name} changed" for name, _, _ in _changed(run.engines, plan.engines())]
    if run.seed != plan.seed:
        said.append(f"seed = {run.seed}, now {plan.seed}")
    return said


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    names = sorted({*old, *new})
    return [(name, old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)]
