"""Molecular dynamics: the module ``md``."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any

from ..schemas.errors import ComputeFailed
from ..schemas.kind import Kind
from ..schemas.kinds import CLUSTERS, STRUCTURES, TRAJECTORY
from .md_config import Condition, MolecularDynamics
from .module import POTENTIAL, Block, Context, Module, One, Request, Writes

if TYPE_CHECKING:
    import xarray as xr
    from ase import Atoms
    from numpy.typing import NDArray

    from .md_clusters import FrameClusters
    from .md_system import Frame, Simulation

_REPORT_SECONDS = 0.2

Saved = dict[str, "NDArray[Any]"]


def molecular_dynamics(
    config: MolecularDynamics, inputs: Mapping[str, Any], context: Context
) -> Generator[Request, Any, None]:
    """Propagate one trajectory for each temperature, pressure and replica.

    Parameters
    ----------
    config : MolecularDynamics
        Settings.
    inputs : mapping
        ``crystal``: a dataset of structures or clusters; ``model``: a Potential.
    context : Context
        Seed, progress, and the restart state of an earlier execution.

    Yields
    ------
    Block
        ``block_frames`` frames of a trajectory (fewer where the run ends) with the clusters cut from them, and the
        state of every trajectory at the start of its first block that is not whole.
    Replace
        Before the first block of a trajectory that clusters are cut from: which atoms form which molecule.

    Notes
    -----
    The engine and the integrator are built anew at the start of each block, from the state alone. A block
    that the end of the run cut short is computed again from its start when the run is extended, so that the
    frames do not depend on where a run ended.
    """
    from .md_system import starting_atoms

    atoms, matrix = starting_atoms(config, inputs["crystal"])
    conditions = config.conditions()
    context.logger.info(
        "%d atoms in the simulated cell, %d trajectories of %d frames", len(atoms), len(conditions), config.n_frames
    )
    if config.time_equilibration_fs > config.time_total_fs:
        context.logger.warning(
            "every frame will be marked as equilibration: time_equilibration_fs = %g, time_total_fs = %g",
            config.time_equilibration_fs,
            config.time_total_fs,
        )
    saved = _unpacked(context.restart)
    for index, condition in enumerate(conditions):
        trajectory = _Trajectory(config, condition, f"t{index}", saved, context)
        trajectory.attributes["supercell_matrix"] = matrix.ravel().tolist()
        yield from trajectory.blocks(atoms.copy(), inputs["model"], _reporter(config, index, len(conditions), context))


class _Trajectory:
    """The blocks of one condition, and where it stands among those committed."""

    def __init__(
        self, config: MolecularDynamics, condition: Condition, prefix: str, saved: Saved, context: Context
    ) -> None:
        self.config, self.condition, self.prefix, self.saved, self.context = config, condition, prefix, saved, context
        self.done = context.committed.get(condition.output, 0)
        self.attributes = _attributes(config, condition, context)

    def blocks(self, atoms: Atoms, potential: Any, tick: Callable[[int, float], None]) -> Generator[Request, Any, None]:
        """Yield the blocks that are not committed yet."""
        from .md_system import Simulation, generator_of

        config, name = self.config, self.condition.output
        if self.done >= config.n_frames:
            return
        clusters = self._clusters(atoms, potential)
        if clusters is not None:
            yield from clusters.opening()
        rng = generator_of(self.context.seed, self.condition)
        simulation = Simulation(config, self.condition, potential, atoms, rng, tick)
        self.attributes["n_degrees_of_freedom"] = simulation.ndof
        state = self._restart_state() if self.done else simulation.initial_state()
        while self.done < config.n_frames:
            first = self.done - self.done % config.block_frames
            end = first + config.block_frames
            frames: list[Frame] = []
            failure: ComputeFailed | None = None
            try:
                self._fill(simulation, state, range(first, min(end, config.n_frames)), frames, clusters)
            except ComputeFailed as error:
                failure = error
            if self.done + len(frames) == end:
                state = simulation.state()
            if frames:
                made = {name: simulation.dataset(frames, self.attributes)}
                self.done += len(frames)
                if clusters is not None:
                    made |= clusters.collect(last=self.done == config.n_frames)
                self._keep(state, frames[-1])
                yield Block(made, restart=_packed(self.saved))
            if failure is not None:
                raise failure

    def _clusters(self, atoms: Atoms, potential: Any) -> FrameClusters | None:
        if self.config.finite_subsystem_filter is None:
            return None
        from .md_clusters import FrameClusters

        return FrameClusters(self.config, self.condition, atoms, potential, self.context)

    def _restart_state(self) -> Saved:
        state = {k.removeprefix(f"{self.prefix}."): v for k, v in self.saved.items() if k.startswith(f"{self.prefix}.")}
        if not state:
            raise ComputeFailed(
                "The frames that are stored cannot be continued.",
                key=self.condition.output,
                expected="a restart state beside them",
                found="none",
                hint="start anew with --new-version",
            )
        return state

    def _fill(
        self,
        simulation: Simulation,
        state: Saved,
        indices: range,
        frames: list[Frame],
        clusters: FrameClusters | None,
    ) -> None:
        """Compute a block's frames from its start; those committed already are compared, not kept again."""
        simulation.start_block(state)
        for index in indices:
            if index > 0:
                simulation.advance(self.config.steps_per_frame)
            frame = simulation.frame()
            if index >= self.done:
                if clusters is not None:
                    clusters.cut(frame, index)
                frames.append(frame)
            elif index == self.done - 1:
                self._compare(frame)
            if frames and self.context.stopping():
                return  # a cut block is committed as one that the end of the run cut short

    def _keep(self, state: Saved, last: Frame) -> None:
        stale = [name for name in self.saved if name.startswith(f"{self.prefix}.")]
        for name in stale:
            del self.saved[name]
        for name, value in {**state, "last_positions": last["positions"]}.items():
            self.saved[f"{self.prefix}.{name}"] = value

    def _compare(self, frame: Frame) -> None:
        import numpy as np

        before = self.saved.get(f"{self.prefix}.last_positions")
        if before is None or np.array_equal(before.ravel(), frame["positions"].ravel()):
            return
        self.context.logger.warning(
            "%s: the engine does not repeat itself to the last bit: frame %d was computed again with positions "
            "off by %.2g Angstrom; fix its threads and device",
            self.condition.output,
            self.done - 1,
            float(np.abs(before.ravel() - frame["positions"].ravel()).max()),
        )


