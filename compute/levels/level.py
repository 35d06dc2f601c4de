"""What a level of theory is: structures in, energies and forces out, and a name that says which ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from ...schemas.canonical import canonical_json
from ...schemas.errors import InvalidConfig
from .level_config import LevelSettings

if TYPE_CHECKING:
    from ase import Atoms

Floats = NDArray[np.float64]

DONE, UNDEFINED, SCF_FAILED, FAILED, ABSURD = range(5)
"""The meanings of ``status`` in the kind ``labels``."""

PROPERTIES = ("energy", "forces", "stress", "dipole", "charges")
TAIL_CHARACTERS = 2000


@dataclass(frozen=True, slots=True)
class System:
    """One structure with its charge and spin.

    Attributes
    ----------
    numbers : array (N,) of int
        Atomic numbers.
    positions : array (N, 3)
        Positions (Angstrom).
    cell : array (3, 3)
        Cell vectors as rows (Angstrom).
    pbc : array (3,) of bool
        Periodic directions.
    charge : int
        Total charge (e).
    multiplicity : int
        2S + 1.
    """

    numbers: NDArray[np.int64]
    positions: Floats
    cell: Floats
    pbc: NDArray[np.bool_]
    charge: int = 0
    multiplicity: int = 1

    @classmethod
    def of(cls, atoms: Atoms, charge: int | None = None, multiplicity: int | None = None) -> System:
        """From an ASE structure; what is not given is what the structure says, else neutral and of lowest spin.

        Raises
        ------
        InvalidConfig
            If the charge of the structure is no whole number.
        """
        numbers = atoms.numbers.astype(np.int64)
        if charge is None:
            total = float(atoms.get_initial_charges().sum()) if atoms.has("initial_charges") else 0.0
            charge = round(total)
            if abs(total - charge) > 1e-3:
                raise InvalidConfig(
                    "The charge of a structure must be a whole number.",
                    expected="charge 0, 1, -1, ...",
                    found=f"{total:g}",
                    hint="set charge, which holds for all structures",
                )
        if multiplicity is None and atoms.has("initial_magmoms"):
            multiplicity = round(abs(float(atoms.get_initial_magnetic_moments().sum()))) + 1
        if multiplicity is None:
            multiplicity = 1 + (int(numbers.sum()) - charge) % 2
        return cls(numbers, atoms.positions.copy(), atoms.cell.array.copy(), atoms.pbc.copy(), charge, multiplicity)

    @property
    def n_electrons(self) -> int:
        """Electrons, all of them."""
        return int(self.numbers.sum()) - self.charge

    def unfit_electrons(self) -> str:
        """Why charge and spin cannot be those of its electrons; empty where they can."""
        count = self.n_electrons
        if count < 1:
            return f"the charge {self.charge:+d}, which leaves {max(count, 0)} of {int(self.numbers.sum())} electrons"
        if (count - self.multiplicity) % 2 != 1 or self.multiplicity - 1 > count:
            return f"multiplicity {self.multiplicity} with {count} electrons"
        return ""

    @property
    def n_periodic(self) -> int:
        """Number of periodic directions."""
        return int(self.pbc.sum())

    def meaningful(self, properties: frozenset[str]) -> frozenset[str]:
        """Those that such a structure has: a stress where it is periodic in space, a dipole where it is finite."""
        left_out = {"stress"} if self.n_periodic < 3 else set()
        return properties - left_out - ({"dipole"} if self.n_periodic else set())

    def atoms(self) -> Atoms:
        """As an ASE structure, without charge and spin."""
        from ase import Atoms

        return Atoms(numbers=self.numbers, positions=self.positions, cell=self.cell, pbc=self.pbc)

    def digest(self) -> bytes:
        """BLAKE3 of all that is in it; cell vectors count where they are periodic."""
        hasher = blake3(b"structure")
        cell = np.where(self.pbc[:, None], self.cell, 0.0)
        for values, kind in ((self.numbers, "<i8"), (self.positions, "<f8"), (cell, "<f8"), (self.pbc, "|i1")):
            array = np.asarray(values, dtype=kind)
            hasher.update((array + 0 if kind == "<f8" else array).tobytes())  # -0.0 + 0 is 0.0
        hasher.update(np.array([self.charge, self.multiplicity], dtype="<i8").tobytes())
        return hasher.digest()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a calculation gave.

    Attributes
    ----------
    status : int
        ``DONE``, ``SCF_FAILED``, ``FAILED`` or ``ABSURD``.
    values : mapping of str to array
        ``energy`` (eV), ``forces`` (N, 3; eV/Angstrom), ``stress`` (6; eV/Angstrom^3, xx yy zz yz xz xy), ``dipole``
        (3; e Angstrom) and ``charges`` (N; e); what was not computed is absent.
    iterations : int
        Cycles of the self-consistent field; -1 where the engine does not say.
    message : str
        The end of the output, where it failed.
    """

    status: int
    values: Mapping[str, Any] = field(default_factory=dict)
    iterations: int = -1
    message: str = ""


