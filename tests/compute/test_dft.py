"""Labels: each request is computed once, what fails is marked and stops nothing, and kills lose nothing."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator

import h5ml
from h5ml.compute.dft import MODULE
from h5ml.compute.levels.tblite_level import TbliteLevel
from h5ml.compute.potentials import Potential, resolve_potential
from h5ml.compute.potentials.base import facts
from h5ml.compute.replay import replay_run
from h5ml.compute.structure.frames import structures_dataset
from h5ml.schemas.errors import H5mlError, InvalidConfig, InvalidData, MissingPackage
from h5ml.store.store import Store
from h5ml.tests.kits.labelling import LOG, waters
from h5ml.tests.kits.runner import FakeRunner

pytest.importorskip("tblite")

GFN1 = {"engine": "tblite", "method": "GFN1-xTB"}


def labelled(frames: xr.Dataset, settings: dict[str, Any], model: Potential | None = None, **more: Any) -> xr.Dataset:
    """Labels without a store."""
    return FakeRunner(MODULE, settings, {"frames": [frames], "model": model}, **more).run().outputs["labels"]


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The structures that tblite computes in this process."""
    found: list[bytes] = []
    compute = TbliteLevel.compute

    def counted(self: Any, system: Any, *rest: Any) -> Any:
        found.append(system.digest())
        return compute(self, system, *rest)

    monkeypatch.setattr(TbliteLevel, "compute", counted)
    return found


def test_labels_are_those_of_the_engine_and_know_their_frames(hdf5_store: Store) -> None:
    systems = [*waters(3), bulk("Si"), molecule("CH3")]
    hdf5_store.write("pool", structures_dataset(systems), "structures")
    every = ["forces", "stress", "charges"]
    h5ml.run(hdf5_store, MODULE, root_key="a", frames="pool", config={**GFN1, "properties": every, "block_frames": 2})
    found = hdf5_store["a/labels"].load()
    potential, start = resolve_potential("tblite:GFN1-xTB"), 0
    for frame, atoms in enumerate(systems):
        atoms.set_initial_magnetic_moments([1.0, 0.0, 0.0, 0.0] if frame == 4 else [0.0] * len(atoms))
        atoms.calc = potential.fresh()
        assert float(found["energy"][frame]) == atoms.get_potential_energy()
        here = slice(start, start := start + len(atoms))
        np.testing.assert_array_equal(found["forces"][here], atoms.get_forces())
        np.testing.assert_array_equal(found["positions"][here], atoms.positions)
        np.testing.assert_array_equal(found["charges"][here], atoms.get_charges())
        assert np.isfinite(found["stress"][frame]).all() == atoms.pbc.all()
    assert found["spin_multiplicity"].to_numpy().tolist() == [1, 1, 1, 1, 2]
    assert found["source_frame"].to_numpy().tolist() == [0, 1, 2, 3, 4]
    assert found["source_key"].to_numpy().tolist() == ["pool@1"]
    assert found["source_digest"].to_numpy().tolist() == [hdf5_store.entry("pool").digest]


def test_the_same_request_is_computed_once_across_frames_runs_and_keys(store: Store, computed: list[bytes]) -> None:
    a, b, c, d = waters(4)
    store.write("one", structures_dataset([a, b, a]), "structures")
    store.write("two", structures_dataset([c, b, a, d]), "structures")
    h5ml.run(store, MODULE, root_key="first", frames="one", config=GFN1)
    assert len(computed) == 2
    h5ml.run(store, MODULE, root_key="second", frames="two", config={**GFN1, "max_cycles": 99})
    assert len(computed) == 4
    first, second = store["first/labels"].load(), store["second/labels"].load()
    assert second["reused_from"].to_numpy().tolist() == ["", "first/labels@1 frame 1", "first/labels@1 frame 0", ""]
    assert second["energy"].to_numpy()[[1, 2]].tolist() == first["energy"].to_numpy()[[1, 0]].tolist()
    h5ml.run(store, MODULE, root_key="third", frames="two", config={**GFN1, "properties": ["energy", "dipole"]})
    assert len(computed) == 8  # no dipole was known
    h5ml.run(store, MODULE, root_key="fourth", frames="two", config={**GFN1, "conv_tol": 0.1})
    assert len(computed) == 12  # another level of theory
    again = replay_run(store, "second/labels")
    assert again.equal
    assert len(computed) == 16  # a replay computes


