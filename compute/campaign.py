"""Campaigns: the steps of a file in the order of their keys, each made where it is missing or stale."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ..schemas.campaign import Campaign, ComputeStep, ImportStep
from ..schemas.errors import H5mlError, InvalidConfig, KeyTaken, UnknownKey, WrongKind, nearest
from ..schemas.key import parse_reference
from ..schemas.kind import Kind
from ..schemas.run import Run
from ..store.store import Store
from .module import Module, Progress
from .plan import Plan, check_inputs, split_options
from .registry import Registry
from .runner import plan_run, run_plan
from .scheduler import Scheduler, make_scheduler
from .standing import Elsewhere, Found, differences, look_up

if TYPE_CHECKING:
    import xarray as xr

Reader = Callable[[Path, ImportStep], "xr.Dataset"]
Action = Literal["none", "import", "compute", "extend", "take over", "resume"]


class Report(Protocol):
    """Is told of each step before it is made and after."""

    def __call__(self, result: StepResult, *, done: bool) -> None:
        """Take note of a step."""
        ...


@dataclass(frozen=True, slots=True)
class StepResult:
    """What became of a step, or would become of it.

    Attributes
    ----------
    key : str
        Its key.
    action : str
        ``none`` where it is up to date.
    reason : str
        Why.
    run : Run or None
        The record of a computation, once it is done.
    """

    key: str
    action: Action
    reason: str
    run: Run | None = None


def order(campaign: Campaign, store: Store, registry: Registry) -> list[str]:
    """The keys of all steps, each after those it reads.

    Checks every step against its module on the way, before anything is computed.

    Raises
    ------
    InvalidConfig
        On an unknown module, an option that is unknown or out of bounds, or a cycle; with file and line.
    UnknownKey, WrongKind
        If a step reads a key that nothing makes, or that is of another kind.
    """
    makes: dict[str, dict[str, Kind]] = {}
    reads: dict[str, dict[str, list[str]]] = {}
    modules: dict[str, Module] = {}
    for key, step in campaign.steps.items():
        if isinstance(step, ComputeStep):
            modules[key], reads[key], makes[key] = _check_step(campaign, step, registry)
        else:
            reads[key], makes[key] = {}, {}
    needs: dict[str, list[str]] = {}
    for key, inputs in reads.items():
        needs[key] = []
        for name, texts in inputs.items():
            for text in texts:
                maker = _maker(campaign, text)
                if maker is not None:
                    needs[key].append(maker)
                _check_read(campaign, store, modules[key], key, name, text, makes.get(maker or ""))
    return _sorted(campaign, needs)


def _check_step(
    campaign: Campaign, step: ComputeStep, registry: Registry
) -> tuple[Module, dict[str, list[str]], dict[str, Kind]]:
    try:
        module = registry.named(step.module)
        inputs, settings = split_options(module, step.options, step.key)
        listed = check_inputs(module, inputs, step.key)
        config = module.config.parse(settings, where=step.key)
        return module, listed, dict(module.makes(config))
    except H5mlError as error:
        entry = next((name for name in step.lines if error.found and name == error.found.split(" = ")[0]), None)
        place = campaign.where(step, entry or ("compute" if error.found == step.module else None))
        raise type(error)(
            error.message, key=f"{step.key} ({place})", expected=error.expected, found=error.found, hint=error.hint
        ) from None


def _maker(campaign: Campaign, text: str) -> str | None:
    """The step that makes what a text names."""
    try:
        key, version = parse_reference(text)
    except H5mlError:
        return None
    roots = [root for root in campaign.steps if version is None and key.is_under(root)]
    return max(roots, key=len, default=None)


def _check_read(
    campaign: Campaign,
    store: Store,
    module: Module,
    key: str,
    name: str,
    text: str,
    makes: Mapping[str, Kind] | None,
) -> None:
    """Whether what a step reads is there, or will be, and of the right kind as far as that is known by now."""
    wanted, step = module.reads[name], campaign.steps[key]
    maker = _maker(campaign, text)
    if maker is None:
        if text in store or (wanted.is_potential and ":" in text):
            return
        known = [*campaign.steps, *store.keys()]
        raise UnknownKey(
            f"The step {key} reads a key that is not there, and no step makes it.",
            key=f"{text} ({campaign.where(step, name)})",
            hint=nearest(text, known) or "add a step that makes it",
        )
    if not makes or isinstance(campaign.steps[maker], ImportStep):
        return
    output = text.strip("/").removeprefix(maker).strip("/")
    if output not in makes:
        raise UnknownKey(
            f"The step {key} reads something that the step {maker} does not make.",
            key=f"{text} ({campaign.where(step, name)})",
            expected=", ".join(f"{maker}/{made}" for made in makes),
            found=text,
            hint=nearest(text, [f"{maker}/{made}" for made in makes]),
        )
    if not wanted.takes(makes[output].name):
        raise WrongKind(
            f"The step {key} reads a key of the wrong kind.",
            key=f"{text} ({campaign.where(step, name)})",
            expected=wanted.kind_names,
            found=makes[output].name,
        )


def _sorted(campaign: Campaign, needs: Mapping[str, list[str]]) -> list[str]:
    done: list[str] = []
    path: list[str] = []

    def visit(key: str) -> None:
        if key in done:
            return
        if key in path:
            circle = [*path[path.index(key) :], key]
            raise InvalidConfig(
                "Steps of the campaign wait for each other.",
                key=campaign.where(campaign.steps[key]),
                found=" reads ".join(circle),
                hint="one of them must not read the other",
            )
        path.append(key)
        for need in needs[key]:
            visit(need)
        path.pop()
        done.append(key)

    for key in needs:
        visit(key)
    return done


def run_campaign(
    store: Store,
    campaign: Campaign,
    reader: Reader,
    *,
    scheduler: str | Scheduler | None = None,
    registry: Registry | None = None,
    progress: Progress | None = None,
    report: Report | None = None,
    only: str | None = None,
    dry_run: bool = False,
) -> list[StepResult]:
    """Make every key of a campaign that is missing or stale, in order.

    Parameters
    ----------
    store : Store
        Where.
    campaign : Campaign
        What.
    reader : callable
        ``reader(path, step)`` reads the file of an import as a dataset.
    scheduler : str or Scheduler, optional
        Where maps and calls run; the campaign's own by default.
    registry : Registry, optional
        Modules that it may name; the installed ones by default.
    progress : Progress, optional
        Told how far the step under way is.
    report : Report, optional
        Told of each step before and after.
    only : str, optional
        The key of the one step to look at.
    dry_run : bool
        Say what would be done, and do nothing.

    Returns
    -------
    list of StepResult
        What was done and why, step by step.

    Raises
    ------
    InvalidConfig, UnknownKey, WrongKind
        Before anything is computed.
    ComputeFailed, Interrupted
        From a step; those before it are done.
    """
    modules = registry if registry is not None else Registry()
    keys = [key for key in order(campaign, store, modules) if only is None or key == only]
    chosen = _LateScheduler(scheduler if scheduler is not None else campaign.scheduler)
    maker = _Maker(store, campaign, reader, chosen, modules, progress)
    results: list[StepResult] = []
    changed: set[str] = set()  # in a dry run, what later steps wait for
    try:
        for key in keys:
            result, plan = _foresee(store, campaign, campaign.steps[key], modules, changed)
            idle = result.action == "none"
            if report is not None:
                report(result, done=idle)
            if dry_run and not idle:
                changed.add(key)
            elif not idle:
                result = maker.make(campaign.steps[key], result, plan)
                if report is not None:
                    report(result, done=True)
            results.append(result)
    finally:
        chosen.close()
    return results


class _LateScheduler:
    """Starts a scheduler when a step first needs it, and closes what it started."""

    def __init__(self, wanted: str | Scheduler | None) -> None:
        self._wanted = wanted
        self._made: Scheduler | None = None

    def get(self) -> Scheduler:
        self._made = self._made or make_scheduler(self._wanted)
        return self._made

    def close(self) -> None:
        if self._made is not None and self._made is not self._wanted:
            self._made.close()


def _foresee(
    store: Store, campaign: Campaign, step: ImportStep | ComputeStep, registry: Registry, changed: set[str]
) -> tuple[StepResult, Plan | None]:
    """What a step needs, and why; in a dry run inputs that are not made yet leave the plan open."""
    if isinstance(step, ImportStep):
        return _foresee_import(store, campaign, step), None
    waits = sorted({m for v in step.options.values() for t in _texts(v) if (m := _maker(campaign, t)) in changed and m})
    if waits:
        return StepResult(step.key, "compute", f"waits for {', '.join(waits)}"), None
    plan = plan_run(
        store,
        step.module,
        root_key=step.key,
        seed=step.seed,
        trust_pickle=step.trust_pickle,
        device=step.device,
        registry=registry,
        **step.options,
    )
    return _foresee_run(store, plan)


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
        return StepResult(plan.root_key, "extend", f"{said}"), plan
    if standing.previous is not None:
        status = standing.previous.status
        before = "was killed before" if status == "running" else f"{status} before"
        return StepResult(plan.root_key, "resume", before), plan
    return StepResult(plan.root_key, "compute", said), plan


def _foresee_import(store: Store, campaign: Campaign, step: ImportStep) -> StepResult:
    if step.key not in store.catalogue:
        return StepResult(step.key, "import", "missing")
    path = campaign.folder / step.file
    known = store.entry(step.key).origin.get("digest")
    if known is None or not path.is_file() or known == file_digest(path):
        return StepResult(step.key, "none", "up to date")
    return StepResult(step.key, "import", f"stale: {step.file} changed")


@dataclass(frozen=True, slots=True)
class _Maker:
    """Makes steps."""

    store: Store
    campaign: Campaign
    reader: Reader
    scheduler: _LateScheduler
    registry: Registry
    progress: Progress | None

    def make(self, step: ImportStep | ComputeStep, result: StepResult, plan: Plan | None) -> StepResult:
        if isinstance(step, ImportStep):
            self._import(step)
            return result
        assert plan is not None
        run = run_plan(self.store, plan, scheduler=self.scheduler.get(), progress=self.progress, registry=self.registry)
        return replace(result, run=run)

    def _import(self, step: ImportStep) -> None:
        path = self.campaign.folder / step.file
        if not path.is_file():
            raise InvalidConfig(
                "There is no such file to import.",
                key=f"{step.key} ({self.campaign.where(step, 'import')})",
                found=path,
            )
        origin = {"file": path.name, "digest": file_digest(path)}
        dataset = self.reader(path, step)
        known = step.key in self.store.catalogue
        with self.store.transaction(f"import {step.key}") as transaction:
            transaction.write(step.key, dataset, step.kind, new_version=known, origin=origin)


def file_digest(path: Path) -> str:
    """BLAKE3 of a file's bytes, as hex."""
    from blake3 import blake3

    return blake3(path.read_bytes()).hexdigest()


def _texts(value: Any) -> list[str]:
    return [item for item in (value if isinstance(value, list | tuple) else [value]) if isinstance(item, str)]
