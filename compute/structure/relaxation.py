"""Relaxation of a structure to a minimum of its enthalpy, in blocks that can be resumed bit for bit.

The optimizers, the cell filter and the symmetry constraint are ASE's. What this file adds is a state that says
everything an optimizer knows, so that a relaxation stopped between two blocks goes on as if it had not been.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from ase import units
from numpy.typing import NDArray

from ...schemas.errors import InvalidConfig, InvalidData
from .evaluation import engine_errors, not_finite
from .symmetry import quiet

if TYPE_CHECKING:
    from ase import Atoms

    from ..potentials import Potential

__all__ = ["Goal", "Point", "State", "check_apart", "relax", "relax_block", "scaled_to_volume"]

CellRelaxation = Literal["only_atoms", "constant_volume", "full"]
FloatArray = NDArray[np.float64]

_TOO_CLOSE = 0.35
_DENSE_DEGREES = 1500
_MAX_STEP = 0.1
_RISE = 1e-6


@dataclass(frozen=True, slots=True)
class Goal:
    """What a relaxation may move and when it is done.

    Attributes
    ----------
    cell_relaxation : {"only_atoms", "constant_volume", "full"}
        The cell stays; changes its shape at constant volume; or changes freely. Molecules have no cell to change.
    max_force : float
        Largest force on an atom (eV/Angstrom), and largest derivative of the enthalpy per atom along a strain (eV).
    pressure_GPa : float
        External pressure, for ``full``.
    keep_symmetry : bool
        Whether forces, stress and steps are made symmetric under the space group of the start.
    symprec : float
        Distance within which atoms count as symmetric for that (Angstrom).
    """

    cell_relaxation: CellRelaxation = "constant_volume"
    max_force: float = 1e-4
    pressure_GPa: float = 0.0
    keep_symmetry: bool = True
    symprec: float = 1e-5

    @property
    def pressure(self) -> float:
        """The pressure in eV/Angstrom^3; zero where the volume does not change."""
        return float(self.pressure_GPa * units.GPa) if self.cell_relaxation == "full" else 0.0


@dataclass(frozen=True, slots=True)
class Point:
    """One structure on the way.

    Attributes
    ----------
    energy : float
        Potential energy (eV).
    enthalpy : float
        Energy plus pressure times volume (eV).
    max_force : float
        Largest force on an atom (eV/Angstrom).
    max_strain_gradient : float
        Largest derivative of the enthalpy per atom along a strain that is free to change (eV); 0 for a fixed cell.
    volume : float
        Volume of the cell (Angstrom^3); 0 without a cell.
    """

    energy: float
    enthalpy: float
    max_force: float
    max_strain_gradient: float
    volume: float

    def meets(self, goal: Goal) -> bool:
        """Whether forces and strain gradients are small enough."""
        return self.max_force <= goal.max_force and self.max_strain_gradient <= goal.max_force


@dataclass(slots=True)
class State:
    """Where a relaxation stands between two blocks.

    Attributes
    ----------
    atoms : Atoms
        The structure.
    method : {"newton", "fire"}
        Quasi-Newton steps, or damped dynamics once these did not lower the enthalpy.
    memory : mapping of str to array
        What the quasi-Newton optimizer learned; empty for a fresh one.
    """

    atoms: Atoms
    method: Literal["newton", "fire"] = "newton"
    memory: dict[str, FloatArray] = field(default_factory=dict)

    def copy(self) -> Self:
        """An independent copy."""
        memory = {name: array.copy() for name, array in self.memory.items()}
        return type(self)(self.atoms.copy(), self.method, memory)


def relax(
    atoms: Atoms, potential: Potential, goal: Goal, *, max_n_steps: int = 1000, block_steps: int = 50
) -> tuple[Atoms, Point, int]:
    """Relax a structure.

    Parameters
    ----------
    atoms : Atoms
        Where to start; it is not changed.
    potential : Potential
        Engine; made fresh for each block.
    goal : Goal
        What may move, and when it is done.
    max_n_steps : int
        Most steps.
    block_steps : int
        Steps between two fresh engines.

    Returns
    -------
    atoms : Atoms
        The last structure, without calculator and constraints.
    point : Point
        Its energy and residual forces; ``point.meets(goal)`` says whether it converged.
    n_steps : int
        Steps taken.

    Raises
    ------
    InvalidData
        If atoms lie on each other.
    ComputeFailed
        If the engine fails, or gives an energy or force that is no number.
    """
    check_apart(atoms)
    state, taken = State(atoms.copy()), 0
    while True:
        count = min(block_steps, max_n_steps - taken)
        points = list(relax_block(state, potential, goal, count))
        taken += len(points) - 1
        if points[-1].meets(goal) or taken >= max_n_steps:
            return state.atoms, points[-1], taken


def relax_block(state: State, potential: Potential, goal: Goal, n_steps: int) -> Iterator[Point]:
    """Take at most so many steps with a fresh engine; ``state`` is that of the end when the iterator ends.

    Yields
    ------
    Point
        The structure at the start and after each step; the last one meets the goal unless the steps ran out.

    Raises
    ------
    ComputeFailed
        If the engine fails, or gives an energy or force that is no number.
    """
    atoms = state.atoms
    atoms.calc = potential.fresh()
    system = _system(atoms, goal)
    optimizer = _optimizer(system, state)
    first: float | None = None
    point: Point | None = None
    try:
        with engine_errors(potential):
            for step in range(n_steps + 1):
                point = _measure(atoms, goal)
                if not np.all(np.isfinite([point.enthalpy, point.max_force, point.max_strain_gradient, point.volume])):
                    raise not_finite(potential)
                first = point.enthalpy if first is None else first
                yield point
                if step == n_steps or point.meets(goal):
                    break
                optimizer.step()
                optimizer.nsteps += 1
    finally:
        atoms.calc = None
        atoms.set_constraint()
    if point is not None and first is not None:
        if point.enthalpy > first + _RISE * len(atoms):
            state.method, state.memory = "fire", {}
        elif n_steps > 0:
            state.method, state.memory = "newton", _learned(optimizer, system)


def check_apart(atoms: Atoms) -> None:
    """Refuse a structure in which two atoms lie on each other (closer than 0.35 Angstrom).

    Raises
    ------
    InvalidData
        Names the nearest two.
    """
    from ase.neighborlist import neighbor_list

    if len(atoms) == 0:
        raise InvalidData("There are no atoms to relax.", expected="a structure with atoms", found="none")
    if not (np.all(np.isfinite(atoms.positions)) and np.all(np.isfinite(atoms.cell.array))):
        raise InvalidData(
            "A position or a cell vector is no number.", expected="finite numbers", found="NaN or infinity"
        )
    if np.linalg.matrix_rank(atoms.cell.array[atoms.pbc]) < atoms.pbc.sum():
        raise InvalidData(
            "The cell vectors do not span a volume.", expected="three independent vectors", found=atoms.cell.tolist()
        )
    i, j, distance = neighbor_list("ijd", atoms, _TOO_CLOSE)
    if len(distance):
        nearest = int(np.argmin(distance))
        raise InvalidData(
            "Two atoms lie on each other.",
            expected=f"atoms at least {_TOO_CLOSE} Angstrom apart",
            found=f"atoms {i[nearest]} and {j[nearest]} (from 0) at {distance[nearest]:.3f} Angstrom",
            hint="remove the copy, or choose one of the disordered positions",
        )


def scaled_to_volume(atoms: Atoms, ratio: float) -> Atoms:
    """The structure with all cell vectors and positions scaled so that the volume changes by ``ratio``."""
    made: Atoms = atoms.copy()
    if ratio != 1.0:
        made.set_cell(atoms.cell.array * ratio ** (1.0 / 3.0), scale_atoms=True)
    return made


# --- ASE's objects --------------------------------------------------------------------------------------------------


def _moves_cell(atoms: Atoms, goal: Goal) -> bool:
    if goal.cell_relaxation == "only_atoms" or not atoms.pbc.any():
        return False
    if not atoms.pbc.all():
        raise InvalidConfig(
            "The cell of a structure that is open in a direction cannot be relaxed.",
            expected="cell_relaxation = only_atoms",
            found=f"cell_relaxation = {goal.cell_relaxation}, periodic: {atoms.pbc.tolist()}",
        )
    return True


def _system(atoms: Atoms, goal: Goal) -> Any:
    """What the optimizer moves: the atoms, or atoms and cell behind a filter."""
    from ase.constraints import FixSymmetry
    from ase.filters import FrechetCellFilter

    atoms.set_constraint()
    if goal.keep_symmetry and atoms.pbc.all():
        with quiet():
            atoms.set_constraint(FixSymmetry(atoms, symprec=goal.symprec))
    if not _moves_cell(atoms, goal):
        return atoms
    return FrechetCellFilter(
        atoms, constant_volume=goal.cell_relaxation == "constant_volume", scalar_pressure=goal.pressure
    )


def _optimizer(system: Any, state: State) -> Any:
    """The optimizer of the state, with what it learned so far."""
    from ase._4.optimize.bfgs import BFGSMethod
    from ase.optimize import BFGS, FIRE, LBFGS

    if state.method == "fire":
        return FIRE(system, logfile=None)
    if 3 * len(system) > _DENSE_DEGREES:
        return LBFGS(system, logfile=None, maxstep=_MAX_STEP)  # type: ignore[arg-type]
    optimizer: Any = BFGS(system, logfile=None, maxstep=_MAX_STEP)
    if state.memory:
        if system is not state.atoms:
            system.orig_cell = state.memory["original_cell"]
        optimizer.state = BFGSMethod(state.memory["hessian"].copy())
        optimizer.pos0, optimizer.forces0 = state.memory["positions"], state.memory["forces"]
    return optimizer


def _learned(optimizer: Any, system: Any) -> dict[str, FloatArray]:
    """What a dense quasi-Newton optimizer knows; the others start anew in each block."""
    if getattr(optimizer, "pos0", None) is None or getattr(optimizer, "state", None) is None:
        return {}
    found = {"hessian": optimizer.H, "positions": optimizer.pos0, "forces": optimizer.forces0}
    if hasattr(system, "orig_cell"):
        found["original_cell"] = np.asarray(system.orig_cell)
    return {name: np.array(array, dtype=np.float64) for name, array in found.items()}


def _measure(atoms: Atoms, goal: Goal) -> Point:
    energy = float(atoms.get_potential_energy())
    forces = atoms.get_forces()
    volume = float(atoms.get_volume()) if atoms.cell.rank == 3 else 0.0
    gradient = 0.0
    if _moves_cell(atoms, goal):
        virial = volume * (atoms.get_stress(voigt=False) + goal.pressure * np.eye(3)) / len(atoms)
        if goal.cell_relaxation == "constant_volume":
            virial -= np.trace(virial) / 3.0 * np.eye(3)
        gradient = float(np.abs(virial).max())
    largest = float(np.sqrt((forces**2).sum(axis=1).max()))
    return Point(energy, energy + goal.pressure * volume, largest, gradient, volume)
