"""Commands that keep stores in order: ``copy``, ``gc``, ``compact``, ``unlock``, ``upgrade``."""

from __future__ import annotations

import click

from .common import KEY, command, find_location, json_option, open_at, open_named, say, store_option
from .output import byte_text, counted, print_json, print_table


@command("copy", "Copy keys (with what they came from) into another store.")
@click.argument("source")
@click.argument("target")
@click.argument("keys", nargs=-1, type=KEY)
@click.option("--ancestors/--no-ancestors", default=True, help="Also what the keys were made from.  [default: yes]")
@click.option("--versions/--no-versions", default=True, help="Also older versions.  [default: yes]")
@click.option("--new-version", is_flag=True, help="Where the target holds other data at a key, add a version.")
@click.option("-q", "--quiet", is_flag=True, help="No progress bar.")
@json_option
def copy(
    source: str,
    target: str,
    keys: tuple[str, ...],
    ancestors: bool,
    versions: bool,
    new_version: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Copy KEYS (or paths; all where none is named) from the store SOURCE into the store TARGET.

    TARGET is made where nothing lies yet, and may be of the other engine. Digests stay the same and are verified;
    what is there already is passed over. A colleague's whole store is merged by naming no key.
    """
    from ..store.maintenance import copy as copy_keys
    from .progress import progress_bar

    origin = open_named(source)
    with progress_bar("copy", quiet=quiet or as_json) as report_progress:
        report = copy_keys(
            origin,
            open_named(target, make=True),
            keys or None,
            ancestors=ancestors,
            versions=versions,
            new_version=new_version,
            progress=report_progress,
        )
    if as_json:
        counts = {"runs": report.runs, "bytes": report.bytes}
        print_json({"copied": report.copied, "skipped": report.skipped, "older": report.older, **counts})
        return
    for reference in report.copied:
        say(f"copied {reference}")
    for reference in report.older:
        say(f"left out {reference}: {target} has a later version")
    say(
        f"{target}: {len(report.copied)} copied ({byte_text(report.bytes)}), {len(report.skipped)} there already, "
        f"{counted(report.runs, 'run record')}"
    )


@command("gc", "Remove older versions and what finished runs left.")
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would be removed.")
@click.option("--keep-versions", type=click.IntRange(min=0), default=0, show_default=True, help="Older ones to keep.")
@click.option("--restarts", is_flag=True, help="Also restart states of finished runs: they can no longer be extended.")
@json_option
@store_option
def gc(dry_run: bool, keep_versions: int, restarts: bool, as_json: bool, location: str | None) -> None:
    """Remove the data of older versions (their lineage and digests stay) and what finished runs left.

    Versions with a tag are kept, and those that the newest version of another key was made of. `h5ml compact` then
    gives the space back to the file system.
    """
    from ..store.maintenance import gc as collect

    report = collect(open_at(location), dry_run=dry_run, keep_versions=keep_versions, restarts=restarts)
    if as_json:
        items = [{"what": i.what, "name": i.name, "bytes": i.bytes, "why": i.why} for i in report.items]
        print_json(
            {
                "items": items,
                "bytes": report.bytes,
                "dry_run": dry_run,
                "kept": report.kept,
                "leftovers": report.leftovers,
            }
        )
        return
    rows = [(item.what, item.name, byte_text(item.bytes), item.why) for item in report.items]
    if rows:
        print_table(("what", "name", "size", "why"), rows, right=("size",))
    for reference, user in report.kept.items():
        click.echo(f"note: {reference} stays, because {user} was made of it", err=True)
    for text in report.leftovers:
        click.echo(f"note: {text}", err=True)
    verb = "would be removed" if dry_run else "removed"
    say(
        f"{counted(len(rows), 'thing')} {verb}, {byte_text(report.bytes)}"
        + ("; `h5ml compact` gives it back" if rows else "")
    )


@command("compact", "Give back the space of what was removed.")
@click.option("--wait", "timeout_s", type=float, default=60.0, show_default=True, help="Seconds to wait for others.")
@store_option
def compact(timeout_s: float, location: str | None) -> None:
    """Write the store anew without the space of what was removed; digests and history stay the same."""
    from ..store.maintenance import compact as make_compact

    store = open_at(location)
    before, after = make_compact(store, timeout_s=timeout_s)
    say(f"{store.location}: {byte_text(before)} before, {byte_text(after)} now")


@command("unlock", "Remove the lock that a dead writer left.")
@store_option
def unlock(location: str | None) -> None:
    """Remove the lock that a dead writer left. A living one is never disturbed; the message names it."""
    from ..store.opening import engine_for

    say(engine_for(find_location(location)).unlock())


@command("upgrade", "Bring a store to the newest format.")
@store_option
def upgrade(location: str | None) -> None:
    """Bring the store to the newest format that this h5ml knows."""
    from ..store.log import FORMAT

    store = open_at(location)  # refuses any other format: there is no older one yet
    say(f"{store.location}: format {FORMAT} is the newest; there is nothing to do")
