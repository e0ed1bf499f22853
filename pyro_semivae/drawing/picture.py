"""`show`: draws a model and its guide side by side, with their factorisations and an objective's value on some rows."""

from __future__ import annotations

import base64
import html
import inspect
import io
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyro
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyro_semivae.contract import ContractError, check_sites
from pyro_semivae.drawing import mathematics
from pyro_semivae.drawing.boxes import figure_of
from pyro_semivae.drawing.dot import digraph
from pyro_semivae.drawing.sites import Site, sites_of
from pyro_semivae.errors import InputError
from pyro_semivae.files import atomic_open, user_path
from pyro_semivae.infer import Objective
from pyro_semivae.infer.graph import argument_names
from pyro_semivae.models import SemiVAE
from pyro_semivae.nn.ends import as_it_is

if TYPE_CHECKING:
    from graphviz import Digraph

LETTERS = {"model": "p", "guide": "q"}


@dataclass(frozen=True)
class Picture:
    """The result of `show`, displayed as a figure and mathematics in a notebook, elsewhere as text.

    Attributes:
        sites: `"model"`, and `"guide"` if it was drawn -> site -> its properties, with arguments first.
        values, weights: the objective's term -> its mean over the rows, and its weight; empty without an objective.
        why_not: why the objective has no value on these rows, or why the model or guide is not drawn; else "".
    """

    sites: dict[str, dict[str, Site]]
    values: dict[str, float]
    weights: dict[str, float]
    why_not: str = ""

    @property
    def graphs(self) -> dict[str, dict[str, tuple[str, ...]]]:
        """`"model"` and `"guide"` -> site -> its parents."""
        return {
            side: {name: site.parents for name, site in sites.items() if site.family}
            for side, sites in self.sites.items()
        }

    @property
    def latex(self) -> str:
        """Both factorisations and the objective with the value of each term, as LaTeX."""
        products = [mathematics.factorisation(graph, LETTERS[side]) for side, graph in self.graphs.items()]
        parts = [*products, *([mathematics.objective(self.values, self.weights)] if self.values else [])]
        return "\n\n".join(f"$$\n{part}\n$$" for part in parts)

    @cached_property
    def figure(self) -> Figure:
        """The drawing, with the factorisations and the objective under it."""
        lines = []
        for side, graph in self.graphs.items():
            for i, product in enumerate(_wrapped(graph)):
                lines.append(("" if i else side, f"${mathematics.factorisation(product, LETTERS[side])}$"))
        if self.values:
            lines.append((f"{self._total():.2f}", "the objective, mean per example, in nats: the sum of"))
        for name, value in self.values.items():
            weight = self.weights[name]
            factor = "" if weight == 1 else f"{mathematics.number(weight)}\\;\\cdot\\;"
            lines.append((f"{weight * value:.2f}", f"${factor}{mathematics.term(name)}$"))
        said = textwrap.wrap(self.why_not.replace("$", r"\$"), 90)
        lines += [("" if i else "no bound", line) for i, line in enumerate(said)]
        return figure_of(self.sites, lines)

    def _total(self) -> float:
        """The objective's value."""
        return sum(self.weights[name] * value for name, value in self.values.items())

    def save(self, path: str | Path) -> None:
        """Writes the figure as PNG."""
        path = user_path(path, "path")
        if path.suffix != ".png":
            raise InputError(f"path: got {path}; expected a name that ends in .png")
        with atomic_open(path) as file:
            file.write(self.png())

    def __str__(self) -> str:
        lines = []
        for side, sites in self.sites.items():
            said = [f"{name}: {site.kind}" + _known(site) for name, site in sites.items() if site.family]
            product = " ".join(
                f"{LETTERS[side]}({name}{' | ' + ', '.join(parents) if parents else ''})"
                for name, parents in self.graphs[side].items()
            )
            lines += [f"{side}  {product}", f"       {'; '.join(said)}"]
            plates = {f"{plate}: {size}": [] for site in sites.values() for plate, size in site.plates}
            for name, site in sites.items():
                for plate, size in site.plates:
                    plates[f"{plate}: {size}"].append(name)
            lines += [f"       in {plate}: {', '.join(names)}" for plate, names in plates.items()]
        if self.values:
            terms = []
            for name, value in self.values.items():
                weight = self.weights[name]
                terms.append(f"{'' if weight == 1 else f'{weight:g} * '}{name} [{weight * value:.2f}]")
            lines.append(f"bound  {' + '.join(terms)} = {self._total():.2f} nats per example")
        return "\n".join([*lines, *([f"no bound: {self.why_not}"] if self.why_not else [])])

    __repr__ = __str__

    def graphviz(self) -> Digraph:
        """Both graphs as a `graphviz.Digraph`, for graphviz's own layout and formats; see `dot.digraph` for errors."""
        return digraph(self.sites)

    def png(self) -> bytes:
        """The figure as PNG bytes."""
        file = io.BytesIO()
        self.figure.savefig(file, format="png", dpi=130, bbox_inches="tight")
        return file.getvalue()

    def _repr_html_(self) -> str:
        png = base64.b64encode(self.png()).decode()
        return (
            f'<img src="data:image/png;base64,{png}" alt="{html.escape(str(self))}" style="max-width: 100%"/>\n'
            f"{html.escape(self.latex)}"
        )


