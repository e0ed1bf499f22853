"""Layers, few crossings, and edges that pass beside boxes: for graphs of twelve nodes and more."""

import itertools
import random

import pytest

from pyro_semivae.drawing import layout as module
from pyro_semivae.drawing.boxes import arranged
from pyro_semivae.drawing.layout import layered
from pyro_semivae.drawing.sites import Site


def some_graph(seed, nodes=14):
    """Node -> up to three parents before it."""
    rng = random.Random(seed)
    names = [f"v{i}" for i in range(nodes)]
    return {name: tuple(rng.sample(names[:i], min(i, rng.randint(0, 3)))) for i, name in enumerate(names)}


def crossings(drawn):
    """Of pieces of edges between two layers, counted pair by pair."""
    pieces = [piece for line in drawn.edges.values() for piece in itertools.pairwise(line)]
    return sum(
        (a[0] - c[0]) * (b[0] - d[0]) < -1e-9 and (a[1], b[1]) == (c[1], d[1])
        for (a, b), (c, d) in itertools.combinations(pieces, 2)
    )


@pytest.mark.parametrize("seed", range(8))
def test_parents_are_above_and_nodes_apart(seed):
    graph = some_graph(seed)
    found = layered(graph)
    assert set(found.nodes) == set(graph) and set(found.edges) == {(p, c) for c, up in graph.items() for p in up}
    for (parent, child), line in found.edges.items():
        assert line[0] == found.nodes[parent] and line[-1] == found.nodes[child]
        assert [y for _, y in line] == [line[0][1] + i for i in range(len(line))], "a point in each layer"
    for one, other in itertools.combinations(found.nodes.values(), 2):
        assert one[1] != other[1] or abs(one[0] - other[0]) > 0.999
    assert min(x for x, _ in found.nodes.values()) >= 0 and found.size[1] == max(y for _, y in found.nodes.values())


def test_a_root_is_right_above_its_first_child():
    found = layered({"a": (), "b": ("a",), "c": ("b",), "late": (), "d": ("c", "late")})
    assert found.nodes["late"][1] == 2 and found.nodes["a"][1] == 0


def test_what_can_be_drawn_without_a_crossing_is():
    ladder = {"a": (), "b": (), "c": (), "d": ("c",), "e": ("b",), "f": ("a",), "g": ("d", "f"), "h": ("e",)}
    assert crossings(layered(ladder)) <= 1
    trees = {"r": (), **{f"l{i}": ("r",) for i in range(3)}, **{f"m{i}": (f"l{2 - i}",) for i in range(3)}}
    assert crossings(layered(trees)) == 0
    adgm = {"y": (), "z": (), "x": ("y", "z"), "a": ("x", "y", "z")}
    assert crossings(layered(adgm)) == 0


def test_sweeps_and_exchanges_of_neighbours_leave_few_crossings(monkeypatch):
    """Of ten graphs of eight nodes and ten of fourteen; exchanges alone get stuck."""
    graphs = [some_graph(seed, nodes) for nodes in (8, 14) for seed in range(10)]
    total = sum(crossings(layered(graph)) for graph in graphs)
    monkeypatch.setattr(module, "SWEEPS", 0)
    assert total < 0.75 * sum(crossings(layered(graph)) for graph in graphs)


def points_of(curve, number=30):
    """Points on a curve of cubic Bezier pieces."""
    for i in range(0, len(curve) - 1, 3):
        four = curve[i : i + 4]
        for k in range(number + 1):
            t = k / number
            weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3)
            yield tuple(sum(w * p[axis] for w, p in zip(weights, four, strict=True)) for axis in (0, 1))


@pytest.mark.parametrize("seed", range(8))
def test_no_edge_touches_a_box_that_is_not_its_end(seed):
    graph = some_graph(seed)
    sites = {n: Site(n, up, "Normal", ("a_long_owner",), (("data", 7),), "sampled") for n, up in graph.items()}
    drawing = arranged(sites)
    for (parent, child), curve in drawing.curves.items():
        for x, y in points_of(curve):
            assert 0 <= x <= drawing.width and 0 <= y <= drawing.height
            for name, box in drawing.boxes.items():
                left, right, bottom, top = box.sides
                inside = left - 0.02 < x < right + 0.02 and bottom - 0.02 < y < top + 0.02
                assert not inside or name in (parent, child), (parent, child, name)
    (plate,) = drawing.plates.values()
    assert all(plate[0] < b.sides[0] and plate[1] > b.sides[1] for b in drawing.boxes.values())


def test_a_plate_around_some_sites_is_drawn_where_no_other_is_in_it():
    rows, entries = ("data", 7), ("entries of y", 3)
    sites = {
        "y": Site("y", (), "Bernoulli", plates=(rows, entries)),
        "z_c": Site("z_c", ("y",), "Normal", plates=(rows, entries)),
        "z_s": Site("z_s", (), "Normal", plates=(rows,)),
        "x": Site("x", ("z_c", "z_s"), "Normal", plates=(rows,)),
    }
    drawing = arranged(sites)
    assert [*drawing.plates] == ["data: 7", "entries of y: 3"]
    outer, inner = drawing.plates.values()
    assert outer[0] < inner[0] < inner[1] < outer[1] and outer[2] < inner[2] < inner[3] < outer[3]
    for name in sites:
        box = drawing.boxes[name]
        assert (inner[0] < box.x < inner[1] and inner[2] < box.y < inner[3]) == (name in ("y", "z_c"))
    between = {"b": Site("b", ("y",), "Normal", plates=(rows,)), "z_c": Site("z_c", ("b",), plates=(rows, entries))}
    assert [*arranged({**sites, **between}).plates] == ["data: 7"]
