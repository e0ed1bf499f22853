"""The reconstruction of a row with the latent of another row of the same group."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pyro import poutine
from torch import Tensor

from pyro_semivae.errors import InputError
from pyro_semivae.infer.base import Term
from pyro_semivae.infer.generation import generated_sites
from pyro_semivae.infer.run import Run
from pyro_semivae.infer.tables import log_prob, to_rows


class SwapTerm(Term):
    r"""log p(x | z, e') for rows of a group, with e' from another row of it (Mathieu et al., NIPS 2016, Fig. 2).

    .. math::
        \log p(x_i | z_i, e_j), \qquad i, j \text{ of one group}, \quad z_i \sim q(z|x_i), \quad e_j \sim q(e|x_j)

    It trains e to be the same in all rows of the group, so that the differences between rows are in z. j follows i in a
    random order of the group. The term is `swap: log p(x)`.

    Args:
        latent: e. group: a label and one of its values; rows with other values are ignored.

    Raises:
        InputError: when evaluated: there is no latent or label of that name; labels may be missing.
    """

    whole_batch = True

    def __init__(self, latent: str, group: tuple[str, int]):
        self.latent, self.group = latent, tuple(group)

    def values(self, run: Run) -> Mapping[str, Tensor]:
        label, value = self.group
        if self.latent not in run.latents or label not in run.model.nodes:
            got = f"the latent {self.latent!r} and the label {label!r}"
            raise InputError(f"SwapTerm: got {got}; expected ones of the model, {', '.join(run.model.nodes)}")
        if run.labels or run.continuous or run.particle_dim != -2:
            raise InputError(
                "SwapTerm: got a model with labels that may be missing; expected labels declared as Groups"
            )
        rows = run.model.nodes[label]["value"] == value
        # The rows of the group in a random order: each gets the next row's latent, the last one the first's.
        order = torch.argsort(torch.rand(len(rows), device=rows.device) + (~rows).float())
        number = rows.sum()
        place = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        partner = order[(place + 1) % number.clamp(min=1)]
        own = {name: run.guide.nodes[name]["value"] for name in run.latents}
        own[self.latent] = torch.where(rows.unsqueeze(-1), own[self.latent][partner], own[self.latent])
        step = run.step
        trace = poutine.trace(poutine.condition(step.model, data=own)).get_trace(*step.args, **step.kwargs)
        (name,) = generated_sites(run)
        density = to_rows(log_prob(trace.nodes[name]), trace.nodes[name])
        return {f"swap: log p({name})": torch.where(rows, density, 0.0)}
