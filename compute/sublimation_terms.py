"""What the enthalpy of sublimation is made of: series of trajectories, formula units, and their sum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms, units
from numpy.typing import NDArray

from ..schemas.errors import InvalidConfig, InvalidData
from ..schemas.kinds_lattice import THERMODYNAMICS
from ..schemas.units import factor
from .module import Context
from .structure.blocking import MIN_VALUES, Reblocking, reblock
from .structure.frames import production_frames
from .sublimation_config import Sublimation

if TYPE_CHECKING:
    import xarray as xr

Series = NDArray[np.float64]

_FAR = 4.0


@dataclass(frozen=True, slots=True)
class Phase:
    """The production frames of one trajectory; all energies are of the whole cell (eV).

    Attributes
    ----------
    name : str
        Its key, for messages.
    numbers : array (N,)
        Atomic numbers.
    temperature_K : float
        Of the thermostat.
    pressure_GPa : float
        Of the term ``pV``; 0 for a molecule.
    potential, kinetic, work : array (frames,)
        Potential energy, kinetic energy of all 3N degrees of freedom, and ``pV``.
    measured_K : array (frames,)
        Kinetic temperature.
    """

    name: str
    numbers: NDArray[np.int64]
    temperature_K: float
    pressure_GPa: float
    potential: Series
    kinetic: Series
    work: Series
    measured_K: Series

    @property
    def enthalpy(self) -> Series:
        """``U + K + pV`` of each frame (eV)."""
        return self.potential + self.kinetic + self.work

    @property
    def formula(self) -> str:
        """Chemical formula of the whole cell (Hill)."""
        return str(Atoms(self.numbers).get_chemical_formula(mode="hill"))


def read_crystal(dataset: xr.Dataset, config: Sublimation, name: str, context: Context) -> Phase:
    """The crystal's trajectory, with ``pV`` at the pressure that the settings or the trajectory name."""
    if not (dataset["pbc"].to_numpy() == 1).all():
        raise InvalidData("The crystal is not periodic in all three directions.", key=name, expected="a bulk crystal")
    frames = _frames(dataset, config, name, context)
    missing, temperature = _missing(dataset, name), _target_temperature(dataset, frames, name)
    volume = np.abs(np.linalg.det(dataset["cell"].to_numpy()[frames]))
    pressure = config.pressure_GPa
    if pressure is None and dataset.attrs.get("ensemble") == "NPT" and "pressure_GPa" in dataset.attrs:
        pressure = float(dataset.attrs["pressure_GPa"])
    if pressure is not None:
        work = pressure * units.GPa * volume
    elif "pressure" in dataset:
        ideal = missing * units.kB * temperature / 3.0
        work = dataset["pressure"].to_numpy()[frames] * units.GPa * volume + ideal
        pressure = float((work / volume).mean() / units.GPa)
    else:
        raise InvalidData(
            "The crystal's trajectory says nothing about its pressure.",
            key=name,
            expected="NPT with its target pressure, or frames with a pressure",
            found=f"ensemble {dataset.attrs.get('ensemble', 'unknown')}, no variable pressure",
            hint="set pressure_GPa; at ambient pressure 0.0001",
        )
    return _phase(dataset, config, name, frames, missing, temperature, pressure, work)


def read_molecule(dataset: xr.Dataset, config: Sublimation, name: str, context: Context) -> Phase:
    """A molecule's trajectory in vacuum, with ``pV = kT`` of an ideal gas."""
    if dataset["pbc"].to_numpy().any():
        context.logger.warning("%s is periodic: the molecule must not feel its images", name)
    frames = _frames(dataset, config, name, context)
    temperature = _target_temperature(dataset, frames, name)
    work = np.full(len(frames), units.kB * temperature)
    return _phase(dataset, config, name, frames, _missing(dataset, name), temperature, 0.0, work)


def _phase(
    dataset: xr.Dataset,
    config: Sublimation,
    name: str,
    frames: NDArray[np.int64],
    missing: int,
    temperature: float,
    pressure: float,
    work: Series,
) -> Phase:
    numbers = dataset["atomic_numbers"].to_numpy()
    kinetic = dataset["kinetic_energy"].to_numpy()[frames] + 0.5 * missing * units.kB * temperature
    if config.kinetic_energy == "equipartition":
        kinetic = np.full(len(frames), 1.5 * len(numbers) * units.kB * temperature)
    potential = dataset["energy"].to_numpy()[frames]
    measured = dataset["temperature"].to_numpy()[frames]
    return Phase(name, numbers, temperature, pressure, potential, kinetic, work, measured)


def _frames(dataset: xr.Dataset, config: Sublimation, name: str, context: Context) -> NDArray[np.int64]:
    times = dataset["time"].to_numpy()
    start = config.time_equilibration_fs
    frames = production_frames(dataset) if start is None else np.flatnonzero(times >= start * (1.0 - 1e-9))
    if len(frames) < MIN_VALUES:
        raise InvalidData(
            "The trajectory has too few production frames.",
            key=name,
            expected=f"{MIN_VALUES} frames or more after the equilibration",
            found=f"{len(frames)} of {len(times)} frames",
            hint="extend it with a longer time_total_fs, or set time_equilibration_fs here",
        )
    spacing = np.diff(times[frames])
    if np.ptp(spacing) > 1e-6 * spacing.mean():
        context.logger.warning("the frames of %s are not equally spaced: its standard error is a guess", name)
    return frames


