"""Draws graphs of sites as boxes and arrows, with matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from matplotlib.path import Path

from pyro_semivae.drawing.layout import layered
from pyro_semivae.drawing.mathematics import symbol
from pyro_semivae.drawing.sites import Site

COLOURS = {
    "given": "#f4f4f4",
    "observed": "#cfcfcf",
    "partly observed": "#e8d3a8",
    "marginalised": "#ffd28a",
    "sampled": "#ffffff",
    "auxiliary": "#e6e0f0",
}
LINE, LETTER, NAME = 0.155, 0.062, 0.1  # inches: height of a text line, width of its letters and of a name's letters
BETWEEN, MARGIN = 0.5, 0.45  # inches: space between layers, and around all boxes


@dataclass(frozen=True)
class Box:
    """A site's box: its centre and size in inches, y pointing up."""

    x: float
    y: float
    width: float
    height: float

    @property
    def sides(self) -> tuple[float, float, float, float]:
        """Left, right, bottom, top."""
        return self.x - self.width / 2, self.x + self.width / 2, self.y - self.height / 2, self.y + self.height / 2


@dataclass(frozen=True)
class Drawing:
    """A graph's drawing in inches: boxes, edges as Bezier control points, plates as rectangles, width and height."""

    boxes: dict[str, Box]
    curves: dict[tuple[str, str], list[tuple[float, float]]]
    plates: dict[str, tuple[float, float, float, float]]
    width: float
    height: float


def lines_of(site: Site) -> list[str]:
    """The lines of text under a site's name."""
    lines = [site.family] if site.family else ["given"]
    if site.owners:
        lines.append(", ".join(site.owners))
    if site.kind == "partly observed":
        lines.append(f"{site.known[0]} of {site.known[1]} observed")
    return lines


def arranged(sites: Mapping[str, Site]) -> Drawing:
    """Computes the positions in a drawing. An edge goes from the middle of a box's lower side to the middle of another
    one's upper side. It moves sideways between layers only, and passes a layer next to its boxes."""
    layout = layered({name: site.parents for name, site in sites.items()})
    text = {name: lines_of(site) for name, site in sites.items()}
    width = max([0.55, *(LETTER * max(map(len, lines), default=0) + 0.15 for lines in text.values())])
    width = max([width, *(NAME * len(name) + 0.1 for name in sites)])
    height = LINE * (1.5 + max((len(lines) for lines in text.values()), default=0))
    across, down = width + 0.3, height + BETWEEN
    columns, rows = layout.size

    def inches(point: tuple[float, float]) -> tuple[float, float]:
        return MARGIN + width / 2 + across * point[0], MARGIN + height / 2 + down * (rows - point[1])

    boxes = {name: Box(*inches(point), width, height) for name, point in layout.nodes.items()}
    curves = {edge: _curve([inches(p) for p in points], height / 2) for edge, points in layout.edges.items()}
    size = 2 * MARGIN + width + across * columns, 2 * MARGIN + height + down * rows
    return Drawing(boxes, curves, _plates(sites, boxes), *size)  # type: ignore[arg-type]


def _curve(points: Sequence[tuple[float, float]], half: float) -> list[tuple[float, float]]:
    """Control points of cubic pieces, the first point and then three per piece; the curve is vertical at layers."""
    (x, y), *others = points
    found = [(x, y - half)]
    for i, (x1, y1) in enumerate(others):
        x0, y0 = found[-1]
        top, middle = y1 + half, (y0 + y1 + half) / 2
        found += [(x0, middle), (x1, middle), (x1, top)]
        if i < len(others) - 1:
            found += [(x1, y1), (x1, y1), (x1, y1 - half)]
    return found


def _plates(sites: Mapping[str, Site], boxes: Mapping[str, Box]) -> dict[str, tuple[float, float, float, float]]:
    """Plate, with its size -> left, right, bottom, top. A plate whose rectangle would contain a site outside the plate
    is left out (`str(picture)` lists all plates)."""
    inside: dict[str, set[str]] = {}
    for name, site in sites.items():
        for plate, size in site.plates:
            inside.setdefault(f"{plate}: {size}", set()).add(name)
    found = {}
    for plate, names in inside.items():
        inner = 1 + sum(other < names for other in inside.values())  # 1 + the number of plates inside it
        pad, under = 0.06 * inner, 0.14 * inner
        sides = [boxes[name].sides for name in names]
        left, right = min(s[0] for s in sides) - pad, max(s[1] for s in sides) + pad
        bottom, top = min(s[2] for s in sides) - under, max(s[3] for s in sides) + pad
        if not any(left < boxes[n].x < right and bottom < boxes[n].y < top for n in boxes.keys() - names):
            found[plate] = left, right, bottom, top
    return found


