"""Analytic engines for tests and examples: pair potentials without memory, and the spring among them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from ...schemas.errors import InvalidConfig
from .base import Potential, facts
from .registry import EngineRequest

if TYPE_CHECKING:
    from numpy.typing import NDArray

SPRINGS_VERSION = "1"


class PairCalculator(Calculator):
    """A potential of pairs closer than the parameter ``rc``, over all periodic images.

    It looks at every pair in every step, so it has no memory and keeps the total momentum, and its cost grows
    with the square of the number of atoms. A subclass gives ``pair``.
    """

    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "forces", "stress"]  # type: ignore[misc]
    nolabel = True

    def pair(self, distance: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Energy (eV) of pairs at distances (Angstrom), and its derivative (eV/Angstrom)."""
        raise NotImplementedError

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] | None = None,
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Compute energy (eV), forces (N, 3) in eV/Angstrom and, with a cell, stress (6) in eV/Angstrom^3."""
        super().calculate(atoms, properties, system_changes)  # type: ignore[no-untyped-call]
        system: Any = self.atoms
        first, vector = _pairs(system, float(self.parameters["rc"]))
        distance = np.sqrt(np.einsum("px,px->p", vector, vector))
        energies, slopes = self.pair(distance)
        pull = (slopes / distance)[:, None] * vector  # force on the first atom towards the second
        energy = 0.5 * float(energies.sum())
        forces = np.stack([np.bincount(first, pull[:, x], minlength=len(system)) for x in range(3)], axis=1)
        self.results = {"energy": energy, "free_energy": energy, "forces": forces}
        if system.cell.rank == 3:
            virial = 0.5 * vector.T @ pull / system.get_volume()
            self.results["stress"] = full_3x3_to_voigt_6_stress(0.5 * (virial + virial.T))


def _pairs(atoms: Any, cutoff: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """First atom, and vector to the second, of all ordered pairs with images closer than the cutoff."""
    cell = atoms.cell.complete().array
    periodic = np.asarray(atoms.pbc)
    inverse = np.linalg.inv(cell)
    separation = (atoms.positions[None, :, :] - atoms.positions[:, None, :]) @ inverse
    separation -= np.where(periodic, np.rint(separation), 0.0)
    reach = np.where(periodic, np.floor(cutoff * np.linalg.norm(inverse, axis=0) + 0.5), 0).astype(int)
    shifts = np.array(list(product(*(range(-n, n + 1) for n in reach))), dtype=np.float64)
    vectors = (separation[None] + shifts[:, None, None, :]) @ cell
    squares = np.einsum("sijx,sijx->sij", vectors, vectors)
    near = (squares < cutoff * cutoff) & (squares > 0.0)
    return np.nonzero(near)[1], vectors[near]


class Springs(PairCalculator):
    """A spring between every two atoms closer than a cutoff.

    ``E = sum over pairs with r < rc of k/2 ((r - r0)^2 - (rc - r0)^2)``: exactly harmonic in the distances while no
    pair crosses the cutoff.

    Parameters
    ----------
    k : float
        Spring constant (eV/Angstrom^2).
    r0 : float
        Length of a spring at rest (Angstrom).
    rc : float
        Cutoff (Angstrom), between the first and the second neighbours of a crystal.
    """

    default_parameters: ClassVar[dict[str, float]] = {"k": 1.0, "r0": 3.0, "rc": 4.0}  # type: ignore[misc]

    def pair(self, distance: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Energy (eV) of springs of the given lengths (Angstrom), and its derivative (eV/Angstrom)."""
        k, r0, rc = (float(self.parameters[name]) for name in ("k", "r0", "rc"))
        return 0.5 * k * ((distance - r0) ** 2 - (rc - r0) ** 2), k * (distance - r0)


def harmonic_potential(request: EngineRequest) -> Potential:
    """``harmonic:springs?k=1.0&r0=3.0&rc=4.0``."""
    if request.method != "springs":
        raise InvalidConfig(
            "There is no such harmonic potential.", key=request.spec, expected="springs", found=request.method
        )
    request.only(Springs.default_parameters)
    parameters: dict[str, Any] = {**Springs.default_parameters, **request.options}
    if not all(isinstance(v, int | float) and v >= 0 for v in parameters.values()):
        raise InvalidConfig("Spring constants and lengths are numbers of at least 0.", key=request.spec)
    return Potential(
        request.spec,
        "springs",
        functools.partial(Springs, **parameters),
        facts("harmonic", "springs", SPRINGS_VERSION, parameters=parameters),
    )
