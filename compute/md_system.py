"""The system that moves: its atoms from a dataset, its steps, and what each frame keeps of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import PropertyNotImplementedError
from ase.constraints import FixAtoms
from numpy.typing import NDArray

from ..schemas.errors import ComputeFailed, H5mlError, InvalidConfig, InvalidData
from ..schemas.kinds import TRAJECTORY
from .md_config import Condition, MolecularDynamics
from .md_state import (
    IntegratorSettings,
    State,
    build_integrator,
    conserved_energy,
    degrees_of_freedom,
    draw_momenta,
    place_atoms,
    remove_drift,
    restore_state,
    save_state,
    set_target_temperature,
)
from .potentials import Potential
from .structure.frames import atoms_of
from .structure.supercell import IntMatrix, make_supercell

if TYPE_CHECKING:
    import xarray as xr

Frame = dict[str, Any]


def starting_atoms(config: MolecularDynamics, structures: xr.Dataset) -> tuple[Atoms, IntMatrix]:
    """Build the simulated cell from a dataset of structures.

    Parameters
    ----------
    config : MolecularDynamics
        Which structure, which supercell, which atoms are fixed.
    structures : xarray.Dataset
        Of the kind ``structures``.

    Returns
    -------
    tuple of Atoms and array (3, 3) of int
        The (super)cell with its constraints, and the supercell matrix (rows in units of cell vectors).
    """
    unit = atoms_of(structures, config.structure_index)
    if config.ensemble == "NPT" and not unit.pbc.all():
        raise InvalidConfig(
            "Constant pressure needs a cell that is periodic in all three directions.",
            expected="a periodic structure, or ensemble = NVT or NVE",
            found=f"periodic: {unit.pbc.tolist()}",
            hint="choose ensemble = NVT for a molecule or a slab",
        )
    matrix = config.supercell_of(unit)
    atoms = unit if np.array_equal(matrix, np.eye(3)) else make_supercell(unit, matrix)
    if config.fixed_atoms:
        atoms.set_constraint(FixAtoms(indices=_fixed(config, len(unit), len(atoms))))
    if degrees_of_freedom(atoms) < 3:
        raise InvalidConfig(
            "Nothing is free to move.",
            expected="two atoms or more, or fewer fixed ones",
            found=f"{len(atoms)} atoms, {len(config.fixed_atoms)} of the input fixed",
        )
    return atoms, matrix


def _fixed(config: MolecularDynamics, n_unit: int, n_atoms: int) -> NDArray[np.int64]:
    indices = np.array(config.fixed_atoms, dtype=np.int64)
    if indices.max() >= n_unit:
        raise InvalidConfig(
            "There is no atom to fix of that index.",
            expected=f"fixed_atoms from 0 to {n_unit - 1}",
            found=int(indices.max()),
        )
    return (np.arange(0, n_atoms, n_unit)[:, None] + indices).ravel()


def generator_of(seed: int, condition: Condition) -> np.random.Generator:
    """The random numbers of one trajectory; they depend on its own condition, not on its neighbours in a list."""
    text = f"{condition.temperature_K!r} {condition.pressure_GPa!r} {condition.replica}"
    words = np.frombuffer(blake2b(text.encode(), digest_size=16).digest(), dtype="<u4")
    return np.random.default_rng([seed, *words.tolist()])


@dataclass
class Simulation:
    """One trajectory under way.

    Parameters
    ----------
    config : MolecularDynamics
        Settings.
    condition : Condition
        Temperature, pressure and replica.
    potential : Potential
        The engine.
    atoms : Atoms
        The cell that moves; changed in place.
    rng : Generator
        All random numbers.
    tick : callable
        Called after each step with the number of steps done and the kinetic temperature (K).
    """

    config: MolecularDynamics
    condition: Condition
    potential: Potential
    atoms: Atoms
    rng: np.random.Generator
    tick: Callable[[int, float], None] = field(default=lambda _step, _temperature: None)

    def __post_init__(self) -> None:
        config = self.config
        self.settings = IntegratorSettings(
            algorithm=config.algorithm,
            time_step_fs=config.time_step_fs,
            temperature_K=self.condition.temperature_K,
            pressure_GPa=self.condition.pressure_GPa,
            thermostat_time_fs=config.thermostat_time_fs,
            barostat_time_fs=config.barostat_time_fs,
            tchain=config.tchain,
            pchain=config.pchain,
            friction_per_fs=config.langevin_friction_per_fs,
        )
        self.ndof = degrees_of_freedom(self.atoms)
        self._limit = 0.5 * self.ndof * units.kB * config.temperature_limit_K
        self._ramp = config.temperature_end_K is not None

    def initial_state(self) -> State:
        """Draw or take over the velocities; the state at step 0."""
        if self.config.initial_velocities == "input":
            if not self.atoms.has("momenta"):
                raise InvalidData(
                    "The structure has no velocities to start from.",
                    expected="a variable velocities (Angstrom/fs)",
                    found="none",
                    hint="use initial_velocities = maxwell_boltzmann",
                )
            remove_drift(self.atoms)
        else:
            given = self.config.initial_temperature_K
            temperature = self.condition.temperature_K if given is None else given
            draw_momenta(self.atoms, temperature, self.rng, exact=self.config.exact_initial_temperature)
        if self.settings.algorithm == "csvr" and self.atoms.get_kinetic_energy() <= 0.0:
            raise InvalidConfig(
                "The csvr thermostat scales velocities and cannot start from rest.",
                expected="initial velocities above 0 K",
                found="atoms at rest",
                hint="use nvt_algo = langevin, or initial_temperature_K above 0",
            )
        return save_state(build_integrator(self.atoms, self.settings, self.rng), self.settings.algorithm, self.rng)

    def start_block(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from a state with a cold engine and an integrator built anew: a block's result depends on it alone."""
        place_atoms(self.atoms, state)
        self.atoms.calc = self.potential.fresh()
        self._dyn: Any = build_integrator(self.atoms, self.settings, self.rng)
        restore_state(self._dyn, self.settings.algorithm, self.rng, state)

    def state(self) -> State:
        """The state now, to start the next block from."""
        return save_state(self._dyn, self.settings.algorithm, self.rng)

    @property
    def step(self) -> int:
        """Integration steps done since t = 0."""
        return int(self._dyn.nsteps)

    def advance(self, steps: int) -> None:
        """Integrate some steps.

        Raises
        ------
        ComputeFailed
            When the engine fails or the kinetic energy is not finite or above the limit; names the step.
        """
        dyn, atoms = self._dyn, self.atoms
        for _ in range(steps):
            if self._ramp:
                set_target_temperature(dyn, self._target(dyn.nsteps))
            try:
                dyn.step()
            except H5mlError:
                raise
            except (RuntimeError, ValueError, ArithmeticError, LookupError) as error:
                raise self._failed(f"the engine failed: {type(error).__name__}: {error}") from error
            dyn.nsteps += 1
            kinetic = atoms.get_kinetic_energy()
            if not kinetic < self._limit:  # also when it is NaN
                raise self._failed(f"a kinetic temperature of {self._temperature(kinetic):.4g} K")
            self.tick(dyn.nsteps, self._temperature(kinetic))

    def frame(self) -> Frame:
        """Measure everything that a frame of a trajectory keeps."""
        atoms = self.atoms
        try:
            energy = float(atoms.get_potential_energy())
            forces = atoms.get_forces(apply_constraint=False)
            stress = self._stress()
        except H5mlError:
            raise
        except (RuntimeError, ValueError, ArithmeticError, LookupError) as error:
            raise self._failed(f"the engine failed: {type(error).__name__}: {error}") from error
        if not (np.isfinite(energy) and np.isfinite(forces).all()):
            raise self._failed(f"an energy of {energy} eV and forces that are not all finite")
        kinetic = float(atoms.get_kinetic_energy())
        time = self.step * self.config.time_step_fs
        found: Frame = {
            "positions": atoms.get_positions(),
            "velocities": atoms.get_velocities() * units.fs,
            "forces": np.array(forces),
            "energy": energy,
            "kinetic_energy": kinetic,
            "temperature": self._temperature(kinetic),
            "cell": np.array(atoms.get_cell()),
            "time": time,
            "step": self.step,
            "equilibration": int(self.config.is_equilibration(time)),
            "conserved_energy": float("nan")
            if self._ramp
            else conserved_energy(self._dyn, self.settings.algorithm, energy),
        }
        if self.settings.algorithm != "velocity_verlet":
            found["target_temperature"] = self._target(self.step)
        if atoms.cell.rank == 3:
            found["volume"] = float(atoms.get_volume())
        if stress is not None:
            internal = -stress[:3].sum() / 3.0 + 2.0 * kinetic / (3.0 * found["volume"])
            found |= {"stress": stress, "pressure": float(internal / units.GPa)}
        return found

    def dataset(self, frames: list[Frame], attributes: Mapping[str, Any]) -> xr.Dataset:
        """Frames as a dataset of the kind ``trajectory``."""
        values: dict[str, Any] = {name: np.array([frame[name] for frame in frames]) for name in frames[0]}
        values["atomic_numbers"] = self.atoms.numbers
        values["masses"] = self.atoms.get_masses()
        values["pbc"] = self.atoms.pbc.astype(np.int8)
        return TRAJECTORY.dataset(values, attributes)

    def _target(self, step: int) -> float:
        return self.config.target_temperature(self.condition, step * self.config.time_step_fs)

    def _temperature(self, kinetic: float) -> float:
        return float(2.0 * kinetic / (self.ndof * units.kB))

    def _stress(self) -> NDArray[np.float64] | None:
        """Potential part (6) of the stress in eV/Angstrom^3; None for an open system or an engine without it."""
        if not self.atoms.pbc.all():
            return None
        try:
            return np.array(self.atoms.get_stress(apply_constraint=False), dtype=np.float64)
        except PropertyNotImplementedError:
            if self.config.ensemble == "NPT":
                raise InvalidConfig(
                    "This engine computes no stress, so the pressure cannot be controlled.",
                    expected="an engine with stress, or ensemble = NVT",
                    found=self.potential.spec,
                ) from None
            return None

    def _failed(self, found: str) -> ComputeFailed:
        step = self.step
        return ComputeFailed(
            f"The dynamics broke down after step {step} (t = {step * self.config.time_step_fs:g} fs).",
            key=self.condition.output,
            expected=f"finite energies and a kinetic temperature below {self.config.temperature_limit_K:g} K",
            found=found,
            hint="the frames so far are kept; relax the structure first, or take a shorter time_step_fs, "
            "or see whether the potential knows such structures",
        )
