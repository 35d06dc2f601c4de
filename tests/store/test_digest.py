"""Content digests: the same for the same data, however they are kept and however they came in."""

from __future__ import annotations

import os
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from h5ml.schemas.kinds import BUILT_IN
from h5ml.store.digest import START, VariableHasher, block_rows
from h5ml.store.engine import TEXT, Engine
from h5ml.store.hdf5 import HDF5Engine
from h5ml.store.icechunk import IcechunkEngine
from h5ml.store.maintenance import compact, copy
from h5ml.store.prepare import Storage
from h5ml.store.store import Store
from h5ml.tests.kits.memory import MemoryEngine
from h5ml.tests.kits.samples import count, fill_store, records, sample

EXAMPLES = 60 if os.environ.get("H5ML_TEST_LONG") else 6
GROWING = sorted(name for name, kind in BUILT_IN.items() if kind.grows)
ENGINES = ("memory", "hdf5", "icechunk")


def engine_in(kind: str, folder: Path, name: str = "a") -> Engine:
    if kind == "hdf5":
        return HDF5Engine(folder / f"{name}.h5")
    return IcechunkEngine(str(folder / f"{name}.icechunk")) if kind == "icechunk" else MemoryEngine(name)


@pytest.fixture(scope="module")
def expected() -> dict[str, str]:
    """The digest of the sample of each kind, written at once into memory."""
    store = Store.make(MemoryEngine())
    return {kind: store.entry(key).digest for kind, key in fill_store(store, n=12).items()}


@pytest.mark.parametrize("engine", ENGINES)
def test_every_kind_has_one_digest_in_every_engine(tmp_path: Path, engine: str, expected: dict[str, str]) -> None:
    store = Store.make(engine_in(engine, tmp_path))
    keys = fill_store(store, n=12)
    assert {kind: store.entry(key).digest for kind, key in keys.items()} == expected
    store.close()


@pytest.mark.parametrize("engine", ENGINES)
def test_appending_record_by_record_gives_the_same(tmp_path: Path, engine: str, expected: dict[str, str]) -> None:
    store = Store.make(engine_in(engine, tmp_path))
    whole = {kind: sample(kind, 12) for kind in GROWING}
    for i in range(12):
        with store.transaction() as transaction:
            for kind, dataset in whole.items():
                part = records(dataset, kind, i, i + 1)
                if i:
                    transaction.append(kind, part)
                else:
                    transaction.write(kind, part, kind, storage=Storage(growing=True))
    assert {kind: store.entry(kind).digest for kind in GROWING} == {kind: expected[kind] for kind in GROWING}
    assert {store.entry(kind).records for kind in GROWING} == {12}
    store.close()


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    kind=st.sampled_from(GROWING),
    engine=st.sampled_from(ENGINES),
    other=st.sampled_from(ENGINES),
    cuts=st.lists(st.integers(0, 12), max_size=5),
    chunk=st.one_of(st.none(), st.integers(1, 20)),
    compression=st.sampled_from([None, "none", "gzip", "zstd"]),
    seed=st.integers(0, 5),
)
def test_one_digest_through_engines_chunks_blocks_copies_and_compaction(
    kind: str, engine: str, other: str, cuts: list[int], chunk: int | None, compression: str | None, seed: int
) -> None:
    whole = sample(kind, 12, seed)
    plain = Store.make(MemoryEngine("plain"))
    plain.write("key", whole, kind)
    digest = plain.entry("key").digest
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        store, edges = Store.make(engine_in(engine, place)), [0, *sorted({*cuts, 12} - {0})]
        storage = Storage(growing=True, chunk_rows=chunk, compression=compression)
        store.write("key", records(whole, kind, 0, edges[1]), kind, storage=storage)
        for start, stop in pairwise(edges[1:]):
            if stop == 12:  # as after a restart: the running digest is made anew from the chain
                store = Store(store.engine)
            store.append("key", records(whole, kind, start, stop))
        assert store.entry("key").digest == digest
        target = Store.make(engine_in(other, place, "b"))
        copy(store, target)
        compact(store)
        compact(target)
        store.engine.close()
        for found in (Store(store.engine), Store(target.engine)):
            assert found.entry("key").digest == digest
            back = found["key"].load()
            assert count(back, kind) == 12
            plain.write("back", back, kind, new_version=True)
            assert plain.entry("back").digest == digest
        target.close()
        store.close()


def test_blocks_of_many_sizes_chain_to_the_same(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(300_000, 3))
    rng = np.random.default_rng(1)
    whole = VariableHasher("<f8", values.shape)
    whole.update(values)
    pieces = VariableHasher("<f8", (0, 3))
    at = 0
    while at < len(values):
        step = int(rng.integers(1, 90_000))
        pieces.update(values[at : at + step])
        at += step
    assert whole.chain != START
    assert pieces.hexdigest() == whole.hexdigest()
    again = VariableHasher("<f8", (0, 3), whole.chain, whole.partial_start)
    again.update(values[whole.partial_start :])
    assert again.hexdigest() == whole.hexdigest()


@pytest.mark.parametrize(
    ("dtype", "shape"), [("<f8", (5,)), ("<f8", (5, 64, 3)), ("|i1", (2, 10)), ("<f4", (3, 10**7)), (TEXT, (4,))]
)
def test_a_block_is_a_power_of_two_rows(dtype: str, shape: tuple[int, ...]) -> None:
    rows = block_rows(dtype, shape)
    assert rows & (rows - 1) == 0
    assert rows >= 1


def test_what_must_change_a_digest(tmp_path: Path) -> None:
    store = Store.make(MemoryEngine())
    base = sample("table", 4)
    variants = {"base": base, "same": base.copy(deep=True)}
    variants["value"] = base.copy(deep=True)
    variants["value"]["value"][0] = np.nextafter(base["value"].values[0], 9)
    variants["minus_zero"] = base.assign(value=base["value"] * 0.0)
    variants["zero"] = base.assign(value=-(base["value"] * 0.0))
    variants["unit"] = base.copy(deep=True)
    variants["unit"]["value"].attrs["units"] = "meV"
    variants["attribute"] = base.assign_attrs(new=1)
    variants["float_attribute"] = base.assign_attrs(new=1.0)
    variants["text"] = base.copy(deep=True)
    variants["text"]["name"][0] = "row  0"
    variants["type"] = base.copy(deep=True)
    variants["type"]["value"] = base["value"].astype("float32")
    variants["longer"] = sample("table", 5)
    variants["name"] = base.rename(value="value_2")
    for name, dataset in variants.items():
        store.write(name, dataset, "table")
    digests = {name: store.entry(name).digest for name in variants}
    assert digests.pop("same") == digests["base"]
    assert len(set(digests.values())) == len(digests), digests


def test_volatile_values_stay_outside_but_their_presence_does_not(tmp_path: Path) -> None:
    store, base = Store.make(MemoryEngine()), sample("labels", 4)
    store.write("a", base, "labels")
    store.write("b", base.assign(wall_time=base["wall_time"].copy(data=np.arange(4.0))), "labels")
    store.write("c", base.drop_vars("wall_time"), "labels")
    assert store.entry("a").digest == store.entry("b").digest != store.entry("c").digest