def _wrapped(graph: dict[str, tuple[str, ...]], most: int = 70) -> list[dict[str, tuple[str, ...]]]:
    """Splits a graph into parts whose factorisations have at most about `most` characters."""
    parts: list[dict[str, tuple[str, ...]]] = [{}]
    length = 0
    for name, parents in graph.items():
        own = 5 + sum(len(other) + 2 for other in (name, *parents))
        if parts[-1] and length + own > most:
            parts.append({})
            length = 0
        parts[-1][name] = parents
        length += own
    return parts


def _known(site: Site) -> str:
    return f" ({site.known[0]} of {site.known[1]})" if site.kind == "partly observed" else ""


def show(
    model: SemiVAE | Callable,
    guide: Callable | None = None,
    rows: Any = None,
    objective: Objective | None = None,
    *,
    path: str | Path | None = None,
) -> Picture:
    """Draws a model and its guide side by side, as they run on some rows, and the objective's terms with their values.

    A box's colour shows how the site is treated for these rows (e.g. observed, marginalised, sampled). Its text states
    the distribution's family and the parts of the model whose parameters its density depends on. All of this is derived
    by running the code. Torch's random generators, parameters and Pyro's parameter store are left unchanged; modules
    that functions close over run in their current mode.

    Args:
        model: a model, or any function with `pyro.sample` sites. guide: such a function's guide; for a model, by
            default its own.
        rows: for a model, rows as accepted by `SemiVAE.table` (default: three blank rows); for a function, its
            arguments by name or in order.
        objective: the objective to write under the drawing (default: the model's `elbo()`; none for functions).
        path: where to write the figure as PNG.

    If model and guide violate the contract of `check_model`, or the objective has no value on these rows, the parts
    that run are drawn, and the drawing states what is wrong.

    >>> from pyro_semivae.models import M2
    >>> from pyro_semivae.nn import MLPs
    >>> from pyro_semivae.spaces import Classes
    >>> x, y = torch.rand(3, 1, 4, 4), torch.tensor([2, -1, -1])
    >>> picture = show(M2((1, 4, 4), Classes(3), z=2, networks=MLPs((5,))), rows={"x": x, "y": y})
    >>> print(str(picture).split("bound")[0].strip())
    model  p(y) p(z) p(x | y, z)
           y: partly observed (1 of 3); z: sampled; x: observed
           in data: 3: y, z, x
    guide  q(y | x) q(z | x, y)
           y: partly observed (1 of 3); z: sampled
           in data: 3: y, z

    Raises:
        InputError: the rows do not fit the model. Exception: neither model nor guide runs.
    """
    why_not = ""
    if guide is not None and (not callable(guide) or isinstance(guide, Objective)):
        raise InputError(f"guide: got {type(guide).__name__}; expected a function, or rows=.. and objective=..")
    if objective is not None and not isinstance(objective, Objective):
        got = type(objective).__name__
        raise InputError(f"objective: got {got}; expected this library's objectives, e.g. TraceLabels_ELBO()")
    if isinstance(model, SemiVAE):
        inputs = model.blank(3) if rows is None else model.inputs(rows)
        try:
            check_sites(model, inputs)
        except ContractError as error:
            why_not = str(error)
        values = model.by_site(inputs)
        names = {id(p): name.split(".")[0] for name, p in model.named_parameters()}
        how: dict[str, Any] = {"names": names, "continuous": model.continuous_labels}
        objective = model.elbo() if objective is None else objective
        model, guide = model.model, model.guide if guide is None else guide
    else:
        values, how = _arguments(model, rows), {}
    found: dict[str, float] = {}
    weights: dict[str, float] = {}
    with _no_new_parameters():
        sites, mistakes = _sites(model, guide, values, how)
        if not any(site.family for side in sites.values() for site in side.values()):
            raise InputError("model: got a function without a pyro.sample site; expected one or more")
        why_not = why_not or next(iter(mistakes), "")
        if alone := [name for name, site in sites.get("guide", {}).items() if site.kind == "auxiliary"]:
            why_not = why_not or f"no objective in this library scores the guide's auxiliary sites {alone}"
        if objective is not None and guide is not None and not why_not:
            try:
                found, weights = _terms(objective, model, guide, values)
            except Exception as error:  # user-defined terms may raise any exception
                why_not = _first_line(error)
    picture = Picture(sites, found, weights, why_not)
    if path is not None:
        picture.save(path)
    return picture


