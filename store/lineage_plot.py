"""Lineage as a picture: layers from left to right, few crossings, text that can be read."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .lineage_graph import COLOURS, Graph, Node

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH, GAP, LINE, PAD = 2.6, 1.1, 0.19, 0.22  # inches: a box, the way between layers, a line of text, air in a box
Place = tuple[float, float]


def plot(graph: Graph, path: str | Path | None = None, *, title: str | None = None) -> Figure:
    """Draw a graph.

    Parameters
    ----------
    graph : Graph
        From ``lineage``.
    path : path, optional
        Where to save it; the suffix says the format (png, svg, pdf).
    title : str, optional
        Above it.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    layers, ways = arranged(graph)
    heights = {name: _height(graph.nodes[name]) if name in graph.nodes else 0.0 for names in layers for name in names}
    tallest = max(sum(heights[n] + 0.35 for n in layer) for layer in layers)
    width, height = len(layers) * (WIDTH + GAP) - GAP + 0.6, tallest + (1.0 if title else 0.6)
    figure = Figure(figsize=(max(4.0, width), max(1.5, height)), dpi=150)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, max(4.0, width))
    axes.set_ylim(0, max(1.5, height))
    axes.axis("off")
    places = _places(layers, heights, max(1.5, height) - (0.4 if title else 0))
    _draw_edges(axes, graph, places, ways)
    for name, node in graph.nodes.items():
        _draw_node(axes, node, places[name], heights[name], chosen=name == graph.root)
    if title:
        axes.text(0.3, max(1.5, height) - 0.3, title, fontsize=11, fontweight="bold", va="center", parse_math=False)
    if path is not None:
        figure.savefig(path)
    return figure


def arranged(graph: Graph, sweeps: int = 8) -> tuple[list[list[str]], dict[tuple[str, str], list[str]]]:
    """Put nodes into layers, neighbours at similar heights.

    Returns
    -------
    tuple of list and dict
        Names by layer, from top to bottom, and the way of each edge: one name in every layer that it passes. Names
        that are no nodes keep room for a long edge to pass between the boxes.
    """
    layer = _layers(graph)
    layers: list[list[str]] = [[] for _ in range(max(layer.values(), default=0) + 1)]
    for name in graph.nodes:
        layers[layer[name]].append(name)
    ways: dict[tuple[str, str], list[str]] = {}
    for edge in graph.edges:
        between = [f"\0{edge.source}\0{edge.target}\0{n}" for n in range(layer[edge.source] + 1, layer[edge.target])]
        if (edge.source, edge.target) not in ways:
            for number, name in enumerate(between, layer[edge.source] + 1):
                layers[number].append(name)
        ways[edge.source, edge.target] = [edge.source, *between, edge.target]
    before: dict[str, list[str]] = {name: [] for names in layers for name in names}
    after: dict[str, list[str]] = {name: [] for names in layers for name in names}
    for way in ways.values():
        for source, target in pairwise(way):
            before[target].append(source)
            after[source].append(target)
    for sweep in range(sweeps):
        forward = sweep % 2 == 0
        rank = {name: i - len(names) / 2 for names in layers for i, name in enumerate(names)}
        for names in layers if forward else reversed(layers):
            near = before if forward else after
            weights = {n: sum(rank[m] for m in near[n]) / len(near[n]) if near[n] else rank[n] for n in names}
            names.sort(key=weights.__getitem__)
            rank.update({name: i - len(names) / 2 for i, name in enumerate(names)})
    return layers, ways


def _layers(graph: Graph) -> dict[str, int]:
    """The longest way to each node; edges that close a circle are passed over."""
    layer = dict.fromkeys(graph.nodes, 0)
    for _ in range(len(graph.nodes)):
        changed = False
        for edge in graph.edges:
            if layer[edge.target] <= layer[edge.source] < len(graph.nodes):
                layer[edge.target] = layer[edge.source] + 1
                changed = True
        if not changed:
            break
    last = max(layer.values(), default=0)
    for name in graph.nodes:  # sources stand directly before what reads them
        if not any(edge.target == name for edge in graph.edges):
            readers = [layer[edge.target] for edge in graph.edges if edge.source == name]
            layer[name] = min(readers, default=last + 1) - 1 if readers else layer[name]
    used = {number: i for i, number in enumerate(sorted(set(layer.values())))}
    return {name: used[number] for name, number in layer.items()}


