"""Settings of training sets."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import field_validator, model_validator

from ..schemas.config import Config, Field

Weight = Annotated[float, Field(gt=0)]
SplitBy = Literal["frame", "trajectory", "time_block", "composition"]
Status = Literal["undefined", "scf_failed", "failed", "absurd"]


class TrainingSet(Config):
    """Training, validation and test frames of labelled keys, as references with weights."""

    level_of_theory: str | None = Field(
        None,
        min_length=1,
        description="Only labels of this level of theory, by its text or by at least 8 characters of its id; "
        "null: there may be only one.",
    )
    assumed_level: str | None = Field(
        None, min_length=1, description="Level of theory of sources that do not state theirs (trajectories, old files)."
    )
    max_force_eV_A: float | None = Field(
        None, gt=0, description="Frames with a larger force on any atom are left out (eV/Angstrom)."
    )
    energy_window_eV_atom: float | None = Field(
        None, gt=0, description="Frames that lie higher above the lowest of their composition are left out (eV/atom)."
    )
    include_status: tuple[Status, ...] = Field(
        (), description="Labels that did not end well are left out unless their status is named here."
    )
    require_forces: bool = Field(True, description="Leave out frames without forces.")
    elements: tuple[str, ...] = Field((), description="Only frames of these elements; none: all.")
    compositions: tuple[str, ...] = Field((), description="Only frames of these formulas; none: all.")
    include_equilibration: bool = Field(
        False, description="Also the frames of trajectories that are marked as equilibration."
    )
    keep_isolated_atoms: bool = Field(False, description="Also frames of a single atom.")
    keep_duplicates: bool = Field(False, description="Also frames that are equal to one before, to the last bit.")
    split_by: SplitBy = Field(
        "frame",
        description="What is kept together in one split: nothing, the frames of a trajectory, of a block of its time, "
        "or of a formula.",
    )
    block_frames: int = Field(
        100, ge=1, description="Frames of the original trajectory in a block of split_by = time_block."
    )
    valid_fraction: float = Field(
        0.1, gt=0, lt=1, description="Share of validation; not used where the input valid is given."
    )
    test_fraction: float = Field(0.0, ge=0, lt=1, description="Share of test; not used where the input test is given.")
    weights: tuple[Weight, ...] = Field(
        (), description="Weight of the frames of each key of labels, in the order of the keys; none: 1."
    )
    E0s: Literal["isolated_atoms", "average"] = Field(
        "isolated_atoms",
        description="Energies of the free atoms: those of the input isolated_atoms, or a least-squares fit to the "
        "training frames.",
    )
    atomic_energies_eV: dict[str, float] | None = Field(
        None, description="Energies of free atoms by element, which take precedence over E0s (eV)."
    )
    leakage_tolerance_A: float | None = Field(
        0.02,
        gt=0,
        description="Frames of two splits are near-identical if their nearest-neighbour distances differ by less "
        "(root mean square, Angstrom); null: do not look.",
    )

    @field_validator("elements", mode="after")
    @classmethod
    def _symbols(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for symbol in value:
            _check_element(symbol)
        return value

    @field_validator("compositions", mode="after")
    @classmethod
    def _formulas(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        from ase.formula import Formula

        try:
            return tuple(Formula(text).format("hill") for text in value)
        except (ValueError, KeyError):
            raise ValueError("give formulas such as H2O") from None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for symbol in self.atomic_energies_eV or {}:
            _check_element(symbol)
        if self.valid_fraction + self.test_fraction >= 1:
            raise ValueError("valid_fraction and test_fraction leave nothing to train on")
        return self


def _check_element(symbol: str) -> None:
    from ase.data import atomic_numbers

    if symbol == "X" or symbol not in atomic_numbers:
        raise ValueError(f"there is no element {symbol!r}")