def _target_temperature(dataset: xr.Dataset, frames: NDArray[np.int64], name: str) -> float:
    """Temperature (K) of the thermostat, the same in all production frames."""
    if "target_temperature" in dataset:
        found = dataset["target_temperature"].to_numpy()[frames]
        if np.ptp(found) <= 1e-9 * found.mean():
            return float(found.mean())
        raise InvalidData(
            "The target temperature of the trajectory changes.",
            key=name,
            expected="one temperature in all production frames",
            found=f"{found.min():g} to {found.max():g} K",
            hint="leave the ramp out with time_equilibration_fs",
        )
    if "temperature_K" in dataset.attrs and dataset.attrs.get("ensemble") in ("NVT", "NPT"):
        return float(dataset.attrs["temperature_K"])
    raise InvalidData(
        "The trajectory was not held at a temperature.",
        key=name,
        expected="ensemble NVT or NPT, with a variable target_temperature",
        found=f"ensemble {dataset.attrs.get('ensemble', 'unknown')}",
        hint="sample it with a thermostat",
    )


def _missing(dataset: xr.Dataset, name: str) -> int:
    """Degrees of freedom of all atoms that the trajectory does not move (the total momentum, rotation)."""
    if dataset.attrs.get("fixed_atoms") is not None:
        raise InvalidData("Atoms of the trajectory are fixed.", key=name, expected="all atoms free to move")
    total = 3 * dataset.sizes["atom"]
    if "n_degrees_of_freedom" in dataset.attrs:
        return total - int(dataset.attrs["n_degrees_of_freedom"])
    kinetic, temperature = dataset["kinetic_energy"].to_numpy(), dataset["temperature"].to_numpy()
    moving = temperature > 0.0
    ratio = 2.0 * kinetic[moving] / (units.kB * temperature[moving])
    count = float(np.median(ratio)) if len(ratio) else float("nan")
    if not abs(count - round(count)) < 0.1 or not 0 < round(count) <= total:
        raise InvalidData(
            "The number of degrees of freedom of the trajectory is not known.",
            key=name,
            expected="an attribute n_degrees_of_freedom, or temperatures that fit the kinetic energies",
            found=f"2 E_kin / kT = {count:.4g} for {dataset.sizes['atom']} atoms",
        )
    return total - round(count)


def same_temperature(phases: Sequence[Phase], tolerance_K: float) -> None:
    """Refuse trajectories at different temperatures."""
    found = [phase.temperature_K for phase in phases]
    if max(found) - min(found) > tolerance_K:
        raise InvalidData(
            "The trajectories are at different temperatures.",
            expected="one temperature",
            found=", ".join(f"{phase.name}: {phase.temperature_K:g} K" for phase in phases),
            hint="sample all at the same temperature_K, or raise temperature_tolerance_K",
        )


