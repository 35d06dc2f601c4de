"""A MACE model of a few random weights: real in every respect but its usefulness."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

_UNSAFE = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


def save_tiny_mace(path: Path, *, numbers: tuple[int, ...] = (1, 6, 7, 8), irreps: str = "4x0e+4x1o") -> Path:
    """Save a MACE model of two layers as mace-torch does.

    Parameters
    ----------
    path : Path
        Where.
    numbers : tuple of int
        Atomic numbers that it knows.
    irreps : str
        Node features of its first layer.
    """
    before = os.environ.get(_UNSAFE)
    import mace.calculators  # noqa: F401 - e3nn can only be imported after it
    import torch
    from e3nn import o3
    from mace.modules import ScaleShiftMACE, interaction_classes

    torch.manual_seed(0)
    block = interaction_classes["RealAgnosticResidualInteractionBlock"]
    model = ScaleShiftMACE(
        r_max=3.0,
        num_bessel=4,
        num_polynomial_cutoff=5,
        max_ell=1,
        interaction_cls=block,
        interaction_cls_first=block,
        num_interactions=2,
        num_elements=len(numbers),
        hidden_irreps=o3.Irreps(irreps),
        MLP_irreps=o3.Irreps("4x0e"),
        gate=torch.nn.functional.silu,
        atomic_energies=-np.arange(1.0, len(numbers) + 1.0),
        avg_num_neighbors=3.0,
        atomic_numbers=list(numbers),
        correlation=1,
        radial_type="bessel",
        atomic_inter_scale=1.0,
        atomic_inter_shift=0.0,
    )
    torch.save(model, path)
    if before is None:
        os.environ.pop(_UNSAFE, None)
    return path
