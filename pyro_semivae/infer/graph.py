"""Dependency graphs of models and guides, from a run, and the mathematical names of terms."""

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
PLAIN = (bool, int, float, str, tuple, frozenset)  # types of plain settings


def graph(fn: Callable, values: Mapping[str, Tensor | None], impute: Impute | None = None) -> Graph:
    """The dependency graph of a model or guide, from a run: random site -> the sites it depends on.

    The state of the random generators is restored afterwards.

    Args:
        values: the arguments in order, by the names of their sites. Arguments that are not sites of `fn` (data in a
            guide, covariates) become parents under these names.
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
        pyro.validation_enabled(False),  # missing labels are outside of any support
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
    """An input as a site of its own; its density does not matter."""
    if not isinstance(value, Tensor):
        return value
    zeros = torch.zeros(value.shape, device=value.device)
    return pyro.sample(name, dist.Normal(zeros, 1.0).to_event(), obs=value)


class NamedTerms(dict[str, Tensor]):
    """A dict of terms by name; `terms["log p(x)"]` finds `"log p(x|z)"`."""

    def __missing__(self, name: str) -> Tensor:
        found = [key for key in self if same_term(key, name)]
        if len(found) != 1:
            raise KeyError(f"{name!r}: there are {', '.join(self)}")
        return self[found[0]]


def same_term(one: str, other: str) -> bool:
    """Whether two names denote the same term; either may omit the condition and the importance weight.

    >>> same_term("-log q(z|x)", "-log q(z)"), same_term("log q(y)", "-log q(y)")
    (True, False)
    """
    return _bare(one) == _bare(other)


@lru_cache(1000)
def _bare(name: str) -> str:
    return re.sub(r"\bw ", "", re.sub(r"(log [pq]\([^|()]*)\|[^()]*\)", r"\1)", name))


def with_parents(names: Sequence[str], graphs: Mapping[str, Graph]) -> list[str]:
    """Names of terms, with the parents of their sites added; names that have a condition stay unchanged.

    Args:
        graphs: the graphs of the model, `"p"`, and the guide, `"q"`.

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
    """The leaf tensors with gradient that a value was computed from, by id; usually parameters.

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
    """The graphs of a model, `"p"`, and a guide, `"q"`.

    They are cached for the owner of each function (its module) and the set of given arguments, until the owner changes;
    see `made_of`.

    Args:
        values: name -> argument. continuous: the names of continuous labels.
    """
    found = {}
    for letter, fn in (("p", model), ("q", guide)):
        fn = fn.fn if isinstance(fn, TraceHandler) else fn  # do not overwrite the trace of a traced function
        owner = getattr(fn, "__self__", fn)
        kept, now = _graphs.setdefault(owner, {}), made_of(owner)
        key = (getattr(fn, "__func__", None), tuple(name for name, value in values.items() if value is not None))
        if key not in kept or kept[key][0] != now:
            with as_it_is(owner):
                kept[key] = now, graph(fn, values, Impute(continuous=continuous))
        found[letter] = kept[key][1]
    return found


def made_of(owner: Any) -> list[Any]:
    """A fingerprint of what a module's graphs may depend on: its submodules and their plain settings.

    It changes if a submodule is replaced, or a number, string or flag of one changes. It only holds weak references.
    """
    if not isinstance(owner, nn.Module):
        return []
    found: list[Any] = []
    for module in owner.modules():
        found.append(ref(module))
        for name, value in vars(module).items():
            if type(value) in PLAIN and name != "training":  # graphs are made in evaluation mode
                found.append((name, value))
    return found


def argument_names(fn: Callable, *, keyword_only: bool = False) -> list[str]:
    """The names of a function's positional arguments, also if Pyro's handlers wrap it; for a `SemiVAE`, of its sites.

    Args:
        keyword_only: whether to include keyword-only arguments.
    """
    while isinstance(fn, partial):
        fn = next(part for part in (*reversed(fn.args), fn.func) if callable(part))
    if (spaces := getattr(getattr(fn, "__self__", None), "spaces", None)) is not None:
        return [*spaces]
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    kinds += (inspect.Parameter.KEYWORD_ONLY,) if keyword_only else ()
    return [name for name, part in inspect.signature(fn).parameters.items() if part.kind in kinds]
