"""LaRVAE as in `examples/larvae.py`: beta-TCVAE, label replacement with z from the prior, and generated labels."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from handwritten.common import Case, Losses, gaussian, log_bernoulli, log_normal, log_standard, noisy
from pyro_semivae.conditionals import BernoulliLikelihood
from pyro_semivae.data import Batch
from pyro_semivae.infer import Objective
from pyro_semivae.models import LaRVAE, SemiVAE
from pyro_semivae.nn import InstanceNormConvs, MLPs, Paired
from pyro_semivae.spaces import Real

FACTORS, NUM_ROWS, SHARE = 6, 12_000, 100.0
BETA, ALPHA, TAU, GENERATED, PIXELS = 4.0, 300.0 * SHARE, SHARE, 300.0 * SHARE, 4.0


def rows(number: int) -> dict[str, Any]:
    """Random images, one in a hundred with all factors; they are also used without."""
    y = torch.full((number, FACTORS), torch.nan)
    known = max(number // 100, 2)
    y[:known] = torch.randn(known, FACTORS)
    return {"x": torch.randint(0, 256, (number, 3, 32, 32), dtype=torch.uint8), "y": y, "also_unlabelled": True}


def objective(vae: LaRVAE) -> Objective:
    return vae.elbo(
        base=vae.base("tc", BETA, NUM_ROWS),
        alpha=ALPHA,
        tau=TAU,
        generated=GENERATED,
        replacement="prior",
        pixels=PIXELS,
        also_labelled=False,
    )


def make() -> tuple[SemiVAE, Objective]:
    networks = Paired(InstanceNormConvs(8, 96, normalise=False), MLPs((192, 384)))
    vae = LaRVAE((3, 32, 32), Real(FACTORS), networks=networks, likelihood=BernoulliLikelihood)
    return vae, objective(vae)


def losses(vae: LaRVAE, critics: nn.ModuleDict, batch: Batch) -> Losses:
    """One pass of the encoder over unlabelled, labelled and generated images, and one of the decoder over all codes.

    The generated images have no gradient and come first.
    """
    x, n, encoder, decoder = batch.x, batch.labelled, vae.q_y_z.net, vae.p_x.net.layers
    y, size = batch.y[:n], batch.y.shape[1]
    number = len(x) - n

    def of_prior() -> torch.Tensor:
        return torch.randn(n, vae.q_y_z.size, dtype=x.dtype, device=x.device)

    z_l = of_prior()  # of the label replacement
    y_g = y.gather(0, torch.randint(n, y.shape, device=x.device))  # each entry from a random labelled image
    with torch.no_grad():
        x_g = decoder(torch.cat([y_g, of_prior()], 1)).sigmoid().view(n, *x.shape[1:])
    raw = encoder.last(encoder.layers(torch.cat([x[n:], x[:n], x_g])))
    mean_l, mean_g = raw[number:, :size].chunk(2)

    # The network returns the labels' locations and scales, then those of z.
    (loc_y, scale_y), (loc_z, scale_z) = map(gaussian, raw[:number].split([2 * size, 2 * vae.q_y_z.size], 1))
    loc, scale = torch.cat([loc_y, loc_z], 1), torch.cat([scale_y, scale_z], 1)
    code = noisy(loc, scale)
    codes = torch.cat([code, torch.cat([y, z_l], 1)])
    log_p_x = PIXELS * log_bernoulli(torch.cat([x[n:], x[:n]]).flatten(1), decoder(codes))
    log_q = -0.5 * ((code[:, None] - loc) / scale) ** 2 - scale.log() - 0.5 * math.log(2 * math.pi)  # (B_u, B_u, D)
    log_w = -math.log(number * NUM_ROWS)
    tc = log_q.sum(2).logsumexp(1) + log_w - log_q.logsumexp(1).sum(1) - code.shape[1] * log_w
    unlabelled = log_p_x[:number] + log_standard(code) - log_normal(code, loc, scale) - (BETA - 1) * tc
    errors = ALPHA * (mean_l - y).square().sum(1) + GENERATED * (mean_g - y_g).square().sum(1)
    labelled = TAU * (log_p_x[number:] + log_standard(y)) - errors
    return {"loss": -(torch.cat([labelled, unlabelled]) * batch.scale).sum()}


CASES = {"larvae": Case(make, rows, losses, (64,))}
