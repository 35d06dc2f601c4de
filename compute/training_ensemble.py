"""Ensembles of MACE models: the module ``ensemble``."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..schemas.config import Field
from ..schemas.kinds import TABLE
from ..schemas.kinds_training import CHECKPOINT, TRAINING_SET
from .module import POTENTIAL, Call, Context, Handle, InputRef, Module, One, Optional, Request, Wait, Writes
from .training import MODULE as TRAINING
from .training_config import Training

if TYPE_CHECKING:
    import xarray as xr


class Ensemble(Training):
    """Training of several MACE models of one architecture, whose spread tells how sure they are."""

    members: int = Field(4, ge=2, le=64, description="Number of models.")
    distinct_splits: bool = Field(
        True, description="Draw training and validation frames anew for each member; false: as in the set for all."
    )


def ensemble(
    config: Ensemble, inputs: Mapping[str, Any], context: Context
) -> Generator[Request, Any, dict[str, xr.Dataset]]:
    """Train members of different seeds, each as a run of its own at ``member_1`` and so on.

    Parameters
    ----------
    config : Ensemble
        Settings of the members.
    inputs : mapping
        As those of ``training``; all are passed on.
    context : Context
        Seed.

    Yields
    ------
    Call
        ``training`` for each member; they run side by side where there are workers.
    Wait
        For all of them.

    Returns
    -------
    dict
        ``ensemble``: the best model of each member as one checkpoint, whose predictions are the mean; ``members``: seed
        and final validation errors of each.
    """
    seeds = member_seeds(context.seed, config.members)
    given = {name: InputRef(name) for name in TRAINING.reads if inputs.get(name) is not None}
    calls = [
        Call("training", _member(config, seed), given, name, seed)
        for name, seed in zip(_names(config), seeds, strict=True)
    ]
    handles: list[Handle] = []
    for call in calls:
        handle: Handle = yield call
        handles.append(handle)
    done: list[Handle] = yield Wait(handles)
    from .potentials.checkpoint import Checkpoint, committee

    models = [Checkpoint.of(one.outputs["best"].load().load(), one.name) for one in done]
    metrics = [one.outputs["metrics"].load().load() for one in done]
    facts = {"members": config.members, "seeds": seeds}
    return {"ensemble": committee(models).dataset(facts), "members": _table(metrics, seeds, config.start_swa)}


def member_seeds(seed: int, count: int) -> list[int]:
    """Distinct seeds, each the same however many follow it."""
    found: list[int] = []
    number = 0
    while len(found) < count:
        drawn = int(np.random.SeedSequence([seed, number]).generate_state(1)[0]) % 2**31
        number += 1
        if drawn not in found:
            found.append(drawn)
    return found


def _member(config: Ensemble, seed: int) -> dict[str, Any]:
    settings = {name: value for name, value in config.canonical().items() if name in Training.model_fields}
    return {**settings, "split_seed": seed} if config.distinct_splits else settings


def _names(config: Ensemble) -> list[str]:
    return [f"member_{number}" for number in range(1, config.members + 1)]


def _table(metrics: list[xr.Dataset], seeds: list[int], start_swa: int | None) -> xr.Dataset:
    """Where the best model of each member stood when it was validated; losses of two stages do not compare."""
    rows: dict[str, list[float]] = {}
    units: dict[str, str] = {}
    for one in metrics:
        epoch, loss = one["epoch"].to_numpy(), one["valid_loss"].to_numpy()
        first = start_swa if start_swa is not None and np.isfinite(loss[epoch >= start_swa]).any() else 0
        best = int(np.nanargmin(np.where(epoch >= first, loss, np.nan)))
        for name in one.data_vars:
            rows.setdefault(str(name), []).append(float(one[name].to_numpy()[best]))
            units[str(name)] = str(one[name].attrs["units"])
    values: dict[str, Any] = {"seed": (("row",), np.array(seeds, dtype=np.int64), {"units": "1"})}
    for name, column in rows.items():
        values[name] = (("row",), np.array(column), {"units": units[name]})
    return TABLE.dataset(values)


def _called(config: Ensemble) -> Writes:
    outputs = TRAINING.outputs(config)
    return {f"{member}/{name}": kind for member in _names(config) for name, kind in outputs.items()}


MODULE = Module(
    name="ensemble",
    version="2",
    config=Ensemble,
    reads={
        "training_set": One(TRAINING_SET),
        "foundation": Optional(POTENTIAL),
        "replay": Optional(TRAINING_SET),
        "baseline": Optional(POTENTIAL),
    },
    writes={"ensemble": CHECKPOINT, "members": TABLE},
    function=ensemble,
    calls=_called,
)
