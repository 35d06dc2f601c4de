"""The command ``compute``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .common import CAMPAIGN_FILE, KEY, H5mlCommand, json_option, named_location, open_at, say, store_option
from .options import DashedOption, config_options, given_settings, spellings
from .output import formula_text, print_json, sizes_text

if TYPE_CHECKING:
    from ..compute.module import Module
    from ..schemas.campaign import ComputeStep
    from ..schemas.run import Run
    from ..store.store import Store

INPUT = "input_"
_HOW_MANY = {
    "one": "",
    "at most one": " (may be left out)",
    "one or more": " (repeat it for several)",
    "any number": " (may be left out; repeat it for several)",
}


class ModuleGroup(click.Group):
    """The compute modules as commands; each is imported when used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the installed modules."""
        from ..compute.registry import Registry

        del ctx
        return list(Registry())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        """The command of a module; an unknown name is an error that says the nearest."""
        from ..compute.registry import Registry

        del ctx
        return module_command(Registry().named(cmd_name))


@click.group(
    "compute",
    cls=ModuleGroup,
    short_help="Run a compute module on keys of the store.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
def compute() -> None:
    """Run a compute module on keys of the store; `h5ml compute MODULE --help` shows its settings.

    The same command again finds what is there; after an interruption it goes on from the last commit.
    """


def module_command(module: Module) -> click.Command:
    """The command of a module: options for its inputs, its settings, and how it is run."""

    @click.pass_context
    def callback(ctx: click.Context, /, **parameters: Any) -> None:
        _compute(module, parameters, ctx)

    made = H5mlCommand(module.name, callback=callback, short_help=module.summary, help=_help(module))
    first, *others = _run_options()
    taken = {spelling for parameter in (first, *others, *made.params) for spelling in parameter.opts}
    settings = config_options(module.config, taken, module.name)
    made.params = [first, *_input_options(module), *settings, *others, *made.params]
    return made


def _help(module: Module) -> str:
    return (
        f"{module.summary}\n\nWith a campaign file (h5ml.yaml in this folder, or --campaign), inputs and settings are "
        "those of the step of the root key, and options given here override them."
    )


def _input_options(module: Module) -> list[click.Parameter]:
    made: list[click.Parameter] = []
    for name, wanted in module.reads.items():
        is_potential = wanted.is_potential
        text = "The potential: engine:method, as tblite:GFN1-xTB, ase:emt, file:PATH.model, or the key of a checkpoint."
        text = text if is_potential else f"Key of kind {wanted.kind_names}."
        how_many = _HOW_MANY[wanted.number]
        made.append(
            DashedOption(
                [*spellings(name), INPUT + name],
                help=f"{text.removesuffix('.')}{how_many}.",
                metavar="MODEL" if is_potential else "KEY",
                multiple=wanted.most is None,
                type=click.STRING if is_potential else KEY,
            )
        )
    return made


def _run_options() -> list[click.Parameter]:
    """Options that every module has; made by decorating a function, as for the other commands."""

    @click.option("--root-key", required=True, type=KEY, metavar="KEY", help="Outputs lie below this key.")
    @store_option
    @json_option
    @click.option("--seed", type=int, help="Seed of all random numbers.  [default: 0]")
    @click.option("--new-version", is_flag=True, help="Where a key holds other data, add a version and keep the old.")
    @click.option(
        "--scheduler", metavar="WHERE", help="serial, local:N (processes here), tcp://host:port, slurm, pbs or lsf."
    )
    @click.option("--campaign", type=click.Path(exists=True, dir_okay=False), metavar="FILE", help="The campaign file.")
    @click.option("--device", type=click.Choice(["cpu", "cuda"]), help="Where models run.  [default: cpu]")
    @click.option("--trust-pickle", is_flag=True, help="Allow model files that can run any code when they are read.")
    @click.option("-q", "--quiet", is_flag=True, help="No progress bar and no closing lines.")
    def options() -> None:
        """Hold the options."""

    found: list[click.Parameter] = list(reversed(getattr(options, "__click_params__", [])))
    return found


def _compute(module: Module, parameters: Mapping[str, Any], ctx: click.Context) -> None:
    from ..compute.plan import split_options
    from ..compute.runner import run as run_module
    from .progress import progress_bar

    root_key = parameters["root_key"]
    step = _campaign_step(parameters["campaign"], root_key, module)
    inputs, config = split_options(module, step.options, root_key)
    inputs |= _given_inputs(module, parameters)
    config |= given_settings(module.config, parameters, config)
    campaign = parameters["campaign"]
    location = named_location(ctx, parameters["location"]) if campaign else parameters["location"]
    store = open_at(location, campaign)
    _check_lists(store, inputs)
    before = store.root_digest
    with progress_bar(root_key, quiet=parameters["quiet"] or parameters["as_json"]) as report_progress:
        record = run_module(
            store,
            module,
            root_key=root_key,
            inputs=inputs,
            config=config,
            seed=step.seed if parameters["seed"] is None else parameters["seed"],
            new_version=parameters["new_version"],
            scheduler=parameters["scheduler"],
            progress=report_progress,
            trust_pickle=parameters["trust_pickle"] or step.trust_pickle,
            device=parameters["device"] or step.device,
        )
    if parameters["as_json"]:
        print_json(record.record())
    elif not parameters["quiet"]:
        close_with(store, record, found=store.root_digest == before)


def _campaign_step(campaign: str | None, root_key: str, module: Module) -> ComputeStep:
    """The step of the root key; an empty one where the campaign file of this folder has none, or there is no file.

    Raises
    ------
    InvalidConfig
        If a campaign was named and has no such step, or the step is of another module.
    """
    from ..schemas.campaign import ComputeStep, find_step, load_campaign
    from ..schemas.errors import InvalidConfig

    empty = ComputeStep(key=root_key, module=module.name)
    if campaign is None and not Path(CAMPAIGN_FILE).is_file():
        return empty
    loaded = load_campaign(campaign or CAMPAIGN_FILE)
    step = loaded.steps.get(root_key.strip("/"))
    if step is None:
        if campaign is not None:
            find_step(loaded, root_key)  # says what there is
        return empty
    if not isinstance(step, ComputeStep) or step.module != module.name:
        raise InvalidConfig(
            "The campaign makes this key in another way.",
            key=f"{root_key} ({loaded.where(step)})",
            expected=f"compute: {module.name}",
            found=f"compute: {step.module}" if isinstance(step, ComputeStep) else f"import: {step.file}",
            hint="take another root key, or change the step",
        )
    return step


def _given_inputs(module: Module, parameters: Mapping[str, Any]) -> dict[str, Any]:
    given = {name: parameters.get(INPUT + name) for name in module.reads}
    return {name: list(v) if isinstance(v, tuple) else v for name, v in given.items() if v not in (None, ())}


def _check_lists(store: Store, inputs: Mapping[str, Any]) -> None:
    """Say how several keys are given, where somebody joined them by commas (which a key may hold)."""
    from ..schemas.errors import InvalidConfig

    for name, value in inputs.items():
        for text in value if isinstance(value, list) else []:
            parts = [part.strip() for part in str(text).split(",")]
            if len(parts) > 1 and text not in store and all(part in store for part in parts):
                option = f"--{name.replace('_', '-')}"
                expected = " ".join(f"{option} {part}" for part in parts)
                raise InvalidConfig("Each key has an option of its own.", key=option, expected=expected, found=text)


def close_with(store: Store, record: Run, *, found: bool) -> None:
    """Say what lies where after a run."""
    for ref in record.outputs.values():
        entry = store.entry(f"{ref.key}@{ref.version}")
        what = ", ".join(text for text in (formula_text(entry.facts), sizes_text(entry.sizes)) if text)
        say(f"{entry.key}: {entry.kind}" + (f" ({what})" if what else ""))
    how = f"made by run {record.id[:12]} in {record.wall_s:.1f} s"
    how = f"made before by run {record.id[:12]}; nothing was computed" if found else how
    how = f"taken over from {record.reused}; nothing was computed" if record.reused else how
    say(f"in {store.location}, {how}")
