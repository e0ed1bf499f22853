"""What the tests of replacement and of the labels of generated data share: models, and what their decoder is given."""

import math

import pyro
import pyro.distributions as dist
import torch
from ccvae_toy import D_C, D_S
from terms import evaluate
from torch import nn
from torch.distributions import kl_divergence

from pyro_semivae import CCVAE
from pyro_semivae.infer import (
    GeneratedLabelsTerm,
    Step,
)
from pyro_semivae.nn import MLPs
from pyro_semivae.spaces import Binary

X, CLASSES, LABELS = 6, 3, 4
NAN = math.nan
SEVERAL = torch.tensor([[1, 0, 1, NAN], [NAN] * 4, [0, NAN, 1, 1], [0, 0, 0, 1], [NAN, 1, NAN, 0]])


class Linear(nn.Module):
    """x ~ N(W_c z_c + W_s z_s + b, sigma^2), z_c ~ N(m_y, s^2), z_s ~ N(0, 1), and a guide with diagonal Gaussians."""

    def __init__(self, spread):
        super().__init__()
        torch.manual_seed(0)
        self.w_c, self.w_s, self.b = (nn.Parameter(torch.randn(*s)) for s in ((X, D_C), (X, D_S), (X,)))
        self.means, self.spread = nn.Parameter(2 * torch.randn(CLASSES, D_C)), nn.Parameter(torch.tensor(spread).log())
        self.sigma = 0.7
        self.q_s, self.q_c, self.q_y = nn.Linear(X, D_S), nn.Linear(X, D_C), nn.Linear(D_C, CLASSES)
        self.scale_s = nn.Parameter(torch.full((D_S,), 0.4))

    def model(self, x=None, y=None):
        with pyro.plate("data", len(x)):
            prior = dist.Categorical(torch.tensor([0.2, 0.5, 0.3]))
            y = pyro.sample("y", prior, obs=y, infer={"enumerate": "parallel"})
            z_c = pyro.sample("z_c", dist.Normal(self.means[y], self.spread.exp()).to_event(1))
            z_s = pyro.sample("z_s", dist.Normal(torch.zeros(D_S), 1.0).to_event(1))
            loc = z_c @ self.w_c.T + z_s @ self.w_s.T + self.b
            pyro.sample("x", dist.Normal(loc, self.sigma).to_event(1), obs=x)

    def guide(self, x=None, y=None):
        with pyro.plate("data", len(x)):
            z_c = pyro.sample("z_c", dist.Normal(self.q_c(x), 0.5).to_event(1))
            pyro.sample("y", dist.Categorical(logits=self.q_y(z_c)), obs=y, infer={"enumerate": "parallel"})
            pyro.sample("z_s", self.posterior(x, y))

    def posterior(self, x, y):
        return dist.Normal(self.q_s(x), self.scale_s).to_event(1)


class Entries(nn.Module):
    """x ~ N(W_c z_c + W_d z_d + W_s z_s + b, sigma^2), with a z_c and a z_d for each of four binary labels.

    q(y|.) has parameters alone.
    """

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.w_c, self.w_d, self.w_s = (nn.Parameter(torch.randn(X, size)) for size in (LABELS, LABELS, D_S))
        self.b, self.means = nn.Parameter(torch.randn(X)), nn.Parameter(torch.randn(2, LABELS))
        self.spread, self.scale = (
            nn.Parameter(torch.tensor([0.7, 0.9, 1.2, 0.8])),
            nn.Parameter(torch.tensor([0.5, 0.3, 0.6, 0.4])),
        )
        self.sigma, self.scale_s = 0.7, nn.Parameter(torch.full((D_S,), 0.4))
        self.q_c, self.q_d, self.q_s = nn.Linear(X, LABELS), nn.Linear(X, LABELS), nn.Linear(X, D_S)
        self.q_y, self.p_y = nn.Parameter(torch.tensor([3.0, -3.0, 0.5, 1.0])), nn.Parameter(torch.zeros(LABELS))
        self.given = []  # what x is computed from, run by run

    def model(self, x=None, y=None):
        with pyro.plate("rows", len(x), dim=-2):
            with pyro.plate("labels", LABELS, dim=-1):
                y = pyro.sample("y", dist.Bernoulli(logits=self.p_y), obs=y, infer={"enumerate": "parallel"})
                z_c = pyro.sample("z_c", dist.Normal(self.means[(y > 0.5).long(), torch.arange(LABELS)], self.spread))
                z_d = pyro.sample("z_d", dist.Normal(y - 0.5, 1.0))
            z_s = pyro.sample("z_s", dist.Normal(torch.zeros(D_S), 1.0).to_event(1))
            self.given.append((z_c, z_d))
            loc = (z_c @ self.w_c.T + z_d @ self.w_d.T).unsqueeze(-2) + z_s @ self.w_s.T + self.b
            pyro.sample("x", dist.Normal(loc, self.sigma).to_event(1), obs=x.unsqueeze(-2))

    def guide(self, x=None, y=None):
        with pyro.plate("rows", len(x), dim=-2):
            with pyro.plate("labels", LABELS, dim=-1):
                pyro.sample("z_c", dist.Normal(self.q_c(x), self.scale))
                pyro.sample("z_d", dist.Normal(self.q_d(x), 0.8))
                pyro.sample("y", dist.Bernoulli(logits=self.q_y), obs=y, infer={"enumerate": "parallel"})
            pyro.sample("z_s", dist.Normal(self.q_s(x).unsqueeze(-2), self.scale_s).to_event(1))

    def bound(self, x, y, fresh):
        """The bound on log p(x|y) of a guide with these entries, `(L,)`, from the prior, in closed form."""
        prior = {"c": (self.means[y.long(), torch.arange(LABELS)], self.spread), "d": (y - 0.5, torch.tensor(1.0))}
        guide = {"c": (self.q_c(x), self.scale), "d": (self.q_d(x), torch.tensor(0.8))}
        loc, spread = self.q_s(x) @ self.w_s.T + self.b, (self.w_s.square() @ self.scale_s.square()).sum()
        normal = dist.Normal(self.q_s(x), self.scale_s)
        kl = kl_divergence(normal, dist.Normal(torch.zeros(D_S), 1.0)).sum(1)
        for name, w in (("c", self.w_c), ("d", self.w_d)):
            p, q = dist.Normal(*prior[name]), dist.Normal(*guide[name])
            loc = loc + torch.where(fresh, p.mean, q.mean) @ w.T
            spread = spread + (torch.where(fresh, p.variance, q.variance) @ w.square().sum(0))
            kl = kl + torch.where(fresh, 0.0, kl_divergence(q, p)).sum(1)
        return dist.Normal(loc, self.sigma).log_prob(x).sum(1) - spread / (2 * self.sigma**2) - kl


def of(objective, pair, x, y):
    return {v.name: v.value for v in objective.evaluate(Step(pair.model, pair.guide, (x, y))).values}


def spied(vae, objective, x, y):
    """The terms, and what the decoder was given, run by run."""
    seen = []
    hook = vae.p_x.net.register_forward_hook(lambda net, inputs, out: seen.append(inputs))
    found = {v.name: v.value for v in evaluate(objective, vae, x, y).values}
    hook.remove()
    return found, seen


def attributes(model=CCVAE, number=4, **options):
    torch.manual_seed(0)
    return model((1, 2, 7), Binary(number), z_s=D_S, networks=MLPs((11,)), **options)


def told(**options):
    return GeneratedLabelsTerm(labels_from="prior", kept=["z_s"], teaches="model", **options)
