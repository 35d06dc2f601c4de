"""Training sets: references to labelled frames, their splits, weights and targets: the module ``training_set``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..schemas.kinds import CLUSTERS, STRUCTURES, TABLE, TRAJECTORY
from ..schemas.kinds_training import LABELS, TRAINING_SET
from .module import AnyNumber, Context, Many, Module
from .training_set_config import TrainingSet

if TYPE_CHECKING:
    import xarray as xr


def training_set(config: TrainingSet, inputs: Mapping[str, Any], context: Context) -> dict[str, xr.Dataset]:
    """Choose labelled frames, divide them, and say what is learned from each.

    Parameters
    ----------
    config : TrainingSet
        Settings.
    inputs : mapping
        ``labels``, and where given ``valid`` and ``test``: lists of datasets with energies. ``baseline``: labels of
        the same frames at another level, which are subtracted. ``isolated_atoms``: energies of free atoms.
    context : Context
        Seed, logger, and what the inputs are called.

    Returns
    -------
    dict
        ``set``: the references; ``contents``: what was taken of each key, and why the rest was not.

    Raises
    ------
    InvalidData
        On mixed or unstated levels of theory, a missing energy of a free atom, or an empty split.
    InvalidConfig
        If the weights do not fit the keys.
    """
    from .training_set_assemble import Assembly

    assembly = Assembly(config, inputs, context)
    return {"set": assembly.references(), "contents": assembly.contents()}


MODULE = Module(
    name="training_set",
    version="2",
    config=TrainingSet,
    reads={
        "labels": Many(LABELS, STRUCTURES, CLUSTERS, TRAJECTORY),
        "valid": AnyNumber(LABELS, STRUCTURES, CLUSTERS, TRAJECTORY),
        "test": AnyNumber(LABELS, STRUCTURES, CLUSTERS, TRAJECTORY),
        "baseline": AnyNumber(LABELS),
        "isolated_atoms": AnyNumber(LABELS, TABLE),
    },
    writes={"set": TRAINING_SET, "contents": TABLE},
    function=training_set,
)
