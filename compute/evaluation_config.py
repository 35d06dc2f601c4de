"""Settings of evaluations."""

from __future__ import annotations

from typing import Literal

from ..schemas.config import Config, Field


class Evaluation(Config):
    """Errors of a model, or of an ensemble, against labels."""

    split: Literal["train", "valid", "test"] | None = Field(
        None, description="Which frames of training sets; null: all. Other keys are taken whole."
    )
    include_equilibration: bool = Field(
        False, description="Also the frames of trajectories that are marked as equilibration."
    )
    include_unconverged: bool = Field(False, description="Also labels that did not end well.")
    batch_size: int = Field(2048, ge=1, description="Atoms of one forward pass of a MACE model; a frame is not split.")
    task_frames: int = Field(256, ge=1, description="Frames of one task; tasks are spread over the workers.")
    parity_components: int = Field(
        20_000, ge=1, description="Components of forces that are kept for parity plots, drawn at random."
    )
    calibration_atoms: int = Field(
        1_000_000,
        ge=1,
        description="Ensembles: atoms whose errors and uncertainties of forces are compared, drawn at random.",
    )
    alpha: float = Field(
        0.1, gt=0, lt=1, description="Ensembles: share of errors that calibrated uncertainties may fall below."
    )
