"""Graphs of sites for graphviz, where it is installed: the conventions of `pyro.render_model`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pyro_semivae.drawing.boxes import COLOURS, lines_of
from pyro_semivae.drawing.sites import Site
from pyro_semivae.errors import InputError

if TYPE_CHECKING:
    from graphviz import Digraph


def digraph(graphs: Mapping[str, Mapping[str, Site]]) -> Digraph:
    """Model and guide as one `graphviz.Digraph`: a cluster for each, and inside of it one for each plate.

    Args:
        graphs: `"model"` and `"guide"` -> site -> its properties.

    Raises:
        InputError: the package graphviz is not installed.
    """
    try:
        from graphviz import Digraph
    except ImportError as error:
        raise InputError(
            "graphviz: the package is not installed; expected it by `pip install graphviz` (an extra of this one), and "
            "the program `dot` to draw with"
        ) from error
    whole = Digraph()
    for side, sites in graphs.items():
        with whole.subgraph(name=f"cluster_{side}", graph_attr={"label": side, "color": "white"}) as part:
            _add_plates(part, side, sites, ())
            for name, site in sites.items():
                for parent in site.parents:
                    part.edge(f"{side}/{parent}", f"{side}/{name}")
    return whole


def _add_plates(part: Digraph, side: str, sites: Mapping[str, Site], outer: tuple[tuple[str, int], ...]) -> None:
    """Adds the sites that are in these plates and in no others, and the plates inside of them."""
    for name, site in sites.items():
        if site.plates == outer:
            label = "\n".join([name, *lines_of(site)])
            shape = "ellipse" if site.family else "plaintext"
            part.node(f"{side}/{name}", label, shape=shape, style="filled", fillcolor=COLOURS[site.kind])
    depth = len(outer)
    inner = dict.fromkeys(s.plates[: depth + 1] for s in sites.values() if s.plates[:depth] == outer != s.plates)
    for plates in inner:
        plate, size = plates[-1]
        name = "/".join(["cluster", side, *(other for other, _ in plates)])
        look = {"label": f"{plate}: {size}", "labeljust": "r", "labelloc": "b", "color": "black"}
        with part.subgraph(name=name, graph_attr=look) as own:
            _add_plates(own, side, sites, plates)
