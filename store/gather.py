"""The frames that a selection or a training set refers to, gathered from their keys as structures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..schemas.errors import InvalidData, UnknownKey
from ..schemas.key import parse_reference
from ..schemas.kinds import STRUCTURES
from ..schemas.kinds_training import LABELS
from ..schemas.run import DataRef
from .catalogue import Entry
from .gather_reader import OF_ATOMS, REFERRING, Array, FrameReader, Place
from .lazy import LazyArray

if TYPE_CHECKING:
    import xarray as xr

    from .store import Store

_REFERENCES = ("source", "source_frame", "source_key", "source_digest")
_LEVEL = ("level_of_theory", "level_of_theory_id")
_SMALL = 64 * 2**20
"""Bytes up to which gathered frames are read at once; more are read when looked at."""


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


def places_of(
    store: Store, references: xr.Dataset, where: str, *, source: str = "source", frame: str = "source_frame"
) -> list[Place]:
    """Where the frames lie that references mean; those to a selection lead on to the frames that it means.

    Parameters
    ----------
    store : Store
        Where the sources lie.
    references : xarray.Dataset
        Whatever has ``source``, ``source_frame``, ``source_key`` and ``source_digest``.
    where : str
        Where the references lie, for messages.
    source, frame : str
        Names of the variables that say source and frame.

    Returns
    -------
    list of Place
        Of every source that is referred to: the entry, which records refer to it, and the frames they mean.

    Raises
    ------
    UnknownKey
        If a source is gone.
    InvalidData
        If a source has no frame of that number, or a variable of the references is missing.
    """
    needed = (source, frame, *_REFERENCES[2:])
    missing = [name for name in needed if name not in references]
    if missing:
        raise InvalidData(
            "These data do not say which frames they belong to.",
            key=where,
            expected=", ".join(needed),
            found=f"no {', '.join(missing)}",
        )
    sources, frames = references[source].to_numpy(), references[frame].to_numpy()
    found: dict[str, list[Place]] = {}
    for number, entry in enumerate(sources_of(store, references, where)):
        records = np.flatnonzero(sources == number)
        if not records.size:
            continue
        _check_inside(entry, frames[records], where)
        for place in _followed(store, Place(entry, records, frames[records])):
            found.setdefault(place.entry.reference, []).append(place)
    return [Place.joined(places) for places in found.values()]


def _followed(store: Store, place: Place) -> list[Place]:
    """The places that frames of a selection stand for; any other place as it is."""
    if place.entry.kind not in REFERRING:
        return [place]
    inner = places_of(store, store.dataset(place.entry.reference), place.entry.reference)
    found = []
    for other in inner:
        position = np.full(place.entry.records, -1, dtype=np.int64)
        position[other.records] = np.arange(len(other.records))
        mine = position[place.frames]
        taken = mine >= 0
        if taken.any():
            found.append(Place(other.entry, place.records[taken], other.frames[mine[taken]]))
    return found


def _check_inside(entry: Entry, frames: Array, where: str) -> None:
    count = entry.sizes.get("record" if entry.kind in REFERRING else "frame", 0)
    outside = frames[(frames < 0) | (frames >= count)]
    if outside.size:
        raise InvalidData(
            "A selection refers to a frame that its source does not have.",
            key=where,
            expected=f"frames 0 to {count - 1} of {entry.reference}",
            found=int(outside[0]),
        )


def gather(store: Store, entry: Entry) -> xr.Dataset:
    """Structures of all frames that an entry refers to, in its order.

    Parameters
    ----------
    store : Store
        Where the references and their sources lie.
    entry : Entry
        Of the kind ``selection`` or ``training_set``.

    Returns
    -------
    xarray.Dataset
        See ``gather_frames``, and ``gather_training`` for a training set.

    Raises
    ------
    UnknownKey
        If a source is gone.
    InvalidData
        If a source has no frame of that number.
    """
    if entry.kind == "training_set":
        from .training_frames import gather_training

        return gather_training(store, entry)
    return gather_frames(store, store.dataset(entry.reference), entry.reference)


def gather_frames(store: Store, references: xr.Dataset, where: str) -> xr.Dataset:
    """Structures that any dataset refers to by ``source``, ``source_frame``, ``source_key`` and ``source_digest``.

    Parameters
    ----------
    store : Store
        Where the sources lie.
    references : xarray.Dataset
        A selection, features, or whatever has these four variables.
    where : str
        Where the references lie, for messages.

    Returns
    -------
    xarray.Dataset
        Of the kind ``structures``, one frame for each reference and in their order, with what all sources have of
        masses, velocities, energies, forces, stresses, charges, spins and molecules. The four variables of the
        references are kept, so that whatever is made of it can refer to the original frames; so is the level of
        theory where it is the same for all.

    Raises
    ------
    UnknownKey
        If a source is gone.
    InvalidData
        If a source has no frame of that number, or a variable of the references is missing.

    Notes
    -----
    Up to 64 MiB are read at once, each source in one batch for each of its variables; more are read when looked at,
    so that memory stays bounded.
    """
    places = places_of(store, references, where)
    reader = FrameReader(store, places, references.sizes["record"])
    kept = {name: references.variables[name].to_numpy() for name in _REFERENCES}
    return gathered_dataset(reader, kept, {"selection": where, **_levels(store, places)})


def gathered_dataset(reader: Any, kept: dict[str, Array], attributes: dict[str, Any]) -> xr.Dataset:
    """What a reader of frames gives, as one dataset: in memory where it is small, else read when looked at.

    Parameters
    ----------
    reader : FrameReader
        Or whatever has its ``names``, ``n_atoms``, ``trailing``, ``take`` and ``read``.
    kept : mapping
        Variables of the references: by frame, and tables of the sources.
    attributes : mapping
        Of the dataset.
    """
    import xarray as xr
    from xarray.core import indexing

    rows = {True: int(reader.n_atoms.sum()), False: len(reader.n_atoms)}
    shapes = {name: (rows[name in OF_ATOMS], *reader.trailing(name)) for name in reader.names}
    small = 8 * sum(int(np.prod(shape)) for shape in shapes.values()) <= _SMALL
    with reader:
        read = reader.take(np.arange(len(reader.n_atoms))) if small else {}
    variables: dict[str, xr.Variable] = {}
    counted = {"units": "1", "sample_dimension": "atom"}
    variables["n_atoms"] = xr.Variable(("frame",), reader.n_atoms, counted)
    for name, shape in shapes.items():
        dims, units = _meaning(name)
        data = read[name] if small else indexing.LazilyIndexedArray(LazyArray(reader, name, shape, reader.dtype(name)))
        variables[name] = xr.Variable(dims, data, units)
    for name, values in kept.items():
        along = "source_index" if name in _REFERENCES[2:] else "frame"
        text = values.dtype.kind in "OUT"
        variables[name] = xr.Variable((along,), values, {} if text else {"units": "1"})
    return xr.Dataset(variables, attrs={"kind": STRUCTURES.name, **attributes})


def _meaning(name: str) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Dimensions and attributes of a gathered variable: those of the kinds that know it."""
    for kind in (STRUCTURES, LABELS):
        variable = kind.variable(name)
        if variable is not None:
            return variable.dims, variable.attributes()
    return ("atom" if name in OF_ATOMS else "frame",), {"units": "1"}


def _levels(store: Store, places: list[Place]) -> dict[str, Any]:
    """The level of theory of all sources, or a list of those that differ."""
    facts = [store.dataset(place.entry.reference).attrs for place in places]
    found = list(dict.fromkeys(tuple(str(one.get(name, "")) for name in _LEVEL) for one in facts))
    if len(found) == 1:
        return {name: text for name, text in zip(_LEVEL, found[0], strict=True) if text}
    return {"levels_of_theory": [text for text, _ in found]} if found else {}
