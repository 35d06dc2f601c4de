"""Extended tight binding with tblite."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from ...schemas.errors import InvalidConfig
from ..potentials import Potential
from ..potentials.registry import EngineRequest
from ..potentials.xtb import tblite_potential
from .level import SCF_FAILED, Capabilities, Level, Outcome, System, failed
from .level_config import LevelSettings
from .results import outcome_of

_ALL = frozenset({"energy", "forces", "dipole", "charges"})


class TbliteLevel(Level):
    """GFN1-xTB, GFN2-xTB and relatives; bits repeat with one thread."""

    writes_files: ClassVar = False
    helps: ClassVar = frozenset({"max_iterations", "mixer", "mixer_memory", "mixer_damping", "guess"})
    fallbacks: ClassVar = (MappingProxyType({"mixer_damping": 0.1, "max_iterations": 1000}),)

    def __init__(self, settings: LevelSettings) -> None:
        super().__init__(settings)
        ours = sorted({"charge", "multiplicity", "threads"} & set(settings.keywords))
        if ours:
            raise InvalidConfig(
                "These are not keywords of the level of theory.",
                key="keywords of tblite",
                expected="the settings charge, spin_multiplicity and threads",
                found=", ".join(ours),
            )
        self._version = str(self._potential({}).fingerprint()["version"])

    def facts(self) -> dict[str, Any]:
        """Method, accuracy, keywords and the version of tblite."""
        lasting = {name: value for name, value in self._options({}).items() if name not in self.helps}
        return {
            "method": self.settings.method_name,
            "accuracy": lasting.pop("accuracy", 1.0),
            "keywords": lasting,
            "version": self._version,
        }

    def capabilities(self) -> Capabilities:
        """All but a dipole of crystals; the spin fills orbitals, and polarises only with ``spin_polarization``."""
        return Capabilities(molecules=_ALL, crystals=(_ALL - {"dipole"}) | {"stress"})

    def compute(self, system: System, properties: frozenset[str], changes: Mapping[str, Any], folder: Path) -> Outcome:
        """A single point."""
        from ase.calculators.calculator import CalculationFailed, InputError

        del folder
        state = {"charge": system.charge, "multiplicity": system.multiplicity}
        atoms = system.atoms()
        atoms.calc = self._potential({**changes, **state}).fresh()
        try:
            atoms.get_potential_energy()
        except CalculationFailed as error:
            text = str(error)
            return failed(text, SCF_FAILED) if "not converged" in text.lower() else failed(text)
        except InputError as error:
            return failed(str(error))
        return outcome_of(atoms.calc.results, properties)

    def _options(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        settings = self.settings
        own = {"accuracy": settings.conv_tol, "max_iterations": settings.max_cycles}
        return {**{k: v for k, v in own.items() if v is not None}, **settings.keywords, **changes}

    def _potential(self, changes: Mapping[str, Any]) -> Potential:
        method = self.settings.method_name
        options = {**self._options(changes), "threads": self.settings.threads}
        return tblite_potential(EngineRequest(f"tblite:{method}", method, options))
