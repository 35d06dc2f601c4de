"""Settings of descriptor vectors."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import field_validator, model_validator

from ..schemas.config import Config, Field


class Features(Config):
    """Descriptor vectors of frames, molecules or atoms, and with them energies and forces of a model."""

    descriptor: Literal["mace", "soap"] = Field(
        "mace", description="Invariant node features of a MACE model, or the SOAP power spectrum."
    )
    level: Literal["atom", "molecule", "frame"] = Field(
        "frame", description="What a record is: an atom, or the mean over the atoms of a molecule or of a frame."
    )
    include_equilibration: bool = Field(
        False, description="Also the frames of trajectories that are marked as equilibration."
    )
    evaluate: bool = Field(
        False, description="Also keep energies and forces of every frame by the model; with mace in the same pass."
    )
    batch_size: int = Field(
        2048, ge=1, description="Atoms of one forward pass and of one commit; a frame is never split."
    )
    dtype: Literal["float64", "float32"] = Field("float64", description="Precision in which the features are stored.")
    num_layers: int | None = Field(
        None, ge=1, description="Layers of the MACE model whose features are taken, from the first; null: all."
    )
    r_cut_A: float = Field(5.0, gt=1.0, description="Cutoff radius of SOAP (Angstrom).")
    n_max: int = Field(8, ge=1, le=30, description="Radial functions of SOAP.")
    l_max: int = Field(6, ge=0, le=20, description="Highest degree of the spherical harmonics of SOAP.")
    sigma_A: float = Field(0.5, gt=0, description="Width of the Gaussian atomic density of SOAP (Angstrom).")
    elements: tuple[str, ...] = Field(
        (), description="Elements of SOAP, in any order; none: those of the frames. Give them to compare pools."
    )
    bond_scale: float = Field(
        1.3, gt=0, le=3, description="Molecules: atoms closer than this times their covalent radii are bonded."
    )

    @field_validator("elements", mode="after")
    @classmethod
    def _symbols(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        from ase.data import atomic_numbers

        for symbol in value:
            if symbol == "X" or symbol not in atomic_numbers:
                raise ValueError(f"there is no element {symbol!r}")
        return tuple(sorted(set(value), key=lambda symbol: atomic_numbers[symbol]))

    @model_validator(mode="after")
    def _settings_fit(self) -> Self:
        if self.num_layers is not None and self.descriptor != "mace":
            raise ValueError("num_layers belongs to descriptor = mace")
        if self.elements and self.descriptor != "soap":
            raise ValueError("elements belongs to descriptor = soap")
        return self

    def descriptor_settings(self) -> dict[str, object]:
        """The settings that decide what a column means: equal where features can be compared."""
        names = ("num_layers",) if self.descriptor == "mace" else ("r_cut_A", "n_max", "l_max", "sigma_A")
        return {name: getattr(self, name) for name in names}
