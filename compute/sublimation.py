"""The enthalpy of sublimation: the module ``sublimation``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..schemas.kinds import TRAJECTORY
from ..schemas.kinds_lattice import THERMODYNAMICS
from .module import Context, Many, Module, One
from .sublimation_config import Sublimation

if TYPE_CHECKING:
    import xarray as xr


def sublimation(config: Sublimation, inputs: Mapping[str, Any], context: Context) -> dict[str, xr.Dataset]:
    """Compute the classical enthalpy of sublimation at one temperature and pressure.

    Parameters
    ----------
    config : Sublimation
        Settings.
    inputs : mapping
        ``crystal``: a trajectory in NPT or NVT; ``molecule``: a list with one trajectory in vacuum (NVT) for each kind
        of molecule in the crystal. All by the same potential.
    context : Context
        For warnings.

    Returns
    -------
    dict
        ``thermodynamics``: one state, with the terms and the block averages of each phase.

    Raises
    ------
    InvalidData
        If a trajectory has no thermostat, no production frames or fixed atoms, or the temperatures differ.
    InvalidConfig
        If the crystal is not made of whole formula units of the molecules.

    Notes
    -----
    With ``n_i`` molecules of kind ``i`` in a formula unit and ``Z`` formula units in the simulated cell ::

        H_sub = sum_i n_i (<U_i> + K_i + kT) - (<U_c> + K_c + p <V>) / Z

    ``kT`` is ``pV`` of an ideal gas. ``K`` is the kinetic energy of all ``3N`` degrees of freedom. Molecular dynamics
    moves ``n_dof`` of them (the total momentum is zero; a run may also remove rotation), so that
    ``K = <E_kin> + (3N - n_dof) kT / 2``. In NVT ``p V`` is sampled with the stored pressure, which lacks the momentum
    of the centre of mass too: ``p V + (3N - n_dof) kT / 3``.

    Errors are standard errors by block averaging of ``U + E_kin + pV`` (see ``structure/blocking.py``); trajectories
    are independent, so their squares add. Nuclear motion is classical: zero-point energy is in none of the terms.
    """
    from .sublimation_terms import enthalpy, formula_units, read_crystal, read_molecule, same_temperature

    keys = {name: [ref.key for ref in refs] for name, refs in context.sources.items()}
    crystal = read_crystal(inputs["crystal"], config, keys.get("crystal", ["crystal"])[0], context)
    names = keys.get("molecule") or [f"molecule {number}" for number in range(1, len(inputs["molecule"]) + 1)]
    molecules = [
        read_molecule(dataset, config, name, context) for dataset, name in zip(inputs["molecule"], names, strict=True)
    ]
    same_temperature([crystal, *molecules], config.temperature_tolerance_K)
    cells, counts = formula_units(crystal, molecules, config.counts)
    return {"thermodynamics": enthalpy(crystal, molecules, cells, counts, config, context)}


MODULE = Module(
    name="sublimation",
    version="1",
    config=Sublimation,
    reads={"crystal": One(TRAJECTORY), "molecule": Many(TRAJECTORY)},
    writes={"thermodynamics": THERMODYNAMICS},
    function=sublimation,
)