def failed(message: str, status: int = FAILED) -> Outcome:
    """An outcome without values."""
    return Outcome(status, message=message.strip()[-TAIL_CHARACTERS:])


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine can do.

    Attributes
    ----------
    molecules, crystals : frozenset of str
        Properties that it computes of finite and of periodic structures.
    directions : frozenset of int
        Numbers of periodic directions that it takes.
    charge, spin : bool
        Whether a charge, and another spin than the lowest, make a difference.
    """

    molecules: frozenset[str] = frozenset({"energy", "forces"})
    crystals: frozenset[str] = frozenset({"energy", "forces", "stress"})
    directions: frozenset[int] = frozenset({0, 3})
    charge: bool = True
    spin: bool = True


class Level(ABC):
    """An engine with its settings.

    Parameters
    ----------
    settings : LevelSettings
        What the user chose.

    Raises
    ------
    MissingPackage
        If the engine is not installed.
    InvalidConfig
        If it has no such method.
    """

    helps: ClassVar[frozenset[str] | None] = frozenset()
    """Keywords that a fallback may change: they decide whether it converges, not to what. None: the user knows."""

    fallbacks: ClassVar[tuple[Mapping[str, Any], ...]] = ()
    """What is tried where the field does not converge, unless the user says."""

    writes_files: ClassVar[bool] = True
    """Whether it needs a folder."""

    def __init__(self, settings: LevelSettings) -> None:
        self.settings = settings
        self._check_fallbacks()

    def __str__(self) -> str:
        return f"{self.settings.engine} {self.settings.method_name}".strip()

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What decides the numbers: method, basis, versions ..., as plain values."""

    @abstractmethod
    def capabilities(self) -> Capabilities:
        """What it can do."""

    def refuse(self, system: System) -> str:
        """Why it cannot do a structure; empty where it can."""
        del system
        return ""

    @abstractmethod
    def compute(self, system: System, properties: frozenset[str], changes: Mapping[str, Any], folder: Path) -> Outcome:
        """Compute from a cold start.

        Parameters
        ----------
        system : System
            The structure.
        properties : frozenset of str
            What is wanted of it.
        changes : mapping
            Keywords of a fallback.
        folder : pathlib.Path
            An empty folder for its files, where it writes any.

        Returns
        -------
        Outcome
            Failures too: only what is no fault of the structure raises.
        """

    def theory(self) -> dict[str, Any]:
        """The level of theory: all that decides the numbers and nothing else."""
        return {"engine": self.settings.engine, **self.facts()}

    def attempts(self) -> tuple[Mapping[str, Any], ...]:
        """What to change at each attempt; nothing at the first."""
        return ({}, *(self.fallbacks if self.settings.fallbacks is None else self.settings.fallbacks))

    def check(self, system: System, properties: frozenset[str], where: str) -> None:
        """Refuse a structure that the engine cannot do, before anything is computed.

        Raises
        ------
        InvalidConfig
            Names the structure and what cannot be done.
        """
        can = self.capabilities()
        have = can.crystals if system.n_periodic else can.molecules
        lacking = sorted(system.meaningful(properties) - have)
        why, hint = self.refuse(system), ""
        if system.n_periodic not in can.directions:
            why = f"structures that are periodic in {system.n_periodic} directions"
        elif lacking:
            why = f"{' and '.join(lacking)} of {'periodic' if system.n_periodic else 'finite'} structures"
            hint = f"set properties to some of {', '.join(p for p in PROPERTIES if p in have)}"
        elif system.charge and not can.charge:
            why = f"the charge {system.charge:+d}"
        elif can.spin and system.unfit_electrons():
            why, hint = system.unfit_electrons(), "set spin_multiplicity and charge to fit, or leave them out"
        if why:
            raise InvalidConfig(
                f"The engine {self.settings.engine} cannot do this.",
                key=where,
                expected="structures and properties that it knows",
                found=why,
                hint=hint or "change the settings, take another engine, or leave these frames out",
            )

    def _check_fallbacks(self) -> None:
        for number, changes in enumerate(self.settings.fallbacks or (), 1):
            wrong = sorted(set(changes) - (self.helps if self.helps is not None else set(changes)))
            if wrong:
                raise InvalidConfig(
                    f"The fallback {number} would change the level of theory, or is unknown.",
                    key=f"fallbacks of {self.settings.engine}",
                    expected=", ".join(sorted(self.helps or ())) or "none",
                    found=", ".join(wrong),
                    hint="what changes the result goes into a step of its own",
                )


def level_text(theory: Mapping[str, Any]) -> str:
    """A level of theory as canonical JSON: the attribute ``level_of_theory``."""
    return canonical_json(theory)


def level_id(theory: Mapping[str, Any]) -> str:
    """Its digest: the attribute ``level_of_theory_id``."""
    return blake3(level_text(theory).encode()).hexdigest()


def identity_of(system: System, level: str) -> str:
    """The identity of a label: digest of the structure and the id of the level of theory."""
    return blake3(system.digest() + level.encode()).hexdigest()


def mesh_of(kpts: tuple[int, int, int] | float | None, cell: Floats) -> tuple[int, int, int]:
    """Numbers of k-points along the reciprocal vectors of a cell."""
    if kpts is None:
        return (1, 1, 1)
    if isinstance(kpts, tuple):
        return kpts
    lengths = np.linalg.norm(np.linalg.inv(cell), axis=0)  # columns are reciprocal vectors without 2 pi
    first, second, third = (max(1, round(float(kpts * length))) for length in lengths)
    return first, second, third
