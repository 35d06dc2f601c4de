"""Which labelled frames enter a training set, why others do not, and how they are referred to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.formula import Formula
from numpy.typing import NDArray

from ..schemas.kinds import TABLE
from .training_set_config import TrainingSet
from .training_set_levels import Level
from .training_set_pool import Facts, Source

if TYPE_CHECKING:
    import xarray as xr

Integers = NDArray[np.int64]

REASONS = (
    "level_of_theory",
    "equilibration",
    "isolated_atom",
    "not_converged",
    "no_energy",
    "no_forces",
    "elements",
    "composition",
    "force",
    "energy_window",
    "duplicate",
    "no_baseline",
)
"""Why a frame is left out, in the order in which they are looked at; the first that applies counts."""

_STATUS = ("done", "undefined", "scf_failed", "failed", "absurd")


class Chosen:
    """Frames that are left after every filter.

    Parameters
    ----------
    sources : sequence of Source
        Where the frames lie.
    facts : Facts
        What is known of them.
    """

    def __init__(self, sources: Sequence[Source], facts: Facts) -> None:
        self.sources, self.facts = sources, facts
        self._reason = np.full(len(facts.part), -1, dtype=np.int64)

    def drop(self, reason: str, which: NDArray[np.bool_]) -> None:
        """Leave out some frames; those that were left out before keep their reason."""
        self._reason[which & (self._reason < 0)] = REASONS.index(reason)

    def kept(self) -> Integers:
        """Indices of the frames that are left."""
        return np.flatnonzero(self._reason < 0)

    def summary(self) -> str:
        """How many are left out, by reason."""
        counts = np.bincount(self._reason[self._reason >= 0], minlength=len(REASONS))
        return ", ".join(f"{count} {name}" for name, count in zip(REASONS, counts.tolist(), strict=True) if count)

    def contents(self, kept: Integers, split: Integers) -> xr.Dataset:
        """One row for each source: what was taken of it and what was not."""
        facts, n = self.facts, len(self.sources)
        part = facts.part[kept]

        def count(which: NDArray[Any]) -> Integers:
            return np.bincount(which, minlength=n)

        energy = facts.energy[kept] / facts.n_atoms[kept]
        texts = {
            "source": [source.name for source in self.sources],
            "level_of_theory": [source.level.text for source in self.sources],
            "compositions": [self._formulas(kept[part == i]) for i in range(n)],
        }
        numbers = {
            "frames": count(facts.part),
            "taken": count(part),
            **{name: count(part[split == i]) for i, name in enumerate(("train", "valid", "test"))},
            "atoms": np.array([facts.n_atoms[kept[part == i]].sum() for i in range(n)]),
            **{f"without_{r}": count(facts.part[self._reason == i]) for i, r in enumerate(REASONS)},
        }
        ranges = {
            "lowest_energy": (_extreme(np.min, energy, part, n), "eV"),
            "highest_energy": (_extreme(np.max, energy, part, n), "eV"),
            "largest_force": (_extreme(np.max, facts.max_force[kept], part, n), "eV/Angstrom"),
        }
        along = ("row",)
        values: dict[str, Any] = {name: (along, np.array(column, dtype=object)) for name, column in texts.items()}
        values |= {name: (along, column.astype(np.int64), {"units": "1"}) for name, column in numbers.items()}
        values |= {name: (along, column, {"units": unit}) for name, (column, unit) in ranges.items()}
        return TABLE.dataset(values, {"energies": "of a frame, divided by its number of atoms"})

    def _formulas(self, frames: Integers) -> str:
        counts = np.bincount(self.facts.composition[frames], minlength=len(self.facts.formulas))
        return ", ".join(f"{text} ({n})" for text, n in zip(self.facts.formulas, counts.tolist(), strict=True) if n)


def _extreme(function: Any, values: NDArray[Any], part: Integers, n: int) -> NDArray[Any]:
    mine = [values[(part == i) & np.isfinite(values)] for i in range(n)]
    return np.array([float(function(found)) if len(found) else np.nan for found in mine])


def choose(config: TrainingSet, sources: Sequence[Source], facts: Facts, level: Level) -> Chosen:
    """Apply the filters.

    Parameters
    ----------
    config : TrainingSet
        The filters.
    sources : sequence of Source
        Where the frames lie.
    facts : Facts
        What is known of them.
    level : Level
        The one that counts.
    """
    chosen = Chosen(sources, facts)
    other = np.array([source.level.identity != level.identity for source in sources])
    chosen.drop("level_of_theory", other[facts.part])
    if not config.include_equilibration:
        chosen.drop("equilibration", facts.equilibration != 0)
    if not config.keep_isolated_atoms:
        chosen.drop("isolated_atom", facts.n_atoms == 1)
    allowed = {0, *(_STATUS.index(name) for name in config.include_status)}
    bad = ~np.isin(facts.status, list(allowed))
    if "scf_failed" not in config.include_status:
        bad |= facts.converged == 0
    chosen.drop("not_converged", bad)
    chosen.drop("no_energy", ~np.isfinite(facts.energy))
    if config.require_forces:
        chosen.drop("no_forces", ~np.isfinite(facts.max_force))
    parts = [Formula(text).count() for text in facts.formulas]
    if config.elements:
        foreign = np.array([not set(part) <= set(config.elements) for part in parts])
        chosen.drop("elements", foreign[facts.composition])
    if config.compositions:
        unwanted = np.array([text not in config.compositions for text in facts.formulas])
        chosen.drop("composition", unwanted[facts.composition])
    if config.max_force_eV_A is not None:
        chosen.drop("force", facts.max_force > config.max_force_eV_A)
    if config.energy_window_eV_atom is not None:
        chosen.drop("energy_window", _above(facts, chosen.kept(), config.energy_window_eV_atom))
    if not config.keep_duplicates:
        chosen.drop("duplicate", _repeated(facts, chosen.kept()))
    return chosen


def _above(facts: Facts, kept: Integers, window: float) -> NDArray[np.bool_]:
    """Frames whose energy per atom lies too high above the lowest of the same reduced formula."""
    reduced = [Formula(text).reduce()[0].format("hill") for text in facts.formulas]
    number = {text: i for i, text in enumerate(dict.fromkeys(reduced))}
    group = np.array([number[text] for text in reduced], dtype=np.int64)[facts.composition]
    energy = facts.energy / facts.n_atoms
    lowest = np.full(len(number), np.inf)
    np.minimum.at(lowest, group[kept], energy[kept])
    found = np.zeros(len(energy), dtype=bool)
    found[kept] = energy[kept] > lowest[group[kept]] + window
    return found


def _repeated(facts: Facts, kept: Integers) -> NDArray[np.bool_]:
    """Frames that are equal to one before."""
    seen: set[bytes] = set()
    found = np.zeros(len(facts.part), dtype=bool)
    for frame in kept.tolist():
        found[frame] = facts.digest[frame] in seen
        seen.add(facts.digest[frame])
    return found


@dataclass(frozen=True, slots=True)
class Pairs:
    """The label of the baseline of each frame.

    Attributes
    ----------
    part, frame : array (frames,) of int
        Source and frame; -1 where there is none.
    energy : array (frames,)
        Its energy (eV).
    """

    part: Integers
    frame: Integers
    energy: NDArray[np.float64]


def matched(chosen: Chosen, facts: Facts, baseline: Facts, *, with_forces: bool) -> Pairs:
    """Find the baseline's label of each frame by its structure; frames without one are left out.

    Parameters
    ----------
    chosen : Chosen
        Loses the frames without a partner.
    facts, baseline : Facts
        Of the labels and of the baseline.
    with_forces : bool
        Whether a label of the baseline needs all its forces.

    Notes
    -----
    Only labels that ended well are partners, whatever is asked for of the others.
    """
    good = (baseline.status == 0) & (baseline.converged == 1) & np.isfinite(baseline.energy)
    if with_forces:
        good &= np.isfinite(baseline.max_force)
    places = {baseline.digest[i]: i for i in np.flatnonzero(good)[::-1].tolist()}
    at = np.array([places.get(digest, -1) for digest in facts.digest], dtype=np.int64)
    chosen.drop("no_baseline", at < 0)
    safe = np.maximum(at, 0)
    if not len(baseline.part):
        nothing = np.full(len(at), -1, dtype=np.int64)
        return Pairs(nothing, nothing, np.full(len(at), np.nan))
    return Pairs(baseline.part[safe], baseline.frame[safe], np.where(at < 0, np.nan, baseline.energy[safe]))


class References:
    """Tables of sources, each named once, for frames that refer to them."""

    def __init__(self) -> None:
        self._sources: dict[tuple[str, str], int] = {}

    def of(self, sources: Sequence[Source], part: Integers, frame: Integers) -> tuple[Integers, Integers]:
        """Source and frame of some frames; those of a selection are the original ones."""
        source, place = np.empty(len(part), dtype=np.int64), frame.copy()
        for number, one in enumerate(sources):
            mine = part == number
            if not mine.any():
                continue
            dataset, ref = one.dataset, one.ref
            if ref is not None and ref.kind == "selection":
                tables = (dataset[name].to_numpy() for name in ("source_key", "source_digest"))
                numbers = [self._number(str(key), str(digest)) for key, digest in zip(*tables, strict=True)]
                chosen = frame[mine]
                source[mine] = np.array(numbers, dtype=np.int64)[dataset["source"].to_numpy()[chosen]]
                place[mine] = dataset["source_frame"].to_numpy()[chosen]
            else:
                source[mine] = self._number(one.name, ref.digest if ref is not None else "")
        return source, place

    def _number(self, key: str, digest: str) -> int:
        return self._sources.setdefault((key, digest), len(self._sources))

    def variables(self) -> dict[str, NDArray[Any]]:
        """The tables."""
        keys, digests = [key for key, _ in self._sources], [digest for _, digest in self._sources]
        return {"source_key": np.array(keys, dtype=object), "source_digest": np.array(digests, dtype=object)}
