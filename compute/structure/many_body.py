"""The symmetry-unique dimers, trimers and tetramers of a molecular crystal, with their weights.

The energy of a crystal per molecule is expanded over its clusters::

    E = (1 / M) sum_n sum_{n-mers of a cell} dE_n = sum_u w_u dE_u

where M is the number of molecules in a cell, each n-mer is counted once up to lattice translations, ``dE_n`` is its
energy less the ``dE`` of all smaller clusters in it (``dE_1`` is the energy of a molecule), and ``u`` runs over the
n-mers that differ in shape. The terms of n >= 2 together are the lattice energy of rigid molecules.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from ...schemas.errors import InvalidConfig
from .cluster_geometry import MoleculeGeometry
from .congruence import Shape, congruent
from .molecules import Floats, Integers
from .subsystem_config import DistanceMeasure

Node = tuple[int, int, int, int]
"""A molecule and its lattice translation, as (translation, molecule)."""

_MOST = 500_000


@dataclass(frozen=True, slots=True, eq=False)
class UniqueCluster:
    """One of several clusters of equal shape.

    Attributes
    ----------
    molecule : array (n,) of int
        Molecules of the cell.
    image : array (n, 3) of int
        Their lattice translations.
    count : int
        How many clusters of this shape a cell has, each counted once up to translations.
    minimum : float
        Shortest distance of atoms of two molecules; of the pair for which it is longest (Angstrom); 0 for a monomer.
    center : float
        Longest distance between two centres of mass (Angstrom); 0 for a monomer.
    parts : dict of int to tuple of int
        By order, the places of all smaller clusters in it among the unique ones.
    """

    molecule: Integers
    image: Integers
    count: int
    minimum: float
    center: float
    parts: Mapping[int, tuple[int, ...]]


class ManyBody:
    """The clusters of a crystal, order by order.

    Parameters
    ----------
    geometry : MoleculeGeometry
        The molecules of the crystal's cell; the smaller the cell the better.
    cutoffs : sequence of float
        Of dimers, trimers, tetramers (Angstrom): a cluster counts when every two of its molecules are closer. They do
        not grow with the order, so that the parts of a cluster are themselves among the clusters.
    measure : {"minimum_interatomic", "center_of_mass"}
        What the cutoffs compare.
    tolerance : float
        Root mean square deviation of clusters of equal shape (Angstrom).
    mirror_images : bool
        Whether a cluster and its mirror image are one.

    Attributes
    ----------
    unique : dict of int to list of UniqueCluster
        By order, from 1; the nearest first.
    """

    def __init__(
        self,
        geometry: MoleculeGeometry,
        cutoffs: tuple[float, ...],
        *,
        measure: DistanceMeasure = "minimum_interatomic",
        tolerance: float = 1e-4,
        mirror_images: bool = True,
    ) -> None:
        self.geometry, self.measure = geometry, measure
        self.tolerance, self.mirror_images = tolerance, mirror_images
        self.kinds: dict[tuple[Node, ...], int] = {}
        self.unique: dict[int, list[UniqueCluster]] = {}
        self._pairs: dict[tuple[int, int, int, int, int], tuple[float, float, float]] = {}
        self._near = self._neighbors(max(cutoffs, default=0.0))
        self._classify(1, [((0, 0, 0, m),) for m in range(geometry.molecules.n_molecules)])
        for order, cutoff in enumerate(cutoffs, start=2):
            self._classify(order, self._cliques(order, cutoff))

    def _neighbors(self, radius: float) -> list[list[tuple[float, Node]]]:
        """For each molecule, the later nodes and their distance; a total order that translations keep."""
        later: list[list[tuple[float, Node]]] = []
        for central in range(self.geometry.molecules.n_molecules if radius > 0.0 else 0):
            near = self.geometry.neighbors(central, radius)
            compared = near.center if self.measure == "center_of_mass" else near.minimum
            mine = []
            for m, (x, y, z), r, d, c in zip(
                near.molecule.tolist(), near.image.tolist(), compared.tolist(), near.minimum, near.center, strict=True
            ):
                self._pairs[central, x, y, z, m] = (r, float(d), float(c))
                if (x, y, z, m) > (0, 0, 0, central):
                    mine.append((r, (x, y, z, m)))
            later.append(mine)
        return later

    def _pair(self, a: Node, b: Node) -> tuple[float, float, float]:
        found = self._pairs.get((a[3], b[0] - a[0], b[1] - a[1], b[2] - a[2], b[3]))
        return (np.inf, np.inf, np.inf) if found is None else found

    def _cliques(self, order: int, cutoff: float) -> list[tuple[Node, ...]]:
        """All n-mers of a cell, each once up to translations: its first node lies in the cell itself."""
        found: list[tuple[Node, ...]] = []
        for central, later in enumerate(self._near):
            nodes = sorted(node for r, node in later if r < cutoff)
            linked = {
                node: {other for other in nodes if other > node and self._pair(node, other)[0] < cutoff}
                for node in (nodes if order > 2 else [])
            }
            growing: list[tuple[tuple[Node, ...], set[Node]]] = [(((0, 0, 0, central),), set(nodes))]
            for _ in range(order - 1):
                growing = [
                    ((*clique, node), common & linked.get(node, set()))
                    for clique, common in growing
                    for node in sorted(common)
                ]
                self._check_number(order, cutoff, len(found) + len(growing))
            found += [clique for clique, _ in growing]
        return found

    def _check_number(self, order: int, cutoff: float, count: int) -> None:
        if count > _MOST:
            name = {2: "dimers", 3: "trimers", 4: "tetramers"}[order]
            raise InvalidConfig(
                f"There are too many {name} in a cell.",
                expected=f"up to {_MOST}",
                found=f"more, within {cutoff:g} Angstrom",
                hint=f"set the cutoff of {name} smaller, or start from the primitive cell",
            )

    def _classify(self, order: int, cliques: list[tuple[Node, ...]]) -> None:
        """Group clusters of equal shape; only those made of the same parts are compared."""
        groups: dict[tuple[int, ...], list[tuple[Shape, list[tuple[Node, ...]]]]] = defaultdict(list)
        for clique in cliques:
            shape = self._shape(clique)
            same = groups[tuple(sorted(self._parts(clique, order - 1)))]
            for other, members in same:
                if congruent(other, shape, self.tolerance, mirror_images=self.mirror_images):
                    members.append(clique)
                    break
            else:
                same.append((shape, [clique]))
        ranked = sorted(
            (np.round(self._extent(members[0]), 3).tolist(), members)
            for group in groups.values()
            for _, members in group
        )
        self.unique[order] = []
        for place, (_, members) in enumerate(ranked):
            minimum, center = self._extent(members[0])
            nodes = np.array(members[0], dtype=np.int64)
            parts = {k: self._parts(members[0], k) for k in range(1, order)}
            self.unique[order].append(UniqueCluster(nodes[:, 3], nodes[:, :3], len(members), minimum, center, parts))
            for clique in members:
                self.kinds[clique] = place

    def _parts(self, clique: tuple[Node, ...], order: int) -> tuple[int, ...]:
        """Places of the clusters of an order that a larger one is made of."""
        if order < 1:
            return ()
        return tuple(self.kinds[_from_origin(part)] for part in combinations(clique, order))

    def _extent(self, clique: tuple[Node, ...]) -> tuple[float, float]:
        pairs = [self._pair(a, b) for a, b in combinations(clique, 2)]
        return max((d for _, d, _ in pairs), default=0.0), max((c for _, _, c in pairs), default=0.0)

    def _shape(self, clique: tuple[Node, ...]) -> Shape:
        geometry = self.geometry
        positions: list[Floats] = [
            geometry.positions[geometry.members[m]] + np.array([x, y, z]) @ geometry.cell for x, y, z, m in clique
        ]
        numbers = np.concatenate([geometry.molecules.numbers[geometry.members[node[3]]] for node in clique])
        return Shape.of(numbers, np.concatenate(positions))


def _from_origin(clique: tuple[Node, ...]) -> tuple[Node, ...]:
    """The translate of a cluster (its nodes in order) whose first node lies in the cell itself."""
    x, y, z, _ = clique[0]
    return tuple((a - x, b - y, c - z, m) for a, b, c, m in clique)
