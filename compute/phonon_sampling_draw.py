"""Which modes are sampled, and the normal coordinates of each frame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..schemas.errors import InvalidConfig, InvalidData
from .lattice.harmonic import BOLTZMANN_EV, energy
from .lattice.modes import (
    Complexes,
    Floats,
    Integers,
    NormalModes,
    fits,
    fitting_points,
    mesh_of_length,
    mesh_points,
    supercell_in_primitive,
)
from .phonon_sampling_config import PhononFilter, PhononSampling

if TYPE_CHECKING:
    from phonopy import Phonopy

SAMPLED, NOT_SELECTED, BELOW_CUTOFF, IMAGINARY, TRANSLATION = range(5)
STATUS: Mapping[int, str] = MappingProxyType(
    {
        SAMPLED: "sampled",
        NOT_SELECTED: "not_selected",
        BELOW_CUTOFF: "below_cutoff",
        IMAGINARY: "imaginary",
        TRANSLATION: "translation",
    }
)

_MOST_ATOMS = 200_000
_FEMTOSECONDS = 1e-3  # THz times fs


@dataclass(frozen=True, slots=True)
class Points:
    """The q-points of a sampling and the supercell that they fit: rows (3, 3) in primitive vectors."""

    q_points: Floats
    matrix: Integers


def points_of(config: PhononSampling, phonon: Phonopy) -> Points:
    """The q-points of the phonon filter, and the supercell.

    Raises
    ------
    InvalidConfig
        If a point does not fit the supercell of the force constants, or the supercell gets too large.
    """
    own = supercell_in_primitive(phonon)
    mesh = config.phonon_filter.k_point_mesh
    if mesh == "supercell":
        return Points(fitting_points(own), own)
    numbers = (1, 1, 1) if mesh == "gamma" else mesh_of_length(phonon, mesh) if isinstance(mesh, float) else mesh
    assert isinstance(numbers, tuple)
    atoms = len(phonon.primitive) * int(np.prod(numbers))
    if config.supercell == "commensurate":
        if atoms > _MOST_ATOMS:
            raise InvalidConfig(
                "The smallest supercell that fits the mesh is too large.",
                expected=f"at most {_MOST_ATOMS} atoms",
                found=f"{atoms} atoms for a mesh of {_times(numbers)}",
                hint="set a coarser phonon_filter.k_point_mesh",
            )
        return Points(mesh_points(numbers), np.diag(numbers).astype(np.int64))
    if not fits(np.diag(1.0 / np.array(numbers)), own).all():
        raise InvalidConfig(
            "The mesh does not fit the supercell of the force constants.",
            expected=f"waves that repeat themselves in the supercell {own.tolist()} (rows in primitive vectors)",
            found=f"a mesh of {_times(numbers)}, whose smallest supercell is {_times(numbers)} primitive cells, "
            f"{atoms} atoms",
            hint="set supercell = commensurate to build that one, or phonon_filter.k_point_mesh = supercell for all "
            "points that fit the present one",
        )
    return Points(mesh_points(numbers), own)


def _times(numbers: tuple[int, ...]) -> str:
    return " x ".join(map(str, numbers))


def status_of(modes: NormalModes, choice: PhononFilter, cutoff_THz: float) -> NDArray[np.int8]:
    """Whether each mode (q, mode) is sampled, else why not: a key of ``STATUS``.

    Raises
    ------
    InvalidConfig
        If no mode is selected, or one that was asked for by its number exists nowhere.
    InvalidData
        If one that was asked for by its number can be sampled nowhere.
    """
    found = np.full(modes.frequencies.shape, SAMPLED, dtype=np.int8)
    if choice.selected_modes is None:
        top = np.inf if choice.freq_max_THz is None else choice.freq_max_THz
        found[~((modes.frequencies > choice.freq_min_THz) & (modes.frequencies < top))] = NOT_SELECTED
    else:
        _check_numbers(choice.selected_modes, modes)
        found[:, ~np.isin(np.arange(1, modes.frequencies.shape[1] + 1), choice.selected_modes)] = NOT_SELECTED
    found[np.abs(modes.frequencies) < cutoff_THz] = BELOW_CUTOFF
    found[modes.frequencies <= -cutoff_THz] = IMAGINARY
    found[modes.acoustic] = TRANSLATION
    if choice.selected_modes is not None:
        for number in choice.selected_modes:
            if not (found[:, number - 1] == SAMPLED).any():
                raise _cannot_sample(number, modes, found)
    if not (found == SAMPLED).any():
        raise _empty(modes, choice)
    return found


def _check_numbers(selected: tuple[int, ...], modes: NormalModes) -> None:
    count = modes.frequencies.shape[1]
    if selected[-1] > count:
        raise InvalidConfig(
            "There is no mode of that number.",
            expected=f"phonon_filter.selected_modes from 1 to {count}",
            found=selected[-1],
        )


def _cannot_sample(number: int, modes: NormalModes, status: NDArray[np.int8]) -> InvalidData:
    reasons = {
        BELOW_CUTOFF: "its frequency is below cutoff_THz",
        IMAGINARY: "it is imaginary",
        TRANSLATION: "it is a translation of the whole crystal",
    }
    good = np.flatnonzero((modes.frequencies > 0.0).all(axis=0) & ~modes.acoustic.any(axis=0)) + 1
    point = int(np.argmin(modes.frequencies[:, number - 1]))
    q = ", ".join(f"{x:.4g}" for x in modes.q_points[point])
    return InvalidData(
        f"Mode {number} cannot be sampled: {reasons[int(status[point, number - 1])]}.",
        expected=f"phonon_filter.selected_modes among {_ranges(good)}",
        found=f"mode {number} with {modes.frequencies[point, number - 1]:.4f} THz at q = ({q})",
        hint="relax the crystal more tightly, if the mode is imaginary; else leave it out",
    )


def _ranges(numbers: NDArray[np.int64]) -> str:
    if not len(numbers):
        return "none"
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs)


def _empty(modes: NormalModes, choice: PhononFilter) -> InvalidConfig:
    real = modes.frequencies[(modes.frequencies > 0.0) & ~modes.acoustic]
    there = f"modes from {real.min():.3f} to {real.max():.3f} THz" if real.size else "no mode but translations"
    top = "no limit" if choice.freq_max_THz is None else f"{choice.freq_max_THz:g} THz"
    return InvalidConfig(
        "No phonon mode is selected.",
        expected="at least one mode in the window, above cutoff_THz and no translation of the crystal",
        found=f"{there}; window {choice.freq_min_THz:g} THz to {top}",
        hint="widen phonon_filter.freq_min_THz and freq_max_THz, or take a finer k_point_mesh",
    )


class Draw:
    """The normal coordinates of each frame.

    Parameters
    ----------
    config : PhononSampling
        Amplitude, temperature, and how frames are counted.
    modes : NormalModes
        All modes at the q-points.
    status : array (q, mode)
        Of ``status_of``.
    seed : int
        Of the run.

    Attributes
    ----------
    chosen : array (n, 2)
        Point and mode (from 0) of each sampled mode.
    energies : array (q, mode)
        Mean energy (eV) of an oscillator; NaN where not sampled.
    deviations : array (q, mode)
        Square root of its mean square normal coordinate (sqrt(amu) Angstrom); 0 where not sampled. A pair q, -q has
        two such oscillators, the real and the imaginary part of its coordinate.

    Notes
    -----
    Round ``i`` takes its random numbers from the generator of ``(seed, i)``, so that a frame depends neither on the
    number of frames nor on where a run was interrupted. Gaussian numbers are drawn for the atoms of the primitive
    cell and projected on the eigenvectors, so that superposed frames do not depend on the signs and phases of the
    eigenvectors, nor on how degenerate ones are mixed.
    """

    def __init__(self, config: PhononSampling, modes: NormalModes, status: NDArray[np.int8], seed: int) -> None:
        self.config, self.modes, self.seed = config, modes, seed
        sampled = status == SAMPLED
        self.chosen = np.argwhere(sampled)
        if config.amplitude == "legacy_equidistant" and config.frames == "total" and len(self.chosen) > 1:
            raise InvalidConfig(
                "An equidistant scan moves along one mode at a time.",
                expected="frames = per_mode, or a phonon_filter that selects one mode",
                found=f"frames = total, {len(self.chosen)} modes",
            )
        thermal = BOLTZMANN_EV * config.temperature_K
        self.energies = np.full(sampled.shape, np.nan)
        self.energies[sampled] = (
            thermal if config.amplitude == "classical" else energy(modes.frequencies[sampled], config.temperature_K)
        )
        self.deviations = np.zeros(sampled.shape)
        self.deviations[sampled] = np.sqrt(self.energies[sampled] / modes.eigenvalues[sampled])

    @property
    def count(self) -> int:
        """Number of all frames."""
        return self.config.n_frames * self._each

    @property
    def _each(self) -> int:
        return len(self.chosen) if self.config.frames == "per_mode" else 1

    @property
    def variance_factor(self) -> float:
        """Mean square of a real coordinate, over that of the canonical ensemble."""
        match self.config.amplitude:
            case "legacy_time_propagation":
                return 1 / 2
            case "legacy_random":
                return 1 / 3
            case "legacy_equidistant":
                return (self.config.n_frames + 1) / (3 * self.config.n_frames - 3)
        return 1.0

    def mode_of(self, frame: int) -> tuple[int, int] | None:
        """Point and mode (from 0) of a frame of one mode alone; None where all are superposed."""
        if self.config.frames == "total":
            return None
        q, mode = self.chosen[frame % self._each]
        return int(q), int(mode)

    def coordinates(self, frame: int) -> Complexes:
        """Normal coordinates (q, mode) of a frame, in sqrt(amu) Angstrom; frames of one mode take turns."""
        found = np.asarray(self.deviations * self._unit(frame // self._each), dtype=np.complex128)
        alone = self.mode_of(frame)
        if alone is None:
            return found
        only = np.zeros_like(found)
        only[alone] = found[alone]
        return only

    def _unit(self, step: int) -> Any:
        """Normal coordinates (q, mode) over their canonical deviation."""
        match self.config.amplitude:
            case "legacy_time_propagation":
                turns = self.modes.frequencies * (step * self.config.time_step_fs * _FEMTOSECONDS)
                return np.exp(-2j * np.pi * turns)
            case "legacy_equidistant":
                return 2.0 * step / (self.config.n_frames - 1) - 1.0
        rng = np.random.default_rng([self.seed, step])
        shape = (2, *self.modes.frequencies.shape)
        if self.config.amplitude == "legacy_random":
            real, imaginary = rng.uniform(-1.0, 1.0, size=shape)
            return real + 1j * imaginary
        real, imaginary = rng.standard_normal(size=shape)
        drawn = np.where(self.modes.paired[:, None], real + 1j * imaginary, real)
        return np.matmul(drawn[:, None, :], self.modes.vectors.conj())[:, 0, :]
