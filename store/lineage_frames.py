"""From a model, a training set or labels back to every frame: one row for each, with where it was made and how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..schemas.canonical import canonical_json
from ..schemas.errors import WrongKind
from ..schemas.key import parse_reference
from ..schemas.kinds import TABLE
from ..schemas.run import Run
from ..schemas.splits import drawn_anew, groups_of
from .catalogue import Catalogue, Entry
from .gather_reader import Array
from .lineage_origin import HOLDING, Places, Trail

if TYPE_CHECKING:
    import xarray as xr

    from .store import Store

SPLITS = ("train", "valid", "test")
_REFERRING = ("selection", "features", "evaluation")
_ONE, _FS, _KELVIN = {"units": "1"}, {"units": "fs"}, {"units": "K"}


def lineage_frames(store: Store, reference: str) -> xr.Dataset:
    """List every frame that a key was made of.

    Parameters
    ----------
    store : Store
        Where it lies.
    reference : str
        ``KEY`` or ``KEY@VERSION`` of a checkpoint, a training set, labels, an evaluation, a selection, features, or
        any frames.

    Returns
    -------
    xarray.Dataset
        Of the kind ``table``, one row for each frame; text is empty, numbers are -1 and values NaN where there is
        nothing to tell.

        ========================  ======================================================================================
        ``model``                 root key of the training, or of the ensemble
        ``used_as``               input of the training: ``training_set``, ``replay``, ``foundation``, ``baseline``
        ``split``                 ``train``, ``valid`` or ``test``, as the training drew it; of an ensemble ``train``
                                  where any member trained on it
        ``members``               members of the ensemble that trained on it
        ``training_set``,         the set, and which of its records
        ``record``, ``weight``
        ``label``, ``label_row``  the label that was learned, or evaluated
        ``level_of_theory``,      its method in short, and the digest of all that it depends on
        ``level_of_theory_id``
        ``label_run``             the run that computed it, also where it was taken over from another key
        ``baseline``,             the label that was subtracted from it
        ``baseline_row``
        ``structure``,            the frame whose positions were labelled
        ``structure_frame``
        ``origin``,               the frame that it was cut from or chosen of, at the end of the trail
        ``origin_frame``
        ``origin_run``            the run that sampled it
        ``step``, ``time``        of the trajectory: integration step, time (fs)
        ``temperature``,          of the trajectory: kinetic temperature of the frame, and that of the thermostat (K)
        ``target_temperature``
        ``file``                  the file that the origin was imported from
        ========================  ======================================================================================

        The attribute ``notes`` says where a trail ends early; ``levels_of_theory`` is JSON from id to full text.

    Raises
    ------
    UnknownKey
        If there is no such key.
    WrongKind
        If no frames belong to it.
    InvalidData
        If a key names frames that another does not have.

    Notes
    -----
    Whole columns are read once from each key and joined by their numbers: 100,000 frames take about a second.
    """
    entry = store.entry(reference)
    trail = Trail(store)
    if entry.kind == "checkpoint":
        parts = [_of_set(trail, use) for use in _uses(trail, entry)]
    elif entry.kind == "training_set":
        parts = [_of_set(trail, Use("", "", entry))]
    else:
        parts = [_of_frames(trail, entry)]
    frames = _Frames.joined([part for part in parts if part is not None])
    return _table(trail, frames, entry)


@dataclass(frozen=True, slots=True)
class Use:
    """A training set as a model used it.

    Attributes
    ----------
    model, used_as : str
        Root key of the training, and the name of its input.
    entry : Entry
        The set.
    members : list of (str, int or None)
        Names of the trainings that read it (empty for a single one), and the seed that each drew its splits anew with.
    """

    model: str
    used_as: str
    entry: Entry
    members: list[tuple[str, int | None]] = field(default_factory=lambda: [("", None)])


def _uses(trail: Trail, entry: Entry) -> list[Use]:
    """The training sets behind a checkpoint: those of its own training, and those of models that it started from."""
    catalogue = trail.store.catalogue
    run = catalogue.runs.get(entry.run or "")
    if run is None:
        trail.note(f"{entry.reference} was not trained in this store: the frames of its training are not known here")
        return []
    calls = [call for call in run.calls if any(ref.kind == "checkpoint" for ref in call.outputs.values())]
    members = [(call.name, catalogue.runs[call.run]) for call in calls if call.run in catalogue.runs]
    found: dict[tuple[str, str], Use] = {}
    models: dict[str, tuple[str, Entry]] = {}
    for member, training in members or [("", run)]:
        for name, ref in _read(training):
            source = catalogue.locate(ref)
            if source is None:
                trail.note(f"{ref.key}@{ref.version} is not in this store: its frames are not known here")
            elif ref.kind == "checkpoint":
                models[source.reference] = (name, source)
            else:
                use = found.setdefault((name, source.reference), Use(run.root_key, name, source, []))
                use.members.append((member, training.config.get("split_seed")))
        for name, engine in training.engines.items():
            said = engine.get("spelling") or engine.get("name") or engine.get("method") or "a model"
            trail.note(f"{name} {said}: the frames of its training are not known here")
    before = [Use(use.model, name, use.entry, use.members) for name, e in models.values() for use in _uses(trail, e)]
    return [*found.values(), *before]


def _read(training: Run) -> list[tuple[str, Any]]:
    """The training sets and models that a training learned from, by the name of the input."""
    without_replay = not training.config.get("multiheads_finetuning", True)
    return [
        (name, ref)
        for name, refs in training.inputs.items()
        for ref in refs
        if ref.kind in ("training_set", "checkpoint") and not (name == "replay" and without_replay)
    ]


# --- frames with what is known of their use --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Frames:
    """Frames that were labelled or referred to, with columns of their use."""

    places: Places
    baseline: Places
    columns: dict[str, Array]

    @classmethod
    def joined(cls, parts: Sequence[_Frames]) -> _Frames:
        names = list(dict.fromkeys(name for part in parts for name in part.columns))
        return cls(
            Places.joined([part.places for part in parts]),
            Places.joined([part.baseline for part in parts]),
            {name: np.concatenate([part.columns[name] for part in parts]) for name in names},
        )


def _of_set(trail: Trail, use: Use) -> _Frames | None:
    entry = use.entry
    labels = trail.referred(entry)
    if labels is None:
        return None
    references = trail.store.dataset(entry.reference)
    split = references["split"].to_numpy().astype(np.int64)
    groups = groups_of(references, split)
    drawn = np.stack([split if seed is None else drawn_anew(split, groups, seed) for _, seed in use.members])
    count = len(split)
    columns = {
        "model": _repeated(use.model, count),
        "used_as": _repeated(use.used_as, count),
        "split": np.array(SPLITS, dtype=object)[drawn.min(axis=0)],
        "members": _names_where(drawn == 0, [name for name, _ in use.members]),
        "training_set": _repeated(entry.reference, count),
        "record": np.arange(count, dtype=np.int64),
        "weight": references["weight"].to_numpy() if "weight" in references else np.ones(count),
        "level_of_theory": _repeated(str(references.attrs.get("level_of_theory", "")), count),
    }
    baseline = trail.referred(entry, "baseline", "baseline_frame")
    return _Frames(labels, baseline or Places.nowhere(count), columns)


def _names_where(chosen: Array, names: Sequence[str]) -> Array:
    """For each column the names of the rows that are true in it."""
    patterns, number = np.unique(chosen, axis=1, return_inverse=True)
    texts = [", ".join(name for name, is_in in zip(names, pattern, strict=True) if is_in) for pattern in patterns.T]
    return np.array([*texts, ""], dtype=object)[number.ravel()]


def _repeated(text: str, count: int) -> Array:
    return np.full(count, text, dtype=object)


def _of_frames(trail: Trail, entry: Entry) -> _Frames:
    """All frames of a key, or all that it refers to."""
    places = None
    if entry.kind in HOLDING:
        count = entry.records
        places = Places(np.full(count, trail.node(entry.reference, entry.digest)), np.arange(count, dtype=np.int64))
    elif entry.kind in _REFERRING:
        places = trail.referred(entry)
    if places is None:
        raise WrongKind(
            "No frames belong to this key.",
            key=entry.reference,
            expected=f"kind checkpoint, training_set, {', '.join((*HOLDING, *_REFERRING))}, not purged",
            found=f"kind {entry.kind}{', purged' if entry.purged else ''}",
            hint="`h5ml lineage KEY` shows the runs and keys that it came from",
        )
    columns = {}
    if entry.kind == "evaluation":
        split = trail.columns(entry, ("split",)).get("split")
        columns["split"] = split if split is not None else _repeated("", len(places.node))
    return _Frames(places, Places.nowhere(len(places.node)), columns)


# --- the table -------------------------------------------------------------------------------------------------------


def _table(trail: Trail, frames: _Frames, entry: Entry) -> xr.Dataset:
    """All columns, in the order of the trail."""
    places = trail.to_frames(frames.places)
    is_label = trail.told(places.node, [e.kind if e else "" for e in trail.entries]) == "labels"
    if entry.kind in ("checkpoint", "training_set", "evaluation"):
        is_label |= places.node >= 0  # energies may lie with any frames
    labels = Places.nowhere(len(places.node)).where(~is_label, places)
    structures = trail.to_frames(trail.back(places, ("labels",)))
    origins = trail.to_origins(structures)
    columns = dict(frames.columns)
    assumed = columns.pop("level_of_theory", _repeated("", len(places.node)))
    values: dict[str, Any] = {name: _variable(column) for name, column in columns.items()}
    values |= _located(trail, "label", "label_row", labels)
    values |= _levels(trail, labels, assumed)
    values["label_run"] = _variable(_label_runs(trail, labels))
    values |= _located(trail, "baseline", "baseline_row", frames.baseline)
    values |= _located(trail, "structure", "structure_frame", structures)
    values |= _located(trail, "origin", "origin_frame", origins)
    values["origin_run"] = _variable(trail.told(origins.node, _runs(trail)))
    values["step"] = _variable(trail.values(origins, "step", -1))
    for name, units in (("time", _FS), ("temperature", _KELVIN), ("target_temperature", _KELVIN)):
        values[name] = (("row",), trail.values(origins, name, np.nan), units)
    values["file"] = _variable(trail.told(origins.node, [_file(e) for e in trail.entries]))
    levels = {_level(e)[1]: str(e.attributes.get("level_of_theory", "")) for e in trail.entries if e and _level(e)[1]}
    facts = {"lineage_of": entry.reference, "levels_of_theory": canonical_json(levels), "notes": list(trail.notes)}
    return TABLE.dataset(values, facts)


def _variable(column: Array) -> tuple[tuple[str], Array] | tuple[tuple[str], Array, dict[str, str]]:
    return (("row",), column) if column.dtype == object else (("row",), column, _ONE)


def _located(trail: Trail, name: str, number: str, places: Places) -> dict[str, Any]:
    return {name: _variable(trail.told(places.node, trail.texts)), number: _variable(places.frame)}


def _levels(trail: Trail, labels: Places, assumed: Array) -> dict[str, Any]:
    """The level of each label; where its key states none, the one that its training set took it for."""
    short, full = zip(*(_level(e) for e in trail.entries), strict=True) if trail.entries else ((), ())
    stated = trail.told(labels.node, short)
    return {
        "level_of_theory": _variable(np.where(stated == "", assumed, stated)),
        "level_of_theory_id": _variable(trail.told(labels.node, full)),
    }


def _level(entry: Entry | None) -> tuple[str, str]:
    """The level of theory of a key, in short and as its id."""
    facts = entry.attributes if entry is not None else {}
    named = " ".join(str(facts[name]) for name in ("engine", "method") if facts.get(name))
    return named or str(facts.get("level_of_theory", "")), str(facts.get("level_of_theory_id", ""))


def _runs(trail: Trail) -> list[str]:
    return [(e.run or "") if e is not None else "" for e in trail.entries]


def _file(entry: Entry | None) -> str:
    origin = entry.origin if entry is not None else {}
    return str(origin.get("file") or origin.get("name") or origin.get("path") or "")


def _label_runs(trail: Trail, labels: Places) -> Array:
    """The run that computed each label; of those taken over from another key, that of the other key."""
    runs = trail.told(labels.node, _runs(trail))
    for number in np.unique(labels.node[labels.node >= 0]).tolist():
        entry = trail.entries[number]
        taken = trail.columns(entry, ("reused_from",)).get("reused_from") if entry is not None else None
        if taken is None:
            continue
        mine = np.flatnonzero(labels.node == number)
        places = [str(text).rpartition(" frame ")[0] for text in taken[labels.frame[mine]].tolist()]
        makers = {place: _run_at(trail.store.catalogue, place) for place in set(places) - {""}}
        for row, place in zip(mine.tolist(), places, strict=True):
            runs[row] = makers.get(place) or runs[row]
    return runs


def _run_at(catalogue: Catalogue, reference: str) -> str:
    """The run that made a key, empty where the key is gone."""
    key, version = parse_reference(reference)
    entry = catalogue.entries.get(catalogue.resolve(key), {}).get(version or 1)
    return (entry.run or "") if entry is not None else ""
