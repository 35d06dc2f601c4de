"""The command ``show``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from .common import KEY, command, json_option, open_at, store_option
from .keys import entry_record
from .options import value_text
from .output import byte_text, formula_text, print_fields, print_json, print_table, sizes_text, time_text

if TYPE_CHECKING:
    from ..schemas.run import Run
    from ..store.catalogue import Entry
    from ..store.store import Store


@command("show", "Show what lies at a key and how to open it.")
@click.argument("key", type=KEY)
@json_option
@store_option
def show(key: str, as_json: bool, location: str | None) -> None:
    """Show what lies at KEY (or KEY@VERSION): variables, units, attributes, run, tags, notes, and how to open it."""
    from ..store.staleness import Staleness
    from ..store.transfer import entry_bytes

    store = open_at(location)
    entry = store.entry(key)
    run = store.catalogue.runs.get(entry.run or "")
    variables = [] if entry.purged else _variables(store, entry)
    staleness = Staleness(store.catalogue)
    if as_json:
        record = entry_record(entry, store.catalogue, staleness)
        record |= {"attributes": entry.attributes, "origin": entry.origin, "notes": entry.notes}
        record |= {"variables": variables, "open": _opening(store, entry)}
        print_json(record | {"run_record": run.record() if run else None})
        return
    size = 0 if entry.purged else entry_bytes(store, entry)
    print_fields(
        {
            "key": entry.reference,
            "kind": f"{entry.kind} (schema {entry.schema_version})",
            "holds": sizes_text(entry.sizes),
            "formula": formula_text(entry.facts),
            "size": "purged: only lineage and digests are kept" if entry.purged else byte_text(size),
            "digest": entry.digest,
            "created": f"{time_text(entry.created)} UTC",
            "changed": f"{time_text(entry.modified)} UTC" if entry.modified != entry.created else "",
            "tags": ", ".join(entry.tags),
            "stale": " ".join(staleness.of(entry)),
            "origin": ", ".join(f"{name} {value}" for name, value in entry.origin.items()),
        }
    )
    if run is not None:
        _print_run(run, store.catalogue.runs)
    _print_body(entry, variables)
    click.echo("\nopen it with")
    for line in _opening(store, entry):
        click.echo(f"  {line}")


def _print_run(run: Run, runs: Mapping[str, Run]) -> None:
    settings, rest = _settings(run)
    inputs = [f"{name}: {', '.join(f'{r.key}@{r.version}' for r in refs)}" for name, refs in run.inputs.items()]
    inputs += [f"{name}: {facts.get('engine')}:{facts.get('method')}" for name, facts in run.engines.items()]
    click.echo("")
    print_fields(
        {
            "run": run.id,
            "module": f"{run.module} (version {run.module_version}), {run.status}, seed {run.seed}",
            "inputs": "; ".join(inputs),
            "calls": ", ".join(f"{number} of {module}" for module, number in _called(run, runs).items()),
            "settings": f"{', '.join(settings)}{rest}",
            "took": f"{run.wall_s:.1f} s on {run.environment.get('host', 'an unknown host')}"
            + (f", resumed {run.resumed} times" if run.resumed else ""),
            "error": run.error,
        }
    )


def _called(run: Run, runs: Mapping[str, Run]) -> Counter[str]:
    """The modules that a run called, and how often."""
    return Counter(runs[call.run].module if call.run in runs else "an unknown module" for call in run.calls)


def _settings(run: Run) -> tuple[list[str], str]:
    """The settings that are not their defaults, where the module is installed here, and what to say of the others."""
    from ..compute.registry import Registry

    module = Registry().get(run.module)
    fields = module.config.model_fields if module is not None else {}
    defaults = {name: field.default for name, field in fields.items()}
    changed = {name: value for name, value in run.config.items() if name not in defaults or value != defaults[name]}
    texts = [f"{name}={value_text(value)}" for name, value in changed.items() if value not in (None, [], ())]
    return texts, "; the others are the defaults (--json shows all)" if defaults else ""


def _print_body(entry: Entry, variables: list[dict[str, Any]]) -> None:
    if variables:
        click.echo("")
        rows = [(v["name"], _axes(v), v["dtype"], v["units"]) for v in variables]
        print_table(("variable", "dimensions", "type", "units"), rows)
    attributes = {n: v for n, v in entry.attributes.items() if n not in ("kind", "schema_version")}
    if attributes:
        click.echo("\nattributes")
        print_fields({f"  {name}": value for name, value in attributes.items()})
    for note in entry.notes:
        click.echo(f"\nnote of {note['author']}, {time_text(note['time'])} UTC: {note['text']}")


def _axes(variable: dict[str, Any]) -> str:
    return ", ".join(f"{dim} {size}" for dim, size in zip(variable["dims"], variable["shape"], strict=True))


def _variables(store: Store, entry: Entry) -> list[dict[str, Any]]:
    with store.at(entry) as (reader, path):
        arrays = reader.layout(path).arrays
    return [
        {
            "name": name,
            "dims": list(array.dims),
            "shape": list(array.shape),
            "dtype": array.dtype,
            "units": array.attributes.get("units"),
            "chunks": array.chunks,
            "compression": array.compression,
        }
        for name, array in sorted(arrays.items())
    ]


def _opening(store: Store, entry: Entry) -> list[str]:
    """Lines of Python that open an entry, with and without h5ml."""
    if entry.purged:
        return [f"h5ml replay {entry.reference}   (its data were purged; this restores them)"]
    mine = f'h5ml.open("{store.location}")["{entry.reference}"]'
    if store.engine.kind == "hdf5":
        return [f'xarray.open_dataset("{store.location}", group="{entry.path}", engine="h5netcdf")', mine]
    return [f'xarray.open_zarr(session.store, group="{entry.path}")   (session: icechunk, branch main)', mine]
