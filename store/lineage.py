"""Where data came from and what came of them: a graph of entries, runs, engines and files, and ways to show it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ..schemas.canonical import canonical_json
from ..schemas.run import DataRef, Run
from .catalogue import Entry
from .store import Store

NodeType = Literal["entry", "missing", "run", "engine", "file"]
Direction = Literal["up", "down", "both"]


@dataclass(frozen=True, slots=True)
class Node:
    """An entry, a run, an engine, or a file that was imported.

    Attributes
    ----------
    id : str
        ``KEY@VERSION``, the id of a run, or ``engine:...``, ``file:...``.
    type : {"entry", "missing", "run", "engine", "file"}
        ``missing``: an input that is not in this store.
    title : str
        What to call it.
    facts : dict
        Details: kind, digest, records, tags; module, status, times.
    """

    id: str
    type: NodeType
    title: str
    facts: dict[str, Any] = field(default_factory=dict, hash=False)

    @property
    def details(self) -> str:
        """The facts that a reader wants first, in a few words."""
        facts = self.facts
        if self.type == "entry":
            records = f"{facts['records']} records" if facts.get("records") else ""
            words = [facts["kind"], records, "purged" if facts.get("purged") else "", ", ".join(facts.get("tags", []))]
        elif self.type == "run":
            words = [facts["status"], str(facts.get("started", ""))[:16].replace("T", " "), self.id[:8]]
        elif self.type == "missing":
            words = [facts.get("kind", ""), "not in this store"]
        else:
            words = [facts.get("digest", "")[:12]]
        return ", ".join(word for word in words if word)


@dataclass(frozen=True, slots=True)
class Edge:
    """Data that flow from one node to another; the label is the name of the input or output."""

    source: str
    target: str
    label: str = ""


@dataclass(slots=True)
class Graph:
    """Lineage.

    Attributes
    ----------
    root : str
        Id of the node that was asked for.
    direction : {"up", "down", "both"}
        Which way it was followed.
    nodes : dict of str to Node
        By id.
    edges : list of Edge
        In the direction of the data.
    """

    root: str
    direction: Direction
    nodes: dict[str, Node] = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)
    _known: set[Edge] = field(default_factory=set, repr=False)

    def link(self, source: Node, target: Node, label: str = "") -> None:
        """Add an edge, and its nodes where they are new."""
        self.nodes.setdefault(source.id, source)
        self.nodes.setdefault(target.id, target)
        edge = Edge(source.id, target.id, label)
        if edge not in self._known:
            self._known.add(edge)
            self.edges.append(edge)

    def entries(self) -> list[str]:
        """References of all entries in it."""
        return [node.id for node in self.nodes.values() if node.type == "entry"]

    # --- showing -----------------------------------------------------------------------------------------------------

    def record(self) -> dict[str, Any]:
        """As plain JSON types."""
        return {
            "root": self.root,
            "direction": self.direction,
            "nodes": [asdict(node) for node in self.nodes.values()],
            "edges": [asdict(edge) for edge in self.edges],
        }

    def text(self) -> str:
        """A tree of lines; what appears a second time is not drawn out again."""
        ways: tuple[Direction, ...] = ("up", "down") if self.direction == "both" else (self.direction,)
        lines = [_line(self.nodes[self.root])]
        for way in ways:
            if len(ways) > 1:
                lines.append("came from:" if way == "up" else "was used for:")
            lines += _branches(self, self.root, way, "", {self.root})
        return "\n".join(lines)

    def mermaid(self) -> str:
        """A Mermaid flowchart, as GitHub and many editors draw it."""
        shapes = {
            "entry": ("[", "]"),
            "missing": ("[", "]"),
            "run": ("([", "])"),
            "engine": ("{{", "}}"),
            "file": ("[/", "/]"),
        }
        numbers = {name: f"n{i}" for i, name in enumerate(self.nodes)}
        lines = ["flowchart LR"]
        for name, node in self.nodes.items():
            opening, closing = shapes[node.type]
            label = f"{_quoted(node.title)}<br/><small>{_quoted(node.details)}</small>"
            lines.append(f'    {numbers[name]}{opening}"{label}"{closing}:::{node.type}')
        for edge in self.edges:
            label = f'|"{_quoted(edge.label)}"|' if edge.label else ""
            lines.append(f"    {numbers[edge.source]} -->{label} {numbers[edge.target]}")
        lines += [f"    classDef {kind} fill:{colour},stroke:#555,color:#111" for kind, colour in COLOURS.items()]
        return "\n".join(lines) + "\n"

    def dot(self) -> str:
        """A graph for Graphviz."""
        shapes = {"entry": "box", "missing": "box", "run": "ellipse", "engine": "hexagon", "file": "note"}
        lines = ["digraph lineage {", "    rankdir=LR;", '    node [style=filled, fontname="Helvetica"];']
        for node in self.nodes.values():
            label = _escaped(node.title) + (f"\\n{_escaped(node.details)}" if node.details else "")
            look = f'label="{label}", shape={shapes[node.type]}, fillcolor="{COLOURS[node.type]}"'
            lines.append(f'    "{_escaped(node.id)}" [{look}];')
        for edge in self.edges:
            label = f' [label="{_escaped(edge.label)}"]' if edge.label else ""
            lines.append(f'    "{_escaped(edge.source)}" -> "{_escaped(edge.target)}"{label};')
        return "\n".join([*lines, "}"]) + "\n"


COLOURS = {"entry": "#cfe3f7", "missing": "#f6cfcf", "run": "#fde9c4", "engine": "#d9ead0", "file": "#e6e0f3"}


def _quoted(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace(">", "&gt;")


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")


def _line(node: Node) -> str:
    return f"{node.title}  ({node.details})" if node.details else node.title


def _branches(graph: Graph, name: str, way: Direction, indent: str, drawn: set[str]) -> Iterator[str]:
    near = [
        (e.source if way == "up" else e.target, e.label)
        for e in graph.edges
        if name == (e.target if way == "up" else e.source)
    ]
    for number, (other, label) in enumerate(near):
        last = number == len(near) - 1
        node = graph.nodes[other]
        again = "  (see above)" if other in drawn and _has_more(graph, other, way) else ""
        told = f"{label}: " if label and node.type != "run" else ""
        yield f"{indent}{'└─ ' if last else '├─ '}{told}{_line(node)}{again}"
        if other not in drawn:
            drawn.add(other)
            yield from _branches(graph, other, way, indent + ("   " if last else "│  "), drawn)


def _has_more(graph: Graph, name: str, way: Direction) -> bool:
    return any(name == (edge.target if way == "up" else edge.source) for edge in graph.edges)


# --- building --------------------------------------------------------------------------------------------------------


def lineage(store: Store, reference: str, direction: Direction = "up", depth: int | None = None) -> Graph:
    """Follow what an entry came from, or what came of it.

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
        _follow_up(store, entry, graph, depth)
    if direction in ("down", "both"):
        _follow_down(store, entry, graph, depth)
    return graph


