"""The commands ``run`` and ``status``: campaigns, made and looked at."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .common import CAMPAIGN_FILE, command, json_option, named_location, open_named, say, store_option
from .output import print_json, print_table, sizes_text, time_text

if TYPE_CHECKING:
    import xarray as xr

    from ..compute.foresight import StepResult
    from ..schemas.campaign import ImportStep
    from ..schemas.run import Run
    from ..store.store import Store


@command("run", "Make every key of the campaign that is missing or stale.")
@click.argument("campaign", default=CAMPAIGN_FILE, type=click.Path(dir_okay=False))
@click.option("--only", metavar="KEY", help="Only the step of this key; here and below * stands for any name.")
@click.option("--until", metavar="KEY", help="Only the step of this key and all that it needs.")
@click.option("--from", "start", metavar="KEY", help="Only the step of this key and all that need it.")
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would be done, and why.")
@click.option("--force", is_flag=True, help="Compute also what is up to date, and compare with what is stored.")
@click.option("-k", "--keep-going", is_flag=True, help="After a failure, make all that does not need what failed.")
@click.option(
    "--scheduler", metavar="WHERE", help="serial, local:N (processes here), tcp://host:port (dask), slurm, pbs or lsf."
)
@click.option("-q", "--quiet", is_flag=True, help="Say only what failed.")
@json_option
@store_option
@click.pass_context
def run(
    ctx: click.Context,
    campaign: str,
    only: str | None,
    until: str | None,
    start: str | None,
    dry_run: bool,
    force: bool,
    keep_going: bool,
    scheduler: str | None,
    quiet: bool,
    as_json: bool,
    location: str | None,
) -> int:
    """Make every key of the file CAMPAIGN (by default h5ml.yaml) that is missing or stale.

    A step begins as soon as what it reads is there; with workers (--scheduler) many run at a time. The store is that
    of the campaign, unless --store names another; it is made where nothing lies yet. What failed or was stopped goes
    on from its last commit when the same command is given again.
    """
    from ..compute.campaign import StepsFailed, run_campaign
    from ..compute.watching import LogFile, Watchers
    from ..schemas.campaign import load_campaign
    from .progress_steps import watching

    loaded = load_campaign(campaign)
    place = named_location(ctx, location) or loaded.store_location
    failure: StepsFailed | None = None
    with (
        _campaign_store(place, dry_run=dry_run) as store,
        LogFile(store) as log,
        watching(dry_run=dry_run, quiet=quiet or as_json) as terminal,
    ):
        try:
            results: Sequence[StepResult] = run_campaign(
                store,
                loaded,
                _read_import,
                scheduler=scheduler,
                watcher=terminal if dry_run else Watchers([log, terminal]),
                only=only,
                until=until,
                start=start,
                dry_run=dry_run,
                force=force,
                keep_going=keep_going,
            )
        except StepsFailed as error:
            failure, results = error, error.results
        digest = store.root_digest
    if as_json:
        print_json([_record(result) for result in results])
    elif failure is not None:
        _close_failed(results, log.path)
    elif not quiet:
        _close(place, results, digest, dry_run=dry_run)
    return failure.exit_code if failure is not None else 0


def _close(place: str, results: Sequence[StepResult], digest: str, *, dry_run: bool) -> None:
    count = sum(result.action not in ("none", "check") for result in results)
    checked = sum(result.action == "check" for result in results)
    also = f", {checked} {'would be ' if dry_run else ''}computed again to compare" if checked else ""
    end = "would be made" if dry_run else "made"
    say(f"{place}: {count} of {len(results)} steps {end}{also}{'' if dry_run else f', root digest {digest}'}")


def _close_failed(results: Sequence[StepResult], log: Path) -> None:
    """Say what failed, why, what was left out, and where the log is; on stderr."""
    for result in results:
        if result.error is not None:
            click.echo(f"{result.key} failed: {result.error}", err=True)
    failed = sum(result.error is not None for result in results)
    left = [result for result in results if result.action == "skip"]
    for result in left:
        click.echo(f"{result.key}: left out ({result.reason})", err=True)
    made = sum(result.action not in ("none", "skip") and result.error is None for result in results)
    up_to_date = sum(result.action == "none" for result in results)
    counts = f"{failed} failed, {len(left)} left out, {made} made, {up_to_date} up to date"
    click.echo(f"{counts}; the log is {log}\n  next:     run again: what failed goes on from its last commit", err=True)


def _record(result: StepResult) -> dict[str, object]:
    return {
        "key": result.key,
        "action": result.action,
        "reason": result.reason,
        "run": result.run and result.run.id,
        "error": result.error and str(result.error),
    }


@contextmanager
def _campaign_store(location: str, *, dry_run: bool) -> Iterator[Store]:
    """The store of a campaign, made where nothing lies yet; to look only, an empty one elsewhere stands for it."""
    from ..store.opening import is_unmade

    if dry_run and "://" not in location and (not Path(location).exists() or is_unmade(location)):
        with tempfile.TemporaryDirectory(prefix="h5ml-") as folder:
            yield open_named(str(Path(folder) / "empty.h5"), make=True)
    else:
        yield open_named(location, make=not dry_run)


def _read_import(path: Path, step: ImportStep) -> xr.Dataset:
    from .formats_read import read_file

    return read_file(path, step.kind, index=step.index, tell=_remark)


def _remark(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)


# --- looking at one ----------------------------------------------------------------------------------------------


@command("status", "Show how the steps of the campaign stand, also while it runs.")
@click.argument("campaign", default=CAMPAIGN_FILE, type=click.Path(dir_okay=False))
@json_option
@store_option
@click.pass_context
def status(ctx: click.Context, campaign: str, as_json: bool, location: str | None) -> None:
    """Show how each step of the file CAMPAIGN (by default h5ml.yaml) stands, from the store alone.

    It can be asked at any time from any terminal; it changes nothing.
    """
    from ..compute.foresight import standing_of
    from ..compute.graph import build_graph
    from ..compute.registry import Registry
    from ..schemas.campaign import load_campaign

    loaded = load_campaign(campaign)
    place = named_location(ctx, location) or loaded.store_location
    with _campaign_store(place, dry_run=True) as store:
        registry = Registry()
        results = standing_of(store, build_graph(loaded, store, registry), registry)
        rows = [(result.key, *_state(store, result)) for result in results]
        commits, last, digest = store.catalogue.commits, store.catalogue.last_time, store.root_digest
    if as_json:
        print_json(
            {
                "store": place,
                "commits": commits,
                "last_commit": last,
                "root_digest": digest,
                "steps": [dict(zip(("step", "state", "why", "holds", "where"), row, strict=True)) for row in rows],
            }
        )
        return
    print_table(("step", "state", "why", "holds", "where"), rows)
    done = sum(row[1] == "done" for row in rows)
    say(f"{place}: {done} of {len(rows)} steps done; {commits} commits, the last at {time_text(last)} UTC")


def _state(store: Store, result: StepResult) -> tuple[str, str, str, str]:
    """State, why, what lies there by now, and which process is at it."""
    entry = next(iter(store.entries(result.key)), None)
    holds = sizes_text(entry.sizes) if entry is not None else ""
    if result.action == "none":
        return "done", "", holds, ""
    if result.action == "running":
        return "running", "", holds, _process(result.run)
    if result.reason.startswith("failed"):
        return "failed", result.reason.partition(": ")[2], holds, ""
    state, _, why = result.reason.replace(";", ":", 1).partition(":")
    return (state, why.strip(), holds, "") if state in ("missing", "stale") else ("to do", result.reason, holds, "")


def _process(run: Run | None) -> str:
    if run is None:
        return ""
    facts = run.environment
    return f"process {facts.get('pid')} on {facts.get('host')}, since {time_text(run.started)}"
