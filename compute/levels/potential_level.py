"""A potential as teacher: a stored checkpoint, or any engine and method that other steps take as a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from ...schemas.errors import H5mlError, InvalidConfig
from ..potentials import Potential
from ..potentials.elements import known_elements
from .level import Capabilities, Level, Outcome, System, failed
from .level_config import LevelSettings
from .results import outcome_of, said


class PotentialLevel(Level):
    """A potential; charge and spin mean nothing to it.

    Parameters
    ----------
    settings : LevelSettings
        Of use: ``threads``.
    potential : Potential
        The teacher.
    """

    writes_files: ClassVar = False
    helps: ClassVar = frozenset[str]()

    def __init__(self, settings: LevelSettings, potential: Potential | None) -> None:
        if potential is None:
            raise InvalidConfig(
                "There is no potential to label with.",
                expected="the input model",
                found="nothing",
                hint="give model=KEY of a checkpoint, or engine:method such as mace-mp:small; or choose another engine",
            )
        self.potential, self._known = potential, known_elements(potential)
        super().__init__(settings)

    def facts(self) -> dict[str, Any]:
        """The fingerprint of the potential; threads are none of the theory."""
        found = {name: value for name, value in self.potential.fingerprint().items() if name != "threads"}
        return {"method": self.potential.name, "potential": found}

    def capabilities(self) -> Capabilities:
        """Whatever its calculator says."""
        able = frozenset(self.potential.calculator().implemented_properties) & frozenset(
            {"energy", "forces", "stress", "dipole", "charges"}
        )
        crystals = able - {"dipole"}
        return Capabilities(able, crystals, frozenset({0, 1, 2, 3}), charge=False, spin=False)

    def refuse(self, system: System) -> str:
        """Elements that a learned model was not trained on."""
        from ase.data import chemical_symbols

        foreign = set(system.numbers.tolist()) - self._known if self._known is not None else set()
        if not foreign:
            return ""
        names, known = (" ".join(chemical_symbols[z] for z in sorted(some)) for some in (foreign, self._known or ()))
        return f"{names}: {self.potential.spec} was trained on {known}"

    def compute(self, system: System, properties: frozenset[str], changes: Mapping[str, Any], folder: Path) -> Outcome:
        """A single point of a cold calculator."""
        del changes, folder
        atoms = system.atoms()
        calculator = self.potential.fresh()
        try:
            calculator.calculate(atoms, [p for p in properties if p != "energy"] or ["energy"])
        except H5mlError:
            raise
        except Exception as error:  # noqa: BLE001 - a foreign calculator may fail in any way
            return failed(said(error))
        return outcome_of(calculator.results, properties)
