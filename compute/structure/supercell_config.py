"""The settings that name a supercell, for every module that makes one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import field_validator

from ...schemas.config import Config, Field
from ...schemas.errors import InvalidConfig

if TYPE_CHECKING:
    from ase import Atoms

    from .supercell import IntMatrix

IntegerRow = tuple[int, int, int]


class SupercellSettings(Config):
    """A supercell by radius or by matrix."""

    supercell_radius: float | None = Field(
        25.0,
        gt=0,
        description="Least distance of an atom to its own images in the supercell (Angstrom); null: no supercell.",
    )
    supercell_matrix: tuple[IntegerRow, IntegerRow, IntegerRow] | None = Field(
        None, description="Supercell vectors as rows in units of cell vectors, or three repeats; overrides the radius."
    )
    supercell_diagonal: bool = Field(False, description="Only repeat the cell along its own vectors.")

    @field_validator("supercell_matrix", mode="before")
    @classmethod
    def _matrix(cls, value: Any) -> Any:
        if isinstance(value, list | tuple) and len(value) == 3 and all(isinstance(n, int) for n in value):
            return tuple(tuple(n if i == j else 0 for j in range(3)) for i, n in enumerate(value))
        return value

    @field_validator("supercell_matrix", mode="after")
    @classmethod
    def _right_handed(cls, value: tuple[IntegerRow, IntegerRow, IntegerRow] | None) -> Any:
        if value is not None and _determinant(value) < 1:
            raise ValueError(f"the determinant of the supercell matrix must be positive; found {_determinant(value)}")
        return value

    def supercell_of(self, unit: Atoms) -> IntMatrix:
        """The supercell matrix (3, 3) of a cell, rows in units of cell vectors.

        Raises
        ------
        InvalidConfig
            If the cell is not periodic where it would be repeated, or no supercell of that radius can be made.
        """
        import numpy as np

        from .supercell import find_supercell

        if self.supercell_matrix is not None:
            matrix = np.array(self.supercell_matrix, dtype=np.int64)
            open_axes = ~unit.pbc
            identity = np.eye(3)
            if np.any(matrix[open_axes] != identity[open_axes]) or np.any(
                matrix[:, open_axes] != identity[:, open_axes]
            ):
                raise InvalidConfig(
                    "A supercell cannot repeat a direction that is not periodic.",
                    expected="1 for each open direction",
                    found=f"matrix {matrix.tolist()}, periodic: {unit.pbc.tolist()}",
                    hint="leave supercell_matrix out",
                )
            return matrix
        if self.supercell_radius is None or not unit.pbc.any():
            return np.eye(3, dtype=np.int64)
        if not unit.pbc.all():
            raise InvalidConfig(
                "The supercell search needs a cell that is periodic in all three directions.",
                expected="supercell_matrix, or supercell_radius = null for the cell as it is",
                found=f"periodic: {unit.pbc.tolist()}",
                hint="for example supercell_matrix = [2, 2, 1] for a slab",
            )
        try:
            return find_supercell(unit.cell.array, self.supercell_radius, diagonal=self.supercell_diagonal)
        except ValueError as error:
            raise InvalidConfig(
                "No supercell of that radius can be made.",
                expected="a cell with a volume, and a radius of a few cells",
                found=f"supercell_radius = {self.supercell_radius:g}, {error}",
                hint="set supercell_radius smaller, or give supercell_matrix",
            ) from None


def _determinant(m: tuple[IntegerRow, IntegerRow, IntegerRow]) -> int:
    (a, b, c), (d, e, f), (g, h, i) = m
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
