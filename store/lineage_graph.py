"""The graph of lineage: entries, runs, engines and files, and ways to show it as text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

NodeType = Literal["entry", "missing", "run", "calls", "engine", "file"]
Direction = Literal["up", "down", "both"]


@dataclass(frozen=True, slots=True)
class Node:
    """An entry, a run, many calls of one run, an engine, or a file that was imported.

    Attributes
    ----------
    id : str
        ``KEY@VERSION``, the id of a run, or ``calls:...``, ``engine:...``, ``file:...``.
    type : {"entry", "missing", "run", "calls", "engine", "file"}
        ``missing``: an input that is not in this store; ``calls``: calls of one module, with what they made.
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
            records = counted(facts["records"], "record") if facts.get("records") else ""
            words = [facts["kind"], records, "purged" if facts.get("purged") else "", ", ".join(facts.get("tags", []))]
        elif self.type == "run":
            words = [f"version {facts['module_version']}", facts["status"]]
            words += [str(facts.get("started", ""))[:16].replace("T", " "), self.id[:8]]
            words += [f"for {facts['root_key']}"] if facts["status"] != "done" else []
            words += [f"called by {facts['caller']}"] if facts.get("caller") else []
        elif self.type == "calls":
            words = [counted(len(facts["keys"]), "key"), f"{len(facts['gone'])} gone" if facts["gone"] else ""]
            words += [f"{facts['names'][0]} to {facts['names'][-1]}"]
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
            lines += _branches(self, way)
        return "\n".join(lines)

    def mermaid(self) -> str:
        """A Mermaid flowchart, as GitHub and many editors draw it."""
        shapes = {
            "entry": ("[", "]"),
            "missing": ("[", "]"),
            "run": ("([", "])"),
            "calls": ("[[", "]]"),
            "engine": ("{{", "}}"),
            "file": ("[/", "/]"),
        }
        numbers = {name: f"n{i}" for i, name in enumerate(self.nodes)}
        lines = ["flowchart LR"]
        for name, node in self.nodes.items():
            opening, closing = shapes[node.type]
            label = _quoted(node.title) + (f"<br/><small>{_quoted(node.details)}</small>" if node.details else "")
            lines.append(f'    {numbers[name]}{opening}"{label}"{closing}:::{node.type}')
        for edge in self.edges:
            label = f'|"{_quoted(edge.label)}"|' if edge.label else ""
            lines.append(f"    {numbers[edge.source]} -->{label} {numbers[edge.target]}")
        lines += [f"    classDef {kind} fill:{colour},stroke:#555,color:#111" for kind, colour in COLOURS.items()]
        return "\n".join(lines) + "\n"

    def dot(self) -> str:
        """A graph for Graphviz."""
        shapes = {"entry": "box", "missing": "box", "run": "ellipse"}
        shapes |= {"calls": "box3d", "engine": "hexagon", "file": "note"}
        lines = ["digraph lineage {", "    rankdir=LR;", '    node [style=filled, fontname="Helvetica"];']
        for node in self.nodes.values():
            label = _escaped(node.title) + (f"\\n{_escaped(node.details)}" if node.details else "")
            look = f'label="{label}", shape={shapes[node.type]}, fillcolor="{COLOURS[node.type]}"'
            lines.append(f'    "{_escaped(node.id)}" [{look}];')
        for edge in self.edges:
            label = f' [label="{_escaped(edge.label)}"]' if edge.label else ""
            lines.append(f'    "{_escaped(edge.source)}" -> "{_escaped(edge.target)}"{label};')
        return "\n".join([*lines, "}"]) + "\n"


COLOURS = {
    "entry": "#cfe3f7",
    "missing": "#f6cfcf",
    "run": "#fde9c4",
    "calls": "#f7d9a8",
    "engine": "#d9ead0",
    "file": "#e6e0f3",
}


def counted(number: int, noun: str) -> str:
    """A number with its noun: ``1 key``, ``2 keys``."""
    return f"{number} {noun}{'s' * (number != 1)}"


def _quoted(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace(">", "&gt;")


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")


def _line(node: Node) -> str:
    return f"{node.title}  ({node.details})" if node.details else node.title


def _branches(graph: Graph, way: Direction) -> Iterator[str]:
    """Lines below the root, each node drawn out where it comes first; no recursion, for long histories."""
    near: dict[str, list[tuple[str, str]]] = {}
    for edge in graph.edges:
        here, there = (edge.target, edge.source) if way == "up" else (edge.source, edge.target)
        near.setdefault(here, []).append((there, edge.label))
    drawn = {graph.root}
    waiting = [("", *branch) for branch in _ends(near.get(graph.root, []))]
    while waiting:
        indent, other, label, last = waiting.pop()
        node = graph.nodes[other]
        again = "  (see above)" if other in drawn and other in near else ""
        told = f"{label}: " if label and node.type != "run" and label != node.type else ""
        yield f"{indent}{'└─ ' if last else '├─ '}{told}{_line(node)}{again}"
        if other not in drawn:
            drawn.add(other)
            deeper = indent + ("   " if last else "│  ")
            waiting += [(deeper, *branch) for branch in _ends(near.get(other, []))]


def _ends(near: list[tuple[str, str]]) -> list[tuple[str, str, bool]]:
    """Branches from the last to the first, as a stack needs them, and whether each is the last one."""
    return [(*branch, number == 0) for number, branch in enumerate(reversed(near))]
