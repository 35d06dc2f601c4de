"""The command ``plot``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import click

from ..schemas.errors import InvalidConfig, WrongKind
from .common import KEY, command, kind_of, open_at, say, store_option

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

    from ..store.catalogue import Entry
    from ..store.store import Store


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be drawn.

    Attributes
    ----------
    store : Store
        Where it lies.
    entry : Entry
        What.
    selection : str or None
        Key of a selection whose frames are marked.
    frame : int
        Which cluster.
    """

    store: Store
    entry: Entry
    selection: str | None = None
    frame: int = 0

    @property
    def dataset(self) -> xr.Dataset:
        """The data, read when looked at."""
        return self.store.dataset(self.entry.reference)

    def beside(self, name: str) -> xr.Dataset | None:
        """What the same run wrote as another output; None where it wrote no such thing."""
        key = f"{self.entry.key.rpartition('/')[0]}/{name}".lstrip("/")
        if key not in self.store or self.store.entry(key).run != self.entry.run:
            return None
        return self.store.dataset(key)


def _trajectory(wanted: Wanted) -> Figure:
    from .plots import trajectory_figure

    return trajectory_figure(wanted.dataset, wanted.entry.reference)


def _clusters(wanted: Wanted) -> Figure:
    from .plots_clusters import cluster_figure

    return cluster_figure(wanted.dataset, wanted.entry.reference, wanted.frame)


def _phonons(wanted: Wanted) -> Figure:
    from .plots_lattice import bands_figure

    density = wanted.beside("density_of_states")
    return bands_figure(wanted.dataset, density if "distance" in wanted.dataset else None, wanted.entry.reference)


def _thermodynamics(wanted: Wanted) -> Figure:
    from .plots_lattice import thermodynamics_figure

    return thermodynamics_figure(wanted.dataset, wanted.entry.reference)


def _table(wanted: Wanted) -> Figure:
    dataset = wanted.dataset
    if "frequency" in dataset and "density_of_states" in dataset:
        from .plots_lattice import density_figure

        return density_figure(dataset, wanted.entry.reference)
    sampled, fits = wanted.beside("eos_sampled"), wanted.beside("eos_fits")
    if sampled is None or fits is None:
        raise WrongKind(
            "This table cannot be drawn.",
            key=wanted.entry.reference,
            expected="a density of states, or eos_sampled or eos_fits of a quasi-harmonic calculation",
            found=f"kind {wanted.entry.kind}",
            hint="export it as .csv for other programs",
        )
    from .plots_volumes import volumes_figure

    return volumes_figure(sampled, fits, wanted.entry.key.rpartition("/")[0])


def _features(wanted: Wanted) -> Figure:
    from .plots_features import feature_figure

    chosen = None
    if wanted.selection is not None:
        entry = wanted.store.entry(wanted.selection)
        if entry.kind != "selection":
            raise WrongKind(
                "This is no selection.", key=entry.reference, expected="kind selection", found=f"kind {entry.kind}"
            )
        chosen = wanted.store.dataset(entry.reference)
    return feature_figure(wanted.dataset, wanted.entry.reference, chosen)


def _evaluation(wanted: Wanted) -> Figure:
    from .plots_evaluation import evaluation_figure

    return evaluation_figure(wanted.dataset, wanted.entry.reference)


FIGURES: Mapping[str, Callable[[Wanted], Figure]] = MappingProxyType(
    {
        "trajectory": _trajectory,
        "clusters": _clusters,
        "phonons": _phonons,
        "thermodynamics": _thermodynamics,
        "table": _table,
        "features": _features,
        "evaluation": _evaluation,
    }
)
"""Kind to the function that draws it."""


@command("plot", "Draw a key as a PNG, PDF or SVG.")
@click.argument("key", type=KEY)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--dpi", type=click.IntRange(30, 1200), default=150, show_default=True, help="Resolution of a PNG.")
@click.option("--selection", type=KEY, metavar="KEY", help="Ring the frames of this selection in a map of features.")
@click.option("--frame", type=click.IntRange(min=0), default=0, show_default=True, help="Which cluster of the key.")
@store_option
def plot(key: str, file: Path, dpi: int, selection: str | None, frame: int, location: str | None) -> None:
    """Draw KEY into FILE.

    \b
    trajectory      energy, temperature with its target, pressure, cell and volume over time
    clusters        one cluster, its central molecule ringed
    phonons         bands with the density of states beside them
    table           G(V) with its fits and V(T), of eos_sampled or eos_fits; a density of states
    thermodynamics  every quantity over temperature
    evaluation      predictions over labels and, for an ensemble, error over spread
    features        principal components, coloured by the key that the frames come from

    The graph of what a key came from: `h5ml lineage KEY --png FILE`.
    """  # noqa: D301
    from .plots import save

    store = open_at(location)
    entry = store.entry(key)
    kind_of(entry)
    if entry.kind not in FIGURES:
        raise WrongKind(
            "This cannot be drawn.",
            key=entry.reference,
            expected=f"kind {' or '.join(FIGURES)}",
            found=f"kind {entry.kind}",
        )
    if selection is not None and entry.kind != "features":
        raise InvalidConfig("A selection is ringed in a map of features only.", key=key, found=f"kind {entry.kind}")
    save(FIGURES[entry.kind](Wanted(store, entry, selection, frame)), file, dpi)
    counted = f", {entry.records} {'frames' if entry.kind == 'trajectory' else 'records'}" if entry.records else ""
    say(f"{file}: {entry.reference}{counted}")
