"""Thermal displacements of a crystal along its phonon modes: the module ``phonon_sampling``."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, Any

from ..schemas.errors import InvalidConfig
from ..schemas.kinds import STRUCTURES
from ..schemas.kinds_lattice import FORCE_CONSTANTS, PHONONS
from .module import POTENTIAL, Block, Context, Map, Module, One, Optional, Replace, Request, Writes
from .phonon_sampling_config import PhononSampling

if TYPE_CHECKING:
    from .structure.single_points import Label

_ATOMS_AT_ONCE = 100_000
_EVALUATED_AT_ONCE = 50


def phonon_sampling(
    config: PhononSampling, inputs: Mapping[str, Any], context: Context
) -> Generator[Request, Any, None]:
    """Draw displaced supercells, and cut clusters from them.

    Parameters
    ----------
    config : PhononSampling
        Settings.
    inputs : mapping
        ``force_constants``: a dataset; ``model``: a Potential or None.
    context : Context
        Seed, progress, and how many frames are committed.

    Yields
    ------
    Replace
        ``modes``: frequencies, mean energies and amplitudes, and which modes are sampled; ``molecular_crystal``.
    Map
        Energies and forces of some frames and their clusters, each from a cold engine.
    Block
        Some frames of ``structures`` and the clusters cut from them.

    Raises
    ------
    InvalidConfig
        If a q-point does not fit the supercell, or no mode is selected.
    InvalidData
        If a mode that is asked for by its number is imaginary, a translation, or below the cut-off.

    Notes
    -----
    Frames do not depend on each other, on the number of frames, or on the edges of blocks.
    """
    import xarray as xr

    from .phonon_sampling_frames import Frames, modes_dataset
    from .structure.cluster_labels import with_labels
    from .structure.cutting import SubsystemCutter
    from .structure.single_points import labels_of, single_point, single_points

    _refuse_other_grid(config, context)
    frames = Frames(config, inputs["force_constants"], inputs["model"] if config.evaluate else None, context)
    choice = config.finite_subsystem_filter
    cutter = SubsystemCutter(choice, frames.perfect) if choice is not None else None
    restart = xr.Dataset({"n_frames": (("one",), [config.n_frames])})
    done = context.committed.get("structures", 0)
    if done == 0:
        made = {"modes": modes_dataset(frames)}
        if cutter is not None:
            made["molecular_crystal"] = cutter.molecular_crystal()
        yield Replace(made)
    step = max(1, _ATOMS_AT_ONCE // len(frames.perfect))
    if frames.potential is not None:
        step = min(step, _EVALUATED_AT_ONCE)
    while done < frames.count:
        indices = range(done, min(done + step, frames.count))
        systems, energies = frames.drawn(indices)
        cuts = cutter.pieces(systems, indices) if cutter is not None else {}
        labels: list[Label] | None = None
        if frames.potential is not None:
            pieces = [system for cut in cuts.values() for system in cut.systems]
            items = single_points([*systems, *pieces], frames.potential)
            name = f"frames_{indices.start}_to_{indices.stop}"
            labels = labels_of((yield Map(single_point, items, name=name)))
        first, count = done == 0, len(systems)
        data = {"structures": frames.dataset(indices, systems, energies, labels and labels[:count])}
        data |= with_labels(cuts, labels and labels[count:], needed=first)
        done += count
        context.progress(done, frames.count, f"{done} of {frames.count} frames")
        yield Block(data, restart=restart)


def _refuse_other_grid(config: PhononSampling, context: Context) -> None:
    """An equidistant scan of more frames is another grid, which cannot go on from a shorter one."""
    if config.amplitude != "legacy_equidistant" or context.restart is None:
        return
    before = int(context.restart["n_frames"][0])
    if before != config.n_frames:
        raise InvalidConfig(
            "An equidistant scan cannot be extended: its points depend on their number.",
            expected=f"n_frames = {before}",
            found=f"n_frames = {config.n_frames}",
            hint="take another root key, or add --new-version",
        )


def _outputs(config: PhononSampling) -> Writes:
    clusters = config.finite_subsystem_filter
    return {"structures": STRUCTURES, "modes": PHONONS, **(clusters.outputs() if clusters is not None else {})}


MODULE = Module(
    name="phonon_sampling",
    version="1",
    config=PhononSampling,
    reads={"force_constants": One(FORCE_CONSTANTS), "model": Optional(POTENTIAL)},
    writes=_outputs,
    function=phonon_sampling,
)
