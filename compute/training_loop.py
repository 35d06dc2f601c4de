"""The epochs of a training: the course of ``mace.tools.train``, in steps that can be stored and taken up again."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import mace.calculators  # noqa: F401 - e3nn can only be imported after it
import torch
from mace.tools.train import evaluate, train_one_epoch

from ..schemas.errors import ComputeFailed
from .potentials.checkpoint import StoredModel, quiet
from .potentials.checkpoint_models import default_dtype
from .potentials.mace_arithmetic import steady
from .training_config import Training
from .training_model import Parts

METRICS = {
    "mae_e_per_atom": "eV",
    "rmse_e_per_atom": "eV",
    "mae_f": "eV/Angstrom",
    "rmse_f": "eV/Angstrom",
    "mae_stress": "eV/Angstrom^3",
    "rmse_stress": "eV/Angstrom^3",
    "mae_virials": "eV",
    "rmse_virials": "eV",
    "mae_mu": "e*Angstrom",
    "rmse_mu": "e*Angstrom",
}
UNITS = {"train_loss": "1", "valid_loss": "1", "lr": "1", **METRICS}


@dataclass
class Progress:
    """Where a training stands.

    Attributes
    ----------
    epoch : int
        The next epoch.
    valid_loss : float
        Of the last evaluation.
    lowest_loss : float
        Lowest of this stage.
    patience_counter : int
        Evaluations since then.
    stage_two : bool
        Whether stage two began.
    stopped : bool
        Whether the loss has not fallen for so long that the training is over.
    """

    epoch: int = 0
    valid_loss: float = math.inf
    lowest_loss: float = math.inf
    patience_counter: int = 0
    stage_two: bool = False
    stopped: bool = False

    def plain(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


@dataclass
class Epoch:
    """What one epoch gave.

    Attributes
    ----------
    row : dict
        Metrics by name.
    best : StoredModel or None
        The model, where it is the best so far of its stage.
    stage_two : bool
        Which stage it belongs to.
    """

    row: dict[str, float]
    best: StoredModel | None
    stage_two: bool


@dataclass
class _Losses:
    """Takes the place of mace-torch's logger of training steps."""

    values: list[float] = field(default_factory=list)

    def log(self, told: dict[str, Any]) -> None:
        """Keep the loss of a step."""
        self.values.append(float(told["loss"]))

    @property
    def mean(self) -> float:
        """Mean over the steps."""
        return math.fsum(self.values) / len(self.values)


