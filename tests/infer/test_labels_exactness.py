"""The ELBO with labels where the guide is the exact posterior: M2's graph and DIVA's."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn
from torch.testing import assert_close

from pyro_semivae.infer import TraceLabels_ELBO
from pyro_semivae.spaces import MISSING


class Toy(nn.Module):
    """p(y) p(z) N(x | mu_y + A z, s^2 I), and its exact posterior q(y | x) q(z | x, y)."""

    def __init__(self):
        super().__init__()
        self.p = torch.tensor([0.2, 0.5, 0.3])
        self.mu, self.a, self.s = torch.randn(3, 6), torch.randn(6, 2), 0.6

    def log_joint(self, x):
        covariance = self.a @ self.a.T + self.s**2 * torch.eye(6)
        return dist.MultivariateNormal(self.mu, covariance).log_prob(x.unsqueeze(1)) + self.p.log()  # (B, 3)

    def model(self, x, y=None):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(self.p), obs=y, infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.mu[y] + z @ self.a.T, self.s).to_event(1), obs=x)

    def guide(self, x, y=None):
        precision = torch.eye(2) + self.a.T @ self.a / self.s**2
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(logits=self.log_joint(x)), obs=y, infer={"enumerate": "parallel"})
            mean = torch.linalg.solve(precision, ((x - self.mu[y]) @ self.a / self.s**2).unsqueeze(-1)).squeeze(-1)
            pyro.sample("z", dist.MultivariateNormal(mean, precision_matrix=precision))


@pytest.mark.parametrize("missing_labels", ["enumerate", "reinforce"])
def test_with_the_exact_posterior_every_draw_is_the_log_evidence(missing_labels):
    torch.manual_seed(0)
    toy, x = Toy(), torch.randn(6, 6)
    y = torch.tensor([0, MISSING, 2, MISSING, 1, MISSING])
    log_joint = toy.log_joint(x)
    expected = torch.where(
        y == MISSING, log_joint.logsumexp(-1), log_joint.gather(1, y.clamp(min=0)[:, None]).squeeze(1)
    )
    for draw in range(3):
        torch.manual_seed(draw)
        terms = TraceLabels_ELBO(missing_labels="enumerate").weighted_terms(toy.model, toy.guide, x, y)
        assert_close(sum(terms.values()), expected)
    if missing_labels == "reinforce":  # the label's KL is exact, its reward is a draw: the evidence in the mean
        many, y_many = x.repeat_interleave(4000, 0), y.repeat_interleave(4000)
        terms = TraceLabels_ELBO(missing_labels="reinforce").weighted_terms(toy.model, toy.guide, many, y_many)
        total = sum(terms.values()).reshape(6, -1)
        error = 5 * total.std(1) / math.sqrt(total.shape[1])
        assert ((total.mean(1) - expected).abs() <= error + 1e-9).all() and error.max() > 1e-3


class LatentBelow(nn.Module):
    """DIVA's graph, p(y) N(z | mu_y, 1) N(x | a z, s^2 I), and its exact posterior q(z | x) q(y | z), a mixture."""

    def __init__(self):
        super().__init__()
        self.p, self.mu = torch.tensor([0.2, 0.5, 0.3]), torch.tensor([-2.0, 0.5, 3.0])
        self.a, self.s = torch.randn(4), 0.7

    def log_joint(self, x):
        covariance = torch.outer(self.a, self.a) + self.s**2 * torch.eye(4)
        of_values = dist.MultivariateNormal(self.mu[:, None] * self.a, covariance)
        return of_values.log_prob(x.unsqueeze(1)) + self.p.log()  # (B, 3)

    def model(self, x, y=None):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(self.p), obs=y, infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(self.mu[y], 1.0))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1) * self.a, self.s).to_event(1), obs=x)

    def guide(self, x, y=None):
        precision = 1 + self.a @ self.a / self.s**2
        means = (self.mu + (x @ self.a / self.s**2).unsqueeze(-1)) / precision
        parts = dist.Normal(means, precision**-0.5)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.MixtureSameFamily(dist.Categorical(logits=self.log_joint(x)), parts))
            log_q = dist.Normal(self.mu, 1.0).log_prob(z.unsqueeze(-1)) + self.p.log()
            pyro.sample("y", dist.Categorical(logits=log_q), obs=y, infer={"enumerate": "parallel"})


def test_with_divas_exact_posterior_every_draw_is_the_log_evidence():
    """Missing labels: log p(x) at any draw. Observed: log p(x, y) less the KL of q(z|x) from p(z|x,y)."""
    torch.manual_seed(0)
    toy, x = LatentBelow(), 2 * torch.randn(5, 4)
    log_joint = toy.log_joint(x)
    for draw in range(3):
        torch.manual_seed(draw)
        terms = TraceLabels_ELBO().weighted_terms(toy.model, toy.guide, x)
        assert_close(sum(terms.values()), log_joint.logsumexp(-1))
    y, copies = torch.tensor([0, 1, 2, 1, 0]), 20_000
    terms = TraceLabels_ELBO().weighted_terms(
        toy.model, toy.guide, x.repeat_interleave(copies, 0), y.repeat_interleave(copies)
    )
    total = sum(terms.values()).reshape(5, -1)
    error = 5 * total.std(1) / math.sqrt(copies)
    z = torch.linspace(-15, 15, 30_001)
    with poutine.trace() as trace:
        toy.guide(x)
    log_q = trace.trace.nodes["z"]["fn"].log_prob(z.unsqueeze(-1))  # (Z, B)
    of_y = (dist.Normal(toy.mu, 1.0).log_prob(z[:, None]) + toy.p.log()).log_softmax(-1)[:, y]  # log p(y|z)
    gap = torch.trapezoid(log_q.exp() * (log_joint.log_softmax(-1).gather(1, y[:, None]).T - of_y), z, dim=0)
    assert ((total.mean(1) - (log_joint.gather(1, y[:, None]).squeeze(1) - gap)).abs() <= error).all()
    assert (gap > 10 * error).any()
