"""Settings of the module ``clusters``."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from ..schemas.config import Field
from .structure.subsystem_config import FiniteSubsystemFilter


class Clusters(FiniteSubsystemFilter):
    """Finite clusters cut from frames of a molecular crystal."""

    reference_frame: int = Field(
        0, ge=0, description="Frame in which molecules are found and clusters are chosen for all frames."
    )
    frames_start: int = Field(0, ge=0, description="First frame that is cut.")
    frames_stop: int | None = Field(None, ge=1, description="Frame before which to stop; null: the end.")
    frames_every: int = Field(1, ge=1, description="Cut every frame, every second, and so on.")
    block_frames: int = Field(50, ge=1, description="Frames of one commit.")

    @model_validator(mode="after")
    def _frames_fit(self) -> Self:
        if self.frames_stop is not None and self.frames_stop <= self.frames_start:
            raise ValueError(f"frames_stop = {self.frames_stop} is not after frames_start = {self.frames_start}")
        return self
