"""Finite clusters from the frames of a molecular crystal: the module ``clusters``."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, Any

from ..schemas.errors import InvalidData
from ..schemas.kinds import CLUSTERS, STRUCTURES, TRAJECTORY
from .clusters_config import Clusters
from .module import POTENTIAL, Block, Context, Map, Module, One, Optional, Request, Writes

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr
    from numpy.typing import NDArray

    from .structure.single_points import Label


def clusters(
    config: Clusters, inputs: Mapping[str, Any], context: Context
) -> Generator[Request, Any, dict[str, xr.Dataset]]:
    """Cut the same clusters from each frame.

    Parameters
    ----------
    config : Clusters
        Settings.
    inputs : mapping
        ``frames``: a dataset of frames of one system; ``model``: a Potential or None.
    context : Context
        Progress, and how many frames are done.

    Yields
    ------
    Map
        Energies and forces of the clusters of some frames, each from a cold engine.
    Block
        ``block_frames`` frames of every cluster.

    Returns
    -------
    dict
        ``molecular_crystal``.
    """
    import xarray as xr

    from .structure.cluster_labels import with_labels
    from .structure.cutting import SubsystemCutter
    from .structure.frames import atoms_of, iterate_atoms
    from .structure.single_points import labels_of, single_point, single_points

    source, model = inputs["frames"], inputs.get("model")
    chosen = _frames(config, source)
    cutter = SubsystemCutter(config, atoms_of(source, config.reference_frame))
    context.logger.info(
        "%d molecules (%s), clusters of %s around molecule %d from %d frames",
        cutter.molecules.n_molecules,
        ", ".join(sorted(set(cutter.formulas))),
        ", ".join(str(len(cluster) + 1) for cluster in cutter.clusters.values()),
        cutter.central,
        len(chosen),
    )
    for name, other in cutter.same_as.items():
        context.logger.warning("the cluster %s is the same as %s and is left empty", name, other)
    done = 0 if context.restart is None else int(context.restart["frames_done"][0])
    changed = failed = 0
    while done < len(chosen):
        block = chosen[done : done + config.block_frames]
        cuts = cutter.pieces(iterate_atoms(source, block), block.tolist())
        labels: list[Label] | None = None
        if model is not None:
            items = single_points((system for cut in cuts.values() for system in cut.systems), model)
            name = f"frames_{done}_to_{done + len(block)}"
            labels = labels_of((yield Map(single_point, items, name=name)))
        made = with_labels(cuts, labels, needed=done == 0)
        changed += _changed(made)
        failed += sum(int(dataset["energy"].isnull().sum()) for dataset in made.values() if "energy" in dataset)
        done += len(block)
        context.progress(done, len(chosen), f"frame {block[-1]}")
        first = done == len(block)
        data = {name: dataset for name, dataset in made.items() if first or dataset.sizes["frame"]}
        yield Block(data, restart=xr.Dataset({"frames_done": (("one",), [done])}))
    if changed:
        context.logger.warning("%d of the frames have broken or new bonds and are marked: source_intact = 0", changed)
    if failed:
        context.logger.warning("the potential failed for %d clusters: their energy is NaN", failed)
    return {"molecular_crystal": cutter.molecular_crystal()}


def _frames(config: Clusters, source: xr.Dataset) -> NDArray[np.int64]:
    from .structure.frames import frame_count, production_frames

    every = production_frames(source, include_equilibration=config.include_equilibration)
    stop = frame_count(source) if config.frames_stop is None else config.frames_stop
    inside = every[(every >= config.frames_start) & (every < stop)]
    chosen = inside[:: config.frames_every]
    if len(chosen) == 0:
        raise InvalidData(
            "No frame is chosen.",
            expected=f"frames from {config.frames_start} to {stop - 1}",
            found=f"{frame_count(source)} frames, {len(every)} of them past the equilibration",
            hint="set include_equilibration = true, or other frames",
        )
    return chosen


def _changed(made: Mapping[str, xr.Dataset]) -> int:
    return max(int((dataset["source_intact"] == 0).sum()) for dataset in made.values())


def _outputs(config: Clusters) -> Writes:
    return config.outputs()


MODULE = Module(
    name="clusters",
    version="1",
    config=Clusters,
    reads={"frames": One(STRUCTURES, TRAJECTORY, CLUSTERS), "model": Optional(POTENTIAL)},
    writes=_outputs,
    function=clusters,
)
