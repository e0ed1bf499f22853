"""check_model(): checks that a model/guide pair meets the contract, for users and for tests."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyro_semivae.contract import ContractError, Values, check_shapes, check_sites, check_terms, guarded
from pyro_semivae.errors import InputError
from pyro_semivae.infer import LocalParameters, Objective, assign_roles, sample_sites
from pyro_semivae.infer.evidence import Impute
from pyro_semivae.infer.graph import Graph, as_it_is, graph, leaves
from pyro_semivae.models import SemiVAE


@dataclass(frozen=True)
class Report:
    """The two graphs (site -> parents), the roles and, from `check_model`, the parameters without gradient."""

    model: Graph
    guide: Graph
    labels: tuple[str, ...]
    latents: tuple[str, ...]
    data: tuple[str, ...]
    without_gradient: tuple[str, ...] = ()

    def __str__(self) -> str:
        return (
            f"model  {factorisation(self.model, 'p')}\n"
            f"guide  {factorisation(self.guide, 'q')}\n"
            f"data {', '.join(self.data)}; labels {', '.join(self.labels)}; latents {', '.join(self.latents)}"
        )


def inspect_model(vae: SemiVAE, x: Any = None, y: Any = None) -> Report:
    """The graphs and roles of a model and its guide, from a run on a batch; nothing is checked or changed.

    Args:
        x, y: rows, as for `SemiVAE.table` (default: one blank row).
    """
    values = vae.blank() if x is None else vae.inputs(x, y)
    impute = Impute(continuous=vae.continuous_labels)
    devices = {value.device for value in values if value is not None and value.is_cuda}
    with torch.random.fork_rng([*devices]), torch.no_grad(), as_it_is(vae), LocalParameters(), impute:
        guide_trace = poutine.trace(vae.guide).get_trace(*values)
        model_trace = poutine.trace(poutine.replay(vae.model, trace=guide_trace)).get_trace(*values)
    roles, given = assign_roles(model_trace, guide_trace), vae.by_site(values)
    continuous = [name for name in roles.latents if name in vae.continuous_labels]
    known = [name for name in roles.data if name in vae.label_sites]
    return Report(
        graph(vae.model, given, impute),
        graph(vae.guide, given, impute),
        (*roles.labels, *known, *continuous),
        tuple(name for name in roles.latents if name not in continuous),
        tuple(name for name in roles.data if name not in known),
    )


def factorisation(sites: Graph, letter: str) -> str:
    """A graph as a product of densities.

    >>> factorisation({"y": (), "z_c": ("y",), "x": ("z_c",)}, "p")
    'p(y) p(z_c | y) p(x | z_c)'
    """
    return " ".join(f"{letter}({name}{' | ' + ', '.join(up) if up else ''})" for name, up in sites.items())


def documented_graph(vae: SemiVAE, letter: str) -> Graph:
    """The graph stated in the docstring: the `p(child | parents)` or `q(...)` tokens in its first literal block."""
    block = re.search(r"::\n\n((?:[ \t]+\S.*\n)+)", type(vae).__doc__ or "")
    found: Graph = {}
    for children, parents in re.findall(
        letter + r"\(([^()|]+?)(?:\s*\|\s*([^()]+?))?\)", block.group(1) if block else ""
    ):
        for child in children.split(","):
            found[child.strip()] = tuple(name.strip() for name in parents.split(",") if name.strip())
    return found


def check_model(vae: SemiVAE, x: Any, y: Any = None, elbo: Objective | None = None) -> Report:
    """Checks a model/guide pair and its objective on a batch with labelled and unlabelled rows.

    Args:
        vae: the model.
        x, y: rows, as for `SemiVAE.table`: images and labels, some observed and some missing, or a mapping. The number
            of rows must differ from every other size in the model.
        elbo: the objective (default: `vae.elbo()`).

    The checks:

    * discrete labels are `infer={"enumerate": "parallel"}` sites, and labels observe the values that they are given;
    * `pyro.module` registers every parameter, for plain SVI, and the loss depends on no others, for `fit`;
    * every site has one entry per row (not `(B, B)`), and conditionals broadcast on the left, under a plate of samples;
    * the sites of model and guide match;
    * the docstring's factorisations are those of the code;
    * `characteristic` names the latent children of labels, if there are any;
    * every density of the model gives a gradient to the latents it depends on;
    * the three entry points of the objective agree under one seed;
    * every parameter gets a gradient, or the model's `without_gradient` gives a reason;
    * the state dict round-trips.

    Raises:
        ContractError: the first check that fails.
    """
    elbo = vae.elbo() if elbo is None else elbo
    values = vae.inputs(x, y)
    for name in vae.label_sites:
        if vae.by_site(values)[name] is None:
            raise InputError(f"{name}: got nothing; expected {vae.spaces[name]}, some observed and some missing")
    check_sites(vae, values)
    check_terms(vae, elbo)
    check_shapes(vae, values, (3,))
    _check_parameters(vae, values)
    guarded("the sites of model and guide", lambda: elbo.terms(vae.model, vae.guide, *values))
    report = inspect_model(vae, x, y)
    for kind, code, letter in (("model", report.model, "p"), ("guide", report.guide, "q")):
        if vae.states_graph:
            _check_documented(kind, code, documented_graph(vae, letter))
    _check_owners(vae, elbo, values)
    _check_flow(vae, values, report.model)
    _check_entry_points(vae, elbo, values)
    without = _check_gradients(vae, elbo, values)
    _check_state_dict(vae, elbo, values)
    _check_characteristic(vae, report)
    return replace(report, without_gradient=without)


def _check_documented(kind: str, code: Graph, stated: Graph) -> None:
    if not stated:
        raise ContractError(
            f"the docstring states no factorisation of the {kind} in its first literal block, to be compared with the "
            f"code; `states_graph = False` says that it does not mean to"
        )
    for name, parents in code.items():
        if name not in stated:
            raise ContractError(f"{kind}: site '{name}' is sampled but not in the docstring's factorisation")
        if set(stated[name]) != set(parents):
            says = f"{kind}: the docstring says that '{name}' depends on {sorted(stated[name])}"
            raise ContractError(f"{says}, the code on {sorted(parents)}")
    for name in stated:
        if name not in code:
            raise ContractError(f"{kind}: the docstring's factorisation has '{name}', which is never sampled")


def _check_characteristic(vae: SemiVAE, report: Report) -> None:
    stated = set(vae.characteristic)
    children = {name for name in report.latents if set(report.model[name]) & set(report.labels)}
    if children and children != stated and not stated <= set(report.labels):
        raise ContractError(
            f"characteristic: the model says {sorted(stated)}, but the latents that depend on a label are "
            f"{sorted(children)}"
        )


def _check_parameters(vae: SemiVAE, values: Values) -> None:
    """The parameters in Pyro's store (trained by plain SVI) are those of the module (trained by `fit`)."""
    with (
        pyro.get_param_store().scope(),
        Impute(continuous=vae.continuous_labels),
        poutine.trace(param_only=True) as trace,
    ):
        poutine.trace(poutine.replay(vae.model, trace=poutine.trace(vae.guide).get_trace(*values))).get_trace(*values)
    found = {id(site["value"]) for site in trace.trace.nodes.values() if site["type"] == "param"}
    known = {id(parameter): name for name, parameter in vae.named_parameters()}
    if hidden := [name for key, name in known.items() if key not in found]:
        raise ContractError(
            f"parameters {hidden[:5]} are not registered with Pyro: plain SVI would not train them; call "
            f"self.register() on the model's first line"
        )
    if others := [name for name, site in trace.trace.nodes.items() if id(site["value"]) not in known]:
        raise ContractError(f"pyro.param {others[:5]}: fit trains the module's parameters only; make it one")


