"""Integrators of molecular dynamics: build them, and save and restore all that they carry from step to step.

The integrators are those of ASE 3.29. Part of their state lies in private attributes; ``STATE`` names it, and a
test fails when an attribute changes along a run without standing there. ASE is pinned for that reason.

Degrees of freedom. The total momentum is zero at the start and is conserved, so that ``3N - 3`` degrees of
freedom carry the temperature (``3 (N - n)`` with ``n`` fixed atoms, which break the conservation). ASE's
integrators count ``3N``, which makes a crystal of N atoms too hot by ``N / (N - 1)``; here every one of them is
told the true number. Langevin noise would move the centre of mass, which ASE's ``FixCom`` constraint prevents.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from ase import units
from ase.constraints import FixAtoms, FixCom
from ase.md.bussi import Bussi
from ase.md.langevin import Langevin
from ase.md.nose_hoover_chain import (
    MTKNPT,
    IsotropicMTKBarostat,
    IsotropicMTKNPT,
    MTKBarostat,
    NoseHooverChainNVT,
    NoseHooverChainThermostat,
)
from ase.md.verlet import VelocityVerlet

if TYPE_CHECKING:
    from ase import Atoms
    from ase.md.md import MolecularDynamics
    from numpy.typing import NDArray

Algorithm = Literal["velocity_verlet", "csvr", "langevin", "nose_hoover_chain", "mtk_full", "mtk_isotropic"]
State = dict[str, "NDArray[Any]"]

_CHAIN = ("_q", "_p", "_thermostat._eta", "_thermostat._p_eta")
_BAROSTAT = (*_CHAIN, "_barostat._xi", "_barostat._p_xi")

STATE: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "velocity_verlet": (),
        "csvr": ("transferred_energy",),
        "langevin": (),
        "nose_hoover_chain": _CHAIN,
        "mtk_full": (*_BAROSTAT, "_h", "_p_g"),
        "mtk_isotropic": (*_BAROSTAT, "_eps", "_p_eps", "_cell0", "_volume0"),
    }
)
"""Attributes that each integrator carries from step to step, beside atoms, step counter and random numbers."""

SCRATCH: Mapping[str, tuple[str, ...]] = MappingProxyType({"langevin": ("v", "rnd_pos", "rnd_vel")})
"""Attributes that change but are computed anew in every step before they are read."""


@dataclass(frozen=True, slots=True)
class IntegratorSettings:
    """What an integrator is built from.

    Attributes
    ----------
    algorithm : Algorithm
        Which one.
    time_step_fs : float
        Time step (fs).
    temperature_K : float
        Target temperature (K); the masses of chains and barostats follow from it and stay so in a ramp.
    pressure_GPa : float
        Target pressure (GPa).
    thermostat_time_fs, barostat_time_fs : float
        Relaxation times (fs).
    tchain, pchain : int
        Lengths of the Nose-Hoover chains on the atoms and on the barostat.
    friction_per_fs : float
        Langevin friction (1/fs).
    """

    algorithm: Algorithm
    time_step_fs: float
    temperature_K: float = 298.15
    pressure_GPa: float = 1e-4
    thermostat_time_fs: float = 100.0
    barostat_time_fs: float = 1000.0
    tchain: int = 3
    pchain: int = 3
    friction_per_fs: float = 0.01


class ChainNVT(NoseHooverChainNVT):
    """ASE's Nose-Hoover chain, right for fixed atoms too.

    ASE's own lets the momenta of fixed atoms grow in its private copy and counts them as heat; zero forces
    keep them at zero.
    """

    def _get_forces(self) -> NDArray[np.float64]:
        self._update_atoms()
        forces: NDArray[np.float64] = self.atoms.get_forces(md=False)
        return forces


def degrees_of_freedom(atoms: Atoms) -> int:
    """Number of degrees of freedom that carry the temperature: ``3N - 3``, or ``3 (N - n)`` with n fixed atoms."""
    fixed = sum(len(c.index) for c in atoms.constraints if isinstance(c, FixAtoms))
    return 3 * (len(atoms) - fixed) - (0 if fixed else 3)


def draw_momenta(atoms: Atoms, temperature_K: float, rng: np.random.Generator, *, exact: bool = False) -> None:
    """Give the atoms momenta of the Maxwell-Boltzmann distribution with zero total momentum.

    Parameters
    ----------
    atoms : Atoms
        Changed in place; fixed atoms stay at rest, and then the total momentum is left as drawn.
    temperature_K : float
        Temperature of the distribution (K).
    rng : Generator
        Where the random numbers come from.
    exact : bool
        Scale to exactly this kinetic temperature. Without it the draw is a true sample of the canonical
        distribution of the free degrees of freedom.
    """
    masses = atoms.get_masses()
    momenta = rng.standard_normal((len(atoms), 3)) * np.sqrt(masses * units.kB * temperature_K)[:, None]
    atoms.set_momenta(momenta)
    remove_drift(atoms)
    if exact and temperature_K > 0.0:
        found = kinetic_temperature(atoms)
        atoms.set_momenta(atoms.get_momenta() * np.sqrt(temperature_K / found))


def remove_drift(atoms: Atoms) -> None:
    """Take the velocity of the centre of mass out of all momenta, unless atoms are fixed (those are at rest)."""
    momenta = atoms.get_momenta()
    if not any(isinstance(c, FixAtoms) for c in atoms.constraints):
        masses = atoms.get_masses()
        momenta -= masses[:, None] * momenta.sum(axis=0) / masses.sum()
    atoms.set_momenta(momenta)


def kinetic_temperature(atoms: Atoms) -> float:
    """``2 E_kin / (n_dof k_B)`` (K) over the free degrees of freedom."""
    return float(2.0 * atoms.get_kinetic_energy() / (degrees_of_freedom(atoms) * units.kB))


def build_integrator(atoms: Atoms, settings: IntegratorSettings, rng: np.random.Generator) -> MolecularDynamics:
    """Build an integrator with the right number of degrees of freedom.

    Parameters
    ----------
    atoms : Atoms
        With momenta and, at the latest at the first step, a calculator. For ``langevin`` without fixed
        atoms it gets a constraint on its centre of mass.
    settings : IntegratorSettings
        Algorithm and parameters.
    rng : Generator
        Random numbers of the stochastic thermostats.
    """
    dt = settings.time_step_fs * units.fs
    ndof = degrees_of_freedom(atoms)
    thermal: dict[str, Any] = {"temperature_K": settings.temperature_K}
    if settings.algorithm == "velocity_verlet":
        return VelocityVerlet(atoms, dt)
    if settings.algorithm == "csvr":
        csvr = Bussi(atoms, dt, taut=settings.thermostat_time_fs * units.fs, rng=rng, **thermal)
        csvr.ndof = ndof
        csvr.target_kinetic_energy = 0.5 * csvr.temp * ndof
        return csvr
    if settings.algorithm == "langevin":
        if not atoms.constraints:
            atoms.set_constraint(FixCom())
        friction = settings.friction_per_fs / units.fs
        return Langevin(atoms, dt, friction=friction, fixcm=False, rng=rng, **thermal)
    thermal |= {"tdamp": settings.thermostat_time_fs * units.fs, "tchain": settings.tchain}
    if settings.algorithm == "nose_hoover_chain":
        chain = ChainNVT(atoms, dt, **thermal)
        _count_freedom(chain, settings, ndof, None)
        return chain
    pressure: dict[str, Any] = {
        "pressure_au": settings.pressure_GPa * units.GPa,
        "pdamp": settings.barostat_time_fs * units.fs,
        "pchain": settings.pchain,
    }
    if settings.algorithm == "mtk_full":
        full = MTKNPT(atoms, dt, **thermal, **pressure)
        _count_freedom(full, settings, ndof, MTKBarostat)
        return full
    isotropic = IsotropicMTKNPT(atoms, dt, **thermal, **pressure)
    _count_freedom(isotropic, settings, ndof, IsotropicMTKBarostat)
    return isotropic


def _count_freedom(dyn: MolecularDynamics, settings: IntegratorSettings, ndof: int, barostat: type | None) -> None:
    """Let thermostat and barostat work with ``ndof`` degrees of freedom instead of ``3N``.

    ASE writes the number of degrees of freedom as ``3 * num_atoms_global`` in every equation of the
    Martyna-Tobias-Klein scheme (J. Chem. Phys. 101, 4177 (1994), with N_f for ``3N - 3``), and ``ndof`` is always a
    multiple of three.
    """
    carriers = ndof // 3
    replaced: dict[str, Any] = {
        "_thermostat": NoseHooverChainThermostat(
            num_atoms_global=carriers,
            masses=dyn.masses,
            temperature_K=settings.temperature_K,
            tdamp=settings.thermostat_time_fs * units.fs,
            tchain=settings.tchain,
        )
    }
    if barostat is not None:
        replaced["_num_atoms_global"] = carriers
        replaced["_barostat"] = barostat(
            num_atoms_global=carriers,
            temperature_K=settings.temperature_K,
            pdamp=settings.barostat_time_fs * units.fs,
            pchain=settings.pchain,
        )
    for name, value in replaced.items():
        setattr(dyn, name, value)


def set_target_temperature(dyn: MolecularDynamics, temperature_K: float) -> None:
    """Set the temperature (K) of the thermostat; masses of chains and barostat stay as they were built."""
    energy = units.kB * temperature_K
    if isinstance(dyn, Bussi):
        dyn.temp = energy
        dyn.target_kinetic_energy = 0.5 * energy * dyn.ndof
    elif isinstance(dyn, Langevin):
        dyn.set_temperature(temperature_K=temperature_K)
    else:
        for owner in ("_thermostat", "_barostat"):
            part = getattr(dyn, owner, None)
            if part is not None:
                setattr(part, "_kT", energy)  # noqa: B010 - ASE has no public way


def conserved_energy(dyn: Any, algorithm: Algorithm, potential_energy: float) -> float:
    """The quantity (eV) that the integrator conserves at a constant target temperature.

    Returns
    -------
    float
        NaN for Langevin dynamics, which has none.
    """
    energy = potential_energy + float(dyn.atoms.get_kinetic_energy())
    if algorithm == "langevin":
        return float("nan")
    if algorithm == "csvr":
        return float(energy - dyn.transferred_energy)
    if algorithm == "velocity_verlet":
        return energy
    energy += float(attrgetter("_thermostat")(dyn).get_thermostat_energy())
    if algorithm == "nose_hoover_chain":
        return energy
    barostat = attrgetter("_barostat")(dyn)
    momentum = attrgetter("_p_g" if algorithm == "mtk_full" else "_p_eps")(dyn)
    energy += float(barostat.get_barostat_energy()) + float(np.sum(momentum**2)) / (2.0 * barostat.W)
    return float(energy + attrgetter("_pressure_au")(dyn) * dyn.atoms.get_volume())


def save_state(dyn: MolecularDynamics, algorithm: Algorithm, rng: np.random.Generator) -> State:
    """Everything that changes from step to step, as arrays.

    Parameters
    ----------
    dyn : MolecularDynamics
        From ``build_integrator``.
    algorithm : Algorithm
        The one that it was built with.
    rng : Generator
        The one that it was built with.

    Returns
    -------
    dict of str to array
        Copies: ``positions`` (N, 3), ``momenta`` (N, 3), ``cell`` (3, 3), ``nsteps`` and ``rng`` (integers), and
        the attributes of ``STATE``, all in ASE's units.
    """
    atoms = dyn.atoms
    state: State = {
        "positions": atoms.get_positions(),
        "momenta": atoms.get_momenta(),
        "cell": np.array(atoms.get_cell()),
        "nsteps": np.array(dyn.nsteps, dtype=np.int64),
        "rng": rng_to_array(rng),
    }
    for path in STATE[algorithm]:
        state[path] = np.array(attrgetter(path)(dyn), dtype=np.float64)
    return state


def restore_state(
    dyn: MolecularDynamics, algorithm: Algorithm, rng: np.random.Generator, state: Mapping[str, NDArray[Any]]
) -> None:
    """Put a saved state into an integrator and its random number generator.

    Parameters
    ----------
    dyn : MolecularDynamics
        Built with the same settings for the same atoms.
    algorithm, rng
        As for ``save_state``; ``rng`` is changed in place.
    state : mapping
        From ``save_state``; arrays may be flat.
    """
    place_atoms(dyn.atoms, state)
    dyn.nsteps = int(np.asarray(state["nsteps"]).reshape(()))
    array_to_rng(np.asarray(state["rng"]), rng)
    for path in STATE[algorithm]:
        *owners, name = path.split(".")
        owner = attrgetter(".".join(owners))(dyn) if owners else dyn
        now = getattr(owner, name)
        value = np.array(state[path], dtype=np.float64).reshape(np.shape(now))
        setattr(owner, name, value if isinstance(now, np.ndarray) else float(value))


def place_atoms(atoms: Atoms, state: Mapping[str, NDArray[Any]]) -> None:
    """Set cell, positions and momenta of atoms to those of a saved state, whatever the constraints."""
    atoms.set_cell(np.asarray(state["cell"]).reshape(3, 3), scale_atoms=False, apply_constraint=False)
    atoms.set_positions(np.asarray(state["positions"]).reshape(-1, 3), apply_constraint=False)
    atoms.set_momenta(np.asarray(state["momenta"]).reshape(-1, 3), apply_constraint=False)


def rng_to_array(rng: np.random.Generator) -> NDArray[np.int64]:
    """The state of a PCG64 generator as ten integers below 2**32: state, increment, spare half."""
    found = rng.bit_generator.state
    if found["bit_generator"] != "PCG64":
        raise TypeError(f"only PCG64 generators can be saved; found {found['bit_generator']}")
    words = [(found["state"][part] >> shift) & 0xFFFFFFFF for part in ("state", "inc") for shift in (0, 32, 64, 96)]
    return np.array([*words, found["has_uint32"], found["uinteger"]], dtype=np.int64)


def array_to_rng(array: NDArray[Any], rng: np.random.Generator) -> None:
    """Set a PCG64 generator to a state from ``rng_to_array``."""
    words = [int(word) for word in array.ravel()]
    whole = [sum(word << shift for word, shift in zip(words[k : k + 4], (0, 32, 64, 96), strict=True)) for k in (0, 4)]
    rng.bit_generator.state = {
        "bit_generator": "PCG64",
        "state": {"state": whole[0], "inc": whole[1]},
        "has_uint32": words[8],
        "uinteger": words[9],
    }
