"""Checkpoints in a store against files of ``torch.save``."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import mace.calculators  # noqa: F401 - e3nn can only be imported after it
import numpy as np
import torch
from e3nn import o3
from mace import modules

import h5ml
from h5ml.compute.potentials.checkpoint import Checkpoint, quiet
from h5ml.compute.potentials.checkpoint_models import _prototype, default_dtype, described, rebuilt
from h5ml.store.store import Store

from .measure import folder, side_by_side, table


def main() -> None:
    """Print both tables."""
    torch.set_num_threads(1)
    with quiet():
        module = model()
    size = sum(tensor.nbytes for tensor in module.state_dict().values()) / 1e6
    with folder() as here, h5ml.open(here / "s.h5", make=True) as store:
        save(module, store, here, size)
        load(store, here / "file.model", size)


def model() -> Any:
    """A MACE model of 64 channels."""
    block = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
    with default_dtype("float64"):
        return modules.ScaleShiftMACE(
            r_max=5.0,
            num_bessel=8,
            num_polynomial_cutoff=5,
            max_ell=3,
            interaction_cls=block,
            interaction_cls_first=block,
            num_interactions=2,
            num_elements=4,
            hidden_irreps=o3.Irreps("64x0e+64x1o"),
            MLP_irreps=o3.Irreps("16x0e"),
            gate=torch.nn.functional.silu,
            atomic_energies=np.arange(4.0),
            avg_num_neighbors=30.0,
            atomic_numbers=[1, 6, 7, 8],
            correlation=3,
            atomic_inter_scale=1.0,
            atomic_inter_shift=0.0,
        )


def save(module: Any, store: Store, here: Path, size: float) -> None:
    """Write the model: to a key of its own, with its record and its digest, and to a file."""
    numbers = itertools.count()

    def to_store() -> None:
        dataset = Checkpoint((described(module, built_in="float64"),)).dataset()
        store.write(f"models/{next(numbers)}", dataset, "checkpoint")

    cases = [("torch.save", lambda: torch.save(module, here / "file.model")), ("h5ml, a key", to_store)]
    table(f"A model of {size:.1f} MB is saved", side_by_side(cases))


def load(store: Store, path: Path, size: float) -> None:
    """Read the model back, ready to predict."""

    def from_store() -> Any:
        stored = Checkpoint.of(store["models/0"].load()).models[0]
        with quiet():
            return rebuilt(stored, "models/0")

    def first() -> Any:
        _prototype.cache_clear()
        return from_store()

    cases = [
        ("torch.load, a pickle", lambda: torch.load(path, weights_only=False)),
        ("h5ml, the tensors", lambda: store["models/0"].load()),
        ("h5ml, first of its settings in a process", first),
        ("h5ml, later ones", from_store),
    ]
    table(f"A model of {size:.1f} MB is loaded", side_by_side(cases))
