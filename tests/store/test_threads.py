"""Threads of one process that read and commit at the same time."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import xarray as xr

from h5ml.store.store import Store


def column(value: float) -> xr.Dataset:
    return xr.Dataset({"x": ("row", [value], {"units": "1"})})


def test_a_thread_that_reads_and_one_that_commits_do_not_wait_for_each_other(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write("a", column(1.0), "table")
    opened, found = threading.Event(), []
    reading = store.engine.reading

    @contextlib.contextmanager
    def slow() -> Iterator[Any]:
        with reading() as reader:
            if threading.current_thread() is reader_thread:
                opened.set()
                time.sleep(0.2)  # the other begins its commit
            yield reader

    def read() -> None:
        found.append(float(store["a"]["x"].load()[0]))

    def commit() -> None:
        opened.wait()
        store.write("b", column(2.0), "table")

    store["a"]
    reader_thread = threading.Thread(target=read, daemon=True)
    writer_thread = threading.Thread(target=commit, daemon=True)
    monkeypatch.setattr(store.engine, "reading", slow)
    for thread in (reader_thread, writer_thread):
        thread.start()
    for thread in (reader_thread, writer_thread):
        thread.join(30.0)
        assert not thread.is_alive()
    assert found == [1.0]
    assert float(store["b"]["x"][0]) == 2.0
