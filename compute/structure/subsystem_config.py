"""The settings that name finite clusters of a molecular crystal, for every module that cuts them."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import field_validator, model_validator

from ...schemas.config import Config, Field
from ...schemas.kind import Kind
from ...schemas.kinds import CLUSTERS, MOLECULAR_CRYSTAL

DistanceMeasure = Literal["minimum_interatomic", "center_of_mass"]
SelectionRule = Literal[
    "closest_to_center_of_mass",
    "closest_to_central_molecule",
    "max_min_distance_to_central_molecule",
    "max_max_distance_to_central_molecule",
]


class MoleculeSettings(Config):
    """What counts as a molecule."""

    bond_scale: float = Field(
        1.3, gt=0.5, le=2.0, description="Atoms closer than this times the sum of their covalent radii are bonded."
    )
    ions: tuple[str, ...] = Field(
        (), description="Elements that form no bonds, such as Na in a salt; ions of several atoms need no mention."
    )
    unit_charges: dict[str, int] = Field(
        {},
        description="Charge (e) of each kind of molecule by formula, where it is not zero, such as {NH4: 1, Cl: -1}.",
    )


class FiniteSubsystemFilter(MoleculeSettings):
    """Which finite clusters are cut from a periodic structure."""

    selection_rule: SelectionRule = Field(
        "closest_to_central_molecule", description="Which molecules around the central one form a cluster."
    )
    n_molecules: tuple[int, ...] = Field(
        tuple(range(1, 9)), description="Sizes of the clusters, for the two rules that take the closest molecules."
    )
    distances: tuple[float, ...] | None = Field(
        None, description="Cutoffs (Angstrom) of the clusters, for the two rules that compare a distance."
    )
    distance_measure: DistanceMeasure = Field(
        "minimum_interatomic",
        description="What closest_to_central_molecule compares: nearest atoms, or centres of mass.",
    )
    central_molecule: int | None = Field(
        None, ge=0, description="Number of the central molecule; null: the one nearest to the centre of mass."
    )
    allow_images: bool = Field(
        False, description="Allow a cluster to hold two images of one molecule, which then move alike."
    )
    assert_identical_composition: bool = Field(
        True, description="Refuse a crystal of different molecules, whose clusters depend on the central one."
    )
    include_equilibration: bool = Field(False, description="Also cut the frames that are marked as equilibration.")

    @field_validator("n_molecules", mode="after")
    @classmethod
    def _sizes(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or min(value) < 1:
            raise ValueError("give one or more numbers of molecules, from 1")
        if len(set(value)) < len(value):
            raise ValueError("a number of molecules is given twice")
        return tuple(sorted(value))

    @field_validator("distances", mode="after")
    @classmethod
    def _cutoffs(cls, value: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if value is None:
            return None
        if not value or min(value) <= 0.0:
            raise ValueError("give one or more distances above 0 Angstrom")
        if len({f"{distance:.2f}" for distance in value}) < len(value):
            raise ValueError("distances must differ by 0.01 Angstrom to be told apart")
        return tuple(sorted(value))

    @model_validator(mode="after")
    def _rule_fits(self) -> Self:
        if self.by_distance and self.distances is None:
            raise ValueError(f"the rule {self.selection_rule} needs distances")
        if not self.by_distance and self.distances is not None:
            raise ValueError(
                f"the rule {self.selection_rule} takes n_molecules; for distances choose "
                "max_min_distance_to_central_molecule or max_max_distance_to_central_molecule"
            )
        if self.central_molecule is not None and self.selection_rule == "closest_to_center_of_mass":
            raise ValueError("closest_to_center_of_mass chooses its central molecule; leave central_molecule out")
        return self

    @property
    def by_distance(self) -> bool:
        """Whether the rule compares a distance, rather than taking the closest molecules."""
        return self.selection_rule in {"max_min_distance_to_central_molecule", "max_max_distance_to_central_molecule"}

    @property
    def cluster_names(self) -> tuple[str, ...]:
        """The clusters in order of size: ``n=1`` ... or ``r=4.00`` ..."""
        if self.by_distance:
            return tuple(f"r={distance:.2f}" for distance in self.distances or ())
        return tuple(f"n={count}" for count in self.n_molecules)

    def outputs(self, label: str | None = None) -> dict[str, Kind]:
        """Names and kinds of what is written.

        Parameters
        ----------
        label : str, optional
            Name of one of several sources (conditions of molecular dynamics).

        Returns
        -------
        dict of str to Kind
            ``molecular_crystal`` and ``finite_subsystems/n=1`` ... (or ``finite_subsystems/r=4.00`` ...); with a label
            ``molecular_crystals/LABEL`` and ``finite_subsystems/n=1/LABEL`` ...
        """
        crystal = "molecular_crystal" if label is None else f"molecular_crystals/{label}"
        return {crystal: MOLECULAR_CRYSTAL, **dict.fromkeys(self.cluster_outputs(label), CLUSTERS)}

    def cluster_outputs(self, label: str | None = None) -> tuple[str, ...]:
        """The names of ``outputs`` that hold clusters, in order of size."""
        suffix = "" if label is None else f"/{label}"
        return tuple(f"finite_subsystems/{name}{suffix}" for name in self.cluster_names)
