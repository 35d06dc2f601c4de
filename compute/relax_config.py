"""Settings of a relaxation."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from ..schemas.config import Config, Field, horizon


class Relaxation(Config):
    """Relaxation of atoms and cell to a minimum of the enthalpy, at constant symmetry."""

    cell_relaxation: Literal["only_atoms", "constant_volume", "full"] = Field(
        "constant_volume",
        description="The cell stays, changes its shape at constant volume, or changes freely; a molecule has none.",
    )
    pressure_GPa: float = Field(0.0, description="External pressure (GPa) where the volume is free to change.")
    max_force_on_atom_eV_A: float = Field(
        1.0e-4,
        gt=0,
        description="Largest force on an atom at the end (eV/Angstrom); also the largest change of the enthalpy per "
        "atom with a strain (eV).",
    )
    max_n_steps: int = horizon(
        1000, ge=0, description="Most steps; a relaxation that did not converge in them can be extended."
    )
    keep_symmetry: bool = Field(True, description="Whether the space group of the start is kept.")
    symprec_loose_A: float = Field(
        1.0e-2, gt=0, le=1.0, description="Distance within which atoms of the input count as symmetric (Angstrom)."
    )
    symprec_strict_A: float = Field(
        1.0e-5, gt=0, le=1.0, description="The same for a cell whose symmetry was made exact (Angstrom)."
    )
    transform: Literal["symmetrized_primitive", "symmetrized_conventional", "none"] = Field(
        "symmetrized_primitive",
        description="Replace a crystal by its standard primitive or conventional cell, or leave it as it is.",
    )
    volume_ratio: float = Field(
        1.0, gt=0.1, lt=10.0, description="Scale the cell at the start so that its volume changes by this factor."
    )
    structure_index: int | None = Field(
        None, ge=0, description="Which structure of the key to relax; needed where it holds several."
    )
    block_steps: int = Field(
        50, ge=1, description="Steps of one commit; the engine is rebuilt after each, so results depend on it."
    )

    @model_validator(mode="after")
    def _settings_fit(self) -> Self:
        if self.pressure_GPa != 0.0 and self.cell_relaxation != "full":
            raise ValueError(f"a pressure needs cell_relaxation = full; found {self.cell_relaxation}")
        if self.symprec_strict_A > self.symprec_loose_A:
            raise ValueError("symprec_strict_A must not be above symprec_loose_A")
        return self
