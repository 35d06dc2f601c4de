"""Lineage: the graph, its depth and direction, and every way to show it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from h5ml.schemas.errors import UnknownKey
from h5ml.store.lineage import lineage
from h5ml.store.lineage_plot import arranged, plot, wrapped
from h5ml.store.store import Store
from h5ml.tests.kits.memory import MemoryEngine
from h5ml.tests.kits.samples import sample
from h5ml.tests.kits.tamper import toy_run


@pytest.fixture(scope="module")
def store() -> Store:
    """urea.cif -> crystal -> two MD runs -> one set; the set also reads the crystal."""
    store = Store.make(MemoryEngine())
    with store.transaction() as transaction:
        origin = {"file": "urea.cif", "digest": "ab" * 32}
        transaction.write("crystal", sample("structures"), "structures", origin=origin)
    read = [store.entry("crystal").ref]
    for i, name in enumerate(("md[T=300]", "md[T=350]")):
        run = toy_run(name, {"crystal": read}, {}, module="md", seed=i, engines={"model": {"name": "tblite:GFN1-xTB"}})
        with store.transaction() as transaction:
            transaction.record(run)
            transaction.write(f"{name}/trajectory", sample("trajectory", seed=i), "trajectory", run=run.id)
    inputs = {"frames": [store.entry(f"{n}/trajectory").ref for n in ("md[T=300]", "md[T=350]")], "crystal": read}
    run = toy_run("set", inputs, {}, module="training_set")
    with store.transaction() as transaction:
        transaction.record(run)
        transaction.write("set", sample("training_set"), "training_set", run=run.id)
        transaction.tag("set", "paper")
    return store


def test_up_to_the_sources(store: Store) -> None:
    graph = lineage(store, "set")
    assert set(graph.entries()) == {"set@1", "crystal@1", "md[T=300]/trajectory@1", "md[T=350]/trajectory@1"}
    kinds = [node.type for node in graph.nodes.values()]
    assert [kinds.count(kind) for kind in ("run", "engine", "file", "missing")] == [3, 1, 1, 0]
    assert len(graph.edges) == 11


def test_depth_counts_runs(store: Store) -> None:
    assert set(lineage(store, "set", depth=0).nodes) == {"set@1"}
    assert "engine" not in {node.type for node in lineage(store, "set", depth=1).nodes.values()}
    assert len(lineage(store, "crystal", "down", depth=1).entries()) == 4


def test_down_and_both(store: Store) -> None:
    assert set(lineage(store, "crystal", "down").entries()) == set(lineage(store, "set").entries())
    both = lineage(store, "md[T=300]/trajectory", "both")
    assert set(both.entries()) == {"crystal@1", "md[T=300]/trajectory@1", "set@1"}
    assert "came from:" in both.text()
    assert "was used for:" in both.text()


def test_the_text_names_everything_once_in_full(store: Store) -> None:
    text = lineage(store, "set").text()
    lines = text.splitlines()
    assert lines[0] == "set@1  (training_set, 5 records, paper)"
    assert "frames: md[T=300]/trajectory@1" in text
    assert text.count("import: urea.cif") == 1
    assert text.count("(see above)") == 2
    assert "model: tblite:GFN1-xTB" in text


def test_mermaid_and_dot_name_every_node_and_edge(store: Store) -> None:
    graph = lineage(store, "set")
    mermaid, dot = graph.mermaid(), graph.dot()
    assert mermaid.startswith("flowchart LR\n")
    assert mermaid.count("-->") == dot.count(" -> ") == len(graph.edges)
    assert dot.startswith("digraph lineage {")
    assert dot.rstrip().endswith("}")
    for node in graph.nodes.values():
        assert node.title in mermaid
        assert node.title in dot


def test_quotes_in_names_do_no_harm() -> None:
    store = Store.make(MemoryEngine())
    with store.transaction() as transaction:
        transaction.write("a", sample("table"), "table", origin={"file": 'odd "name" <b>$x$\\.csv'})
    graph = lineage(store, "a")
    assert '"odd &quot;name&quot; &lt;b&gt;$x$' in graph.mermaid()
    assert 'odd \\"name\\"' in graph.dot()
    plot(graph)


def test_json(store: Store) -> None:
    record = json.loads(json.dumps(lineage(store, "set").record()))
    assert record["root"] == "set@1"
    assert {"id", "type", "title", "facts"} == set(record["nodes"][0])
    assert {"source", "target", "label"} == set(record["edges"][0])


def test_a_missing_input_is_a_node() -> None:
    store = Store.make(MemoryEngine())
    store.write("a", sample("table"), "table")
    run = toy_run("b", {"table": [store.entry("a").ref]}, {})
    with store.transaction() as transaction:
        transaction.record(run)
        transaction.write("b", sample("table", 2), "table", run=run.id)
        transaction.remove("a")
    graph = lineage(store, "b")
    assert [node.title for node in graph.nodes.values() if node.type == "missing"] == ["a@1"]
    assert "not in this store" in graph.text()


def test_an_unknown_key(store: Store) -> None:
    with pytest.raises(UnknownKey, match="did you mean set"):
        lineage(store, "sett")


def test_layers_go_from_left_to_right(store: Store) -> None:
    graph = lineage(store, "set")
    layers, ways = arranged(graph)
    layer = {name: number for number, names in enumerate(layers) for name in names}
    for edge in graph.edges:
        way = ways[edge.source, edge.target]
        assert [layer[name] for name in way] == list(range(layer[edge.source], layer[edge.target] + 1))
    assert sorted(n for names in layers for n in names if n in graph.nodes) == sorted(graph.nodes)


def test_a_picture(store: Store, tmp_path: Path) -> None:
    for suffix in ("png", "svg"):
        plot(lineage(store, "set"), tmp_path / f"lineage.{suffix}", title="Lineage of set")
    assert (tmp_path / "lineage.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert (tmp_path / "lineage.png").stat().st_size > 10_000
    plot(lineage(store, "set", depth=0))


@pytest.mark.parametrize(
    "text", ["a", "x" * 100, "training/md_sampling/crystal[dyn:T=300.00,p=0.00010]/trajectory@1", ""]
)
def test_long_names_are_wrapped_without_loss(text: str) -> None:
    lines = wrapped(text)
    assert "".join(lines) == text
    assert max(map(len, lines)) <= 31
