"""The total correlation of latents, estimated from a batch's densities: beta-TCVAE (Chen et al., NeurIPS 2018)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from pyro_semivae.errors import InputError, check_choice, check_count
from pyro_semivae.infer.base import Term
from pyro_semivae.infer.run import Run
from pyro_semivae.infer.tables import masked_rows

Sampling = Literal["weighted", "stratified", "uniform"]


class BatchTotalCorrelation(Term):
    r"""-TC(z), the total correlation of the aggregate posterior, estimated from a batch of M out of N rows.

    .. math::
        TC(z) = E_{q(z)}\Big[\log q(z) - \sum_l \log q(z_l)\Big], \qquad
        q(z_i) \approx \sum_j w_{ij} q(z_i | x_j)

    `vae.elbo() + 5 * BatchTotalCorrelation(N)` is beta-TCVAE with beta = 6. With `"weighted"` sampling every w is
    1 / (N M), so that rows sum to less than 1. With `"stratified"` sampling w_ii is 1 / N, one other entry of a row is
    (N - M + 1) / (N (M - 1)), and the remaining ones are 1 / (M - 1), so that rows sum to 1 (Chen et al., Appendix C).
    `"uniform"` is ours: all other entries are (N - 1) / (N (M - 1)), and the estimate of q(z_i) is the exact mixture if
    M = N.

    Differs from public code: constants are included (`disentanglement_lib` drops them, which does not change the
    gradient), and 1 / N is on the diagonal of the stratified weights (in `beta-tcvae` and pythae it is in the first
    column).

    Args:
        num_rows: N, the size of the training set.
        latents: names of the sites (default: all), which are flattened and concatenated; with diagonal densities.
        sampling: see above.

    Raises:
        InputError: when evaluated: a site is not a latent; a latent's density is not diagonal; a batch has one row, or
            more than `num_rows`.
    """

    whole_batch = True

    def __init__(
        self, num_rows: int, *latents: str, sampling: Literal["weighted", "stratified", "uniform"] = "weighted"
    ):
        self.num_rows, self.latents = check_count("num_rows", num_rows, 2), latents
        self.sampling = check_choice("sampling", sampling, ("weighted", "stratified", "uniform"))

    def values(self, run: Run) -> Mapping[str, Tensor]:
        names = self.latents or run.latents
        if unknown := [name for name in names if name not in run.latents]:
            raise InputError(f"BatchTotalCorrelation: got {unknown}; expected latents, {', '.join(run.latents)}")
        log_q = torch.cat([self._densities(run, name) for name in names], 2)  # (B, B, D), at z_i given x_j
        number = len(log_q)
        if not 2 <= number <= self.num_rows:
            got = f"a batch of {number} rows"
            raise InputError(f"BatchTotalCorrelation: got {got}; expected two up to num_rows={self.num_rows}")
        log_w = self._log_weights(number, log_q)
        joint = (log_q.sum(2) + log_w).logsumexp(1)
        each = (log_q + log_w.unsqueeze(2)).logsumexp(1).sum(1)
        return {f"-TC({','.join(names)})": masked_rows(each - joint, run.model.nodes[names[0]])}

    def _densities(self, run: Run, name: str) -> Tensor:
        fn = run.guide.nodes[name]["fn"]
        if not fn.event_dim and name not in run.labels:  # a continuous label with one number per entry
            z = run.value(name)
            return fn.expand(z.shape).log_prob(z.unsqueeze(1))
        base = getattr(fn, "base_dist", None)
        if fn.event_dim != 1 or base is None or base.event_shape:
            got = f"{type(fn).__name__} of '{name}'"
            raise InputError(f"BatchTotalCorrelation: got {got}; expected independent entries, as in Gaussian")
        z = run.value(name)  # (B, D)
        base = base.expand((len(z), *base.batch_shape[1:]))
        left = base.batch_shape[1:-1]  # the dimension of a label's entries, of size 1
        return base.log_prob(z.view(len(z), 1, *(1,) * len(left), z.shape[1])).flatten(2)

    def _log_weights(self, number: int, like: Tensor) -> Tensor:
        """log w, `(B, B)`."""
        if self.sampling == "weighted":
            return like.new_full((number, number), -math.log(number * self.num_rows))
        others, n = number - 1, self.num_rows
        rows = torch.arange(number, device=like.device)
        if self.sampling == "uniform":
            weights = like.new_full((number, number), (n - 1) / (n * others))
        else:
            weights = like.new_full((number, number), 1 / others)
            weights[rows, (rows + 1) % number] = (n - others) / (n * others)
        weights[rows, rows] = 1 / n
        return weights.log()
