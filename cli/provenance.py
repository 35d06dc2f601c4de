"""Commands that say where data came from: ``audit``, ``lineage``, ``diff``, ``replay``."""

from __future__ import annotations

import click

from .common import command, find_location, json_option, store_option
from .lazy import settings
from .output import print_json


@command("audit", "Recompute digests and check the whole history.")
@click.argument("path", default="")
@click.option("--root", metavar="HEX", help="A root digest that was noted before: it must be one of this history.")
@click.option("--strict", is_flag=True, help="Notices too (stale inputs, running runs) make the audit fail.")
@json_option
@store_option
@click.pass_context
def audit(ctx: click.Context, path: str, root: str | None, strict: bool, as_json: bool, location: str | None) -> int:
    """Recompute every digest and check the whole history, or what lies below PATH; exit code 1 on findings.

    The last line says the root digest, which names the state of the whole store. Write it down (into a paper): with
    --root even data that were rewritten together with all their digests are found.
    """
    from ..store.audit_child import audit_isolated
    from ..store.opening import engine_for
    from .progress import progress_bar

    where = find_location(location)
    _check_there(where)
    with progress_bar("audit", quiet=as_json) as report_progress:
        report = audit_isolated(
            engine_for(where).location,
            root=root,
            under=path,
            progress=report_progress,
            timeout_s=settings(ctx).get("timeout_s"),
        )
    if as_json:
        print_json(report.record())
    else:
        for finding in report.findings:
            click.echo(str(finding))
        if report.root_age is not None:
            click.echo(f"the noted root digest is that of {_ago(report.root_age)}")
        click.echo(report.summary())
    return report.exit_code(strict=strict)


def _ago(commits: int) -> str:
    return "the newest commit" if commits == 0 else f"{commits} commit{'s' * (commits > 1)} ago"


def _check_there(location: str) -> None:
    """Say that nothing lies there, rather than that it is damaged."""
    from pathlib import Path

    from ..schemas.errors import NotAStore

    if "://" not in location and not Path(location).expanduser().exists():
        raise NotAStore("There is no store.", key=location, hint=f"`h5ml init {location}` makes one")
