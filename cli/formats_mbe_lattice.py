"""Force constants and phonon bands of mbe-automation files."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from ..schemas.kinds_lattice import FORCE_CONSTANTS, PHONONS
from .formats_mbe_file import Group, Item, Values
from .formats_mbe_frames import Frames, Unfit, numbers_of, values_of, wanted
from .formats_mbe_parts import FLAGS, Part

if TYPE_CHECKING:
    import xarray as xr

_SAME_PLACE = 1e-4  # Angstrom: two atoms nearer than this are the same
_SEGMENT = re.compile(r"(frequencies|distances|kpoints)_segment_(\d+)")


def force_constants(group: Group) -> list[Part]:
    """Force constants in our compact form; full ones that the compact form does not give back are kept beside it."""
    cells = {name: group.children.get(name) for name in ("primitive", "supercell")}
    primitive, supercell = (_cell(cells[name]) for name in ("primitive", "supercell"))
    part = Part(group.path, FORCE_CONSTANTS)
    for name, frames, dim in (("primitive", primitive, "atom"), ("supercell", supercell, "atom_2")):
        part.put(frames.positions, f"{name}_positions", values_of(frames.positions).reshape(-1, 3))
        part.put(
            numbers_of(frames, fixed=True), f"{name}_numbers", values_of(numbers_of(frames, fixed=True)).reshape(-1)
        )
        part.put(frames.cell(), f"{name}_cell", values_of(frames.cell()).reshape(3, 3))
        masses = frames.per_atom("masses", "amu")
        if masses is not None:
            part.put(masses, f"{name}_masses", values_of(masses).reshape(-1), dims=(dim,), units="amu")
    _put_matrix(group, part)
    atoms = atoms_in_supercell(part.values)
    part.set("primitive_to_supercell", atoms)
    small, large = primitive.n_atoms, supercell.n_atoms
    constants = wanted(group, "force_constants", "eV/Angstrom^2", (large, large, 3, 3), (small, large, 3, 3))
    values = values_of(constants)
    if not np.isfinite(values).all():
        raise Unfit("force constants that are not finite")
    full = values.shape[0] == large
    part.put(constants, "force_constants", values[atoms] if full else values, "full" if full else "as is")
    part.keep_rest(group, *(child for child in cells.values() if child is not None))
    part.add_attributes(group)
    for name, child in cells.items():
        if child is not None:
            part.add_attributes(child, name)
    return [part]


def _cell(group: Group | None) -> Frames:
    if group is None:
        raise Unfit("no primitive cell or no supercell")
    frames = Frames.of(group)
    if frames.n_frames != 1 or frames.cell() is None:
        raise Unfit("more than one structure, or no cell")
    return frames


def _put_matrix(group: Group, part: Part) -> None:
    """The supercell matrix: phonopy's has the supercell vectors as columns, ours as rows."""
    item = wanted(group, "supercell_matrix", "", (3, 3))
    matrix = values_of(item)
    small, large = part.values["primitive_cell"], part.values["supercell_cell"]
    if np.allclose(matrix.T @ small, large, atol=1e-3):
        part.put(item, "supercell_matrix", matrix.T, "transposed")
        return
    exact = large @ np.linalg.inv(small)  # the matrix may be meant in another cell than the primitive one
    if not np.allclose(exact, np.rint(exact), atol=1e-3):
        raise Unfit("the supercell is no multiple of the primitive cell")
    part.set("supercell_matrix", np.rint(exact).astype(np.int64))


def atoms_in_supercell(values: dict[str, Values]) -> Values:
    """The supercell atom at the place of each primitive atom."""
    shift = values["primitive_positions"][:, None, :] - values["supercell_positions"][None, :, :]
    fractional = shift @ np.linalg.inv(values["supercell_cell"])
    distance = np.linalg.norm((fractional - np.rint(fractional)) @ values["supercell_cell"], axis=-1)
    nearest = distance.argmin(axis=1)
    if (distance.min(axis=1) > _SAME_PLACE).any() or len(set(nearest.tolist())) < len(nearest):
        raise Unfit("an atom of the primitive cell has no place in the supercell")
    return np.asarray(nearest)