def test_labels_can_be_labelled_by_another_level(hdf5_store: Store) -> None:
    hdf5_store.write("pool", structures_dataset(waters(2)), "structures")
    h5ml.run(hdf5_store, MODULE, root_key="low", frames="pool", config=GFN1)
    h5ml.run(hdf5_store, MODULE, root_key="high", frames="low/labels", config={**GFN1, "method": "GFN2-xTB"})
    low, high = hdf5_store["low/labels"].load(), hdf5_store["high/labels"].load()
    np.testing.assert_array_equal(low["positions"], high["positions"])
    assert low.attrs["level_of_theory_id"] != high.attrs["level_of_theory_id"]
    assert not set(low["identity"].to_numpy()) & set(high["identity"].to_numpy())


def test_charge_and_spin_come_from_the_structure_or_the_settings() -> None:
    frames = structures_dataset([molecule("NH3"), molecule("O2")], {"charge": [1.0, 0.0], "spin_multiplicity": [2, 3]})
    said = labelled(frames, GFN1)
    assert said["charge"].to_numpy().tolist() == [1.0, 0.0]
    assert said["spin_multiplicity"].to_numpy().tolist() == [2, 3]
    neutral = labelled(frames, {**GFN1, "charge": 0, "spin_multiplicity": 1})
    # the ionisation energy of ammonia is about 10 eV; GFN1 adds a self-interaction of some eV
    assert 8.0 < float(said["energy"][0] - neutral["energy"][0]) < 20.0
    assert neutral["charge"].to_numpy().tolist() == [0.0, 0.0]
    with pytest.raises(InvalidConfig, match="cannot do this"):
        labelled(frames, {**GFN1, "charge": 1, "spin_multiplicity": 1})


def test_what_fails_is_marked_stops_nothing_and_is_tried_again(hdf5_store: Store, computed: list[bytes]) -> None:
    close = Atoms("H2", [[0, 0, 0], [0, 0, 0.02]])
    hdf5_store.write("pool", structures_dataset([waters(1)[0], close, Atoms("He")]), "structures")
    tight = {**GFN1, "max_cycles": 4, "fallbacks": []}
    h5ml.run(hdf5_store, MODULE, root_key="tight", frames="pool", config=tight)
    found = hdf5_store["tight/labels"].load()
    assert found["status"].to_numpy().tolist() == [2, 4, 0]
    assert found["converged"].to_numpy().tolist() == [0, 1, 1]
    assert np.isnan(found["energy"].to_numpy()).tolist() == [True, False, False]
    assert "not converged in 4 cycles" in found["message"].to_numpy()[0]
    assert "above max_force_eV_A = 100" in found["message"].to_numpy()[1]
    assert len(computed) == 3
    h5ml.run(
        hdf5_store,
        MODULE,
        root_key="helped",
        frames="pool",
        config={**tight, "fallbacks": [{"max_iterations": 5}, {"mixer_damping": 0.3, "max_iterations": 90}]},
    )
    found = hdf5_store["helped/labels"].load()
    assert found["status"].to_numpy().tolist() == [0, 4, 0]
    assert found["attempt"].to_numpy().tolist() == [2, 0, 0]
    assert set(computed[3:]) == {computed[0]}  # what converged before is not computed again
    h5ml.run(hdf5_store, MODULE, root_key="wide", frames="pool", config={**GFN1, "max_force_eV_A": 1e5})
    assert hdf5_store["wide/labels"]["status"].to_numpy().tolist() == [0, 0, 0]


class Odd(Calculator):
    """Fails for one atom, is not finite for two."""

    implemented_properties = ("energy", "forces")

    def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = None) -> None:
        if len(atoms) == 1:
            raise RuntimeError("no such luck")
        self.results = {"energy": np.nan if len(atoms) == 2 else -1.0, "forces": np.zeros((len(atoms), 3))}


