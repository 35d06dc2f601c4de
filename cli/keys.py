"""Commands that list keys: ``ls``, ``tree``, ``query``, ``du``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from .common import KEY, command, json_option, open_at, store_option
from .options import config_options, given_settings
from .output import byte_text, formula_text, print_json, print_table, sizes_text, time_text

if TYPE_CHECKING:
    from ..store.catalogue import Catalogue, Entry
    from ..store.staleness import Staleness
    from ..store.store import Store


def entry_record(entry: Entry, catalogue: Catalogue, staleness: Staleness) -> dict[str, Any]:
    """What ``--json`` says of an entry."""
    run = catalogue.runs.get(entry.run or "")
    return {
        "key": entry.key,
        "version": entry.version,
        "kind": entry.kind,
        "records": entry.records,
        "sizes": entry.sizes,
        "formulas": entry.facts.get("formulas", []),
        "elements": entry.facts.get("elements", []),
        "created": entry.created,
        "modified": entry.modified,
        "digest": entry.digest,
        "run": entry.run,
        "run_status": run.status if run else None,
        "stale": staleness.of(entry),
        "tags": entry.tags,
        "purged": entry.purged,
    }


def _print_entries(entries: Iterable[Entry], store: Store, *, versions: bool, as_json: bool) -> None:
    from ..store.staleness import Staleness

    catalogue = store.catalogue
    staleness = Staleness(catalogue)
    if as_json:
        print_json([entry_record(entry, catalogue, staleness) for entry in entries])
        return
    chosen = list(entries)
    columns = ["key", "kind", "records", "formula", "sizes", "changed (UTC)", "run"]
    columns += ["tags"] if any(entry.tags for entry in chosen) else []
    rows = [_row(entry, _state(entry, catalogue, staleness), versions=versions)[: len(columns)] for entry in chosen]
    print_table(columns, rows, right=("records",), empty=f"No keys in {store.location}.")


def _state(entry: Entry, catalogue: Catalogue, staleness: Staleness) -> str:
    run = catalogue.runs.get(entry.run or "")
    state = "purged" if entry.purged else run.status if run else "imported" if entry.origin else ""
    return f"{state}, stale" if staleness.of(entry) else state


def _row(entry: Entry, state: str, *, versions: bool) -> tuple[Any, ...]:
    return (
        entry.reference if versions else entry.key,
        entry.kind,
        entry.records or None,
        formula_text(entry.facts),
        sizes_text(entry.sizes),
        time_text(entry.modified),
        state,
        ", ".join(entry.tags),
    )


@command("ls", "List the keys.")
@click.argument("path", default="", type=KEY)
@click.option("--versions", is_flag=True, help="List older versions too.")
@json_option
@store_option
def ls(path: str, versions: bool, as_json: bool, location: str | None) -> None:
    """List the keys, or those below PATH."""
    store = open_at(location)
    conditions = {"under": path.strip("/"), "versions": versions}
    found = store.query(**conditions)
    _check_path(store, path, found)
    _print_entries(found, store, versions=versions, as_json=as_json)


def _check_path(store: Store, path: str, found: Sequence[Any]) -> None:
    """Say that nothing lies below a path, where one was given."""
    from ..schemas.errors import UnknownKey, nearest

    if path.strip("/") and not found:
        hint = nearest(path, store.keys()) or "`h5ml ls` lists all keys"
        raise UnknownKey("There is no such key or path.", key=path, hint=hint)


def _print_query(**options: Any) -> None:
    from ..store.query import Query

    store = open_at(options["location"])
    conditions = given_settings(Query, options)
    found = store.query(**conditions)
    if not found:
        _explain_nothing(store, conditions)
    if options["as_json"] or options["long"]:
        _print_entries(found, store, versions=bool(conditions.get("versions")), as_json=options["as_json"])
        return
    for entry in found:
        click.echo(entry.reference if conditions.get("versions") else entry.key)


def _explain_nothing(store: Store, conditions: Mapping[str, Any]) -> None:
    """Say that nothing was found; a kind that does not exist is an error."""
    from ..schemas.kinds import kind_named

    kind = conditions.get("kind")
    if kind is not None and all(entry.kind != kind for entry in store.catalogue):
        kind_named(kind)
    click.echo(f"No key of {store.location} fulfils all conditions.", err=True)


def _query_command() -> click.Command:
    from ..store.query import Query

    function: Any = click.option("--long", "-l", is_flag=True, help="Print a table in place of the keys alone.")(
        _print_query
    )
    made = command("query", "Find keys by kind, composition, attributes, runs and times.")(
        json_option(store_option(function))
    )
    made.help = (
        "Find the keys that fulfil all conditions.\n\nFor example: h5ml query --kind trajectory --elements C,N "
        "--min-records 100 --attributes ensemble=NPT"
    )
    made.params = [*config_options(Query), *made.params]
    return made


query = _query_command()


@command("tree", "Draw the keys as a tree.")
@click.argument("path", default="", type=KEY)
@json_option
@store_option
def tree(path: str, as_json: bool, location: str | None) -> None:
    """Draw the keys (or those below PATH) as a tree."""
    store = open_at(location)
    entries = store.entries(path)
    _check_path(store, path, entries)
    branches: dict[str, Any] = {}
    for entry in entries:
        branch = branches
        *folders, leaf = entry.key.split("/")
        for folder in folders:
            branch = branch.setdefault(folder, {})
        branch[leaf] = entry
    if as_json:
        print_json(_names(branches))
        return
    if not entries:
        click.echo(f"No keys in {store.location}.", err=True)
        return
    click.echo(store.location)
    _draw(branches, "")


def _names(branch: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _names(below) if isinstance(below, dict) else below.kind for name, below in branch.items()}


def _draw(branch: Mapping[str, Any], indent: str) -> None:
    for i, (name, below) in enumerate(branch.items()):
        last = i == len(branch) - 1
        line = f"{indent}{'└── ' if last else '├── '}{name}"
        if isinstance(below, dict):
            click.echo(line)
            _draw(below, indent + ("    " if last else "│   "))
        else:
            click.echo(f"{line}  ({': '.join(filter(None, (below.kind, sizes_text(below.sizes))))})")


@command("du", "Show how many bytes the keys take.")
@click.argument("path", default="", type=KEY)
@click.option("--depth", type=click.IntRange(min=1), help="Add up keys below so many segments.")
@json_option
@store_option
def du(path: str, depth: int | None, as_json: bool, location: str | None) -> None:
    """Show how many bytes the arrays of each key take before compression, all versions, and the store as a whole."""
    from ..store.maintenance import du as usage

    store = open_at(location)
    sums: dict[str, int] = {}
    _check_path(store, path, store.entries(path.strip("/")))
    for found in usage(store, path.strip("/")):
        name = "/".join(found.key.split("/")[:depth]) if depth else found.key
        sums[name] = sums.get(name, 0) + found.bytes
    total = store.engine.nbytes()
    if as_json:
        print_json({"keys": sums, "data_bytes": sum(sums.values()), "store_bytes": total})
        return
    rows = [(byte_text(size), name) for name, size in sorted(sums.items(), key=lambda item: -item[1])]
    rows += [(byte_text(sum(sums.values())), "(all of these)"), (byte_text(total), f"({store.location} on disk)")]
    print_table(("size", "key"), rows, right=("size",))
