"""Force constants as a dataset, and back to phonopy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...schemas.errors import InvalidData
from ...schemas.kinds_lattice import FORCE_CONSTANTS

if TYPE_CHECKING:
    import xarray as xr
    from phonopy import Phonopy
    from phonopy.structure.atoms import PhonopyAtoms

Floats = NDArray[np.float64]

SYMPREC = 1e-5
"""Tolerance of phonopy's symmetry search (Angstrom), where none is given."""

NAC_FACTOR = 14.399651724922272
"""Charge squared over 4 pi vacuum permittivity (eV Angstrom), as phonopy takes it."""

_SAME_PLACE = 1e-4


def dataset_of(phonon: Phonopy, attributes: Mapping[str, Any] | None = None) -> xr.Dataset:
    """The force constants of a phonopy object, in compact form, with the cells that they belong to.

    Parameters
    ----------
    phonon : Phonopy
        With force constants, full or compact, and non-analytical parameters where it has them.
    attributes : mapping, optional
        Further attributes of the dataset.

    Returns
    -------
    xarray.Dataset
        Of the kind ``force_constants``; ``phonopy_of`` gives back the same cells with the same order of atoms.

    Notes
    -----
    Matrices have the vectors of the new cell as rows here, and as columns in phonopy.
    """
    constants = phonon.force_constants
    if constants is None:
        raise InvalidData("The phonopy object holds no force constants.", hint="call produce_force_constants first")
    primitive, supercell, unit = phonon.primitive, phonon.supercell, phonon.unitcell
    if len(constants) != len(primitive):
        constants = constants[primitive.p2s_map]
    values: dict[str, Any] = {
        "force_constants": constants,
        "primitive_positions": primitive.positions,
        "primitive_cell": primitive.cell,
        "primitive_numbers": primitive.numbers,
        "primitive_masses": primitive.masses,
        "supercell_positions": supercell.positions,
        "supercell_cell": supercell.cell,
        "supercell_numbers": supercell.numbers,
        "supercell_matrix": phonon.supercell_matrix.T,
        "primitive_to_supercell": primitive.p2s_map,
        "unitcell_scaled_positions": unit.scaled_positions,
        "unitcell_cell": unit.cell,
        "unitcell_numbers": unit.numbers,
        "unitcell_masses": unit.masses,
        "primitive_matrix": phonon.primitive_matrix.T,
    }
    settings: dict[str, Any] = {"symprec": float(phonon.symmetry.tolerance), "is_symmetry": int(phonon._is_symmetry)}  # noqa: SLF001
    if phonon.nac_params is not None:
        values["born_charges"] = phonon.nac_params["born"]
        values["dielectric_tensor"] = phonon.nac_params["dielectric"]
        settings["nac_factor"] = float(phonon.nac_params.get("factor") or NAC_FACTOR)
        settings["nac_method"] = str(phonon.nac_params.get("method") or "gonze")
    return FORCE_CONSTANTS.dataset(values, {**settings, **(attributes or {})})


def phonopy_of(dataset: xr.Dataset) -> Phonopy:
    """A phonopy object that is ready to compute frequencies.

    Parameters
    ----------
    dataset : xarray.Dataset
        Of the kind ``force_constants``.

    Returns
    -------
    Phonopy
        With unit cell, primitive cell and supercell as stored, masses, compact force constants, and the
        non-analytical correction where Born charges are stored.

    Raises
    ------
    InvalidData
        If phonopy builds other cells from the unit cell than those that are stored.
    """
    phonon = quiet_phonopy(
        _unitcell(dataset),
        supercell_matrix=dataset["supercell_matrix"].to_numpy().T,
        primitive_matrix=dataset["primitive_matrix"].to_numpy().T if "primitive_matrix" in dataset else np.eye(3),
        symprec=float(dataset.attrs.get("symprec", SYMPREC)),
        is_symmetry=bool(dataset.attrs.get("is_symmetry", 1)),
    )
    _same_cell(phonon.supercell, dataset, "supercell")
    _same_cell(phonon.primitive, dataset, "primitive")
    phonon.force_constants = dataset["force_constants"].to_numpy()
    if "born_charges" in dataset and "dielectric_tensor" in dataset:
        parameters: Any = {
            "born": dataset["born_charges"].to_numpy(),
            "dielectric": dataset["dielectric_tensor"].to_numpy(),
            "factor": float(dataset.attrs.get("nac_factor", NAC_FACTOR)),
            "method": str(dataset.attrs.get("nac_method", "gonze")),
        }
        phonon.nac_params = parameters
    return phonon


def quiet_phonopy(unit: PhonopyAtoms, **settings: Any) -> Phonopy:
    """``Phonopy(unit, **settings)`` without the warning that a supercell has fewer rotations than its crystal.

    A supercell chosen by radius often has; phonopy then takes the operations of the supercell, which costs more
    displacements. The module ``phonons`` says so in its log.
    """
    import warnings

    from phonopy import Phonopy

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*Point group symmetries of supercell and primitive.*")
        return Phonopy(unit, **settings)


def _unitcell(dataset: xr.Dataset) -> PhonopyAtoms:
    """The cell that was repeated; where it is not stored it was the primitive one."""
    from phonopy.structure.atoms import PhonopyAtoms

    name = "unitcell" if "unitcell_cell" in dataset else "primitive"
    cell = dataset[f"{name}_cell"].to_numpy()
    if name == "unitcell":
        scaled = dataset["unitcell_scaled_positions"].to_numpy()
    else:
        scaled = np.linalg.solve(cell.T, dataset["primitive_positions"].to_numpy().T).T
    masses = dataset[f"{name}_masses"].to_numpy() if f"{name}_masses" in dataset else None
    return PhonopyAtoms(
        cell=cell, scaled_positions=scaled, numbers=dataset[f"{name}_numbers"].to_numpy(), masses=masses
    )


def _same_cell(built: PhonopyAtoms, dataset: xr.Dataset, name: str) -> None:
    """Refuse a cell whose atoms stand elsewhere, or in another order, than in the dataset."""
    cell = dataset[f"{name}_cell"].to_numpy()
    numbers = dataset[f"{name}_numbers"].to_numpy()
    if len(numbers) != len(built) or not np.allclose(cell, built.cell, rtol=0.0, atol=_SAME_PLACE):
        raise _other_cell(name, f"{len(numbers)} atoms, cell {cell.round(4).tolist()}", built)
    shift = np.linalg.solve(cell.T, (dataset[f"{name}_positions"].to_numpy() - built.positions).T).T
    apart = np.linalg.norm((shift - np.rint(shift)) @ cell, axis=1)
    wrong = (apart > _SAME_PLACE) | (numbers != built.numbers)
    if wrong.any():
        atom = int(np.flatnonzero(wrong)[0])
        raise _other_cell(name, f"atom {atom} (Z = {numbers[atom]}) is {apart[atom]:.3g} Angstrom off", built)


def _other_cell(name: str, found: str, built: PhonopyAtoms) -> InvalidData:
    return InvalidData(
        f"The stored {name} is not the one that phonopy builds from the stored unit cell.",
        expected=f"{len(built)} atoms, cell {built.cell.round(4).tolist()}",
        found=found,
        hint="store the unit cell, the supercell matrix and the force constants of one calculation together",
    )
