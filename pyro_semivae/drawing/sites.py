"""Properties of a model's or guide's sites, from one run: parents, family, owners of its parameters, plates."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import pyro
import torch
from pyro import poutine
from pyro.infer.inspect import site_is_deterministic
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_semivae.infer import LocalParameters, sample_sites
from pyro_semivae.infer.evidence import Impute, enumerates
from pyro_semivae.infer.graph import graph, leaves
from pyro_semivae.nn.ends import as_it_is
from pyro_semivae.spaces import is_missing

Kind = Literal["given", "observed", "partly observed", "marginalised", "sampled", "auxiliary"]


@dataclass(frozen=True)
class Site:
    """A site of a model or guide, or an argument on which sites depend.

    Attributes:
        parents: the sites and arguments on which it depends. family: its distribution's name; "" for an argument.
        owners: the parts of the model whose parameters its density depends on.
        plates: pairs of a plate's name and size, outermost first. kind: how the site is treated for these rows.
        known: for a label, the number of observed entries and of all entries.
    """

    name: str
    parents: tuple[str, ...]
    family: str = ""
    owners: tuple[str, ...] = ()
    plates: tuple[tuple[str, int], ...] = ()
    kind: Kind = "given"
    known: tuple[int, int] = (0, 0)


class _WithoutGradient(Messenger):
    """Detaches the values of random sites, so that a density depends only on the parameters of its own parts."""

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        if isinstance(msg["value"], Tensor) and not site_is_deterministic(msg):
            msg["value"] = msg["value"].detach()


def sites_of(
    fn: Callable,
    values: Mapping[str, Any],
    *,
    names: Mapping[int, str] | None = None,
    continuous: Collection[str] = (),
    given: Trace | None = None,
) -> tuple[dict[str, Site], Trace]:
    """Runs a model or guide on some rows; returns its sites, after the arguments on which they depend, and the trace.

    Missing labels are sampled. The random generators and the modules' modes are left unchanged.

    Args:
        values: the arguments by name, in order. names: a parameter's id -> the part that owns it; default: by the names
            in Pyro's parameter store.
        continuous: the names of continuous labels. given: a trace whose values are replayed at sites of the same name.
    """
    owner = getattr(fn, "__self__", fn)
    inputs = (*values.values(),)
    devices = {value.device for value in inputs if isinstance(value, Tensor) and value.is_cuda}
    run = fn if given is None else poutine.replay(fn, trace=given)
    with (
        torch.random.fork_rng([*devices]),
        as_it_is(owner),
        LocalParameters(),
        pyro.validation_enabled(False),
        Impute(continuous=continuous),
        _WithoutGradient(),
    ):
        trace = poutine.trace(run).get_trace(*inputs)
        owners = {name: _owners(site, _stored(trace) if names is None else names) for name, site in sample_sites(trace)}
    with as_it_is(owner):
        parents = graph(fn, values, Impute(continuous=continuous))
    sites = dict(sample_sites(trace))
    found = {
        name: _with_kind(
            Site(
                name,
                parents[name],
                _family(site["fn"]),
                owners[name],
                tuple((f.name, int(f.full_size or f.size)) for f in site["cond_indep_stack"] if f.size),
            ),
            site,
            values.get(name),
            name in continuous,
        )
        for name, site in sites.items()
    }
    arguments = dict.fromkeys(parent for site in found.values() for parent in site.parents if parent not in found)
    return {**{name: Site(name, ()) for name in arguments}, **found}, trace


def _with_kind(site: Site, msg: dict[str, Any], value: Any, continuous: bool) -> Site:
    """The site with its kind and its known entries; `value` is the argument with the same name, if there is one."""
    if msg["infer"].get("is_auxiliary") and not msg["is_observed"]:
        return replace(site, kind="auxiliary")
    label = enumerates(msg) or continuous
    if not label:
        return replace(site, kind="observed" if msg["is_observed"] else "sampled")
    missing = is_missing(value) if isinstance(value, Tensor) else torch.ones(1, dtype=torch.bool)
    known, total = int((~missing).sum()), missing.numel()
    otherwise: Kind = "sampled" if continuous else "marginalised"
    kind: Kind = "observed" if known == total else "partly observed" if known else otherwise
    return replace(site, kind=kind, known=(known, total) if isinstance(value, Tensor) else (0, 0))


def _family(fn: Any) -> str:
    """The name of a distribution, without wrappers that only reshape or mask it."""
    while type(fn).__name__ in ("Independent", "MaskedDistribution", "ExpandedDistribution"):
        fn = fn.base_dist
    return type(fn).__name__


def _stored(trace: Trace) -> dict[int, str]:
    """The ids of the parameters in a trace -> the names under which they were registered; for modules, the module's."""
    found = {}
    for name, node in trace.nodes.items():
        if node["type"] == "param":
            value = node["value"]
            found[id(value.unconstrained() if hasattr(value, "unconstrained") else value)] = name.split("$$$")[0]
    return found


def _owners(site: dict[str, Any], names: Mapping[int, str]) -> tuple[str, ...]:
    """The owners of the parameters on which a site's density depends; none if the density cannot be computed."""
    try:
        density = site["fn"].log_prob(site["value"]).sum()
    except (ValueError, RuntimeError, NotImplementedError):
        return ()
    return tuple(sorted({names[leaf] for leaf in leaves(density) if leaf in names}))
