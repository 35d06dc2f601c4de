"""One training as its module sees it: parts, loop, and what is written of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from ..schemas.errors import InvalidConfig
from ..schemas.kinds import OBSERVABLES
from .module import Context
from .potentials.checkpoint import Checkpoint, Engine, StoredModel, baseline_of
from .training_config import Training
from .training_data import REPLAYED, head_frames
from .training_loop import UNITS, Epoch, Loop, Progress
from .training_model import Parts, build
from .training_state import captured, restored


@dataclass
class TrainingRun:
    """A training under way.

    Attributes
    ----------
    parts, loop : Parts, Loop
        What is trained, and how.
    baseline : Checkpoint or Engine or None
        What the model is a correction to.
    facts : mapping
        Attributes of its checkpoints, for people.
    """

    parts: Parts
    loop: Loop
    baseline: Checkpoint | Engine | None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def state(self) -> xr.Dataset:
        """What the next epoch goes on from."""
        return captured(self.parts, self.loop.progress.plain())

    def checkpoint(self, model: StoredModel) -> xr.Dataset:
        """A model as it is stored."""
        return Checkpoint((model,), self.baseline).dataset(self.facts)

    def metrics(self, epochs: Sequence[Epoch]) -> xr.Dataset:
        """A row for each epoch; NaN where it was not evaluated."""
        names = [*UNITS] + [f"{name}_{REPLAYED}" for name in UNITS if len(self.parts.valid_loaders) > 1]
        heads = tuple(self.parts.valid_loaders)
        values: dict[str, Any] = {
            "epoch": (("record",), np.array([epoch.row["epoch"] for epoch in epochs], dtype=np.int64), {"units": "1"})
        }
        for name in names:
            unit = UNITS[name.removesuffix(f"_{REPLAYED}")]
            column = np.array([epoch.row.get(name, math.nan) for epoch in epochs])
            if self._computed(name):
                values[name] = (("record",), column, {"units": unit})
        return OBSERVABLES.dataset(values, {"heads": list(heads)})

    def _computed(self, name: str) -> bool:
        """Whether a metric belongs to this training: all rows must have the same ones."""
        wanted = self.parts.output_args
        if "stress" in name:
            return wanted["stress"]
        if "virials" in name:
            return wanted["virials"]
        if "_mu" in name:
            return wanted["dipoles"]
        return name not in (f"train_loss_{REPLAYED}", f"lr_{REPLAYED}")


def prepared(config: Training, inputs: Mapping[str, Any], context: Context) -> TrainingRun:
    """Read the inputs, build everything, and bring it to where an earlier execution was.

    Raises
    ------
    InvalidConfig
        If frames to replay come without a foundation model, or ``E0s`` need one.
    """
    keys = {name: refs[0].key for name, refs in context.sources.items() if refs}
    foundation, replay, baseline = (inputs.get(name) for name in ("foundation", "replay", "baseline"))
    _check(config, foundation, replay)
    heads = [head_frames(inputs["training_set"], config, where=keys.get("training_set", "training_set"))]
    if replay is not None and config.multiheads_finetuning:
        heads.insert(0, head_frames(replay, config, REPLAYED, keys.get("replay", "replay")))
    start = None if foundation is None else foundation.module().module
    parts = build(config, heads, start, context)
    progress = Progress()
    if context.restart is not None:
        progress = Progress(**restored(parts, context.restart))
    own = heads[-1]
    context.logger.info(
        "%d training and %d validation frames, %d weights",
        len(own.train),
        len(own.valid),
        sum(one.numel() for one in parts.model.parameters() if one.requires_grad),
    )
    facts = {"seed": context.seed, "r_max_Angstrom": float(parts.args.r_max)}
    facts |= {name: inputs["training_set"].attrs[name] for name in _LEVEL if name in inputs["training_set"].attrs}
    return TrainingRun(parts, Loop(config, parts, progress), None if baseline is None else baseline_of(baseline), facts)


_LEVEL = ("level_of_theory", "level_of_theory_id")


def _check(config: Training, foundation: Any, replay: Any) -> None:
    if foundation is None and (replay is not None or config.E0s in ("foundation", "estimated")):
        wanted = "replay" if replay is not None else f"E0s = {config.E0s}"
        raise InvalidConfig(
            f"{wanted} needs a foundation model.",
            key="foundation",
            expected="a checkpoint key, or for example mace-mp:small",
            found="none",
            hint="give foundation=KEY",
        )
    if foundation is None and (config.lora or config.freeze):
        raise InvalidConfig(
            "Only a foundation model can be frozen or tuned with low-rank additions.",
            key="foundation",
            expected="a checkpoint key, or for example mace-mp:small",
            found="none",
            hint="give foundation=KEY, or leave lora and freeze out",
        )
