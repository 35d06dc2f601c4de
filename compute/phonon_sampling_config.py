"""Settings of phonon sampling."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import field_validator, model_validator

from ..schemas.config import Config, Field, horizon
from .structure.subsystem_config import FiniteSubsystemFilter

Amplitude = Literal["quantum", "classical", "legacy_time_propagation", "legacy_random", "legacy_equidistant"]


class PhononFilter(Config):
    """Which phonon modes are sampled."""

    k_point_mesh: Literal["gamma", "supercell"] | float | tuple[int, int, int] = Field(
        "gamma",
        description="Points of the Brillouin zone: gamma, all that fit the supercell of the force constants "
        "(supercell), a mesh around Gamma of a length (Angstrom), or of three numbers.",
    )
    selected_modes: tuple[int, ...] | None = Field(
        None, description="Modes at each point, from 1 in order of frequency; overrides the frequency window."
    )
    freq_min_THz: float = Field(0.1, ge=0, description="Only modes of a higher frequency (THz).")
    freq_max_THz: float | None = Field(8.0, gt=0, description="Only modes of a lower frequency (THz); null: no limit.")

    @field_validator("k_point_mesh", mode="after")
    @classmethod
    def _points(cls, value: str | float | tuple[int, int, int]) -> str | float | tuple[int, int, int]:
        if isinstance(value, tuple) and min(value) < 1:
            raise ValueError(f"a mesh needs three numbers of at least 1; found {value}")
        if isinstance(value, float) and value <= 0.0:
            raise ValueError(f"the length of a mesh must be above 0 Angstrom; found {value:g}")
        return value

    @field_validator("selected_modes", mode="after")
    @classmethod
    def _modes(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value is None:
            return None
        if not value or min(value) < 1:
            raise ValueError("modes are counted from 1; give at least one, or null for the frequency window")
        return tuple(sorted(set(value)))

    @model_validator(mode="after")
    def _window(self) -> Self:
        if self.freq_max_THz is not None and self.freq_max_THz <= self.freq_min_THz:
            raise ValueError(
                f"the window is empty: freq_min_THz = {self.freq_min_THz:g}, freq_max_THz = {self.freq_max_THz:g}"
            )
        return self


class PhononSampling(Config):
    """Thermal displacements of a crystal along its phonon modes."""

    temperature_K: float = Field(298.15, ge=0, description="Temperature of the modes (K).")
    phonon_filter: PhononFilter = Field(PhononFilter(), description="Which phonon modes are sampled.")
    finite_subsystem_filter: FiniteSubsystemFilter | None = Field(
        None, description="Which finite clusters are cut from each frame; null: none."
    )
    amplitude: Amplitude = Field(
        "quantum",
        description="Canonical Gaussian amplitudes (quantum, classical), or one of the scans of mbe-automation, whose "
        "mean squares are 1/2 (time propagation), 1/3 (random) or about 1/3 (equidistant) of the quantum ones.",
    )
    frames: Literal["total", "per_mode"] = Field(
        "total",
        description="Superpose all modes in each of n_frames frames, or make n_frames frames of each mode alone.",
    )
    n_frames: int = horizon(20, ge=1, description="Number of frames, in total or of each mode; can be raised later.")
    time_step_fs: float = Field(
        100.0, gt=0, description="Time between frames (fs); of use in legacy_time_propagation only."
    )
    supercell: Literal["force_constants", "commensurate"] = Field(
        "force_constants",
        description="The supercell of the force constants, which the mesh must fit, or the smallest one of primitive "
        "cells that fits the mesh.",
    )
    cutoff_THz: float = Field(
        0.05,
        gt=0,
        description="Modes below this frequency (THz) are never sampled, nor are translations of the crystal.",
    )
    evaluate: bool = Field(
        True, description="Compute energies and forces of all frames and clusters, where a model is given."
    )

    @model_validator(mode="after")
    def _settings_fit(self) -> Self:
        if self.amplitude == "classical" and self.temperature_K == 0.0:
            raise ValueError("classical atoms do not move at 0 K; raise temperature_K, or set amplitude = quantum")
        if self.amplitude == "legacy_equidistant" and self.n_frames < 2:
            raise ValueError("an equidistant scan needs n_frames of at least 2")
        return self
