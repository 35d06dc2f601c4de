"""How a training set is put together: filters, splits, the search for leakage, and energies of free atoms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.data import atomic_numbers
from numpy.typing import NDArray

from ..schemas.canonical import canonical_json
from ..schemas.errors import InvalidConfig, InvalidData
from ..schemas.kinds_training import TRAINING_SET
from .module import Context
from .training_set_choose import References, choose, matched
from .training_set_config import TrainingSet
from .training_set_levels import atomic_energies, average_energies, isolated_energies, level_of, only_level
from .training_set_pool import Source, facts_of, origins
from .training_set_split import Leak, divide, leaks

if TYPE_CHECKING:
    import xarray as xr

    from ..schemas.run import DataRef

Integers = NDArray[np.int64]

SPLITS = ("train", "valid", "test")
_INPUTS = ("labels", "valid", "test")


class Assembly:
    """A training set in the making.

    Parameters
    ----------
    config : TrainingSet
        Settings.
    inputs : mapping
        As the module receives them.
    context : Context
        Seed, logger, and what the inputs are called.

    Raises
    ------
    InvalidData
        On mixed or unstated levels of theory, a missing energy of a free atom, or an empty split.
    InvalidConfig
        If the weights do not fit the keys.
    """

    def __init__(self, config: TrainingSet, inputs: Mapping[str, Any], context: Context) -> None:
        self.config, self.inputs, self.context = config, inputs, context
        self.sources = self._sources()
        self.level = only_level({source.name: source.level for source in self.sources}, config.level_of_theory)
        self.baseline = self._baseline()
        self.facts = facts_of(self.sources, prints=config.leakage_tolerance_A is not None)
        self.chosen = choose(config, self.sources, self.facts, self.level)
        self.pairs = None
        if self.baseline:
            below = facts_of(self.baseline, prints=False)
            self.pairs = matched(self.chosen, self.facts, below, with_forces=config.require_forces)
        self.kept = self.chosen.kept()
        left_out = self.chosen.summary()
        context.logger.info("%d frames%s", len(self.kept), f"; left out: {left_out}" if left_out else "")
        if not self.kept.size:
            raise InvalidData(
                "No frame is left to train on.",
                expected="at least one frame that passes the filters",
                found=self.chosen.summary() or "no frames",
                hint="loosen the filters; the reasons are counted above",
            )
        self.group = self._groups(self.kept)
        self.split = self._divided()
        self._check_splits()
        self.energies = self._atomic_energies()
        self.leaks = self._leaks()

    # --- what it is made of ------------------------------------------------------------------------------------------

    def _named(self, name: str) -> list[tuple[str, xr.Dataset, DataRef | None]]:
        """The datasets of an input, with what they are called and what was read."""
        refs = self.context.sources.get(name, ())
        found = []
        for i, dataset in enumerate(self.inputs.get(name) or ()):
            ref = refs[i] if i < len(refs) else None
            found.append((f"{ref.key}@{ref.version}" if ref is not None else f"{name} {i}", dataset, ref))
        return found

    def _sources(self) -> list[Source]:
        config, labels = self.config, self._named("labels")
        if config.weights and len(config.weights) != len(labels):
            raise InvalidConfig(
                "There must be one weight for each key of labels.",
                expected=f"{len(labels)} weights",
                found=f"{len(config.weights)} weights",
            )
        weights = config.weights or (1.0,) * len(labels)
        found = []
        for fixed, name in enumerate(_INPUTS):
            for i, (called, dataset, ref) in enumerate(self._named(name)):
                level = level_of(dataset, called, config.assumed_level)
                found.append(Source(called, dataset, level, fixed or None, 1.0 if fixed else weights[i], ref))
        return found

    def _baseline(self) -> list[Source]:
        named = self._named("baseline")
        found = [Source(called, dataset, level_of(dataset, called, None), ref=ref) for called, dataset, ref in named]
        if found and only_level({one.name: one.level for one in found}, None).identity == self.level.identity:
            raise InvalidData(
                "The baseline has the level of theory of the labels.",
                key=found[0].name,
                expected="another level of theory",
                found=str(self.level),
            )
        return found

    # --- splits ------------------------------------------------------------------------------------------------------

    def _divided(self) -> Integers:
        """The split of each frame that is kept: that of its input, or one by the shares."""
        config, of_frame = self.config, self.facts.part[self.kept]
        split = np.array([-1 if one.fixed_split is None else one.fixed_split for one in self.sources])[of_frame]
        free = np.flatnonzero(split < 0)
        valid = 0.0 if self.inputs.get("valid") else config.valid_fraction
        test = 0.0 if self.inputs.get("test") else config.test_fraction
        rng = np.random.default_rng(self.context.seed)
        what, left_out = config.split_by.replace("_", " "), self.chosen.summary()
        split[free] = divide(_numbered(self.group[free]), (valid, test), rng, what, left_out)
        return split

    def _groups(self, frames: Integers) -> Integers:
        """A number for each frame; frames of equal number go into one split."""
        origin, place = (values[frames] for values in origins(self.sources, self.facts))
        columns = {
            "frame": (origin, place),
            "time_block": (origin, place // self.config.block_frames),
            "trajectory": (origin,),
            "composition": (self.facts.composition[frames],),
        }[self.config.split_by]
        return _numbered(np.stack(columns, axis=1))

    def _check_splits(self) -> None:
        needed = {"train": True, "valid": True, "test": bool(self.inputs.get("test")) or self.config.test_fraction > 0}
        for number, name in enumerate(SPLITS):
            if needed[name] and not (self.split == number).any():
                left_out = self.chosen.summary()
                raise InvalidData(
                    f"The split {name} is empty.",
                    expected="at least one frame",
                    found=f"{len(self.split)} frames in all{'; left out: ' if left_out else ''}{left_out}",
                    hint="add frames, loosen the filters, or change the fractions",
                )

    def _leaks(self) -> list[Leak]:
        if self.config.leakage_tolerance_A is None:
            return []
        prints = [self.facts.prints[i] for i in self.kept]
        alike = [self.facts.alike[i] for i in self.kept]
        found = leaks(prints, alike, self.split, self.config.leakage_tolerance_A)
        if found:
            worst = min(found, key=lambda leak: leak.distance)
            self.context.logger.warning(
                "near-identical frames in different splits: %d of validation and test; for example %s and %s differ by "
                "%.4f Angstrom; split_by = time_block or trajectory keeps neighbours in time together",
                len(found),
                self._where(worst.frame),
                self._where(worst.twin),
                worst.distance,
            )
        return found

    def _where(self, record: int) -> str:
        frame = int(self.kept[record])
        source = self.sources[int(self.facts.part[frame])]
        return f"frame {self.facts.frame[frame]} of {source.name} ({SPLITS[self.split[record]]})"

    # --- targets -----------------------------------------------------------------------------------------------------

    def _atomic_energies(self) -> dict[int, float]:
        """Energies of free atoms (eV) by atomic number; with a baseline, the differences."""
        config, facts = self.config, self.facts
        elements = facts.elements(self.kept)
        given = {atomic_numbers[symbol]: energy for symbol, energy in (config.atomic_energies_eV or {}).items()}
        if config.E0s == "average":
            train = self.kept[self.split == 0]
            targets = facts.energy[train] - (self.pairs.energy[train] if self.pairs is not None else 0.0)
            fitted = average_energies(facts.counts(elements)[facts.composition[train]], elements, targets)
            return {**fitted, **{z: energy for z, energy in given.items() if z in fitted}}
        datasets: Sequence[xr.Dataset] = self.inputs.get("isolated_atoms") or []
        levels = [self.level, *(one.level for one in self.baseline[:1])]
        sides = [isolated_energies(datasets, level) for level in levels]
        return atomic_energies(elements, given, sides, levels)

    # --- what comes of it --------------------------------------------------------------------------------------------

    def references(self) -> xr.Dataset:
        """The training set."""
        facts, kept, table = self.facts, self.kept, References()
        source, frame = table.of(self.sources, facts.part[kept], facts.frame[kept])
        values: dict[str, Any] = {
            "source": source,
            "source_frame": frame,
            "split": self.split,
            "group": self.group,
            "weight": np.array([one.weight for one in self.sources])[facts.part[kept]],
            "composition": np.array(facts.formulas, dtype=object)[facts.composition[kept]],
        }
        if self.pairs is not None:
            pairs = table.of(self.baseline, self.pairs.part[kept], self.pairs.frame[kept])
            values["baseline"], values["baseline_frame"] = pairs
        return TRAINING_SET.dataset({**values, **table.variables()}, self._attributes())

    def _attributes(self) -> dict[str, Any]:
        found: dict[str, Any] = {"level_of_theory": self.level.text}
        if self.level.id:
            found["level_of_theory_id"] = self.level.id
        if self.baseline:
            found["baseline_level_of_theory"] = self.baseline[0].level.text
        energies = {str(z): energy for z, energy in self.energies.items()}
        found |= {"isolated_atom_energies_eV": canonical_json(energies), "isolated_atom_energies_from": self.config.E0s}
        found |= {"split_by": self.config.split_by, "near_identical_frames": len(self.leaks)}
        return found | {f"n_{name}": int((self.split == i).sum()) for i, name in enumerate(SPLITS)}

    def contents(self) -> xr.Dataset:
        """What was taken of each key, and why the rest was not."""
        return self.chosen.contents(self.kept, self.split)


def _numbered(rows: Integers) -> Integers:
    """Numbers from 0, equal for equal rows."""
    numbers: Integers = np.unique(rows, axis=0, return_inverse=True)[1].astype(np.int64).ravel()
    return numbers
