"""The fake runner drives modules without a store, as the real one does."""

from __future__ import annotations

from pathlib import Path

import pytest

import h5ml
from h5ml.tests.kits.runner import FakeRunner
from h5ml.tests.kits.toys import CYCLES, SCALE, SQUARES, TOYS, WALK, observables, toys


def test_blocks_stop_and_resume() -> None:
    straight = FakeRunner(WALK, {"n_records": 22}).run()
    assert straight.done
    assert straight.outputs["series"].sizes["record"] == 22
    runner = FakeRunner(WALK, {"n_records": 22})
    assert not runner.run(blocks=2).done
    assert runner.result.outputs["series"].sizes["record"] == 8
    resumed = runner.resume()
    assert resumed.done
    assert resumed.digest("series") == straight.digest("series")
    assert resumed.digest("best") == straight.digest("best")
    assert straight.reports[-1] == (22, 22, "records")


def test_it_makes_what_the_real_runner_makes(tmp_path: Path) -> None:
    store = h5ml.open(tmp_path / "s.h5", make=True)
    for module in (WALK, SQUARES, CYCLES):
        h5ml.run(store, module, root_key=module.name, registry=toys())
        fake = FakeRunner(module, modules=TOYS).run()
        for name, made in fake.outputs.items():
            assert made.load().equals(store[f"{module.name}/{name}"].load()), name


def test_the_order_of_endings_does_not_matter_to_the_toy() -> None:
    results = [FakeRunner(CYCLES, modules=TOYS, backwards=backwards).run() for backwards in (False, True)]
    assert results[0].digest("summary") == results[1].digest("summary")
    assert results[0].requests.count("Wait") == 9
    assert min(results[0].calls) == "cycles/000/scaled"


def test_what_is_wrong_is_said() -> None:
    result = FakeRunner(SCALE, {"factor": 3.0}, {"series": observables([1.0]), "others": [observables([2.0])]}).run()
    assert result.outputs["scaled"]["value"].item() == 5.0
    with pytest.raises(ValueError, match="told to fail"):
        FakeRunner(SCALE, {"fail": True}, {"series": observables([1.0])}).run()
