"""The command ``log``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from .common import KEY, command, json_option, open_at, store_option
from .output import print_json, print_table, time_text

if TYPE_CHECKING:
    from ..schemas.run import Run
    from ..store.log import Commit
    from ..store.store import Store


@command("log", "Show the commits, or the runs.")
@click.argument("key", required=False, type=KEY)
@click.option("--runs", is_flag=True, help="List runs in place of commits.")
@click.option("-n", "--last", type=click.IntRange(min=1), help="Only the last so many.")
@json_option
@store_option
def log(key: str | None, runs: bool, last: int | None, as_json: bool, location: str | None) -> None:
    """Show the commits, oldest first; with KEY only those that changed it. --runs lists the runs."""
    store = open_at(location)
    if runs:
        _print_runs(store, key, last, as_json)
        return
    commits = store.commits()
    if key:
        names = _names_of(store, key)
        commits = [commit for commit in commits if any(_concerns(event, names) for event in commit.events)]
    commits = commits[-last:] if last else commits
    if as_json:
        print_json([_record(commit) for commit in commits])
        return
    rows = [(c.number, time_text(c.time), c.digest[:12], c.message, _summary(c)) for c in commits]
    print_table(("commit", "time (UTC)", "digest", "message", "changes"), rows, right=("commit",), empty="No commits.")
    if not key:
        click.echo(f"\nroot digest: {store.root_digest}")


def _names_of(store: Store, key: str) -> set[str]:
    """A key and the names it had before it was moved."""
    from ..schemas.key import parse_reference

    name = store.entry(key).key if key in store else str(parse_reference(key)[0])
    known = any(_concerns(event, {name}) for commit in store.commits() for event in commit.events)
    if not known:
        store.entry(key)  # raises, with the nearest names
    aliases = store.catalogue.aliases
    return {name} | {old for old in aliases if store.catalogue.resolve(old) == name}


def _concerns(event: Mapping[str, Any], names: set[str]) -> bool:
    return bool(names.intersection((event.get("key"), event.get("source"), event.get("target"))))


def _record(commit: Commit) -> dict[str, Any]:
    return {
        "number": commit.number,
        "time": commit.time,
        "digest": commit.digest,
        "previous": commit.previous,
        "message": commit.message,
        "events": commit.events,
    }


def _summary(commit: Commit) -> str:
    parts = []
    for event in commit.events:
        name = event.get("key") or event.get("source") or event.get("run", {}).get("root_key") or ""
        detail = f" ({event['records']} records)" if event.get("event") == "append" else ""
        detail = f" -> {event['target']}" if event.get("event") in ("move", "alias") else detail
        if event.get("event") not in ("restart", "stash", "mark", "forget"):
            parts.append(f"{event.get('event')} {name}{detail}".strip())
    return "; ".join(parts[:3]) + (f"; and {len(parts) - 3} more" if len(parts) > 3 else "")


def _print_runs(store: Store, key: str | None, last: int | None, as_json: bool) -> None:
    from ..schemas.key import Key

    runs = sorted(store.runs.values(), key=lambda run: run.started)
    if key:
        entry = store.entry(key) if key in store else None
        runs = [r for r in runs if Key(r.root_key).is_under(key) or (entry is not None and r.id == entry.run)]
    runs = runs[-last:] if last else runs
    if as_json:
        print_json([run.record() for run in runs])
        return
    rows = [_run_row(run) for run in runs]
    columns = ("run", "module", "root key", "status", "started (UTC)", "wall s", "resumed")
    print_table(columns, rows, right=("wall s", "resumed"), empty="No runs.")


def _run_row(run: Run) -> tuple[Any, ...]:
    started, took = time_text(run.started), f"{run.wall_s:.1f}"
    return run.id[:12], run.module, run.root_key, run.status, started, took, run.resumed or None
