"""Finite clusters cut from the frames of a molecular crystal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from ase.geometry import complete_cell
from numpy.typing import NDArray

from ...schemas.errors import InvalidConfig, InvalidData
from ...schemas.kinds import MOLECULAR_CRYSTAL
from .cluster_geometry import MoleculeGeometry, Neighbors, charges_of, piece, shells
from .cluster_labels import Cut, with_labels
from .molecules import Floats, Integers, changed_molecules, detect_molecules, images_in
from .single_points import labelled
from .subsystem_config import FiniteSubsystemFilter

if TYPE_CHECKING:
    import xarray as xr

    from ..potentials import Potential

_FIRST_RADIUS = 6.0
_GROWTH = 1.3
_MARGIN = 0.01


@dataclass(frozen=True, slots=True, eq=False)
class _Tracked:
    """A frame with its molecules whole, and where they have gone since the reference."""

    index: int
    atoms: Atoms
    image: Integers
    moved: Integers
    changed: NDArray[np.bool_]


class SubsystemCutter:
    """Cuts the same clusters from all frames of a structure.

    The molecules, the central one and the images that form each cluster are chosen once, from the reference, and kept,
    so that the frames of a cluster are one system.

    Parameters
    ----------
    settings : FiniteSubsystemFilter
        Rule, sizes or distances.
    reference : Atoms
        The first frame of a trajectory, or the perfect supercell.

    Attributes
    ----------
    molecules : Molecules
        Of the reference.
    central : int
        Number of the central molecule.
    clusters : dict of str to Neighbors
        The molecules of each cluster beside the central one, by ``n=1`` ... or ``r=4.00`` ...
    same_as : dict of str to str
        Clusters that are those of a shorter distance again; they are cut once.

    Raises
    ------
    InvalidData
        If the reference has no molecules (see ``detect_molecules``).
    InvalidConfig
        If there are too few molecules, none within a distance, molecules of several kinds where one was asked for, or
        a cluster would hold two images of one molecule.
    """

    def __init__(self, settings: FiniteSubsystemFilter, reference: Atoms) -> None:
        self.settings = settings
        self.molecules = detect_molecules(reference, bond_scale=settings.bond_scale, ions=settings.ions)
        if self.molecules.n_molecules == 0:
            raise InvalidData("The structure has no atoms.", expected="molecules", found="an empty structure")
        self.formulas = self.molecules.formulas
        self._check_composition()
        self.geometry = MoleculeGeometry(reference.copy(), self.molecules)
        self.charges = charges_of(self.molecules, settings.unit_charges, periodic=bool(reference.pbc.any()))
        self.central = self._central()
        self.neighbors, self.neighbor_radius = self._listed()
        self.clusters = self._chosen()
        self._check_fits()
        self.same_as = self._repeated()

    def molecular_crystal(self) -> xr.Dataset:
        """The molecules of the reference and the neighbours of the central one, as a dataset of ``MOLECULAR_CRYSTAL``.

        The list of neighbours holds every image with an atom or the centre of mass within the attribute
        ``neighbor_radius_Angstrom``.
        """
        atoms, molecules, near = self.geometry.atoms, self.molecules, self.neighbors
        values = {
            "molecule_of_atom": molecules.molecule_of_atom,
            "image": molecules.image,
            "atomic_numbers": molecules.numbers,
            "center_of_mass": self.geometry.centers,
            "formula": np.array(self.formulas, dtype=object),
            "charge": self.charges,
            "positions": atoms.positions,
            "cell": atoms.cell.array,
            "bond": molecules.bonds,
            "bond_shift": molecules.bond_shift,
            "neighbor_molecule": near.molecule,
            "neighbor_image": near.image,
            "neighbor_minimum_distance": near.minimum,
            "neighbor_maximum_distance": near.maximum,
            "neighbor_center_distance": near.center,
        }
        attributes = {
            "central_molecule": self.central,
            "n_molecules": molecules.n_molecules,
            "identical_composition": int(len(set(self.formulas)) == 1),
            "neighbor_radius_Angstrom": self.neighbor_radius,
            "bond_scale": molecules.bond_scale,
            "periodic": atoms.pbc.astype(int).tolist(),
        }
        return MOLECULAR_CRYSTAL.dataset(values, attributes)

    def cut(
        self,
        frames: Iterable[Atoms],
        indices: Sequence[int],
        potential: Potential | None = None,
        label: str | None = None,
        *,
        needed: bool = True,
    ) -> dict[str, xr.Dataset]:
        """Cut all clusters from some frames.

        Parameters
        ----------
        frames : iterable of Atoms
            With the atoms of the reference in the same order, wrapped into the cell or not; the cell may change.
        indices : sequence of int
            Number of each frame in its source.
        potential : Potential, optional
            Gives each cluster its energy and forces, from a cold engine. Where that fails they are NaN.
        label : str, optional
            As in ``FiniteSubsystemFilter.outputs``.
        needed : bool
            Whether it is an error if the potential fails for every cluster; after the first frames it is none.

        Returns
        -------
        dict of str to xarray.Dataset
            A dataset of ``CLUSTERS`` for each name in ``settings.cluster_outputs(label)``; molecule 0 is the central
            one and the centre of mass of each cluster is the origin. Those in ``same_as`` are empty, with an attribute
            that names the other.

        Raises
        ------
        InvalidData
            If a frame has other atoms than the reference.
        ComputeFailed
            If the potential fails for every cluster, and energies are needed.
        """
        cuts = self.pieces(frames, indices, label)
        pieces = [system for cut in cuts.values() for system in cut.systems]
        labels = None if potential is None else [labelled(system, potential) for system in pieces]
        return with_labels(cuts, labels, needed=needed)

    def pieces(self, frames: Iterable[Atoms], indices: Sequence[int], label: str | None = None) -> dict[str, Cut]:
        """All clusters of some frames before they have energies; parameters and errors as in ``cut``."""
        tracked = [self._track(int(index), atoms) for index, atoms in zip(indices, frames, strict=True)]
        names = zip(self.settings.cluster_names, self.settings.cluster_outputs(label), strict=True)
        return {output: self._cut_one(name, [] if name in self.same_as else tracked) for name, output in names}

    # --- the choice -------------------------------------------------------------------------------------------------

    def _check_composition(self) -> None:
        kinds = sorted(set(self.formulas))
        if self.settings.assert_identical_composition and len(kinds) > 1:
            raise InvalidConfig(
                "The crystal holds molecules of different composition.",
                expected="one kind of molecule, or assert_identical_composition = false",
                found=", ".join(f"{self.formulas.count(kind)} {kind}" for kind in kinds),
                hint="allow it, and choose the central molecule with central_molecule",
            )

    def _nearest_to_middle(self, count: int) -> tuple[Integers, Integers]:
        """The images of molecules nearest to the centre of mass of the cell: molecule (count,), translation."""
        geometry, radius = self.geometry, _FIRST_RADIUS
        while True:
            molecule, image, distance = geometry.around_point(geometry.middle(), radius)
            if np.count_nonzero(distance < radius - _MARGIN) >= count:
                break
            if not geometry.pbc.any() and len(molecule) == self.molecules.n_molecules:
                raise self._too_few(count)
            radius *= _GROWTH
        order = np.lexsort((*image.T[::-1], molecule, shells(distance)))[:count]
        return molecule[order], image[order]

    def _central(self) -> int:
        asked = self.settings.central_molecule
        if asked is None:
            return int(self._nearest_to_middle(1)[0][0])
        if asked >= self.molecules.n_molecules:
            raise InvalidConfig(
                "There is no molecule of that number.",
                expected=f"central_molecule from 0 to {self.molecules.n_molecules - 1}",
                found=asked,
            )
        return asked

    def _listed(self) -> tuple[Neighbors, float]:
        """All neighbours of the central molecule as far as the rule needs them, and the radius of the search."""
        settings, geometry = self.settings, self.geometry
        radius = max(_FIRST_RADIUS, *(settings.distances or (0.0,)), 0.0)
        if not geometry.pbc.any():
            spread = float(np.linalg.norm(geometry.centers - geometry.centers[self.central], axis=1).max())
            radius = max(radius, spread + 1.0)
            return geometry.neighbors(self.central, radius), radius
        wanted = max(settings.n_molecules) - 1 if settings.selection_rule == "closest_to_central_molecule" else 0
        while True:
            near = geometry.neighbors(self.central, radius)
            if np.count_nonzero(self._measured(near) < radius - _MARGIN) >= wanted:
                return near, radius
            radius *= _GROWTH

    def _measured(self, near: Neighbors) -> Floats:
        return near.center if self.settings.distance_measure == "center_of_mass" else near.minimum

    def _chosen(self) -> dict[str, Neighbors]:
        settings, near = self.settings, self.neighbors
        names = settings.cluster_names
        if settings.by_distance:
            compared = near.minimum if "max_min" in settings.selection_rule else near.maximum
            found = {}
            for name, cutoff in zip(names, settings.distances or (), strict=True):
                found[name] = near.take(compared < cutoff)
                if len(found[name]) == 0:
                    raise self._none_within(cutoff)
            return found
        if settings.selection_rule == "closest_to_center_of_mass":
            molecule, image = self._nearest_to_middle(max(settings.n_molecules))
            molecule, image = molecule[1:], image[1:] - image[0]
            minimum, maximum = self.geometry.distances(self.central, molecule, image)
            off = self.geometry.centers[molecule] + image @ self.geometry.cell - self.geometry.centers[self.central]
            ordered = Neighbors(molecule, image, minimum, maximum, np.linalg.norm(off, axis=1))
        else:
            ordered = near.in_order(self._measured(near))
            if len(ordered) < max(settings.n_molecules) - 1:
                raise self._too_few(max(settings.n_molecules))
        return {
            name: ordered.take(np.arange(count - 1)) for name, count in zip(names, settings.n_molecules, strict=True)
        }

    def _too_few(self, count: int) -> InvalidConfig:
        there = self.molecules.n_molecules
        return InvalidConfig(
            "The structure holds fewer molecules than asked for, and does not repeat.",
            expected=f"n_molecules up to {there}",
            found=f"n_molecules = {count}",
        )

    def _none_within(self, cutoff: float) -> InvalidConfig:
        near, kind = self.neighbors, "shortest" if "max_min" in self.settings.selection_rule else "longest"
        compared = near.minimum if kind == "shortest" else near.maximum
        there = f"the smallest is {compared.min():.3f}" if len(near) else "there are no other molecules"
        return InvalidConfig(
            "No molecule is that close to the central one.",
            expected=f"a distance above the {kind} one to a neighbour; {there}",
            found=f"{cutoff:g} Angstrom",
            hint="set distances larger",
        )

    def _check_fits(self) -> None:
        """Refuse clusters with two images of one molecule, and say which supercell would hold all of them."""
        if self.settings.allow_images:
            return
        worst = {name: int(np.bincount(np.append(c.molecule, self.central)).max()) for name, c in self.clusters.items()}
        bad = [name for name, images in worst.items() if images > 1]
        if not bad:
            return
        radius = max(self._radius_to_hold(self.clusters[name]) for name in bad)
        raise InvalidConfig(
            f"The cell does not hold the cluster {bad[0]} without two images of one molecule.",
            expected=f"supercell_radius = {np.ceil(10.0 * radius + 0.1) / 10.0:.1f} or more, which holds all clusters",
            found=f"{worst[bad[0]]} images of one molecule; the cell has {self.molecules.n_molecules} molecules",
            hint="take a larger supercell or smaller clusters; for a perfect crystal set allow_images = true",
        )

    def _radius_to_hold(self, cluster: Neighbors) -> float:
        """The largest distance of two equal molecules of a cluster: no lattice vector may be as short."""
        molecule = np.append(self.central, cluster.molecule)
        image = np.concatenate([np.zeros((1, 3), dtype=np.int64), cluster.image])
        centers = self.geometry.centers[molecule] + image @ self.geometry.cell
        formulas = np.array(self.formulas)[molecule]
        apart = np.linalg.norm(centers[:, None] - centers[None], axis=2)
        return float(apart[formulas[:, None] == formulas[None]].max())

    def _repeated(self) -> dict[str, str]:
        same: dict[str, str] = {}
        if self.settings.by_distance:
            first: dict[int, str] = {}
            for name, cluster in self.clusters.items():
                size = len(cluster)
                if size in first:
                    same[name] = first[size]
                first.setdefault(size, name)
        return same

    # --- the frames -------------------------------------------------------------------------------------------------

    def _track(self, index: int, atoms: Atoms) -> _Tracked:
        """Make the molecules of a frame whole, and find where each has gone relative to the central one."""
        molecules, geometry = self.molecules, self.geometry
        if not np.array_equal(atoms.numbers, molecules.numbers) or not np.array_equal(atoms.pbc, geometry.pbc):
            raise InvalidData(
                "A frame is of another system than the reference.",
                expected=f"{geometry.atoms.get_chemical_formula()}, periodic {geometry.pbc.tolist()}, in that order",
                found=f"frame {index}: {atoms.get_chemical_formula()}, periodic {atoms.pbc.tolist()}",
                hint="cut structures of different systems one key at a time",
            )
        image = images_in(atoms, molecules)
        centers = _centers(atoms, molecules.molecule_of_atom, image)
        now = centers @ np.linalg.inv(complete_cell(atoms.cell.array))
        then = geometry.centers @ np.linalg.inv(geometry.cell)
        off = (now - now[self.central]) - (then - then[self.central])
        moved = np.where(geometry.pbc, -np.rint(off), 0.0).astype(np.int64)
        return _Tracked(index, atoms, image, moved, changed_molecules(atoms, molecules, image))

    def _cut_one(self, name: str, tracked: Sequence[_Tracked]) -> Cut:
        cluster = self.clusters[name]
        numbers = np.append(self.central, cluster.molecule)
        translations = np.concatenate([np.zeros((1, 3), dtype=np.int64), cluster.image])
        members = [self.geometry.members[m] for m in numbers]
        sizes = np.array([len(atoms) for atoms in members])
        atoms_of_cluster = np.concatenate(members)
        molecule, source = np.repeat(np.arange(len(numbers)), sizes), np.repeat(numbers, sizes)
        systems, images = [], []
        for frame in tracked:
            image = frame.image[atoms_of_cluster] + np.repeat(translations + frame.moved[numbers], sizes, axis=0)
            images.append(image)
            systems.append(piece(frame.atoms, atoms_of_cluster, image, self.charges[numbers], sizes))
        count = len(tracked)
        more: dict[str, Any] = {
            "source_frame": np.array([frame.index for frame in tracked], dtype=np.int64),
            "n_molecules": np.full(count, len(numbers), dtype=np.int64),
            "molecule": np.tile(molecule, count),
            "source_molecule": np.tile(source, count),
            "source_atom": np.tile(atoms_of_cluster, count),
            "source_image": np.concatenate(images) if images else np.zeros((0, 3), dtype=np.int64),
            "intact": np.array([not frame.changed[numbers].any() for frame in tracked], dtype=np.int8),
            "source_intact": np.array([not frame.changed.any() for frame in tracked], dtype=np.int8),
            "masses": np.concatenate([s.get_masses() for s in systems]) if systems else np.zeros(0),
        }
        if self.settings.unit_charges:
            more["charge"] = np.full(count, self.charges[numbers].sum())
        return Cut(systems, more, self._attributes(name))

    def _attributes(self, name: str) -> dict[str, Any]:
        settings, cluster = self.settings, self.clusters[name]
        found: dict[str, Any] = {
            "selection_rule": settings.selection_rule,
            "central_molecule": self.central,
            "images_of_one_molecule": int(len(np.unique([self.central, *cluster.molecule])) <= len(cluster)),
        }
        if settings.selection_rule == "closest_to_central_molecule":
            found["distance_measure"] = settings.distance_measure
        if name in self.same_as:
            found["same_as"] = f"finite_subsystems/{self.same_as[name]}"
        return found


def _centers(atoms: Atoms, molecule_of_atom: Integers, image: Integers) -> Floats:
    masses = atoms.get_masses()
    weighted = masses[:, None] * (atoms.positions + image @ atoms.cell.array)
    total = np.bincount(molecule_of_atom, masses)
    return np.stack([np.bincount(molecule_of_atom, weighted[:, k]) for k in range(3)], axis=1) / total[:, None]
