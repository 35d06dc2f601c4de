"""Where data came from and what came of them, followed from run to run through a store."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

from ..schemas.canonical import canonical_json
from ..schemas.run import DataRef, Run
from .catalogue import Catalogue, Entry
from .lineage_calls import collapsed
from .lineage_graph import COLOURS, Direction, Graph, Node
from .store import Store

__all__ = ["COLOURS", "Direction", "Graph", "Node", "entry_node", "lineage", "run_node"]


def lineage(
    store: Store, reference: str, direction: Direction = "up", depth: int | None = None, *, calls: bool = False
) -> Graph:
    """Follow what an entry came from, or what came of it.

    A run came from its inputs, and from what it received from its calls.

    Parameters
    ----------
    store : Store
        Where it lies.
    reference : str
        ``KEY`` or ``KEY@VERSION``.
    direction : {"up", "down", "both"}
        ``up``: what it was made from; ``down``: what was made from it.
    depth : int, optional
        How many runs to follow; all by default.
    calls : bool
        Whether every call stands for itself. By default more than three calls of one module by one run are one node
        together with what they made.

    Returns
    -------
    Graph

    Raises
    ------
    UnknownKey
        If there is no such entry.
    """
    entry = store.catalogue.entry(reference)
    graph = Graph(entry.reference, direction)
    graph.nodes[entry.reference] = entry_node(entry)
    if direction in ("up", "both"):
        _follow_up(store.catalogue, entry, graph, depth)
    if direction in ("down", "both"):
        _follow_down(store.catalogue, entry, graph, depth)
    return graph if calls else collapsed(graph)


def entry_node(entry: Entry) -> Node:
    """The node of an entry."""
    facts = {"kind": entry.kind, "digest": entry.digest, "records": entry.records, "created": entry.created}
    facts |= {"run": entry.run, "tags": list(entry.tags), "purged": entry.purged, "origin": dict(entry.origin)}
    return Node(entry.reference, "entry", entry.reference, facts)


def run_node(catalogue: Catalogue, run: Run) -> Node:
    """The node of a run; its fact ``calls`` names the calls whose outputs it received."""
    runs = catalogue.runs
    facts: dict[str, Any] = {
        "module": run.module,
        "module_version": run.module_version,
        "root_key": run.root_key,
        "status": run.status,
        "started": run.started,
        "ended": run.ended,
        "wall_s": run.wall_s,
        "config": run.config,
        "seed": run.seed,
    }
    if run.calls:
        made = [(call, runs[call.run].module if call.run in runs else "") for call in run.calls]
        facts["calls"] = [{"name": call.name, "run": call.run, "module": module} for call, module in made]
    if run.parent in runs:
        facts["caller"] = runs[run.parent].root_key
    return Node(run.id, "run", run.module, facts)


# --- what it came from -----------------------------------------------------------------------------------------------


def _follow_up(catalogue: Catalogue, entry: Entry, graph: Graph, depth: int | None) -> None:
    waiting: deque[tuple[Run, int]] = deque()

    def meet(node: Node, found: Entry | DataRef, maker: str | None, level: int) -> None:
        run = catalogue.runs.get(maker or "")
        if run is not None and (depth is None or level < depth):
            graph.link(run_node(catalogue, run), node, _output_name(run, found))
            waiting.append((run, level))

    if entry.origin:
        graph.link(_file_node(entry), entry_node(entry), "import")
    meet(entry_node(entry), entry, entry.run, 0)
    seen = set[str]()
    while waiting:
        run, level = waiting.popleft()
        if run.id in seen:
            continue
        seen.add(run.id)
        node = run_node(catalogue, run)
        for label, ref, maker in _read(run):
            parent = catalogue.locate(ref)
            source = _missing_node(ref, maker) if parent is None else entry_node(parent)
            graph.link(source, node, label)
            if parent is None:
                meet(source, ref, maker, level + 1)
                continue
            if parent.origin:
                graph.link(_file_node(parent), source, "import")
            meet(source, parent, parent.run, level + 1)
        _link_rest(catalogue, run, graph)


def _read(run: Run) -> Iterator[tuple[str, DataRef, str | None]]:
    """All that a run read: what to call it, where it lies, and for a call the run that made it."""
    for name, refs in run.inputs.items():
        for ref in refs:
            yield name, ref, None
    for call in run.calls:
        for ref in call.outputs.values():
            yield f"call {call.name}", ref, call.run


def _link_rest(catalogue: Catalogue, run: Run, graph: Graph) -> None:
    node = run_node(catalogue, run)
    for name, fingerprint in run.engines.items():
        graph.link(_engine_node(fingerprint), node, name)
    before = catalogue.runs.get(run.continues or "")
    if before is not None and before.id != run.id:
        graph.link(run_node(catalogue, before), node, "continued by")


# --- what came of it -------------------------------------------------------------------------------------------------


def _follow_down(catalogue: Catalogue, entry: Entry, graph: Graph, depth: int | None) -> None:
    readers: dict[str, list[tuple[Run, str]]] = {}
    for run in catalogue.runs.values():
        for label, ref, _ in _read(run):
            found = catalogue.locate(ref)
            if found is not None:
                readers.setdefault(found.reference, []).append((run, label))
    made: dict[str, list[Entry]] = {}
    for other in catalogue.all_versions():
        made.setdefault(other.run or "", []).append(other)
    waiting, seen = deque([(entry, 0)]), set[str]()
    while waiting:
        current, level = waiting.popleft()
        if current.reference in seen or (depth is not None and level >= depth):
            continue
        seen.add(current.reference)
        for run, label in readers.get(current.reference, []):
            node = graph.nodes.get(run.id) or run_node(catalogue, run)
            graph.link(entry_node(current), node, label)
            for child in made.get(run.id, []):
                graph.link(node, entry_node(child), _output_name(run, child))
                waiting.append((child, level + 1))


# --- nodes -----------------------------------------------------------------------------------------------------------


def _output_name(run: Run, found: Entry | DataRef) -> str:
    for name, ref in run.outputs.items():
        if ref.digest == found.digest or (ref.key, ref.version) == (found.key, found.version):
            return name
    return ""


def _missing_node(ref: DataRef, maker: str | None) -> Node:
    name = f"{ref.key}@{ref.version}"
    facts = {"kind": ref.kind, "digest": ref.digest, "run": maker}
    return Node(f"missing:{name}:{ref.digest[:16]}", "missing", name, facts)


def _engine_node(fingerprint: dict[str, Any]) -> Node:
    text = canonical_json(fingerprint)
    parts = (fingerprint.get("engine"), fingerprint.get("method"))
    title = str(
        fingerprint.get("spelling") or fingerprint.get("name") or ":".join(str(p) for p in parts if p) or "engine"
    )
    return Node(f"engine:{text}", "engine", title, dict(fingerprint))


def _file_node(entry: Entry) -> Node:
    origin = entry.origin
    title = str(origin.get("file") or origin.get("name") or origin.get("path") or "import")
    return Node(f"file:{canonical_json(origin)}", "file", title, {k: str(v) for k, v in origin.items()})
