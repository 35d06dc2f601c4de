"""The training pool of the examples, end to end: killed midway, resumed, audited, and the same wherever it runs."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import h5ml
from h5ml.schemas.campaign import load_campaign
from h5ml.schemas.errors import H5mlError

POOL = Path(__file__).parents[2] / "examples" / "urea_training_pool"
H5ML = Path(sys.executable).with_name("h5ml")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def new_folder(path: Path) -> Path:
    path.mkdir()
    for file in POOL.iterdir():
        shutil.copy(file, path)
    return path


def start(folder: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(H5ML), "run", "small.yaml", *more],
        cwd=folder,
        env=ENVIRONMENT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def finish(folder: Path, *more: str) -> str:
    process = start(folder, *more)
    said = process.communicate(timeout=560)[0]
    assert process.returncode == 0, said
    return said


def wait_for(folder: Path, key: str) -> None:
    deadline = time.monotonic() + 300.0
    while time.monotonic() < deadline:
        with contextlib.suppress(H5mlError):  # it is being made
            if key in h5ml.open(folder / "small_pool.h5"):
                return
        time.sleep(0.1)
    raise AssertionError(f"{key} never appeared")


def killed_and_resumed(folder: Path, at: str) -> str:
    process = start(folder)
    wait_for(folder, at)
    process.kill()
    process.communicate()
    said = finish(folder)
    audit = subprocess.run([str(H5ML), "audit", "--store", "small_pool.h5"], cwd=folder, capture_output=True, text=True)
    assert audit.returncode == 0, audit.stdout + audit.stderr
    return said


def test_the_small_pool_killed_midway_and_resumed_ends_whole_and_clean(tmp_path: Path) -> None:
    folder = new_folder(tmp_path / "pool")
    said = killed_and_resumed(folder, "training/quasi_harmonic/structures/crystal[opt:atoms,shape]/path")
    assert "training/md_sampling: up to date" in said
    store = h5ml.open(folder / "small_pool.h5")
    frames = store.entry("training/md_sampling/trajectory").sizes["frame"]
    production = int((store["training/md_sampling/trajectory"]["equilibration"].to_numpy() == 0).sum())
    assert frames == 11
    for molecules in (1, 2):
        cut = store[f"training/md_sampling/finite_subsystems/n={molecules}"]
        assert cut.sizes["frame"] == production
        assert (cut["n_atoms"].to_numpy() == 8 * molecules).all()
        assert store.entry(f"training/phonon_sampling/finite_subsystems/n={molecules}").sizes["frame"] == 6
    assert "training/quasi_harmonic/phonons/crystal[opt:atoms,shape]/force_constants" in store
    selection = store["training/pool/selection"]
    assert selection.sizes["record"] == 8
    assert {str(key) for key in selection["source_key"].to_numpy()} == {
        "training/md_sampling/finite_subsystems/n=2@1",
        "training/phonon_sampling/finite_subsystems/n=2@1",
    }
    assert "0 of 6 steps made" in finish(folder)


@pytest.mark.long
@pytest.mark.parametrize("more", [(), ("--scheduler", "local:2")], ids=["in process", "two workers"])
def test_the_small_pool_is_the_same_wherever_it_runs_and_however_often_it_is_killed(
    tmp_path: Path, more: tuple[str, ...]
) -> None:
    plain, other = new_folder(tmp_path / "plain"), new_folder(tmp_path / "other")
    finish(plain)
    if not more:
        killed_and_resumed(other, "training/md_sampling/trajectory")
    finish(other, *more)
    digests = [
        {entry.key: entry.digest for entry in h5ml.open(folder / "small_pool.h5").entries()}
        for folder in (plain, other)
    ]
    assert digests[0] == digests[1]


def test_the_full_pool_has_the_reference_documents_parameters() -> None:
    steps = load_campaign(POOL / "h5ml.yaml").steps
    md, sampling = steps["training/md_sampling"].options, steps["training/phonon_sampling"].options  # type: ignore[union-attr]
    assert (md["time_total_fs"], md["time_equilibration_fs"], md["sampling_interval_fs"]) == (10000.0, 1000.0, 1000.0)
    assert (md["supercell_radius"], md["pressure_GPa"], md["temperature_K"]) == (10.0, 1e-4, 298.15)
    wanted = {"selection_rule": "closest_to_central_molecule", "n_molecules": [1, 2, 3, 4, 5, 6, 7, 8]}
    assert md["finite_subsystem_filter"] == sampling["finite_subsystem_filter"] == wanted
    assert sampling["phonon_filter"] == {"k_point_mesh": "gamma", "freq_min_THz": 0.1, "freq_max_THz": 8.0}
    assert (sampling["time_step_fs"], sampling["n_frames"]) == (100.0, 20)
    assert sampling["force_constants"] == "training/quasi_harmonic/phonons/crystal[opt:atoms,shape]/force_constants"


@pytest.mark.parametrize("name", ["h5ml.yaml", "small.yaml"])
def test_the_plan_of_the_pool_can_be_made_without_computing(tmp_path: Path, name: str) -> None:
    if name == "h5ml.yaml":
        text = (POOL / name).read_text().replace("mace-off:medium", "tblite:GFN1-xTB")  # a model that needs no network
    else:
        text = (POOL / name).read_text()
    folder = new_folder(tmp_path / "pool")
    (folder / name).write_text(text)
    done = subprocess.run(
        [str(H5ML), "run", name, "--dry-run"], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "training/phonon_sampling" in done.stdout + done.stderr
