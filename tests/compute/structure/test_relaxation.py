"""Relaxation as a library: its blocks, its fallback, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from h5ml.compute.potentials import resolve_potential
from h5ml.compute.structure.relaxation import Goal, State, relax, relax_block, scaled_to_volume
from h5ml.schemas.errors import InvalidConfig, InvalidData

FREE = Goal("full", keep_symmetry=False)


def strained() -> Atoms:
    crystal = bulk("Cu", cubic=True, a=3.7)
    crystal.set_cell(crystal.cell.array @ np.diag([1.03, 0.98, 1.0]), scale_atoms=True)
    crystal.rattle(0.05, seed=3)
    return crystal


@pytest.mark.parametrize("mode", ["only_atoms", "constant_volume", "full"])
def test_the_length_of_a_block_does_not_change_the_path(mode: str) -> None:
    """What the optimizer learned goes over to the next block: with EMT, cold or warm, nothing else is left."""
    goal = Goal(mode, keep_symmetry=False)  # type: ignore[arg-type]
    potential = resolve_potential("ase:emt")
    one, point, steps = relax(strained(), potential, goal, block_steps=1000)
    many, other, more = relax(strained(), potential, goal, block_steps=4)
    assert point.meets(goal)
    assert steps == more
    assert np.allclose(one.positions, many.positions, atol=1e-9)
    assert point.enthalpy == pytest.approx(other.enthalpy, abs=1e-10)


def test_steps_that_raise_the_energy_are_followed_by_damped_dynamics() -> None:
    """The first quasi-Newton step takes every mode for one of 70 eV/Angstrom^2: far too long for this spring."""
    potential = resolve_potential("harmonic:springs?k=2000.0&r0=1.1&rc=1.6")
    state = State(Atoms("N2", [[0.0, 0.0, 0.0], [0.0, 0.0, 1.104]]))
    goal, methods = Goal("only_atoms"), []
    for _ in range(200):
        points = list(relax_block(state, potential, goal, 1))
        methods.append(state.method)
        if points[-1].meets(goal):
            break
    assert "fire" in methods
    assert points[-1].meets(goal)
    assert state.atoms.get_distance(0, 1) == pytest.approx(1.1, abs=1e-6)


def test_symmetry_is_kept_on_the_way() -> None:
    """A body-centred cubic lattice of copper would slide to a closer packing; its symmetry holds it."""
    crystal = bulk("Cu", "bcc", a=2.8, cubic=True)
    kept, point, _ = relax(crystal, resolve_potential("ase:emt"), Goal("full"))
    assert point.meets(Goal("full"))
    assert np.allclose(kept.cell.array, kept.cell[0, 0] * np.eye(3), atol=1e-10)
    assert np.allclose(kept.get_scaled_positions()[1], 0.5, atol=1e-10)


def test_scaling_changes_the_volume_alone() -> None:
    crystal = strained()
    made = scaled_to_volume(crystal, 0.9)
    assert made.get_volume() == pytest.approx(0.9 * crystal.get_volume(), rel=1e-12)
    assert np.allclose(made.get_scaled_positions(), crystal.get_scaled_positions())
    assert scaled_to_volume(crystal, 1.0).get_volume() == crystal.get_volume()


def test_what_cannot_be_relaxed_is_refused() -> None:
    potential = resolve_potential("ase:emt")
    slab = strained()
    slab.pbc = [True, True, False]
    with pytest.raises(InvalidConfig, match="only_atoms"):
        relax(slab, potential, FREE)
    assert relax(slab, potential, Goal("only_atoms"))[1].meets(Goal("only_atoms"))
    with pytest.raises(InvalidData, match="no atoms"):
        relax(Atoms(), potential, FREE)
    flat = strained()
    flat.set_cell([[4, 0, 0], [0, 4, 0], [4, 4, 0]])
    with pytest.raises(InvalidData, match="volume"):
        relax(flat, potential, FREE)
    lost = strained()
    lost.positions[1, 2] = np.nan
    with pytest.raises(InvalidData, match="no number"):
        relax(lost, potential, FREE)
