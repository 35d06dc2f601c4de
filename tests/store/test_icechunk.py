"""The Icechunk engine on a local folder: the suite of all engines, plain readers, damage, kills."""

from __future__ import annotations

import multiprocessing
import os
import random
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from h5ml.schemas.errors import H5mlError, InvalidConfig, KeyTaken, NotAStore, StoreDamaged, StoreWriteFailed
from h5ml.store.engine import ArrayLayout, Engine, GroupLayout, Writer
from h5ml.store.icechunk import IcechunkEngine
from h5ml.store.icechunk_layout import default_chunks
from h5ml.store.icechunk_location import parse_location
from h5ml.tests.kits.engine import EngineSuite, append, copy_all, frames, get, put, same

BLOCK = 4


class TestFolder(EngineSuite):
    """The suite, except for what Icechunk cannot do or need not do."""

    def build(self, folder: Path) -> Engine:
        return IcechunkEngine(folder / "store.icechunk")

    @pytest.mark.parametrize("method", ["spawn"])
    def test_processes_share_a_store(self, engine: Engine, method: str) -> None:
        super().test_processes_share_a_store(engine, method)

    def test_a_failed_compaction_changes_nothing(self, engine: Engine) -> None:
        """Nothing is copied, so nothing of it can fail; see the kill test for one that is cut short."""
        put(engine, "a", frames(5), grows=("frame",))
        engine.compact(copy_all)
        assert append(engine, "a", frames(2)) == 7


@pytest.fixture
def engine(tmp_path: Path) -> IcechunkEngine:
    engine = IcechunkEngine(tmp_path / "store.icechunk")
    engine.make()
    return engine


