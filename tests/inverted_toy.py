"""A small inverted VAE, and its densities by hand."""

import math

import torch
from by_hand import through
from ccvae_toy import gaussian, log_normal
from torch.nn import functional as F

from pyro_semivae.models import InvertedVAE
from pyro_semivae.spaces import Binary, Classes

C, L, D, SHAPE = 5, 3, 2, (1, 2, 7)
Y = {
    "classes": torch.tensor([2, 0, 4, 4, 1, 3]),
    "binary": torch.tensor([[1.0, 0, 1], [0, 0, 0], [1, 1, 0], [0, 1, 1]]),
}
LOW, HIGH = -1.5, 1.5


def make(kind="classes", **options):
    torch.manual_seed(0)
    hidden = {"classifier_hidden": (6,), "encoder_hidden": (4,), "decoder_hidden": (11,)}
    return InvertedVAE(
        SHAPE, Classes(C) if kind == "classes" else Binary(L), z=D, low=LOW, high=HIGH, **hidden, **options
    )


def log_q_z(vae, x, code, z):
    """Appendix A's density, with the sigmoid's own argument where the paper prints its value."""
    loc, scale = gaussian(through(vae.q_z.net, x.flatten(1), code))
    unit = (z - LOW) / (HIGH - LOW)
    u = unit.log() - (1 - unit).log()
    return log_normal(u, loc, scale) - (math.log(HIGH - LOW) + F.logsigmoid(u) + F.logsigmoid(-u)).sum(-1)


def log_q_y(vae, x, y):
    logits = vae.q_y.net(x)
    if y.dim() == 1:
        return logits.log_softmax(-1).gather(1, y[:, None]).squeeze(1)
    return F.logsigmoid(torch.where(y == 1, logits, -logits)).sum(-1)


def log_bernoulli(x, logits):
    return (x * F.logsigmoid(logits) + (1 - x) * F.logsigmoid(-logits)).flatten(1).sum(1)
