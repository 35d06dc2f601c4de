"""The picture of a cluster: its molecules as balls and sticks, the central one in full colour."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..schemas.errors import InvalidConfig, InvalidData
from .plots import GREY, ORANGE, new_figure

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = np.ndarray[Any, np.dtype[Any]]

_BALL = 0.45
_STICK = 1.2
_FADED = 0.55


def cluster_figure(dataset: xr.Dataset, title: str, frame: int = 0) -> Figure:
    """One cluster seen along its shortest extent, the central molecule marked.

    Parameters
    ----------
    dataset : xarray.Dataset
        Of kind ``clusters``: ``molecule`` 0 of each frame is the central one.
    title : str
        Stands above.
    frame : int
        Which cluster.

    Raises
    ------
    InvalidData
        If there is no cluster to draw.
    InvalidConfig
        If there is none of that number.
    """
    count = int(dataset.sizes["frame"])
    if count == 0:
        raise InvalidData("There is no cluster to draw.", key=title, expected="at least one frame", found="none")
    if not 0 <= frame < count:
        raise InvalidConfig("There is no such cluster.", key=title, expected=f"0 to {count - 1}", found=frame)
    sizes = dataset["n_atoms"].to_numpy()
    start = int(sizes[:frame].sum())
    atoms = {"atom": slice(start, start + int(sizes[frame]))}
    numbers, molecule = (dataset[name].isel(atoms).to_numpy() for name in ("atomic_numbers", "molecule"))
    points, depth = _view(dataset["positions"].isel(atoms).to_numpy(), molecule == 0)
    figure = new_figure(6.0, 6.0)
    axes = figure.add_subplot()
    _draw(axes, points, depth, numbers, molecule)
    n_molecules = len(np.unique(molecule))
    figure.suptitle(title, fontsize=10)
    axes.set_title(
        f"frame {frame}: {n_molecules} molecule{'s' if n_molecules > 1 else ''}, {len(numbers)} atoms; "
        "central molecule ringed",
        fontsize=8,
        color=GREY,
    )
    return figure


def _view(positions: Array, central: Array) -> tuple[Array, Array]:
    """Screen coordinates (N, 2) and depth (N) along the direction in which the cluster is thinnest."""
    shifted = positions - positions[central].mean(axis=0)
    axes = np.linalg.svd(shifted - shifted.mean(axis=0), full_matrices=True)[2]
    axes *= np.sign(axes[np.arange(3), np.abs(axes).argmax(axis=1)])[:, None]  # the same view every time
    turned = shifted @ axes.T
    return turned[:, :2], turned[:, 2]


def _draw(axes: Axes, points: Array, depth: Array, numbers: Array, molecule: Array) -> None:
    from ase.data import chemical_symbols, covalent_radii
    from ase.data.colors import jmol_colors
    from matplotlib.collections import LineCollection, PatchCollection
    from matplotlib.patches import Circle

    radii = covalent_radii[numbers]
    colours = jmol_colors[numbers]
    faded = _FADED + (1.0 - _FADED) * colours
    shown = np.where((molecule == 0)[:, None], colours, faded)
    whole = np.column_stack([points, depth])
    gaps = np.linalg.norm(whole[:, None] - whole[None], axis=2)
    bonded = (gaps < _STICK * (radii[:, None] + radii[None])) & (molecule[:, None] == molecule[None])
    first, second = np.nonzero(np.triu(bonded, 1))
    sticks = [(points[i], points[j]) for i, j in zip(first, second, strict=True)]
    axes.add_collection(LineCollection(sticks, colors="#9a9a9a", linewidths=3.0, zorder=1))
    order = np.argsort(depth)
    balls = [Circle(tuple(points[i]), _BALL * radii[i]) for i in order]
    rings = [ORANGE if molecule[i] == 0 else "#555555" for i in order]
    widths = [2.0 if molecule[i] == 0 else 0.6 for i in order]
    axes.add_collection(PatchCollection(balls, facecolors=shown[order], edgecolors=rings, linewidths=widths, zorder=2))
    for number in np.unique(numbers):
        axes.scatter([], [], s=60, color=jmol_colors[number], edgecolors="#555555", label=chemical_symbols[number])
    axes.legend(loc="upper right", frameon=False, fontsize=8)
    margin = 1.0
    axes.set_xlim(points[:, 0].min() - margin, points[:, 0].max() + margin)
    axes.set_ylim(points[:, 1].min() - margin, points[:, 1].max() + margin)
    axes.set_aspect("equal")
    axes.set_xlabel("Angstrom", fontsize=8)
    axes.tick_params(labelsize=8)
