"""Layered layout of a directed acyclic graph: parents above children, edges next to the nodes that they pass.

The steps are those of Sugiyama, Tagawa and Toda, *Methods for Visual Understanding of Hierarchical System Structures*,
IEEE Transactions on Systems, Man and Cybernetics, 1981: assign layers, order each layer with few crossings, assign
positions.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

Node = Hashable
Point = tuple[float, float]
SWEEPS = 12
PLACE = 0.3  # the width reserved for an edge that passes a layer


@dataclass(frozen=True)
class Layout:
    """The positions of a graph's nodes and the routes of its edges.

    The unit is the distance between neighbours in a layer, and between layers; y increases downwards.

    Attributes:
        nodes: node -> its centre. edges: (parent, child) -> the points on the edge's route, including both ends.
    """

    nodes: dict[Node, Point]
    edges: dict[tuple[Node, Node], list[Point]]

    @property
    def size(self) -> Point:
        """The largest x and y; the smallest are 0."""
        points = [*self.nodes.values(), *(point for line in self.edges.values() for point in line)]
        return max((x for x, _ in points), default=0.0), max((y for _, y in points), default=0.0)


def layered(graph: Mapping[Node, Sequence[Node]]) -> Layout:
    """Computes the layout of a graph, given as node -> its parents, which are nodes too.

    >>> layered({"z": (), "y": (), "x": ("z", "y")}).nodes
    {'z': (0.0, 0.0), 'y': (1.0, 0.0), 'x': (0.5, 1.0)}
    """
    layer = _layers(graph)
    rows: list[list[Node]] = [[] for _ in range(1 + max(layer.values(), default=-1))]
    above: dict[Node, list[Node]] = {}
    for node, parents in graph.items():
        rows[layer[node]].append(node)
        above[node] = []
        for parent in parents:
            last = parent
            for between in range(layer[parent] + 1, layer[node]):  # a virtual node in each layer that the edge passes
                place = (parent, node, between)
                rows[between].append(place)
                above[place], last = [last], place
            above[node].append(last)
    below: dict[Node, list[Node]] = {node: [] for node in above}
    for node, parents in above.items():
        for parent in parents:
            below[parent].append(node)
    rows = _ordered(rows, above, below)
    where = _positions(rows, above, below, graph)
    edges = {}
    for node, parents in graph.items():
        for parent in parents:
            places = [(parent, node, between) for between in range(layer[parent] + 1, layer[node])]
            edges[parent, node] = [where[place] for place in (parent, *places, node)]
    return Layout({node: where[node] for node in graph}, edges)


def _layers(graph: Mapping[Node, Sequence[Node]]) -> dict[Node, int]:
    """Node -> its layer: below all its parents; a node without parents is directly above its first child."""
    layer: dict[Node, int] = {}

    def below_parents(node: Node) -> int:
        if node not in layer:
            layer[node] = 1 + max((below_parents(parent) for parent in graph[node]), default=-1)
        return layer[node]

    for node in graph:
        below_parents(node)
    for node, parents in graph.items():
        children = [layer[child] for child, up in graph.items() if node in up]
        if not parents and children:
            layer[node] = min(children) - 1
    return layer


def _ordered(
    rows: list[list[Node]], above: Mapping[Node, Sequence[Node]], below: Mapping[Node, Sequence[Node]]
) -> list[list[Node]]:
    """Orders the rows with few crossings. Sweeps down and up sort each row by the mean place of its neighbours, and the
    order with the fewest crossings is kept; then adjacent nodes are swapped as long as that reduces the crossings."""
    best, rows = [*map(list, rows)], [*map(list, rows)]
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        neighbours = above if down else below
        order = range(1, len(rows)) if down else range(len(rows) - 2, -1, -1)
        for i in order:
            place = {node: k for k, node in enumerate(rows[i - 1 if down else i + 1])}
            mean = {}
            for k, node in enumerate(rows[i]):
                found = [place[other] for other in neighbours[node]]
                mean[node] = sum(found) / len(found) if found else float(k)
            rows[i].sort(key=mean.__getitem__)
        if _crossings(rows, above) < _crossings(best, above):
            best = [*map(list, rows)]
    better = True
    while better:
        better = False
        for row in best:
            for k in range(len(row) - 1):
                now = _crossings(best, above)
                row[k], row[k + 1] = row[k + 1], row[k]
                if _crossings(best, above) < now:
                    better = True
                else:
                    row[k], row[k + 1] = row[k + 1], row[k]
    return best


def _crossings(rows: Sequence[Sequence[Node]], above: Mapping[Node, Sequence[Node]]) -> int:
    """The number of pairs of edges that cross."""
    total = 0
    for upper, lower in itertools.pairwise(rows):
        place = {node: k for k, node in enumerate(upper)}
        lines = [(place[parent], k) for k, node in enumerate(lower) for parent in above[node]]
        total += sum((a - c) * (b - d) < 0 for i, (a, b) in enumerate(lines) for c, d in lines[:i])
    return total


def _positions(
    rows: Sequence[Sequence[Node]],
    above: Mapping[Node, Sequence[Node]],
    below: Mapping[Node, Sequence[Node]],
    nodes: Mapping[Node, Sequence[Node]],
) -> dict[Node, Point]:
    """Node or virtual node -> its point: as close as possible to its neighbours' mean, in the order of the row and
    without overlap (nodes are 1 wide, virtual nodes `PLACE`). Edges that pass several layers are pulled straight."""
    x = {node: k - (len(row) - 1) / 2 for row in rows for k, node in enumerate(row)}
    for sweep in range(4 * SWEEPS):
        for row in rows if sweep % 2 == 0 else [*reversed(rows)]:
            wanted, weights, widths = [], [], []
            for node in row:
                found = [*above[node], *below[node]]
                pull = [9.0 if node not in nodes and other not in nodes else 1.0 for other in found]
                total = sum(pull)
                mean = sum(w * x[other] for w, other in zip(pull, found, strict=True)) / total if found else x[node]
                wanted.append(mean)
                weights.append(total or 1.0)
                widths.append(1.0 if node in nodes else PLACE)
            x.update(zip(row, _apart(wanted, weights, widths), strict=True))
    left = min(x.values(), default=0.0)
    return {node: (round(x[node] - left, 3), float(i)) for i, row in enumerate(rows) for node in row}


def _apart(wanted: Sequence[float], weights: Sequence[float], widths: Sequence[float]) -> list[float]:
    """The centres of adjacent, non-overlapping intervals that are closest to `wanted`, in weighted least squares.

    Minus the space that the earlier intervals need, they are the isotonic regression of the wanted centres, computed by
    pooling adjacent violators.

    >>> _apart([0.0, 0.0, 5.0], [1.0, 1.0, 1.0], [1.0, 1.0, 2.0])
    [-0.5, 0.5, 5.0]
    """
    needed = [0.0, *itertools.accumulate((a + b) / 2 for a, b in itertools.pairwise(widths))]
    pools: list[tuple[float, float, int]] = []  # mean, weight, size
    for value, weight, before in zip(wanted, weights, needed, strict=False):
        pool = (value - before, weight, 1)
        while pools and pools[-1][0] >= pool[0]:
            mean, total, number = pools.pop()
            both = total + pool[1]
            pool = ((mean * total + pool[0] * pool[1]) / both, both, number + pool[2])
        pools.append(pool)
    flat = [mean for mean, _, number in pools for _ in range(number)]
    return [value + before for value, before in zip(flat, needed, strict=False)]
