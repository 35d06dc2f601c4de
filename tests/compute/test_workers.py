"""Worker processes: the threads that their libraries use, and the bits of what they evaluate."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import xarray as xr
from ase.build import bulk

import h5ml
from h5ml.compute.campaign import run_campaign
from h5ml.compute.lattice.force_constants import dataset_of
from h5ml.compute.registry import Registry
from h5ml.compute.scheduler import Dask
from h5ml.compute.staging import staging_folder
from h5ml.compute.structure.frames import structures_dataset
from h5ml.schemas.campaign import parse_campaign
from h5ml.store.store import Store
from h5ml.tests.kits.crystals import crystal
from h5ml.tests.kits.lattice import copper_gold
from h5ml.tests.kits.threads import IN_ITEM, IN_RUN

THREADS = """store: s.h5
steps:
  first: {compute: threads_of_run, resources: {threads: 2}, seed: 1}
  after: {compute: threads_of_run, seed: 2}
  again: {compute: threads_of_run, resources: {threads: 3}, seed: 3}
  items: {compute: threads_of_item, resources: {threads: 2}}
"""
EVALUATED = """store: s.h5
steps:
  sampled: {compute: phonon_sampling, force_constants: alloy, model: "ase:emt", n_frames: 7, temperature_K: 900}
  cut: {compute: clusters, frames: ice, model: "ase:lj?sigma=2.8&rc=9.0", n_molecules: [1, 2], block_frames: 2}
  seen: {compute: features, frames: metal, model: "ase:emt", descriptor: soap, n_max: 2, l_max: 1, evaluate: true}
"""


@pytest.fixture(scope="module")
def worker() -> Iterator[Dask]:
    with Dask("local:1") as scheduler:
        yield scheduler


def no_reader(path: Path, step: Any) -> xr.Dataset:
    raise AssertionError("nothing is imported here")


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
def test_all_libraries_keep_to_the_threads_of_a_step_and_the_next_step_has_its_own(
    hdf5_store: Store, worker: Dask
) -> None:
    registry = Registry([IN_RUN, IN_ITEM], points=())
    run_campaign(hdf5_store, parse_campaign(THREADS), no_reader, registry=registry, scheduler=worker)
    fresh = min(2, len(os.sched_getaffinity(0)))  # the first step loads them, and then they take no more than there are
    for key, threads in (("first", fresh), ("after", 1), ("again", 3), ("items", 2)):
        found = {str(name): int(column[0]) for name, column in hdf5_store[f"{key}/threads"].load().items()}
        assert any(name.startswith("blas") for name in found)
        assert set(found.values()) == {threads}, (key, found)


def test_what_a_worker_evaluates_has_the_bits_of_this_process_and_leaves_nothing_behind(
    tmp_path: Path, worker: Dask, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[int] = []
    original = Dask.map

    def counted(self: Dask, function: Any, items: Any, *rest: Any) -> Any:
        sent.append(len(items))
        return original(self, function, items, *rest)

    monkeypatch.setattr(Dask, "map", counted)
    digests = []
    for name, scheduler in (("here.h5", None), ("there.h5", worker)):
        store = h5ml.open(tmp_path / name, make=True)
        store.write("alloy", dataset_of(copper_gold()), "force_constants")
        frames = [crystal("CO2").repeat(2) for _ in range(3)]
        for seed, frame in enumerate(frames):
            frame.rattle(0.05, seed=seed)
        store.write("ice", structures_dataset(frames), "structures")
        store.write("metal", structures_dataset([bulk("Cu", a=a) for a in (3.5, 3.6, 3.7)]), "structures")
        run_campaign(store, parse_campaign(EVALUATED), no_reader, scheduler=scheduler)
        digests.append({entry.key: entry.digest for entry in store.entries()})
        assert not store.catalogue.stashes
        assert not staging_folder(store).exists()
    assert digests[0] == digests[1]
    assert sorted(sent) == [2, 3, 4, 7]  # clusters of one and of two frames, copper, and sampled frames
