"""CCVAE and M2 on images of 28 x 28 pixels with ten classes, by MLPs."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from handwritten.common import Case, Losses, gaussian, log_bernoulli, log_normal, log_standard, noisy
from pyro_semivae.data import Batch, hide
from pyro_semivae.infer import Objective
from pyro_semivae.models import CCVAE, M2, SemiVAE
from pyro_semivae.spaces import Classes

K, ALPHA = 20, 1.0


def rows(number: int) -> dict[str, Any]:
    """Random images, a quarter of them labelled."""
    x = torch.randint(0, 256, (number, 1, 28, 28), dtype=torch.uint8)
    return {"x": x, "y": hide(torch.arange(number) % 10, torch.arange(number // 4))}


def make_ccvae() -> tuple[SemiVAE, Objective]:
    vae = CCVAE((1, 28, 28), Classes(10), z_c=30, z_s=0)
    return vae, vae.elbo(marginal="jensen", weights="independent", num_samples=K)


def ccvae(vae: CCVAE, critics: nn.ModuleDict, batch: Batch) -> Losses:
    """CCVAE's Jensen bound as in the paper, z_c alone."""
    labelled = batch.labelled
    encoder, decoder, classifier = vae.q_z.net.layers, vae.p_x.net.layers, vae.q_y.net.layers
    x, y = batch.x.flatten(1), batch.y[:labelled, None]
    codes = torch.eye(10, dtype=x.dtype, device=x.device)
    loc, scale = gaussian(encoder(x))
    z = noisy(loc, scale)
    log_p_zy = log_normal(z.unsqueeze(-2), *gaussian(vae.p_z_c.net.layers(codes)))
    inside = log_bernoulli(x, decoder(z)) - log_normal(z, loc, scale)
    log_prior = -math.log(log_p_zy.shape[-1])

    log_q = classifier(z).log_softmax(-1)
    log_q_l, log_q_u = log_q[:labelled], log_q[labelled:]
    unlabelled = inside[labelled:] + (log_q_u.exp() * (log_p_zy[labelled:] + log_prior - log_q_u)).sum(-1)

    shape = (K, *loc[:labelled].shape)
    log_q_k = classifier(noisy(loc[:labelled].expand(shape), scale[:labelled])).log_softmax(-1)
    log_q_x = log_q_k.gather(-1, y.expand(K, -1, -1)).squeeze(-1).logsumexp(0) - math.log(K)
    cut = classifier(z[:labelled].detach()).log_softmax(-1).gather(-1, y).squeeze(-1)
    w = (cut - log_q_x).exp()
    bracket = inside[:labelled] + log_p_zy[:labelled].gather(-1, y).squeeze(-1) - log_q_l.gather(-1, y).squeeze(-1)
    return {"loss": -(torch.cat([w * bracket + log_q_x + log_prior, unlabelled]) * batch.scale).sum()}


def make_m2() -> tuple[SemiVAE, Objective]:
    vae = M2((1, 28, 28), Classes(10))
    return vae, vae.elbo(classifier_weight=ALPHA)


def m2(vae: M2, critics: nn.ModuleDict, batch: Batch) -> Losses:
    """M2's bound: labelled rows with their label, the others once for each class, all classes in one batch."""
    labelled = batch.labelled
    encoder, decoder, classifier = vae.q_z.net.layers, vae.p_x.net.layers, vae.q_y.net.layers
    x = batch.x.flatten(1)
    codes = torch.eye(10, dtype=x.dtype, device=x.device)

    def bound(x: Tensor, code: Tensor) -> Tensor:
        loc, scale = gaussian(encoder(torch.cat([x, code], -1)))
        z = noisy(loc, scale)
        return log_bernoulli(x, decoder(torch.cat([code, z], -1))) + log_standard(z) - log_normal(z, loc, scale)

    log_q = classifier(x).log_softmax(-1)
    y = batch.y[:labelled]
    of_labels = bound(x[:labelled], codes[y]) + ALPHA * log_q[:labelled].gather(-1, y[:, None]).squeeze(-1)
    x_u, log_q_u = x[labelled:], log_q[labelled:].T  # (10, B_u)
    each = bound(x_u.expand(10, -1, -1), codes[:, None].expand(-1, len(x_u), -1))
    unlabelled = (log_q_u.exp() * (each - log_q_u)).sum(0)
    return {"loss": -((torch.cat([of_labels, unlabelled]) - math.log(10)) * batch.scale).sum()}


CASES = {"ccvae": Case(make_ccvae, rows, ccvae, (200, 64)), "m2": Case(make_m2, rows, m2, (200, 64))}
