"""Labels of structures: one frame after the other, each with its identity, and those that were computed before."""

from __future__ import annotations

import contextlib
import functools
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...schemas.kinds_training import LABELS
from ..scratch import scratch_folder
from .level import ABSURD, DONE, FAILED, SCF_FAILED, TAIL_CHARACTERS, Level, Outcome, System, level_id, level_text

if TYPE_CHECKING:
    import xarray as xr

_SHAPES = {"forces": (3,), "stress": (6,), "dipole": (3,), "charges": ()}
_WITH_THREADS = frozenset({"torch", "pyscf", "tblite", "sklearn"})
_BY_ATOM = frozenset({"positions", "atomic_numbers", "forces", "charges"})


@dataclass(frozen=True, slots=True)
class Limits:
    """What counts as absurd.

    Attributes
    ----------
    max_force_eV_A : float
        Largest force on an atom (eV/Angstrom).
    max_energy_per_atom_eV : float
        Largest magnitude of the energy per atom (eV).
    """

    max_force_eV_A: float
    max_energy_per_atom_eV: float


@dataclass(frozen=True, slots=True)
class Task:
    """A label to compute.

    Attributes
    ----------
    level : Level
        With which engine and settings.
    system : System
        Of which structure.
    identity : str
        Digest of the structure and the level of theory.
    properties : tuple of str
        The variables to fill.
    limits : Limits
        What counts as absurd.
    """

    level: Level
    system: System
    identity: str
    properties: tuple[str, ...]
    limits: Limits


@dataclass(frozen=True, slots=True)
class Labelling:
    """What all tasks of a run have in common.

    Attributes
    ----------
    level, properties, limits
        As of a ``Task``.
    """

    level: Level
    properties: tuple[str, ...]
    limits: Limits

    def tasks(
        self, systems: Iterable[System], identities: Iterable[str], known: Mapping[str, Mapping[str, Any]]
    ) -> dict[str, Task | xr.Dataset]:
        """What a map computes, by identity: each label once, and those that are known as they are.

        They keep their place among the items, so that what a killed run has computed is found at its place again,
        whatever is known by then.
        """
        found: dict[str, Task | xr.Dataset] = {}
        for system, identity in zip(systems, identities, strict=True):
            if identity not in found:
                label = known.get(identity)
                task = Task(self.level, system, identity, self.properties, self.limits)
                found[identity] = task if label is None else _single(label)
        return found


def rows_by_identity(made: Iterable[xr.Dataset]) -> dict[str, dict[str, Any]]:
    """The results of a map."""
    rows = [split(dataset, [0], [str(name) for name in dataset.variables])[0] for dataset in made]
    return {str(row["identity"]): row for row in rows}


def label_frame(task: Task | xr.Dataset) -> xr.Dataset:
    """Compute one label: as asked for, then with one fallback after the other where the field does not converge.

    Parameters
    ----------
    task : Task or xarray.Dataset
        What to compute; a label that is known already is given back as it is.

    Returns
    -------
    xarray.Dataset
        The variables of one frame of the kind ``labels``. A calculation that fails gives a status, NaN and the end of
        its output.

    Notes
    -----
    The engine starts cold, so that a label does not depend on what was computed before it.
    """
    if not isinstance(task, Task):
        return task
    began = time.perf_counter()
    outcome, attempt, message = _attempted(task)
    values = outcome.values if outcome.status in (DONE, ABSURD) else {}
    row: dict[str, Any] = {
        **row_of(task.system, values, task.properties),
        "converged": int(outcome.status in (DONE, ABSURD)),
        "status": outcome.status,
        "iterations": outcome.iterations,
        "attempt": attempt,
        "identity": task.identity,
        "message": message[-TAIL_CHARACTERS:],
        "reused_from": "",
        "wall_time": time.perf_counter() - began,
    }
    return _single(row)


def _attempted(task: Task) -> tuple[Outcome, int, str]:
    """The outcome of the first attempt that converged, or of the last; its number, and what went wrong."""
    wanted = task.system.meaningful(frozenset(task.properties))
    outcome, attempt = Outcome(FAILED), 0
    told: list[str] = []
    loaded = frozenset(_WITH_THREADS & set(sys.modules))
    for attempt, changes in enumerate(task.level.attempts()):
        with _controller(loaded).limit(limits=task.level.settings.threads), _folder(task.level) as folder:
            outcome = task.level.compute(task.system, wanted, changes, folder)
        outcome = judged(outcome, task.limits, len(task.system.numbers))
        if outcome.message:
            told.append(f"attempt {attempt}: {outcome.message}")
        if outcome.status != SCF_FAILED:
            break
    return outcome, attempt, "\n".join(told) if outcome.status != DONE else ""


