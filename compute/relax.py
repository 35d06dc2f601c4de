"""Relaxation of a structure: the module ``relax``."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..schemas.errors import InvalidConfig
from ..schemas.kinds import CLUSTERS, OBSERVABLES, STRUCTURES, TRAJECTORY
from .module import POTENTIAL, Block, Context, Module, One, Request
from .relax_config import Relaxation

if TYPE_CHECKING:
    import xarray as xr
    from ase import Atoms

    from .structure.relaxation import Goal, Point, State
    from .structure.symmetry import SpaceGroup


def relaxation(
    config: Relaxation, inputs: Mapping[str, Any], context: Context
) -> Generator[Request, Any, dict[str, xr.Dataset]]:
    """Relax one structure.

    Parameters
    ----------
    config : Relaxation
        Settings.
    inputs : mapping
        ``crystal``: a dataset of frames; ``model``: a Potential.
    context : Context
        Progress, and the restart state of an earlier execution.

    Yields
    ------
    Block
        The path of ``block_steps`` steps and the state at the start of the first block that is not whole.

    Returns
    -------
    dict
        ``structure``: the last structure with energy, forces and stress from a cold engine. One that is not converged
        is marked by ``converged`` = 0 and its residual forces, and can be extended by more steps. ``max_force_eV_A`` is
        what the convergence was judged by, under the symmetry that is kept; ``max_residual_force_eV_A`` is that of the
        plain forces.

    Notes
    -----
    The engine is rebuilt at the start of each block. A block that was cut short is computed again from its start when
    the relaxation is extended, so that the path does not depend on where a run ended.
    """
    from .structure.relaxation import relax_block

    start, before = _start(config, inputs["crystal"])
    goal = _goal(config)
    state, first = _restored(context.restart, start)
    while True:
        saved = state.copy()
        points: list[Point] = []
        for point in relax_block(state, inputs["model"], goal, min(config.block_steps, config.max_n_steps - first)):
            points.append(point)
            step = first + len(points) - 1
            context.progress(step, config.max_n_steps, f"step {step}: force {point.max_force:.2g} eV/Angstrom")
            if context.stopping():
                break
        whole = len(points) == config.block_steps + 1 and not points[-1].meets(goal)
        kept = points[:-1] if whole else points
        fresh = kept[max(0, context.committed.get("path", 0) - first) :]
        last = state.atoms
        if not whole:
            state = saved
        if fresh:
            path = _path(fresh, first + len(kept) - len(fresh))
            yield Block({"path": path}, restart=_packed(state, first + config.block_steps if whole else first))
        if whole:
            first += config.block_steps
        elif points[-1].meets(goal) or first + len(points) - 1 >= config.max_n_steps:
            return {
                "structure": _result(
                    config, inputs["model"], last, before, points[-1], first + len(points) - 1, context
                )
            }


def _start(config: Relaxation, crystal: xr.Dataset) -> tuple[Atoms, SpaceGroup]:
    """The structure to start from, and the space group of the input."""
    from .structure.frames import atoms_of
    from .structure.relaxation import check_apart, scaled_to_volume
    from .structure.symmetry import space_group

    atoms = atoms_of(crystal, config.structure_index)
    check_apart(atoms)
    if config.volume_ratio != 1.0 and not atoms.pbc.all():
        raise InvalidConfig(
            "A structure without a volume cannot be scaled to another one.",
            expected="volume_ratio = 1",
            found=f"volume_ratio = {config.volume_ratio:g}, periodic: {atoms.pbc.tolist()}",
        )
    group = space_group(atoms, config.symprec_loose_A)
    if config.keep_symmetry:
        atoms = _transformed(config, atoms)
    return scaled_to_volume(atoms, config.volume_ratio), group


def _transformed(config: Relaxation, atoms: Atoms) -> Atoms:
    from .structure.symmetry import standard_cell, symmetrized

    if not atoms.pbc.all():
        return atoms
    if config.transform == "none":
        return symmetrized(atoms, config.symprec_loose_A) if config.keep_symmetry else atoms
    return standard_cell(atoms, config.symprec_loose_A, primitive=config.transform == "symmetrized_primitive")


def _goal(config: Relaxation) -> Goal:
    from .structure.relaxation import Goal

    return Goal(
        config.cell_relaxation,
        config.max_force_on_atom_eV_A,
        config.pressure_GPa,
        config.keep_symmetry,
        config.symprec_strict_A,
    )


def _result(
    config: Relaxation,
    potential: Any,
    atoms: Atoms,
    before: SpaceGroup,
    point: Point,
    steps: int,
    context: Context,
) -> xr.Dataset:
    import numpy as np

    from .structure.evaluation import evaluated
    from .structure.frames import structures_dataset
    from .structure.symmetry import space_group

    converged = point.meets(_goal(config))
    if not converged:
        context.logger.warning(
            "not converged in %d steps: residual force %.3g eV/Angstrom, wanted %.3g; a larger max_n_steps goes on",
            steps,
            point.max_force,
            config.max_force_on_atom_eV_A,
        )
    if not config.keep_symmetry:
        atoms = _transformed(config, atoms)
    found = evaluated(atoms, potential)
    after = space_group(atoms, config.symprec_loose_A)
    more: dict[str, Any] = {"energy": [found["energy"]], "forces": found["forces"]}
    if "stress" in found:
        more["stress"] = found["stress"][None, :]
    if atoms.has("initial_charges"):
        more["charge"] = [float(atoms.get_initial_charges().sum())]
    if atoms.has("initial_magmoms"):
        more["spin_multiplicity"] = [round(abs(float(atoms.get_initial_magnetic_moments().sum()))) + 1]
    attributes = {
        "cell_relaxation": config.cell_relaxation,
        "pressure_GPa": config.pressure_GPa,
        "converged": int(converged),
        "n_steps": steps,
        "max_force_eV_A": point.max_force,
        "max_residual_force_eV_A": float(np.sqrt((found["forces"] ** 2).sum(axis=1).max())),
        "max_strain_gradient_eV": point.max_strain_gradient,
        "space_group_before": before.symbol,
        "space_group_number_before": before.number,
        "space_group_after": after.symbol,
        "space_group_number_after": after.number,
        "symprec_A": config.symprec_loose_A,
    }
    return structures_dataset([atoms], more, attributes)


def _path(points: Sequence[Point], first: int) -> xr.Dataset:
    columns = {
        "energy": ("eV", [point.energy for point in points]),
        "enthalpy": ("eV", [point.enthalpy for point in points]),
        "max_force": ("eV/Angstrom", [point.max_force for point in points]),
        "max_strain_gradient": ("eV", [point.max_strain_gradient for point in points]),
        "volume": ("Angstrom^3", [point.volume for point in points]),
        "step": ("1", list(range(first, first + len(points)))),
    }
    return OBSERVABLES.dataset(
        {name: (("record",), values, {"units": unit}) for name, (unit, values) in columns.items()}
    )


def _packed(state: State, step: int) -> xr.Dataset:
    """A state as flat variables, each along an axis of its own."""
    import numpy as np
    import xarray as xr

    arrays = {f"memory.{name}": array for name, array in sorted(state.memory.items())}
    arrays |= {"positions": state.atoms.positions, "cell": state.atoms.cell.array}
    arrays |= {"step": np.array([step]), "fire": np.array([int(state.method == "fire")])}
    return xr.Dataset({name: ((f"{name}_n",), array.ravel().copy()) for name, array in arrays.items()})


def _restored(restart: xr.Dataset | None, start: Atoms) -> tuple[State, int]:
    """The state to go on from, and the step that it stands at."""
    from .structure.relaxation import State

    if restart is None:
        return State(start), 0
    atoms = start.copy()
    atoms.set_cell(restart["cell"].to_numpy().reshape(3, 3))
    atoms.positions = restart["positions"].to_numpy().reshape(-1, 3)
    memory = {}
    for name in map(str, restart.data_vars):
        if name.startswith("memory."):
            array = restart[name].to_numpy()
            memory[name.removeprefix("memory.")] = array
    if "hessian" in memory:
        size = memory["positions"].size
        memory["hessian"] = memory["hessian"].reshape(size, size)
    if "original_cell" in memory:
        memory["original_cell"] = memory["original_cell"].reshape(3, 3)
    return State(atoms, "fire" if int(restart["fire"][0]) else "newton", memory), int(restart["step"][0])


MODULE = Module(
    name="relax",
    version="1",
    config=Relaxation,
    reads={"crystal": One(STRUCTURES, TRAJECTORY, CLUSTERS), "model": One(POTENTIAL)},
    writes={"structure": STRUCTURES, "path": OBSERVABLES},
    function=relaxation,
)