def _check_owners(vae: SemiVAE, elbo: Objective, values: Values) -> None:
    """All leaves of the loss's graph are parameters of the model; others would not be trained, moved or saved."""
    known, found = {id(parameter) for parameter in vae.parameters()}, leaves(elbo(vae.model, vae.guide)(*values))
    strange = [tuple(leaf.shape) for name, leaf in found.items() if name not in known]
    if strange:
        raise ContractError(
            f"the loss depends on parameters of shapes {strange[:5]} that are not the model's, and are neither trained "
            f"nor saved: modules in a list or dict belong into nn.ModuleList or nn.ModuleDict, tensors are nn.Parameter"
        )


def _check_flow(vae: SemiVAE, values: Values, graph: Graph) -> None:
    """Every density of the model gives a gradient to the latents it depends on."""
    with LocalParameters(), Impute(continuous=vae.continuous_labels):
        guide_trace = poutine.trace(vae.guide).get_trace(*values)
        sites = dict(sample_sites(poutine.trace(poutine.replay(vae.model, trace=guide_trace)).get_trace(*values)))
    for name, site in sites.items():
        for parent in set(graph[name]) & set(sites):  # other parents are inputs, not sites
            value = sites[parent]["value"]
            if not (value.requires_grad and value.numel()):  # a label, a sample without gradient, or empty
                continue
            log_p = site["fn"].log_prob(site["value"]).sum()
            gradient = torch.autograd.grad(log_p, value, retain_graph=True, allow_unused=True)[0]
            if gradient is None or not gradient.any():
                raise ContractError(
                    f"model: no gradient goes from p({name} | ..) to '{parent}', on which it depends: is it detached "
                    f"or rounded on its way? What the guide samples would not learn from this density"
                )


