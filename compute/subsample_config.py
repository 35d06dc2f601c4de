"""Settings of the choice of frames."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field as Number
from pydantic import field_validator, model_validator

from ..schemas.config import Config, Field

Count = Annotated[int, Number(ge=1)]


class Subsample(Config):
    """Choose frames that differ from one another, or at random, as references to the original frames."""

    method: Literal["farthest_point", "k_means_medoids", "random"] = Field(
        "farthest_point", description="How frames are chosen."
    )
    on: Literal["features", "energies"] = Field(
        "features", description="What distances are taken in: the feature vectors, or the energy per atom."
    )
    n_samples: int | None = Field(None, ge=1, description="Number of frames to choose.")
    budgets: dict[str, Count] | None = Field(
        None, description="Number of frames for each composition, by its formula, instead of n_samples."
    )
    scale: bool = Field(True, description="Standardise each feature to zero mean and unit variance first.")
    duplicate_distance: float | None = Field(
        None, ge=0, description="Frames no farther than this from one chosen before are rejected; null: none are."
    )
    first: Literal["nearest_to_mean", "farthest_from_mean", "random"] = Field(
        "nearest_to_mean", description="Which frame farthest_point begins with."
    )

    @field_validator("budgets", mode="after")
    @classmethod
    def _formulas(cls, value: dict[str, int] | None) -> dict[str, int] | None:
        if value is None:
            return None
        found = {hill(formula): count for formula, count in value.items()}
        if not value or len(found) < len(value):
            raise ValueError("give one number for each of some compositions")
        return dict(sorted(found.items()))

    @model_validator(mode="after")
    def _one_number(self) -> Self:
        if (self.n_samples is None) == (self.budgets is None):
            raise ValueError("give n_samples, or budgets, and not both")
        return self


def hill(formula: str) -> str:
    """A formula in the Hill order.

    Raises
    ------
    ValueError
        If it is none.
    """
    from ase.data import atomic_numbers
    from ase.formula import Formula

    try:
        found = Formula(formula)
    except (ValueError, KeyError):
        raise ValueError(f"{formula!r} is no formula") from None
    if not formula or not set(found.count()) <= set(atomic_numbers):
        raise ValueError(f"{formula!r} is no formula")
    return found.format("hill")
