"""Graphs for graphviz."""

import re
import shutil
import sys

import pytest
import torch

from pyro_semivae import show
from pyro_semivae.errors import InputError
from pyro_semivae.models import CCVAE
from pyro_semivae.nn import MLPs
from pyro_semivae.spaces import Binary

N = float("nan")


@pytest.fixture
def picture():
    torch.manual_seed(0)
    vae = CCVAE((1, 2, 3), Binary(3), z_s=2, networks=MLPs((4,)))
    return show(vae, rows={"x": torch.rand(5, 1, 2, 3), "y": torch.tensor([[1.0, N, 0]] * 5)})


def nodes_inside(source, cluster):
    """The nodes of a cluster, those of clusters inside of it too."""
    start = source.index("{", source.index(f'subgraph "{cluster}"'))
    depth, end = 0, start
    for end in range(start, len(source)):
        depth += {"{": 1, "}": -1}.get(source[end], 0)
        if not depth:
            break
    return {*re.findall(r'^\s*"([\w/]+)" \[', source[start:end], re.M)}


def test_a_digraph_has_the_edges_plates_and_colours_of_the_graphs(picture):
    source = picture.graphviz().source
    edges = {*re.findall(r'"(\w+)/(\w+)" -> "\w+/(\w+)"', source)}
    assert edges == {
        (side, parent, name) for side, graph in picture.graphs.items() for name, of in graph.items() for parent in of
    }
    assert nodes_inside(source, "cluster/model/data/entries of y") == {"model/y", "model/z_c"}
    assert nodes_inside(source, "cluster/model/data") == {"model/y", "model/z_c", "model/z_s", "model/x"}
    assert 'label="data: 5"' in source and 'label="entries of y: 3"' in source
    node = re.search(r'"model/y" \[(.*?)\]\n', source, re.S).group(1)
    assert "10 of 15 observed" in node and "#e8d3a8" in node
    other = re.search(r'"guide/z_s" \[(.*?)\]\n', source, re.S).group(1)
    assert "#ffffff" in other and "q_z" in other


@pytest.mark.skipif(shutil.which("dot") is None, reason="the program dot is not installed")
def test_dot_draws_it(picture):
    assert picture.graphviz().pipe("png")[:8] == b"\x89PNG\r\n\x1a\n"


def test_without_the_package_an_error_says_what_to_install(picture, monkeypatch):
    monkeypatch.setitem(sys.modules, "graphviz", None)
    with pytest.raises(InputError, match=r"graphviz: the package is not installed; .*pip install graphviz"):
        picture.graphviz()
