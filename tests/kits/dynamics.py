"""Small systems and a driver for the module ``md``, without a store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import xarray as xr
from ase import Atoms
from ase.build import bulk

from h5ml.compute.md import MODULE
from h5ml.compute.md_config import MolecularDynamics
from h5ml.compute.module import Block, Context, Replace
from h5ml.compute.potentials import Potential, resolve_potential
from h5ml.compute.potentials.harmonic import PairCalculator
from h5ml.schemas.kinds import STRUCTURES
from h5ml.tests.kits.runner import join

SPRINGS = "harmonic:springs?k=0.05&r0=3.75&rc=4.6"
BONDS = "harmonic:springs?k=10&r0=1.1&rc=1.6"
LENNARD_JONES = "ase:lj?sigma=3.4&epsilon=0.0104&rc=8.0&smooth=true"

ALGORITHMS: dict[str, dict[str, Any]] = {
    "velocity_verlet": {"ensemble": "NVE"},
    "csvr": {"ensemble": "NVT", "nvt_algo": "csvr"},
    "langevin": {"ensemble": "NVT", "nvt_algo": "langevin"},
    "nose_hoover_chain": {"ensemble": "NVT", "nvt_algo": "nose_hoover_chain"},
    "mtk_full": {"ensemble": "NPT", "npt_algo": "mtk_full"},
    "mtk_isotropic": {"ensemble": "NPT", "npt_algo": "mtk_isotropic"},
}


class SoftSpheres(PairCalculator):
    """Spheres that overlap softly, ``E = eps (1 - r/rc)^3``: a fluid, so that every thermostat is ergodic."""

    default_parameters: ClassVar[dict[str, float]] = {"rc": 4.0, "eps": 0.3}

    def pair(self, distance: Any) -> tuple[Any, Any]:
        gap = 1.0 - distance / self.parameters.rc
        return self.parameters.eps * gap**3, -3.0 * self.parameters.eps / self.parameters.rc * gap**2


def soft_spheres() -> Potential:
    """The fluid as a potential."""
    return Potential("soft", "soft", SoftSpheres, {"engine": "soft"})


def argon(repeat: int = 1) -> Atoms:
    """An fcc crystal of 4 atoms a cell."""
    return bulk("Ar", "fcc", a=5.3, cubic=True).repeat(repeat)


def nitrogen() -> Atoms:
    """A cubic cell with one molecule N2; repeated three times, each has 26 others within a cell's length."""
    return Atoms("N2", [[0, 0, 0], [0.6, 0.6, 0.7]], cell=[4.0, 4.1, 4.2], pbc=True)


def structures(*systems: Atoms, **more: Any) -> xr.Dataset:
    """ASE structures as a dataset of the kind ``structures``."""
    return STRUCTURES.dataset(
        {
            "n_atoms": [len(a) for a in systems],
            "positions": np.concatenate([a.positions for a in systems]),
            "atomic_numbers": np.concatenate([a.numbers for a in systems]),
            "cell": np.array([a.cell.array for a in systems]),
            "pbc": np.array([a.pbc for a in systems], dtype=np.int8),
            **more,
        }
    )


def settings(algorithm: str = "csvr", **more: Any) -> MolecularDynamics:
    """Short settings for argon at 40 K."""
    short: dict[str, Any] = {
        "supercell_radius": None,
        "time_step_fs": 2.0,
        "sampling_interval_fs": 10.0,
        "time_total_fs": 150.0,
        "time_equilibration_fs": 20.0,
        "temperature_K": 40.0,
        "block_frames": 4,
    }
    return MolecularDynamics(**{**short, **ALGORITHMS[algorithm], **more})


@dataclass
class Driven:
    """What a run has committed: data by output, and what it needs to go on."""

    data: dict[str, xr.Dataset] = field(default_factory=dict)
    restart: xr.Dataset | None = None
    blocks: list[Mapping[str, xr.Dataset]] = field(default_factory=list)
    progress: list[tuple[float, float, str]] = field(default_factory=list)
    error: Exception | None = None

    @property
    def trajectory(self) -> xr.Dataset:
        return self.data["trajectory"]

    @property
    def committed(self) -> dict[str, int]:
        return {name: found.sizes.get("frame", 0) for name, found in self.data.items()}


def drive(
    config: MolecularDynamics,
    crystal: xr.Dataset | Atoms,
    model: str | Potential = SPRINGS,
    *,
    seed: int = 0,
    after: Driven | None = None,
    blocks: int | None = None,
) -> Driven:
    """Execute the module as a runner does, from where ``after`` ended, for at most so many blocks."""
    done = Driven() if after is None else Driven(dict(after.data), after.restart)
    context = Context(
        seed=seed,
        restart=done.restart,
        committed=done.committed,
        progress=lambda at, total, text="": done.progress.append((at, total, text)),
    )
    potential = resolve_potential(model) if isinstance(model, str) else model
    crystal = structures(crystal) if isinstance(crystal, Atoms) else crystal
    requests = MODULE.function(config, {"crystal": crystal, "model": potential}, context)
    try:
        while blocks is None or len(done.blocks) < blocks:
            request = next(requests)
            assert isinstance(request, Block | Replace)
            for name, found in request.data.items():
                kind = MODULE.outputs(config)[name]
                assert kind.name == found.attrs.get("kind", kind.name)
                kind.check(found)
                old = done.data.get(name) if isinstance(request, Block) else None
                done.data[name] = found if old is None else join(old, found, kind.grows)
            if isinstance(request, Block):
                done.restart = request.restart
                done.blocks.append(request.data)
    except StopIteration:
        pass
    except Exception as error:
        done.error = error
    requests.close()
    return done
