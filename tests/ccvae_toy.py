"""What the tests of the CCVAE bound share: a small model, its draws, densities in plain torch."""

import math

import torch
from pyro import poutine
from torch import nn
from torch.nn import functional as F

from pyro_semivae import CCVAE
from pyro_semivae.infer import LocalParameters, Step
from pyro_semivae.nn import MLPs
from pyro_semivae.spaces import MISSING, Classes

C, D_C, D_S, K, H, W = 5, 2, 3, 4, 2, 7
Y = torch.tensor([2, MISSING, 0, 4, MISSING, 2, 1, MISSING])  # B = 8 rows


def make(classifier="network", seed=0):
    torch.manual_seed(seed)
    vae = CCVAE((1, H, W), Classes(C), z_c=D_C, z_s=D_S, networks=MLPs((11,)), label_hidden=(6,), classifier=classifier)
    vae.p_y.logits.copy_(torch.tensor([0.1, 0.3, 0.2, 0.15, 0.25]).log())
    return vae, torch.rand(len(Y), 1, H, W)


def recorded(vae, elbo, x, y):
    """The terms, and the values of the latents that the guide drew for them: name -> (particles, B, D)."""
    guide = poutine.trace(vae.guide)
    with LocalParameters():
        rows = elbo.evaluate(Step(vae.model, guide, (x, y)))
    nodes = guide.trace.nodes
    return rows, {name: nodes[name]["value"] for name in ("z_c", "z_s")}


def gaussian(h):
    loc, raw = h.chunk(2, -1)
    return loc, F.softplus(raw) + 1e-3


def log_normal(z, loc, scale):
    return (-0.5 * ((z - loc) / scale) ** 2 - scale.log() - 0.5 * math.log(2 * math.pi)).sum(-1)


def seeded(fn):
    torch.manual_seed(7)
    return fn()


class Spy(nn.Module):
    """Records what a module is called with."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.seen = inner, []

    def forward(self, value):
        self.seen.append(value)
        return self.inner(value)