def _places(layers: list[list[str]], heights: dict[str, float], height: float) -> dict[str, Place]:
    """The middle of each box."""
    places = {}
    for number, names in enumerate(layers):
        total = sum(heights[name] for name in names) + 0.35 * (len(names) - 1)
        y = (height + total) / 2
        for name in names:
            places[name] = (0.3 + number * (WIDTH + GAP) + WIDTH / 2, y - heights[name] / 2)
            y -= heights[name] + 0.35
    return places


def wrapped(text: str, width: int = 30) -> list[str]:
    """Lines of a key, broken after slashes, commas and colons where it is long."""
    lines, line, part = [], "", ""
    for character in text:
        part += character
        if character in "/,:; _" or len(part) >= width:
            if line and len(line) + len(part) > width:
                lines.append(line)
                line = ""
            line, part = line + part, ""
    if line and len(line) + len(part) > width:
        lines.append(line)
        line = ""
    return [*lines, line + part]


def _height(node: Node) -> float:
    return LINE * (len(wrapped(node.title)) + (len(wrapped(node.details, 36)) if node.details else 0)) + PAD


def _draw_node(axes: Any, node: Node, place: Place, height: float, *, chosen: bool) -> None:
    from matplotlib.patches import FancyBboxPatch

    x, y = place
    style = (
        "round,pad=0,rounding_size=0.2" if node.type in ("run", "calls", "engine") else "round,pad=0,rounding_size=0.05"
    )
    axes.add_patch(
        FancyBboxPatch(
            (x - WIDTH / 2, y - height / 2),
            WIDTH,
            height,
            boxstyle=style,
            facecolor=COLOURS[node.type],
            edgecolor="#b03a2e" if chosen else "#555555",
            linewidth=2.0 if chosen else 0.9,
            linestyle="--" if node.type == "missing" else "-",
            zorder=2,
        )
    )
    titles, details = wrapped(node.title), wrapped(node.details, 36) if node.details else []
    top = y + height / 2 - PAD / 2 - LINE / 2
    title_style: dict[str, Any] = {"fontsize": 8.5, "fontweight": "bold"}
    detail_style: dict[str, Any] = {"fontsize": 7, "color": "#444444"}
    lines = [(line, title_style) for line in titles] + [(line, detail_style) for line in details]
    for number, (line, font) in enumerate(lines):
        axes.text(x, top - number * LINE, line, ha="center", va="center", zorder=3, parse_math=False, **font)


def _draw_edges(axes: Any, graph: Graph, places: dict[str, Place], ways: dict[tuple[str, str], list[str]]) -> None:
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path as Curve

    told: set[tuple[str, str]] = set()
    for edge in graph.edges:
        way = ways[edge.source, edge.target]
        corners, codes = [(places[way[0]][0] + WIDTH / 2, places[way[0]][1])], [Curve.MOVETO]
        for name in way[1:]:
            (x0, y0), (x, y) = corners[-1], places[name]
            x1 = x - WIDTH / 2
            bend = max(0.4, (x1 - x0) / 2)
            corners += [(x0 + bend, y0), (x1 - bend, y), (x1, y)]
            codes += [Curve.CURVE4] * 3
            if name != way[-1]:
                corners.append((x + WIDTH / 2, y))
                codes.append(Curve.LINETO)
        curve = Curve(corners, codes)
        axes.add_patch(FancyArrowPatch(path=curve, arrowstyle="-|>", mutation_scale=10, color="#777777", zorder=1))
        if edge.label and (edge.target, edge.label) not in told:
            told.add((edge.target, edge.label))
            (x0, y0), (x1, y1) = corners[-4], corners[-1]
            label = {
                "fontsize": 6.5,
                "color": "#555555",
                "ha": "right",
                "va": "bottom",
                "zorder": 3,
                "parse_math": False,
            }
            axes.text(x1 - 0.3 * GAP, y1 + 0.25 * (y0 - y1), "\n".join(wrapped(edge.label, 18)), **label)
