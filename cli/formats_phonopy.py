"""Files of phonopy: force constants that its command line reads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..schemas.errors import WrongKind

if TYPE_CHECKING:
    from phonopy import Phonopy

    from .formats_write import Chosen


def write_yaml(chosen: Chosen, path: Path) -> None:
    """Write cells, masses, compact force constants and Born charges as ``phonopy_params.yaml``.

    Raises
    ------
    WrongKind
        If the data are no force constants.
    """
    phonon = _phonopy(chosen)
    phonon.save(path, settings={"force_constants": True})


def write_hdf5(chosen: Chosen, path: Path) -> None:
    """Write compact force constants as ``force_constants.hdf5``.

    Raises
    ------
    WrongKind
        If the data are no force constants.
    """
    from phonopy.file_IO import write_force_constants_to_hdf5

    constants, rows = _compact(chosen)
    write_force_constants_to_hdf5(constants, str(path), p2s_map=rows, physical_unit="eV/angstrom^2")


def write_text(chosen: Chosen, path: Path) -> None:
    """Write compact force constants as ``FORCE_CONSTANTS``.

    Raises
    ------
    WrongKind
        If the data are no force constants.
    """
    from phonopy.file_IO import write_FORCE_CONSTANTS

    constants, rows = _compact(chosen)
    write_FORCE_CONSTANTS(constants, path, p2s_map=rows)


def _phonopy(chosen: Chosen) -> Phonopy:
    from ..compute.lattice.force_constants import phonopy_of

    _only_force_constants(chosen)
    return phonopy_of(chosen.dataset)


def _compact(chosen: Chosen) -> tuple[Any, Any]:
    """The compact array, and the index in the supercell of each of its rows."""
    _only_force_constants(chosen)
    return chosen.dataset["force_constants"].to_numpy(), chosen.dataset["primitive_to_supercell"].to_numpy()


def _only_force_constants(chosen: Chosen) -> None:
    if chosen.kind.name != "force_constants":
        raise WrongKind(
            "Files of phonopy hold force constants.",
            key=chosen.key,
            expected="kind force_constants",
            found=f"kind {chosen.kind.name}",
            hint="use .extxyz, .csv or .nc",
        )
