"""Training of MACE models: equal to mace-torch's own, resumed to the same bits, honest about bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from ase.io import read, write

from h5ml.compute.module import Context
from h5ml.compute.potentials.checkpoint import Checkpoint, potential_of, stored_potential
from h5ml.compute.potentials.mace_engine import mace_guard
from h5ml.compute.training import MODULE
from h5ml.compute.training_config import Training
from h5ml.schemas.errors import ComputeFailed, InvalidConfig, InvalidData
from h5ml.tests.kits.runner import FakeRunner
from h5ml.tests.kits.training import TINY, labelled, rattled_copper, rattled_water

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def water() -> xr.Dataset:
    return labelled(rattled_water(12), "tblite:GFN1-xTB")


@pytest.fixture(scope="module")
def broad() -> xr.Dataset:
    """Frames of more elements, for a foundation model."""
    frames = rattled_water(5, seed=2) + rattled_water(5, seed=3, name="CH3OH") + rattled_water(4, seed=4)
    return labelled(frames, "tblite:GFN1-xTB")


@pytest.fixture(scope="module")
def foundation(broad: xr.Dataset) -> Any:
    made = FakeRunner(MODULE, {**TINY, "max_num_epochs": 2}, {"training_set": broad}, seed=3).run()
    return stored_potential(made.outputs["last"], "models/foundation@1", "abc")


def train(settings: dict[str, Any], seed: int = 5, **inputs: Any) -> Any:
    return FakeRunner(MODULE, {**TINY, **settings}, inputs, seed=seed).run()


def model_of(result: Any, output: str = "best") -> Any:
    return Checkpoint.of(result.outputs[output]).models[0]


def test_it_equals_mace_run_train_bit_for_bit(water: xr.Dataset, tmp_path: Path) -> None:
    settings = {"max_num_epochs": 5, "ema": True, "swa": True, "start_swa": 3, "scheduler_patience": 0, "lr": 0.02}
    dataset = through_files(water, tmp_path)
    rows = run_train(dataset, tmp_path, {**TINY, **settings})
    made = train(settings, training_set=dataset)
    metrics = made.outputs["metrics"]
    # the same sums in the same order by the same library: no bound but equality, as long as both have one thread
    assert metrics["valid_loss"].values.tolist() == [row["loss"] for row in rows]
    assert metrics["rmse_f"].values.tolist() == [row["rmse_f"] for row in rows]
    assert metrics["valid_loss"].values[3] < 0.9 * metrics["valid_loss"].values[0], "it learns"
    theirs = json.loads((tmp_path / "weights.json").read_text())
    for output, name in (("best", "run_stagetwo.model"), ("stage_one", "run.model")):
        mine = {key: array.ravel().tolist() for key, array in model_of(made, output).tensors.items()}
        assert mine == theirs[name]


def through_files(dataset: xr.Dataset, folder: Path) -> xr.Dataset:
    """The frames as extxyz files, and the dataset with the digits that these have."""
    from h5ml.compute.structure.frames import iterate_atoms

    frames, ends = list(iterate_atoms(dataset)), np.concatenate([[0], np.cumsum(dataset["n_atoms"])])
    for index, atoms in enumerate(frames):
        atoms.info["REF_energy"] = float(dataset["energy"][index])
        atoms.arrays["REF_forces"] = dataset["forces"].values[ends[index] : ends[index + 1]]
    back = []
    for name, code in (("train", 0), ("valid", 1)):
        chosen = [atoms for atoms, split in zip(frames, dataset["split"].values, strict=True) if split == code]
        write(folder / f"{name}.xyz", chosen, format="extxyz")
        back += read(folder / f"{name}.xyz", ":")
    rounded = dataset.copy(deep=True)
    rounded["positions"].values[:] = np.concatenate([atoms.positions for atoms in back])
    rounded["energy"].values[:] = [atoms.info["REF_energy"] for atoms in back]
    rounded["forces"].values[:] = np.concatenate([atoms.arrays["REF_forces"] for atoms in back])
    return rounded


def run_train(dataset: xr.Dataset, folder: Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """The validation rows of mace-torch's command, in a process of its own; its weights in ``weights.json``."""
    energies = {int(z): e for z, e in json.loads(dataset.attrs["isolated_atom_energies_eV"]).items()}
    options = ["--name=run", "--seed=5", f"--work_dir={folder}", f"--E0s={energies}", "--model=MACE", "--plot=False"]
    options += [f"--train_file={folder}/train.xyz", f"--valid_file={folder}/valid.xyz"]
    options += [f"--{name}" if value is True else f"--{name}={value}" for name, value in settings.items()]
    code = (
        "import json, sys, torch; from pathlib import Path; torch.set_num_threads(1)\n"
        "from mace.cli.run_train import main; main()\n"
        f"found = {{p.name: torch.load(p) for p in Path('{folder}').glob('run*.model')}}\n"
        "flat = {n: {k: v.ravel().tolist() for k, v in m.state_dict().items()} for n, m in found.items()}\n"
        f"open('{folder}/weights.json', 'w').write(json.dumps(flat))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in (folder / "results" / "run_run-5_train.txt").read_text().splitlines()]
    return [row for row in rows if row["mode"] == "eval" and row["head"] == "Default"]


KINDS: dict[str, dict[str, Any]] = {
    "naive": {"ema": True},
    "frozen layers": {"freeze": 5},
    "low-rank additions": {"lora": True, "lora_rank": 2},
    "replay": {"weight_pt_head": 0.5},
}


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_fine_tuning_equals_mace_run_train_bit_for_bit(
    kind: str, water: xr.Dataset, broad: xr.Dataset, foundation: Any, tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch")
    settings = {**TINY, **KINDS[kind], "max_num_epochs": 3}
    torch.save(foundation.module().module, tmp_path / "start.pt")
    dataset, inputs = through_files(water, tmp_path), {"foundation": foundation}
    theirs = {**settings, "foundation_model": tmp_path / "start.pt", "multiheads_finetuning": "False"}
    if "lora" in settings:
        theirs["lora"] = "True"  # not a mere switch there
    if kind == "replay":
        (tmp_path / "pt").mkdir()
        inputs["replay"] = through_files(broad, tmp_path / "pt")
        theirs |= {"multiheads_finetuning": "True", "pt_train_file": tmp_path / "pt/train.xyz"}
        theirs |= {"pt_valid_file": tmp_path / "pt/valid.xyz"}
    rows = run_train(dataset, tmp_path, theirs)
    made = train(settings, training_set=dataset, **inputs)
    assert made.outputs["metrics"]["valid_loss"].values.tolist() == [row["loss"] for row in rows]
    assert made.outputs["metrics"]["rmse_f"].values.tolist() == [row["rmse_f"] for row in rows]
    weights = json.loads((tmp_path / "weights.json").read_text())["run.model"]
    assert {key: array.ravel().tolist() for key, array in model_of(made).tensors.items()} == weights


STORIES: dict[str, dict[str, Any]] = {
    "stage two, plateau, average": {
        "max_num_epochs": 4, "swa": True, "start_swa": 2, "ema": True, "scheduler_patience": 0, "optimizer": "adamw",
    },
    "fine-tuning": {"foundation": True, "scheduler": "ExponentialLR"},
    "replay": {"foundation": True, "replay": True},
}  # fmt: skip


@pytest.mark.parametrize(
    "story", [pytest.param(name, marks=[pytest.mark.long] if name == "replay" else []) for name in STORIES]
)
def test_a_training_that_was_cut_ends_with_the_same_bits(
    story: str, water: xr.Dataset, broad: xr.Dataset, foundation: Any
) -> None:
    settings = dict(STORIES[story])
    inputs = {"training_set": water}
    inputs |= {"foundation": foundation} if settings.pop("foundation", None) else {}
    inputs |= {"replay": broad} if settings.pop("replay", None) else {}
    whole = FakeRunner(MODULE, {**TINY, **settings}, inputs, seed=5).run()
    cut = FakeRunner(MODULE, {**TINY, **settings}, inputs, seed=5)
    cut.run(blocks=2)
    again = cut.run()
    assert again.done
    assert {name: again.digest(name) for name in again.outputs} == {name: whole.digest(name) for name in whole.outputs}
    assert again.restart is not None
    assert again.restart.identical(whole.restart)


@pytest.mark.long
def test_a_foundation_model_is_the_start_and_keeps_what_is_frozen(water: xr.Dataset, foundation: Any) -> None:
    before = {name: value.numpy() for name, value in foundation.module().module.state_dict().items()}
    made = train({"freeze": 6, "max_num_epochs": 1}, training_set=water, foundation=foundation)
    after = model_of(made, "last").tensors
    assert sorted(model_of(made).description["arguments"]["atomic_numbers"]) == [1, 8]
    for name in ("interactions.1.conv_tp_weights.layer0.weight", "products.1.linear.weight"):
        assert np.array_equal(after[name], before[name]), name
    assert not np.array_equal(after["readouts.1.linear_2.weight"], before["readouts.1.linear_2.weight"])
    kept = train(
        {"foundation_model_elements": True, "E0s": "foundation", "max_num_epochs": 1, "freeze": 7},
        training_set=water,
        foundation=foundation,
    )
    assert sorted(model_of(kept).description["arguments"]["atomic_numbers"]) == [1, 6, 8]
    assert np.array_equal(model_of(kept).tensors["products.1.linear.weight"], before["products.1.linear.weight"])


@pytest.mark.long
def test_low_rank_additions_are_merged_into_an_ordinary_model(water: xr.Dataset, foundation: Any) -> None:
    made = train({"lora": True, "lora_rank": 2}, training_set=water, foundation=foundation)
    before = set(foundation.module().module.state_dict())
    assert set(model_of(made, "last").tensors) == before
    loss = made.outputs["metrics"]["valid_loss"].values
    assert loss[-1] < loss[0]


@pytest.mark.long
def test_replay_trains_a_head_of_its_own_and_predicts_with_the_other(
    water: xr.Dataset, broad: xr.Dataset, foundation: Any
) -> None:
    made = train(
        {"max_num_epochs": 1, "pseudolabel_replay": True}, training_set=water, foundation=foundation, replay=broad
    )
    told = model_of(made).description
    assert told["arguments"]["heads"] == ["pt_head", "Default"]
    assert told["head"] == "Default"
    metrics = made.outputs["metrics"]
    # frames labelled with the foundation model itself are known to it before any training
    assert metrics["rmse_f_pt_head"].values[0] < 0.05 * metrics["rmse_f"].values[0]
    assert metrics["lr"].values[-1] == 1e-4
    stored_potential(made.outputs["best"], "m@1", "abc").calculator()


def test_stress_is_learned_and_reported() -> None:
    copper = labelled(rattled_copper(8), "ase:emt", stress=True)
    made = train({"loss": "stress", "r_max": 3.5, "max_num_epochs": 2}, training_set=copper)
    stress = made.outputs["metrics"]["rmse_stress"]
    assert stress.attrs["units"] == "eV/Angstrom^3"
    # before training the model knows next to nothing, so its error is that of the labels' size
    assert stress.values[0] == pytest.approx(np.sqrt((full(copper["stress"].values[-4:]) ** 2).mean()), rel=0.5)


def full(voigt: Any) -> Any:
    from ase.stress import voigt_6_to_full_3x3_stress

    return np.array([voigt_6_to_full_3x3_stress(one) for one in voigt])


@pytest.mark.long
def test_dipoles_are_learned_by_their_model(water: xr.Dataset) -> None:
    dipoles = np.random.default_rng(0).normal(size=(water.sizes["frame"], 3))
    dataset = water.assign(dipole=(("frame", "xyz"), dipoles, {"units": "e*Angstrom"}))
    settings = {"model": "EnergyDipolesMACE", "loss": "energy_forces_dipole", "MLP_irreps": "4x0e+4x1o"}
    made = train({**settings, "max_num_epochs": 1}, training_set=dataset)
    assert made.outputs["metrics"]["rmse_mu"].attrs["units"] == "e*Angstrom"
    assert model_of(made).description["class"] == "EnergyDipolesMACE"


@pytest.mark.long
def test_patience_ends_a_training_and_an_extension_of_it(water: xr.Dataset) -> None:
    settings = {**TINY, "lr": 10.0, "patience": 2, "max_num_epochs": 30, "clip_grad": None}
    runner = FakeRunner(MODULE, settings, {"training_set": water}, seed=5)
    made = runner.run()
    epochs = made.outputs["metrics"]["epoch"].values
    assert len(epochs) < 20
    assert made.outputs["metrics"]["valid_loss"].values[1:].argmin() == len(epochs) - 4
    runner.config = Training.parse({**settings, "max_num_epochs": 40})
    runner.run()
    assert runner.result.outputs["metrics"].sizes["record"] == len(epochs)


@pytest.mark.long
def test_frames_without_a_label_have_no_part_in_its_loss(water: xr.Dataset) -> None:
    changed = water.copy(deep=True)
    changed["energy"].values[0] = np.nan
    made = train({"max_num_epochs": 1}, training_set=changed)
    assert np.isfinite(made.outputs["metrics"]["train_loss"].values[1:]).all()


@pytest.mark.long
def test_a_loss_that_is_no_number_ends_the_training_with_a_reason(water: xr.Dataset) -> None:
    broken = water.copy(deep=True)
    broken["energy"].values[0] = 1e308
    with pytest.raises(ComputeFailed, match="no number any more"):
        train({"max_num_epochs": 2, "batch_size": 8, "forces_weight": 0.0}, training_set=broken)


def test_bad_input_is_refused_by_name(water: xr.Dataset, broad: xr.Dataset, foundation: Any) -> None:
    bare = water.drop_attrs(deep=False)
    with pytest.raises(InvalidData, match="isolated atoms are not known") as caught:
        train({}, training_set=bare)
    assert "H, O" in str(caught.value)
    assert train({"E0s": "average", "max_num_epochs": 1}, training_set=bare).done
    with pytest.raises(InvalidData, match="no frames of the split valid"):
        train({}, training_set=labelled(rattled_water(4), "ase:lj", valid=0))
    with pytest.raises(InvalidConfig, match="larger than the training set"):
        train({"batch_size": 9}, training_set=water)
    with pytest.raises(InvalidData, match="does not know an element"):
        small = train({"max_num_epochs": 1}, training_set=water)
        train({}, training_set=broad, foundation=stored_potential(small.outputs["last"], "m@1", "abc"))
    with pytest.raises(InvalidConfig, match="needs a foundation model"):
        train({}, training_set=water, replay=broad)
    with pytest.raises(InvalidConfig, match="frozen or tuned"):
        train({"lora": True}, training_set=water)
    for settings, reason in (
        ({"loss": "energy_forces_dipole"}, "go together"),
        ({"MLP_irreps": "16"}, "MLP_irreps is not valid"),
        ({"model": "ScaleShiftMACE", "scaling": "no_scaling"}, "needs a scaling"),
        ({"start_swa": 5}, "needs swa"),
    ):
        with pytest.raises(InvalidConfig, match=reason):
            Training.parse(settings)


def test_a_gpu_that_is_not_there_is_told_of(
    water: xr.Dataset, foundation: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    context = Context(device="cuda")
    with pytest.raises(InvalidConfig, match="no GPU") as caught:
        next(MODULE.function(Training.parse(TINY), {"training_set": water}, context))
    assert "--device" in str(caught.value)
    stored = potential_of(foundation.build.checkpoint, "m@1", "abc", device="cuda")
    with pytest.raises(InvalidConfig, match="no GPU"):
        stored.calculator()


def test_a_default_start_of_stage_two_makes_a_longer_training_another_one() -> None:
    short, long = (Training.parse({"swa": True, "max_num_epochs": epochs}) for epochs in (40, 80))
    assert (short.start_swa, long.start_swa) == (30, 60)
    assert Training.parse({"swa": True, "start_swa": 30, "max_num_epochs": 80}).start_swa == 30


def test_torch_is_left_as_it_was(water: xr.Dataset) -> None:
    with mace_guard():
        import torch
    before = torch.get_default_dtype(), torch.random.get_rng_state().clone()
    train({"max_num_epochs": 1}, training_set=water)
    assert torch.get_default_dtype() == before[0]
    assert torch.equal(torch.random.get_rng_state(), before[1])
