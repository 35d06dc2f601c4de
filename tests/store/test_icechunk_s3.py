"""The Icechunk engine on a bucket: the suite of all engines and concurrent commits against moto's S3 server."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from h5ml.schemas.errors import KeyTaken, LockTimeout, NotAStore, StoreWriteFailed
from h5ml.store.engine import Engine, GroupLayout, Writer
from h5ml.store.icechunk import IcechunkEngine
from h5ml.tests.kits.engine import EngineSuite, append, copy_all, fill, frames, get, put, same, together, work_append

BUCKET = "bucket"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    moto = pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    url = "http://{}:{}".format(*server.get_host_and_port())
    keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=url, **keys).create_bucket(Bucket=BUCKET)
    yield url
    server.stop()


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)


class TestBucket(EngineSuite):
    """The suite; compaction without the days of grace, which only running writers need."""

    def build(self, folder: Path) -> Engine:
        return IcechunkEngine(f"s3://{BUCKET}/{folder.name}/store", grace=timedelta(0))

    @pytest.mark.parametrize("method", ["spawn"])
    def test_processes_share_a_store(self, engine: Engine, method: str) -> None:
        super().test_processes_share_a_store(engine, method)

    def test_kind_and_location(self, engine: Engine) -> None:
        """Only chunks are counted, and a new store has none."""
        assert (engine.kind, engine.nbytes()) == ("icechunk", 0)
        put(engine, "a", frames(100, atoms=64))
        assert engine.nbytes() > 100 * 64 * 3 * 8
        assert engine.warnings() == []

    def test_a_failed_compaction_changes_nothing(self, engine: Engine) -> None:
        put(engine, "a", frames(5), grows=("frame",))
        engine.compact(copy_all)
        assert append(engine, "a", frames(2)) == 7


@pytest.fixture
def engine(tmp_path: Path) -> IcechunkEngine:
    engine = IcechunkEngine(f"s3://{BUCKET}/{tmp_path.name}")
    engine.make()
    return engine


def test_a_function_is_executed_again_when_another_writer_came_first(engine: IcechunkEngine) -> None:
    put(engine, "a", frames(4), grows=("frame",))
    lengths = []

    def work(writer: Writer) -> int:
        n = writer.layout("a").sizes["frame"]
        lengths.append(n)
        if len(lengths) <= 2:
            append(IcechunkEngine(engine.location), "a", frames(3))
        writer.grow("a", {"frame": n + 1})
        return n

    assert engine.transact(work) == 10
    assert lengths == [4, 7, 10]
    assert len(get(engine, "a", "energy")) == 11


def test_who_is_always_late_gives_up(engine: IcechunkEngine) -> None:
    put(engine, "a", frames(4), grows=("frame",))

    def work(writer: Writer) -> None:
        append(IcechunkEngine(engine.location), "a", frames(1))
        writer.create("b", GroupLayout({}, {}))

    with pytest.raises(LockTimeout, match="kept committing first"):
        engine.transact(work, timeout_s=0.3)
    with engine.reading() as reader:
        assert list(reader.groups()) == ["a"]


def test_processes_and_threads_commit_to_groups_of_their_own(engine: IcechunkEngine) -> None:
    engine.transact(lambda writer: fill(writer, ".h5ml/log", *TestBucket.empty_log()))
    threads = [threading.Thread(target=work_append, args=(IcechunkEngine(engine.location), i, 6)) for i in (0, 1)]
    for thread in threads:
        thread.start()
    failures = together("spawn", [(work_append, engine, i, 6) for i in (2, 3)])
    for thread in threads:
        thread.join()
    assert failures == []
    TestBucket.check_log(engine, 4, 6)


@pytest.mark.parametrize("error", ["conflict", "network"])
@pytest.mark.parametrize("arrives", [True, False])
def test_a_lost_answer_does_not_commit_twice(
    engine: IcechunkEngine, monkeypatch: pytest.MonkeyPatch, error: str, arrives: bool
) -> None:
    """The library repeats a request whose answer got lost, and is then refused because of its own first attempt."""
    import icechunk

    put(engine, "a", frames(4), grows=("frame",))
    commit = icechunk.Session.commit
    calls: list[int] = []

    class Conflict(Exception):
        """The library's own class cannot be made here."""

    class Network(Exception):
        """Neither can this one."""

    def flaky(self: Any, *arguments: Any, **options: Any) -> str:
        calls.append(1)
        if arrives or len(calls) > 1:
            snapshot = commit(self, *arguments, **options)
        if len(calls) == 1:
            raise (
                icechunk.ConflictError("a", "b") if error == "conflict" else icechunk.IcechunkError("dispatch failure")
            )
        return snapshot

    monkeypatch.setattr(icechunk.Session, "commit", flaky)
    monkeypatch.setattr(icechunk, "ConflictError", Conflict)
    monkeypatch.setattr(icechunk, "IcechunkError", Network)
    if error == "network" and not arrives:
        with pytest.raises(StoreWriteFailed, match="cannot be reached"):
            append(engine, "a", frames(2))
        assert len(get(engine, "a", "energy")) == 4
        return
    assert append(engine, "a", frames(2)) == 6
    assert len(calls) == (1 if arrives else 2)
    assert len(get(engine, "a", "energy")) == 6


def test_compaction_spares_what_may_belong_to_running_writers(engine: IcechunkEngine) -> None:
    put(engine, "a", frames(50, atoms=64))
    engine.transact(lambda writer: writer.remove("a"))
    before, after = engine.compact(copy_all)
    assert after == before > 0
    before, after = IcechunkEngine(engine.location, grace=timedelta(0)).compact(copy_all)
    assert after == 0 < before


def test_places_that_hold_no_store(engine: IcechunkEngine, endpoint: str) -> None:
    with pytest.raises(NotAStore, match="There is no store"):
        IcechunkEngine(engine.location + "-other").state()
    with pytest.raises(KeyTaken):
        IcechunkEngine(engine.location).make()
    for action in ("state", "make"):
        with pytest.raises(NotAStore, match="bucket does not exist"):
            getattr(IcechunkEngine("s3://missing-bucket/x"), action)()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            nobody = f"http://127.0.0.1:{probe.getsockname()[1]}"
            with pytest.raises(NotAStore, match="cannot be reached"):
                getattr(IcechunkEngine(f"s3://{BUCKET}/x?endpoint_url={nobody}"), action)()
    named = IcechunkEngine(f"{engine.location}?endpoint_url={endpoint}&region=us-east-1")
    put(named, "a", {"x": (("i",), np.arange(3))})
    same(get(engine, "a", "x"), np.arange(3))
