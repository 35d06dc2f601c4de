"""The torch face of a training set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..schemas.errors import MissingPackage
from .gather_reader import OF_ATOMS, Array
from .training_frames import TrainingFrames

try:
    import torch
except ImportError as error:
    raise MissingPackage("This needs torch.", found=str(error), hint='pip install "h5ml[mace]"') from None

if TYPE_CHECKING:
    from .store import Store

Item = dict[str, torch.Tensor]


class TorchFrames(torch.utils.data.Dataset[Item]):
    """Frames of a training set as a ``torch.utils.data.Dataset``, read from the store when they are asked for.

    Parameters
    ----------
    frames : TrainingFrames
        Which ones.

    Notes
    -----
    An item is a dict of tensors: ``positions`` (atoms, 3), ``atomic_numbers``, ``cell``, ``pbc``, the targets
    ``energy``, ``forces`` and ``stress`` (NaN where unknown), ``weight`` and whatever else all sources have. A loader
    that asks for many frames at once reads them in one gather. Copies in the processes of a loader open the store anew.
    """

    def __init__(self, frames: TrainingFrames) -> None:
        self.frames = frames

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Item:
        if not -len(self) <= index < len(self):
            raise IndexError(f"there are {len(self)} frames")
        return self.__getitems__([index % len(self)])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        """Several frames in one gather; torch's loader calls this."""
        read = self.frames.take(indices)
        ends = np.cumsum(read["n_atoms"]).tolist()
        starts = [0, *ends[:-1]]
        return [
            {name: torch.tensor(v[a:b] if name in OF_ATOMS else v[i]) for name, v in read.items()}
            for i, (a, b) in enumerate(zip(starts, ends, strict=True))
        ]

    def take(self, frames: Sequence[int] | Array, names: Sequence[str] | None = None) -> dict[str, Array]:
        """Several frames as arrays, end to end: what a builder of batches takes."""
        return self.frames.take(frames, names)

    @property
    def attributes(self) -> dict[str, Any]:
        """What the set says: level of theory, energies of isolated atoms ..."""
        return self.frames.attributes


def torch_dataset(store: Store, key: str, split: str | None = None) -> TorchFrames:
    """Frames of a training set for torch.

    Parameters
    ----------
    store : Store
        Where it lies.
    key : str
        ``KEY`` or ``KEY@VERSION`` of a training set.
    split : {"train", "valid", "test"}, optional
        Only frames of this split; by default all.

    Returns
    -------
    TorchFrames
        A ``torch.utils.data.Dataset``.

    Raises
    ------
    UnknownKey, WrongKind, InvalidData
        If there is no such training set or split.
    """
    return TorchFrames(TrainingFrames(store, store.entry(key), split))
