"""The runner: finds or computes the result of a module at a root key."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ..schemas.config import Config
from ..schemas.errors import H5mlError, InvalidConfig
from ..schemas.run import Run
from ..schemas.scheduling import Place
from ..store.store import Store
from .crew import Services
from .execution import Execution, Setting
from .module import Module, Progress, no_progress
from .plan import InputText, Plan, find_inputs, make_plan, split_options
from .registry import Registry
from .requests import LocalRequests
from .scheduler import Scheduler, make_scheduler
from .signals import interruptible
from .staging import Committer
from .standing import Elsewhere, Found, look_up
from .take_over import take_over

__all__ = ["execute_plan", "plan_run", "run", "run_plan", "session"]


def run(
    store: Store,
    module: str | Module,
    *,
    root_key: str,
    inputs: Mapping[str, InputText | None] | None = None,
    config: Mapping[str, Any] | Config | None = None,
    seed: int = 0,
    new_version: bool = False,
    scheduler: str | Scheduler | None = None,
    progress: Progress | None = None,
    parent: str | None = None,
    trust_pickle: bool = False,
    device: str = "cpu",
    registry: Registry | None = None,
    **options: Any,
) -> Run:
    """Run a module, or find what it made before.

    Parameters
    ----------
    store : Store
        Where inputs lie and outputs go.
    module : str or Module
        Name of a registered module, or a module.
    root_key : str
        Outputs lie at ``ROOT_KEY/OUTPUT``.
    inputs : mapping, optional
        Input name to a key (``KEY`` or ``KEY@VERSION``), a list of keys, or ``engine:method`` for a potential.
    config : mapping or Config, optional
        Settings.
    seed : int
        Seed of all random numbers.
    new_version : bool
        Whether keys that another run made get a new version.
    scheduler : str or Scheduler, optional
        ``serial`` (the default), ``local:N`` or ``tcp://host:port``.
    progress : Progress, optional
        Told how far the run is.
    parent : str, optional
        Id of the run on whose behalf this one is made.
    trust_pickle : bool
        Whether potentials may be read from files that can run code.
    device : str
        ``cpu`` or ``cuda``.
    registry : Registry, optional
        Modules that may be named; the installed ones by default.
    **options
        Inputs and settings by name, as on the command line.

    Returns
    -------
    Run
        The record; ``reused`` is set where the result was taken over from another root.

    Raises
    ------
    InvalidConfig, UnknownKey, WrongKind
        Before anything is computed, if what was asked for does not fit.
    KeyTaken
        If an output key holds something else.
    ComputeFailed
        If the module fails.
    Interrupted
        If a signal came; running again goes on from the last commit.

    Examples
    --------
    >>> h5ml.run(store, "md", root_key="md", crystal="crystals/urea", model="tblite:GFN1-xTB")  # doctest: +SKIP
    """
    plan = plan_run(
        store,
        module,
        root_key=root_key,
        inputs=inputs,
        config=config,
        seed=seed,
        new_version=new_version,
        parent=parent,
        trust_pickle=trust_pickle,
        device=device,
        registry=registry,
        **options,
    )
    modules = registry if registry is not None else _registry([plan.module])
    return run_plan(store, plan, scheduler=scheduler, progress=progress, registry=modules)


def plan_run(
    store: Store,
    module: str | Module,
    *,
    root_key: str,
    inputs: Mapping[str, InputText | None] | None = None,
    config: Mapping[str, Any] | Config | None = None,
    seed: int = 0,
    new_version: bool = False,
    parent: str | None = None,
    trust_pickle: bool = False,
    device: str = "cpu",
    registry: Registry | None = None,
    **options: Any,
) -> Plan:
    """Check everything that was asked for, and name the run; parameters as in ``run``."""
    chosen = module if isinstance(module, Module) else (registry if registry is not None else Registry()).named(module)
    named, settings = split_options(chosen, options, root_key)
    asked = config.canonical() if isinstance(config, Config) else dict(config or {})
    twice = sorted({*named} & {*(inputs or {})} | {*settings} & {*(asked if options else {})})
    if twice:
        raise InvalidConfig("An option was given twice.", key=root_key, found=twice[0])
    found = find_inputs(store, chosen, {**(inputs or {}), **named}, root_key, trust_pickle=trust_pickle, device=device)
    whole: Mapping[str, Any] | Config = config if isinstance(config, Config) and not settings else {**asked, **settings}
    return make_plan(chosen, whole, found, root_key, seed=seed, parent=parent, new_version=new_version, device=device)


def run_plan(
    store: Store,
    plan: Plan,
    *,
    scheduler: str | Scheduler | None = None,
    progress: Progress | None = None,
    registry: Registry | None = None,
) -> Run:
    """Run a plan, with signals minded and what earlier campaigns staged merged first; parameters as in ``run``."""
    logger = logging.getLogger("h5ml")
    committer = Committer(store, logger)
    committer.recover()
    standing = look_up(store, plan)
    if isinstance(standing, Found):
        return standing.run
    if isinstance(standing, Elsewhere):
        return take_over(store, plan, standing)
    modules = registry if registry is not None else _registry([plan.module])
    with session(store, scheduler, modules, progress, committer) as (services, setting):
        return execute_plan(plan, services, setting, owned=False)


@contextmanager
def session(
    store: Store,
    scheduler: str | Place | Scheduler | None,
    registry: Registry,
    progress: Progress | None,
    committer: Committer,
) -> Iterator[tuple[Services, Setting]]:
    """What runs share while they are executed: workers, one committer, and signals that are minded."""
    logger = logging.getLogger("h5ml")
    chosen = make_scheduler(scheduler)
    try:
        services = Services(store, registry, chosen, committer, execute_plan)
        with interruptible() as stop:
            yield services, Setting(stop, progress or no_progress, logger)
    finally:
        if chosen is not scheduler:
            chosen.close()
        try:
            committer.recover()  # what workers that were still at it left behind
        except H5mlError as error:  # the next run merges it
            logger.warning("what is staged in %s could not be merged: %s", committer.folder, error.message)


def execute_plan(plan: Plan, services: Services, setting: Setting, owned: bool) -> Run:
    """Run a plan in this process.

    Parameters
    ----------
    plan : Plan
        What to run.
    services, setting : Services, Setting
        What it shares with other runs, and what surrounds it.
    owned : bool
        Whether the run's record already names this process.
    """
    store = services.store
    standing = look_up(store, plan, owned=owned)
    if isinstance(standing, Found):
        return standing.run
    if isinstance(standing, Elsewhere):
        return take_over(store, plan, standing)
    setting.owned = owned
    previous = standing.previous
    if previous is not None and previous.status == "running" and not owned:
        facts = previous.environment
        setting.logger.warning(
            "%s: process %s on %s, which began this run, is taken to be dead",
            plan.root_key,
            facts.get("pid"),
            facts.get("host"),
        )
    return Execution(store, plan, standing, setting, lambda execution: LocalRequests(execution, services)).run()


def _registry(modules: Iterable[Module]) -> Registry:
    return Registry(modules)
