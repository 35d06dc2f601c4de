"""The command ``plot``."""

from __future__ import annotations

from pathlib import Path

import click

from .common import KEY, command, kind_of, open_at, say, store_option


@command("plot", "Draw a trajectory as a PNG, PDF or SVG.")
@click.argument("key", type=KEY)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--dpi", type=click.IntRange(30, 1200), default=150, show_default=True, help="Resolution of a PNG.")
@store_option
def plot(key: str, file: Path, dpi: int, location: str | None) -> None:
    """Draw the trajectory KEY into FILE: energy, temperature with its target, pressure, cell and volume over time.

    The equilibration is shaded. The graph of what a key came from: `h5ml lineage KEY --png FILE`.
    """
    from .plots import save, trajectory_figure

    store = open_at(location)
    entry = store.entry(key)
    kind_of(entry)
    figure = trajectory_figure(store.dataset(entry.reference), entry.reference)
    save(figure, file, dpi)
    say(f"{file}: {entry.reference}, {entry.records} frames")
