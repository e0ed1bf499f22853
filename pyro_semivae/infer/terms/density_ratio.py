"""The symmetric KL divergence of guide and model, from a density ratio learned by a discriminator (Pu et al. 2018)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_semivae.errors import InputError, check_number
from pyro_semivae.infer.base import Term
from pyro_semivae.infer.generation import Generate, Generation, generated_sites, generation
from pyro_semivae.infer.run import Run


class DensityRatio(Term):
    r"""-(E_q[d] - E_p[d]): minus the symmetric KL divergence of q(x, z) and p(x, z), by a discriminator.

    .. math::
        d(x, z) \approx \log \frac{q(z | x) p_\mathrm{data}(x)}{p(x | z) p(z)}, \qquad
        E_q[d] - E_p[d] = KL(q \Vert p) + KL(p \Vert q)

    The discriminator distinguishes pairs of data and the guide's latents from pairs of generated data and the model's
    latents. Its loss (`loss`) is the cross-entropy for both, :math:`E_q[softplus(-d)] + E_p[softplus(d)]`, which is
    2 log 2 if it cannot distinguish them. `fit` trains it in the same step, with an optimiser of its own and a constant
    learning rate; elsewhere (plain SVI) you have to train it yourself.

    The term's gradient goes through the latents (to the guide) and through the generated data (to the model), not to
    the discriminator; the loss's gradient goes only to the discriminator. The term's gradient is one part of that of
    the symmetric divergence, see `TraceSymmetricKL_ELBO`.

    Args:
        latents: names of latents; the discriminator is called with x and these. Without any, it only compares images.
        net: the discriminator, a module that maps data `(B, ...)` and latents `(B, D)` to `(B,)` or `(B, 1)`.
        group: a label and one of its values; rows with other values are ignored (default: all rows).
        generate: options for generating; default: `Generate()`.
        lr: the discriminator's learning rate. betas: the betas of Adam.
        r1: gamma in the penalty `gamma / 2 |grad d|^2` on the guide's pairs, with respect to data and latents (R1;
            Mescheder et al., ICML 2018). It is estimated in every step, on an eighth of the included rows.

    Monitors: the means of d over the guide's and the model's pairs.

    Raises:
        InputError: when evaluated: a name is not a latent; the label or its value does not exist.
    """

    whole_batch = True
    SHARE = 8  # the penalty uses 1 in 8 rows

    def __init__(
        self,
        *latents: str,
        net: nn.Module,
        group: tuple[str, int] | None = None,
        generate: Generate | None = None,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.5, 0.99),
        r1: float = 0.0,
    ):
        if not isinstance(net, nn.Module):
            raise InputError(f"net: got {net!r:.50}; expected a module")
        self.latents, self.net, self.group, self.generate = latents, net, group, generate or Generate()
        self.lr, self.betas, self.r1 = check_number("lr", lr, above=0), betas, check_number("r1", r1, least=0)

    @property
    def name(self) -> str:
        given = "" if self.group is None else f"|{self.group[0]}={self.group[1]}"
        return f"{','.join(('x', *self.latents))}{given}"

    def module(self) -> tuple[str, nn.Module]:
        return f"d({self.name})", self.net

    def optimiser(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, self.lr, betas=self.betas, fused=True)

    def values(self, run: Run) -> Mapping[str, Tensor]:
        rows, size = self._rows(run)
        of_q, of_p = self._of_guide(run), self._of_model(generation(run, self.generate))
        difference = self._d(of_p, rows) - self._d(of_q, rows)
        return {f"-J({self.name})": _spread(difference, rows, size)}

    def loss(self, run: Run) -> Tensor:
        rows, _ = self._rows(run)
        of_q, of_p = (
            tuple(value.detach() for value in pair)
            for pair in (self._of_guide(run), self._of_model(generation(run, self.generate)))
        )
        d_q, d_p = self._d(of_q, rows), self._d(of_p, rows)
        run.kept["d", self.name] = d_q.detach(), d_p.detach()
        each = _weights(rows, d_q)
        loss = (each * (F.softplus(-d_q) + F.softplus(d_p))).sum()
        if self.r1 and not torch.is_inference_mode_enabled():
            share = max(1, math.ceil(len(d_q) / self.SHARE))
            loss = loss + self.r1 / 2 * self._penalty(of_q, rows, share)
        return loss

    def monitors(self, run: Run) -> dict[str, Tensor]:
        rows, _ = self._rows(run)
        found = zip(("q", "p"), run.kept["d", self.name], strict=True)
        return {f"d({self.name}) of {of}": (_weights(rows, d) * d).sum() for of, d in found}

    def _penalty(self, pair: tuple[Tensor, ...], rows: slice | Tensor, share: int) -> Tensor:
        """The mean of |grad d|^2 over the first `share` included rows."""
        if isinstance(rows, slice):
            first, weights = slice(rows.start, min(rows.start + share, rows.stop)), None
        else:
            first = torch.argsort(~rows, stable=True)[:share]
            weights = rows[first]
        with torch.enable_grad():
            pair = tuple(value[first].requires_grad_() for value in pair)
            gradients = torch.autograd.grad(self.net(*pair).sum(), pair, create_graph=True)
        squared = sum(gradient.flatten(1).square().sum(1) for gradient in gradients)
        return squared.mean() if weights is None else (weights * squared).sum() / weights.sum().clamp(min=1)

    def _d(self, pair: tuple[Tensor, ...], rows: slice | Tensor) -> Tensor:
        """d for the rows of a pair: all, or those in a slice."""
        if isinstance(rows, slice):
            pair = tuple(value[rows] for value in pair)
        found = self.net(*pair)
        return found.reshape(len(pair[0])).to(pair[0].dtype)

    def _of_guide(self, run: Run) -> tuple[Tensor, ...]:
        if unknown := [name for name in self.latents if name not in run.latents]:
            raise InputError(f"DensityRatio: got {unknown}; expected latents, {', '.join(run.latents)}")
        (x,) = (run.model.nodes[name]["value"] for name in generated_sites(run))
        self._place(x)
        return x, *(run.guide.nodes[name]["value"] for name in self.latents)

    def _place(self, x: Tensor) -> None:
        """Moves the discriminator to the device and dtype of the data, if they differ."""
        parameter = next(self.net.parameters(), None)
        if parameter is not None and (parameter.dtype, parameter.device) != (x.dtype, x.device):
            self.net.to(x.device, x.dtype)

    def _of_model(self, generated: Generation) -> tuple[Tensor, ...]:
        (x,) = (generated.value(name) for name in generated.data)
        return x, *(generated.value(name) for name in self.latents)

    def _rows(self, run: Run) -> tuple[slice | Tensor, int]:
        """The included rows, a slice if possible, else a mask `(B,)`; and B."""
        (site,) = (run.model.nodes[name] for name in generated_sites(run))
        number, mask = len(site["value"]), site["mask"]
        sizes = None if self.group is None else run.step.strata.get(self.group[0])
        if self.group is not None:
            label, value = self.group
            if label not in run.model.nodes:
                raise InputError(f"group: got the label {label!r}; expected one of the model")
            if sizes is not None and not 0 <= value < len(sizes):
                raise InputError(f"group: got {value} of {label!r}; expected 0 to {len(sizes) - 1}")
        if mask is None or mask is True:
            if self.group is None:
                return slice(0, number), number
            if sizes is not None:
                before = sum(sizes[: self.group[1]])
                return slice(before, before + sizes[self.group[1]]), number
            return run.model.nodes[self.group[0]]["value"] == self.group[1], number
        there = torch.as_tensor(mask, device=site["value"].device).expand(number)
        if self.group is None:
            return there, number
        return there & (run.model.nodes[self.group[0]]["value"] == self.group[1]), number


def _spread(values: Tensor, rows: slice | Tensor, size: int) -> Tensor:
    """Values of the included rows as `(B,)`, 0 elsewhere."""
    if not isinstance(rows, slice):
        return torch.where(rows, values, 0.0)
    start, stop, _ = rows.indices(size)
    return torch.cat([values.new_zeros(start), values, values.new_zeros(size - stop)])


def _weights(rows: slice | Tensor, values: Tensor) -> Tensor:
    """Equal weights with sum 1 for the included rows."""
    if isinstance(rows, slice):
        return torch.full_like(values, 1 / max(len(values), 1))
    return rows / rows.sum().clamp(min=1)
