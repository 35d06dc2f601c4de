"""The variables of molecular crystals and of the clusters that are cut from them."""

from __future__ import annotations

from .kind import Variable

FRAME, ATOM, XYZ, CELL = "frame", "atom", "xyz", "cell_vector"
V = Variable

MOLECULAR_VARIABLES = (
    V("molecule_of_atom", (ATOM,), dtype="int", description="Molecule of each atom."),
    V(
        "image",
        (ATOM, CELL),
        dtype="int",
        description="Lattice translation that makes the molecule whole.",
    ),
    V("atomic_numbers", (ATOM,), dtype="int", description="Atomic numbers."),
    V(
        "center_of_mass",
        ("molecule", XYZ),
        "Angstrom",
        description="Centre of mass of each molecule in the reference frame.",
    ),
    V("formula", ("molecule",), dtype="text", required=False, description="Chemical formula of each molecule."),
    V("charge", ("molecule",), "e", required=False, description="Charge of each molecule."),
    V(
        "positions",
        (ATOM, XYZ),
        "Angstrom",
        required=False,
        description="Cartesian positions in the reference frame.",
    ),
    V("cell", (CELL, XYZ), "Angstrom", required=False, description="Cell vectors of the reference frame as rows."),
    V("bond", ("bond_index", "bond_end"), dtype="int", required=False, description="The two atoms of each bond."),
    V(
        "bond_shift",
        ("bond_index", CELL),
        dtype="int",
        required=False,
        description="Lattice translation of the second atom of each bond.",
    ),
    V(
        "neighbor_molecule",
        ("neighbor",),
        dtype="int",
        required=False,
        description="Molecule of each neighbour of the central one, the nearest first.",
    ),
    V(
        "neighbor_image",
        ("neighbor", CELL),
        dtype="int",
        required=False,
        description="Lattice translation of each neighbour, as a whole molecule.",
    ),
    V(
        "neighbor_minimum_distance",
        ("neighbor",),
        "Angstrom",
        required=False,
        description="Shortest distance of its atoms to those of the central molecule.",
    ),
    V(
        "neighbor_maximum_distance",
        ("neighbor",),
        "Angstrom",
        required=False,
        description="Longest distance of its atoms to those of the central molecule.",
    ),
    V(
        "neighbor_center_distance",
        ("neighbor",),
        "Angstrom",
        required=False,
        description="Distance of its centre of mass to that of the central molecule.",
    ),
)
"""The variables of ``molecular_crystal``."""

CLUSTER_VARIABLES = (
    V("source_frame", (FRAME,), dtype="int", description="Frame of the source trajectory."),
    V("n_molecules", (FRAME,), dtype="int", description="Molecules in the cluster."),
    V("molecule", (ATOM,), dtype="int", description="Molecule of each atom within its cluster."),
    V("source_molecule", (ATOM,), dtype="int", required=False, description="Molecule of the source, for each atom."),
    V("source_atom", (ATOM,), dtype="int", required=False, description="Atom of the source, for each atom."),
    V(
        "source_image",
        (ATOM, CELL),
        dtype="int",
        required=False,
        description="Lattice translation of the source atom, for each atom.",
    ),
    V(
        "intact",
        (FRAME,),
        dtype="flag",
        flags={0: "changed", 1: "intact"},
        required=False,
        description="Whether the cluster's molecules have the bonds of the reference, no more and no fewer.",
    ),
    V(
        "source_intact",
        (FRAME,),
        dtype="flag",
        flags={0: "changed", 1: "intact"},
        required=False,
        description="Whether all molecules of the source frame have the bonds of the reference.",
    ),
    V(
        "weight",
        (FRAME,),
        "1",
        required=False,
        description="How many clusters of the crystal this one stands for, per molecule.",
    ),
    V(
        "minimum_distance",
        (FRAME,),
        "Angstrom",
        required=False,
        description="Shortest distance between atoms of different molecules; of the pair of molecules for which it "
        "is longest.",
    ),
    V(
        "center_distance",
        (FRAME,),
        "Angstrom",
        required=False,
        description="Longest distance between the centres of mass of two of the molecules.",
    ),
    V(
        "interaction_energy",
        (FRAME,),
        "eV",
        required=False,
        description="Energy beyond that of all smaller clusters in it (of monomers: their energy).",
    ),
)
"""What clusters have beyond the variables of ``structures``."""
