"""The commands ``kinds``, ``modules`` and ``config``: the reference, printed from the schemas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from ..schemas.config import nested_config
from .common import command, json_option
from .options import Shape, bounds_of, default_text
from .output import print_json

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from ..compute.module import Module
    from ..schemas.config import Config
    from ..schemas.kind import Kind


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a Markdown table with aligned columns."""
    texts = [[str(value).replace("|", "\\|") for value in row] for row in [columns, *rows]]
    widths = [max(len(row[i]) for row in texts) for i in range(len(columns))]
    texts.insert(1, ["-" * width for width in widths])
    for row in texts:
        click.echo("| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |")


# --- kinds -------------------------------------------------------------------------------------------------------


@command("kinds", "Print the kinds of data, or one of them in full.")
@click.argument("name", required=False)
@json_option
def kinds(name: str | None, as_json: bool) -> None:
    """Print the kinds of data; with NAME the variables of one, with dimensions, types and units."""
    from ..schemas.kinds import kind_named
    from ..schemas.kinds import kinds as all_kinds

    chosen = [kind_named(name)] if name else list(all_kinds().values())
    if as_json:
        print_json([_kind_record(kind) for kind in chosen])
    elif name:
        _print_kind(chosen[0])
    else:
        rows = [(kind.name, ", ".join(kind.grows) or "-", kind.description) for kind in chosen]
        _markdown(("kind", "grows along", "what it is"), rows)


def _print_kind(kind: Kind) -> None:
    click.echo(f"# {kind.name} (version {kind.version})\n\n{kind.description}")
    if kind.grows:
        click.echo(f"Grows along: {', '.join(kind.grows)}.")
    if kind.open:
        click.echo("Other variables may stand beside the named ones.")
    if not kind.variables:
        return
    click.echo("")
    rows = []
    for v in kind.variables:
        flags = f" ({', '.join(f'{number} {word}' for number, word in v.flags.items())})" if v.flags else ""
        unit = "-" if v.dtype == "text" else v.units
        needed = "yes" if v.required else "no"
        rows.append((v.name, ", ".join(v.dims), v.dtype, unit, needed, v.description + flags))
    _markdown(("variable", "dimensions", "type", "unit", "required", "what it is"), rows)


def _kind_record(kind: Kind) -> dict[str, Any]:
    variables = [
        {
            "name": v.name,
            "dims": v.dims,
            "dtype": v.dtype,
            "units": v.units,
            "required": v.required,
            "finite": v.finite,
            "flags": v.flags,
            "description": v.description,
        }
        for v in kind.variables
    ]
    record = {"name": kind.name, "version": kind.version, "description": kind.description, "grows": kind.grows}
    return record | {"open": kind.open, "variables": variables}


# --- modules and their settings ----------------------------------------------------------------------------------


@command("modules", "Print the compute modules, or one of them in full.")
@click.argument("name", required=False)
@json_option
def modules(name: str | None, as_json: bool) -> None:
    """Print the compute modules; with NAME what one reads, writes and can be set to."""
    from ..compute.registry import Registry

    registry = Registry()
    chosen = [registry.named(name)] if name else [registry[one] for one in registry]
    if as_json:
        print_json([_module_record(module) for module in chosen])
    elif name:
        _print_module(chosen[0])
    else:
        rows = [(m.name, m.version, ", ".join(_reads(m)), m.summary) for m in chosen]
        _markdown(("module", "version", "reads", "what it does"), rows)


def _reads(module: Module) -> list[str]:
    return [f"{name} ({spec.kind_names}, {spec.number})" for name, spec in module.reads.items()]


def _writes(module: Module) -> dict[str, str]:
    """Output names and kinds with default settings; empty where the settings have no defaults."""
    try:
        return {name: kind.name for name, kind in module.outputs(module.config()).items()}
    except ValueError:
        return {}


def _print_module(module: Module) -> None:
    click.echo(f"# {module.name} (version {module.version})\n\n{module.summary}\n")
    rows = [(f"--{name.replace('_', '-')}", s.kind_names, s.number) for name, s in module.reads.items()]
    _markdown(("reads", "kind", "how many"), rows)
    written = _writes(module)
    if written:
        click.echo("")
        _markdown(("writes (with default settings)", "kind"), list(written.items()))
    click.echo("")
    _print_config(module.config)


def _module_record(module: Module) -> dict[str, Any]:
    return {
        "name": module.name,
        "version": module.version,
        "description": module.summary,
        "reads": {n: {"kind": s.kind_names, "how_many": s.number} for n, s in module.reads.items()},
        "writes": _writes(module),
        "config": module.config.model_json_schema(),
    }


@command("config", "Print the settings of a compute module.")
@click.argument("module")
@json_option
def config(module: str, as_json: bool) -> None:
    """Print the settings of MODULE: the same names stand on the command line, in a campaign file and in Python."""
    from ..compute.registry import Registry

    chosen = Registry().named(module)
    if as_json:
        print_json(chosen.config.model_json_schema())
        return
    click.echo(f"# Settings of {chosen.name}\n")
    _print_config(chosen.config)


def _print_config(settings: type[Config]) -> None:
    rows = [_field_row(name, field) for name, field in settings.every_field()]
    _markdown(("setting", "default", "values", "what it is"), rows)


def _field_row(name: str, field: FieldInfo) -> tuple[str, str, str, str]:
    shape = Shape(field.annotation)
    values = "yes, no" if shape.boolean else ", ".join(word if shape.choices else word.lower() for word in shape.words)
    if nested_config(field) is not None:
        values = "the settings below" + (", or none" if shape.optional else "")
    bounds = ", ".join(bounds_of(field))
    extra = field.json_schema_extra
    longer = " (can be raised later)" if isinstance(extra, dict) and extra.get("extends") else ""
    return name, default_text(field), f"{values} {bounds}".strip(), (field.description or "") + longer