def entry_node(entry: Entry) -> Node:
    """The node of an entry."""
    facts = {"kind": entry.kind, "digest": entry.digest, "records": entry.records, "created": entry.created}
    facts |= {"run": entry.run, "tags": list(entry.tags), "purged": entry.purged, "origin": dict(entry.origin)}
    return Node(entry.reference, "entry", entry.reference, facts)


def run_node(run: Run) -> Node:
    """The node of a run."""
    facts = {
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
    return Node(run.id, "run", f"{run.module} {run.module_version}", facts)


def _follow_up(store: Store, entry: Entry, graph: Graph, depth: int | None) -> None:
    waiting, seen = [(entry, 0)], set[str]()
    while waiting:
        current, level = waiting.pop(0)
        if current.reference in seen:
            continue
        seen.add(current.reference)
        if current.origin:
            graph.link(_file_node(current), entry_node(current), "import")
        run = store.catalogue.runs.get(current.run or "")
        if run is None or (depth is not None and level >= depth):
            continue
        graph.link(run_node(run), entry_node(current), _output_name(run, current))
        waiting += [(parent, level + 1) for parent in _link_inputs(store, run, graph)]


def _link_inputs(store: Store, run: Run, graph: Graph) -> list[Entry]:
    node = run_node(run)
    found = []
    for name, refs in run.inputs.items():
        for ref in refs:
            parent = store.catalogue.locate(ref)
            graph.link(entry_node(parent) if parent is not None else _missing_node(ref), node, name)
            found += [parent] if parent is not None else []
    for name, fingerprint in run.engines.items():
        graph.link(_engine_node(fingerprint), node, name)
    before = store.catalogue.runs.get(run.continues or "")
    if before is not None and before.id != run.id:
        graph.link(run_node(before), node, "continued by")
    return found


def _follow_down(store: Store, entry: Entry, graph: Graph, depth: int | None) -> None:
    catalogue = store.catalogue
    readers: dict[str, list[tuple[Run, str]]] = {}
    for run in catalogue.runs.values():
        for name, refs in run.inputs.items():
            for found in (catalogue.locate(ref) for ref in refs):
                if found is not None:
                    readers.setdefault(found.reference, []).append((run, name))
    made: dict[str, list[Entry]] = {}
    for other in catalogue.all_versions():
        made.setdefault(other.run or "", []).append(other)
    waiting, seen = [(entry, 0)], set[str]()
    while waiting:
        current, level = waiting.pop(0)
        if current.reference in seen or (depth is not None and level >= depth):
            continue
        seen.add(current.reference)
        for run, name in readers.get(current.reference, []):
            graph.link(entry_node(current), run_node(run), name)
            for child in made.get(run.id, []):
                graph.link(run_node(run), entry_node(child), _output_name(run, child))
                waiting.append((child, level + 1))


def _output_name(run: Run, entry: Entry) -> str:
    for name, ref in run.outputs.items():
        if ref.digest == entry.digest or (ref.key, ref.version) == (entry.key, entry.version):
            return name
    return ""


def _missing_node(ref: DataRef) -> Node:
    name = f"{ref.key}@{ref.version}"
    return Node(f"missing:{name}:{ref.digest[:16]}", "missing", name, {"kind": ref.kind, "digest": ref.digest})


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
