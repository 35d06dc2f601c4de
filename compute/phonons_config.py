"""Settings of phonons."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import ValidationInfo, field_validator, model_validator

from ..schemas.config import Field
from .structure.supercell_config import SupercellSettings

Row = tuple[float, float, float]
Tensor = tuple[Row, Row, Row]


class Phonons(SupercellSettings):
    """Phonons by finite displacements: bands, densities of states, thermal displacements and thermodynamics."""

    supercell_displacement: float = Field(
        0.01, gt=0, le=0.5, description="Length of a displacement in the supercell (Angstrom)."
    )
    primitive_cell: Literal["auto", "input", "standardized"] = Field(
        "auto",
        description="The primitive cell that spglib finds within the input cell, the input cell itself, or both cells "
        "replaced by the standardised primitive one.",
    )
    symprec: float = Field(1.0e-5, gt=0, le=0.5, description="Tolerance of the symmetry search (Angstrom).")
    use_symmetry: bool = Field(True, description="Only displace atoms that symmetry does not make equal.")
    masses: Literal["structure", "phonopy"] = Field(
        "structure",
        description="Masses of the structure (ASE's standard ones where it has none), or phonopy's standard ones.",
    )
    symmetrize_force_constants: bool = Field(
        True, description="Impose the sum rule of translations and the symmetry of pairs on the force constants."
    )
    subtract_residual_forces: bool = Field(
        False, description="Take the forces of the undisplaced supercell off all others."
    )
    fourier_interpolation_mesh: float = Field(
        150.0, gt=0, description="Length of the mesh of q-points, centred at Gamma (Angstrom)."
    )
    temperatures_K: tuple[float, ...] = Field((298.15,), description="Temperatures of the thermodynamics (K).")
    cutoff_frequency_THz: float = Field(
        1.0e-3,
        ge=0,
        description="Only modes above it (THz) enter sums; translations at Gamma come out as noise of some 1e-6 THz.",
    )
    imaginary_mode_threshold: float = Field(
        -0.1, le=0, description="A mode below this frequency (THz) counts as imaginary."
    )
    born_charges: tuple[Tensor, ...] = Field(
        (), description="Born effective charge tensors (e) of the atoms of the primitive cell."
    )
    dielectric_tensor: Tensor | None = Field(
        None, description="High-frequency dielectric tensor, needed with born_charges."
    )
    band_points: int = Field(
        51, ge=2, le=2001, description="Points on the longest segment of the path through the Brillouin zone."
    )
    dos_pitch_THz: float | None = Field(
        None, gt=0, description="Step of the density of states (THz); null: a 200th of its range."
    )
    dos_smearing_THz: float | None = Field(
        None, gt=0, description="Width of Gaussian smearing of the density of states (THz); null: linear tetrahedra."
    )
    thermal_displacements: bool = Field(True, description="Compute the thermal displacement tensors of the atoms.")
    structure_index: int | None = Field(
        None, ge=0, description="Which structure of the key to take; needed where it holds several."
    )

    @field_validator("born_charges", "dielectric_tensor", mode="before")
    @classmethod
    def _tensors(cls, value: Any, info: ValidationInfo) -> Any:
        """Numbers one after the other, as the command line gives them, are tensors row by row."""
        if not isinstance(value, list | tuple) or not value or not all(isinstance(x, int | float) for x in value):
            return value
        if len(value) % 9:
            raise ValueError(f"a tensor has nine numbers; found {len(value)}")
        rows = [tuple(value[i : i + 3]) for i in range(0, len(value), 3)]
        tensors = tuple(tuple(rows[i : i + 3]) for i in range(0, len(rows), 3))
        return tensors if info.field_name == "born_charges" or len(tensors) > 1 else tensors[0]

    @field_validator("temperatures_K", mode="after")
    @classmethod
    def _some_temperatures(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value:
            raise ValueError("give at least one temperature")
        if any(T < 0.0 for T in value):
            raise ValueError(f"a temperature must be at least 0 K; found {min(value):g}")
        return value

    @model_validator(mode="after")
    def _charges_fit(self) -> Self:
        if bool(self.born_charges) != (self.dielectric_tensor is not None):
            raise ValueError("the non-analytical correction needs both born_charges and dielectric_tensor")
        return self