@contextlib.contextmanager
def _folder(level: Level) -> Iterator[Path]:
    """An empty folder for the files of an engine, where it writes any."""
    if not level.writes_files:
        yield Path()
        return
    with scratch_folder() as folder:
        yield folder


@functools.cache
def _controller(loaded: frozenset[str]) -> Any:
    """The thread pools of this process; looking for them takes as long as a small calculation."""
    from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

    del loaded  # others came with these libraries
    return ThreadpoolController()


def judged(outcome: Outcome, limits: Limits, n_atoms: int) -> Outcome:
    """The outcome, marked where its numbers cannot be true."""
    if outcome.status != DONE:
        return outcome
    unfit = sorted(name for name, value in outcome.values.items() if not np.isfinite(value).all())
    if unfit:
        return Outcome(FAILED, {}, outcome.iterations, f"{', '.join(unfit)} not finite")
    why = absurdity(outcome.values, limits, n_atoms)
    return Outcome(ABSURD, outcome.values, outcome.iterations, why) if why else outcome


def absurdity(values: Mapping[str, Any], limits: Limits, n_atoms: int) -> str:
    """Which limit is passed; empty where none is."""
    forces = values.get("forces")
    if forces is not None:
        largest = float(np.sqrt((forces**2).sum(axis=1).max()))
        if largest > limits.max_force_eV_A:
            return f"a force of {largest:.4g} eV/Angstrom is above max_force_eV_A = {limits.max_force_eV_A:g}"
    per_atom = abs(float(values["energy"])) / n_atoms
    if per_atom > limits.max_energy_per_atom_eV:
        return f"{per_atom:.4g} eV per atom are above max_energy_per_atom_eV = {limits.max_energy_per_atom_eV:g}"
    return ""


def row_of(system: System, values: Mapping[str, Any], properties: Collection[str]) -> dict[str, Any]:
    """The variables of one frame: the structure, and its properties with NaN where there are none."""
    count = len(system.numbers)
    row: dict[str, Any] = {
        "n_atoms": count,
        "positions": system.positions,
        "atomic_numbers": system.numbers,
        "cell": system.cell,
        "pbc": system.pbc.astype(np.int8),
        "charge": float(system.charge),
        "spin_multiplicity": system.multiplicity,
        "energy": values.get("energy", np.nan),
    }
    for name in properties:
        if name != "energy":
            lead = (count,) if name in _BY_ATOM else ()
            row[name] = values.get(name, np.full((*lead, *_SHAPES[name]), np.nan))
    return row


