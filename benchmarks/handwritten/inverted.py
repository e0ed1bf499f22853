"""The inverted VAE with its full objective: images, and labels without images in reverse, as `elbo_for` has it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from handwritten.common import Case, Losses, gaussian, log_bernoulli, log_normal, noisy
from pyro_semivae.data import Batch, hide
from pyro_semivae.infer import Objective
from pyro_semivae.models import InvertedVAE, SemiVAE
from pyro_semivae.spaces import Classes

ALPHA, IMAGE, REVERSE, TEMPERATURE = 5.0, 10.0, 10.0, 0.67


def rows(number: int) -> dict[str, Any]:
    """Random images, half of them labelled; they are also used without. As many labels without images."""
    x = torch.randint(0, 256, (number, 1, 28, 28), dtype=torch.uint8)
    y = hide(torch.arange(number) % 10, torch.arange(number // 2))
    return {"x": x, "y": y, "unpaired_labels": torch.randint(10, (number,)), "also_unlabelled": True}


def make() -> tuple[SemiVAE, Objective]:
    hidden = {"classifier_hidden": (200, 200), "encoder_hidden": (200, 200), "activation": nn.ReLU}
    vae = InvertedVAE((1, 28, 28), Classes(10), **hidden)
    return vae, vae.elbo_for(None)


def log_squashed(u: Tensor, loc: Tensor, scale: Tensor, width: float) -> Tensor:
    """The log-density of z = low + width * sigmoid(u), for a Gaussian u, summed over the last dimension."""
    slope = F.logsigmoid(u) + F.logsigmoid(-u)
    return log_normal(u, loc, scale) - slope.sum(-1) - u.shape[-1] * math.log(width)


def losses(vae: InvertedVAE, critics: nn.ModuleDict, batch: Batch) -> Losses:
    """The decoder runs first for the image term and in reverse, then encoder and classifier once for all images."""
    encoder, decoder, classifier = vae.q_z.net.layers, vae.p_x.net.layers, vae.q_y.net.layers
    x, n, y_a = batch.x.flatten(1), batch.labelled, batch.alone.y
    y, low, width = batch.y[:n], vae.q_z.low, vae.q_z.high - vae.q_z.low
    classes = vae.labels.num_classes
    codes = torch.eye(classes, dtype=x.dtype, device=x.device)

    # Given labels and z from its prior: the mean of the image; in reverse a binary image, without a gradient.
    known = codes[torch.cat([y, y_a])]
    of_z = torch.rand(len(known), len(vae.p_z.low), dtype=x.dtype, device=x.device)  # sigmoid(u)
    logits = decoder(torch.cat([known, low + width * of_z], 1))
    image = (x[:n] - logits[:n].sigmoid()).square().sum(1)
    logits_a, u_a = logits[n:], of_z[n:].logit()
    x_a = logits_a.detach().sigmoid().bernoulli()

    log_q = classifier(torch.cat([x, x_a])).log_softmax(1)
    log_q_l, log_q_u, log_q_a = log_q.split([n, len(x) - n, len(x_a)])
    uniform = torch.empty_like(log_q_u).exponential_()
    relaxed = ((log_q_u - uniform.log()) / TEMPERATURE).softmax(1)
    code = torch.cat([known[:n], relaxed])
    loc, scale = gaussian(encoder(torch.cat([torch.cat([x, x_a]), torch.cat([code, known[n:]])], 1)))
    u = noisy(loc[: len(x)], scale[: len(x)])
    log_p_x = log_bernoulli(x, decoder(torch.cat([code, low + width * u.sigmoid()], 1)))
    log_q_z = log_squashed(torch.cat([u, u_a]), loc, scale, width)
    bound = log_p_x - log_q_z[: len(x)] - u.shape[1] * math.log(width)
    labelled = bound[:n] - math.log(classes) + ALPHA * log_q_l.gather(1, y[:, None]).squeeze(1) - IMAGE * image
    unlabelled = bound[n:] - (log_q_u.exp() * (math.log(classes) + log_q_u)).sum(1)
    reverse = log_q_a.gather(1, y_a[:, None]).squeeze(1) + log_q_z[len(x) :] - log_bernoulli(x_a, logits_a)
    reverse = reverse - x.shape[1] * math.log(2)  # q(x)
    total = (torch.cat([labelled, unlabelled]) * batch.scale).sum()
    return {"loss": -total - REVERSE * (reverse * batch.alone.scale).sum()}


CASES = {"inverted": Case(make, rows, losses, (250,))}