def paint(axis: Axes, sites: Mapping[str, Site], drawing: Drawing, title: str) -> None:
    """Draws a graph into an axis whose unit is an inch."""
    for plate, (left, right, bottom, top) in drawing.plates.items():
        axis.add_patch(Rectangle((left, bottom), right - left, top - bottom, fill=False, edgecolor="0.6", lw=0.8))
        size = ((right - left) / 2 - 0.08) / (0.0078 * len(plate))  # fits next to edges, which leave in the middle
        said = {"ha": "right", "va": "bottom", "fontsize": max(4.5, min(6.0, size)), "color": "0.4"}
        axis.text(right - 0.03, bottom + 0.03, plate, parse_math=False, **said)
    for points in drawing.curves.values():
        codes = [Path.MOVETO, *[Path.CURVE4] * (len(points) - 1)]
        arrow = {"arrowstyle": "-|>", "mutation_scale": 9, "shrinkA": 0, "shrinkB": 0, "color": "0.3", "lw": 1.0}
        axis.add_patch(FancyArrowPatch(path=Path(points, codes), **arrow))
    for name, site in sites.items():
        box = drawing.boxes[name]
        left, _, bottom, top = box.sides
        shape = FancyBboxPatch(
            (left + 0.08, bottom + 0.08),
            box.width - 0.16,
            box.height - 0.16,
            boxstyle="round,pad=0.08",
            facecolor=COLOURS[site.kind],
            edgecolor="0.3",
            ls="--" if site.kind == "given" else "-",
            lw=1.0,
        )
        axis.add_patch(shape)
        axis.text(box.x, top - 0.75 * LINE, f"${symbol(name)}$", ha="center", va="center", fontsize=11)
        for i, line in enumerate(lines_of(site)):
            axis.text(
                box.x,
                top - (1.75 + i) * LINE,
                line,
                ha="center",
                va="center",
                fontsize=7,
                color="0.25",
                parse_math=False,
            )
    axis.set_title(title, fontsize=9)
    axis.set_xlim(0, drawing.width)
    axis.set_ylim(0, drawing.height)
    axis.axis("off")


def figure_of(graphs: Mapping[str, Mapping[str, Site]], lines: Sequence[tuple[str, str]] = ()) -> Figure:
    """Draws graphs, title -> sites, side by side, with lines under them, each a caption and its text or mathematics."""
    drawings = {title: arranged(sites) for title, sites in graphs.items()}
    used = {site.kind: None for sites in graphs.values() for site in sites.values()}
    tall, wide = max(d.height for d in drawings.values()), sum(d.width for d in drawings.values()) + 0.3
    text = 0.22 * len(lines) + 0.15
    width, height = max(wide, 6.0 if lines else 3.0), tall + text + 0.65
    figure = Figure(figsize=(width, height))
    left = (width - wide) / 2
    for (title, sites), drawing in zip(graphs.items(), drawings.values(), strict=True):
        bottom = height - 0.3 - drawing.height
        axis = figure.add_axes((left / width, bottom / height, drawing.width / width, drawing.height / height))
        paint(axis, sites, drawing, title)
        left += drawing.width + 0.3
    handles = [Rectangle((0, 0), 1, 1, facecolor=COLOURS[kind], edgecolor="0.3", label=kind) for kind in used]
    place = (0.5, (text + 0.02) / height)
    figure.legend(handles=handles, loc="lower center", bbox_to_anchor=place, ncols=5, fontsize=7, frameon=False)
    for i, line in enumerate(lines):
        y = (text - 0.12 - 0.22 * i) / height
        figure.text(1.25 / width, y, line[0], fontsize=9, va="center", ha="right", color="0.25")
        figure.text(1.35 / width, y, line[1], fontsize=9, va="center")
    return figure
