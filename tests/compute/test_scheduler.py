"""Schedulers: texts, serial maps; dask itself is met in test_runner_dask.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import xarray as xr

from h5ml.compute.bunches import attempt
from h5ml.compute.scheduler import Serial, make_scheduler
from h5ml.schemas.errors import InvalidConfig
from h5ml.store.blob import unpack
from h5ml.tests.kits.toys import table


def double(item: float) -> xr.Dataset:
    return table(x=[2 * item])


@pytest.mark.parametrize("text", [None, "", "serial"])
def test_serial_is_the_default(text: str | None) -> None:
    with make_scheduler(text) as scheduler:
        assert isinstance(scheduler, Serial)
        assert not scheduler.remote
        batches = list(scheduler.map(double, enumerate([1.0, 2.0])))
    found = {index: unpack(blob or b"")["x"].item() for batch in batches for index, (blob, _) in batch}
    assert found == {0: 2.0, 1: 4.0}


def test_a_scheduler_is_passed_through() -> None:
    serial = Serial()
    assert make_scheduler(serial) is serial


@pytest.mark.parametrize(
    "text", ["local:", "local:0", "local:two", "slurn", "http://host", "local:cores=2", {"local": {"workers": 0}}]
)
def test_wrong_schedulers_are_refused(text: Any) -> None:
    with pytest.raises(InvalidConfig):
        make_scheduler(text)


def test_an_item_is_tried_again_and_its_last_failure_is_kept() -> None:
    tried: list[int] = []

    def fails(item: int) -> xr.Dataset:
        tried.append(item)
        raise ValueError(f"number {len(tried)}")

    assert attempt(fails, 3) == (None, "ValueError: number 2")
    assert tried == [3, 3]


def test_contract_registry_and_campaign_import_nothing_heavy() -> None:
    code = (
        "import sys, h5ml.compute.module, h5ml.compute.registry, h5ml.schemas.campaign;"
        "heavy = {'ase', 'xarray', 'torch', 'dask', 'distributed', 'h5py', 'numpy', 'scipy'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_runner_imports_no_engines_and_no_dask() -> None:
    code = (
        "import sys, h5ml.compute.runner, h5ml.compute.campaign, h5ml.compute.replay;"
        "heavy = {'ase', 'xarray', 'torch', 'dask', 'distributed'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_planning_with_a_model_file_imports_no_engine(tmp_path: Path) -> None:
    pytest.importorskip("mace")
    (tmp_path / "a.model").write_bytes(b"weights")
    code = (
        "import sys; from h5ml.compute.inputs import EngineInput;"
        "found = EngineInput.of('file:a.model', trust_pickle=True, device='cpu').fingerprint['weights'];"
        "heavy = {'ase', 'torch', 'mace'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy or not found.startswith('blake3:') else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
