"""Settings of the module ``nmers``."""

from __future__ import annotations

from itertools import pairwise
from typing import Self

from pydantic import field_validator, model_validator

from ..schemas.config import Field
from .structure.subsystem_config import DistanceMeasure, MoleculeSettings

ORDERS = ("monomers", "dimers", "trimers", "tetramers")


class Nmers(MoleculeSettings):
    """Symmetry-unique monomers, dimers, trimers and tetramers of a molecular crystal, with many-body weights."""

    max_order: int = Field(3, ge=1, le=4, description="Largest number of molecules in a cluster.")
    cutoffs: tuple[float, ...] = Field(
        (30.0, 15.0, 10.0),
        description="Cutoffs (Angstrom) of dimers, trimers, tetramers: any two of the molecules are closer.",
    )
    distance_measure: DistanceMeasure = Field(
        "minimum_interatomic", description="What the cutoffs compare: nearest atoms, or centres of mass."
    )
    rmsd_tolerance: float = Field(
        1e-4, gt=0, le=0.01, description="Deviation (Angstrom, root mean square) of clusters that count as the same."
    )
    mirror_images: bool = Field(True, description="Whether a cluster and its mirror image are the same.")
    structure_index: int | None = Field(
        None, ge=0, description="Which structure of the key; needed where it holds several."
    )
    block_clusters: int = Field(50, ge=1, description="Clusters of one commit.")

    @field_validator("cutoffs", mode="after")
    @classmethod
    def _cutoffs(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if any(cutoff <= 0.0 for cutoff in value):
            raise ValueError("a cutoff must be above 0 Angstrom")
        if any(b > a for a, b in pairwise(value)):
            raise ValueError("a cutoff must not be larger than that of the order below it, whose energies it needs")
        return value

    @model_validator(mode="after")
    def _enough(self) -> Self:
        if len(self.cutoffs) < self.max_order - 1:
            raise ValueError(f"max_order = {self.max_order} needs {self.max_order - 1} cutoffs, from dimers on")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The outputs, ``monomers`` first."""
        return ORDERS[: self.max_order]