@contextmanager
def _no_new_parameters() -> Iterator[None]:
    """Removes parameters that the block adds to Pyro's parameter store."""
    store = pyro.get_param_store()
    before = {*store.keys()}
    try:
        yield
    finally:
        for name in {*store.keys()} - before:
            del store[name]


def _sites(
    model: Callable, guide: Callable | None, values: Mapping[str, Any], how: Mapping[str, Any]
) -> tuple[dict[str, dict[str, Site]], list[str]]:
    """The sites of the model and the guide, and error messages. A side that does not run is left out; a model that does
    not run with the guide's values is run alone."""
    guide_sites: dict[str, Site] = {}
    mistakes, run = [], None
    if guide is not None:
        try:
            guide_sites, run = sites_of(guide, values, **how)
        except Exception as error:  # user code may raise any exception
            mistakes.append(f"guide: {_first_line(error)}")
    try:
        model_sites, _ = sites_of(model, values, given=run, **how)
    except Exception as error:
        if run is None and not guide_sites:
            raise
        mistakes.append(f"model: {_first_line(error)}")
        try:
            model_sites, _ = sites_of(model, values, **how)
        except Exception:
            model_sites = {}
    found = {"model": model_sites, "guide": guide_sites}
    return {side: sites for side, sites in found.items() if sites}, mistakes


def _arguments(fn: Callable, rows: Any) -> dict[str, Any]:
    names = argument_names(fn)
    if rows is None:
        return {}
    if isinstance(rows, Mapping):
        if strange := [name for name in rows if name not in names]:
            raise InputError(f"rows: got {', '.join(strange)}; expected arguments of the model: {', '.join(names)}")
        last = max((i for i, name in enumerate(names) if name in rows), default=-1)
        defaults = {name: part.default for name, part in inspect.signature(fn).parameters.items()}
        defaults = {name: None if value is inspect.Parameter.empty else value for name, value in defaults.items()}
        return {name: rows[name] if name in rows else defaults.get(name) for name in names[: last + 1]}
    rows = rows if isinstance(rows, list | tuple) else (rows,)
    if len(rows) > len(names):
        raise InputError(f"rows: got {len(rows)} values; expected those of {', '.join(names) or 'no argument'}")
    return dict(zip(names, rows, strict=False))


def _terms(
    objective: Objective, model: Callable, guide: Callable, values: Mapping[str, Any]
) -> tuple[dict[str, float], dict[str, float]]:
    """Term -> its mean over the rows, and term -> its weight at the end of training."""
    inputs = (*values.values(),)
    devices = {value.device for value in inputs if isinstance(value, Tensor) and value.is_cuda}
    with torch.random.fork_rng([*devices]), _as_they_are(model, guide):
        found = objective.named_values(model, guide, *inputs)
    values = {name: found[name].value.detach().mean().item() for name in found}
    return values, {name: found[name].weight for name in found}


@contextmanager
def _as_they_are(*fns: Callable) -> Iterator[None]:
    """Restores the modes and buffers of the modules to which functions belong."""
    with ExitStack() as stack:
        for owner in {id(owner): owner for owner in (getattr(fn, "__self__", fn) for fn in fns)}.values():
            stack.enter_context(as_it_is(owner))
        yield


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
