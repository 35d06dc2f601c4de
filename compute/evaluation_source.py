"""The labelled frames that an evaluation is made on, and how they are divided into tasks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..schemas.errors import InvalidData
from .evaluation_config import Evaluation
from .evaluation_predict import Task
from .structure.frames import production_frames
from .structure.ragged import frame_sizes

if TYPE_CHECKING:
    import xarray as xr

    from ..schemas.run import DataRef
    from .potentials import Potential

Integers = NDArray[np.int64]

SPLITS = ("train", "valid", "test")
_SHOWN = 300


@dataclass(frozen=True, slots=True)
class Source:
    """One labelled key.

    Attributes
    ----------
    name : str
        What it is called.
    dataset : xarray.Dataset
        Its frames.
    frames : array of int
        Those that count.
    ref : DataRef or None
        What was read.
    """

    name: str
    dataset: xr.Dataset
    frames: Integers
    ref: DataRef | None

    def elements(self) -> dict[int, str]:
        """Atomic numbers, each with the name of the source."""
        return {int(z): self.name for z in np.unique(self.dataset["atomic_numbers"].to_numpy())}

    def reference(self, frames: Integers) -> tuple[list[tuple[str, str]], Integers, Integers]:
        """Tables of the original sources of some frames, and which of them and which frame each one is."""
        dataset = self.dataset
        if self.ref is None or self.ref.kind not in ("selection", "training_set"):
            digest = self.ref.digest if self.ref is not None else ""
            return [(self.name, digest)], np.zeros(len(frames), dtype=np.int64), frames
        tables = (dataset[name].to_numpy().astype(str).tolist() for name in ("source_key", "source_digest"))
        return (
            list(zip(*tables, strict=True)),
            dataset["source"].to_numpy()[frames],
            dataset["source_frame"].to_numpy()[frames],
        )


@dataclass(frozen=True, slots=True)
class Part:
    """A task with its source.

    Attributes
    ----------
    source : Source
        Where its frames come from.
    work : Task
        What a worker needs.
    """

    source: Source
    work: Task

    def values(self, name: str) -> NDArray[Any] | None:
        """A variable of its frames, of atoms end to end; None where the source has none."""
        dataset, frames = self.source.dataset, self.work.frames
        if name not in dataset:
            return None
        array = dataset[name]
        if "n_atoms" in dataset and "atom" in array.dims:
            return _ragged(dataset, name, frames)
        if "frame" not in array.dims:
            values = np.broadcast_to(array.to_numpy(), (len(frames), *array.shape))
        else:
            values = array.isel(frame=frames).to_numpy()
        return values.reshape(-1, *values.shape[2:]) if "atom" in array.dims else values

    @property
    def n_atoms(self) -> Integers:
        """Sizes of its frames."""
        sizes: Integers = frame_sizes(self.source.dataset)[self.work.frames]
        return sizes


def _ragged(dataset: xr.Dataset, name: str, frames: Integers) -> NDArray[Any]:
    """Atoms of ascending frames, read as one block."""
    counts = dataset["n_atoms"].to_numpy()
    ends = np.cumsum(counts)
    low, high = int(frames[0]), int(frames[-1])
    start = int(ends[low] - counts[low])
    block = dataset[name].isel(atom=slice(start, int(ends[high]))).to_numpy()
    kept = np.repeat(np.isin(np.arange(low, high + 1), frames), counts[low : high + 1])
    return np.asarray(block[kept])


def sources_of(config: Evaluation, datasets: Sequence[xr.Dataset], refs: Sequence[DataRef]) -> list[Source]:
    """The frames of every input that count.

    Raises
    ------
    InvalidData
        If an input has no energies, its targets are differences of two levels, a frame has no atoms, or no frame
        counts.
    """
    found, reasons = [], Counter[str]()
    for i, dataset in enumerate(datasets):
        ref = refs[i] if i < len(refs) else None
        name = f"{ref.key}@{ref.version}" if ref is not None else f"labels {i}"
        if "energy" not in dataset:
            raise InvalidData(
                "These frames have no energies to compare with.",
                key=name,
                expected="labels, or frames with energies",
                found=", ".join(map(str, dataset.data_vars)),
            )
        if "baseline_level_of_theory" in dataset.attrs:
            raise InvalidData(
                "The targets of this training set are differences of two levels of theory.",
                key=name,
                expected="labels of one level, which a delta model with its baseline predicts",
                found=f"minus {dataset.attrs['baseline_level_of_theory']}",
                hint="give the labels themselves",
            )
        frames, without = _frames(config, dataset)
        empty = frames[frame_sizes(dataset)[frames] == 0]
        if len(empty):
            place = f"{name}, frame {int(empty[0])}"
            raise InvalidData("A frame has no atoms.", key=place, expected="at least one atom", found="none")
        reasons.update(without)
        found.append(Source(name, dataset, frames, ref))
    if not any(len(source.frames) for source in found):
        total = sum(int(d.sizes["frame"]) for d in datasets)
        why = ", ".join(f"{count} {reason}" for reason, count in reasons.items() if count)
        raise InvalidData(
            "There are no labels to compare with.",
            key=found[0].name,
            expected="at least one converged label with an energy",
            found=f"{total} frames, none of which counts{': ' if why else ''}{why}",
        )
    return [source for source in found if len(source.frames)]


def _frames(config: Evaluation, dataset: xr.Dataset) -> tuple[Integers, dict[str, int]]:
    """The frames that count, and why how many others do not; the first reason that applies."""
    every = production_frames(dataset, include_equilibration=config.include_equilibration)
    good = np.ones(len(every), dtype=bool)
    without = {"of equilibration": int(dataset.sizes["frame"]) - len(every)}

    def keep(reason: str, which: NDArray[np.bool_]) -> None:
        without[reason] = int((good & ~which).sum())
        good[:] &= which

    if config.split is not None and "split" in dataset:
        keep(f"outside the split {config.split}", dataset["split"].to_numpy()[every] == SPLITS.index(config.split))
    if not config.include_unconverged:
        for name, value in (("converged", 1), ("status", 0)):
            if name in dataset:
                keep(
                    "that did not end well" if value == 0 else "not converged", dataset[name].to_numpy()[every] == value
                )
    keep("without an energy", np.isfinite(dataset["energy"].to_numpy()[every]))
    chosen: Integers = every[good]
    return chosen, without


def other_levels(models: Sequence[Potential], sources: Sequence[Source]) -> list[str]:
    """What to say of labels whose level of theory is not the one that a model was trained on."""
    found = []
    for model in models:
        for source in sources:
            stated = str(source.dataset.attrs.get("level_of_theory") or "")
            if stated and model.level_of_theory and stated != model.level_of_theory:
                found.append(
                    f"{source.name} is of another level of theory ({stated[:_SHOWN]}) than {model.spec} was trained on "
                    f"({model.level_of_theory[:_SHOWN]})"
                )
    return found


def tasks_of(config: Evaluation, models: tuple[Potential, ...], sources: Sequence[Source]) -> list[Part]:
    """All frames, some at a time, in their order."""
    step = config.task_frames
    return [
        Part(source, Task(models, source.dataset, source.frames[first : first + step], config.batch_size))
        for source in sources
        for first in range(0, len(source.frames), step)
    ]
