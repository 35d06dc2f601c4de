"""Crystals at the volumes of a quasi-harmonic computation: energy, phonons, and whether they may be used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from ..schemas.kinds import TABLE
from .lattice.harmonic import thermodynamics
from .quasi_harmonic_config import QuasiHarmonic

if TYPE_CHECKING:
    import xarray as xr

FloatArray = NDArray[np.float64]

_ACOUSTIC = 3
_CUTOFF_THZ = 1e-3  # as the phonons have it: below is noise


@dataclass(frozen=True, slots=True)
class Vibrations:
    """Thermodynamic functions of the vibrations of one cell along temperatures.

    Attributes
    ----------
    free_energy, internal_energy : array (T,)
        Helmholtz energy and energy, both with the zero point (eV).
    entropy, heat_capacity : array (T,)
        In eV/K.
    """

    free_energy: FloatArray
    internal_energy: FloatArray
    entropy: FloatArray
    heat_capacity: FloatArray


@dataclass(frozen=True, slots=True)
class Sample:
    """One crystal: what was asked for, and what came out.

    Attributes
    ----------
    label : str
        Its name, such as ``crystal[eos:V=0.9800]``.
    asked : float
        Relative volume or pressure (GPa) that was asked for.
    volume, energy : float
        Of the relaxed cell (Angstrom^3, eV); NaN where there is none.
    residual_force : float
        Largest force on an atom (eV/Angstrom).
    space_group : str
        Symbol after the relaxation.
    cell : array (3, 3)
        Cell vectors as rows (Angstrom).
    n_atoms : int
        Atoms of the cell.
    frequencies, weights : array (q, mode) and (q,)
        Of the mesh (THz); empty where there are none.
    lowest_acoustic, lowest_optical : float
        Lowest frequencies (THz) of the acoustic and the optical modes of the mesh and the path; NaN where there are
        none.
    reason : str
        Why it is not used; empty where it is.
    """

    label: str
    asked: float
    volume: float = np.nan
    energy: float = np.nan
    residual_force: float = np.nan
    space_group: str = ""
    cell: FloatArray = field(default_factory=lambda: np.full((3, 3), np.nan))
    n_atoms: int = 0
    frequencies: FloatArray = field(default_factory=lambda: np.zeros((0, 0)))
    weights: FloatArray = field(default_factory=lambda: np.zeros(0))
    lowest_acoustic: float = np.nan
    lowest_optical: float = np.nan
    reason: str = ""

    @property
    def usable(self) -> bool:
        """Whether it may be used."""
        return not self.reason

    def failed(self, reason: str) -> Self:
        """The same, not to be used; the first reason stays."""
        return replace(self, reason=self.reason or reason)

    def relaxed(self, structure: xr.Dataset) -> Self:
        """The same with its relaxed structure."""
        cell = structure["cell"].to_numpy()[0]
        attributes = structure.attrs
        made = replace(
            self,
            volume=abs(float(np.linalg.det(cell))),
            energy=float(structure["energy"][0]),
            residual_force=float(attributes["max_force_eV_A"]),
            space_group=str(attributes["space_group_after"]),
            cell=np.asarray(cell, dtype=np.float64),
            n_atoms=int(structure["n_atoms"][0]),
        )
        if int(attributes["converged"]) == 1:
            return made
        steps, force = int(attributes["n_steps"]), made.residual_force
        return made.failed(f"not relaxed in {steps} steps: residual force {force:.2g} eV/Angstrom")

    def with_phonons(self, mesh: xr.Dataset, path: xr.Dataset, config: QuasiHarmonic, wanted_group: str) -> Self:
        """The same with its phonons, and the filters applied."""
        frequencies = _without_translations(mesh["frequency"].to_numpy(), mesh["q_point"].to_numpy())
        weights = mesh["weight"].to_numpy() if "weight" in mesh else np.ones(len(frequencies))
        seen = (mesh.attrs, path.attrs)
        made = replace(
            self,
            frequencies=frequencies,
            weights=weights,
            lowest_acoustic=min(float(facts["lowest_acoustic_frequency_THz"]) for facts in seen),
            lowest_optical=min(float(facts.get("lowest_optical_frequency_THz", np.nan)) for facts in seen),
        )
        limit = config.imaginary_mode_threshold
        if config.filter_out_imaginary_acoustic and made.lowest_acoustic < limit:
            made = made.failed(f"imaginary acoustic mode of {made.lowest_acoustic:.3f} THz")
        if config.filter_out_imaginary_optical and made.lowest_optical < limit:
            made = made.failed(f"imaginary optical mode of {made.lowest_optical:.3f} THz")
        if config.filter_out_broken_symmetry and made.space_group != wanted_group:
            made = made.failed(f"space group {made.space_group} instead of {wanted_group}")
        return made

    def vibrations(self, temperatures: Sequence[float]) -> Vibrations:
        """Thermodynamic functions of the cell, a mean over the mesh; modes below 0.001 THz are left out."""
        found = thermodynamics(self.frequencies, self.weights, temperatures, cutoff_THz=_CUTOFF_THZ)
        cells = 3.0 * self.n_atoms / self.frequencies.shape[1]  # primitive cells in this one
        return Vibrations(
            cells * found.free_energy, cells * found.energy, cells * found.entropy, cells * found.heat_capacity
        )


def sampled_table(samples: Sequence[Sample], config: QuasiHarmonic, reference: Sample) -> xr.Dataset:
    """All sampled crystals, those that are not used with their reason.

    Returns
    -------
    xarray.Dataset
        Kind ``table``; the functions of the vibrations along (row, temperature) are NaN where there are no phonons.
    """
    temperatures = config.temperatures_K
    shape = (len(samples), len(temperatures))
    functions = {name: np.full(shape, np.nan) for name in Vibrations.__slots__}
    for row, sample in enumerate(samples):
        if len(sample.weights):
            found = sample.vibrations(temperatures)
            for name, values in functions.items():
                values[row] = getattr(found, name)
    units = {"free_energy": "eV", "internal_energy": "eV", "entropy": "eV/K", "heat_capacity": "eV/K"}
    plain: dict[str, tuple[str, list[Any]]] = {
        "volume": ("Angstrom^3", [s.volume for s in samples]),
        "static_energy": ("eV", [s.energy for s in samples]),
        "residual_force": ("eV/Angstrom", [s.residual_force for s in samples]),
        "lowest_acoustic_frequency": ("THz", [s.lowest_acoustic for s in samples]),
        "lowest_optical_frequency": ("THz", [s.lowest_optical for s in samples]),
        "n_imaginary": ("1", [_count_below(s, config.imaginary_mode_threshold) for s in samples]),
    }
    asked = ("asked_pressure", "GPa") if config.eos_sampling == "pressure" else ("asked_volume_ratio", "1")
    flags = {"units": "1", "flag_values": [0, 1], "flag_meanings": "not_used used"}
    return TABLE.dataset(
        {
            "label": (("row",), np.array([s.label for s in samples], dtype=object)),
            asked[0]: (("row",), [s.asked for s in samples], {"units": asked[1]}),
            **{name: (("row",), values, {"units": unit}) for name, (unit, values) in plain.items()},
            "cell": (("row", "cell_vector", "xyz"), np.array([s.cell for s in samples]), {"units": "Angstrom"}),
            "used": (("row",), np.array([s.usable for s in samples], dtype=np.int8), flags),
            "space_group": (("row",), np.array([s.space_group for s in samples], dtype=object)),
            "reason": (("row",), np.array([s.reason for s in samples], dtype=object)),
            "temperature": (("temperature_index",), list(temperatures), {"units": "K"}),
            **{n: (("row", "temperature_index"), v, {"units": units[n]}) for n, v in functions.items()},
        },
        {
            "eos_sampling": config.eos_sampling,
            "reference_label": reference.label,
            "reference_volume_A3": reference.volume,
            "imaginary_mode_threshold_THz": config.imaginary_mode_threshold,
        },
    )


def _without_translations(frequencies: FloatArray, q_points: FloatArray) -> FloatArray:
    """The frequencies, with those of the translations at Gamma exactly zero.

    They come out as noise of either sign. Counted at one volume and not at the next, they would bend the free energy.
    """
    made = frequencies.copy()
    for at in np.flatnonzero(np.abs(q_points - np.rint(q_points)).max(axis=1) < 1e-8):
        made[at, np.argsort(np.abs(made[at]), kind="stable")[:_ACOUSTIC]] = 0.0
    return made


def _count_below(sample: Sample, limit: float) -> int:
    return int((sample.frequencies < limit).sum())
