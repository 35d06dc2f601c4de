"""Energies of isolated atoms: the module ``isolated_atoms``."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..schemas.errors import ComputeFailed, InvalidConfig, nearest
from ..schemas.kinds import CLUSTERS, STRUCTURES, TABLE, TRAJECTORY
from ..schemas.kinds_training import LABELS
from .isolated_atoms_config import IsolatedAtoms
from .module import POTENTIAL, AnyNumber, Context, Map, Module, Optional, Recall, Request

if TYPE_CHECKING:
    import xarray as xr

    from .levels.level import Level, System

Rows = Mapping[str, Mapping[str, Any]]

_PROPERTIES = ("energy",)
_ANY = 1e12


def isolated_atoms(
    config: IsolatedAtoms, inputs: Mapping[str, Any], context: Context
) -> Generator[Request, Any, dict[str, xr.Dataset]]:
    """Compute each element with several multiplicities, and take the lowest energy.

    Parameters
    ----------
    config : IsolatedAtoms
        Settings.
    inputs : mapping
        ``frames``: a list of datasets with frames, which may be empty; ``model``: a Potential or None.
    context : Context
        For messages.

    Yields
    ------
    Recall
        Labels of the same level of theory that the store has.
    Map
        The atoms that have no label yet.

    Returns
    -------
    dict
        ``labels``: one frame for each element and multiplicity; ``energies``: a table of the lowest ones.

    Raises
    ------
    InvalidConfig
        If there are no elements, one is unknown, or the engine cannot do it.
    ComputeFailed
        If no multiplicity of an element converged.

    Notes
    -----
    The multiplicities are those around the one of the free atom by Hund's rules. An engine without spin computes each
    element once.
    """
    import numpy as np

    from .levels.labelling import (
        Known,
        Labelling,
        Limits,
        joined,
        label_frame,
        rows_by_identity,
        theory_attributes,
    )
    from .levels.level import identity_of
    from .levels.registry import make_level

    level = make_level(config, inputs.get("model"))
    symbols = _elements(config, inputs.get("frames") or ())
    systems = [system for symbol in symbols for system in _candidates(config, level, symbol)]
    for system in systems:
        level.check(system, frozenset(_PROPERTIES), f"element {_symbol(system)}")
    attributes = theory_attributes(level)
    theory = str(attributes["level_of_theory_id"])
    identities = [identity_of(system, theory) for system in systems]
    labelling = Labelling(level, _PROPERTIES, Limits(_ANY, _ANY))
    stored = yield Recall(LABELS, {"level_of_theory_id": theory})
    known = Known(stored, identities, _PROPERTIES, labelling.limits).take(identities)
    tasks = labelling.tasks(systems, identities, known)
    if not tasks.keys() <= known.keys():
        made = yield Map(label_frame, list(tasks.values()), name="atoms")
        known |= rows_by_identity(made)
    names = np.array([_symbol(system) for system in systems], dtype=object)
    labels = joined([known[identity] for identity in identities], attributes, {"label": names})
    return {"labels": labels, "energies": _table(labels, symbols, attributes, context)}


def _elements(config: IsolatedAtoms, datasets: Sequence[xr.Dataset]) -> list[str]:
    """Symbols of the elements that are asked for, by atomic number."""
    import numpy as np
    from ase.data import atomic_numbers, chemical_symbols

    unknown = [symbol for symbol in config.elements if atomic_numbers.get(symbol, 0) < 1]
    if unknown:
        raise InvalidConfig(
            "There is no such element.",
            key="elements",
            expected="symbols such as H, C, N, O",
            found=", ".join(unknown),
            hint=nearest(unknown[0], chemical_symbols[1:]),
        )
    numbers = {atomic_numbers[symbol] for symbol in config.elements}
    for dataset in datasets:
        numbers |= set(np.unique(dataset["atomic_numbers"].to_numpy()).tolist())
    if not numbers:
        raise InvalidConfig(
            "There are no elements.", key="elements", expected="elements, or input frames", found="neither"
        )
    return [chemical_symbols[number] for number in sorted(numbers)]


def _candidates(config: IsolatedAtoms, level: Level, symbol: str) -> list[System]:
    """An atom with each multiplicity to try."""
    import numpy as np
    from ase.data import atomic_numbers, ground_state_magnetic_moments

    from .levels.level import System

    number = atomic_numbers[symbol]
    cell = np.eye(3) * (config.box_A or 0.0)
    usual = round(ground_state_magnetic_moments[number]) + 1
    usual += (number - usual + 1) % 2  # a table that disagrees with the parity of the electrons
    around = range(-config.multiplicities_around, config.multiplicities_around + 1)
    wanted = [m for m in (usual + 2 * step for step in around) if 1 <= m <= number + 1]
    if not level.capabilities().spin:
        wanted = [1 + number % 2]
    pbc = np.full(3, config.box_A is not None)
    return [System(np.array([number]), np.zeros((1, 3)), cell, pbc, 0, multiplicity) for multiplicity in wanted]


def _symbol(system: System) -> str:
    from ase.data import chemical_symbols

    return str(chemical_symbols[int(system.numbers[0])])


def _table(labels: xr.Dataset, symbols: Sequence[str], attributes: Mapping[str, Any], context: Context) -> xr.Dataset:
    """The lowest energy of each element."""
    import numpy as np

    energy = np.where(labels["status"].to_numpy() == 0, labels["energy"].to_numpy(), np.inf)
    names = labels["label"].to_numpy().astype(str)
    best = []
    for symbol in symbols:
        here = np.flatnonzero(names == symbol)
        lowest = int(here[np.argmin(energy[here])])
        if not np.isfinite(energy[lowest]):
            raise ComputeFailed(
                "No multiplicity of an element gave an energy.",
                key=f"element {symbol}",
                expected="a self-consistent field that converges",
                found=str(labels["message"].to_numpy()[lowest])[-300:],
                hint="set fallbacks, max_cycles or smearing",
            )
        multiplicity = int(labels["spin_multiplicity"][lowest])
        context.logger.info("%s: %.4f eV, multiplicity %d", symbol, energy[lowest], multiplicity)
        best.append(lowest)
    one = {"units": "1"}
    columns = {
        "element": (("row",), np.array(symbols, dtype=object)),
        "atomic_number": (("row",), labels["atomic_numbers"].to_numpy()[best], one),
        "energy": (("row",), energy[best], {"units": "eV"}),
        "spin_multiplicity": (("row",), labels["spin_multiplicity"].to_numpy()[best], one),
        "identity": (("row",), labels["identity"].to_numpy()[best]),
    }
    return TABLE.dataset(columns, attributes)


MODULE = Module(
    name="isolated_atoms",
    version="1",
    config=IsolatedAtoms,
    reads={"frames": AnyNumber(STRUCTURES, TRAJECTORY, CLUSTERS), "model": Optional(POTENTIAL)},
    writes={"labels": LABELS, "energies": TABLE},
    function=isolated_atoms,
)