def formula_units(
    crystal: Phase, molecules: Sequence[Phase], counts: tuple[int, ...] | None
) -> tuple[int, tuple[int, ...]]:
    """Formula units in the crystal's cell, and molecules of each kind in a formula unit.

    Raises
    ------
    InvalidConfig
        If the compositions do not divide, or do not decide the counts.
    """
    if counts is not None and len(counts) != len(molecules):
        raise InvalidConfig(
            "The setting counts does not fit the molecules.",
            expected=f"{len(molecules)} numbers, one for each trajectory of a molecule",
            found=",".join(map(str, counts)),
        )
    whole = np.bincount(crystal.numbers, minlength=128)
    parts = np.array([np.bincount(molecule.numbers, minlength=128) for molecule in molecules])
    if counts is not None:
        parts = np.array(counts)[None, :] @ parts
    found, _, rank, _ = np.linalg.lstsq(parts.T.astype(float), whole.astype(float), rcond=None)
    if rank < len(parts):
        raise InvalidConfig(
            "The compositions do not say how many molecules of each kind there are.",
            expected="the setting counts, or each kind of molecule once",
            found=", ".join(molecule.formula for molecule in molecules),
            hint=f"for example counts = {','.join('1' * len(molecules))}",
        )
    numbers = np.rint(found).astype(np.int64)
    if numbers.min() < 1 or not np.array_equal(numbers @ parts, whole):
        raise InvalidConfig(
            "The crystal is not made of whole formula units of the molecules.",
            key=crystal.name,
            expected=f"a multiple of {_said(molecules, counts)}",
            found=crystal.formula,
            hint="give a trajectory for each kind of molecule in the crystal",
        )
    if counts is not None:
        return int(numbers[0]), counts
    cells = int(np.gcd.reduce(numbers))
    return cells, tuple(int(number) // cells for number in numbers)


def _said(molecules: Sequence[Phase], counts: tuple[int, ...] | None) -> str:
    if counts is None:
        return " and ".join(molecule.formula for molecule in molecules)
    return " + ".join(f"{n} {molecule.formula}" for n, molecule in zip(counts, molecules, strict=True))


def enthalpy(
    crystal: Phase,
    molecules: Sequence[Phase],
    cells: int,
    counts: tuple[int, ...],
    config: Sublimation,
    context: Context,
) -> xr.Dataset:
    """The enthalpy of sublimation with all its terms, as a dataset of the kind ``thermodynamics``."""
    phases = [crystal, *molecules]
    shares = np.array([1.0 / cells, *([1.0] * len(molecules))])
    weights = np.array([-1.0, *counts]) * shares
    blocks = [reblock(phase.enthalpy) for phase in phases]
    for phase, found in zip(phases, blocks, strict=True):
        _remark(phase, found, context)
    value = float(weights @ [found.mean for found in blocks])
    error = float(np.sqrt(np.sum((weights * [found.error for found in blocks]) ** 2)))
    values: dict[str, Any] = {
        "temperature": [crystal.temperature_K],
        "pressure": (("state",), [crystal.pressure_GPa], {"units": "GPa"}),
    }
    for suffix, share in (("", 1.0), ("_per_molecule", 1.0 / sum(counts))):
        for unit, ending in (("eV", ""), ("kJ/mol", "_kJ_per_mol")):
            scale = share * factor("eV", unit)
            for name, number in (("", value), ("_error", error)):
                values[f"sublimation_enthalpy{suffix}{name}{ending}"] = (("state",), [number * scale], {"units": unit})
    attributes = {
        "formula_units": cells,
        "formula_unit": _said(molecules, counts),
        "kinetic_energy": config.kinetic_energy,
    }
    return THERMODYNAMICS.dataset({**values, **_terms(phases, blocks, shares, [1, *counts])}, attributes)


def _terms(
    phases: Sequence[Phase], blocks: Sequence[Reblocking], shares: NDArray[np.float64], counts: Sequence[int]
) -> dict[str, Any]:
    """Terms of each phase, of a formula unit for the crystal and of one molecule for the others."""

    def along(values: Any, unit: str = "1") -> Any:
        return (("phase",), np.asarray(values), {"units": unit})

    temperatures = [reblock(phase.measured_K) for phase in phases]
    sizes = max((found.sizes for found in blocks), key=len)
    curves = np.full((2, len(phases), len(sizes)), np.nan)
    for row, (found, share) in enumerate(zip(blocks, shares, strict=True)):
        curves[:, row, : len(found.sizes)] = share * found.errors, share * found.uncertainties
    levels = ("phase", "level")
    return {
        "phase_name": (("phase",), ["crystal", *(f"molecule {number}" for number in range(1, len(phases)))]),
        "phase_formula": (("phase",), [phase.formula for phase in phases]),
        "count": along(np.array(counts, dtype=np.int64)),
        "potential_energy": along(shares * [phase.potential.mean() for phase in phases], "eV"),
        "kinetic_energy": along(shares * [phase.kinetic.mean() for phase in phases], "eV"),
        "pressure_volume": along(shares * [phase.work.mean() for phase in phases], "eV"),
        "enthalpy": along(shares * [found.mean for found in blocks], "eV"),
        "enthalpy_error": along(shares * [found.error for found in blocks], "eV"),
        "enthalpy_error_uncertainty": along(shares * [found.error_uncertainty for found in blocks], "eV"),
        "n_frames": along(np.array([len(phase.potential) for phase in phases], dtype=np.int64)),
        "block_size": along(np.array([found.block_size for found in blocks], dtype=np.int64)),
        "n_blocks": along(np.array([found.n_blocks for found in blocks], dtype=np.int64)),
        "statistical_inefficiency": along([found.statistical_inefficiency for found in blocks]),
        "plateau": (
            ("phase",),
            np.array([found.plateau for found in blocks], dtype=np.int8),
            {"units": "1", "flag_values": [0, 1], "flag_meanings": "not_reached reached"},
        ),
        "kinetic_temperature": along([found.mean for found in temperatures], "K"),
        "kinetic_temperature_error": along([found.error for found in temperatures], "K"),
        "tried_block_size": (("level",), sizes, {"units": "1"}),
        "blocked_error": (levels, curves[0], {"units": "eV"}),
        "blocked_error_uncertainty": (levels, curves[1], {"units": "eV"}),
    }


def _remark(phase: Phase, found: Reblocking, context: Context) -> None:
    if not found.plateau:
        context.logger.warning(
            "the standard error of %s has no plateau (%d frames, blocks of %d): it may be too small; sample longer",
            phase.name,
            len(phase.potential),
            found.block_size,
        )
    measured = reblock(phase.measured_K)
    off = abs(measured.mean - phase.temperature_K)
    if off > _FAR * measured.error and off > 0.01 * phase.temperature_K:
        context.logger.warning(
            "the mean kinetic temperature of %s is %.2f K, its target %.2f K: was it equilibrated?",
            phase.name,
            measured.mean,
            phase.temperature_K,
        )