def test_a_teacher_that_raises_or_gives_nan_is_marked_as_failed() -> None:
    teacher = Potential("odd", "odd", Odd, facts("odd", "odd", "1"))
    frames = structures_dataset([Atoms("H"), Atoms("H2", [[0, 0, 0], [0, 0, 1]]), molecule("H2O")])
    found = labelled(frames, {"engine": "potential", "properties": ["energy", "forces"]}, teacher)
    assert found["status"].to_numpy().tolist() == [3, 3, 0]
    assert "no such luck" in found["message"].to_numpy()[0]
    assert "energy not finite" in found["message"].to_numpy()[1]
    assert np.isnan(found["energy"].to_numpy()).tolist() == [True, True, False]


def test_what_an_engine_cannot_do_is_refused_before_anything_is_computed(computed: list[bytes]) -> None:
    slab = Atoms("Si", cell=[3, 3, 9], pbc=[True, True, False])
    frames = structures_dataset([*waters(2), slab])
    with pytest.raises(InvalidConfig, match="frame 2") as caught:
        _told(lambda: labelled(frames, GFN1))
    assert "periodic in 2 directions" in str(caught.value)
    for settings, words in (
        ({"fallbacks": [{"electronic_temperature": 1000.0}]}, "change the level of theory"),
        ({"keywords": {"acuracy": 1.0}}, "acuracy"),
        ({"basis": "def2-SVP"}, "basis is a setting of pyscf"),
        ({"engine": "potential", "method": None}, "input model"),
        ({"engine": "ase", "method": "espresso", "command": "no-such-pw.x"}, "not on this machine"),
    ):
        with pytest.raises((InvalidConfig, MissingPackage), match=words):
            _told(lambda s=settings: labelled(structures_dataset(waters(1)), {**GFN1, **s}))
    with pytest.raises(InvalidData, match="no frames"):
        _told(lambda: labelled(structures_dataset([]), GFN1))
    assert not computed


def _told(attempt: Any) -> None:
    """Run, and let the match see the whole text of an error."""
    try:
        attempt()
    except H5mlError as error:
        raise type(error)(str(error)) from None


# --- kills ---------------------------------------------------------------------------------------------------------


def _kill_often(path: Path, frames: int, kills: int, block: int) -> tuple[int, list[str]]:
    """Label in a child that is killed now and then; returns the kills that hit and the lines of the log."""
    with h5ml.open(path, make=True) as store:
        store.write("pool", structures_dataset(waters(frames)), "structures")
    log = path.with_suffix(".log")
    environment = {**os.environ, LOG: str(log), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "h5ml.tests.kits.labelling", str(path), "r", "pool", str(block)]
    rng, hits = random.Random(kills), 0

    def lines() -> list[str]:
        return log.read_text().split("\n")[:-1] if log.exists() else []

    for _ in range(kills):
        until = len(lines()) + rng.randrange(1, max(2, frames // kills))
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 60
        while process.poll() is None and len(lines()) < until:
            assert time.monotonic() < deadline, "the child does not get on"
            time.sleep(0.002)
        time.sleep(rng.random() * 0.03)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            hits += 1
        process.communicate()
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return hits, lines()


@pytest.mark.parametrize(("frames", "kills", "block"), [(12, 2, 8), pytest.param(120, 20, 25, marks=pytest.mark.long)])
def test_a_kill_loses_at_most_the_label_that_was_running(tmp_path: Path, frames: int, kills: int, block: int) -> None:
    hits, lines = _kill_often(tmp_path / "killed.h5", frames, kills, block)
    assert hits == kills
    assert len(set(lines)) == frames
    assert len(lines) <= frames + hits
    with h5ml.open(tmp_path / "straight.h5", make=True) as straight, h5ml.open(tmp_path / "killed.h5") as killed:
        straight.write("pool", structures_dataset(waters(frames)), "structures")
        h5ml.run(straight, MODULE, root_key="r", frames="pool", config={**GFN1, "block_frames": block})
        assert straight.entry("r/labels").digest == killed.entry("r/labels").digest


@pytest.mark.long
def test_two_workers_give_the_same_labels_as_one_process(tmp_path: Path) -> None:
    digests = []
    for scheduler in ("serial", "local:2"):
        with h5ml.open(tmp_path / f"{scheduler[:5]}.h5", make=True) as store:
            store.write("pool", structures_dataset(waters(20)), "structures")
            h5ml.run(
                store, MODULE, root_key="r", frames="pool", config={**GFN1, "block_frames": 7}, scheduler=scheduler
            )
            digests.append(store.entry("r/labels").digest)
    assert digests[0] == digests[1]
