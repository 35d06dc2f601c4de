"""The command ``lineage``: runs and keys as a graph, or every frame as a row of a table."""

from __future__ import annotations

import csv
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..schemas.errors import InvalidConfig
from .common import KEY, command, json_option, open_at, say, store_option
from .output import print_fields, print_json, print_table

if TYPE_CHECKING:
    import xarray as xr

    from ..store.store import Store

TARGET = click.Path(dir_okay=False, path_type=Path)


@command("lineage", "Show what a key came from, or what came from it.")
@click.argument("key", type=KEY)
@click.option("--frames", is_flag=True, help="Every frame of a model, training set, labels ...: a row for each.")
@click.option("--csv", "form", flag_value="csv", help="With --frames: all columns as CSV.")
@click.option("--down", "direction", flag_value="down", help="What came from the key.")
@click.option("--both", "direction", flag_value="both", help="What it came from, and what came from it.")
@click.option("--depth", type=click.IntRange(min=1), help="Follow at most so many runs.")
@click.option("--calls", is_flag=True, help="Every call for itself, also where a run made more than three of a module.")
@click.option("--mermaid", "form", flag_value="mermaid", help="Print a Mermaid flowchart.")
@click.option("--dot", "form", flag_value="dot", help="Print a graph for Graphviz.")
@click.option("--png", "file", type=TARGET, help="Draw it into a file (.png, .pdf, .svg).")
@json_option
@store_option
def lineage(
    key: str,
    frames: bool,
    direction: str | None,
    depth: int | None,
    calls: bool,
    form: str | None,
    file: Path | None,
    as_json: bool,
    location: str | None,
) -> None:
    """Show what KEY (or KEY@VERSION) came from: runs, their inputs, engines and files, as a tree.

    A run that called others also came from what it received from them. --json always names every call.

    With --frames: every frame that a model was trained on (or that lies at, or is referred to by, KEY), with its split,
    label, level of theory, structure, and the trajectory, step and time that it was cut from.
    """
    store = open_at(location)
    if frames:
        unfit = {"--down or --both": direction, "--depth": depth, "--calls": calls, "--png": file}
        _refuse(
            "--frames", [name for name, value in unfit.items() if value] + [f"--{form}"] * (form in ("mermaid", "dot"))
        )
        _print_frames(store, key, "json" if as_json else form)
        return
    if form == "csv":
        raise InvalidConfig("--csv prints frames.", key="--csv", hint=f"h5ml lineage {key} --frames --csv")
    _print_graph(store, key, direction or "up", depth, calls, form, file, as_json)


def _refuse(option: str, others: list[str]) -> None:
    if others:
        raise InvalidConfig(
            f"{option} prints a table, not a graph.", key=option, found=", ".join(others), hint="leave one of them out"
        )


def _print_graph(
    store: Store,
    key: str,
    way: Any,
    depth: int | None,
    calls: bool,
    form: str | None,
    file: Path | None,
    as_json: bool,
) -> None:
    from ..store.lineage import lineage as follow

    graph = follow(store, key, way, depth, calls=calls or as_json)
    if file is not None:
        from ..store.lineage_plot import plot
        from .plots import save

        save(plot(graph, title=f"Lineage of {graph.root}"), file)
        say(f"{file}: {len(graph.nodes)} nodes, {len(graph.edges)} links")
    elif as_json:
        print_json(graph.record())
    elif form is not None:
        click.echo(graph.mermaid() if form == "mermaid" else graph.dot(), nl=False)
    else:
        click.echo(graph.text())
        if any(node.type == "calls" for node in graph.nodes.values()):
            click.echo("\n--calls shows each call and what it made")


# --- frames ----------------------------------------------------------------------------------------------------------

