"""Thermal displacements of a crystal along its phonon modes: the module ``phonon_sampling``."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any

from ..schemas.errors import InvalidConfig
from ..schemas.kinds import STRUCTURES
from ..schemas.kinds_lattice import FORCE_CONSTANTS, PHONONS
from .module import POTENTIAL, Block, Context, Module, One, Optional, Replace, Request, Writes
from .phonon_sampling_config import PhononSampling

_ATOMS_AT_ONCE = 100_000
_EVALUATED_AT_ONCE = 10


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
    from .structure.cutting import SubsystemCutter

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
        systems, block = frames.block(range(done, min(done + step, frames.count)))
        data = {"structures": block}
        if cutter is not None:
            data |= cutter.cut(systems, range(done, done + len(systems)), frames.potential, needed=done == 0)
        done += len(systems)
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
