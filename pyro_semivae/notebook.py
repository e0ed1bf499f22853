"""Notebook displays of models, objectives, reports, data sets and histories, as HTML.

A display is a figure or a table that is fast to compute. `attach` adds `_repr_html_`, which notebooks call, to the
classes; the package calls it when imported in IPython.
"""

from __future__ import annotations

import base64
import html
import inspect
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure

from pyro_semivae.check import Report
from pyro_semivae.checkpoints import History
from pyro_semivae.data import ImageData, Table
from pyro_semivae.drawing import mathematics, show
from pyro_semivae.infer.base import Summand
from pyro_semivae.models import SemiVAE
from pyro_semivae.plot import image_grid, training_curves

ROWS = 10  # number of rows in a table, and of images per class


def png(figure: Figure) -> str:
    """A figure as an inline image."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110, bbox_inches="tight")
    return f'<img src="data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}" style="max-width: 100%"/>'


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """An HTML table; floats have four significant digits.

    >>> table(["a"], [[1.23456]])
    '<table><tr><th>a</th></tr><tr><td>1.235</td></tr></table>'
    """

    def line(cells: Sequence[Any], tag: str) -> str:
        texts = [f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in cells]
        return "<tr>" + "".join(f"<{tag}>{html.escape(text)}</{tag}>" for text in texts) + "</tr>"

    return f"<table>{line(head, 'th')}{''.join(line(row, 'td') for row in rows)}</table>"


def model_html(vae: SemiVAE) -> str:
    """The model's two graphs and its bound, on blank rows, and the numbers of parameters of its submodules."""
    sizes = [(name, type(part).__name__, _parameters(part)) for name, part in vae.named_children()]
    return f"{show(vae)._repr_html_()}\n{table(['part', 'kind', 'parameters'], sizes)}"


def _parameters(part: torch.nn.Module) -> str:
    return f"{sum(parameter.numel() for parameter in part.parameters()):,}"


def objective_html(objective: Summand) -> str:
    """The sum of bounds and terms, and the formula of each from its docstring."""
    said = [f"<code>{html.escape(repr(objective))}</code>"]
    for kind in dict.fromkeys(_kinds(objective)):
        if formula := stated(kind):
            said.append(f"<b>{kind.__name__}</b>\n$$\n{formula}\n$$")
    return "\n".join(said)


def _kinds(objective: Summand) -> Iterator[type]:
    """The classes of the summed bounds and terms, and of the objectives that these wrap."""
    for part in objective.parts():
        yield type(part.what)
        if isinstance(held := getattr(part.what, "what", None), Summand):
            yield from _kinds(held)


def stated(kind: type) -> str:
    """The first formula in a class's docstring, or in that of its nearest base class with a formula; else empty."""
    for one in kind.__mro__:
        doc = inspect.cleandoc(one.__doc__ or "")
        if found := re.search(r"\.\. math::\n\n?((?:[ \t]+\S.*\n?|\n)+)", doc):
            equations = re.split(r"\n[ \t]*\n", found.group(1).strip())
            lines = [" ".join(equation.split()) for equation in equations]
            return lines[0] if len(lines) == 1 else r"\begin{gathered}" + r" \\ ".join(lines) + r"\end{gathered}"
    return ""


def report_html(report: Report) -> str:
    """Both factorisations, and the roles of the sites."""
    products = [
        mathematics.factorisation(report.model, "p"),
        mathematics.factorisation(report.guide, "q"),
    ]
    roles = [(name, ", ".join(getattr(report, name)) or "none") for name in ("data", "labels", "latents")]
    roles += [("without gradient", ", ".join(report.without_gradient))] if report.without_gradient else []
    return "\n".join(f"$$\n{product}\n$$" for product in products) + "\n" + table(["role", "sites"], roles)


def data_html(data: ImageData) -> str:
    """The numbers of images, and some images of each class or the first ones."""
    about = [
        ("images", f"{len(data.x):,} to train on, {len(data.x_test):,} to test"),
        ("shape", " x ".join(map(str, data.x_shape))),
        ("labels", f"{data.labels}: {', '.join(data.label_names)}"),
    ]
    if data.y.dim() == 1:
        places = [(data.y == k).nonzero()[:ROWS, 0] for k in range(len(data.label_names))]
        most = min(map(len, places))
        rows = [data.x[at[:most]] for at in places] if most else [data.x[:ROWS]]
        names = data.label_names if most else ()
    else:
        rows, names = [data.x[:ROWS]], ()
    images = torch.stack([torch.as_tensor(row) for row in rows])
    images = images / 255 if images.dtype == torch.uint8 else images
    return table([data.name, ""], about) + png(image_grid(images, rows=names))


def table_html(rows: Table) -> str:
    """The description of each site, and the first images."""
    numbers = f"{len(rows.train['x']):,} training rows, {len(rows.test['x']):,} test rows"
    page = table([rows.name, numbers], list(rows.described().items()))
    if not (rows.spaces["x"].pictures and rows.spaces["x"].shape[0] in (1, 3)):
        return page
    images = torch.as_tensor(rows.train["x"][:ROWS]).nan_to_num()
    return page + png(image_grid((images / 255 if images.dtype == torch.uint8 else images).unsqueeze(0)))


def history_html(history: History) -> str:
    """The records of some epochs, including the last one, and the curves over all epochs."""
    if not history:
        return "no epochs"
    names = [name for name in history[-1] if not name.startswith("weight/")]
    step = -(-len(history) // ROWS)
    some = history[::-step][::-1]
    head = [name.removeprefix("term/").removeprefix("monitor/") for name in names]
    return table(head, [[record.get(name, "") for name in names] for record in some]) + png(training_curves(history))


SHOWN: Mapping[type, Callable[[Any], str]] = {
    SemiVAE: model_html,
    Summand: objective_html,
    Report: report_html,
    ImageData: data_html,
    Table: table_html,
    History: history_html,
}


def attach() -> None:
    """Gives each class its `_repr_html_`."""
    for kind, told in SHOWN.items():
        kind._repr_html_ = told  # type: ignore[attr-defined]
