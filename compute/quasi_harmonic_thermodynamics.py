"""From free energies at several volumes to thermodynamic functions along temperature and pressure.

With ``F(V, T) = E(V) + F_vib(V, T)`` and ``G(T, p) = min_V [F(V, T) + p V]``::

    alpha = (dV/dT)_p / V = (dS/dV)_T / B_T          coefficient of thermal expansion
    B_T   = V (d2 F / dV2)_T                         isothermal bulk modulus
    C_p   = C_V + T V alpha (dS/dV)_T                heat capacity at constant pressure
    B_S   = B_T C_p / C_V                            adiabatic bulk modulus
    gamma = V alpha B_T / C_V                        thermodynamic Grueneisen parameter
    p_th  = -(dF_vib/dV)_T                           pressure of the vibrations

(D. C. Wallace, Thermodynamics of Crystals (1972), chapter 1; S. Baroni, P. Giannozzi, E. Isaev, Rev. Mineral. Geochem.
71, 39 (2010)). The expansion is there twice, from V(T) and from the entropy, so that the two can be compared. ``C_p``,
``B_S`` and ``gamma`` take the one from the entropy: it needs no neighbouring temperatures, and it vanishes with the
heat capacity at low temperature, where differences of V(T) are noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.units import GPa
from numpy.typing import NDArray

from ..schemas.kinds import TABLE
from ..schemas.kinds_lattice import THERMODYNAMICS
from .lattice.equation_of_state import PARAMETERS, EquationOfStateFit, fit
from .quasi_harmonic_config import QuasiHarmonic
from .quasi_harmonic_volumes import Sample, Vibrations

if TYPE_CHECKING:
    import xarray as xr

FloatArray = NDArray[np.float64]

UNITS = {
    "temperature": "K",
    "pressure": "GPa",
    "volume": "Angstrom^3",
    "volume_error": "Angstrom^3",
    "static_energy": "eV",
    "free_energy": "eV",
    "internal_energy": "eV",
    "entropy": "eV/K",
    "heat_capacity": "eV/K",
    "gibbs_energy": "eV",
    "enthalpy": "eV",
    "heat_capacity_p": "eV/K",
    "bulk_modulus": "GPa",
    "bulk_modulus_adiabatic": "GPa",
    "thermal_expansion": "1/K",
    "thermal_expansion_from_entropy": "1/K",
    "grueneisen_parameter": "1",
    "thermal_pressure": "GPa",
}
_FEWEST = 3


@dataclass(frozen=True, slots=True)
class Row:
    """One state of the results.

    Attributes
    ----------
    temperature, pressure : float
        In K and GPa.
    found : EquationOfStateFit or None
        The fit that gave its volume.
    values : mapping of str to float
        Columns of ``UNITS``; those that are not there are NaN.
    cell : array (3, 3)
        Cell vectors as rows (Angstrom).
    reason : str
        Why there are no values, or only those without vibrations.
    """

    temperature: float
    pressure: float
    found: EquationOfStateFit | None = None
    values: Mapping[str, float] = field(default_factory=dict)
    cell: FloatArray = field(default_factory=lambda: np.full((3, 3), np.nan))
    reason: str = ""

    def with_values(self, **values: float) -> Row:
        """The same with more columns."""
        return replace(self, values={**self.values, **values})

    def failed(self, reason: str) -> Row:
        """The same without values."""
        return replace(self, values={}, reason=reason)


class Surface:
    """The free energy of the usable samples along volume and temperature.

    Parameters
    ----------
    samples : sequence of Sample
        All samples; those that are not usable are left out.
    config : QuasiHarmonic
        Temperatures, and the form of the equation of state.
    """

    def __init__(self, samples: Sequence[Sample], config: QuasiHarmonic) -> None:
        self.config = config
        usable = sorted((sample for sample in samples if sample.usable), key=lambda sample: sample.volume)
        self.samples = [s for i, s in enumerate(usable) if i == 0 or s.volume > usable[i - 1].volume * (1.0 + 1e-9)]
        self.volumes = np.array([sample.volume for sample in self.samples])
        self.energies = np.array([sample.energy for sample in self.samples])
        found = [sample.vibrations(config.temperatures_K) for sample in self.samples]
        self._functions = {
            name: np.array([getattr(one, name) for one in found]).reshape(len(found), len(config.temperatures_K))
            for name in Vibrations.__slots__
        }
        self._left_out = [f"{s.label}: {s.reason}" for s in samples if not s.usable]

    def shortfall(self) -> str:
        """Why there are too few volumes; empty where there are enough."""
        if len(self.volumes) >= _FEWEST:
            return ""
        return f"{len(self.volumes)} usable volumes, {_FEWEST} are needed; " + "; ".join(self._left_out)

    def column(self, name: str, at: int) -> FloatArray:
        """A function of the vibrations at one temperature (by index) along the volumes."""
        return np.asarray(self._functions[name][:, at])

    def minimum(self, at: int, pressure: float) -> EquationOfStateFit:
        """The fit of ``F + pV`` at one temperature (by index) and pressure (GPa)."""
        energies = self.energies + self.column("free_energy", at) + pressure * GPa * self.volumes
        return fit(
            self.volumes,
            energies,
            self.config.equation_of_state,
            half_width=self.config.eos_weight_half_width,
        )

    def interpolated(self, values: FloatArray, volume: float) -> tuple[float, float]:
        """Value and derivative at a volume of a function given at the volumes, by a spline through all of them."""
        from scipy.interpolate import make_interp_spline

        spline = make_interp_spline(self.volumes, values, k=min(3, len(self.volumes) - 1))
        return float(spline(volume)), float(spline(volume, nu=1))


def fitted_rows(surface: Surface) -> list[Row]:
    """Equilibrium volumes and what follows from the fits, for each pressure and temperature."""
    config, rows = surface.config, []
    shortfall = surface.shortfall()
    for pressure in config.pressures:
        for at, temperature in enumerate(config.temperatures_K):
            row = Row(temperature, pressure)
            rows.append(row.failed(shortfall) if shortfall else _fitted(surface, row, at))
    return rows


def _fitted(surface: Surface, row: Row, at: int) -> Row:
    found = surface.minimum(at, row.pressure)
    row = replace(row, found=found)
    if not found.found:
        return row.failed(f"no minimum of the free energy: {found.note}")
    span = f"{surface.volumes[0]:.2f} to {surface.volumes[-1]:.2f} Angstrom^3"
    if not found.inside and surface.config.filter_out_extrapolated_minimum:
        return row.failed(f"minimum at {found.volume:.2f} Angstrom^3, outside the volumes from {span}")
    volume = found.volume
    functions = {name: surface.interpolated(surface.column(name, at), volume) for name in Vibrations.__slots__}
    energy, _ = surface.interpolated(surface.energies, volume)
    return row.with_values(
        volume=volume,
        volume_error=float(np.sqrt(found.covariance[1, 1])),
        static_energy=energy,
        bulk_modulus=float(found.parameters[2]) / GPa,
        thermal_expansion_from_entropy=functions["entropy"][1] / float(found.parameters[2]),
        thermal_pressure=-functions["free_energy"][1] / GPa,
        **{name: value for name, (value, _) in functions.items()},
    )


def with_phonons(row: Row, sample: Sample) -> Row:
    """The row with static energy, vibrations and cell of the crystal computed at its volume."""
    if not sample.usable:
        return row.failed(f"{sample.label}: {sample.reason}")
    vibrations = sample.vibrations([row.temperature])
    functions = {name: float(getattr(vibrations, name)[0]) for name in Vibrations.__slots__}
    return replace(row, cell=sample.cell).with_values(
        volume=row.values.get("volume", sample.volume), static_energy=sample.energy, **functions
    )


def completed(rows: Sequence[Row]) -> list[Row]:
    """The rows with what needs several temperatures or all columns of a row."""
    expansion: dict[int, float] = {}
    for pressure in dict.fromkeys(row.pressure for row in rows):
        chosen = [i for i, row in enumerate(rows) if row.pressure == pressure and not row.reason]
        chosen.sort(key=lambda i: rows[i].temperature)
        slopes = _slope([rows[i].temperature for i in chosen], [rows[i].values["volume"] for i in chosen])
        expansion.update({i: slope / rows[i].values["volume"] for i, slope in zip(chosen, slopes, strict=True)})
    return [row if row.reason else _completed(row, expansion[i]) for i, row in enumerate(rows)]


def _completed(row: Row, expansion: float) -> Row:
    v = row.values
    work = row.pressure * GPa * v["volume"]
    gibbs = v["static_energy"] + v["free_energy"] + work
    enthalpy = v["static_energy"] + v["internal_energy"] + work
    row = row.with_values(gibbs_energy=gibbs, enthalpy=enthalpy)
    if "bulk_modulus" not in v:
        return row
    alpha, capacity = v["thermal_expansion_from_entropy"], v["heat_capacity"]
    slope = alpha * v["bulk_modulus"] * GPa
    at_pressure = capacity + row.temperature * v["volume"] * alpha * slope
    ratio = at_pressure / capacity if capacity > 0.0 else 1.0
    return row.with_values(
        thermal_expansion=expansion,
        heat_capacity_p=at_pressure,
        bulk_modulus_adiabatic=v["bulk_modulus"] * ratio,
        grueneisen_parameter=v["volume"] * slope / capacity if capacity > 0.0 else np.nan,
    )


def _slope(x: Sequence[float], y: Sequence[float]) -> FloatArray:
    """Derivative along a rising axis: of a spline inside and of a parabola at the ends; differences below 4 points.

    At zero temperature it is zero, by the third law.
    """
    from scipy.interpolate import CubicSpline

    if len(x) < 2:
        return np.full(len(x), np.nan)
    slopes = np.gradient(np.asarray(y), np.asarray(x), edge_order=2 if len(x) > 2 else 1)
    found: FloatArray = np.asarray(slopes, dtype=np.float64)
    if len(x) >= 4:
        start = (1, 0.0) if x[0] == 0.0 else "not-a-knot"
        found[1:-1] = CubicSpline(x, y, bc_type=(start, "not-a-knot"))(x, 1)[1:-1]
    if x[0] == 0.0:
        found[0] = 0.0
    return found


def fixed_volume_rows(reference: Sample, config: QuasiHarmonic) -> list[Row]:
    """Thermodynamic functions at the volume of the relaxed crystal; only those of its vibrations can be missing."""
    static = {"volume": reference.volume, "static_energy": reference.energy}
    rows = [Row(temperature, pressure, values=static) for temperature, pressure in config.states()]
    if not reference.usable:
        return [replace(row, reason=f"{reference.label}: {reference.reason}") for row in rows]
    return [with_phonons(row, reference) for row in rows]


def thermodynamics_table(rows: Sequence[Row], attributes: Mapping[str, Any], *, expansion: bool) -> xr.Dataset:
    """Rows as a dataset of the kind ``thermodynamics``, one state after another.

    Parameters
    ----------
    rows : sequence of Row
        States.
    attributes : mapping
        Of the dataset.
    expansion : bool
        Whether the volume follows temperature and pressure; else there are no columns of the equation of state.
    """
    fixed = ("volume_error", "bulk_modulus", "thermal_expansion", "grueneisen", "thermal_pressure", "heat_capacity_p")
    names = [name for name in UNITS if expansion or not name.startswith(fixed)]
    columns: dict[str, Any] = {}
    for name in names:
        if name in ("temperature", "pressure"):
            values = [getattr(row, name) for row in rows]
        else:
            values = [row.values.get(name, np.nan) for row in rows]
        columns[name] = (("state",), np.array(values, dtype=float), {"units": UNITS[name]})
    columns["cell"] = (
        ("state", "cell_vector", "xyz"),
        np.array([row.cell for row in rows]).reshape(-1, 3, 3),
        {"units": "Angstrom"},
    )
    columns["reason"] = (("state",), np.array([row.reason for row in rows], dtype=object))
    return THERMODYNAMICS.dataset(columns, attributes)


def fits_table(rows: Sequence[Row]) -> xr.Dataset:
    """Parameters of the fits with their covariance, one row for each temperature and pressure."""
    nothing = EquationOfStateFit("polynomial", np.full(4, np.nan), np.full((4, 4), np.nan), np.nan, False)
    fits = [row.found or nothing for row in rows]
    parameters = np.array([one.parameters for one in fits]).reshape(-1, 4)
    parameter_units = {"energy": "eV", "volume": "Angstrom^3", "bulk_modulus": "eV/Angstrom^3"}
    covariances = np.array([one.covariance for one in fits]).reshape(-1, 4, 4)
    inside = np.array([one.inside for one in fits], dtype=np.int8)
    flags = {"units": "1", "flag_values": [0, 1], "flag_meanings": "outside inside"}
    columns: dict[str, Any] = {
        "temperature": (("row",), [row.temperature for row in rows], {"units": "K"}),
        "pressure": (("row",), [row.pressure for row in rows], {"units": "GPa"}),
        "form": (
            ("row",),
            np.array([one.form if row.found else "none" for row, one in zip(rows, fits, strict=True)], dtype=object),
        ),
        "residual": (("row",), [one.residual for one in fits], {"units": "eV"}),
        "minimum_inside": (("row",), inside, flags),
        "covariance": (("row", "parameter", "parameter_2"), covariances, {"units": "1"}),
        "reason": (
            ("row",),
            np.array([row.reason or one.note for row, one in zip(rows, fits, strict=True)], dtype=object),
        ),
    }
    for at, name in enumerate(PARAMETERS):
        columns[name] = (("row",), parameters[:, at], {"units": parameter_units.get(name, "1")})
    return TABLE.dataset(
        columns, {"covariance_of": "energy (eV), volume (Angstrom^3), bulk_modulus (eV/Angstrom^3), its derivative"}
    )
