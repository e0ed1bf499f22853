"""CCVAE and M2 on images of 28 x 28 pixels with ten classes, by MLPs."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

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
    """M2's bound: labelled rows with their label and the others once for each class, all in one batch.

    The first layer's part that belongs to an image is computed once for all classes.
    """
    n, (first, *rest) = batch.labelled, vae.q_z.net.layers
    x, y = batch.x.flatten(1), batch.y[:n]
    codes = torch.eye(10, dtype=x.dtype, device=x.device)
    of_x, of_y = first.weight.split([x.shape[1], 10], 1)
    h, h_y = F.linear(x, of_x, first.bias), F.linear(codes, of_y)
    h = torch.cat([h[:n] + h_y[y], (h[n:] + h_y[:, None]).flatten(0, 1)])  # (B_l + 10 B_u, H)
    for layer in rest:
        h = layer(h)
    loc, scale = gaussian(h)
    z = noisy(loc, scale)
    logits = vae.p_x.net.layers(torch.cat([torch.cat([codes[y], codes.repeat_interleave(len(x) - n, 0)]), z], 1))
    of_u = logits[n:].view(10, len(x) - n, -1)
    log_p_x = torch.cat([log_bernoulli(x[:n], logits[:n]), log_bernoulli(x[n:].expand_as(of_u), of_u).flatten()])
    each = log_p_x + log_standard(z) - log_normal(z, loc, scale)

    log_q = vae.q_y.net.layers(x).log_softmax(-1)
    log_q_u = log_q[n:].T  # (10, B_u)
    labelled = each[:n] + ALPHA * log_q[:n].gather(1, y[:, None]).squeeze(1)
    unlabelled = (log_q_u.exp() * (each[n:].view_as(log_q_u) - log_q_u)).sum(0)
    return {"loss": -((torch.cat([labelled, unlabelled]) - math.log(10)) * batch.scale).sum()}


CASES = {"ccvae": Case(make_ccvae, rows, ccvae, (200, 64)), "m2": Case(make_m2, rows, m2, (200, 64))}
