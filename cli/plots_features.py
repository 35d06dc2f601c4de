"""The map of a pool of frames: features in two dimensions, coloured by where they come from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..schemas.errors import InvalidData
from .plots import dress, new_figure

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = np.ndarray[Any, np.dtype[Any]]

_COLORS = "tab10", "tab20"
_MOST_IN_LEGEND = 20


def feature_figure(dataset: xr.Dataset, title: str, selection: xr.Dataset | None = None) -> Figure:
    """Principal components of features, coloured by source; the chosen ones ringed.

    Parameters
    ----------
    dataset : xarray.Dataset
        Of kind ``features``.
    title : str
        Stands above.
    selection : xarray.Dataset, optional
        Of kind ``selection``: references to frames that the features belong to.

    Raises
    ------
    InvalidData
        If there are no records, or the selection refers to none of the frames.
    """
    from ..compute.features_map import principal_components

    if dataset.sizes["record"] == 0:
        raise InvalidData("There are no features to draw.", key=title, expected="at least one record", found="none")
    found = principal_components(dataset["features"].to_numpy())
    figure = new_figure(7.2, 5.4)
    axes = figure.add_subplot()
    _points(axes, found.points, dataset)
    ringed = _ring(axes, found.points, dataset, selection, title) if selection is not None else 0
    for name, share in zip(("x", "y"), found.explained, strict=True):
        axes.set(**{f"{name}label": f"principal component {'xy'.index(name) + 1} ({100 * share:.0f} % of variance)"})
    dress(axes)
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.02), handlelength=1.4)
    records = f"{dataset.sizes['record']} records of {dataset.sizes['feature']} features"
    how = " ".join(str(dataset.attrs[name]) for name in ("descriptor", "level") if name in dataset.attrs)
    chosen = f", {ringed} chosen" if selection is not None else ""
    figure.suptitle(f"{title}\n{how + ': ' if how else ''}{records}{chosen}", fontsize=10, x=0.01, ha="left")
    return figure


def _points(axes: Axes, points: Array, dataset: xr.Dataset) -> None:
    from matplotlib import colormaps

    if "source_key" in dataset and "source" in dataset:
        names, source = dataset["source_key"].to_numpy().astype(str), dataset["source"].to_numpy()
    else:
        names, source = np.array(["features"]), np.zeros(len(points), dtype=np.int64)
    colors = colormaps[_COLORS[len(names) > 10]].colors  # type: ignore[attr-defined]
    size = float(np.clip(4000.0 / len(points), 3.0, 24.0))
    for number, name in enumerate(names):
        mine = points[source == number]
        label = f"{name} ({len(mine)})" if number < _MOST_IN_LEGEND else None
        color = [colors[number % len(colors)]]
        axes.scatter(mine[:, 0], mine[:, 1], s=size, c=color, label=label, linewidths=0, alpha=0.8)


def _ring(axes: Axes, points: Array, dataset: xr.Dataset, selection: xr.Dataset, title: str) -> int:
    """Ring the records of the chosen frames; how many."""
    ringed = np.flatnonzero(np.isin(_references(dataset), _references(selection)))
    if not ringed.size:
        raise InvalidData(
            "The selection refers to none of these frames.",
            key=title,
            expected=", ".join(dataset["source_key"].to_numpy().astype(str)) if "source_key" in dataset else None,
            found=", ".join(selection["source_key"].to_numpy().astype(str)) or "an empty selection",
        )
    x, y = points[ringed].T
    axes.scatter(x, y, s=46, facecolors="none", edgecolors="black", linewidths=0.9, label=f"chosen ({len(ringed)})")
    return int(ringed.size)


def _references(dataset: xr.Dataset) -> Array:
    """Digest of the source and number of the frame, for each record, as one text."""
    if "source_digest" not in dataset:
        return np.zeros(0, dtype=str)
    digests = dataset["source_digest"].to_numpy().astype(str)[dataset["source"].to_numpy()]
    return np.char.add(np.char.add(digests, " "), dataset["source_frame"].to_numpy().astype(str))
