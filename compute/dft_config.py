"""Settings of the module ``dft``."""

from __future__ import annotations

from pydantic import field_validator

from ..schemas.config import Field
from .levels.level_config import LevelSettings, Property


class Dft(LevelSettings):
    """Labels: energies, forces and stresses of structures by one level of theory."""

    properties: tuple[Property, ...] = Field(
        ("energy", "forces", "stress"),
        description="What to compute; a stress of structures periodic in space only, a dipole of finite ones only.",
    )
    charge: int | None = Field(None, description="Charge of all structures (e); null: as each says, else neutral.")
    spin_multiplicity: int | None = Field(
        None, ge=1, description="2S + 1 of all structures; null: as each says, else the lowest."
    )
    include_equilibration: bool = Field(False, description="Also label frames that are marked as equilibration.")
    max_force_eV_A: float = Field(
        100.0, gt=0, description="A label with a larger force on an atom (eV/Angstrom) is marked as absurd."
    )
    max_energy_per_atom_eV: float = Field(
        1e6, gt=0, description="A label with a larger energy per atom (eV, magnitude) is marked as absurd."
    )
    block_frames: int = Field(200, ge=1, description="Frames of one block of the output; each label is kept at once.")

    @field_validator("properties", mode="after")
    @classmethod
    def _whole(cls, value: tuple[Property, ...]) -> tuple[Property, ...]:
        wanted = {"energy", *value}
        order: tuple[Property, ...] = ("energy", "forces", "stress", "dipole", "charges")
        return tuple(name for name in order if name in wanted)
