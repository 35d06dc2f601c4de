"""Differences between entries: values, shapes, attributes and how they were made."""

from __future__ import annotations

import json

import numpy as np
import pytest

from h5ml.schemas.errors import UnknownKey
from h5ml.store.diff import diff
from h5ml.store.prepare import Storage
from h5ml.store.store import Store
from h5ml.tests.kits.memory import MemoryEngine
from h5ml.tests.kits.samples import records, sample
from h5ml.tests.kits.tamper import toy_run


@pytest.fixture
def store() -> Store:
    return Store.make(MemoryEngine())


def test_equal_data_say_so(store: Store) -> None:
    store.write("a", sample("table"), "table")
    store.write("b", sample("table"), "table")
    found = diff(store, "a", "b@1")
    assert found.equal
    assert not found.variables
    assert found.text() == "a@1 and b@1 have the same content."


def test_the_largest_deviation_is_found_across_blocks(store: Store) -> None:
    whole = sample("trajectory", 2000)
    other = whole.copy(deep=True)
    other["positions"][1500, 3, 1] += 0.25
    other["positions"][2, 0, 0] -= 0.125
    store.write("t", whole, "trajectory")
    store.write("t", other, "trajectory", new_version=True)
    found = diff(store, "t@1", "t@2")
    (variable,) = found.variables
    assert (variable.name, variable.what, variable.different) == ("positions", "values", 2)
    assert variable.largest == pytest.approx(0.25)
    assert variable.at == (1500, 3, 1)
    assert variable.rms == pytest.approx(np.sqrt((0.25**2 + 0.125**2) / whole["positions"].size))
    assert "largest deviation 0.25 at [1500, 3, 1]" in found.text()


def test_attributes_types_shapes_and_variables(store: Store) -> None:
    one = sample("table", 4).assign_attrs(here=1)
    two = sample("table", 5).assign_attrs(there=[1, 2])
    two["value"].attrs["units"] = "meV"
    two = two.drop_vars("good").assign(extra=("row", np.arange(5.0), {"units": "1"}))
    store.write("a", one, "table")
    store.write("b", two, "table")
    found = diff(store, "a", "b")
    assert found.attributes == {"here": (1, None), "there": (None, [1, 2])}
    assert found.dims == {"row": (4, 5)}
    what = {(v.name, v.what) for v in found.variables}
    expected = {("good", "only in the first"), ("extra", "only in the second")}
    assert expected | {("value", "attributes"), ("value", "shape"), ("name", "shape")} <= what
    json.dumps(found.record())
    assert "meV" in found.text()


def test_grown_data_compare_the_rows_that_both_have(store: Store) -> None:
    whole = sample("trajectory", 6)
    store.write("a", records(whole, "trajectory", 0, 4), "trajectory", storage=Storage(growing=True))
    store.write("b", whole, "trajectory")
    assert {v.what for v in diff(store, "a", "b").variables} == {"shape"}


def test_text_nan_and_volatile_values(store: Store) -> None:
    one = sample("structures", 4)
    two = one.copy(deep=True)
    two["label"][1] = "other"
    store.write("a", one, "structures")
    store.write("b", two, "structures")
    (variable,) = diff(store, "a", "b").variables  # NaN energies are equal
    assert (variable.name, variable.different, variable.largest) == ("label", 1, None)
    labels = sample("labels", 3)
    other = labels.copy(deep=True)
    other["energy"][0] = np.nan
    other["wall_time"][0] += 1
    store.write("c", labels, "labels")
    store.write("d", other, "labels")
    found = {v.name: v for v in diff(store, "c", "d").variables}
    assert found["energy"].largest == np.inf
    assert found["wall_time"].volatile


def test_settings_inputs_and_engines(store: Store) -> None:
    store.write("i", sample("structures"), "structures")
    store.write("i", sample("structures", seed=1), "structures", new_version=True)
    for version, temperature in ((1, 300.0), (2, 310.0)):
        config = {"T": temperature, "same": 1}
        inputs = {"crystal": [store.entry(f"i@{version}").ref]}
        engines = {"model": {"name": f"engine {version}"}}
        run = toy_run("x", inputs, {}, config=config, engines=engines, seed=version)
        with store.transaction() as transaction:
            transaction.record(run)
            transaction.write("x", sample("table"), "table", run=run.id, new_version=version > 1)
    found = diff(store, "x@1", "x@2")
    assert found.equal
    assert found.config == {"T": (300.0, 310.0)}
    assert found.run == {"seed": (1, 2)}
    assert found.engines == {"model": ({"name": "engine 1"}, {"name": "engine 2"})}
    assert [text[:4] for text in found.inputs["crystal"]] == ["i@1 ", "i@2 "]
    assert "same content" in found.text()
    assert "T: 300.0 | 310.0" in found.text()


def test_between_two_stores_and_with_a_purged_side(store: Store) -> None:
    other = Store.make(MemoryEngine("other"))
    store.write("a", sample("table"), "table")
    other.write("a", sample("table", seed=1), "table")
    found = diff(store, "a", "a", other=other)
    assert (found.first, found.second) == ("memory:a@1", "other:a@1")
    assert {v.name for v in found.variables} == {"good", "value"}
    with other.transaction() as transaction:
        transaction.purge("a")
    found = diff(store, "a", "a", other=other)
    assert found.purged == ["other:a@1"]
    assert not found.equal
    with pytest.raises(UnknownKey):
        diff(store, "a", "a@7", other=other)
