"""The frames that a selection refers to, gathered from their keys as structures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..schemas.errors import UnknownKey
from ..schemas.key import parse_reference
from ..schemas.kinds import STRUCTURES
from ..schemas.run import DataRef
from .catalogue import Entry

if TYPE_CHECKING:
    import xarray as xr

    from .store import Store

_OF_ATOMS = ("positions", "atomic_numbers", "masses", "velocities", "forces")
_EMPTY = {"positions": (0, 3), "atomic_numbers": (0,), "cell": (0, 3, 3), "pbc": (0, 3)}
_OF_FRAMES = ("cell", "pbc", "energy", "stress", "charge", "spin_multiplicity")


def sources_of(store: Store, dataset: xr.Dataset, where: str) -> list[Entry]:
    """The entries that ``source_key`` and ``source_digest`` of a dataset mean, wherever they lie by now.

    Raises
    ------
    UnknownKey
        If one is gone.
    """
    found = []
    for text, digest in zip(dataset["source_key"].to_numpy(), dataset["source_digest"].to_numpy(), strict=True):
        key, version = parse_reference(str(text))
        entry = store.catalogue.locate(DataRef(key=key, version=version or 1, kind="structures", digest=str(digest)))
        if entry is None:
            raise UnknownKey("A selection refers to frames that are gone.", key=where, found=str(text))
        found.append(entry)
    return found


def gather(store: Store, selection: Entry) -> xr.Dataset:
    """Structures of all chosen frames, in the order of their choice.

    Parameters
    ----------
    store : Store
        Where the selection and its sources lie.
    selection : Entry
        Of the kind ``selection``.

    Returns
    -------
    xarray.Dataset
        Of the kind ``structures``, with what all sources have of masses, velocities, energies, forces, stresses,
        charges and spins, and with ``source`` and ``source_frame`` of each.

    Raises
    ------
    UnknownKey
        If a source is gone.
    """
    chosen = store.dataset(selection.reference)
    source, frame = chosen["source"].to_numpy(), chosen["source_frame"].to_numpy()
    parts: list[dict[str, Any] | None] = [None] * len(source)
    for number, entry in enumerate(sources_of(store, chosen, selection.reference)):
        mine = np.flatnonzero(source == number)
        for record, part in zip(mine, _frames(store.dataset(entry.reference), frame[mine]), strict=True):
            parts[record] = part
    found = [part for part in parts if part is not None]
    shared = set.intersection(*(set(part) for part in found)) if found else set(_EMPTY)
    values: dict[str, Any] = {"n_atoms": np.array([len(p["positions"]) for p in found], dtype=np.int64)}
    for name in (*_OF_ATOMS, *_OF_FRAMES):
        if name in shared:
            arrays = [part[name] for part in found]
            joined = np.concatenate(arrays) if name in _OF_ATOMS and arrays else np.array(arrays)
            values[name] = joined if found else np.zeros(_EMPTY[name])
    values["source"] = (("frame",), source, {"units": "1"})
    values["source_frame"] = (("frame",), frame, {"units": "1"})
    return STRUCTURES.dataset(values, {"selection": selection.reference})


def _frames(dataset: xr.Dataset, frames: np.ndarray[Any, Any]) -> list[dict[str, Any]]:
    """Per-frame arrays of some frames of a fixed-size or ragged dataset."""
    ragged = "n_atoms" in dataset
    ends = np.concatenate([[0], np.cumsum(dataset["n_atoms"].to_numpy())]) if ragged else None
    names = [name for name in (*_OF_ATOMS, *_OF_FRAMES) if name in dataset]
    parts: list[dict[str, Any]] = [{} for _ in frames]
    for name in names:
        array = dataset[name]
        fixed = array.to_numpy() if "frame" not in array.dims and not (ragged and name in _OF_ATOMS) else None
        for part, index in zip(parts, frames, strict=True):
            if fixed is not None:
                part[name] = fixed
            elif ends is not None and name in _OF_ATOMS:
                part[name] = array.isel(atom=slice(int(ends[index]), int(ends[index + 1]))).to_numpy()
            else:
                part[name] = array.isel(frame=int(index)).to_numpy()
    return parts