def _attributes(config: MolecularDynamics, condition: Condition, context: Context) -> dict[str, Any]:
    found: dict[str, Any] = {
        "ensemble": config.ensemble,
        "algorithm": config.algorithm,
        "time_step_fs": config.time_step_fs,
        "sampling_interval_fs": config.sampling_interval_fs,
        "time_equilibration_fs": config.time_equilibration_fs,
        "temperature_K": condition.temperature_K,
        "replica": condition.replica,
        "seed": context.seed,
    }
    if config.ensemble == "NPT":
        found["pressure_GPa"] = condition.pressure_GPa
    if config.fixed_atoms:
        found["fixed_atoms"] = list(config.fixed_atoms)
    return found


def _reporter(config: MolecularDynamics, index: int, count: int, context: Context) -> Callable[[int, float], None]:
    """A progress callback that costs nothing most of the times it is called."""
    steps = (config.n_frames - 1) * config.steps_per_frame
    last = [0.0]

    def report(step: int, temperature: float) -> None:
        now = time.monotonic()
        if now - last[0] < _REPORT_SECONDS and step < steps:
            return
        last[0] = now
        text = f"{step * config.time_step_fs:.1f} fs, {temperature:.0f} K"
        context.progress(index * steps + step, count * steps, text)

    return report


def _packed(saved: Saved) -> xr.Dataset:
    """Arrays of any shape as flat variables, each along an axis of its own."""
    import xarray as xr

    return xr.Dataset({name: ((f"{name}_n",), value.ravel().copy()) for name, value in sorted(saved.items())})


def _unpacked(restart: xr.Dataset | None) -> Saved:
    return {} if restart is None else {str(name): restart[name].to_numpy() for name in restart.data_vars}


def _outputs(config: MolecularDynamics) -> Writes:
    conditions, cut = config.conditions(), config.finite_subsystem_filter
    found: dict[str, Kind] = {condition.output: TRAJECTORY for condition in conditions}
    if cut is not None:
        for condition in conditions:
            found |= cut.outputs(condition.label)
    return found


MODULE = Module(
    name="md",
    version="1",
    config=MolecularDynamics,
    reads={"crystal": One(STRUCTURES, CLUSTERS), "model": One(POTENTIAL)},
    writes=_outputs,
    function=molecular_dynamics,
)
