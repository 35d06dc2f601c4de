"""Settings of molecular dynamics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

from pydantic import field_validator, model_validator

from ..schemas.config import Field, horizon, later, one_of_one
from .structure.subsystem_config import FiniteSubsystemFilter
from .structure.supercell_config import SupercellSettings

_WHOLE = 1e-6
_TRAJECTORIES = "trajectories/"


@dataclass(frozen=True, slots=True)
class Condition:
    """One trajectory of a run.

    Attributes
    ----------
    temperature_K : float
        Target temperature (K); in NVE the temperature of the initial velocities.
    pressure_GPa : float
        Target pressure (GPa), of use in NPT only.
    replica : int
        From 1.
    output : str
        Name of the output that the trajectory is written to.
    """

    temperature_K: float
    pressure_GPa: float
    replica: int
    output: str

    @property
    def label(self) -> str | None:
        """What tells its outputs from those of the other conditions; None where it is the only one."""
        return self.output.removeprefix(_TRAJECTORIES) if self.output.startswith(_TRAJECTORIES) else None


class MolecularDynamics(SupercellSettings):
    """Molecular dynamics of a structure with a potential."""

    ensemble: Literal["NVE", "NVT", "NPT"] = Field("NVT", description="Thermodynamic ensemble.")
    temperature_K: float | tuple[float, ...] = Field(
        298.15, description="Target temperature (K), or several: one trajectory each."
    )
    pressure_GPa: float | tuple[float, ...] = Field(
        1.0e-4, description="Target pressure (GPa) in NPT, or several: one trajectory each."
    )
    replicas: int = Field(
        1, ge=1, le=999, description="Trajectories of each temperature and pressure, of different seeds."
    )
    time_total_fs: float = horizon(
        50000.0, ge=0, description="Length of a trajectory (fs); a finished one can be extended."
    )
    time_step_fs: float = Field(0.5, gt=0, description="Time step of the integrator (fs).")
    sampling_interval_fs: float = Field(50.0, gt=0, description="Time between stored frames (fs).")
    time_equilibration_fs: float = Field(
        5000.0, ge=0, description="Frames before this time (fs) are marked as equilibration."
    )
    nvt_algo: Literal["csvr", "langevin", "nose_hoover_chain"] = Field("csvr", description="Thermostat in NVT.")
    npt_algo: Literal["mtk_full", "mtk_isotropic"] = Field(
        "mtk_full", description="Barostat in NPT: the whole cell, or its volume only."
    )
    thermostat_time_fs: float = Field(100.0, gt=0, description="Relaxation time of csvr and of the chains (fs).")
    barostat_time_fs: float = Field(1000.0, gt=0, description="Relaxation time of the barostat (fs).")
    tchain: int = Field(3, ge=1, description="Length of the Nose-Hoover chain on the atoms.")
    pchain: int = Field(3, ge=1, description="Length of the Nose-Hoover chain on the barostat.")
    langevin_friction_per_fs: float = Field(0.01, gt=0, description="Friction of Langevin dynamics (1/fs).")
    structure_index: int | None = Field(
        None, ge=0, description="Which structure of the key to start from; needed where it holds several."
    )
    fixed_atoms: tuple[int, ...] = Field(
        (), description="Atoms of the input structure (from 0) that do not move, in every copy of the supercell."
    )
    initial_velocities: Literal["maxwell_boltzmann", "input"] = Field(
        "maxwell_boltzmann", description="Drawn from the seed with zero total momentum, or those of the structure."
    )
    initial_temperature_K: float | None = Field(
        None, ge=0, description="Temperature of the initial velocities (K); null: the target temperature."
    )
    exact_initial_temperature: bool = Field(
        False, description="Scale the initial velocities to exactly their temperature, instead of a canonical draw."
    )
    temperature_end_K: float | None = Field(
        None, gt=0, description="Change the target temperature linearly to this one (K), then keep it."
    )
    temperature_ramp_fs: float | None = Field(
        None, gt=0, description="Time from the start in which temperature_end_K is reached (fs)."
    )
    temperature_limit_K: float = Field(
        20000.0, gt=0, description="A kinetic temperature above this (K) stops the run as failed."
    )
    finite_subsystem_filter: FiniteSubsystemFilter | None = later(
        None, description="Cut finite clusters of molecules from the frames; null: none."
    )
    cluster_forces: bool = later(True, description="Compute energies and forces of the clusters with the model.")
    block_frames: int = Field(
        20, ge=1, description="Frames of one commit; the engine is rebuilt after each, so results depend on it."
    )

    _one_of_one = field_validator("temperature_K", "pressure_GPa", mode="after")(one_of_one)

    @field_validator("temperature_K", mode="after")
    @classmethod
    def _positive(cls, value: float | tuple[float, ...]) -> float | tuple[float, ...]:
        for one in _several(value):
            if one <= 0.0:
                raise ValueError(f"a temperature must be above 0 K; found {one:g}")
        return value

    @field_validator("fixed_atoms", mode="after")
    @classmethod
    def _indices(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(index < 0 for index in value):
            raise ValueError("atoms are counted from 0")
        return tuple(sorted(set(value)))

    @model_validator(mode="after")
    def _times_fit(self) -> Self:
        _whole(self.sampling_interval_fs, self.time_step_fs, "sampling_interval_fs", "time_step_fs")
        _whole(self.time_total_fs, self.sampling_interval_fs, "time_total_fs", "sampling_interval_fs")
        return self

    @model_validator(mode="after")
    def _settings_fit(self) -> Self:
        if self.ensemble != "NPT" and isinstance(self.pressure_GPa, tuple):
            raise ValueError(f"several pressures need ensemble = NPT; found {self.ensemble}")
        if self.ensemble == "NPT" and self.fixed_atoms:
            raise ValueError("fixed atoms do not go with a moving cell; use ensemble = NVT or NVE")
        if (self.temperature_end_K is None) != (self.temperature_ramp_fs is None):
            raise ValueError("a ramp needs both temperature_end_K and temperature_ramp_fs")
        if self.temperature_end_K is not None and self.ensemble == "NVE":
            raise ValueError("a temperature ramp needs a thermostat; use ensemble = NVT or NPT")
        outputs = [condition.output for condition in self.conditions()]
        if len(set(outputs)) < len(outputs):
            raise ValueError("temperatures must differ by 0.01 K and pressures by 0.00001 GPa to be told apart")
        return self

    @property
    def algorithm(
        self,
    ) -> Literal["velocity_verlet", "csvr", "langevin", "nose_hoover_chain", "mtk_full", "mtk_isotropic"]:
        """The integrator that ensemble, nvt_algo and npt_algo select."""
        if self.ensemble == "NVE":
            return "velocity_verlet"
        return self.nvt_algo if self.ensemble == "NVT" else self.npt_algo

    @property
    def steps_per_frame(self) -> int:
        """Integration steps between two frames."""
        return round(self.sampling_interval_fs / self.time_step_fs)

    @property
    def n_frames(self) -> int:
        """Frames of a trajectory, with the one at t = 0."""
        return round(self.time_total_fs / self.sampling_interval_fs) + 1

    def is_equilibration(self, time_fs: float) -> bool:
        """Whether a frame at a time (fs) after the start is marked as equilibration."""
        return time_fs < self.time_equilibration_fs * (1.0 - 1e-9)

    def is_cut(self, index: int) -> bool:
        """Whether finite clusters are cut from the frame of that index."""
        chosen = self.finite_subsystem_filter
        time = index * self.steps_per_frame * self.time_step_fs
        return chosen is not None and (chosen.include_equilibration or not self.is_equilibration(time))

    def conditions(self) -> tuple[Condition, ...]:
        """All trajectories of the run, temperatures outermost, replicas innermost."""
        found = []
        for temperature in _several(self.temperature_K):
            for pressure in _several(self.pressure_GPa):
                label = f"T={temperature:.2f}"
                if self.ensemble == "NPT":
                    label += f",p={pressure:.5f}"
                for replica in range(1, self.replicas + 1):
                    suffix = f",r={replica:03d}" if self.replicas > 1 else ""
                    found.append(
                        Condition(temperature, pressure, replica, f"{_TRAJECTORIES}crystal[dyn:{label}{suffix}]")
                    )
        if len(found) == 1:
            return (Condition(found[0].temperature_K, found[0].pressure_GPa, 1, "trajectory"),)
        return tuple(found)

    def target_temperature(self, condition: Condition, time_fs: float) -> float:
        """Target temperature (K) of the thermostat at a time (fs) after the start."""
        start, end, ramp = condition.temperature_K, self.temperature_end_K, self.temperature_ramp_fs
        if end is None or ramp is None:
            return start
        return start + (end - start) * min(time_fs / ramp, 1.0)


def _several(value: float | tuple[float, ...]) -> tuple[float, ...]:
    return value if isinstance(value, tuple) else (value,)


def _whole(long: float, short: float, long_name: str, short_name: str) -> None:
    count = long / short
    if abs(count - round(count)) > _WHOLE * max(1.0, count):
        near = round(count) * short
        raise ValueError(f"{long_name} = {long:g} is not a multiple of {short_name} = {short:g}; {near:g} would be")
    if long > 0 and round(count) < 1:
        raise ValueError(f"{long_name} = {long:g} is shorter than {short_name} = {short:g}")
