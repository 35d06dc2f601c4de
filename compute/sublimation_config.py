"""Settings of the enthalpy of sublimation."""

from __future__ import annotations

from typing import Literal

from pydantic import field_validator

from ..schemas.config import Config, Field


class Sublimation(Config):
    """Enthalpy of sublimation from molecular dynamics of a crystal and of its molecules in vacuum."""

    counts: tuple[int, ...] | None = Field(
        None, description="Molecules of each given trajectory in a formula unit; null: found from the compositions."
    )
    pressure_GPa: float | None = Field(
        None,
        description="Pressure (GPa) of the term pV; null: the barostat's in NPT, the mean of the frames in NVT.",
    )
    kinetic_energy: Literal["sampled", "equipartition"] = Field(
        "sampled", description="Kinetic energies of the frames, or exactly kT/2 for each degree of freedom."
    )
    time_equilibration_fs: float | None = Field(
        None, ge=0, description="Leave out frames before this time (fs); null: those marked as equilibration."
    )
    temperature_tolerance_K: float = Field(
        0.01, ge=0, description="Largest difference between the target temperatures of the trajectories (K)."
    )

    @field_validator("counts", mode="after")
    @classmethod
    def _positive(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value is not None and (not value or min(value) < 1):
            raise ValueError("give one number of 1 or more for each molecule's trajectory")
        return value