def plain_python(code: str, *arguments: object) -> str:
    """Run code where h5ml cannot be imported; returns what it prints."""
    block = "import sys; sys.modules['h5ml'] = None\n"
    command = [sys.executable, "-W", "error::UserWarning", "-c", block + textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


# ----------------------------------------------------------------------------- plain readers and writers


def test_plain_xarray_opens_a_group(engine: IcechunkEngine) -> None:
    arrays = frames(7) | {"count": (("frame",), np.zeros(7, "<i4")), "title": ((), np.array("water", dtype=object))}
    arrays["energy"][1][:2] = np.nan, -0.0
    put(engine, "a/crystal[opt:atoms,shape]", arrays, grows=("frame",), attributes={"kind": "trajectory"})
    out = plain_python(
        """
        import icechunk, json, xarray as xr
        icechunk.set_logs_filter("error")
        repo = icechunk.Repository.open(icechunk.local_filesystem_storage(sys.argv[1]))
        store = repo.readonly_session("main").store
        group = "a/crystal[opt:atoms,shape]"
        ds = xr.open_zarr(store, group=group, consolidated=False, zarr_format=3)
        assert dict(ds.sizes) == {"frame": 7, "atom": 4, "xyz": 3}, ds.sizes
        assert all(ds[name].attrs == ({"units": "1"}) for name in ds), [ds[name].attrs for name in ds]
        assert not any("_FillValue" in ds[name].attrs for name in ds)
        assert ds.title.item() == "water" and ds.symbols.values.tolist() == ["C", "H", "O", "N"]
        assert str(ds["count"].dtype) == "int32" and ds["count"].values.tolist() == [0] * 7
        assert ds.attrs.pop("kind") == "trajectory" and all(name.startswith("_h5ml") for name in ds.attrs)
        tree = xr.open_datatree(store, engine="zarr", consolidated=False, zarr_format=3)
        assert tree[group]["positions"].shape == (7, 4, 3)
        print(ds.energy.values.tobytes().hex(), ds.positions.values.tobytes().hex())
        """,
        engine.location,
    )
    assert out.split() == [arrays[name][1].tobytes().hex() for name in ("energy", "positions")]


def test_a_group_written_by_plain_xarray_is_read(engine: IcechunkEngine) -> None:
    put(engine, "a/t", frames(3))
    plain_python(
        """
        import icechunk, numpy as np, xarray as xr
        icechunk.set_logs_filter("error")
        repo = icechunk.Repository.open(icechunk.local_filesystem_storage(sys.argv[1]))
        session = repo.writable_session("main")
        data = xr.Dataset({"x": (("i", "j"), np.arange(6.0).reshape(2, 3), {"units": "eV"})}, attrs={"kind": "table"})
        data.to_zarr(session.store, group="b/c/d", consolidated=False, zarr_format=3, mode="w")
        session.commit("by hand")
        """,
        engine.location,
    )
    with engine.reading() as reader:
        assert list(reader.groups()) == ["a/t", "b/c/d"]
        assert reader.layout("b/c/d").arrays["x"].attributes["units"] == "eV"
        assert not reader.exists("b/c")
        same(reader.read("b/c/d", "x"), np.arange(6.0).reshape(2, 3))
    engine.transact(lambda writer: writer.create("b/e", GroupLayout({}, {})))
    engine.transact(lambda writer: writer.remove("b/c/d"))
    with engine.reading() as reader:
        assert list(reader.groups()) == ["a/t", "b/e"]


def test_importing_the_engine_loads_no_library() -> None:
    code = "import h5ml.store.icechunk, sys; print([m for m in ('icechunk', 'zarr', 'xarray') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# ----------------------------------------------------------------------------- layouts and chunks


@pytest.mark.parametrize("rows", [1, 5, 8])
@pytest.mark.parametrize("compression", [None, "zstd"])
def test_writes_at_and_across_chunk_edges(engine: IcechunkEngine, rows: int, compression: str | None) -> None:
    rng = np.random.default_rng(0)
    array = ArrayLayout(("i", "j"), (0, 3), "<f8", {}, (rows, 3), compression)
    engine.transact(lambda writer: writer.create("a", GroupLayout({"x": array}, {"i": 0, "j": 3}, {}, ("i",))))
    expected = np.zeros((0, 3))
    for start, count in [(0, 5), (5, 11), (16, 8), (24, 1), (3, 4), (8, 8), (0, 25), (25, 40)]:
        block = rng.normal(size=(count, 3))
        if start + count > len(expected):
            expected = np.concatenate([expected, np.zeros((start + count - len(expected), 3))])
        expected[start : start + count] = block

        def work(writer: Writer, block: Any = block, start: int = start, total: int = len(expected)) -> None:
            writer.grow("a", {"i": total})
            writer.write("a", "x", block, start)

        engine.transact(work)
        same(get(engine, "a", "x"), expected)
        reader = engine.rows("a", ["x"])
        same(reader.take("x", np.arange(len(expected))[::-1]), expected[::-1])
        reader.close()
    with engine.reading() as view:
        assert view.layout("a").arrays["x"].chunks == (rows, 3)
        assert view.layout("a").arrays["x"].compression == compression


def test_rows_never_written_read_as_nan(engine: IcechunkEngine) -> None:
    array = ArrayLayout(("i",), (10,), "<f8", {}, (4,))
    engine.transact(lambda writer: writer.create("a", GroupLayout({"x": array}, {"i": 10})))
    engine.transact(lambda writer: writer.write("a", "x", np.ones(2), 8))
    assert np.isnan(engine.rows("a", ["x"]).take("x", np.arange(8))).all()
    same(get(engine, "a", "x", (slice(8, None),)), np.ones(2))


def test_one_piece_is_one_chunk_unless_it_is_huge() -> None:
    assert default_chunks("<f8", (1000, 64, 3), [False] * 3) == (1000, 64, 3)
    assert default_chunks("<f8", (10**6, 64, 3), [False] * 3) == (21845, 64, 3)
    assert default_chunks("<f8", (10, 10**8), [False] * 2) == (1, 4194304)
    assert default_chunks("<f8", (0, 64, 3), [True, False, False]) == (42, 64, 3)
    assert default_chunks("text", (), []) == ()


def test_neighbours_with_a_common_beginning_are_left_alone(engine: IcechunkEngine) -> None:
    for path in ("a", "ab", "a b", "b/a", "b/ab"):
        put(engine, path, {"x": (("i",), np.full(3, len(path) * 1.0)), "xx": (("i",), np.zeros(3))})
    engine.transact(lambda writer: (writer.remove("a"), writer.move("b/a", "c")))
    with engine.reading() as reader:
        assert list(reader.groups()) == ["a b", "ab", "b/ab", "c"]
        same(reader.read("ab", "x"), np.full(3, 2.0))
        same(reader.read("c", "x"), np.full(3, 3.0))


def test_a_path_is_used_again_within_a_transaction(engine: IcechunkEngine) -> None:
    put(engine, "a/t", frames(6))

    def work(writer: Writer) -> None:
        writer.move("a/t", ".h5ml/versions/a/t@1")
        writer.create("a/t", GroupLayout({"x": ArrayLayout(("i",), (3,), "<i8")}, {"i": 3}))
        writer.write("a/t", "x", np.arange(3))
        writer.create("gone/b", GroupLayout({}, {}))
        writer.remove("gone/b")
        writer.create("gone", GroupLayout({}, {}))

    engine.transact(work)
    with engine.reading() as reader:
        assert list(reader.groups()) == [".h5ml/versions/a/t@1", "a/t", "gone"]
        assert list(reader.layout("a/t").arrays) == ["x"]
        same(reader.read(".h5ml/versions/a/t@1", "energy"), frames(6)["energy"][1])


def test_a_transaction_without_changes_makes_no_commit(engine: IcechunkEngine) -> None:
    put(engine, "a", frames(3))
    before = engine.state(), engine.nbytes()
    assert engine.transact(lambda writer: writer.layout("a").sizes["frame"]) == 3
    engine.transact(lambda writer: writer.grow("a", {"frame": 3}))
    assert (engine.state(), engine.nbytes()) == before


def test_rows_of_a_kept_group_outlive_a_compaction(engine: IcechunkEngine) -> None:
    arrays = frames(500, atoms=64)
    put(engine, "a", arrays, grows=("frame",))
    reader = engine.rows("a", ["positions"])
    append(engine, "a", frames(500, atoms=64))
    put(engine, "b", frames(3))
    engine.compact(copy_all)
    same(reader.take("positions", np.arange(420)), arrays["positions"][1][:420])
    assert engine.transact(lambda writer: len(list(writer.groups()))) == 2


# ----------------------------------------------------------------------------- places


def test_places_that_hold_no_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes").write_text("text")
    for name in ("file", "empty", "full", "missing"):
        engine = IcechunkEngine(tmp_path / name)
        for action in (engine.state, engine.nbytes, lambda e=engine: e.transact(lambda writer: None)):
            with pytest.raises(NotAStore, match="There is no Icechunk store"):
                action()
    assert not (tmp_path / "missing").exists()
    for name in ("file", "full"):
        with pytest.raises(KeyTaken):
            IcechunkEngine(tmp_path / name).make()
    with pytest.raises(StoreWriteFailed):
        IcechunkEngine(tmp_path / "file" / "below").make()
    IcechunkEngine(tmp_path / "empty").make()
    IcechunkEngine(tmp_path / "new" / "deep.icechunk").make()


def test_locations(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    assert parse_location("some/folder").folder == Path("some/folder")
    assert parse_location("file:///some/folder").folder == Path("/some/folder")
    place = parse_location("s3://bucket/a/b?endpoint_url=http://h:9000&region=eu-1")
    assert (place.bucket, place.prefix, place.endpoint_url, place.region) == ("bucket", "a/b", "http://h:9000", "eu-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://other:1")
    assert parse_location("s3://bucket").endpoint_url == "http://other:1"
    for wrong in ("s3://", "gs://bucket/x", "s3://bucket/x?secret=1", "s3://me:secret@bucket/x"):
        with pytest.raises(InvalidConfig) as caught:
            parse_location(wrong)
        assert "me:secret" not in str(caught.value)


# ----------------------------------------------------------------------------- damage and refusals


def newest(folder: Path, kind: str) -> Path:
    return max((folder / kind).iterdir(), key=lambda path: path.stat().st_mtime_ns)


@pytest.mark.parametrize("kind", ["snapshots", "manifests", "chunks", "refs/branch.main"])
@pytest.mark.parametrize("how", ["cut", "removed", "overwritten"])
def test_damage_is_told_in_our_words(engine: IcechunkEngine, kind: str, how: str) -> None:
    put(engine, "a/t", {"x": (("i",), np.random.default_rng(0).normal(size=5000))}, compression="zstd")
    path = newest(Path(engine.location), kind)
    size = path.stat().st_size
    if how == "removed":
        path.unlink()
    elif how == "cut":
        os.truncate(path, size // 2)
    else:
        path.write_bytes(os.urandom(size))
    fresh = IcechunkEngine(engine.location)
    with pytest.raises((StoreDamaged, NotAStore)) as caught, fresh.reading() as reader:
        list(reader.groups())
        reader.read("a/t", "x")
    assert type(caught.value) is (NotAStore if how == "removed" and "refs" in kind else StoreDamaged)
    assert "icechunk/src" not in str(caught.value)


def test_a_refused_write_keeps_the_last_commit(engine: IcechunkEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    put(engine, "a", frames(3), grows=("frame",))
    before = engine.state()

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    for name in ("publish", "NewFiles.sync"):
        with monkeypatch.context() as patch:
            patch.setattr(f"h5ml.store.icechunk.{name}", full)
            with pytest.raises(StoreWriteFailed, match="last commit is intact"):
                append(engine, "a", frames(3))
        assert engine.state() == before
    assert append(engine, "a", frames(3)) == 6


def test_what_a_killed_writer_left_is_in_nobodys_way(engine: IcechunkEngine) -> None:
    put(engine, "a", frames(3), grows=("frame",))
    folder = Path(engine.location)
    for path in ("refs/branch.main/ref.json#1", "chunks/0000000000000000000G#1", "snapshots/0000000000000000000G#1"):
        (folder / path).write_bytes(b"{")
    assert append(IcechunkEngine(folder), "a", frames(3)) == 6
    engine.compact(copy_all)
    assert append(engine, "a", frames(3)) == 9


def try_in_a_fork(engine: IcechunkEngine, queue: Any) -> None:
    found = []
    for each in (engine, IcechunkEngine(engine.location)):
        try:
            each.state()
        except H5mlError as error:
            found.append(error.message)
    queue.put(found)


def test_a_forked_process_is_told_instead_of_hanging(engine: IcechunkEngine) -> None:
    engine.state()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=try_in_a_fork, args=(engine, queue))
    process.start()
    found = queue.get(timeout=30)
    process.join()
    assert len(found) == 2
    assert all("forked" in message for message in found)


# ----------------------------------------------------------------------------- kills

CHILD = """
import os, sys
import numpy as np
from h5ml.store.icechunk import IcechunkEngine
from h5ml.tests.store.test_icechunk import block

engine = IcechunkEngine(sys.argv[1])

def work(writer):
    for path in ("a/t", "b/t"):
        start = writer.layout(path).sizes["frame"]
        writer.grow(path, {"frame": start + 4})
        for name, values in block(start).items():
            writer.write(path, name, values, start)
    return start + 4

for i in range(10**6):
    done = engine.transact(work)
    os.write(1, b"%d\\n" % done)
    if i % 7 == 6:
        engine.compact(None)
"""


def block(start: int) -> dict[str, Any]:
    """What the child writes from a row on."""
    rows = np.arange(start, start + BLOCK)
    return {"x": rows[:, None] * np.array([1.0, 0.5, 0.25]), "step": rows}


def kill_campaign(folder: Path, kills: int) -> tuple[int, int]:
    """Kill a committing child again and again; returns the acknowledged commits and those found beyond them."""
    engine = IcechunkEngine(folder / "store.icechunk")
    engine.make()
    arrays = {
        "x": ArrayLayout(("frame", "xyz"), (0, 3), "<f8", {}, (6, 3)),
        "step": ArrayLayout(("frame",), (0,), "<i8", {}, (4,)),
    }
    layout = GroupLayout(arrays, {"frame": 0, "xyz": 3}, {}, ("frame",))
    engine.transact(lambda writer: [writer.create(path, layout) for path in ("a/t", "b/t")])
    acknowledged = beyond = 0
    for i in range(kills):
        if i % 25 == 24:  # a long group makes compaction slow
            engine.transact(
                lambda writer: [(writer.remove(path), writer.create(path, layout)) for path in ("a/t", "b/t")]
            )
        with subprocess.Popen([sys.executable, "-c", CHILD, engine.location], stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            line = child.stdout.readline()
            time.sleep(random.uniform(0, 0.25))
            child.kill()
            lines = [line, *child.stdout.read().splitlines()]
        assert line.strip(), "the child failed to commit"
        acknowledged = int(lines[-1])
        fresh = IcechunkEngine(engine.location)
        with fresh.reading() as reader:
            n = reader.layout("a/t").sizes["frame"]
            assert n in (acknowledged, acknowledged + BLOCK), (n, acknowledged)
            beyond += n != acknowledged
            for path in ("a/t", "b/t"):
                assert reader.layout(path).sizes["frame"] == n
                for name in block(0):
                    expected = [block(0)[name][:0], *(block(j)[name] for j in range(0, n, BLOCK))]
                    same(reader.read(path, name), np.concatenate(expected))
    return acknowledged, beyond


def test_kills_lose_no_commit(tmp_path: Path) -> None:
    kill_campaign(tmp_path, 8)


@pytest.mark.long
def test_many_kills_lose_no_commit(tmp_path: Path) -> None:
    kill_campaign(tmp_path, 300)
