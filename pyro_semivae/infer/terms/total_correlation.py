"""The total correlation of latents from a density-ratio estimator: FactorVAE (Kim and Mnih, ICML 2018)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from pyro_semivae.errors import InputError, check_number
from pyro_semivae.infer.base import Term
from pyro_semivae.infer.run import Run
from pyro_semivae.infer.tables import masked_rows


class TotalCorrelation(Term):
    r"""-TC(z), the total correlation of the aggregate posterior, estimated by a critic (FactorVAE's Eq. 3).

    .. math::
        TC(z) = KL\Big(q(z) \,\Big\Vert\, \prod_j q(z_j)\Big) \approx E_{q(z)}\Big[\log \frac{D(z)}{1 - D(z)}\Big]

    `vae.elbo() + 6 * TotalCorrelation()` is FactorVAE with gamma = 6. The critic D distinguishes samples of q(z) from
    samples whose entries are permuted over the batch independently; its loss (`loss`) is the cross-entropy for both.
    `fit` trains it in the same step, with an optimiser of its own; elsewhere (plain SVI) you have to train it yourself.
    The term's gradient goes to the latents and not to the critic, the loss's to the critic and not to the latents.

    With `by_site` the entries of a site are permuted together, which gives the total correlation between sites; for two
    sites, it is their mutual information I(z_c; z_s) = KL(q(z_c, z_s) || q(z_c) q(z_s)).

    The critic belongs to the term: a second `fit` with the same object continues to train it.

    Differs from the paper: the permuted samples are from the other half of the batch, not from a second batch; D has
    one logit, not two.

    Args:
        latents: names of the sites (default: all), which are flattened and concatenated.
        hidden: the sizes of the critic's hidden layers, with leaky ReLUs of slope 0.2; default as in the paper.
        lr: the critic's learning rate. by_site: see above.

    Raises:
        InputError: when evaluated: a site is not a latent; `by_site` with one site; a batch has one row, or the latents
            one dimension.
    """

    whole_batch = True

    def __init__(self, *latents: str, hidden: Sequence[int] = (1000,) * 5, lr: float = 1e-4, by_site: bool = False):
        self.by_site = by_site
        self.latents, self.hidden, self.lr = latents, tuple(hidden), check_number("lr", lr, above=0)
        layers: list[nn.Module] = []
        for size in hidden:
            layers += [nn.LazyLinear(size), nn.LeakyReLU(0.2)]
        self.critic = nn.Sequential(*layers, nn.LazyLinear(1))

    @property
    def _between(self) -> str:
        return ";" if self.by_site else ","

    def module(self) -> tuple[str, nn.Module]:
        return f"TC({self._between.join(self.latents) or 'all'})", self.critic

    def optimiser(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Adam, as in the paper's Appendix A."""
        return torch.optim.Adam(parameters, self.lr, betas=(0.5, 0.9), fused=True)

    def values(self, run: Run) -> Mapping[str, Tensor]:
        z = self._samples(run)
        fixed = {name: parameter.detach() for name, parameter in self.critic.named_parameters()}
        log_ratio = functional_call(self.critic, fixed, (z,))[:, 0].to(z.dtype)
        names = self.latents or run.latents
        return {f"-TC({self._between.join(names)})": masked_rows(-log_ratio, run.model.nodes[names[0]])}

    def loss(self, run: Run) -> Tensor:
        z = self._samples(run).detach()
        joint, other = z[::2], z[1::2]
        parts = other.split(self._sizes(run), 1)
        permuted = torch.cat([part[torch.randperm(len(part), device=z.device)] for part in parts], 1)
        return (F.softplus(-self.critic(joint).to(z)).mean() + F.softplus(self.critic(permuted).to(z)).mean()) / 2

    def _sizes(self, run: Run) -> list[int]:
        """The sizes of the blocks of entries that are permuted together."""
        sizes = [run.value(name).shape[1] for name in self.latents or run.latents]
        return sizes if self.by_site else [1] * sum(sizes)

    def _samples(self, run: Run) -> Tensor:
        """The latents, `(B, D)`; the first call initialises the critic's lazy layers."""
        names = self.latents or run.latents
        unknown = [name for name in names if name not in run.latents]
        if unknown or not names:
            raise InputError(f"TotalCorrelation: got {unknown or 'none'}; expected latents, {', '.join(run.latents)}")
        if self.by_site and len(names) < 2:
            raise InputError(f"by_site: got the latent {names[0]!r} alone; expected two or more")
        z = torch.cat([run.value(name) for name in names], 1)
        if len(z) < 2 or z.shape[1] < 2:
            got = f"a batch of {len(z)} rows and {z.shape[1]} dimensions of {', '.join(names)}"
            raise InputError(f"TotalCorrelation: got {got}; expected two or more of each")
        if any(isinstance(parameter, nn.UninitializedParameter) for parameter in self.critic.parameters()):
            with torch.no_grad():
                self.critic.to(z.device, z.dtype)(z)
        return z
