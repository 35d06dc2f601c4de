"""Many calls of one module by one run, drawn as one node of the lineage."""

from __future__ import annotations

from collections import deque
from typing import Any

from .lineage_graph import Graph, Node, counted

MOST_CALLS = 3
"""So many calls of one module by one run are still drawn one by one."""


def collapsed(graph: Graph, most: int = MOST_CALLS) -> Graph:
    """The same graph, with one node in place of more than ``most`` calls of a module by a run and what they made.

    What calls that stand behind one node called themselves is drawn together too, however few they are. The entry that
    was asked for, and the run that made it, always stand for themselves.
    """
    group_of = _groups(graph, most)
    if not group_of:
        return graph
    place = {name: _group_at(node, group_of) for name, node in graph.nodes.items()}
    place[graph.root] = None
    groups = _group_nodes(graph, group_of, place)
    found = Graph(graph.root, graph.direction, {graph.root: graph.nodes[graph.root]})
    shown = {name: groups[at] if at else graph.nodes[name] for name, at in place.items()}
    for edge in graph.edges:
        source, target = shown[edge.source], shown[edge.target]
        if source is not target:
            received = source.type == "calls" and edge.label.startswith("call ")
            found.link(source, target, "calls" if received else edge.label)
    return found


def _groups(graph: Graph, most: int) -> dict[str, str]:
    """Ids of runs that do not stand for themselves, with the id of the node that stands for them."""
    maker = graph.nodes[graph.root].facts.get("run")
    present = {node.id if node.type == "run" else node.facts.get("run") for node in graph.nodes.values()} - {maker}
    callers = {name: node.facts["calls"] for name, node in graph.nodes.items() if node.facts.get("calls")}
    called = {call["run"] for calls in callers.values() for call in calls}
    group_of: dict[str, str] = {}
    waiting, seen = deque(sorted(callers, key=called.__contains__)), set[str]()  # those that nobody called come first
    while waiting:
        caller = waiting.popleft()
        if caller in seen:
            continue
        seen.add(caller)
        modules: dict[str, list[str]] = {}
        for call in callers[caller]:
            if call["run"] in present and call["run"] not in group_of:
                modules.setdefault(call["module"], []).append(call["run"])
        for module, runs in modules.items():
            if caller in group_of or len(set(runs)) > most:
                group_of |= dict.fromkeys(runs, f"calls:{group_of.get(caller, caller)}:{module}")
            waiting.extendleft(run for run in runs if run in callers)
    return group_of


def _group_at(node: Node, group_of: dict[str, str]) -> str | None:
    """The group that a run, or an entry that it made, belongs to."""
    return group_of.get(node.id if node.type == "run" else node.facts.get("run") or "")


def _group_nodes(graph: Graph, group_of: dict[str, str], place: dict[str, str | None]) -> dict[str, Node]:
    facts: dict[str, dict[str, Any]] = {}
    for run, group in group_of.items():
        known = facts.setdefault(group, {"module": "", "names": [], "runs": [], "keys": [], "gone": []})
        known["runs"].append(run)
    calls = [call for node in graph.nodes.values() for call in node.facts.get("calls", [])]
    for call in calls:
        if call["run"] in group_of:
            known = facts[group_of[call["run"]]]
            known["module"] = call["module"]
            known["names"] += [call["name"]] if call["name"] not in known["names"] else []
    for name, at in place.items():
        node = graph.nodes[name]
        if at is not None and node.type in ("entry", "missing"):
            facts[at]["keys" if node.type == "entry" else "gone"].append(node.title)
    return {
        group: Node(group, "calls", f"{counted(len(known['runs']), 'call')} of {known['module'] or 'a module'}", known)
        for group, known in facts.items()
    }
