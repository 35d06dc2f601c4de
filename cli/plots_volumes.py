"""The figure of an equation of state: free energies over the volume, their fits, and the volume over temperature."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..schemas.errors import InvalidData
from .plots import BLUE, RED, dress, new_figure

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = np.ndarray[Any, np.dtype[Any]]

_KJ_PER_MOL = 96.48533212331
_MOST = 12


def volumes_figure(sampled: xr.Dataset, fits: xr.Dataset, title: str) -> Figure:
    """``F + pV`` of the sampled crystals with its fit at each temperature, and ``V(T)`` of their minima.

    Parameters
    ----------
    sampled, fits : xarray.Dataset
        ``eos_sampled`` and ``eos_fits`` of a quasi-harmonic calculation; the lowest pressure is drawn.
    title : str
        Stands above.

    Raises
    ------
    InvalidData
        If no crystal was usable.
    """
    used = sampled["used"].to_numpy().astype(bool)
    if not used.any():
        raise InvalidData(
            "There is no equation of state to draw.",
            key=title,
            expected="crystals that were used",
            found=f"{len(used)} crystals, none used",
            hint="the variable reason of eos_sampled says why",
        )
    figure = new_figure(9.0, 4.6)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    pressures = fits["pressure"].to_numpy()
    rows = np.flatnonzero(pressures == pressures.min())
    _free_energies(left, sampled, fits, rows, used)
    _volumes(right, fits, rows)
    remark = f", {int((~used).sum())} of {len(used)} crystals not used" if not used.all() else ""
    figure.suptitle(f"{title}\n{pressures.min():g} GPa{remark}", fontsize=10)
    return figure


def _free_energies(axis: Axes, sampled: xr.Dataset, fits: xr.Dataset, rows: Array, used: Array) -> None:
    from ase.units import GPa
    from matplotlib import colormaps

    volume, static = sampled["volume"].to_numpy(), sampled["static_energy"].to_numpy()
    static = static + float(fits["pressure"].to_numpy()[rows[0]]) * GPa * volume
    vibrations, known = sampled["free_energy"].to_numpy(), sampled["temperature"].to_numpy()
    shown = rows[np.unique(np.linspace(0, len(rows) - 1, min(_MOST, len(rows))).round().astype(int))]
    zero = np.nanmin((static[:, None] + vibrations)[used])
    fine = np.linspace(np.nanmin(volume[used]), np.nanmax(volume[used]), 200)
    for place, row in enumerate(shown):
        temperature = float(fits["temperature"].to_numpy()[row])
        column = int(np.abs(known - temperature).argmin())
        colour = colormaps["plasma"](0.85 * place / max(1, len(shown) - 1))
        energy = (static + vibrations[:, column] - zero) * _KJ_PER_MOL
        axis.plot(volume[used], energy[used], "o", color=colour, markersize=3.5)
        curve = _curve(fits, int(row), fine, volume[used], (static + vibrations[:, column])[used])
        if curve is not None:
            label = f"{temperature:.0f} K" if place in (0, len(shown) - 1) else None
            axis.plot(fine, (curve - zero) * _KJ_PER_MOL, color=colour, linewidth=1.0, label=label)
    dress(axis)
    axis.set_xlabel("volume (Å³)")
    axis.set_ylabel("free energy + pV (kJ/mol)")
    axis.legend(fontsize=8, frameon=False)


def _curve(fits: xr.Dataset, row: int, fine: Array, volume: Array, energy: Array) -> Array | None:
    """The fitted curve: by its parameters where it has a form, else through the points."""
    from ..compute.lattice.equation_of_state import birch_murnaghan, vinet

    form = str(fits["form"].to_numpy()[row])
    names = ("energy", "volume", "bulk_modulus", "bulk_modulus_derivative")
    parameters = [float(fits[name].to_numpy()[row]) for name in names]
    forms = {"birch_murnaghan": birch_murnaghan, "vinet": vinet}
    if form in forms and np.isfinite(parameters).all():
        return forms[form](fine, *parameters)
    order = np.argsort(volume)
    if form == "spline" and len(volume) > 3:
        from scipy.interpolate import make_interp_spline

        return np.asarray(make_interp_spline(volume[order], energy[order], k=3)(fine))
    if form == "polynomial" and len(volume) > 2:
        return np.asarray(np.polynomial.Polynomial.fit(volume, energy, 3 if len(volume) > 4 else 2)(fine))
    return None


def _volumes(axis: Axes, fits: xr.Dataset, rows: Array) -> None:
    temperature, volume = fits["temperature"].to_numpy()[rows], fits["volume"].to_numpy()[rows]
    inside = fits["minimum_inside"].to_numpy()[rows].astype(bool)
    axis.plot(temperature, np.where(inside, volume, np.nan), "o-", color=BLUE, markersize=3, linewidth=1.2)
    if (~inside).any():
        axis.plot(temperature[~inside], volume[~inside], "x", color=RED, label="minimum outside")
        axis.legend(fontsize=8, frameon=False)
    dress(axis)
    axis.set_xlabel("temperature (K)")
    axis.set_ylabel("volume at the minimum (Å³)")
