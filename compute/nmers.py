"""Monomers, dimers, trimers and tetramers of a molecular crystal, with weights: the module ``nmers``."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, Any

from ..schemas.errors import ComputeFailed
from ..schemas.kinds import CLUSTERS, STRUCTURES
from .module import POTENTIAL, Block, Context, Module, One, Optional, Request, Writes
from .nmers_config import Nmers

if TYPE_CHECKING:
    import xarray as xr
    from ase import Atoms

    from .potentials import Potential
    from .structure.cluster_geometry import MoleculeGeometry
    from .structure.many_body import UniqueCluster

Energies = dict[int, list[float]]


def nmers(config: Nmers, inputs: Mapping[str, Any], context: Context) -> Generator[Request, Any, None]:
    """Find the clusters that differ in shape, order by order, and compute their energies where a model is given.

    Parameters
    ----------
    config : Nmers
        Settings.
    inputs : mapping
        ``crystal``: a dataset of structures; ``model``: a Potential or None.
    context : Context
        Progress, how many clusters are committed, and their interaction energies.

    Yields
    ------
    Block
        ``block_clusters`` clusters of one order, the nearest first.

    Notes
    -----
    ``weight`` is the number of such clusters in a cell, each counted once up to translations, over the number of
    molecules in the cell. The sum of ``weight * interaction_energy`` over ``monomers``, ``dimers`` and so on is the
    expansion of the crystal's energy per molecule; without the monomers it is the lattice energy of rigid molecules.
    """
    import numpy as np

    from .structure.cluster_geometry import MoleculeGeometry, charges_of
    from .structure.frames import atoms_of
    from .structure.many_body import ManyBody
    from .structure.molecules import detect_molecules

    atoms, model = atoms_of(inputs["crystal"], config.structure_index), inputs.get("model")
    molecules = detect_molecules(atoms, bond_scale=config.bond_scale, ions=config.ions)
    charges = charges_of(molecules, config.unit_charges, periodic=bool(atoms.pbc.any()))
    geometry = MoleculeGeometry(atoms, molecules)
    found = ManyBody(
        geometry,
        config.cutoffs[: config.max_order - 1],
        measure=config.distance_measure,
        tolerance=config.rmsd_tolerance,
        mirror_images=config.mirror_images,
    )
    total = sum(len(unique) for unique in found.unique.values())
    energies = _restored(context, config)
    finished = sum(context.committed.values())
    for order, name in enumerate(config.names, start=1):
        unique = found.unique[order]
        context.logger.info("%d unique %s of %d in a cell", len(unique), name, sum(u.count for u in unique))
        done = context.committed.get(name, 0)
        while done < len(unique) or (done == 0 and name not in context.committed):
            block = unique[done : done + config.block_clusters]
            systems = [_system(geometry, cluster, charges) for cluster in block]
            more = _described(geometry, block, charges if config.unit_charges else None)
            more["source_frame"] = np.full(len(block), config.structure_index or 0, dtype=np.int64)
            if model is not None:
                if 1 not in energies:
                    energies[1] = _monomer_energies(geometry, charges, model)
                more |= _energies(systems, block, model, energies, order)
            done += len(block)
            finished += len(block)
            context.progress(finished, total, name)
            yield Block({name: _dataset(systems, more)}, restart=_packed(energies))
            if not unique:
                break
        if model is not None and order > 1:
            share = sum(u.count * e for u, e in zip(unique, energies.get(order, []), strict=True))
            context.logger.info("%s: %.6f eV per molecule", name, share / molecules.n_molecules)


def _system(geometry: MoleculeGeometry, cluster: UniqueCluster, charges: Any) -> Atoms:
    import numpy as np

    from .structure.cluster_geometry import piece

    members = [geometry.members[m] for m in cluster.molecule]
    sizes = np.array([len(atoms) for atoms in members])
    chosen = np.concatenate(members)
    image = geometry.molecules.image[chosen] + np.repeat(cluster.image, sizes, axis=0)
    return piece(geometry.atoms, chosen, image, charges[cluster.molecule], sizes)


def _described(geometry: MoleculeGeometry, block: list[UniqueCluster], charges: Any) -> dict[str, Any]:
    """The variables of clusters beyond their atoms."""
    import numpy as np

    members = [[geometry.members[m] for m in cluster.molecule] for cluster in block]
    sizes = [[len(atoms) for atoms in one] for one in members]
    images = [
        geometry.molecules.image[np.concatenate(one)] + np.repeat(cluster.image, size, axis=0)
        for one, size, cluster in zip(members, sizes, block, strict=True)
    ]
    nothing = np.zeros(0, dtype=np.int64)
    found: dict[str, Any] = {
        "n_molecules": np.array([len(cluster.molecule) for cluster in block], dtype=np.int64),
        "molecule": np.concatenate([nothing, *(np.repeat(np.arange(len(size)), size) for size in sizes)]),
        "source_molecule": np.concatenate(
            [nothing, *(np.repeat(cluster.molecule, size) for cluster, size in zip(block, sizes, strict=True))]
        ),
        "source_atom": np.concatenate([nothing, *(atoms for one in members for atoms in one)]),
        "source_image": np.concatenate([np.zeros((0, 3), dtype=np.int64), *images]),
        "weight": np.array([cluster.count for cluster in block]) / geometry.molecules.n_molecules,
        "minimum_distance": np.array([cluster.minimum for cluster in block], dtype=np.float64),
        "center_distance": np.array([cluster.center for cluster in block], dtype=np.float64),
    }
    if charges is not None:
        found["charge"] = np.array([charges[cluster.molecule].sum() for cluster in block], dtype=np.float64)
    return found


def _monomer_energies(geometry: MoleculeGeometry, charges: Any, model: Potential) -> list[float]:
    """Energy of every molecule of the cell (eV), in the shape that it has there."""
    import numpy as np

    from .structure.cluster_geometry import piece
    from .structure.evaluation import evaluated

    image = geometry.molecules.image
    return [
        evaluated(piece(geometry.atoms, atoms, image[atoms], charges[[m]], np.array([len(atoms)])), model)["energy"]
        for m, atoms in enumerate(geometry.members)
    ]


def _energies(
    systems: list[Atoms], block: list[UniqueCluster], model: Potential, energies: Energies, order: int
) -> dict[str, Any]:
    """Energies and forces from cold engines, and what remains of the energies after all smaller clusters.

    The energies of molecules are those of the cluster's own: equal shapes differ by the precision of the input, which
    stiff bonds would show.
    """
    import numpy as np

    from .structure.evaluation import evaluated

    labels = [evaluated(system, model) for system in systems]
    interactions = []
    for cluster, label in zip(block, labels, strict=True):
        left = label["energy"]
        if order > 1:
            left -= sum(energies[1][m] for m in cluster.molecule)
        left -= sum(energies[k][place] for k, places in cluster.parts.items() if k > 1 for place in places)
        interactions.append(left)
    if order > 1:
        energies.setdefault(order, []).extend(interactions)
    return {
        "energy": np.array([label["energy"] for label in labels], dtype=np.float64),
        "forces": np.concatenate([np.zeros((0, 3)), *(label["forces"] for label in labels)]),
        "interaction_energy": np.array(interactions, dtype=np.float64),
    }


def _dataset(systems: list[Atoms], more: dict[str, Any]) -> xr.Dataset:
    import numpy as np

    from .structure.frames import structures_dataset

    more["masses"] = np.concatenate([np.zeros(0), *(system.get_masses() for system in systems)])
    return structures_dataset(systems, more, kind=CLUSTERS)


def _packed(energies: Energies) -> xr.Dataset | None:
    """The interaction energies so far, which larger clusters need."""
    import xarray as xr

    if not energies:
        return None
    return xr.Dataset({f"order_{k}": ((f"cluster_{k}",), values) for k, values in sorted(energies.items())})


def _restored(context: Context, config: Nmers) -> Energies:
    if context.restart is None:
        return {}
    found = {
        int(str(name).rpartition("_")[2]): [float(v) for v in context.restart[name].to_numpy()]
        for name in context.restart.data_vars
    }
    for order, name in enumerate(config.names[1:], start=2):
        if len(found.get(order, [])) != context.committed.get(name, 0):
            raise ComputeFailed(
                "The clusters that are stored cannot be continued.",
                expected=f"the interaction energies of {context.committed.get(name, 0)} {name}",
                found=f"{len(found.get(order, []))}",
                hint="start anew with --new-version",
            )
    return found


def _outputs(config: Nmers) -> Writes:
    return dict.fromkeys(config.names, CLUSTERS)


MODULE = Module(
    name="nmers",
    version="1",
    config=Nmers,
    reads={"crystal": One(STRUCTURES), "model": Optional(POTENTIAL)},
    writes=_outputs,
    function=nmers,
)