def joined(
    rows: Sequence[Mapping[str, Any]],
    attributes: Mapping[str, Any] | None = None,
    more: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Rows of the same variables as one dataset of the kind ``labels``, with further variables of the kind."""
    values: dict[str, Any] = {**(more or {})}
    for name in rows[0]:
        found = [row[name] for row in rows]
        if name in _BY_ATOM:
            values[name] = np.concatenate(found)
        elif isinstance(found[0], str):
            values[name] = np.array(found, dtype=object)
        else:
            values[name] = np.array(found)
    return LABELS.dataset(values, attributes)


def _single(row: Mapping[str, Any]) -> xr.Dataset:
    """One row as a bare dataset, to travel; it is checked when it is joined with others."""
    import xarray as xr

    variables: dict[str, Any] = {}
    for name, value in row.items():
        variable = LABELS.variable(name)
        assert variable is not None
        array = np.asarray(value if name in _BY_ATOM else [value], dtype=object if isinstance(value, str) else None)
        variables[name] = xr.Variable(variable.dims, array)
    return xr.Dataset(variables)


def split(dataset: xr.Dataset, frames: Sequence[int], names: Iterable[str]) -> list[dict[str, Any]]:
    """Rows of a dataset of labels; the inverse of ``joined``."""
    counts = dataset["n_atoms"].to_numpy()
    ends = np.cumsum(counts)
    low, high = min(frames), max(frames) + 1
    first_atom = int(ends[low] - counts[low])
    part = dataset.isel(frame=slice(low, high))
    if "atom" in dataset.sizes:
        part = part.isel(atom=slice(first_atom, int(ends[high - 1])))
    arrays = {name: part[name].to_numpy() for name in names}
    rows = []
    for frame in frames:
        atoms = slice(int(ends[frame] - counts[frame]) - first_atom, int(ends[frame]) - first_atom)
        rows.append({name: array[atoms] if name in _BY_ATOM else array[frame - low] for name, array in arrays.items()})
    return rows


def theory_attributes(level: Level) -> dict[str, Any]:
    """The attributes of a dataset of labels that say how they were computed."""
    theory = level.theory()
    return {
        "level_of_theory": level_text(theory),
        "level_of_theory_id": level_id(theory),
        "engine": str(theory["engine"]),
        "method": str(theory["method"]),
    }


_CARRIED = (
    "n_atoms positions atomic_numbers cell pbc charge spin_multiplicity converged status iterations attempt identity "
    "message reused_from wall_time"
).split()


class Known:
    """Labels that were computed before.

    Parameters
    ----------
    stored : iterable of (str, xarray.Dataset)
        ``KEY@VERSION`` and the labels there, all of the same level of theory; the first that has a label gives it.
    wanted : collection of str
        Identities that are looked for.
    properties : collection of str
        What the labels must have.
    limits : Limits
        What counts as absurd now.

    Notes
    -----
    Only labels that converged and have all properties count: those that failed are tried again. Identities are read
    once; the labels themselves when they are taken.
    """

    def __init__(
        self,
        stored: Iterable[tuple[str, xr.Dataset]],
        wanted: Collection[str],
        properties: Collection[str],
        limits: Limits,
    ) -> None:
        self._properties, self._limits = tuple(properties), limits
        self._stored: list[tuple[str, xr.Dataset]] = []
        self._places: dict[str, list[tuple[int, int]]] = {}
        looked_for = set(wanted)
        for reference, dataset in stored:
            if not {*_CARRIED, *properties} <= {str(name) for name in dataset.variables}:
                continue
            names = dataset["identity"].to_numpy()
            for frame in np.flatnonzero(np.isin(dataset["status"].to_numpy(), (DONE, ABSURD))).tolist():
                if names[frame] in looked_for:
                    self._places.setdefault(str(names[frame]), []).append((len(self._stored), frame))
            self._stored.append((reference, dataset))

    def take(self, identities: Iterable[str]) -> dict[str, dict[str, Any]]:
        """The rows of those that are known, by identity."""
        left = {identity: list(self._places[identity]) for identity in identities if identity in self._places}
        found: dict[str, dict[str, Any]] = {}
        while left:
            chosen = {identity: places.pop(0) for identity, places in left.items()}
            rows = self._read(chosen)
            found |= {identity: row for identity, row in rows.items() if _has(row, self._properties)}
            left = {identity: places for identity, places in left.items() if identity not in found and places}
        return found

    def _read(self, chosen: Mapping[str, tuple[int, int]]) -> dict[str, dict[str, Any]]:
        """Rows at some places, key by key."""
        found: dict[str, dict[str, Any]] = {}
        for number in sorted({number for number, _ in chosen.values()}):
            reference, dataset = self._stored[number]
            here = {identity: frame for identity, (where, frame) in chosen.items() if where == number}
            rows = split(dataset, list(here.values()), (*_CARRIED, *self._properties))
            for (identity, frame), row in zip(here.items(), rows, strict=True):
                found[identity] = _taken(row, f"{reference} frame {frame}", self._limits)
        return found


def _taken(row: dict[str, Any], where: str, limits: Limits) -> dict[str, Any]:
    """A label as taken over: with the place where it was computed, and judged by the limits of now."""
    why = absurdity(row, limits, int(row["n_atoms"]))
    origin = str(row["reused_from"]) or where
    return {**row, "status": ABSURD if why else DONE, "message": why, "reused_from": origin}


def _has(row: Mapping[str, Any], properties: Collection[str]) -> bool:
    """Whether a label has what is asked for, as far as its structure has it."""
    needed = set(properties)
    if int(row["pbc"].sum()) < 3:
        needed.discard("stress")
    if row["pbc"].any():
        needed.discard("dipole")
    return all(bool(np.isfinite(row[name]).all()) for name in needed)
