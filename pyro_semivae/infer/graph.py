"""The graph of a model or guide, from a run of it, and the names of terms in mathematics."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any
from weakref import WeakKeyDictionary, ref

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.inspect import get_model_relations
from pyro.poutine.trace_messenger import TraceHandler
from torch import Tensor, nn

from pyro_semivae.infer.evidence import Impute
from pyro_semivae.infer.handlers import LocalParameters
from pyro_semivae.infer.roles import sample_sites
from pyro_semivae.nn.ends import as_it_is

Graph = dict[str, tuple[str, ...]]
PLAIN = (bool, int, float, str, tuple, frozenset)  # types of settings


def graph(fn: Callable, values: Mapping[str, Tensor | None], impute: Impute | None = None) -> Graph:
    """The graph of a model or guide, from a run of it: each random site with the sites it depends on.

    The random generators are afterwards as they were.

    Args:
        values: its arguments in their order, by the names of their sites. Those that are no sites of `fn` (data in a
            guide, covariates) are parents by these names.
    """
    impute = Impute() if impute is None else impute

    def given(*inputs: Tensor | None) -> None:
        fn(*(_as_site(f"given {name}", value) for name, value in zip(values, inputs, strict=True)))

    inputs = (*values.values(),)
    devices = {value.device for value in inputs if isinstance(value, Tensor) and value.is_cuda}
    with (
        poutine.block(),
        torch.random.fork_rng([*devices]),
        torch.no_grad(),
        LocalParameters(),
        impute,
        pyro.validation_enabled(False),  # labels may be missing, which no density allows
    ):
        relations = get_model_relations(given, inputs)["sample_sample"]
        sites = {name for name, _ in sample_sites(poutine.trace(fn).get_trace(*inputs))}
    names = {f"given {name}": name for name in values}
    return {
        name: tuple(names.get(parent, parent) for parent in parents if names.get(parent) not in relations)
        for name, parents in relations.items()
        if name in sites
    }


def _as_site(name: str, value: Tensor | None) -> Tensor | None:
    """An input as a site of its own; what its density is plays no part."""
    if not isinstance(value, Tensor):
        return value
    zeros = torch.zeros(value.shape, device=value.device)
    return pyro.sample(name, dist.Normal(zeros, 1.0).to_event(), obs=value)


class NamedTerms(dict[str, Tensor]):
    """Terms by their names; `terms["log p(x)"]` finds `"log p(x|z)"`."""

    def __missing__(self, name: str) -> Tensor:
        found = [key for key in self if same_term(key, name)]
        if len(found) != 1:
            raise KeyError(f"{name!r}: there are {', '.join(self)}")
        return self[found[0]]


def same_term(one: str, other: str) -> bool:
    """Whether two names are of one term, where either may leave out what it depends on, and its importance weight.

    >>> same_term("-log q(z|x)", "-log q(z)"), same_term("log q(y)", "-log q(y)")
    (True, False)
    """
    return _bare(one) == _bare(other)


@lru_cache(1000)
def _bare(name: str) -> str:
    return re.sub(r"\bw ", "", re.sub(r"(log [pq]\([^|()]*)\|[^()]*\)", r"\1)", name))


def with_parents(names: Sequence[str], graphs: Mapping[str, Graph]) -> list[str]:
    """Names of terms, with what their sites depend on; those that say it already stay as they are.

    Args:
        graphs: the model's as `"p"`, the guide's as `"q"`.

    >>> with_parents(["w log p(x)", "-log q(y_m|x)"], {"p": {"z": (), "x": ("z",)}, "q": {}})
    ['w log p(x|z)', '-log q(y_m|x)']
    """

    def full(match: re.Match) -> str:
        letter, inside = match.groups()
        found = graphs[letter]
        sites = [site if site in found else re.sub("_[om]$", "", site) for site in inside.split(",")]
        parents = dict.fromkeys(parent for site in sites for parent in found.get(site, ()) if parent not in sites)
        return f"log {letter}({inside}{'|' + ','.join(parents) if parents else ''})"

    return [re.sub(r"log ([pq])\(([^|()]+)\)", full, name) for name in names]


def leaves(value: Tensor) -> dict[int, Tensor]:
    """The tensors that a value was computed of and that take a gradient, by their ids: parameters, as a rule.

    >>> weight = torch.ones(2, requires_grad=True)
    >>> [*leaves((2 * weight.exp()).sum()).values()][0] is weight
    True
    """
    todo, seen, found = [value.grad_fn], set(), {}
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        todo += [parent for parent, _ in node.next_functions]
        if (leaf := getattr(node, "variable", None)) is not None:
            found[id(leaf)] = leaf
    return found


_graphs: WeakKeyDictionary = WeakKeyDictionary()


def graphs_of(
    model: Callable, guide: Callable, values: Mapping[str, Tensor | None], continuous: Collection[str] = ()
) -> dict[str, Graph]:
    """The graphs of a model, as `"p"`, and a guide, `"q"`.

    They are kept with what the functions belong to, by which of the arguments are given, until that changes: see
    `made_of`.

    Args:
        values: the arguments by their names. continuous: the names of continuous labels.
    """
    found = {}
    for letter, fn in (("p", model), ("q", guide)):
        fn = fn.fn if isinstance(fn, TraceHandler) else fn  # a trace that is asked for stays as it is
        owner = getattr(fn, "__self__", fn)
        kept, now = _graphs.setdefault(owner, {}), made_of(owner)
        key = (getattr(fn, "__func__", None), tuple(name for name, value in values.items() if value is not None))
        if key not in kept or kept[key][0] != now:
            with as_it_is(owner):
                kept[key] = now, graph(fn, values, Impute(continuous=continuous))
        found[letter] = kept[key][1]
    return found


def made_of(owner: Any) -> list[Any]:
    """What the graphs of a module's functions may depend on, to be compared: its parts and their plain settings.

    A part that is another module now, or a number, string or flag of one that has another value, make it another. It
    holds no part alive.
    """
    if not isinstance(owner, nn.Module):
        return []
    found: list[Any] = []
    for module in owner.modules():
        found.append(ref(module))
        for name, value in vars(module).items():
            if type(value) in PLAIN and name != "training":  # graphs are those of evaluation
                found.append((name, value))
    return found


def argument_names(fn: Callable, *, keyword_only: bool = False) -> list[str]:
    """The names of a function's positional arguments, also inside of Pyro's handlers; of a `SemiVAE`'s those of its
    sites.

    Args:
        keyword_only: those that have no position, too.
    """
    while isinstance(fn, partial):
        fn = next(part for part in (*reversed(fn.args), fn.func) if callable(part))
    if (spaces := getattr(getattr(fn, "__self__", None), "spaces", None)) is not None:
        return [*spaces]
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    kinds += (inspect.Parameter.KEYWORD_ONLY,) if keyword_only else ()
    return [name for name, part in inspect.signature(fn).parameters.items() if part.kind in kinds]