def _check_entry_points(vae: SemiVAE, elbo: Objective, values: Values) -> None:
    def seeded(fn: Callable) -> Tensor:
        with torch.random.fork_rng(), LocalParameters():
            torch.manual_seed(0)
            return fn()

    pair = (vae.model, vae.guide)
    losses = {
        "loss": seeded(lambda: elbo.loss(*pair, *values)),
        "differentiable_loss": seeded(lambda: elbo.differentiable_loss(*pair, *values)),
        "loss_and_grads": seeded(lambda: elbo.loss_and_grads(*pair, *values)),
        "minus the sum of terms": seeded(lambda: -sum(t.sum() for t in elbo.weighted_terms(*pair, *values).values())),
    }
    vae.zero_grad()
    first = losses["loss"]
    for name, value in losses.items():
        if not torch.allclose(value, first, rtol=1e-5 if value.dtype == torch.float32 else 1e-10):
            raise ContractError(f"{name} gives {value.item()}, loss gives {first.item()}, under one seed")


def _check_gradients(vae: SemiVAE, elbo: Objective, values: Values) -> tuple[str, ...]:
    vae.zero_grad()
    elbo(vae.model, vae.guide)(*values).backward()
    excused = getattr(vae, "without_gradient", {})
    without = tuple(name for name, p in vae.named_parameters() if p.grad is None or not p.grad.any())
    vae.zero_grad()
    unexcused = [name for name in without if name not in excused]
    if unexcused:
        raise ContractError(
            f"parameters {unexcused} get no gradient from rows with and without labels; if that is meant, say why in "
            f"the model's without_gradient = {{name: reason}}"
        )
    return without


def _check_state_dict(vae: SemiVAE, elbo: Objective, values: Values) -> None:
    def loss() -> Tensor:
        with torch.random.fork_rng(), LocalParameters():
            torch.manual_seed(0)
            return elbo.loss(vae.model, vae.guide, *values)

    before, saved = loss(), {name: value.clone() for name, value in vae.state_dict().items()}
    try:
        with torch.no_grad():
            for parameter in vae.parameters():
                parameter.add_(1.0)
    finally:
        vae.load_state_dict(saved)
    if not torch.equal(loss(), before):
        raise ContractError("the loss is another one after the state dict was saved and loaded")


__all__ = [
    "ContractError",
    "Report",
    "check_model",
    "documented_graph",
    "factorisation",
    "graph",
    "inspect_model",
]
