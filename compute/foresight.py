"""What each step of a campaign needs, and why: up to date, missing, stale, or broken off before."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ..schemas.campaign import Campaign, ComputeStep, ImportStep
from ..schemas.errors import H5mlError, KeyTaken
from ..schemas.run import Run
from ..store.store import Store
from .commit import Displaced
from .graph import Graph
from .identity import is_alive
from .plan import Plan
from .registry import Registry
from .runner import plan_run
from .standing import Elsewhere, Found, differences, look_up

Action = Literal["none", "import", "compute", "extend", "take over", "resume", "check", "running", "skip"]
LONGEST_REASON = 160


@dataclass(frozen=True, slots=True)
class StepResult:
    """What became of a step, or would become of it.

    Attributes
    ----------
    key : str
        Its key.
    action : str
        ``none`` where it is up to date; ``skip`` where a step that it needs failed or was not begun.
    reason : str
        Why.
    run : Run or None
        The record of a computation, once it is done.
    error : H5mlError or None
        Why it failed.
    trace : str
        The traceback of a failure on a worker.
    """

    key: str
    action: Action
    reason: str
    run: Run | None = None
    error: H5mlError | None = None
    trace: str = ""


def foresee(
    store: Store, graph: Graph, key: str, registry: Registry, changed: Collection[str] = (), *, force: bool = False
) -> tuple[StepResult, Plan | None]:
    """What a step needs, and why.

    Parameters
    ----------
    store, graph, key, registry : Store, Graph, str, Registry
        Which step of what, where.
    changed : collection of str
        Steps that are not made yet; a plan that reads them is left open.
    force : bool
        Whether a step that is up to date shall be computed again, to compare.
    """
    node = graph.nodes[key]
    if isinstance(node.step, ImportStep):
        return _foresee_import(store, graph.campaign, node.step), None
    waits = [need for need in node.needs if need in changed]
    if waits:
        there = any(made in store.catalogue for made in node.makes)
        said = f"stale: what {', '.join(waits)} makes is new" if there else f"missing; waits for {', '.join(waits)}"
        return StepResult(key, "compute", said), None
    plan = plan_step(store, node.step, registry)
    result, plan = _foresee_run(store, plan)
    if force and result.action == "none":
        return replace(result, action="check", reason="up to date; computed again to compare"), plan
    return result, plan


def plan_step(store: Store, step: ComputeStep, registry: Registry) -> Plan:
    """The plan of a step whose inputs are there."""
    return plan_run(
        store,
        step.module,
        root_key=step.key,
        seed=step.seed,
        trust_pickle=step.trust_pickle,
        device=step.device,
        registry=registry,
        **step.options,
    )


def _foresee_run(store: Store, plan: Plan) -> tuple[StepResult, Plan]:
    catalogue = store.catalogue
    makers = [catalogue.runs.get(catalogue.newest(k).run or "") for k in map(plan.key, plan.outputs) if k in catalogue]
    earlier = next((run for run in makers if run is not None), None)
    said = "missing"
    if earlier is not None and earlier.id != plan.run_id:
        said = f"stale: {'; '.join(differences(earlier, plan))}"
    try:
        standing = look_up(store, plan)
    except KeyTaken:
        if earlier is None:
            raise
        plan = replace(plan, new_version=True)
        standing = look_up(store, plan)
    if isinstance(standing, Found):
        return StepResult(plan.root_key, "none", "up to date", standing.run), plan
    if isinstance(standing, Elsewhere):
        return StepResult(plan.root_key, "take over", f"{said}; done already at {standing.run.root_key}"), plan
    if standing.continues is not None and standing.previous is None:
        return StepResult(plan.root_key, "extend", said), plan
    if standing.previous is not None:
        return StepResult(plan.root_key, "resume", _broken_off(standing.previous)), plan
    return StepResult(plan.root_key, "compute", said), plan


def _broken_off(run: Run) -> str:
    status = "was killed before" if run.status == "running" else f"{run.status} before"
    why = (run.error or "").partition("\n")[0] if run.status == "failed" else ""
    return f"{status}: {why}"[:LONGEST_REASON] if why else status


def _foresee_import(store: Store, campaign: Campaign, step: ImportStep) -> StepResult:
    if step.key not in store.catalogue:
        return StepResult(step.key, "import", "missing")
    path = campaign.folder / step.file
    known = store.entry(step.key).origin.get("digest")
    if known is None or not path.is_file() or known == file_digest(path):
        return StepResult(step.key, "none", "up to date")
    return StepResult(step.key, "import", f"stale: {step.file} changed")


def standing_of(store: Store, graph: Graph, registry: Registry) -> list[StepResult]:
    """How every step stands, those that are under way in another process included; nothing is changed."""
    results: list[StepResult] = []
    changed: set[str] = set()
    for key in graph.nodes:
        try:
            result, _ = foresee(store, graph, key, registry, changed)
        except Displaced:
            found = [run for run in store.runs.values() if run.root_key == key and is_alive(run)]
            result = StepResult(key, "running", "under way", found[-1] if found else None)
        except H5mlError as error:
            result = StepResult(key, "compute", f"cannot be made: {error.message}", error=error)
        if result.action != "none":
            changed.add(key)
        results.append(result)
    return results


def file_digest(path: Path) -> str:
    """BLAKE3 of a file's bytes, as hex."""
    from blake3 import blake3

    return blake3(path.read_bytes()).hexdigest()
