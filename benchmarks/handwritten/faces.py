"""CCVAE on images of 64 x 64 pixels with binary labels, by convolutions and with Laplace pixels."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from handwritten.common import Case, Losses, gaussian, log_normal, log_standard, noisy
from pyro_semivae.conditionals import LaplaceLikelihood
from pyro_semivae.data import Batch
from pyro_semivae.infer import ClassifierTerm, Objective
from pyro_semivae.models import CCVAE, SemiVAE
from pyro_semivae.nn import Convs
from pyro_semivae.spaces import Binary

K, ALPHA, LABELS = 20, 4.0, 18


def rows(number: int) -> dict[str, Any]:
    """Random images, a quarter of them with all labels."""
    y = torch.full((number, LABELS), torch.nan)
    y[: number // 4] = torch.randint(0, 2, (number // 4, LABELS)).float()
    return {"x": torch.randint(0, 256, (number, 3, 64, 64), dtype=torch.uint8), "y": y}


def objective(vae: CCVAE) -> Objective:
    """That of `vae.elbo_for`, at alpha = N / N_labelled."""
    return vae.elbo(marginal="jensen", num_samples=K) + ALPHA * ClassifierTerm()


def make() -> tuple[SemiVAE, Objective]:
    vae = CCVAE((3, 64, 64), Binary(LABELS), z_s=27, networks=Convs(), likelihood=LaplaceLikelihood)
    return vae, objective(vae)


def losses(vae: CCVAE, critics: nn.ModuleDict, batch: Batch) -> Losses:
    """CCVAE's Jensen bound with normalised weights, and the classifier's term."""
    x, n, classifier, encoder = batch.x, batch.labelled, vae.q_y, vae.q_z.net
    y = batch.y[:n]
    size = y.shape[1]
    loc, scale = gaussian(encoder.last(encoder.layers(x)))
    z = noisy(loc, scale)
    z_c, z_s = z[:, :size], z[:, size:]
    difference = x - vae.p_x.net.layers(z).sigmoid()
    log_p_x = -difference.abs().flatten(1).sum(1) - math.log(2) * x[0].numel()  # Laplace pixels of scale 1
    inside = log_p_x + log_standard(z_s) - log_normal(z, loc, scale)

    loc_c, scale_c = vae.p_z_c.loc, F.softplus(vae.p_z_c.raw) + 1e-3  # (2, L): of labels off and on
    log_p_zy = log_normal(z_c[:, None, :, None], loc_c[..., None], scale_c[..., None])  # (B, 2, L)
    logits = classifier.slope * z_c + classifier.bias
    log_q_u = torch.stack([F.logsigmoid(-logits[n:]), F.logsigmoid(logits[n:])], 1)  # (B_u, 2, L)
    log_prior = -math.log(2)
    unlabelled = inside[n:] + (log_q_u.exp() * (log_p_zy[n:] + log_prior - log_q_u)).sum((1, 2))

    sign = 2 * y - 1

    def log_q(logits: Tensor) -> Tensor:
        return F.logsigmoid(sign * logits).sum(-1)

    z_k = noisy(loc[:n, :size].expand(K, -1, -1), scale[:n, :size])
    log_q_x = log_q(classifier.slope * z_k + classifier.bias).logsumexp(0) - math.log(K)
    cut = log_q(classifier.slope * z_c[:n].detach() + classifier.bias)
    w = (cut - torch.logaddexp(cut, log_q_x + math.log(K)) + math.log(1 + K)).exp()
    log_p_z_c = torch.where(y == 1, log_p_zy[:n, 1], log_p_zy[:n, 0]).sum(-1)
    bracket = inside[:n] + log_p_z_c - log_q(logits[:n])
    total = torch.cat([w * bracket + (1 + ALPHA) * log_q_x + size * log_prior, unlabelled])
    return {"loss": -(total * batch.scale).sum()}


CASES = {"ccvae-faces": Case(make, rows, losses, (64,), num_rows=1_500)}
