"""The frames to label: of several inputs, in a fixed order, each with its place, charge, spin and identity."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..schemas.errors import InvalidData
from .dft_config import Dft
from .levels.level import Level, System, identity_of
from .structure.frames import iterate_atoms, production_frames

if TYPE_CHECKING:
    import xarray as xr

    from ..schemas.run import DataRef

Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Part:
    """The frames that are taken of one input, and what they are for others: of a selection, the original ones."""

    dataset: xr.Dataset
    frames: Integers
    source: Integers
    source_frame: Integers


class Frames:
    """All frames of all inputs, end to end.

    Parameters
    ----------
    config : Dft
        Which frames count, and their charge and spin.
    datasets : sequence of xarray.Dataset
        Of kinds with frames.
    refs : sequence of DataRef
        What was read for each; empty where nobody knows.

    Raises
    ------
    InvalidData
        If there are no frames.
    """

    def __init__(self, config: Dft, datasets: Sequence[xr.Dataset], refs: Sequence[DataRef]) -> None:
        self._config = config
        self._sources: dict[tuple[str, str], int] = {}
        self._parts = [self._part(d, refs[i] if i < len(refs) else None, i) for i, d in enumerate(datasets)]
        self.source = np.concatenate([part.source for part in self._parts])
        self.source_frame = np.concatenate([part.source_frame for part in self._parts])
        if not len(self):
            raise InvalidData(
                "There are no frames to label.",
                expected="at least one frame",
                found=f"{sum(int(d.sizes['frame']) for d in datasets)} frames, all of equilibration",
                hint="set include_equilibration, or give another key",
            )

    def __len__(self) -> int:
        return len(self.source)

    def _part(self, dataset: xr.Dataset, ref: DataRef | None, number: int) -> _Part:
        frames = production_frames(dataset, include_equilibration=self._config.include_equilibration)
        if ref is not None and ref.kind == "selection":
            tables = (dataset[name].to_numpy() for name in ("source_key", "source_digest"))
            places = [self._number(str(key), str(digest)) for key, digest in zip(*tables, strict=True)]
            source = np.array(places, dtype=np.int64)[dataset["source"].to_numpy()[frames]]
            return _Part(dataset, frames, source, dataset["source_frame"].to_numpy()[frames])
        key, digest = (f"{ref.key}@{ref.version}", ref.digest) if ref is not None else (f"input {number}", "")
        return _Part(dataset, frames, np.full(len(frames), self._number(key, digest)), frames)

    def _number(self, key: str, digest: str) -> int:
        return self._sources.setdefault((key, digest), len(self._sources))

    def where(self, frame: int) -> str:
        """The place of a frame, for messages."""
        return f"{list(self._sources)[int(self.source[frame])][0]}, frame {int(self.source_frame[frame])}"

    def references(self, first: int, last: int) -> dict[str, Any]:
        """The variables that say where frames come from; none where nobody knows."""
        if not all(digest for _, digest in self._sources):
            return {}
        return {
            "source": self.source[first:last],
            "source_frame": self.source_frame[first:last],
            "source_key": np.array([key for key, _ in self._sources], dtype=object),
            "source_digest": np.array([digest for _, digest in self._sources], dtype=object),
        }

    def systems(self, first: int = 0) -> Iterator[System]:
        """Structures with charge and spin from a frame on, read in blocks."""
        for part in self._parts:
            if first < len(part.frames):
                for atoms in iterate_atoms(part.dataset, part.frames[first:]):
                    yield System.of(atoms, self._config.charge, self._config.spin_multiplicity)
            first = max(0, first - len(part.frames))

    def identities(self, level: Level, theory: str) -> list[str]:
        """The identity of every label, once the engine took a look at every frame.

        Raises
        ------
        InvalidData
            If a frame has no atoms.
        InvalidConfig
            If the engine cannot do one; names it.
        """
        properties = frozenset(self._config.properties)
        found = []
        for frame, system in enumerate(self.systems()):
            if not len(system.numbers):
                raise InvalidData("A frame has no atoms.", key=self.where(frame), expected="at least one atom")
            level.check(system, properties, self.where(frame))
            found.append(identity_of(system, theory))
        return found
