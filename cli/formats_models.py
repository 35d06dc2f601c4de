"""Models as files: those of mace-torch, TorchScript and LAMMPS from checkpoints, and checkpoints from model files."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..schemas.errors import InvalidConfig, WrongKind

if TYPE_CHECKING:
    import xarray as xr

    from .formats_write import Chosen


def write_model(chosen: Chosen, path: Path) -> None:
    """Write a checkpoint as a model file of mace-torch, which its calculator and its training take."""
    module = _module(chosen)
    from torch import save

    with path.open("wb") as file:
        save(module, file)


def write_torchscript(chosen: Chosen, path: Path) -> None:
    """Write a checkpoint as TorchScript, as mace-torch compiles it."""
    module = _module(chosen)
    from e3nn.util import jit  # type: ignore[import-untyped]

    jit.compile(copy.deepcopy(module)).save(str(path))


def write_lammps(chosen: Chosen, path: Path) -> None:
    """Write a checkpoint for the pair style ``mace`` of LAMMPS."""
    module = _module(chosen)
    from ..compute.potentials.mace_engine import mace_guard

    with mace_guard():
        from e3nn.util import jit
        from mace.calculators import LAMMPS_MACE

        wrapped: Any = LAMMPS_MACE(module, head=_checkpoint(chosen).models[0].description["head"])
        jit.compile(wrapped).save(str(path))


def write_mliap(chosen: Chosen, path: Path) -> None:
    """Write a checkpoint for the ML-IAP interface of LAMMPS (``pair_style mliap unified``).

    The file is a pickle, as LAMMPS wants it; mace-torch's class in it works with and without LAMMPS being installed
    here. The model keeps the form of e3nn; mace-torch's own command converts it to cuEquivariance as well.
    """
    module = _module(chosen)
    from ..compute.potentials.mace_engine import mace_guard

    with mace_guard():
        from mace.calculators.lammps_mliap_mace import LAMMPS_MLIAP_MACE
        from torch import save

        module.lammps_mliap = True
        wrapped = LAMMPS_MLIAP_MACE(module, head=_checkpoint(chosen).models[0].description["head"])
        with path.open("wb") as file:
            save(wrapped, file)


def read_model(path: Path, *, trust_pickle: bool) -> xr.Dataset:
    """Read a model file of mace-torch as a checkpoint.

    Parameters
    ----------
    path : pathlib.Path
        A model saved whole.
    trust_pickle : bool
        Whether it may be read: it can run any code.

    Raises
    ------
    InvalidConfig
        If it is not trusted.
    InvalidData
        If it is no MACE model, of an unknown class, or cannot be rebuilt to the same predictions.
    """
    from ..compute.potentials import resolve_potential
    from ..compute.potentials.checkpoint import Checkpoint, quiet
    from ..compute.potentials.mace_engine import mace_guard

    resolve_potential(f"file:{path}", trust_pickle=trust_pickle).calculator()  # refuses whatever is no model
    with mace_guard(), quiet():
        import torch

        from ..compute.potentials.checkpoint_models import described

        module = torch.load(path, map_location="cpu", weights_only=False)  # in the precision that it was saved in
        return Checkpoint((described(module),)).dataset({"kind": "checkpoint"})


def _checkpoint(chosen: Chosen) -> Any:
    from ..compute.potentials.checkpoint import Checkpoint

    if chosen.kind.name != "checkpoint":
        raise WrongKind(
            "Only checkpoints become model files.", key=chosen.key, expected="kind checkpoint", found=chosen.kind.name
        )
    found = Checkpoint.of(chosen.dataset.load(), chosen.key)
    if len(found.models) > 1 or found.baseline is not None:
        raise InvalidConfig(
            "Such a file holds a single model.",
            key=chosen.key,
            expected="a checkpoint of one model",
            found=f"{len(found.models)} models" if found.baseline is None else "a correction to a baseline",
            hint="export the members of an ensemble one by one (ROOT/member_1/best ...)",
        )
    return found


def _module(chosen: Chosen) -> Any:
    from ..compute.potentials.checkpoint import quiet
    from ..compute.potentials.mace_engine import mace_guard

    model = _checkpoint(chosen).models[0]
    with mace_guard(), quiet():
        from ..compute.potentials.checkpoint_models import rebuilt

        return rebuilt(model, chosen.key)
