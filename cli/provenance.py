"""Commands that check where data came from: ``audit``, ``diff``, ``replay``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..schemas.errors import InvalidConfig
from .common import KEY, command, find_location, json_option, open_at, open_named, say, store_option
from .lazy import settings
from .output import print_json

if TYPE_CHECKING:
    from ..compute.replay import Comparison, Replay
    from ..store.store import Store


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
    from ..schemas.errors import UnknownKey
    from ..store.audit_child import audit_isolated
    from ..store.opening import engine_for
    from .progress import progress_bar

    where = find_location(location)
    _check_there(where)
    _check_root(root)
    with progress_bar("audit", quiet=as_json) as report_progress:
        report = audit_isolated(
            engine_for(where).location,
            root=root,
            under=path,
            progress=report_progress,
            timeout_s=settings(ctx).get("timeout_s"),
        )
    if path.strip("/") and not (report.findings or report.keys or report.runs):
        raise UnknownKey("There is no such key or path.", key=path, hint="`h5ml ls` lists all keys")
    if as_json:
        print_json(report.record())
    else:
        for finding in report.findings:
            click.echo(str(finding))
        if report.root_age is not None:
            click.echo(f"the noted root digest is that of {_ago(report.root_age)}")
        click.echo(report.summary())
    return report.exit_code(strict=strict)


def _check_root(root: str | None) -> None:
    """Refuse what cannot be a root digest, rather than say that the history was rewritten."""
    digits = (root or "0" * 16).strip().lower()
    if len(digits) < 16 or len(digits) > 64 or not set(digits) <= set("0123456789abcdef"):
        raise InvalidConfig(
            "This is no root digest.",
            key="--root",
            expected="64 hexadecimal digits, or the first 16 of them or more",
            found=root,
            hint="the last line of `h5ml audit` shows it",
        )


def _ago(commits: int) -> str:
    return "the newest commit" if commits == 0 else f"{commits} commit{'s' * (commits > 1)} ago"


def _check_there(location: str) -> None:
    """Say that nothing lies there, rather than that it is damaged."""
    from ..schemas.errors import NotAStore

    if "://" not in location and not Path(location).expanduser().exists():
        raise NotAStore("There is no store.", key=location, hint=f"`h5ml init {location}` makes one")


# --- replay ------------------------------------------------------------------------------------------------------


@command("replay", "Compute a key again and compare.")
@click.argument("key", type=KEY)
@click.option(
    "--tolerance", type=click.FloatRange(min=0), default=0.0, help="Largest deviation to accept.  [default: 0]"
)
@click.option(
    "--model", "models", multiple=True, metavar="[INPUT=]MODEL", help="The potential, where it lies elsewhere now."
)
@click.option("--scheduler", metavar="WHERE", help="serial, local:N or tcp://host:port.")
@click.option("--trust-pickle", is_flag=True, help="Allow model files that can run any code when they are read.")
@click.option("-q", "--quiet", is_flag=True, help="No progress bar.")
@json_option
@store_option
def replay(
    key: str,
    tolerance: float,
    models: tuple[str, ...],
    scheduler: str | None,
    trust_pickle: bool,
    quiet: bool,
    as_json: bool,
    location: str | None,
) -> int:
    """Compute again what made KEY and compare bit by bit; where its data were purged, put them back.

    Exit code 0 where all is equal (or within --tolerance), 1 where it differs.
    """
    from ..compute.replay import replay_run
    from .progress import progress_bar

    store = open_at(location)
    with progress_bar(f"replay {key}", quiet=quiet or as_json) as report_progress:
        done = replay_run(
            store,
            key,
            restore=_is_purged(store, key),
            scheduler=scheduler,
            progress=report_progress,
            potentials=_named_models(models),
            trust_pickle=trust_pickle,
        )
    accepted = all(comparison.within(tolerance) for comparison in done.comparisons.values())
    if as_json:
        print_json(_replay_record(done, accepted=accepted))
    else:
        for comparison in done.comparisons.values():
            say(_compared(comparison, tolerance))
        if done.differing_calls:
            say(f"calls that gave other data: {', '.join(done.differing_calls)}")
        for comparison in done.comparisons.values():
            if comparison.altered:
                name = comparison.reference
                say(f"`h5ml purge {name}`, then `h5ml replay {name}`, puts back what was computed")
        for reference in done.restored:
            say(f"{reference}: its data are back")
        say(f"run {done.run.id[:12]} took {done.run.wall_s:.1f} s then and {done.again.wall_s:.1f} s now")
    return 0 if accepted else 1


def _is_purged(store: Store, key: str) -> bool:
    return store.entry(key).purged


def _named_models(models: tuple[str, ...]) -> dict[str, Any]:
    """Models by the name of their input, which is ``model`` where none is written."""
    found = {}
    for text in models:
        name, equals, spec = text.partition("=")
        named = bool(equals) and name.isidentifier()
        found[name if named else "model"] = spec if named else text
    return found


def _compared(comparison: Comparison, tolerance: float) -> str:
    if comparison.equal:
        return f"{comparison.reference}: equal, bit by bit"
    verdict = f"within {tolerance:g}" if comparison.within(tolerance) else "DIFFERENT"
    return f"{comparison.reference}: {verdict}: {comparison.text()}"


def _replay_record(done: Replay, *, accepted: bool) -> dict[str, Any]:
    outputs = {
        name: {
            "reference": c.reference,
            "equal": c.equal,
            "recorded": c.recorded,
            "found": c.found,
            "deviations": c.deviations,
            "places": c.places,
            "differences": c.differences,
            "altered": c.altered,
        }
        for name, c in done.comparisons.items()
    }
    return {
        "run": done.run.id,
        "equal": done.equal,
        "accepted": accepted,
        "outputs": outputs,
        "differing_calls": done.differing_calls,
        "restored": done.restored,
    }


# --- diff --------------------------------------------------------------------------------------------------------


@command("diff", "Compare two keys or two versions of one.")
@click.argument("first", type=KEY)
@click.argument("second", type=KEY)
@click.option("--other", metavar="PATH", help="The store of SECOND, where it is another one.")
@json_option
@store_option
def diff(first: str, second: str, other: str | None, as_json: bool, location: str | None) -> int:
    """Compare FIRST and SECOND (KEY or KEY@VERSION): values, attributes, settings, inputs and engines.

    Exit code 0 where the contents are the same, 1 where they differ.
    """
    from ..store.diff import diff as compare

    found = compare(open_at(location), first, second, other=open_named(other) if other else None)
    if as_json:
        print_json(found.record())
    else:
        say(found.text())
    return 0 if found.equal else 1


# --- standards of provenance -------------------------------------------------------------------------------------


def export_provenance(store: Store, key: str | None, prov: Path | None, crate: Path | None, *, force: bool) -> None:
    """Write PROV-JSON and an RO-Crate of a key, or of the whole store.

    Raises
    ------
    InvalidConfig
        If the file for PROV-JSON exists and ``force`` is not given.
    KeyTaken
        If the folder for the crate is not empty.
    """
    from ..schemas.errors import StoreWriteFailed
    from ..store.provenance import export_crate, prov_json

    keys = [key] if key else None
    if prov is not None and prov.exists() and not force:
        raise InvalidConfig("The file exists.", key=prov, hint="take another name, or add --force")
    try:
        if prov is not None:
            prov.write_text(prov_json(store, keys) + "\n", encoding="utf-8")
            say(f"{prov}: provenance of {key or 'the whole store'} as W3C PROV-JSON")
        if crate is not None:
            export_crate(store, crate, keys)
            say(f"{crate}: {key or 'the whole store'} with its provenance as an RO-Crate")
    except OSError as error:
        if isinstance(error, StoreWriteFailed):
            raise
        raise StoreWriteFailed("This cannot be written.", key=prov or crate, found=error.strerror or error) from None
