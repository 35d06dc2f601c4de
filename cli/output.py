"""Tables and JSON: rich tables on a terminal, plain aligned text in a pipe."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

_DIMENSIONS = 5
_OF_TENSORS = re.compile(r"n\d+(_\d+)?")
"""Dimensions of the tensors of a checkpoint: they say their length and nothing else."""
_RICH_ROWS = 1000
"""A longer table is printed plain, which is a hundred times as fast."""

_STATUS_STYLES = {"done": "green", "running": "cyan", "interrupted": "yellow", "failed": "red", "done, stale": "yellow"}
_KIB = 1024.0


def print_json(value: Any) -> None:
    """Print a value as JSON; numbers that JSON has no word for become null."""
    click.echo(json.dumps(_jsonable(value), indent=2, ensure_ascii=False))


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _jsonable(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_jsonable(v) for v in value]
    if hasattr(value, "tolist"):
        return _jsonable(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return str(value)


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], *, right: Sequence[str] = (), empty: str = "Nothing."
) -> None:
    """Print rows under headings.

    Parameters
    ----------
    columns : sequence of str
        The headings.
    rows : iterable of sequence
        Values; None prints as nothing.
    right : sequence of str
        Columns that are aligned to the right.
    empty : str
        What to say (on stderr) where there is no row.
    """
    texts = [["" if value is None else str(value) for value in row] for row in rows]
    if not texts:
        click.echo(empty, err=True)
        return
    if sys.stdout.isatty() and len(texts) <= _RICH_ROWS:
        _print_rich(columns, texts, right)
        return
    widths = [max(len(row[i]) for row in [list(columns), *texts]) for i in range(len(columns))]
    for row in [list(columns), *texts]:
        cells = [
            text.rjust(width) if name in right else text.ljust(width)
            for name, text, width in zip(columns, row, widths, strict=True)
        ]
        click.echo("  ".join(cells).rstrip())


def _print_rich(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for i, name in enumerate(columns):
        table.add_column(
            name, justify="right" if name in right else "left", overflow="fold", no_wrap=i > 0 and name in right
        )
    for row in rows:
        table.add_row(*(Text(text, style=_STATUS_STYLES.get(text, "")) for text in row))
    Console().print(table)


def print_fields(fields: Mapping[str, Any]) -> None:
    """Print names and values, one a line; those without a value are left out."""
    shown = {name: str(value) for name, value in fields.items() if value not in (None, "", [], {})}
    width = max((len(name) for name in shown), default=0) + 2
    for name, value in shown.items():
        click.echo(f"{name + ':':<{width}}{value}")


def counted(number: int, noun: str) -> str:
    """A number with its noun: ``1 key``, ``2 keys``."""
    return f"{number} {noun}{'s' * (number != 1)}"


def byte_text(count: float) -> str:
    """A number of bytes for people: ``1.5 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < _KIB:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= _KIB
    return f"{count:.1f} TiB"


def time_text(time: str | None) -> str:
    """A time of the log (UTC, ISO 8601) in short."""
    return (time or "")[:19].replace("T", " ")


def sizes_text(sizes: Mapping[str, int]) -> str:
    """The first dimension lengths: ``frame 41, atom 32``."""
    hidden = {"xyz", "xyz_2", "cell_vector", "cell_vector_2", "voigt", "bond_end", "source_index"}
    first = ("frame", "record", "row", "state", "q", "molecule")
    named = (dim for dim in sizes if dim not in hidden and not _OF_TENSORS.fullmatch(dim))
    shown = sorted(named, key=lambda dim: (dim not in first, dim))
    more = f" +{len(shown) - _DIMENSIONS}" if len(shown) > _DIMENSIONS else ""
    return ", ".join(f"{dim} {sizes[dim]}" for dim in shown[:_DIMENSIONS]) + more


def formula_text(facts: Mapping[str, Any]) -> str:
    """The first formulas of an entry."""
    formulas = list(facts.get("formulas", ()))
    return ", ".join(formulas[:2]) + (f" +{len(formulas) - 2}" if len(formulas) > 2 else "")
