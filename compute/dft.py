"""Labels of structures by a quantum method: the module ``dft``."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Generator, Mapping
from typing import Any

from ..schemas.kinds import CLUSTERS, STRUCTURES, TRAJECTORY
from ..schemas.kinds_training import LABELS
from .dft_config import Dft
from .module import POTENTIAL, Block, Context, Many, Map, Module, Optional, Recall, Request


def dft(config: Dft, inputs: Mapping[str, Any], context: Context) -> Generator[Request, Any, None]:
    """Label every frame of the inputs, in their order.

    Parameters
    ----------
    config : Dft
        Settings.
    inputs : mapping
        ``frames``: a list of datasets with frames; ``model``: a Potential, of use with ``engine = potential``.
    context : Context
        Progress, what the inputs are, and how many frames are committed.

    Yields
    ------
    Recall
        Labels of the same level of theory that the store has.
    Map
        The frames of a block that have no label yet, each computed from a cold start.
    Block
        The labels of the block.

    Raises
    ------
    InvalidConfig
        If the engine cannot do a frame: refused before anything is computed.
    MissingPackage
        If the engine is not installed.

    Notes
    -----
    A label is identified by its structure, charge, spin and level of theory; it is taken over where it was computed
    before, and frames that are the same within one run are computed once.
    """
    import xarray as xr

    from .dft_frames import Frames
    from .levels.labelling import (
        Known,
        Labelling,
        Limits,
        joined,
        label_frame,
        rows_by_identity,
        theory_attributes,
    )
    from .levels.registry import make_level

    level = make_level(config, inputs.get("model"))
    frames = Frames(config, inputs["frames"], context.sources.get("frames", ()))
    attributes = theory_attributes(level)
    identities = frames.identities(level, str(attributes["level_of_theory_id"]))
    labelling = Labelling(level, config.properties, Limits(config.max_force_eV_A, config.max_energy_per_atom_eV))
    context.logger.info("%d frames, %d of them different, by %s", len(frames), len(set(identities)), level)
    answer = yield Recall(LABELS, {"level_of_theory_id": attributes["level_of_theory_id"]})
    stored = Known(answer, identities, config.properties, labelling.limits)
    again = {identity for identity, count in Counter(identities).items() if count > 1}
    kept: dict[str, dict[str, Any]] = {}
    counts: Counter[int] = Counter()
    done = 0 if context.restart is None else int(context.restart["frames_done"][0])
    systems = frames.systems(done)
    while done < len(frames):
        here = identities[done : done + config.block_frames]
        known = kept | stored.take(set(here) - set(kept))
        tasks = labelling.tasks(itertools.islice(systems, len(here)), here, known)
        if not tasks.keys() <= known.keys():
            made = yield Map(label_frame, list(tasks.values()), name=f"labels_{done}")
            known |= rows_by_identity(made)
        kept |= {identity: known[identity] for identity in tasks if identity in again}
        rows = [known[identity] for identity in here]
        counts.update(int(row["status"]) for row in rows)
        labels = joined(rows, attributes, frames.references(done, done + len(rows)))
        done += len(rows)
        context.progress(done, len(frames), f"{done} of {len(frames)} frames")
        yield Block({"labels": labels}, restart=xr.Dataset({"frames_done": (("one",), [done])}))
    _report(context, counts)


def _report(context: Context, counts: Counter[int]) -> None:
    """Say how many labels are of no use."""
    names = {2: "did not converge", 3: "failed", 4: "are absurd"}
    bad = [f"{counts[status]} {name}" for status, name in names.items() if counts[status]]
    if bad:
        context.logger.warning("%d labels are good; %s: see status and message", counts[0], ", ".join(bad))


MODULE = Module(
    name="dft",
    version="1",
    config=Dft,
    reads={"frames": Many(STRUCTURES, TRAJECTORY, CLUSTERS), "model": Optional(POTENTIAL)},
    writes={"labels": LABELS},
    function=dft,
)