class Loop:
    """The epochs of one training.

    Parameters
    ----------
    config : Training
        Settings.
    parts : Parts
        What is trained with what.
    progress : Progress
        Where it stands.
    """

    def __init__(self, config: Training, parts: Parts, progress: Progress) -> None:
        self.config, self.parts, self.progress = config, parts, progress

    @property
    def over(self) -> bool:
        """Whether there is nothing left to do."""
        return self.progress.stopped or self.progress.epoch >= self.config.max_num_epochs

    def before(self) -> Epoch:
        """Evaluate the model as it is before any training; counted as epoch -1."""
        with self._setting():
            found = self._evaluated(self.parts.loss_fn)
        self.progress.valid_loss = found["valid_loss"]
        return Epoch({"epoch": -1, "train_loss": math.nan, "lr": self._lr(), **found}, None, stage_two=False)

    def epoch(self) -> Epoch:
        """Train one epoch and evaluate.

        Raises
        ------
        ComputeFailed
            If the loss is no number any more.

        Notes
        -----
        As in mace-torch, the learning rate changes before an epoch by the validation loss before it, the averaged
        weights are evaluated where there are such, and the lowest loss counts anew in stage two. Otherwise than in
        mace-torch 0.3.16, which goes on when it says that it stops, ``patience`` ends the training.
        """
        progress, parts = self.progress, self.parts
        number = progress.epoch
        with self._setting():
            loss_fn = self._stage(number)
            losses: Any = _Losses()  # in place of mace-torch's MetricsLogger, of which only log is called
            if self.config.optimizer == "schedulefree":
                parts.optimizer.train()  # type: ignore[attr-defined]
            train_one_epoch(
                model=parts.model, loss_fn=loss_fn, data_loader=parts.train_loader, optimizer=parts.optimizer,
                epoch=number, output_args=parts.output_args, max_grad_norm=self.config.clip_grad, ema=parts.ema,
                logger=losses,
                device=parts.device, distributed=False,
            )  # fmt: skip
            self._check(losses.mean, number, "training")
            row = {"epoch": number, "train_loss": losses.mean, "lr": self._lr()}
            best = None
            if number % self.config.eval_interval == 0:
                with self.averaged():
                    row |= self._evaluated(loss_fn)
                    best = self._judged(row["valid_loss"])
        progress.epoch += 1
        return Epoch(row, best, progress.stage_two)

    def last(self) -> StoredModel:
        """The model at the end, with averaged weights where there are such."""
        with self._setting(), self.averaged():
            return self.parts.stored()

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """The weights that count: averaged ones, or those of a schedule-free optimizer between its steps."""
        if self.config.optimizer == "schedulefree":
            self.parts.optimizer.eval()  # type: ignore[attr-defined]
        with self.parts.ema.average_parameters() if self.parts.ema is not None else contextlib.nullcontext():
            yield

    def _stage(self, number: int) -> torch.nn.Module:
        """Step the learning rate, and give the loss function of the stage."""
        progress, parts = self.progress, self.parts
        if parts.swa is None or number < parts.swa.start:
            if number > 0:
                parts.lr_scheduler.step(metrics=progress.valid_loss)
            return parts.loss_fn
        if not progress.stage_two:
            progress.lowest_loss, progress.stage_two = math.inf, True
        parts.swa.model.update_parameters(parts.model)
        if number > 0:
            parts.swa.scheduler.step()
        return parts.swa.loss_fn

    def _judged(self, loss: float) -> StoredModel | None:
        """Compare with the lowest loss; the model where this one is lower."""
        progress, swa = self.progress, self.parts.swa
        progress.valid_loss = loss
        if loss < progress.lowest_loss:
            progress.lowest_loss, progress.patience_counter = loss, 0
            return self.parts.stored()
        progress.patience_counter += 1
        if progress.patience_counter >= self.config.patience:
            if swa is not None and progress.epoch < swa.start:
                progress.epoch = swa.start
            else:
                progress.stopped = True
        return None

    def _evaluated(self, loss_fn: torch.nn.Module) -> dict[str, float]:
        """Validation loss and errors; those of a head that is replayed carry its name."""
        found: dict[str, float] = {}
        *others, own = self.parts.valid_loaders
        for head in (*others, own):
            loss, errors = evaluate(
                model=self.parts.model, loss_fn=loss_fn, data_loader=self.parts.valid_loaders[head],
                output_args=self.parts.output_args, device=self.parts.device,
            )  # fmt: skip
            end = "" if head == own else f"_{head}"
            self._check(float(loss), self.progress.epoch, "validation")
            found[f"valid_loss{end}"] = float(loss)
            found |= {f"{name}{end}": float(errors[name]) for name in METRICS if name in errors}
        return found

    def _check(self, loss: float, number: int, what: str) -> None:
        if not math.isfinite(loss):
            raise ComputeFailed(
                f"The {what} loss is no number any more.",
                expected="a finite loss",
                found=f"{loss} in epoch {number}",
                hint="lower lr, set clip_grad, or look for absurd labels; what was stored before is kept",
            )

    def _lr(self) -> float:
        return max(float(group["lr"]) for group in self.parts.optimizer.param_groups)

    @contextlib.contextmanager
    def _setting(self) -> Iterator[None]:
        with quiet(), default_dtype(self.config.default_dtype), steady(self.parts.device):
            yield
