"""A potential: energies, forces and stresses of structures, and a fingerprint that says which ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ...schemas.errors import InvalidConfig

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator

    from .mace_batch import LearnedModel


class Potential:
    """An engine together with what identifies it.

    Parameters
    ----------
    spec : str
        The text that it came from, such as ``tblite:GFN1-xTB``.
    name : str
        A short name for people.
    build : callable
        Makes a new, cold ASE calculator each time it is called.
    facts : mapping
        The fingerprint: plain values only.
    learned : callable, optional
        For a learned model, makes its torch face from a calculator.

    Attributes
    ----------
    level_of_theory : str
        What a stored checkpoint was trained on; empty where nobody says.

    Notes
    -----
    Engines have a memory (neighbour lists with a skin, guesses of a self-consistent field), so that their
    results depend on what they computed before. Whoever needs results that depend on the structure alone,
    or a run that can be resumed bit for bit, calls ``fresh``.
    """

    def __init__(
        self,
        spec: str,
        name: str,
        build: Callable[[], Calculator],
        facts: Mapping[str, Any],
        learned: Callable[[Calculator], LearnedModel] | None = None,
    ) -> None:
        self.spec = spec
        self.name = name
        self.build = build
        self.level_of_theory = ""
        self._learned = learned
        self._facts = dict(facts)
        self._calculator: Calculator | None = None

    def calculator(self) -> Calculator:
        """The ASE calculator in use; made at the first call."""
        if self._calculator is None:
            self._calculator = self.build()
        return self._calculator

    def fresh(self) -> Calculator:
        """Forget the calculator in use and return a new, cold one. Weights stay loaded."""
        self._calculator = None
        return self.calculator()

    @property
    def is_learned(self) -> bool:
        """Whether it has a torch face, see ``module``."""
        return self._learned is not None

    def module(self) -> LearnedModel:
        """The torch face of a learned model: the module, batches of structures, descriptors and their gradients.

        Raises
        ------
        InvalidConfig
            If it is no learned model.
        """
        if self._learned is None:
            raise InvalidConfig(
                "This potential is no learned model.",
                key=self.spec,
                expected="a MACE model: file:PATH.model, mace-mp:NAME or mace-off:NAME",
                found=f"the engine {self._facts['engine']}",
            )
        return self._learned(self.build())

    def fingerprint(self) -> dict[str, Any]:
        """What the results depend on.

        Returns
        -------
        dict
            ``engine``, ``version`` of the package that computes, ``method``, ``dtype``, ``weights`` (digest
            of the file of a learned model, else None), ``parameters`` (all settings that were given) and
            ``threads`` (None where the engine takes what the process has).
        """
        return dict(self._facts)

    def __getstate__(self) -> dict[str, Any]:
        """Travel between processes without the calculator in use."""
        return {**self.__dict__, "_calculator": None}

    def __repr__(self) -> str:
        return f"Potential({self.spec!r})"


def facts(
    engine: str,
    method: str,
    version: str,
    *,
    dtype: str = "float64",
    weights: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    threads: int | None = None,
) -> dict[str, Any]:
    """A fingerprint with all its entries, in a fixed order."""
    return {
        "engine": engine,
        "version": version,
        "method": method,
        "dtype": dtype,
        "weights": weights,
        "parameters": dict(sorted((parameters or {}).items())),
        "threads": threads,
    }
