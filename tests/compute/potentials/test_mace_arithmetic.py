"""MACE models give the same bits whatever their process computed before."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_PROGRAM = """
import pickle, sys
from hashlib import sha256
from pathlib import Path
import mace.calculators, torch
from e3nn.o3 import spherical_harmonics
torch.set_num_threads(1)

def others():
    # TorchScript learns from its first calls; those without gradients are the worst teachers for forces
    for _ in range(3):
        spherical_harmonics([0, 1, 2], torch.rand(5, 3), normalize=True)

def train():
    from h5ml.compute.training import MODULE
    frames = labelled(rattled_copper(8), "ase:emt")
    made = FakeRunner(MODULE, {**TINY, "r_max": 3.5, "max_num_epochs": 1}, {"training_set": frames}, seed=5).run()
    print("weights", made.digest("last"))
    print("metrics", made.digest("metrics"))
    return made.outputs["last"]

def use(checkpoint):
    from h5ml.compute.md import MODULE
    model, crystals = stored_potential(checkpoint, "m@1", "abc"), rattled_copper(6, seed=9)
    alone = [model.module().evaluate([one], stresses=True) for one in crystals]
    for name, found in {"alone": alone, "batch": [model.module().evaluate(crystals, stresses=True)]}.items():
        parts = (array.tobytes() for one in found for array in (one.energies, one.forces, one.stresses))
        print(name, sha256(b"".join(parts)).hexdigest())
    settings = {"time_total_fs": 20.0, "time_equilibration_fs": 0.0, "sampling_interval_fs": 5.0,
                "time_step_fs": 1.0, "supercell_matrix": [1, 1, 1], "temperature_K": 300.0, "ensemble": "NPT"}
    inputs = {"crystal": structures_dataset(crystals[:1]), "model": model}
    print("md", FakeRunner(MODULE, settings, inputs, seed=3).run().digest("trajectory"))

if "used" in sys.argv:
    others()
from h5ml.compute.potentials.checkpoint import stored_potential
from h5ml.compute.structure.frames import structures_dataset
from h5ml.tests.kits.runner import FakeRunner
from h5ml.tests.kits.training import TINY, labelled, rattled_copper

if "used" in sys.argv:
    trained = train()
    Path("model.pickle").write_bytes(pickle.dumps(trained))
    use(trained)
else:
    use(pickle.loads(Path("model.pickle").read_bytes()))
    train()
"""


def told(state: str, folder: Path) -> dict[str, str]:
    """Digests by name, from a process that did other things before or did not."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _PROGRAM, state], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(line.split() for line in done.stdout.splitlines() if len(line.split()) == 2)


def test_a_fresh_process_and_a_used_one_give_the_same_bits(tmp_path: Path) -> None:
    used, fresh = told("used", tmp_path), told("fresh", tmp_path)
    assert set(used) == {"weights", "metrics", "alone", "batch", "md"}
    assert fresh == used
