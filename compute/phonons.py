"""Phonons: the module ``phonons``."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..schemas.errors import InvalidConfig
from ..schemas.kinds import STRUCTURES, TABLE
from ..schemas.kinds_lattice import FORCE_CONSTANTS, PHONONS, THERMODYNAMICS
from .module import POTENTIAL, Context, Datasets, Map, Module, One, Request
from .phonons_config import Phonons

if TYPE_CHECKING:
    import xarray as xr
    from phonopy import Phonopy


_RELAXED = 1e-2  # eV/Angstrom


def phonons(config: Phonons, inputs: Mapping[str, Any], context: Context) -> Generator[Request, Any, Datasets]:
    """Displace atoms in a supercell, and compute what follows from the force constants.

    Parameters
    ----------
    config : Phonons
        Settings.
    inputs : mapping
        ``crystal``: a dataset of structures; ``model``: a Potential.
    context : Context
        For messages.

    Yields
    ------
    Map
        The undisplaced supercell and those with a displaced atom, independent of each other.

    Returns
    -------
    mapping
        The outputs. Imaginary modes are counted in their attributes and left out of sums.
    """
    from .lattice.displacements import displaced_cells, evaluate_cell

    phonon = crystal_of(config, inputs["crystal"])
    cells = displaced_cells(phonon, inputs["model"], config.supercell_displacement)
    context.logger.info(
        "%d atoms in the primitive cell, %d in the supercell, %d displacements",
        len(phonon.primitive),
        len(phonon.supercell),
        len(cells) - 1,
    )
    kept, of = (len(found.pointgroup_operations) for found in (phonon.symmetry, phonon.primitive_symmetry))
    if kept < of:
        context.logger.info(
            "the supercell keeps %d of the %d rotations of the crystal, which costs displacements; a larger one along "
            "the cell vectors may be cheaper (supercell_diagonal)",
            kept,
            of,
        )
    results = yield Map(evaluate_cell, cells, name="displaced_cells")
    return _outputs(config, phonon, results, context)


def crystal_of(config: Phonons, dataset: xr.Dataset) -> Phonopy:
    """The cells of the crystal, with Born charges but without force constants.

    Raises
    ------
    InvalidConfig
        If the Born charges are not those of the primitive cell.
    InvalidData
        If the structure is no crystal, two atoms lie on each other, or atoms that symmetry makes equal differ in mass.
    """
    from .lattice.displacements import build_phonopy, check_crystal
    from .lattice.force_constants import NAC_FACTOR
    from .structure.frames import atoms_of
    from .structure.symmetry import standard_cell

    atoms = atoms_of(dataset, config.structure_index)
    check_crystal(atoms)
    if config.primitive_cell == "standardized":
        atoms = standard_cell(atoms, config.symprec, primitive=True)
    phonon = build_phonopy(
        atoms,
        config.supercell_of(atoms),
        primitive="auto" if config.primitive_cell == "auto" else "input",
        symprec=config.symprec,
        use_symmetry=config.use_symmetry,
        masses=config.masses,
    )
    if config.dielectric_tensor is not None:
        import numpy as np

        if len(config.born_charges) != len(phonon.primitive):
            raise InvalidConfig(
                "The Born charges are not those of the primitive cell.",
                expected=f"{len(phonon.primitive)} tensors of 3 x 3, one for each atom of the primitive cell",
                found=f"{len(config.born_charges)} tensors",
                hint="the primitive cell is that of the setting primitive_cell",
            )
        phonon.nac_params = {
            "born": np.array(config.born_charges),
            "dielectric": np.array(config.dielectric_tensor),
            "factor": NAC_FACTOR,
        }
    return phonon


def _outputs(
    config: Phonons, phonon: Phonopy, results: Sequence[xr.Dataset], context: Context
) -> dict[str, xr.Dataset]:
    from .lattice.bands import density_dataset, mesh_dataset, path_dataset
    from .lattice.displacements import fit_force_constants, joined_cells
    from .lattice.force_constants import dataset_of

    residuals = fit_force_constants(
        phonon,
        results,
        subtract_residual=config.subtract_residual_forces,
        symmetrize=config.symmetrize_force_constants,
    )
    threshold = config.imaginary_mode_threshold
    mesh = mesh_dataset(phonon, config.fourier_interpolation_mesh, threshold)
    density = density_dataset(phonon, config.dos_pitch_THz, config.dos_smearing_THz)
    path = path_dataset(phonon, config.band_points, threshold, config.symprec)
    facts = _facts(config, phonon, results, residuals, mesh)
    _warn(mesh, path, residuals, context)
    return {
        "force_constants": dataset_of(phonon, facts),
        "brillouin_zone_path": path,
        "mesh": mesh,
        "density_of_states": density,
        "thermodynamics": _thermodynamics(config, phonon, mesh, facts),
        "displaced_cells": joined_cells(phonon, results, {"supercell_displacement_A": config.supercell_displacement}),
    }


def _facts(
    config: Phonons, phonon: Phonopy, results: Sequence[xr.Dataset], residuals: Mapping[str, float], mesh: xr.Dataset
) -> dict[str, Any]:
    """What the force constants are, as attributes."""
    group = phonon.primitive_symmetry.dataset
    cells = len(phonon.supercell) / len(phonon.primitive)
    imaginary = {name: value for name, value in mesh.attrs.items() if "imaginary" in name or "lowest" in name}
    return {
        "space_group": str(getattr(group, "international", "P1")),
        "space_group_number": int(getattr(group, "number", 1)),
        "supercell_displacement_A": config.supercell_displacement,
        "n_displacements": len(results) - 1,
        "symmetrized": int(config.symmetrize_force_constants),
        "residual_forces_subtracted": int(config.subtract_residual_forces),
        "energy_eV": float(results[0]["energy"][0]) / cells,
        **residuals,
        **imaginary,
    }


def _thermodynamics(config: Phonons, phonon: Phonopy, mesh: xr.Dataset, facts: Mapping[str, Any]) -> xr.Dataset:
    from .lattice.bands import thermal_displacements
    from .lattice.harmonic import thermodynamics

    temperature, cutoff = config.temperatures_K, config.cutoff_frequency_THz
    found = thermodynamics(mesh["frequency"].to_numpy(), mesh["weight"].to_numpy(), temperature, cutoff_THz=cutoff)
    values: dict[str, Any] = {
        "temperature": found.temperature,
        "free_energy": found.free_energy,
        "internal_energy": found.energy,
        "entropy": found.entropy,
        "heat_capacity": found.heat_capacity,
        "atomic_numbers": (("atom",), phonon.primitive.numbers, {"units": "1"}),
    }
    if config.thermal_displacements:
        tensors = thermal_displacements(phonon, mesh, temperature, cutoff_THz=cutoff)
        values["thermal_displacement"] = (("state", "atom", "xyz", "xyz_2"), tensors, {"units": "Angstrom^2"})
    imaginary = {name: value for name, value in facts.items() if "imaginary" in name or "lowest" in name}
    attributes = {
        "energy_eV": facts["energy_eV"],
        "zero_point_energy_eV": found.zero_point_energy,
        "n_excluded_modes": found.n_excluded,
        "excluded_fraction": found.excluded_fraction,
        "cutoff_frequency_THz": cutoff,
        "volume_A3": float(phonon.primitive.volume),
        **imaginary,
    }
    return THERMODYNAMICS.dataset(values, attributes)


def _warn(mesh: xr.Dataset, path: xr.Dataset, residuals: Mapping[str, float], context: Context) -> None:
    if mesh.attrs["n_imaginary"] or path.attrs["n_imaginary"]:
        lowest = min((mesh, path), key=lambda found: float(found.attrs["lowest_frequency_THz"])).attrs
        context.logger.warning(
            "imaginary modes: %d on the mesh, %d on the path; the lowest is %.3f THz at q = %s: relax the crystal more "
            "tightly, also without its symmetry, or take a larger supercell",
            mesh.attrs["n_imaginary"],
            path.attrs["n_imaginary"],
            lowest["lowest_frequency_THz"],
            [round(x, 4) for x in lowest["lowest_frequency_q_point"]],
        )
    if residuals["max_residual_force"] > _RELAXED:
        context.logger.warning(
            "the crystal is not relaxed: forces up to %.3g eV/Angstrom; see `h5ml compute relax`",
            residuals["max_residual_force"],
        )


MODULE = Module(
    name="phonons",
    version="1",
    config=Phonons,
    reads={"crystal": One(STRUCTURES), "model": One(POTENTIAL)},
    writes={
        "force_constants": FORCE_CONSTANTS,
        "brillouin_zone_path": PHONONS,
        "mesh": PHONONS,
        "density_of_states": TABLE,
        "thermodynamics": THERMODYNAMICS,
        "displaced_cells": STRUCTURES,
    },
    function=phonons,
)