def full_force_constants(dataset: xr.Dataset) -> Values:
    """Full force constants [N, N, 3, 3] from compact ones: a translation of the primitive lattice changes nothing.

    Each atom of the supercell is a primitive atom moved by a lattice vector; its row is that of the primitive atom with
    the second atoms moved alike.
    """
    from scipy.spatial import cKDTree

    compact = dataset["force_constants"].to_numpy()
    start = dataset["primitive_to_supercell"].to_numpy()
    small, large = dataset["primitive_cell"].to_numpy(), dataset["supercell_cell"].to_numpy()
    places = dataset["supercell_positions"].to_numpy() @ np.linalg.inv(large)
    tree = cKDTree(places % 1.0 % 1.0, boxsize=1.0)
    numbers = dataset["supercell_numbers"].to_numpy()
    full = np.zeros((len(numbers), len(numbers), 3, 3), dtype=compact.dtype)
    for primitive, first in enumerate(start.tolist()):
        moves = (places - places[first]) @ large @ np.linalg.inv(small)
        copies = np.flatnonzero((np.abs(moves - np.rint(moves)).max(axis=1) < 1e-3) & (numbers == numbers[first]))
        for atom in copies.tolist():
            _, before = tree.query((places - places[atom] + places[first]) % 1.0 % 1.0)
            full[atom] = compact[primitive][before]
    return full


def bands(group: Group) -> list[Part]:
    """A path through the Brillouin zone, its segments end to end."""
    found: dict[str, dict[int, Item]] = {"frequencies": {}, "distances": {}, "kpoints": {}}
    for item in group.arrays:
        match = _SEGMENT.fullmatch(item.stem)
        if match:
            found[match[1]][int(match[2])] = item
    segments = sorted(found["frequencies"])
    if not segments or any(sorted(found[name]) != segments for name in found):
        raise Unfit("the segments of the path are not whole")
    counts = [_check_segment(group, found, i) for i in segments]
    edges = np.concatenate([[0], np.cumsum(counts)]).tolist()
    part = Part(group.path, PHONONS)
    for name, variable in (("frequencies", "frequency"), ("kpoints", "q_point"), ("distances", "distance")):
        arrays = [values_of(found[name][i]) for i in segments]
        if len({array.shape[1:] for array in arrays}) > 1 or not np.isfinite(np.concatenate(arrays)).all():
            raise Unfit("segments of different width, or values that are not finite")
        whole = np.concatenate(arrays)
        part.set(variable, *((whole,) if whole.ndim == 2 else (whole, ("q",))))
        for i, start, stop in zip(segments, edges, edges[1:], strict=False):
            part.row(found[name][i], variable, f"rows {start}:{stop}")
    part.set("segment", np.repeat(np.arange(len(segments)), counts), ("q",))
    for stem, dims in (("path_connections", ("segment_index",)), ("labels", ("label_index",))):
        named = group.array(stem)
        if named is not None and named.values is not None and named.values.ndim == 1:
            part.keep(named, dims)
    if "path_connections" in part.values:
        dims, values, _ = part.values["path_connections"]
        part.values["path_connections"] = (dims, values, dict(FLAGS))
    part.keep_rest(group)
    part.add_attributes(group)
    return [part]


def _check_segment(group: Group, found: dict[str, dict[int, Item]], i: int) -> int:
    count = len(np.atleast_1d(values_of(found["frequencies"][i])))
    wanted(group, f"frequencies_segment_{i}", "THz", (count, None))
    wanted(group, f"kpoints_segment_{i}", "", (count, 3))
    wanted(group, f"distances_segment_{i}", "", (count,))
    return count
