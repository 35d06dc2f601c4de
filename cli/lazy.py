"""A command group that knows the names and short help of its commands, and imports a command when it is used."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, MutableMapping, Sequence
from typing import Any, NamedTuple, NoReturn

import click
from click.shell_completion import CompletionItem


class Lazy(NamedTuple):
    """One command before it is imported.

    Attributes
    ----------
    name : str
        As typed.
    home : str
        ``file:function`` within ``h5ml.cli``.
    help : str
        The short help, the same as the command's own (a test compares them).
    family : str
        The heading that it stands under.
    guarded : bool
        Whether it runs in a child process, so that a crash inside a C library becomes a message.
    """

    name: str
    home: str
    help: str
    family: str
    guarded: bool = True


class LazyGroup(click.Group):
    """A group of commands that are imported when used.

    Parameters
    ----------
    table : sequence of Lazy
        The commands, in the order of the help.
    before : callable, optional
        Called with a command's row before the command is imported.
    ending : callable, optional
        Runs the command line: takes a function that does the work and returns the exit code.
    """

    def __init__(
        self,
        *args: Any,
        table: Sequence[Lazy] = (),
        before: Callable[[click.Context, Lazy], None] | None = None,
        ending: Callable[[Callable[[], Any]], int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.table = {row.name: row for row in table}
        self._before = before
        self._ending = ending

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in order."""
        return [*self.table, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        row = self.table.get(cmd_name)
        if row is None:
            return super().get_command(ctx, cmd_name)
        import importlib

        file, _, name = row.home.partition(":")
        command: click.Command = getattr(importlib.import_module(f"h5ml.cli.{file}"), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command; names the nearest where there is none."""
        row = self.table.get(args[0])
        if row is not None:
            if self._before is not None and not ctx.resilient_parsing:
                self._before(ctx, row)
        elif not ctx.resilient_parsing and super().get_command(ctx, args[0]) is None:
            _no_such_command(ctx, args[0], self.list_commands(ctx))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands family by family."""
        del ctx
        families: dict[str, list[tuple[str, str]]] = {}
        for row in self.table.values():
            families.setdefault(row.family, []).append((row.name, row.help))
        for family, rows in families.items():
            with formatter.section(family):
                formatter.write_dl(rows, col_max=12)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete the names from the table, without importing a command."""
        found = [CompletionItem(row.name, help=row.help) for row in self.table.values()]
        return [item for item in found if item.value.startswith(incomplete)] + super(click.Group, self).shell_complete(
            ctx, incomplete
        )

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command line; every error ends in a message and an exit code."""
        standalone = kwargs.pop("standalone_mode", True)
        kwargs["standalone_mode"] = False
        run: Callable[[], Any] = functools.partial(super().main, *args, **kwargs)
        if self._ending is None or not standalone:
            return run()
        sys.exit(self._ending(run))


def settings(ctx: click.Context) -> MutableMapping[str, Any]:
    """What the options before the command said (``verbose``, ``timeout_s``, ``guarded``)."""
    found: MutableMapping[str, Any] = ctx.ensure_object(dict)
    return found


def _no_such_command(ctx: click.Context, name: str, known: Sequence[str]) -> NoReturn:
    from ..schemas.errors import nearest

    hint = nearest(name, known)
    raise click.UsageError(f"There is no command {name!r}" + (f"; {hint}" if hint else "."), ctx)
