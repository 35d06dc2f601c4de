"""Molecular crystals, finite subsystems and tables of mbe-automation files."""

from __future__ import annotations

import numpy as np

from ..schemas.kinds import CLUSTERS, MOLECULAR_CRYSTAL, TABLE
from ..schemas.kinds_lattice import THERMODYNAMICS
from .formats_mbe_file import Group, Item, Values
from .formats_mbe_frames import Frames, Unfit, numbers_of, structures, values_of, wanted
from .formats_mbe_parts import Part

_CENTRE_TOLERANCE = 1e-3  # Angstrom, between the centres of mass of the file and those of our images


def molecular_crystal(group: Group) -> list[Part]:
    """The molecules of a cell, and its structures as a key of their own."""
    inner = group.children.get("supercell")
    if inner is None:
        raise Unfit("no supercell")
    frames = Frames.of(inner)
    index_map = wanted(group, "index_map", "", (None, None))
    molecules = _molecule_of_atom(values_of(index_map), frames.n_atoms)
    count = int(molecules.max()) + 1
    centers = wanted(group, "centers_of_mass", "Angstrom", (count, 3))
    part = Part(group.path, MOLECULAR_CRYSTAL)
    part.put(index_map, "molecule_of_atom", molecules, "index map")
    part.put(centers, "center_of_mass", values_of(centers))
    part.set("image", _images(frames, molecules, values_of(centers)))
    part.set("atomic_numbers", _numbers(frames))
    part.set("positions", _first(frames, frames.positions))
    part.set("cell", values_of(frames.cell()).reshape(-1, 3, 3)[0])
    for name in ("min_distances_to_central_molecule", "max_distances_to_central_molecule"):
        item = wanted(group, name, "Angstrom", (count,))
        if item is not None:
            part.put(item, name, values_of(item), dims=("molecule",), units="Angstrom")
    part.keep_rest(group)
    part.add_attributes(group)
    return [part, *structures(inner, "_supercell", path=group.path)]


def _first(frames: Frames, item: Item) -> Values:
    """Vectors of the atoms of the first frame."""
    return np.asarray(values_of(item).reshape(frames.n_frames, frames.n_atoms, 3)[0])


def _numbers(frames: Frames) -> Values:
    return np.asarray(np.atleast_2d(values_of(numbers_of(frames)))[0])


def _molecule_of_atom(index_map: Values, atoms: int) -> Values:
    """The molecule of each atom, from rows of atoms that are filled up with -1."""
    molecules = np.full(atoms, -1)
    counts = np.zeros(atoms, dtype=np.int64)
    for molecule, row in enumerate(index_map):
        chosen = row[row >= 0]
        if (chosen >= atoms).any():
            raise Unfit("the index map names atoms that are not there")
        molecules[chosen] = molecule
        counts[chosen] += 1
    if (counts != 1).any():
        raise Unfit("an atom is in no molecule or in two")
    return molecules


def _images(frames: Frames, molecules: Values, centers: Values) -> Values:
    """Lattice translations that make the molecules whole: those that give the centres of mass of the file."""
    positions = _first(frames, frames.positions)
    masses = np.atleast_2d(values_of(frames.per_atom("masses", "amu")))[0]
    cell = values_of(frames.cell()).reshape(-1, 3, 3)[0]
    nearest = -np.rint((positions - centers[molecules]) @ np.linalg.inv(cell)).astype(np.int64)
    for image in (np.zeros((frames.n_atoms, 3), dtype=np.int64), nearest):
        whole = positions + image @ cell
        weights = np.bincount(molecules, masses)
        found = np.stack([np.bincount(molecules, masses * whole[:, i]) for i in range(3)], axis=1) / weights[:, None]
        if np.allclose(found, centers, rtol=0, atol=_CENTRE_TOLERANCE):
            return image
    raise Unfit("the centres of mass are not those of the first frame")


def finite_subsystem(group: Group) -> list[Part]:
    """Clusters of the same molecules in every frame."""
    inner = group.children.get("cluster_of_molecules")
    if inner is None:
        raise Unfit("no cluster of molecules")
    frames = Frames.of(inner)
    indices = wanted(group, "molecule_indices", "", (None,))
    count = int(group.attribute("n_molecules") or len(values_of(indices)))
    molecules = _molecules_of_cluster(frames, count)
    parts = structures(inner, kind=CLUSTERS, path=group.path)
    clusters = parts[0]
    clusters.set("source_frame", np.arange(frames.n_frames))
    clusters.set("n_molecules", np.full(frames.n_frames, count))
    clusters.set("molecule", np.tile(molecules, frames.n_frames))
    if indices is not None:
        if len(values_of(indices)) == count:
            clusters.set("source_molecule", np.tile(values_of(indices)[molecules], frames.n_frames))
        clusters.put(indices, "molecule_indices", values_of(indices), dims=("molecule_index",))
    clusters.keep_rest(group, taken=[row.path for row in clusters.rows])
    clusters.add_attributes(group)
    return parts


def _molecules_of_cluster(frames: Frames, count: int) -> Values:
    """The molecule of each atom: equal blocks where all molecules are alike, else what is bonded."""
    numbers = _numbers(frames)
    if count > 0 and frames.n_atoms % count == 0:
        blocks = np.sort(numbers.reshape(count, -1), axis=1)
        if (blocks == blocks[0]).all():
            return np.repeat(np.arange(count), frames.n_atoms // count)
    from ase import Atoms
    from ase.neighborlist import build_neighbor_list, natural_cutoffs
    from scipy.sparse.csgraph import connected_components

    atoms = Atoms(numbers, _first(frames, frames.positions))
    neighbours = build_neighbor_list(atoms, natural_cutoffs(atoms), self_interaction=False)
    found, molecules = connected_components(neighbours.get_connectivity_matrix())
    if found != count:
        raise Unfit("the molecules of the clusters cannot be told apart")
    return np.asarray(molecules, dtype=np.int64)


def table(group: Group) -> list[Part]:
    """Any arrays, as named columns; thermodynamics where one of them is the temperature."""
    part = _table(group)
    part.keep_rest(group)
    part.add_attributes(group)
    return [part]


def _table(group: Group) -> Part:
    temperature = group.array("T")
    lengths = [len(item.values) for item in group.arrays if item.values is not None and item.values.ndim == 1]
    rows = max(set(lengths), key=lambda n: (lengths.count(n), n)) if lengths else None
    if temperature is not None and _is_temperature(temperature):
        part, rows, dim = Part(group.path, THERMODYNAMICS), len(values_of(temperature)), "state"
        part.put(temperature, "temperature", values_of(temperature))
    else:
        part, dim = Part(group.path, TABLE), "row"
    used = {row.path for row in part.rows}
    for item in group.arrays:
        first = item.values is not None and item.values.ndim > 0 and len(item.values) == rows
        if item.full_name not in used and first:
            part.keep(item, (dim,))
    return part


def _is_temperature(item: Item) -> bool:
    values = item.values
    real = values is not None and values.ndim == 1 and values.dtype.kind == "f"
    return real and item.unit == "K" and bool(np.isfinite(values_of(item)).all())
