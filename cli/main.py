"""The command line ``h5ml``: the list of commands, and how each of them ends."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from typing import Any

import click

from ..schemas.errors import H5mlError
from .lazy import Lazy, LazyGroup, settings

LOOK, CHANGE, EXCHANGE = "Look at a store", "Change a store", "Bring in, take out"
COMPUTE, ORIGIN, REFERENCE = "Compute", "Where it came from", "Reference"

COMMANDS = (
    Lazy("ls", "keys:ls", "List the keys.", LOOK),
    Lazy("tree", "keys:tree", "Draw the keys as a tree.", LOOK),
    Lazy("show", "show:show", "Show what lies at a key and how to open it.", LOOK),
    Lazy("query", "keys:query", "Find keys by kind, composition, attributes, runs and times.", LOOK),
    Lazy("du", "keys:du", "Show how many bytes the keys take.", LOOK),
    Lazy("log", "history:log", "Show the commits, or the runs.", LOOK),
    Lazy("plot", "drawing:plot", "Draw a key as a PNG, PDF or SVG.", LOOK),
    Lazy("init", "change:init", "Make a new, empty store.", CHANGE),
    Lazy("copy", "upkeep:copy", "Copy keys (with what they came from) into another store.", CHANGE),
    Lazy("mv", "change:mv", "Rename a key, or all keys below a path.", CHANGE),
    Lazy("tag", "change:tag", "Put a tag on a key, or take it off.", CHANGE),
    Lazy("note", "change:note", "Write a note on a key.", CHANGE),
    Lazy("rm", "change:rm", "Remove a key, or one version of it.", CHANGE),
    Lazy("purge", "change:purge", "Drop the data of a key and keep its lineage and digests.", CHANGE),
    Lazy("gc", "upkeep:gc", "Remove older versions and what finished runs left.", CHANGE),
    Lazy("compact", "upkeep:compact", "Give back the space of what was removed.", CHANGE),
    Lazy("unlock", "upkeep:unlock", "Remove the lock that a dead writer left.", CHANGE),
    Lazy("upgrade", "upkeep:upgrade", "Bring a store to the newest format.", CHANGE),
    Lazy("import", "transfer:import_", "Bring a file into the store.", EXCHANGE),
    Lazy("export", "transfer:export", "Write a key to a file of another format.", EXCHANGE),
    Lazy("compute", "computing:compute", "Run a compute module on keys of the store.", COMPUTE, guarded=False),
    Lazy("run", "campaigns:run", "Make every key of the campaign that is missing or stale.", COMPUTE, guarded=False),
    Lazy("status", "campaigns:status", "Show how the steps of the campaign stand, also while it runs.", COMPUTE),
    Lazy("audit", "provenance:audit", "Recompute digests and check the whole history.", ORIGIN),
    Lazy("lineage", "lineage:lineage", "Show what a key came from, or what came from it.", ORIGIN),
    Lazy("diff", "provenance:diff", "Compare two keys or two versions of one.", ORIGIN),
    Lazy("replay", "provenance:replay", "Compute a key again and compare.", ORIGIN, guarded=False),
    Lazy("kinds", "reference:kinds", "Print the kinds of data, or one of them in full.", REFERENCE),
    Lazy("modules", "reference:modules", "Print the compute modules, or one of them in full.", REFERENCE),
    Lazy("config", "reference:config", "Print the settings of a compute module.", REFERENCE),
)

EPILOG = """\b
Exit codes:
  0   done
  1   a check found something (audit, diff, replay), or another error
  2   wrong use: an unknown command, option or setting, or an illegal key
  3   no such key, version or run
  4   the key exists already
  5   data of the wrong kind, or that do not fit their kind
  6   no h5ml store, or one of another format
  7   the store is damaged
  8   another process holds the store
  9   the system refused to write; the last commit is intact
  10  a computation failed; what it had committed is kept
  11  an optional package is not installed
  70  an error inside h5ml
  75  interrupted; what was committed is kept, the same command goes on
  124 --timeout was reached
  130 stopped by Ctrl-C

\b
The store is that of --store PATH, else of the variable H5ML_STORE, else of the
line `store:` of the campaign file h5ml.yaml in the current folder.

\b
Shell completion: eval "$(_H5ML_COMPLETE=bash_source h5ml)"  (or zsh_source; for
fish: _H5ML_COMPLETE=fish_source h5ml | source) in the shell's start-up file."""


def _guard(ctx: click.Context, row: Lazy) -> None:
    """Go on in a child process where a crash of a C library is possible."""
    if row.guarded and settings(ctx).get("guarded"):
        from .guard import supervise

        supervise(ctx.params.get("timeout_s"))


def ending(work: Callable[[], Any]) -> int:
    """Do the work of a command line; every error becomes a message on stderr and an exit code."""
    try:
        result = work()
        sys.stdout.flush()
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except H5mlError as error:
        click.echo(str(error), err=True)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("Stopped.", err=True)
        return 130
    except BrokenPipeError:  # the reader of a pipe (head, less) has seen enough
        from .common import let_go

        return let_go()
    except Exception as error:  # noqa: BLE001 - the last resort: a short message instead of a traceback
        from .common import unexpected

        return unexpected(error)
    return result if isinstance(result, int) and not isinstance(result, bool) else 0


@click.group(
    cls=LazyGroup,
    table=COMMANDS,
    before=_guard,
    ending=ending,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option("-v", "--verbose", count=True, help="Say more; twice: also a traceback where something fails.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0, min_open=True),
    envvar="H5ML_TIMEOUT",
    metavar="SECONDS",
    help="Stop a command (other than compute, run and replay) that takes longer.  [env: H5ML_TIMEOUT]",
)
@click.version_option(package_name="h5ml", prog_name="h5ml")
@click.pass_context
def cli(ctx: click.Context, verbose: int, timeout_s: float | None) -> None:
    """Keep the data of machine-learned potentials, and know where each of them came from."""
    settings(ctx).update(verbose=verbose, timeout_s=timeout_s)


def main() -> None:
    """Start the command line (the script ``h5ml``).

    The process ends without tearing the interpreter down: threads of icechunk's runtime, and libhdf5 on a damaged
    file, can crash in there after all work is done. What commands open they close themselves.
    """
    code = 1
    try:
        cli.main(prog_name="h5ml", obj={"guarded": True})
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
