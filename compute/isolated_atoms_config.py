"""Settings of the module ``isolated_atoms``."""

from __future__ import annotations

from typing import Any

from pydantic import field_validator

from ..schemas.config import Field
from .levels.level_config import LevelSettings


class IsolatedAtoms(LevelSettings):
    """Energies of isolated atoms in their ground state, found by a scan of the spin."""

    fallbacks: tuple[dict[str, Any], ...] | None = Field(
        (),
        description="Keywords to try in this order where the field does not converge; null: the engine's own. A "
        "multiplicity that is none of the lowest often does not converge, and need not.",
    )
    elements: tuple[str, ...] = Field((), description="Elements by symbol, beside those of the input frames.")
    multiplicities_around: int = Field(
        1, ge=0, le=4, description="How many multiplicities to try below and above that of the free atom."
    )
    box_A: float | None = Field(
        None, gt=5, description="Edge of a periodic cube around the atom (Angstrom), for engines that need one."
    )

    @field_validator("elements", mode="after")
    @classmethod
    def _symbols(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(symbol.strip().capitalize() for symbol in value))
