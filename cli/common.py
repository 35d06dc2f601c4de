"""What the commands share: a command class with ``-v``, the options ``--store`` and ``--json``, and opening a store."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from .lazy import settings

if TYPE_CHECKING:
    from ..schemas.kind import Kind
    from ..store.catalogue import Entry
    from ..store.store import Store

F = TypeVar("F", bound=Callable[..., Any])

CAMPAIGN_FILE = "h5ml.yaml"
INTERNAL_ERROR = 70
DAMAGED = 7


class H5mlCommand(click.Command):
    """A command that takes ``-v`` like the program itself, and sets up messages before it runs."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("context_settings", {"help_option_names": ["-h", "--help"]})
        super().__init__(*args, **kwargs)
        self.params.append(
            click.Option(
                ["-v", "--verbose"], count=True, expose_value=False, callback=_louder, help="Say more (as `h5ml -v`)."
            )
        )

    def invoke(self, ctx: click.Context) -> Any:
        """Run it, with log messages and warnings as short lines on stderr."""
        from .messages import messages

        with messages(settings(ctx).get("verbose", 0)):
            try:
                return super().invoke(ctx)
            except BrokenPipeError:  # click would make it exit code 1
                return let_go()


def let_go() -> int:
    """The reader of a pipe (head, less) has seen enough: let the rest go nowhere, and end well."""
    import sys

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _louder(ctx: click.Context, _param: click.Parameter, value: int) -> None:
    settings(ctx)["verbose"] = settings(ctx).get("verbose", 0) + value


def unexpected(error: Exception) -> int:
    """Say that something failed that should not have, and where its traceback is.

    Returns
    -------
    int
        The exit code.
    """
    import tempfile
    import traceback

    if is_damage(error):
        click.echo(f"The file is damaged: {' '.join(str(error).split())[:300]}", err=True)
        click.echo("  next:     `h5ml audit` finds what is hit; restore the store from a copy", err=True)
        return DAMAGED
    text = "".join(traceback.format_exception(error))
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, MemoryError):
        what = f"There is not enough memory. ({what})"
    if _verbosity() > 1:
        click.echo(text, err=True)
        return INTERNAL_ERROR
    path = Path(tempfile.gettempdir()) / f"h5ml-traceback-{os.getpid()}.txt"
    with contextlib.suppress(OSError):
        path.write_text(text)
    click.echo(f"An error inside h5ml: {what.splitlines()[0][:500]}", err=True)
    click.echo(f"  next:     the traceback is in {path}; -vv shows it here; `h5ml audit` checks the store", err=True)
    return INTERNAL_ERROR


def is_damage(error: BaseException) -> bool:
    """Whether an error was raised by the HDF5 library while the store read from it."""
    files = []
    trace = error.__traceback__
    while trace is not None:
        files.append(Path(trace.tb_frame.f_code.co_filename))
        trace = trace.tb_next
    home = Path(__file__).resolve().parents[1] / "store"
    return any(file.parent == home for file in files) and any("h5py" in file.parts for file in files)


def _verbosity() -> int:
    import sys

    return sum(len(a) - 1 for a in sys.argv[1:] if a.startswith("-v") and set(a[1:]) == {"v"}) + sys.argv.count(
        "--verbose"
    )


def command(name: str, short_help: str) -> Callable[[Callable[..., Any]], click.Command]:
    """Make a function a command; the short help is that of the table in ``main.py``."""
    return click.command(name, cls=H5mlCommand, short_help=short_help)


def store_option(function: F) -> F:
    """Add ``--store``; the command receives ``location``."""
    option = click.option(
        "--store",
        "location",
        metavar="PATH",
        envvar="H5ML_STORE",
        help="The store: FILE.h5, FOLDER.icechunk or s3://bucket/prefix.  [env: H5ML_STORE, or h5ml.yaml]",
    )
    return option(function)


def json_option(function: F) -> F:
    """Add ``--json``; the command receives ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")(function)


def find_location(location: str | None, campaign: str | None = None) -> str:
    """The store to use: the option (or variable), else the line ``store:`` of the campaign file.

    Raises
    ------
    click.UsageError
        If none is named; it says how.
    """
    if location:
        return location
    path = Path(campaign or CAMPAIGN_FILE)
    if path.is_file():
        import yaml

        try:
            text = yaml.safe_load(path.read_text())
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise click.UsageError(f"{path} cannot be read as YAML: {error}") from None
        found = text.get("store") if isinstance(text, dict) else None
        if isinstance(found, str):
            return found if "://" in found else str(path.parent / Path(found).expanduser())
    raise click.UsageError(
        "No store was named. Give --store PATH, set the variable H5ML_STORE, or write `store: PATH` into "
        f"{CAMPAIGN_FILE} in this folder; `h5ml init PATH` makes a store."
    )


def named_location(ctx: click.Context, location: str | None) -> str | None:
    """The store that the command line itself names; a campaign comes before the variable H5ML_STORE."""
    source = ctx.get_parameter_source("location")
    return location if source is not None and source.name == "COMMANDLINE" else None


def open_at(location: str | None, campaign: str | None = None) -> Store:
    """Open the store to use; see ``find_location`` and ``open_named``."""
    return open_named(find_location(location, campaign))


def open_named(location: str, *, make: bool = False) -> Store:
    """Open a store until the end of the command, with warnings of its place on stderr.

    Parameters
    ----------
    location : str
        Path or URL.
    make : bool
        Make an empty store where nothing lies yet.
    """
    from ..store.opening import open_store

    store = open_store(location, make=make)
    context = click.get_current_context(silent=True)
    if context is not None:
        context.call_on_close(store.close)
    for text in store.engine.warnings():
        click.echo(f"warning: {text}", err=True)
    return store


def kind_of(entry: Entry) -> Kind:
    """The kind of an entry, where this h5ml knows its schema.

    Raises
    ------
    InvalidData
        If the data were written with a newer schema.
    """
    from ..schemas.kinds import kind_named

    kind = kind_named(entry.kind)
    kind.check_version(entry.schema_version, entry.reference)
    return kind


class KeyType(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """A key of the store, completed by the shell."""

    name = "key"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The keys that begin with what was typed; nothing where the store cannot be read."""
        del param
        with contextlib.suppress(Exception):
            store = open_at(ctx.params.get("location") or os.environ.get("H5ML_STORE"))
            return [CompletionItem(key) for key in store.keys() if key.startswith(incomplete)]  # noqa: SIM118
        return []


KEY = KeyType()


def say(text: str) -> None:
    """Tell what was done, on stdout; `print` stays above a progress bar, which `click.echo` writes into."""
    print(text)
