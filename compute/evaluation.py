"""Errors of a model against labels: the module ``evaluation``."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, Any

from ..schemas.kinds import CLUSTERS, STRUCTURES, TRAJECTORY
from ..schemas.kinds_training import EVALUATION, LABELS, TRAINING_SET
from .evaluation_config import Evaluation
from .module import POTENTIAL, Block, Context, Many, Map, Module, Request

if TYPE_CHECKING:
    import xarray as xr


def evaluation(
    config: Evaluation, inputs: Mapping[str, Any], context: Context
) -> Generator[Request, Any, dict[str, xr.Dataset]]:
    """Predict every labelled frame and compare.

    Parameters
    ----------
    config : Evaluation
        Settings.
    inputs : mapping
        ``model``: a list of potentials, several of them an ensemble (as a stored committee is); ``labels``: a list of
        datasets with energies.
    context : Context
        Seed, and what the inputs are called.

    Yields
    ------
    Map
        Predictions of some frames each.
    Block
        Those predictions, as labels by the model.

    Returns
    -------
    dict
        ``evaluation``: errors by group, parity data and, for an ensemble, spread and calibration.

    Raises
    ------
    InvalidData
        If there are no labels, or an element is unknown to a model.
    """
    from .evaluation_predict import check_elements, members_of, predict
    from .evaluation_report import Report
    from .evaluation_source import other_levels, sources_of, tasks_of

    models = tuple(member for potential in inputs["model"] for member in members_of(potential))
    sources = sources_of(config, inputs["labels"], context.sources.get("labels", ()))
    elements = {z: place for source in reversed(sources) for z, place in source.elements().items()}
    for model in models:
        check_elements(model, dict(sorted(elements.items())))
        model.calculator()  # a checkpoint that does not fit its description is refused before anything is computed
    for text in other_levels(inputs["model"], sources):
        context.logger.warning("%s", text)
    tasks = tasks_of(config, models, sources)
    context.logger.info("%d frames, %d models", sum(len(s.frames) for s in sources), len(models))
    results = yield Map(predict, [task.work for task in tasks], name="predictions")
    report = Report(config, models, sources, context.seed)
    done = context.committed.get("predictions", 0)
    for task, result in zip(tasks, results, strict=True):
        predictions = report.add(task, result)
        if report.n_frames > done:
            yield Block({"predictions": predictions})
    if report.n_failed:
        context.logger.warning("no prediction of %d of %d frames: see status", report.n_failed, report.n_frames)
    return {"evaluation": report.dataset()}


MODULE = Module(
    name="evaluation",
    version="2",
    config=Evaluation,
    reads={"model": Many(POTENTIAL), "labels": Many(LABELS, STRUCTURES, CLUSTERS, TRAJECTORY, TRAINING_SET)},
    writes={"evaluation": EVALUATION, "predictions": LABELS},
    function=evaluation,
)
