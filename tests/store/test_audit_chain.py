"""The audit of the commit log: every break is found and named, and the rest is audited all the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from h5ml.store.audit import Finding, audit
from h5ml.store.audit_chain import read_chain
from h5ml.store.log import LOG_PATH, split_lines
from h5ml.store.store import Store
from h5ml.tests.kits.memory import MemoryEngine
from h5ml.tests.kits.samples import sample
from h5ml.tests.kits.tamper import rich_store


@pytest.fixture
def engine() -> MemoryEngine:
    return MemoryEngine()


@pytest.fixture
def store(engine: MemoryEngine) -> Store:
    return Store.make(engine)


def found(store: Store, **options: Any) -> list[tuple[str, str | None]]:
    return [(f.code, f.key) for f in audit(store, **options).findings]


# ----------------------------------------------------------------------------- the chain


def five_commits(engine: MemoryEngine, store: Store) -> list[bytes]:
    for i in range(5):
        store.write(f"keys/number_{i}", sample("table", 2, seed=i), "table")
    return log_lines(engine)


def log_lines(engine: MemoryEngine) -> list[bytes]:
    return split_lines(engine.groups[LOG_PATH].values["bytes"].tobytes())


def put_log(engine: MemoryEngine, lines: list[bytes]) -> Store:
    engine.groups[LOG_PATH].values["bytes"] = np.frombuffer(b"".join(line + b"\n" for line in lines), np.uint8).copy()
    return Store(engine)


def audited_lines(engine: MemoryEngine, change: Callable[[list[bytes]], list[bytes]]) -> list[Finding]:
    return read_chain(b"".join(line + b"\n" for line in change(log_lines(engine)))).findings


def test_a_whole_chain_has_no_findings(engine: MemoryEngine, store: Store) -> None:
    chain = read_chain(b"".join(line + b"\n" for line in five_commits(engine, store)))
    assert chain.findings == []
    assert chain.verified == [commit.digest for commit in store.commits()]
    assert sorted(chain.catalogue.entries) == store.keys()


def test_a_deleted_commit_is_named_by_its_number(engine: MemoryEngine, store: Store) -> None:
    five_commits(engine, store)
    findings = audited_lines(engine, lambda lines: lines[:2] + lines[3:])
    assert [(f.code, f.commit) for f in findings] == [("commit_missing", 3)]
    assert "Commit 3 is missing" in findings[0].message
    first = audited_lines(engine, lambda lines: lines[2:])
    assert "Commits 1 to 2 are missing" in first[0].message


def test_the_keys_of_a_deleted_commit_are_told_as_written_by_hand(engine: MemoryEngine, store: Store) -> None:
    lines = five_commits(engine, store)
    damaged = put_log(engine, lines[:2] + lines[3:])
    assert set(found(damaged)) == {("commit_missing", "keys/number_3"), ("unknown_group", "keys/number_2")}


def test_the_last_commits_cut_off_are_found_by_the_noted_root(engine: MemoryEngine, store: Store) -> None:
    lines, noted = five_commits(engine, store), store.root_digest
    damaged = put_log(engine, lines[:4])
    codes = {code for code, _ in found(damaged, root=noted)}
    assert codes == {"root_not_found", "unknown_group"}


def test_reordered_commits(engine: MemoryEngine, store: Store) -> None:
    lines = five_commits(engine, store)
    damaged = put_log(engine, [lines[0], lines[2], lines[1], *lines[3:]])
    report = audit(damaged)
    assert {f.code for f in report.findings} == {"commit_reordered"}
    assert {f.commit for f in report.findings} >= {2, 3}
    assert report.keys == 5


def test_a_commit_that_stands_twice(engine: MemoryEngine, store: Store) -> None:
    five_commits(engine, store)
    findings = audited_lines(engine, lambda lines: [*lines[:3], lines[2], *lines[3:]])
    assert [(f.code, f.commit) for f in findings] == [("commit_reordered", 3)]


def test_an_edited_commit_names_its_keys(engine: MemoryEngine, store: Store) -> None:
    lines = five_commits(engine, store)
    damaged = put_log(engine, [*lines[:1], lines[1].replace(b'"records":2', b'"records":3'), *lines[2:]])
    assert found(damaged) == [("commit_edited", "keys/number_1")]


def test_a_commit_edited_together_with_its_digest(engine: MemoryEngine, store: Store) -> None:
    from blake3 import blake3

    lines = five_commits(engine, store)
    body = lines[1].rpartition(b"\t")[0].replace(b'"records":2', b'"records":3')
    damaged = put_log(engine, [lines[0], body + b"\t" + blake3(body).hexdigest().encode(), *lines[2:]])
    report = audit(damaged)
    assert [(f.code, f.key, f.commit) for f in report.findings] == [("commit_replaced", "keys/number_1", 2)]
    assert "exchanged or edited together with its digest" in report.findings[0].message


@pytest.mark.parametrize("where", range(0, 400, 7))
def test_an_unreadable_line_still_gives_names(engine: MemoryEngine, store: Store, where: int) -> None:
    lines = five_commits(engine, store)
    broken = bytearray(lines[2])
    broken[where % len(broken)] = 0x0A  # a newline in the midst of a line
    findings = read_chain(
        b"".join([*(b + b"\n" for b in lines[:2]), bytes(broken) + b"\n", *(b + b"\n" for b in lines[3:])])
    ).findings
    assert findings
    assert any("keys/number_2" in f.message or f.commit == 3 for f in findings)
    chain = [f for f in findings if f.code.startswith("commit")]
    assert chain


def test_two_lines_run_together(engine: MemoryEngine, store: Store) -> None:
    lines = five_commits(engine, store)
    text = b"\n".join(lines[:2]) + b"x" + b"\n".join(lines[2:]) + b"\n"
    chain = read_chain(text)
    assert [f.code for f in chain.findings] == ["commit_unreadable"]
    assert sorted(chain.catalogue.entries) == store.keys()
    missing_end = read_chain(b"\n".join(lines))
    assert [(f.code, f.key) for f in missing_end.findings] == [("commit_edited", "keys/number_4")]


def test_the_rest_is_audited_after_a_break(engine: MemoryEngine, store: Store) -> None:
    lines = five_commits(engine, store)
    engine.groups["keys/number_4"].values["value"][0] += 1
    damaged = put_log(engine, lines[:1] + lines[2:])
    codes = dict(found(damaged))
    assert codes["data_changed"] == "keys/number_4@1"
    assert codes["commit_missing"] == "keys/number_2"


def test_random_bytes_in_the_log_never_raise(engine: MemoryEngine, store: Store) -> None:
    whole = b"".join(line + b"\n" for line in log_lines(engine_of(rich_store(store))))
    rng = np.random.default_rng(0)
    for _ in range(300):
        text = bytearray(whole)
        for _ in range(int(rng.integers(1, 4))):
            text[rng.integers(len(text))] ^= int(rng.integers(1, 256))
        findings = read_chain(bytes(text)).findings
        assert findings
        assert any(f.key or f.run for f in findings)
    assert read_chain(b"").findings == []
    assert read_chain(rng.bytes(3000)).findings


def engine_of(store: Store) -> MemoryEngine:
    assert isinstance(store.engine, MemoryEngine)
    return store.engine


def test_a_change_of_any_byte_of_the_log_is_found_and_named(engine: MemoryEngine, store: Store) -> None:
    rich_store(store)
    whole = b"".join(line + b"\n" for line in log_lines(engine))
    rng = np.random.default_rng(1)
    for place in range(int(rng.integers(7)), len(whole), 7):
        text = bytearray(whole)
        text[place] ^= int(rng.integers(1, 256))
        assert any(f.key or f.run for f in read_chain(bytes(text)).findings), (place, text[place - 20 : place + 20])
