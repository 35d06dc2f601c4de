"""Settings of the quasi-harmonic approximation, and the names of what it makes."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import field_validator, model_validator

from ..schemas.config import Field, one_of_one
from .structure.supercell_config import SupercellSettings

REFERENCE_LABELS = {
    "only_atoms": "crystal[opt:atoms]",
    "constant_volume": "crystal[opt:atoms,shape]",
    "full": "crystal[opt:atoms,shape,V]",
}


class QuasiHarmonic(SupercellSettings):
    """Thermodynamics of a crystal from its phonons at one volume, or with thermal expansion."""

    temperatures_K: tuple[float, ...] = Field(
        (298.15,), min_length=1, description="Temperatures (K); four or more give the thermal expansion from V(T)."
    )
    pressure_GPa: float | tuple[float, ...] = Field(1.0e-4, description="External pressure (GPa), or several.")
    thermal_expansion: bool = Field(
        True, description="Whether the volume follows temperature and pressure; else it is that of the relaxed crystal."
    )
    relax_input_cell: Literal["full", "constant_volume", "only_atoms"] = Field(
        "constant_volume", description="How the input crystal is relaxed before anything else."
    )
    eos_sampling: Literal["volume", "pressure", "uniform_scaling"] = Field(
        "volume",
        description="Volumes of the equation of state: cells relaxed at given volumes or pressures, or only scaled.",
    )
    volume_range: tuple[float, ...] = Field(
        (0.96, 0.97, 0.98, 0.99, 1.00, 1.01, 1.02, 1.03, 1.04, 1.05, 1.06, 1.07, 1.08),
        min_length=3,
        description="Volumes relative to the relaxed crystal, for eos_sampling volume and uniform_scaling.",
    )
    thermal_pressures_GPa: tuple[float, ...] = Field(
        (0.2, 0.0, -0.2, -0.4, -0.6), min_length=3, description="Pressures (GPa) for eos_sampling pressure."
    )
    equation_of_state: Literal["spline", "polynomial", "vinet", "birch_murnaghan"] = Field(
        "spline", description="Form of the free energy against the volume."
    )
    eos_weight_half_width: float | None = Field(
        0.04,
        gt=0,
        description="Relative distance from the lowest point where a point has half its weight in the fit; null: equal "
        "weights. A spline has none.",
    )
    phonons_at_equilibrium: bool = Field(
        True,
        description="Whether phonons are computed at each equilibrium volume, or interpolated between volumes.",
    )
    supercell_displacement: float = Field(0.01, gt=0, description="Displacement of atoms for the phonons (Angstrom).")
    fourier_interpolation_mesh: float = Field(
        150.0, gt=0, description="Length (Angstrom) that sets the mesh of q-points, centred on Gamma."
    )
    imaginary_mode_threshold: float = Field(
        -0.1, le=0, description="Frequencies below this (THz) count as imaginary modes."
    )
    filter_out_imaginary_acoustic: bool = Field(
        True, description="Leave out volumes with an imaginary mode in the three lowest branches."
    )
    filter_out_imaginary_optical: bool = Field(
        True, description="Leave out volumes with an imaginary mode in the other branches."
    )
    filter_out_broken_symmetry: bool = Field(
        True, description="Leave out volumes whose space group is not that of the relaxed crystal."
    )
    filter_out_extrapolated_minimum: bool = Field(
        True, description="Give no result where the free energy has its minimum outside the volumes that were computed."
    )
    keep_symmetry: bool = Field(True, description="Whether relaxations keep the space group.")
    max_force_on_atom_eV_A: float = Field(
        1.0e-4, gt=0, description="Largest force on an atom (eV/Angstrom) in a relaxed structure."
    )
    max_n_steps: int = Field(1000, ge=0, description="Most steps of a relaxation.")
    symprec_loose_A: float = Field(
        1.0e-2, gt=0, le=1.0, description="Distance within which atoms of the input count as symmetric (Angstrom)."
    )
    symprec_strict_A: float = Field(
        1.0e-5, gt=0, le=1.0, description="The same for a cell whose symmetry was made exact (Angstrom)."
    )
    structure_index: int | None = Field(
        None, ge=0, description="Which structure of the crystal's key to take; needed where it holds several."
    )
    rotational_symmetry_numbers: tuple[int, ...] = Field(
        (), description="Rotational symmetry number of each molecule in order, instead of those found."
    )
    molecule_displacement: float = Field(
        0.01, gt=0, description="Displacement of atoms for the vibrations of a molecule (Angstrom)."
    )

    _one_of_one = field_validator("pressure_GPa", mode="after")(one_of_one)

    @field_validator("temperatures_K", mode="after")
    @classmethod
    def _not_negative(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if min(value) < 0.0:
            raise ValueError(f"a temperature must not be below 0 K; found {min(value):g}")
        return value

    @field_validator("volume_range", mode="after")
    @classmethod
    def _volumes(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if min(value) < 0.2 or max(value) > 5.0:
            raise ValueError("relative volumes lie between 0.2 and 5")
        return value

    @field_validator("rotational_symmetry_numbers", mode="after")
    @classmethod
    def _from_one(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(number < 1 for number in value):
            raise ValueError("a rotational symmetry number is 1 or more")
        return value

    @model_validator(mode="after")
    def _labels_differ(self) -> Self:
        for name, labels in (("volumes", self.eos_labels()), ("states", self.equilibrium_labels())):
            if len(set(labels)) < len(labels):
                twice = next(label for label in labels if labels.count(label) > 1)
                raise ValueError(f"two of the {name} would have the same name {twice}; give each value once")
        return self

    @property
    def reference_label(self) -> str:
        """Name of the relaxed crystal, such as ``crystal[opt:atoms,shape]``."""
        return REFERENCE_LABELS[self.relax_input_cell]

    @property
    def pressures(self) -> tuple[float, ...]:
        """The external pressures (GPa)."""
        return self.pressure_GPa if isinstance(self.pressure_GPa, tuple) else (self.pressure_GPa,)

    @property
    def sampled_values(self) -> tuple[float, ...]:
        """Relative volumes, or pressures (GPa) where these are sampled, in rising order of volume."""
        if self.eos_sampling == "pressure":
            return tuple(sorted(self.thermal_pressures_GPa, reverse=True))
        return tuple(sorted(self.volume_range))

    def eos_labels(self) -> list[str]:
        """Names of the sampled crystals, such as ``crystal[eos:V=0.9800]``."""
        if self.eos_sampling == "pressure":
            return [f"crystal[eos:p={value:.4f}]" for value in self.sampled_values]
        return [f"crystal[eos:V={value:.4f}]" for value in self.sampled_values]

    def states(self) -> list[tuple[float, float]]:
        """Temperatures (K) and pressures (GPa) of the results, the pressures one after another."""
        return [(temperature, pressure) for pressure in self.pressures for temperature in self.temperatures_K]

    def equilibrium_labels(self) -> list[str]:
        """Names of the crystals at equilibrium, such as ``crystal[eq:T=300.00,p=0.00010]``."""
        return [f"crystal[eq:T={temperature:.2f},p={pressure:.5f}]" for temperature, pressure in self.states()]

    def is_reference(self, value: float) -> bool:
        """Whether a sampled relative volume is the relaxed crystal itself, which is not computed twice."""
        if value != 1.0 or self.eos_sampling == "pressure":
            return False
        return self.eos_sampling == "uniform_scaling" or self.relax_input_cell != "only_atoms"

    def computed_labels(self) -> list[str]:
        """Names of all crystals that may be relaxed and given phonons, in the order of the work."""
        labels = [self.reference_label]
        if not self.thermal_expansion:
            return labels
        sampled = zip(self.eos_labels(), self.sampled_values, strict=True)
        labels += [label for label, value in sampled if not self.is_reference(value)]
        return labels + (self.equilibrium_labels() if self.phonons_at_equilibrium else [])