_TEXTS: Mapping[str, str] = {
    "model": "model",
    "used_as": "used as",
    "training_set": "training set",
    "label": "labels",
    "level_of_theory": "level of theory",
    "label_run": "by run",
    "baseline": "minus",
    "structure": "structures",
    "origin": "cut from",
    "target_temperature": "thermostat (K)",
    "file": "file",
}
_COLUMNS: Mapping[str, str] = {
    "split": "split",
    "members": "members",
    "weight": "weight",
    "label_row": "label",
    "baseline_row": "minus",
    "structure_frame": "structure",
    "origin_frame": "cut from",
    "step": "step",
    "time": "time (fs)",
    "temperature": "T (K)",
}
_PAIRS = {
    "structure": ("label", "structure_frame", "label_row"),
    "origin": ("structure", "origin_frame", "structure_frame"),
}


def _print_frames(store: Store, key: str, form: str | None) -> None:
    from ..store.lineage_frames import lineage_frames

    table = lineage_frames(store, key)
    columns = dict(_columns(table))
    if form == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    elif form == "json":
        frames = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        facts = {"lineage_of": table.attrs["lineage_of"], "notes": table.attrs["notes"]}
        print_json({**facts, "levels_of_theory": json.loads(table.attrs["levels_of_theory"]), "frames": frames})
    else:
        _print_for_people(table, list(columns.values()))
    for note in table.attrs["notes"]:
        click.echo(f"note: {note}", err=True)


def _columns(table: xr.Dataset) -> Iterator[tuple[str, list[Any]]]:
    """Columns as lists, with units in their names and None where there is nothing to tell."""
    for name, variable in table.data_vars.items():
        units = variable.attrs.get("units", "1")
        values = variable.to_numpy()
        if values.dtype.kind == "f":
            known = [None if value != value else value for value in values.tolist()]
        elif values.dtype.kind == "i":
            known = [None if value < 0 else value for value in values.tolist()]
        else:
            known = [value or None for value in values.tolist()]
        yield str(name) if units == "1" else f"{name}_{units}", known


def _print_for_people(table: xr.Dataset, columns: list[list[Any]]) -> None:
    """What is the same for all frames once; then, for each combination of keys, a row for each of its frames."""
    every = {str(name): column for name, column in zip(table.data_vars, columns, strict=True)}
    known = dict(every)
    for name, (other, number, other_number) in _PAIRS.items():
        if every[name] == every[other] and every[number] == every[other_number]:
            del known[name], known[number]
    shown = {name: [_told(name, value) for value in column] for name, column in known.items()}
    texts = {name: shown[name] for name in _TEXTS if name in shown}
    same = [name for name, column in texts.items() if len(set(column)) <= 1]
    print_fields({_TEXTS[name]: texts[name][0] for name in same if texts[name]})
    sections: dict[tuple[Any, ...], list[int]] = {}
    names = [name for name in texts if name not in same]
    for row, keys in enumerate(zip(*(texts[name] for name in names), strict=True)):
        sections.setdefault(keys, []).append(row)
    for position, (keys, rows) in enumerate((sections or {(): list(range(table.sizes["row"]))}).items()):
        if same or position:
            click.echo("")
        print_fields({_TEXTS[name]: key for name, key in zip(names, keys, strict=True)})
        _print_rows(shown, rows)
    splits = Counter(known.get("split", []))
    count = table.sizes["row"]
    counted = ", ".join(f"{splits[name]} {name}" for name in ("train", "valid", "test") if splits[name])
    say(f"\n{count} frame{'s' * (count != 1)}{': ' if counted else ''}{counted}")


def _print_rows(shown: Mapping[str, list[Any]], rows: list[int]) -> None:
    """The columns that have something to tell of these frames."""
    columns = {name: [shown[name][row] for row in rows] for name in _COLUMNS if name in shown}
    alike = len(set(shown.get("weight", []))) == 1
    chosen = [n for n, column in columns.items() if set(column) != {None} and not (n == "weight" and alike)]
    right = [_COLUMNS[name] for name in chosen if name not in ("split", "members")]
    print_table(
        [_COLUMNS[n] for n in chosen], zip(*(columns[n] for n in chosen), strict=True), right=right, empty="No frames."
    )


def _told(name: str, value: Any) -> Any:
    """A value as a person reads it."""
    if value is None:
        return None
    if name == "label_run":
        return str(value)[:12]
    if name == "temperature":
        return f"{value:.1f}"
    return f"{value:g}" if name in ("time", "weight", "target_temperature") else value
