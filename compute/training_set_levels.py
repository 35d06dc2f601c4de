"""Levels of theory of training sets, and the energies of free atoms that belong to them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.data import atomic_numbers, chemical_symbols
from numpy.typing import NDArray

from ..schemas.errors import InvalidData

if TYPE_CHECKING:
    import xarray as xr

_APART = ("spin_treatment", "kpts")
"""What an atom and a crystal of one level of theory may do differently."""
_ID_LENGTH = 8


@dataclass(frozen=True, slots=True)
class Level:
    """A level of theory.

    Attributes
    ----------
    text : str
        What it is.
    id : str
        Its digest; empty where it has none.
    """

    text: str
    id: str = ""

    @property
    def identity(self) -> str:
        """What two equal levels share."""
        return self.id or self.text

    def is_named(self, name: str) -> bool:
        """Whether a user means it by a text, or by the beginning of its id."""
        return name == self.text or (len(name) >= _ID_LENGTH and self.id.startswith(name))

    def fits_atoms(self, other: Level) -> bool:
        """Whether free atoms of another level belong to it; spin and k-points may differ."""
        return self.identity == other.identity or _without(self.text) == _without(other.text)

    def __str__(self) -> str:
        return self.text if len(self.text) <= 300 else f"{self.text[:300]}..."


def _without(text: str) -> str:
    try:
        found = json.loads(text)
    except ValueError:
        return text
    if not isinstance(found, dict):
        return text
    return json.dumps({name: value for name, value in found.items() if name not in _APART}, sort_keys=True)


def level_of(dataset: xr.Dataset, name: str, assumed: str | None) -> Level:
    """The level of theory that a dataset states.

    Parameters
    ----------
    dataset : xarray.Dataset
        With labels.
    name : str
        What it is called, for messages.
    assumed : str, optional
        The level of data that state none.

    Raises
    ------
    InvalidData
        If it states several, or none.
    """
    several = dataset.attrs.get("levels_of_theory")
    if several:
        raise _mixed(name, [str(text) or "none stated" for text in several])
    text = dataset.attrs.get("level_of_theory")
    if text:
        said = text if isinstance(text, str) else json.dumps(text, sort_keys=True, separators=(",", ":"))
        return Level(said, str(dataset.attrs.get("level_of_theory_id") or ""))
    if assumed is None:
        raise InvalidData(
            "These data do not state their level of theory.",
            key=name,
            expected="the attribute level_of_theory",
            found="none",
            hint="set assumed_level to what made them, or label them with `h5ml compute dft`",
        )
    return Level(assumed)


def only_level(levels: Mapping[str, Level], wanted: str | None) -> Level:
    """The one level of several sources.

    Parameters
    ----------
    levels : mapping of str to Level
        By the name of the source.
    wanted : str, optional
        Only this one counts.

    Raises
    ------
    InvalidData
        If there are several, or none is the wanted one.
    """
    chosen = {name: level for name, level in levels.items() if wanted is None or level.is_named(wanted)}
    if not chosen:
        raise InvalidData(
            "No source has this level of theory.",
            expected=f"level_of_theory = {wanted}",
            found="; ".join(f"{name}: {level}" for name, level in levels.items()),
        )
    first_name, first = next(iter(chosen.items()))
    for name, level in chosen.items():
        if level.identity != first.identity:
            raise _mixed(name, [f"{first} ({first_name})", f"{level} ({name})"])
    return first


def _mixed(name: str, levels: Sequence[str]) -> InvalidData:
    return InvalidData(
        "Labels of different levels of theory cannot be trained on together.",
        key=name,
        expected="one level of theory",
        found=" and ".join(levels),
        hint="set level_of_theory to one of them, or give the other as baseline to learn the difference",
    )


def isolated_energies(datasets: Iterable[xr.Dataset], level: Level) -> dict[int, float]:
    """Energies of free atoms (eV) of one level, by atomic number, among several datasets.

    Parameters
    ----------
    datasets : iterable of xarray.Dataset
        Labels of single atoms, of which those count that ended well, or tables with the columns ``element`` and
        ``energy``.
    level : Level
        Only those of this level count; a table that states none counts as well.
    """
    found: dict[int, float] = {}
    for dataset in datasets:
        stated = dataset.attrs.get("level_of_theory")
        if stated and not level.fits_atoms(level_of(dataset, "isolated_atoms", None)):
            continue
        if "element" in dataset:
            numbers = [atomic_numbers.get(str(symbol), 0) for symbol in dataset["element"].to_numpy()]
            energies = dataset["energy"].to_numpy()
        else:
            alone = dataset["n_atoms"].to_numpy() == 1
            for name, value in (("status", 0), ("converged", 1)):
                alone &= dataset[name].to_numpy() == value if name in dataset else True
            starts = np.cumsum(dataset["n_atoms"].to_numpy()) - dataset["n_atoms"].to_numpy()
            numbers = dataset["atomic_numbers"].to_numpy()[starts[alone]].tolist()
            energies = dataset["energy"].to_numpy()[alone]
        for number, energy in zip(numbers, energies.tolist(), strict=True):
            if np.isfinite(energy):
                found[number] = min(energy, found.get(number, np.inf))
    return found


def atomic_energies(
    elements: Iterable[int],
    given: Mapping[int, float],
    sides: Sequence[Mapping[int, float]],
    levels: Sequence[Level],
) -> dict[int, float]:
    """Energies of free atoms (eV) of all elements, where two levels are given their differences.

    Parameters
    ----------
    elements : iterable of int
        Atomic numbers that need one.
    given : mapping of int to float
        By atomic number; they take precedence.
    sides : sequence of mapping
        By atomic number: those of the labels, and those of the baseline where there is one.
    levels : sequence of Level
        Of each side, for messages.

    Raises
    ------
    InvalidData
        If an element has none; names it and the level.
    """
    found: dict[int, float] = {}
    missing = []
    for number in sorted(elements):
        lacking = [level for side, level in zip(sides, levels, strict=True) if number not in side]
        if number in given:
            found[number] = float(given[number])
        elif lacking:
            missing += [f"{chemical_symbols[number]} at {level}" for level in lacking]
        else:
            found[number] = float(sides[0][number] - sum(side[number] for side in sides[1:]))
    if missing:
        raise InvalidData(
            "Energies of free atoms are missing.",
            expected="the input isolated_atoms with every element, at the level of theory of the labels",
            found=f"none for {'; '.join(missing)}",
            hint="compute them with `h5ml compute isolated_atoms`, or set atomic_energies_eV or E0s = average",
        )
    return found


def average_energies(compositions: NDArray[np.int64], elements: Sequence[int], energies: Any) -> dict[int, float]:
    """Energies per element that fit total energies best (least squares), as MACE's ``E0s = average``.

    Parameters
    ----------
    compositions : array (frames, elements) of int
        Numbers of atoms.
    elements : sequence of int
        Atomic numbers of the columns.
    energies : array (frames,)
        Total energies (eV).
    """
    fitted = np.linalg.lstsq(compositions.astype(np.float64), np.asarray(energies), rcond=None)[0]
    return {z: float(energy) for z, energy in zip(elements, fitted, strict=True)}
