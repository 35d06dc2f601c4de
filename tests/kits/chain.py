"""A real chain from a crystal to labels and a training set: nitrogen on springs, which costs next to nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

import h5ml
from h5ml.schemas.kinds import SELECTION
from h5ml.store.catalogue import Entry
from h5ml.store.store import Store

from .dynamics import BONDS, nitrogen, structures

COLD, HOT = (f"md/trajectories/crystal[dyn:T={t:.2f}]" for t in (100, 200))
PAIRS = "md/finite_subsystems/n=2/crystal[dyn:T=100.00]"
PICKED = (9, 4, 6)
"""Frames of the hot trajectory that the selection names, in its order."""
SPRINGS: dict[str, Any] = {"engine": "potential", "model": BONDS}
DYNAMICS: dict[str, Any] = {
    "crystal": "crystals/n2",
    "model": BONDS,
    "supercell_matrix": [3, 3, 3],
    "temperature_K": [100.0, 200.0],
    "time_total_fs": 100.0,
    "sampling_interval_fs": 10.0,
    "time_equilibration_fs": 30.0,
    "time_step_fs": 1.0,
    "ensemble": "NVT",
    "finite_subsystem_filter": {"n_molecules": [2]},
    "seed": 1,
}


def make_chain(store: Store) -> None:
    """Dynamics with clusters, a selection, clusters of the selection, three keys of labels, and a training set.

    ``labels/pairs``: clusters that the dynamics cut. ``labels/both``: clusters of the selected frames, and the same
    pairs again, which are taken over. ``labels/whole``: the selected frames as they are. ``sets/all`` is of all three,
    ``sets/whole`` of the last.
    """
    store.write("crystals/n2", structures(nitrogen()), "structures")
    h5ml.run(store, "md", root_key="md", **DYNAMICS)
    store.write("picked", selection(store.entry(HOT), PICKED), "selection")
    h5ml.run(store, "clusters", root_key="cut", frames="picked", n_molecules=[2])
    cut = "cut/finite_subsystems/n=2"
    h5ml.run(store, "dft", root_key="labels/pairs", frames=[PAIRS], block_frames=3, **SPRINGS)
    h5ml.run(store, "dft", root_key="labels/both", frames=[cut, PAIRS], **SPRINGS)
    h5ml.run(store, "dft", root_key="labels/whole", frames=["picked"], **SPRINGS)
    make_sets(store)


def make_sets(store: Store, **more: Any) -> None:
    """The training sets of the chain; the same again where labels have a newer version."""
    every = [f"labels/{name}/labels" for name in ("pairs", "both", "whole")]
    settings = {"E0s": "average", "leakage_tolerance_A": None, "keep_duplicates": True, "seed": 1, **more}
    blocks = {"split_by": "time_block", "block_frames": 2, "valid_fraction": 0.3, "test_fraction": 0.1}
    h5ml.run(store, "training_set", root_key="sets/all", labels=every, **blocks, **settings)
    h5ml.run(store, "training_set", root_key="sets/whole", labels=every[2:], valid_fraction=0.3, **settings)


def selection(source: Entry, frames: Sequence[int]) -> xr.Dataset:
    """References to frames of one key."""
    return SELECTION.dataset(
        {
            "source": np.zeros(len(frames)),
            "source_frame": np.array(frames),
            "source_key": np.array([source.reference], dtype=object),
            "source_digest": np.array([source.digest], dtype=object),
        }
    )
