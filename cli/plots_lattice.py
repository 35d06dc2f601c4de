"""Figures of lattice dynamics: bands with their density of states, and what a quasi-harmonic calculation gives."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from ..schemas.errors import InvalidData
from .plots import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, dress, new_figure

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = np.ndarray[Any, np.dtype[Any]]

COLOURS = (BLUE, ORANGE, GREEN, RED, PURPLE, GREY)
_KJ_PER_MOL = 96.48533212331
_J_PER_MOL = 1000.0 * _KJ_PER_MOL
_MANY = 400
_IMAGINARY_THZ = -0.1  # where the dataset does not say
_GREEK = MappingProxyType({"GAMMA": "Γ", "SIGMA": "Σ", "DELTA": "Δ", "LAMBDA": "Λ"})


def bands_figure(path: xr.Dataset, density: xr.Dataset | None, title: str) -> Figure:
    """Frequencies along a path of q-points, with the density of states beside them.

    Parameters
    ----------
    path : xarray.Dataset
        Of kind ``phonons``, with ``distance`` and ``label`` for a path; without them the modes of each q-point.
    density : xarray.Dataset, optional
        A table of ``frequency`` (THz) and ``density_of_states`` (1/THz).
    title : str
        Stands above.
    """
    frequencies = path["frequency"].to_numpy()
    if not frequencies.size:
        raise InvalidData("There are no frequencies to draw.", key=title, expected="q-points", found="none")
    figure = new_figure(8.0, 4.5)
    if density is None:
        axis, side = figure.add_subplot(), None
    else:
        axis, side = figure.subplots(1, 2, sharey=True, width_ratios=(4, 1))
    if "distance" in path:
        _bands(axis, path, frequencies)
    else:
        for q, row in enumerate(frequencies):
            axis.plot(np.full(len(row), q), row, "_", color=BLUE, markersize=18)
        axis.set_xlabel("q-point")
    dress(axis)
    axis.axhline(0.0, color=GREY, linewidth=0.8)
    axis.set_ylabel("frequency (THz), imaginary below 0")
    if side is not None and density is not None:
        _density(side, density)
    imaginary = int(path.attrs.get("n_imaginary", (frequencies < _IMAGINARY_THZ).sum()))
    remark = f", {imaginary} imaginary" if imaginary else ""
    figure.suptitle(f"{title}\n{frequencies.shape[1]} modes at {len(frequencies)} q-points{remark}", fontsize=10)
    return figure


def _bands(axis: Axes, path: xr.Dataset, frequencies: Array) -> None:
    distance = path["distance"].to_numpy()
    labels = (
        [_GREEK.get(str(text).upper(), str(text)) for text in path["label"].to_numpy()]
        if "label" in path
        else [""] * len(distance)
    )
    breaks = _breaks(path, distance)
    for first, last in zip([0, *breaks], [*breaks, len(distance)], strict=True):
        axis.plot(distance[first:last], frequencies[first:last], color=BLUE, linewidth=1.0)
    ticks: dict[float, str] = {}
    for at, label in zip(distance, labels, strict=True):
        if label:
            known = ticks.get(float(at))
            ticks[float(at)] = label if known in (None, label) else f"{known}|{label}"
    for at in ticks:
        axis.axvline(at, color="#bbbbbb", linewidth=0.7)
    axis.set_xticks(list(ticks), list(ticks.values()))
    axis.set_xlim(distance[0], distance[-1])
    axis.grid(visible=False)


def _breaks(path: xr.Dataset, distance: Array) -> list[int]:
    """Where the path jumps: two points at one distance that are different q-points."""
    q = path["q_point"].to_numpy()
    same = np.isclose(distance[1:], distance[:-1], atol=1e-10)
    jumps = same & (np.abs(q[1:] - q[:-1]).max(axis=1) > 1e-6)
    return [int(index) + 1 for index in np.flatnonzero(jumps)]


def _density(axis: Axes, density: xr.Dataset) -> None:
    axis.fill_betweenx(
        density["frequency"].to_numpy(), density["density_of_states"].to_numpy(), color=BLUE, alpha=0.35, lw=0
    )
    axis.plot(density["density_of_states"].to_numpy(), density["frequency"].to_numpy(), color=BLUE, linewidth=1.0)
    axis.set_xlabel("states/THz")
    axis.set_xlim(left=0.0)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)


def density_figure(density: xr.Dataset, title: str) -> Figure:
    """A density of states alone; ``density`` as in ``bands_figure``."""
    figure = new_figure(8.0, 4.5)
    axis = figure.add_subplot()
    frequency, states = density["frequency"].to_numpy(), density["density_of_states"].to_numpy()
    axis.fill_between(frequency, states, color=BLUE, alpha=0.35, lw=0)
    axis.plot(frequency, states, color=BLUE, linewidth=1.0)
    dress(axis)
    axis.set_ylim(bottom=0.0)
    axis.set_xlabel("frequency (THz), imaginary below 0")
    axis.set_ylabel("density of states (1/THz)")
    figure.suptitle(title, fontsize=10)
    return figure


def thermodynamics_figure(dataset: xr.Dataset, title: str) -> Figure:
    """Every quantity over temperature, one curve for each pressure; rows without a value are gaps.

    Parameters
    ----------
    dataset : xarray.Dataset
        Of kind ``thermodynamics``.
    title : str
        Stands above; a line below says how many rows are missing and why.
    """
    names = _quantities(dataset)
    if not names:
        raise InvalidData("There is nothing to draw.", key=title, expected="values over temperature", found="none")
    columns = 2 if len(names) > 1 else 1
    rows = -(-len(names) // columns)
    figure = new_figure(4.2 * columns, 1.0 + 2.1 * rows)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
    groups = _by_pressure(dataset)
    for axis, name in zip(axes, names, strict=False):
        _quantity(axis, dataset, name, groups)
    for axis in axes[len(names) :]:
        axis.set_visible(False)
    for axis in axes[max(0, len(names) - columns) : len(names)]:
        axis.tick_params(labelbottom=True)
        axis.set_xlabel("temperature (K)")
    if len(groups) > 1:
        axes[0].legend(fontsize=8, frameon=False)
    figure.suptitle(f"{title}{_missing(dataset)}", fontsize=10)
    return figure


def _quantities(dataset: xr.Dataset) -> list[str]:
    """The variables along the states alone that have a finite value."""
    found = []
    for name in dataset.data_vars:
        array = dataset[name]
        skipped = {"temperature", "pressure", "reason"}
        if name in skipped or array.dims != ("state",) or array.dtype.kind != "f" or str(name).endswith("_error"):
            continue
        if np.isfinite(array.to_numpy()).any():
            found.append(str(name))
    return found


def _by_pressure(dataset: xr.Dataset) -> list[tuple[str, Array]]:
    count = dataset.sizes["state"]
    if "pressure" not in dataset:
        return [("", np.arange(count))]
    pressure = dataset["pressure"].to_numpy()
    return [(f"{value:g} GPa", np.flatnonzero(pressure == value)) for value in np.unique(pressure)]


def _quantity(axis: Axes, dataset: xr.Dataset, name: str, groups: Sequence[tuple[str, Array]]) -> None:
    scale, unit = _shown_in(str(dataset[name].attrs.get("units", "")))
    temperature, values = dataset["temperature"].to_numpy(), dataset[name].to_numpy() * scale
    for colour, (label, rows) in zip(COLOURS * (1 + len(groups) // len(COLOURS)), groups, strict=False):
        order = rows[np.argsort(temperature[rows], kind="stable")]
        marker = "o" if len(order) <= _MANY // 10 else None
        axis.plot(temperature[order], values[order], color=colour, marker=marker, markersize=3, lw=1.2, label=label)
    dress(axis)
    axis.set_ylabel(f"{name.replace('_', ' ')}\n({unit})" if unit else name.replace("_", " "))


def _shown_in(unit: str) -> tuple[float, str]:
    """Factor and name of the unit that a quantity is drawn in."""
    return {"eV": (_KJ_PER_MOL, "kJ/mol"), "eV/K": (_J_PER_MOL, "J/mol/K"), "1": (1.0, "")}.get(unit, (1.0, unit))


def _missing(dataset: xr.Dataset) -> str:
    if "reason" not in dataset:
        return ""
    reasons = [str(reason) for reason in dataset["reason"].to_numpy() if str(reason)]
    if not reasons:
        return ""
    return f"\n{len(reasons)} of {dataset.sizes['state']} rows missing: {'; '.join(sorted(set(reasons)))[:120]}"
