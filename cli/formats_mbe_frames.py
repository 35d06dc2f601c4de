"""Structures and trajectories of mbe-automation files, with their labels and features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..schemas.errors import InvalidData
from ..schemas.kind import Kind
from ..schemas.kinds import FEATURES, STRUCTURES, TRAJECTORY
from ..schemas.kinds_training import LABELS
from .formats_mbe_file import Group, Item, Values
from .formats_mbe_names import DIVISION, segment_of
from .formats_mbe_parts import Part

DONE, UNDEFINED = 0, 1
_STATUSES = (0, 1, 2, 3)
_BY_FRAME = ("E_kin", "E_trans_drift", "E_rot_drift")


class Unfit(Exception):
    """A group does not hold what a kind of ours needs."""


def wanted(group: Group, stem: str, unit: str, *shapes: tuple[int | None, ...]) -> Item | None:
    """An array of known meaning, checked.

    Raises
    ------
    InvalidData
        If it has another unit or shape than such files give it.
    """
    item = group.array(stem)
    if item is None or item.values is None:
        return None
    if item.unit != unit:
        raise _wrong(item, "unit", unit or "no unit", item.unit or "no unit")
    if shapes and not any(_fits(item.values.shape, shape) for shape in shapes):
        texts = [str(tuple("any" if n is None else n for n in shape)).replace("'", "") for shape in shapes]
        raise _wrong(item, "shape", " or ".join(texts), str(item.values.shape))
    if item.values.dtype.kind not in "iufb":
        raise _wrong(item, "type", "numbers", item.dtype)
    return item


def _is_finite(item: Item | None) -> bool:
    """Whether an array that may be absent holds finite numbers only."""
    values = None if item is None else item.values
    return values is None or values.dtype.kind not in "fc" or bool(np.isfinite(values).all())


def _fits(found: tuple[int, ...], shape: tuple[int | None, ...]) -> bool:
    return len(found) == len(shape) and all(n is None or n == m for n, m in zip(shape, found, strict=True))


def _wrong(item: Item, what: str, expected: str, found: str) -> InvalidData:
    return InvalidData(
        f"An array of the file has another {what} than such files have; nothing was imported.",
        key=item.full_name,
        expected=expected,
        found=found,
        hint="correct it in a copy of the file",
    )


@dataclass(slots=True)
class Frames:
    """The frames of a group: positions [F, N, 3] and what goes with them."""

    group: Group
    positions: Item
    n_frames: int
    n_atoms: int

    @classmethod
    def of(cls, group: Group) -> Frames:
        """Find and check them."""
        positions = wanted(group, "positions", "Angstrom", (None, None, 3), (None, 3))
        if positions is None or positions.values is None:
            raise Unfit("no positions")
        shape = positions.values.shape
        frames, atoms = (1, shape[0]) if len(shape) == 2 else shape[:2]
        known = [group.array(stem) for stem in ("positions", "cell_vectors", "masses")]
        if not frames or not atoms or not all(_is_finite(item) for item in known):
            raise Unfit("no frames, or some that are not finite")
        return cls(group, positions, frames, atoms)

    def per_frame(self, stem: str, unit: str) -> Item | None:
        """A number of each frame."""
        shapes: list[tuple[int | None, ...]] = [(self.n_frames,)]
        return wanted(self.group, stem, unit, *([*shapes, ()] if self.n_frames == 1 else shapes))

    def per_atom(self, stem: str, unit: str, *, fixed: bool = False) -> Item | None:
        """A number of each atom: of all frames, or the same in all."""
        shapes: list[tuple[int | None, ...]] = [(self.n_atoms,)]
        return wanted(self.group, stem, unit, *(shapes if fixed else [*shapes, (self.n_frames, self.n_atoms)]))

    def vectors(self, stem: str, unit: str) -> Item | None:
        """A vector of each atom."""
        shapes: list[tuple[int | None, ...]] = [(self.n_frames, self.n_atoms, 3)]
        return wanted(self.group, stem, unit, *([*shapes, (self.n_atoms, 3)] if self.n_frames == 1 else shapes))

    def cell(self) -> Item | None:
        """The cell, of all frames or of each."""
        return wanted(self.group, "cell_vectors", "Angstrom", (3, 3), (self.n_frames, 3, 3))

    def put_cell(self, part: Part) -> bool:
        """Store the cells; returns whether there are any."""
        item = self.cell()
        if item is None or item.values is None:
            part.set("cell", np.zeros((self.n_frames, 3, 3)))
            return False
        repeated = item.values.ndim == 2
        cells = np.broadcast_to(item.values, (self.n_frames, 3, 3)) if repeated else item.values
        part.put(item, "cell", cells, "first" if repeated else "as is")
        return True

    def repeated(self, item: Item) -> tuple[Values, str]:
        """Values of every atom of every frame, and the way back."""
        values = item.values
        assert values is not None
        if values.ndim == 2:
            return values.reshape(-1), "as is"
        return np.tile(values, self.n_frames), "first"


def numbers_of(frames: Frames, *, fixed: bool = False) -> Item:
    """The atomic numbers, which every structure must have."""
    found = frames.per_atom("atomic_numbers", "", fixed=fixed)
    if found is None:
        raise Unfit("no atomic numbers")
    return found


def structures(group: Group, suffix: str = "", kind: Kind = STRUCTURES, path: str | None = None) -> list[Part]:
    """A structure with its labels and features; a trajectory where only it has what a trajectory needs."""
    frames = Frames.of(group)
    if group.array("time") is not None and kind is STRUCTURES and _is_trajectory(frames):
        part = _trajectory(frames, suffix)
    else:
        part = _structures(frames, suffix, kind)
    part.path = group.path if path is None else path
    part.records = ("frame", frames.n_frames)
    features = _features(frames, part)
    labels = _labels(frames, part)
    part.keep_rest(group, taken=[row.path for other in features for row in other.rows])
    part.add_attributes(group)
    return [part, *features, *labels]


def _structures(frames: Frames, suffix: str, kind: Kind) -> Part:
    part = Part(frames.group.path, kind, suffix)
    count, atoms = frames.n_frames, frames.n_atoms
    part.set("n_atoms", np.full(count, atoms))
    part.put(frames.positions, "positions", _flat(frames.positions))
    numbers = numbers_of(frames)
    part.put(numbers, "atomic_numbers", *frames.repeated(numbers))
    masses = frames.per_atom("masses", "amu")
    if masses is not None:
        part.put(masses, "masses", *frames.repeated(masses))
    periodic = frames.put_cell(part) and frames.group.attribute("periodic") is not False
    part.set("pbc", np.full((count, 3), int(periodic)))
    energy = frames.per_frame("E_pot", "eV/atom")
    part.put(energy, "energy", _total(energy, atoms), f"per atom {atoms}")
    forces, velocities = frames.vectors("forces", "eV/Angstrom"), _velocities(frames)[1]
    part.put(forces, "forces", _flat(forces))
    if velocities is not None and np.isfinite(values_of(velocities)).all():
        part.put(velocities, "velocities", _flat(velocities))
    per_frame = (("time", "time", "fs"), ("T", "temperature", "K"), ("p", "pressure", "GPa"))
    for stem, name, unit in (*per_frame, *((stem, stem, "eV/atom") for stem in _BY_FRAME)):
        item = frames.per_frame(stem, unit)
        part.put(item, name, _row(item), dims=("frame",), units=unit)
    return part


def _velocities(frames: Frames) -> tuple[str, Item | None]:
    return "velocities", frames.vectors("velocities", "Angstrom/fs")


def _is_trajectory(frames: Frames) -> bool:
    """Whether the frames have all that the kind needs, in finite numbers."""
    group = frames.group
    numbers = group.array("atomic_numbers")
    items = [group.array(stem) for stem in ("time", "T", "velocities", "forces", "E_pot", "E_kin", "masses")]
    items += [group.array(stem) for stem in ("p", "V") if group.array(stem) is not None]
    whole = all(item is not None and item.values is not None and np.isfinite(item.values).all() for item in items)
    return whole and numbers is not None and numbers.values is not None and numbers.values.ndim == 1


def _trajectory(frames: Frames, suffix: str) -> Part:
    part = Part(frames.group.path, TRAJECTORY, suffix)
    group, count, atoms = frames.group, frames.n_frames, frames.n_atoms
    shape = (count, atoms, 3)
    for name, vectors in (
        ("positions", frames.positions),
        _velocities(frames),
        ("forces", frames.vectors("forces", "eV/Angstrom")),
    ):
        part.put(vectors, name, values_of(vectors).reshape(shape))
    for stem, name in (("E_pot", "energy"), ("E_kin", "kinetic_energy")):
        item = frames.per_frame(stem, "eV/atom")
        part.put(item, name, _total(item, atoms), f"per atom {atoms}")
    volume = frames.per_frame("V", "Angstrom^3/atom")
    part.put(volume, "volume", _total(volume, atoms), f"per atom {atoms}")
    time = frames.per_frame("time", "fs")
    for item, name in (
        (time, "time"),
        (frames.per_frame("T", "K"), "temperature"),
        (frames.per_frame("p", "GPa"), "pressure"),
    ):
        part.put(item, name, _row(item))
    part.put(item := numbers_of(frames, fixed=True), "atomic_numbers", values_of(item))
    part.put(frames.per_atom("masses", "amu", fixed=True), "masses", values_of(group.array("masses")))
    periodic = frames.put_cell(part) and group.attribute("periodic") is not False
    part.set("pbc", np.full(3, int(periodic)))
    part.set("step", np.arange(count))
    part.attributes["step_is"] = "the number of the frame: the imported file does not say the time step"
    limit = group.attribute("time_equilibration")
    part.set("equilibration", (_row(time) < (limit or 0.0) * (1.0 - 1e-9)).astype(np.int8))
    target = group.attribute("target_temperature")
    if target is not None:
        part.set("target_temperature", np.full(count, float(target)))
    return part


def _features(frames: Frames, of: Part) -> list[Part]:
    """Feature vectors, of frames [F, D] or of atoms [F, N, D] (or [N, D] of one structure)."""
    item = frames.group.array("feature_vectors")
    if item is None or item.values is None or item.values.dtype.kind != "f" or not np.isfinite(item.values).all():
        return []
    values, count, atoms = item.values, frames.n_frames, frames.n_atoms
    of_atoms = values.ndim == 3 and values.shape[:2] == (count, atoms)
    if not of_atoms and values.ndim == 2 and values.shape[0] == atoms and frames.positions.values is not None:
        of_atoms = frames.positions.values.ndim == 2 and not str(_type_of(frames)).startswith("averaged")
    if not of_atoms and (values.ndim != 2 or values.shape[0] != count):
        raise _wrong(item, "shape", f"({count}, {atoms}, any) or ({count}, any)", str(values.shape))
    part = Part(of.path, FEATURES, of.suffix + "_features")
    part.put(item, "features", values.reshape(-1, values.shape[-1]))
    part.set("source_frame", np.repeat(np.arange(count), atoms if of_atoms else 1))
    if of_atoms:
        part.set("source_atom", np.tile(np.arange(atoms), count))
    part.attributes["feature_vectors_type"] = _type_of(frames) or "unknown"
    return [part]


def _type_of(frames: Frames) -> Any:
    return frames.group.attribute("feature_vectors_type")


def _labels(frames: Frames, of: Part) -> list[Part]:
    """One part per level of theory of the group ``ground_truth``."""
    group = frames.group.children.get("ground_truth")
    if group is None:
        return []
    named = group.attribute("levels_of_theory")
    spoken = {str(name).replace("/", DIVISION): str(name) for name in named} if isinstance(named, list) else {}
    methods = dict.fromkeys(item.stem.partition("_")[2] for item in group.arrays if _is_label(item))
    truth = Frames(group, frames.positions, frames.n_frames, frames.n_atoms)
    parts = [_label(truth, of, method, spoken.get(method, method.replace(DIVISION, "/"))) for method in methods]
    (parts[0] if parts else of).keep_rest(group, taken=[row.path for part in parts for row in part.rows])
    of.add_attributes(group, "ground_truth")
    return parts


def _is_label(item: Item) -> bool:
    word, _, method = item.stem.partition("_")
    return bool(method) and item.values is not None and word in ("E", "forces", "status")


def _label(frames: Frames, of: Part, method: str, name: str) -> Part:
    count, atoms = frames.n_frames, frames.n_atoms
    energy = frames.per_frame(f"E_{method}", "eV/atom")
    forces = frames.vectors(f"forces_{method}", "eV/Angstrom")
    status = frames.per_frame(f"status_{method}", "")
    part = Part(of.path, LABELS, f"{of.suffix}_labels/{segment_of(name)}")
    _set_structures(part, of, count, atoms)
    part.set("energy", np.full(count, np.nan))
    part.set("forces", np.full((count * atoms, 3), np.nan))
    part.put(energy, "energy", _total(energy, atoms), f"per atom {atoms}")
    part.put(forces, "forces", _flat(forces))
    if status is not None:
        codes = np.where(np.isin(_row(status), _STATUSES), _row(status), UNDEFINED)
        part.put(status, "status", codes)
    else:
        known = np.isfinite(part.values["energy"]) if energy is not None else np.full(count, forces is not None)
        codes = np.where(known, DONE, UNDEFINED)
        part.set("status", codes)
    part.set("converged", codes == DONE)
    part.attributes["level_of_theory"] = name
    return part


def _set_structures(part: Part, of: Part, count: int, atoms: int) -> None:
    """The structures that labels belong to, from the part that came of the same frames."""
    part.set("n_atoms", np.full(count, atoms))
    part.set("positions", np.reshape(of.values["positions"], (-1, 3)))
    part.set("atomic_numbers", np.resize(of.values["atomic_numbers"], count * atoms))
    part.set("cell", of.values["cell"])
    part.set("pbc", np.broadcast_to(of.values["pbc"], (count, 3)))


def values_of(item: Item | None) -> Values:
    """The values of an array that must be there."""
    if item is None or item.values is None:
        raise Unfit("an array is missing")
    return item.values


def _flat(item: Item | None) -> Values | None:
    return None if item is None else values_of(item).reshape(-1, 3)


def _row(item: Item | None) -> Any:
    return None if item is None else values_of(item).reshape(-1)


def _total(item: Item | None, atoms: int) -> Any:
    return None if item is None else values_of(item).reshape(-1).astype(np.float64) * atoms
