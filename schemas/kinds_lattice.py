"""The kinds of lattice dynamics."""

from __future__ import annotations

from .kind import Kind, Variable

V = Variable

FORCE_CONSTANTS = Kind(
    "force_constants",
    "Second derivatives of the energy, in phonopy's compact form (primitive atom, supercell atom).",
    (
        V(
            "force_constants",
            ("atom", "atom_2", "xyz", "xyz_2"),
            "eV/Angstrom^2",
            description="Compact force constants.",
        ),
        V("primitive_positions", ("atom", "xyz"), "Angstrom", description="Primitive cell."),
        V("primitive_cell", ("cell_vector", "xyz"), "Angstrom", description="Primitive cell vectors as rows."),
        V("primitive_numbers", ("atom",), dtype="int", description="Atomic numbers of the primitive cell."),
        V("supercell_positions", ("atom_2", "xyz"), "Angstrom", description="Supercell."),
        V("supercell_cell", ("cell_vector", "xyz"), "Angstrom", description="Supercell vectors as rows."),
        V("supercell_numbers", ("atom_2",), dtype="int", description="Atomic numbers of the supercell."),
        V(
            "supercell_matrix",
            ("cell_vector", "cell_vector_2"),
            dtype="int",
            description="Rows of the supercell in cell vectors.",
        ),
        V(
            "primitive_to_supercell",
            ("atom",),
            dtype="int",
            description="Index in the supercell of each primitive atom.",
        ),
        V("primitive_masses", ("atom",), "amu", required=False, description="Masses; phonopy's where absent."),
        V(
            "unitcell_scaled_positions",
            ("unitcell_atom", "xyz"),
            "1",
            required=False,
            description="Reduced coordinates of the cell that was repeated; the primitive cell where absent.",
        ),
        V(
            "unitcell_cell",
            ("cell_vector", "xyz"),
            "Angstrom",
            required=False,
            description="Vectors of the cell that was repeated, as rows.",
        ),
        V("unitcell_numbers", ("unitcell_atom",), dtype="int", required=False, description="Its atomic numbers."),
        V("unitcell_masses", ("unitcell_atom",), "amu", required=False, description="Its masses."),
        V(
            "primitive_matrix",
            ("cell_vector", "cell_vector_2"),
            "1",
            required=False,
            description="Rows of the primitive cell in vectors of the cell that was repeated.",
        ),
        V("born_charges", ("atom", "xyz", "xyz_2"), "e", required=False, description="Born effective charges."),
        V(
            "dielectric_tensor",
            ("xyz", "xyz_2"),
            "1",
            required=False,
            description="High-frequency dielectric tensor.",
        ),
    ),
    open=True,
    sizes={"xyz": 3, "xyz_2": 3, "cell_vector": 3, "cell_vector_2": 3},
)

PHONONS = Kind(
    "phonons",
    "Frequencies (and eigenvectors) at q-points.",
    (
        V("q_point", ("q", "xyz"), "1", description="Reduced coordinates."),
        V("weight", ("q",), "1", required=False, description="Weight of each q-point."),
        V("frequency", ("q", "mode"), "THz", description="Frequencies; negative means imaginary."),
        V("label", ("q",), dtype="text", required=False, description="Name of a special point; empty elsewhere."),
        V(
            "eigenvector_real",
            ("q", "component", "mode"),
            "1",
            required=False,
            description="Real part, as columns.",
        ),
        V(
            "eigenvector_imaginary",
            ("q", "component", "mode"),
            "1",
            required=False,
            description="Imaginary part.",
        ),
    ),
    grows=("q",),
    open=True,
)

THERMODYNAMICS = Kind(
    "thermodynamics",
    "Thermodynamic functions along temperature and pressure; NaN rows carry a reason.",
    (
        V("temperature", ("state",), "K", description="Temperature."),
        V(
            "free_energy",
            ("state",),
            "eV",
            required=False,
            finite=False,
            description="Vibrational Helmholtz energy of a primitive cell.",
        ),
        V(
            "internal_energy",
            ("state",),
            "eV",
            required=False,
            finite=False,
            description="Vibrational energy of a primitive cell, with that of the zero point.",
        ),
        V("entropy", ("state",), "eV/K", required=False, finite=False, description="Vibrational entropy."),
        V(
            "heat_capacity",
            ("state",),
            "eV/K",
            required=False,
            finite=False,
            description="Heat capacity at constant volume of a primitive cell.",
        ),
        V("reason", ("state",), dtype="text", required=False, description="Why a row is NaN."),
    ),
    grows=("state",),
    open=True,
)
