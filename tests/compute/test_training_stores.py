"""Training in stores: the same bits on each engine, and through any kill."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import h5ml
from h5ml.store.audit import audit
from h5ml.store.opening import open_store
from h5ml.tests.kits.training import TINY, labelled, rattled_water, write_training_set

pytestmark = pytest.mark.filterwarnings("ignore")


def test_two_engines_give_the_same_training_to_the_last_bit(tmp_path: Path) -> None:
    water = labelled(rattled_water(8), "tblite:GFN1-xTB")
    digests = []
    for name in ("s.h5", "s.icechunk"):
        with open_store(tmp_path / name, make=True) as store:
            write_training_set(store, "water", water)
            settings = {**TINY, "max_num_epochs": 2, "ema": True}
            h5ml.run(store, "training", root_key="m", training_set="sets/water", config=settings, seed=5)
            digests.append({output: store.entry(f"m/{output}").digest for output in ("metrics", "best", "last")})
    assert digests[0] == digests[1]


# --- kills ---------------------------------------------------------------------------------------------------------

EPOCHS = 24
STORIES: dict[str, dict[str, Any]] = {
    "stage two, plateau, average": {"swa": True, "start_swa": 12, "ema": True, "scheduler_patience": 0, "lr": 0.05},
    "naive fine-tuning": {"foundation": "models/foundation/best"},
    "low-rank additions": {"foundation": "models/foundation/best", "lora": True, "lora_rank": 2},
    "frozen layers": {"foundation": "models/foundation/best", "freeze": 5},
    "replay": {"foundation": "models/foundation/best", "replay": "sets/broad", "force_mh_ft_lr": True},
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two training sets and a foundation model."""
    path = tmp_path_factory.mktemp("kills") / "prepared.h5"
    broad = rattled_water(5, seed=2) + rattled_water(5, seed=3, name="CH3OH") + rattled_water(4, seed=4)
    with h5ml.open(path, make=True) as store:
        write_training_set(store, "water", labelled(rattled_water(12), "tblite:GFN1-xTB"))
        write_training_set(store, "broad", labelled(broad, "tblite:GFN1-xTB"))
        settings = {**TINY, "max_num_epochs": 2}
        h5ml.run(store, "training", root_key="models/foundation", training_set="sets/broad", config=settings, seed=3)
    return path


def begin(store: Path, settings: dict[str, Any]) -> subprocess.Popen[str]:
    """``h5ml compute training`` in a process of its own, on one thread."""
    options = {**TINY, "max_num_epochs": EPOCHS, **settings}
    words = ["--root-key", "m", "--training-set", "sets/water", "--seed", "5", "-q"]
    for name, value in options.items():
        text = f"--{name.replace('_', '-')}"
        words += [text] if value is True else [text, str(value)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "H5ML_STORE": str(store)}
    command = [sys.executable, "-m", "h5ml.cli.main", "compute", "training", *words]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finished(process: subprocess.Popen[str]) -> None:
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors


def written(store: Path) -> list[tuple[str, int, int]]:
    """What changes whenever the store is written to."""
    found = []
    for path in sorted(store.parent.glob(f"{store.name}*")):
        told = path.stat()
        found.append((path.name, told.st_size, told.st_mtime_ns))
    return found


def kill_at_random(store: Path, settings: dict[str, Any], rng: random.Random) -> bool:
    """Kill a training somewhere between its first write and its end; whether it was still alive."""
    before = written(store)
    process = begin(store, settings)
    deadline = time.monotonic() + 120
    while process.poll() is None and written(store) == before:
        assert time.monotonic() < deadline, "the training does not begin"
        time.sleep(0.002)
    time.sleep(rng.random() * 0.8)
    alive = process.poll() is None
    if alive:
        process.send_signal(signal.SIGKILL)
    process.communicate()
    return alive


def outputs(store: Path) -> dict[str, str]:
    with h5ml.open(store) as opened:
        names = [key.removeprefix("m/") for key in ("m/metrics", "m/best", "m/stage_one", "m/last") if key in opened]
        assert opened["m/metrics"].sizes["record"] == EPOCHS + 1
        return {name: opened.entry(f"m/{name}").digest for name in names}


@pytest.mark.long
@pytest.mark.parametrize("story", STORIES)
def test_killed_trainings_end_with_the_bits_of_an_undisturbed_one(story: str, prepared: Path, tmp_path: Path) -> None:
    settings, rng = STORIES[story], random.Random(story)
    whole, killed = (Path(shutil.copy(prepared, tmp_path / name)) for name in ("whole.h5", "killed.h5"))
    finished(begin(whole, settings))
    hits = sum(kill_at_random(killed, settings, rng) for _ in range(5 if "swa" in settings else 2))
    assert hits, "at least one kill came in time"
    finished(begin(killed, settings))
    assert outputs(killed) == outputs(whole)
    with h5ml.open(killed) as store:
        assert audit(store).ok
