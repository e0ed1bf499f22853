"""sRb-VAE as in `examples/rbvae.py`: the ELBO, two critics with their own optimisers, and generated images' latents."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from handwritten.common import Case, Losses, gaussian, log_normal, log_standard, noisy
from pyro_semivae.conditionals import LaplaceLikelihood
from pyro_semivae.data import Batch
from pyro_semivae.infer import Objective
from pyro_semivae.models import RbVAE, SemiVAE
from pyro_semivae.nn import PixelNormConvs
from pyro_semivae.spaces import Groups

ADVERSARIAL, CROSSED, R1, SCALES, SCALE, LATENTS = 30.0, 0.5, 0.3, 3, 0.3, 1.0
EIGHTH = 8  # the gradient penalty uses 1 in 8 rows


def rows(number: int) -> dict[str, Any]:
    """Random images, half of them references."""
    x = torch.randint(0, 256, (number, 3, 32, 32), dtype=torch.uint8)
    return {"x": x, "y": torch.arange(number) % 2, "stratify": ("y", Groups(2).num_classes)}


def objective(vae: RbVAE) -> Objective:
    return vae.elbo(scales=SCALES, adversarial=ADVERSARIAL, latents=LATENTS, crossed=CROSSED, r1=R1)


def make() -> tuple[SemiVAE, Objective]:
    networks = PixelNormConvs(16, strided=True, start=-2.0)
    vae = RbVAE((3, 32, 32), networks=networks, likelihood=partial(LaplaceLikelihood, scale=SCALE))
    return vae, objective(vae)


def reconstruction(difference: Tensor) -> Tensor:
    """Minus the L1 distance at several scales, `(B,)`."""
    total: Tensor | float = 0.0
    for k in range(SCALES):
        difference = F.avg_pool2d(difference, 2) if k else difference
        total = total - 4**k * difference.abs().flatten(1).sum(1)
    return total / (SCALES * SCALE)


def penalty(critic: nn.Module, *pair: Tensor) -> Tensor:
    """The mean squared gradient of a critic with respect to data and latents."""
    pair = tuple(part.detach().requires_grad_() for part in pair)
    slopes = torch.autograd.grad(critic(*pair).sum(), pair, create_graph=True)
    return sum(slope.flatten(1).square().sum(1) for slope in slopes).mean()


def losses(vae: RbVAE, critics: nn.ModuleDict, batch: Batch) -> Losses:
    """e is inferred for the unlabelled images alone, and each critic runs once for both losses and both kinds of pairs.

    The unlabelled images come first.
    """
    x, (n, m) = batch.x, batch.strata["y"]

    def encoded(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        return gaussian(net.last(net.layers(x)))

    of_z, of_e = vae.q_z.net, vae.q_e.otherwise.net
    (loc, scale), (loc_e, scale_e) = encoded(of_z, x), encoded(of_e, x[:n])
    z, e, e_r = noisy(loc, scale), noisy(loc_e, scale_e), vae.e_r.expand(m, -1)

    # Generated images have latents of the prior; half of them have their own e, and z of an image of the other set.
    other = torch.cat([n + torch.randint(m, (n,), device=x.device), torch.randint(n, (m,), device=x.device)])
    crossed = torch.rand(len(x), dtype=x.dtype, device=x.device)[:, None] < CROSSED
    z_g = torch.where(crossed, z[other], torch.randn_like(z))
    e_g = torch.where(crossed[:n], e, torch.randn_like(e))
    of_images, of_generated = (torch.cat([a, torch.cat([b, e_r])], 1) for a, b in ((z, e), (z_g, e_g)))
    mean, x_g = vae.p_x.net.layers(torch.cat([of_images, of_generated])).sigmoid().chunk(2)

    found: Losses = {}
    differences = []
    latents = {0: (slice(0, n), [z, e], [z_g, e_g]), 1: (slice(n, None), [z], [z_g])}
    for (name, critic), (rows, own, made) in zip(critics.items(), latents.values(), strict=True):
        q, p = ([part[rows] for part in parts] for parts in ((x, *own), (x_g, *made)))
        d_q, d_p = critic(*(torch.cat(both) for both in zip(q, p, strict=True))).chunk(2)
        share = math.ceil(len(d_q) / EIGHTH)
        found[name] = F.softplus(-d_q).mean() + F.softplus(d_p).mean()
        found[name] = found[name] + R1 / 2 * penalty(critic, *(part[:share] for part in q))
        differences.append(d_p - d_q)

    x_g, z_g, e_g = x_g.detach(), z_g.detach(), e_g.detach()
    total = reconstruction(x - mean) + log_standard(z) - log_normal(z, loc, scale) - math.log(2)
    total = total + ADVERSARIAL * torch.cat(differences) + LATENTS * log_normal(z_g, *encoded(of_z, x_g))
    of_e = log_standard(e) - log_normal(e, loc_e, scale_e) + LATENTS * log_normal(e_g, *encoded(of_e, x_g[:n]))
    return {"loss": -(total * batch.scale).sum() - (of_e * batch.scale[:n]).sum(), **found}


ADAM = {"betas": (0.5, 0.99)}
CASES = {"rbvae": Case(make, rows, losses, (32,), adam=ADAM, svi=False)}
