"""Energy, forces and stress of one structure from a cold engine, and what an engine raises as an error for people."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ...schemas.errors import ComputeFailed, H5mlError

if TYPE_CHECKING:
    from ase import Atoms

    from ..potentials import Potential


def evaluated(atoms: Atoms, potential: Potential, *, stress: bool = True) -> dict[str, Any]:
    """Evaluate a structure, which is not changed.

    Parameters
    ----------
    atoms : Atoms
        The structure.
    potential : Potential
        Engine; made fresh, so that nothing is left of what it did before.
    stress : bool
        Whether the stress is wanted too, where there is a whole cell and the engine has one.

    Returns
    -------
    dict
        ``energy`` (eV), ``forces`` (atom, 3) in eV/Angstrom, and ``stress`` (6,) in eV/Angstrom^3.

    Raises
    ------
    ComputeFailed
        If the engine fails, or gives a value that is no number.
    """
    system = atoms.copy()
    system.calc = potential.fresh()
    with engine_errors(potential):
        found: dict[str, Any] = {"forces": system.get_forces(), "energy": float(system.get_potential_energy())}
        if stress and system.pbc.all():
            with contextlib.suppress(NotImplementedError):
                found["stress"] = system.get_stress()
    if not all(np.all(np.isfinite(value)) for value in found.values()):
        raise not_finite(potential)
    return found


@contextlib.contextmanager
def engine_errors(potential: Potential) -> Iterator[None]:
    """Turn whatever an engine raises into an error for people."""
    from ase.calculators.calculator import CalculatorError

    try:
        yield
    except H5mlError:
        raise
    except NotImplementedError as error:
        raise ComputeFailed(
            "The engine cannot give what is needed.",
            key=potential.spec,
            expected="energies and forces; stresses where a cell is relaxed",
            found=f"{type(error).__name__}: {error}",
            hint="take another model; one without stresses can relax with cell_relaxation = only_atoms",
        ) from error
    except (CalculatorError, RuntimeError, ValueError, ArithmeticError, LookupError, AssertionError) as error:
        raise ComputeFailed(
            "The engine failed.",
            key=potential.spec,
            found=f"{type(error).__name__}: {error}",
            hint="look at the structure, and whether the model knows its elements",
        ) from error


def not_finite(potential: Potential) -> ComputeFailed:
    """The error for an energy, a force or a stress that is no number."""
    return ComputeFailed(
        "The engine gave an energy or a force that is not finite.",
        key=potential.spec,
        expected="finite energy, forces and stress",
        found="NaN or infinity",
        hint="look at the structure: atoms may be too close, or unknown to the model",
    )
