"""Parity plots of an evaluation: predictions over labels, and spread over error for an ensemble."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..schemas.errors import WrongKind
from .plots import dress, new_figure

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = np.ndarray[Any, np.dtype[Any]]


def evaluation_figure(dataset: xr.Dataset, title: str) -> Figure:
    """Energies per atom, components of forces and of stresses against their labels, with the errors in each panel.

    Parameters
    ----------
    dataset : xarray.Dataset
        Of kind ``evaluation``.
    title : str
        Stands above.

    Raises
    ------
    WrongKind
        If it holds no parity data.
    """
    if "energy_reference" not in dataset:
        raise WrongKind("This evaluation has no parity data.", key=title, expected="one by `h5ml compute evaluation`")
    n_atoms = dataset["frame_n_atoms"].to_numpy()
    energy = [dataset[f"energy_{side}"].to_numpy() / n_atoms for side in ("reference", "predicted")]
    force = [dataset[f"force_{side}"].to_numpy() for side in ("reference", "predicted")]
    stress = [dataset[f"stress_{side}"].to_numpy().ravel() for side in ("reference", "predicted")]
    has_stress = np.isfinite(stress[0] - stress[1]).any()
    has_spread = "force_bin_spread" in dataset
    figure = new_figure(3.4 * (2 + has_stress + has_spread), 3.7)
    panels = list(figure.subplots(1, 2 + has_stress + has_spread))
    names = dataset["composition"].to_numpy().astype(str)
    _parity(panels[0], energy, names, "energy", "eV/atom", dataset)
    _parity(panels[1], force, dataset["force_element"].to_numpy().astype(str), "force", "eV/Angstrom", dataset)
    if has_stress:
        _parity(panels[2], stress, np.repeat(names, 6), "stress", "eV/Angstrom$^3$", dataset)
    if has_spread:
        _calibration(panels[-1], dataset)
    counted = f"{dataset.sizes['frame']} frames, {dataset.attrs.get('level_of_theory', 'a model')}"
    figure.suptitle(f"{title}\n{counted}", fontsize=10, x=0.01, ha="left")
    return figure


def _parity(axes: Axes, values: list[Array], names: Array, quantity: str, unit: str, dataset: xr.Dataset) -> None:
    """Points of each group in its colour over the diagonal."""
    reference, predicted = values
    known = np.isfinite(reference) & np.isfinite(predicted)
    reference, predicted, names = reference[known], predicted[known], names[known]
    groups = list(dict.fromkeys(names.tolist()))
    size = float(np.clip(3000.0 / max(1, len(reference)), 2.0, 20.0))
    for number, name in enumerate(groups):
        mine = names == name
        axes.scatter(
            reference[mine],
            predicted[mine],
            s=size,
            linewidths=0,
            alpha=0.7,
            color=f"C{number % 10}",
            label=name if number < 8 else None,
            rasterized=len(reference) > 5000,
        )
    if len(reference):
        ends = [float(min(reference.min(), predicted.min())), float(max(reference.max(), predicted.max()))]
        axes.plot(ends, ends, color="#555555", linewidth=0.8, zorder=0)
    errors = " ".join(f"{m.upper()} {float(dataset[f'{quantity}_{m}'][0]):.3g}" for m in ("mae", "rmse"))
    dress(axes)
    axes.set(xlabel=f"label ({unit})", ylabel=f"prediction ({unit})")
    axes.set_title(f"{quantity}: {errors}", fontsize=9, loc="left")
    axes.xaxis.label.set_fontsize(9)
    if len(groups) > 1:
        axes.legend(fontsize=7, frameon=False, handletextpad=0.1, loc="upper left")


def _calibration(axes: Axes, dataset: xr.Dataset) -> None:
    """Error over spread of forces in ten bins, as it is and times the conformal factor."""
    spread, error = dataset["force_bin_spread"].to_numpy(), dataset["force_bin_error"].to_numpy()
    axes.plot(spread, error, "o-", markersize=4, linewidth=0.9, color="C0", label="ensemble")
    low, high = float(np.nanmin(np.r_[spread, error])), float(np.nanmax(np.r_[spread, error]))
    axes.plot([low, high], [low, high], color="#555555", linewidth=0.8, zorder=0, label="error = spread")
    dress(axes)
    if low > 0:
        axes.set(xscale="log", yscale="log")
    axes.set(xlabel="force spread (eV/Angstrom)", ylabel="force error (eV/Angstrom)")
    factor, coverage = (float(dataset[f"force_{name}"]) for name in ("conformal_factor", "coverage"))
    axes.set_title(f"factor {factor:.3g}, covers {100 * coverage:.0f} %", fontsize=9, loc="left")
    axes.xaxis.label.set_fontsize(9)
    axes.legend(fontsize=7, frameon=False)
