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
from .results import outcome_of, said

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
        for changes in self.attempts() if settings.keywords or settings.fallbacks else ():
            self._try(changes)

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

    def _try(self, changes: Mapping[str, Any]) -> None:
        """Refuse keywords whose values tblite cannot use: it looks at them when it computes."""
        from ase import Atoms
        from ase.calculators.calculator import CalculationFailed, InputError

        atoms = Atoms("He", calculator=self._potential(changes).fresh())
        try:
            atoms.get_potential_energy()
        except CalculationFailed:
            return
        except (KeyError, TypeError, ValueError, OverflowError, InputError) as error:
            given = {**self.settings.keywords, **changes}
            raise InvalidConfig(
                "A keyword of tblite has no such value.",
                key="keywords of tblite",
                expected="values that tblite takes",
                found=", ".join(f"{name}={value}" for name, value in given.items()),
                hint=said(error),
            ) from None

    def _options(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        settings = self.settings
        own = {"accuracy": settings.conv_tol, "max_iterations": settings.max_cycles}
        return {**{k: v for k, v in own.items() if v is not None}, **settings.keywords, **changes}

    def _potential(self, changes: Mapping[str, Any]) -> Potential:
        method = self.settings.method_name
        options = {**self._options(changes), "threads": self.settings.threads}
        return tblite_potential(EngineRequest(f"tblite:{method}", method, options))
