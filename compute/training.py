"""Training of MACE models: the module ``training``."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, Any

from ..schemas.kinds import OBSERVABLES
from ..schemas.kinds_training import CHECKPOINT, TRAINING_SET
from .module import POTENTIAL, Block, Context, Module, One, Optional, Replace, Request, Writes
from .training_config import Training

if TYPE_CHECKING:
    import xarray as xr

    from .potentials.checkpoint import StoredModel
    from .training_loop import Epoch, Loop


def training(
    config: Training, inputs: Mapping[str, Any], context: Context
) -> Generator[Request, Any, dict[str, xr.Dataset]]:
    """Train a MACE model with mace-torch.

    Parameters
    ----------
    config : Training
        Settings, by mace-torch's names.
    inputs : mapping
        ``training_set``: frames with energies, forces, splits and weights; ``foundation``: a learned Potential to start
        from; ``replay``: frames of what it knew, to be trained on beside; ``baseline``: a Potential that the model is a
        correction to.
    context : Context
        Seed, device, progress, and the state of an earlier execution.

    Yields
    ------
    Replace
        ``best`` (and ``stage_one``), whenever the validation loss is lower than before.
    Block
        ``metrics`` of the epochs, with the state of model, optimizer, scheduler, averages and data order.

    Raises
    ------
    InvalidData
        If a split is empty, energies of isolated atoms are missing, or the foundation does not know an element.
    InvalidConfig
        If settings do not fit the data or the foundation model.
    ComputeFailed
        If the loss is no number any more.

    Notes
    -----
    All mathematics is mace-torch's: I. Batatia et al., "MACE: Higher Order Equivariant Message Passing Neural
    Networks", NeurIPS 2022. On a CPU with one thread a training that was killed ends with the same bits.
    """
    from .potentials.mace_engine import mace_guard

    with mace_guard():
        from .training_run import prepared

        run = prepared(config, inputs, context)
    loop = run.loop
    if context.restart is None:
        yield Block({"metrics": run.metrics([loop.before()])}, restart=run.state())
    while not loop.over:
        done: list[Epoch] = []
        while not loop.over and len(done) < config.epochs_per_commit and not (done and context.stopping()):
            done.append(loop.epoch())
            context.progress(loop.progress.epoch, config.max_num_epochs, _told(done[-1], loop))
        best = {name: run.checkpoint(model) for name, model in _improved(done, config).items()}
        if best:
            yield Replace(best)
        yield Block({"metrics": run.metrics(done)}, restart=run.state())
    if loop.progress.stopped:
        context.logger.info("the validation loss has not fallen for %d evaluations: trained enough", config.patience)
    return {"last": run.checkpoint(loop.last())}


def _improved(epochs: list[Epoch], config: Training) -> dict[str, StoredModel]:
    """The newest best model of these epochs, by output; before stage two it is that of stage one as well."""
    found: dict[str, StoredModel] = {}
    for epoch in epochs:
        if epoch.best is not None:
            found["best"] = epoch.best
            if config.swa and not epoch.stage_two:
                found["stage_one"] = epoch.best
    return found


def _told(epoch: Epoch, loop: Loop) -> str:
    errors = [f"{epoch.row[name] * 1e3:.1f} meV/A" for name in ("rmse_f",) if name in epoch.row]
    return ", ".join([f"loss {epoch.row.get('valid_loss', loop.progress.valid_loss):.4g}", *errors])


def _outputs(config: Training) -> Writes:
    stage_one = {"stage_one": CHECKPOINT} if config.swa else {}
    return {"metrics": OBSERVABLES, "best": CHECKPOINT, **stage_one, "last": CHECKPOINT}


MODULE = Module(
    name="training",
    version="2",
    config=Training,
    reads={
        "training_set": One(TRAINING_SET),
        "foundation": Optional(POTENTIAL),
        "replay": Optional(TRAINING_SET),
        "baseline": Optional(POTENTIAL),
    },
    writes=_outputs,
    function=training,
)
