"""Lineage: the graph, its depth and direction, and every way to show it."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest

from h5ml.schemas.errors import UnknownKey
from h5ml.schemas.kinds import SELECTION
from h5ml.schemas.run import CallRef
from h5ml.store.gather import gather
from h5ml.store.lineage import Graph, Node, lineage
from h5ml.store.lineage_plot import arranged, plot, wrapped
from h5ml.store.store import Store
from h5ml.tests.kits.memory import MemoryEngine
from h5ml.tests.kits.samples import sample
from h5ml.tests.kits.tamper import toy_calls, toy_run


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


# ----------------------------------------------------------------------------- calls


@pytest.fixture(scope="module")
def called() -> Store:
    """A crystal, from which a run with five calls of phonons and two of relax made ``qh/out``."""
    store = Store.make(MemoryEngine())
    store.write("crystal", sample("structures"), "structures")
    toy_calls(store, "qh", {"phonons": 5, "relax": 2}, {"crystal": [store.entry("crystal").ref]})
    return store


def test_a_run_came_from_what_it_received_from_its_calls(called: Store) -> None:
    graph = lineage(called, "qh/out", calls=True)
    assert set(graph.entries()) == set(lineage(called, "crystal", "down", calls=True).entries())
    assert set(graph.entries()) == {entry.reference for entry in called.catalogue}
    assert sum(node.type == "run" for node in graph.nodes.values()) == 8
    assert "call phonons/4: qh/phonons/4/table@1" in graph.text()
    assert set(lineage(called, "qh/phonons/3/table", "down").entries()) == {"qh/phonons/3/table@1", "qh/out@1"}
    assert len(lineage(called, "qh/out", calls=True, depth=1).entries()) == 9


def test_many_calls_of_a_module_are_one_node_unless_all_are_asked_for(called: Store, tmp_path: Path) -> None:
    for graph in (lineage(called, "qh/out"), lineage(called, "crystal", "down"), lineage(called, "qh/out", depth=1)):
        (group,) = [node for node in graph.nodes.values() if node.type == "calls"]
        assert group.title == "5 calls of phonons"
        assert group.facts["keys"] == [f"qh/phonons/{i}/table@1" for i in range(5)]
        assert set(graph.entries()) == {"crystal@1", "qh/relax/0/table@1", "qh/relax/1/table@1", "qh/out@1"}
        assert "5 calls of phonons  (5 keys, phonons/0 to phonons/4)" in graph.text()
        assert "5 calls of phonons" in graph.mermaid()
        assert "5 calls of phonons" in graph.dot()
        plot(graph, tmp_path / "calls.png")
    graph = lineage(called, "qh/out")
    run = called.entry("qh/out").run
    assert {(e.source, e.label) for e in graph.edges if e.target == run} == {
        ("crystal@1", "crystal"),
        ('engine:{"name":"ase:emt"}', "model"),
        ("qh/relax/0/table@1", "call relax/0"),
        ("qh/relax/1/table@1", "call relax/1"),
        (f"calls:{run}:phonons", "calls"),
    }


def test_the_calls_of_calls_that_are_one_node_are_drawn_together() -> None:
    store = Store.make(MemoryEngine())
    callers = [toy_calls(store, f"outer/{i}", {"md": 2}, {}) for i in range(4)]
    calls = [
        CallRef(name=str(i), run=run.id, outputs={"out": store.entry(f"outer/{i}/out").ref})
        for i, run in enumerate(callers)
    ]
    run = toy_run("outer", {}, {}, module="outer", calls=calls)
    with store.transaction() as transaction:
        transaction.record(run)
        transaction.write("outer/out", sample("table"), "table", run=run.id)
    titles = [node.title for node in lineage(store, "outer/out").nodes.values() if node.type == "calls"]
    assert titles == ["4 calls of caller", "8 calls of md"]


def test_a_call_whose_outputs_are_gone_is_still_told(called: Store) -> None:
    store = Store.make(MemoryEngine())
    store.write("crystal", sample("structures"), "structures")
    toy_calls(store, "qh", {"phonons": 1}, {"crystal": [store.entry("crystal").ref]})
    with store.transaction() as transaction:
        transaction.remove("qh/phonons/0/table")
    lines = lineage(store, "qh/out").text().splitlines()
    gone = next(number for number, line in enumerate(lines) if "not in this store" in line)
    assert "call phonons/0: qh/phonons/0/table@1" in lines[gone]
    assert "phonons  (version 1, done" in lines[gone + 1]
    assert "crystal: crystal@1" in lines[gone + 2]


def test_a_use_of_a_selection_reaches_the_run_of_its_trajectory(store: Store) -> None:
    """Frames of a trajectory, chosen by reference; what reads the selection came from the run of the trajectory."""
    source = store.entry("md[T=300]/trajectory")
    chosen = {
        "source": [0, 0],
        "source_frame": [2, 0],
        "source_key": [source.reference],
        "source_digest": [source.digest],
    }
    subsample = toy_run("chosen", {"frames": [source.ref]}, {}, module="subsample")
    with store.transaction() as transaction:
        transaction.record(subsample)
        transaction.write("chosen", SELECTION.dataset(chosen), "selection", run=subsample.id)
    gathered = gather(store, store.entry("chosen"))
    assert gathered["source_key"].to_numpy().tolist() == [source.reference]
    labels = toy_run("labels", {"structures": [store.entry("chosen").ref]}, {}, module="dft")
    with store.transaction() as transaction:
        transaction.record(labels)
        transaction.write("labels", sample("labels", 2), "labels", run=labels.id)
    graph = lineage(store, "labels")
    assert graph.nodes[source.run or ""].facts["root_key"] == "md[T=300]"
    assert set(graph.entries()) == {"labels@1", "chosen@1", "md[T=300]/trajectory@1", "crystal@1"}


def test_a_history_of_thousands_of_steps_is_told() -> None:
    nodes = [Node(str(n), "missing", str(n)) for n in range(3000)]
    graph = Graph("0", "up", {"0": nodes[0]})
    for target, source in pairwise(nodes):
        graph.link(source, target)
    assert len(graph.text().splitlines()) == 3000
