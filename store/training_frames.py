"""The frames of a training set with what is learned from them: targets, splits and weights."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ..schemas.errors import InvalidData, WrongKind
from ..schemas.kinds_training import TRAINING_SET
from .catalogue import Entry
from .gather import gathered_dataset, places_of
from .gather_reader import Array, FrameReader

if TYPE_CHECKING:
    import xarray as xr

    from .store import Store

TARGETS = ("energy", "forces", "stress")
SPLITS = ("train", "valid", "test")
_EXTRA = ("dipole", "charges", "charge", "spin_multiplicity", "masses")
_WANTED = ("positions", "atomic_numbers", "cell", "pbc", *TARGETS, *_EXTRA)
_REFERENCES = ("source", "source_frame", "source_key", "source_digest")


class TrainingFrames:
    """Frames of a training set by number, read straight from their keys; a context manager.

    Parameters
    ----------
    store : Store
        Where the set and its sources lie.
    entry : Entry
        Of the kind ``training_set``.
    split : {"train", "valid", "test"}, optional
        Only frames of this split; by default all.

    Attributes
    ----------
    n_atoms : array (frames,) of int
        Size of each frame.
    split, weight : array (frames,)
        As the set says.
    attributes : dict
        Of the set: level of theory, energies of isolated atoms ...

    Raises
    ------
    WrongKind
        If the entry is no training set.
    UnknownKey
        If a source is gone.
    InvalidData
        If there is no such split, or the set refers to frames that are not there.

    Notes
    -----
    Energies, forces and stresses are the targets: of a set with a baseline, the labels minus those of the baseline.
    What a source does not have is NaN.
    """

    def __init__(self, store: Store, entry: Entry, split: str | None = None) -> None:
        if entry.kind != TRAINING_SET.name:
            raise WrongKind(
                "This is no training set.",
                key=entry.reference,
                expected="kind training_set",
                found=f"kind {entry.kind}",
                hint="make one with `h5ml compute training_set`",
            )
        if split is not None and split not in SPLITS:
            raise InvalidData("There is no such split.", key=entry.reference, expected=", ".join(SPLITS), found=split)
        self.references = store.dataset(entry.reference).load()
        self.attributes = dict(self.references.attrs)
        splits = self.references["split"].to_numpy()
        self._records = np.arange(len(splits)) if split is None else np.flatnonzero(splits == SPLITS.index(split))
        self._labels = self._reader(store, entry, "source", "source_frame", _WANTED)
        self._baseline = None
        if "baseline" in self.references:
            self._baseline = self._reader(store, entry, "baseline", "baseline_frame", TARGETS)
        self.split = splits[self._records]
        weights = self.references["weight"].to_numpy() if "weight" in self.references else np.ones(len(splits))
        self.weight = weights[self._records]
        self.n_atoms = self._labels.n_atoms[self._records]

    def _reader(self, store: Store, entry: Entry, source: str, frame: str, wanted: Sequence[str]) -> FrameReader:
        places = places_of(store, self.references, entry.reference, source=source, frame=frame)
        return FrameReader(store, places, self.references.sizes["record"], wanted=wanted, filled=TARGETS)

    def __len__(self) -> int:
        return len(self._records)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the sources."""
        self._labels.close()
        if self._baseline is not None:
            self._baseline.close()

    @property
    def names(self) -> list[str]:
        """Variables of a frame."""
        return self._labels.names

    def trailing(self, name: str) -> tuple[int, ...]:
        """Shape of a variable for one frame, or for one atom."""
        return self._labels.trailing(name)

    def dtype(self, name: str) -> np.dtype[Any]:
        """Type of a variable."""
        return self._labels.dtype(name)

    def take(self, frames: Sequence[int] | Array, names: Sequence[str] | None = None) -> dict[str, Array]:
        """Some frames, end to end.

        Parameters
        ----------
        frames : sequence of int
            Numbers from 0, in any order, repeated or not.
        names : sequence of str, optional
            Which variables; by default all.

        Returns
        -------
        dict of str to numpy.ndarray
            Arrays ``(frames, ...)`` or ``(sum of atoms, ...)``; ``n_atoms``, ``split`` and ``weight`` among them.
        """
        index = np.asarray(frames, dtype=np.int64)
        records = self._records[index]
        found = self._labels.take(records, names)
        if self._baseline is not None:
            _subtract(found, self._baseline, records)
        return {**found, "split": self.split[index], "weight": self.weight[index]}

    def read(self, name: str, selection: tuple[Any, ...]) -> Array:
        """A part of one variable of the whole set, for lazy arrays; nothing stays open."""
        values = self._labels.read(name, selection)
        if self._baseline is None or name not in TARGETS:
            return values
        missing = name not in self._baseline.names
        return np.full_like(values, np.nan) if missing else values - self._baseline.read(name, selection)


def _subtract(found: dict[str, Array], baseline: FrameReader, records: Array) -> None:
    """Make targets of labels, in place: what the baseline does not know is NaN."""
    wanted = [name for name in TARGETS if name in found]
    other = baseline.take(records, [name for name in wanted if name in baseline.names])
    for name in wanted:
        found[name] = found[name] - other[name] if name in other else np.full_like(found[name], np.nan)


def gather_training(store: Store, entry: Entry) -> xr.Dataset:
    """A training set with its frames: structures, targets, splits and weights.

    Parameters
    ----------
    store : Store
        Where the set and its sources lie.
    entry : Entry
        Of the kind ``training_set``.

    Returns
    -------
    xarray.Dataset
        Of the kind ``structures``, one frame for each record: ``energy``, ``forces`` and ``stress`` are the targets
        (NaN where unknown), ``split`` is 0 train, 1 valid, 2 test, ``weight`` that of the frame; the references are
        kept, and the attributes of the set (``level_of_theory``, ``isolated_atom_energies_eV`` ...).
    """
    frames = TrainingFrames(store, entry)
    kept = {name: frames.references[name].to_numpy() for name in _REFERENCES}
    kept |= {"split": frames.split, "weight": frames.weight}
    if "group" in frames.references:
        kept["group"] = frames.references["group"].to_numpy()
    attributes = {name: value for name, value in frames.attributes.items() if name not in ("kind", "schema_version")}
    dataset = gathered_dataset(frames, kept, {"training_set": entry.reference, **attributes})
    split = TRAINING_SET.variable("split")
    assert split is not None
    dataset["split"].attrs.update(split.attributes())
    return dataset
