"""The score function where one label is the parent of another: each draw's reward has all that it may change."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from pyro_semivae.infer import ClassifierTerm, TraceLabels_ELBO
from pyro_semivae.spaces import MISSING

ENUMERATE = {"enumerate": "parallel"}
C1, C2, D = 3, 4, 5


class Chain(nn.Module):
    """p(y1) p(y2 | y1) p(z) N(x | m_y2 + A z, 1), and q(y1 | x) q(y2 | x, y1) q(z | x) with tables for networks."""

    def __init__(self):
        super().__init__()
        self.prior, self.child = torch.randn(C1), nn.Parameter(2 * torch.randn(C1, C2))
        self.m, self.a = nn.Parameter(0.5 * torch.randn(C2, D)), 0.5 * torch.randn(D, 2)
        self.q1, self.q2 = nn.Parameter(torch.randn(C1)), nn.Parameter(torch.randn(C1, C2))
        self.loc = nn.Parameter(torch.randn(2))

    def model(self, x, y1=None, y2=None):
        with pyro.plate("data", len(x)):
            y1 = pyro.sample("y1", dist.Categorical(logits=self.prior), obs=y1, infer=ENUMERATE)
            y2 = pyro.sample("y2", dist.Categorical(logits=self.child[y1]), obs=y2, infer=ENUMERATE)
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.m[y2] + z @ self.a.T, 1.0).to_event(1), obs=x)

    def guide(self, x, y1=None, y2=None):
        with pyro.plate("data", len(x)):
            y1 = pyro.sample("y1", dist.Categorical(logits=self.q1), obs=y1, infer=ENUMERATE)
            pyro.sample("y2", dist.Categorical(logits=self.q2[y1]), obs=y2, infer=ENUMERATE)
            pyro.sample("z", dist.Normal(self.loc, 0.3).to_event(1))

    def bound(self, x, y1, y2, alpha, beta):
        """The same by loops over both labels, z integrated in closed form; beta on latents and missing labels."""
        q1 = self.q1.log_softmax(0)
        total = 0.0
        for i in range(C1) if y1 == MISSING else [y1]:
            q2, p2 = self.q2[i].log_softmax(0), self.child[i].log_softmax(0)
            inside = beta * (self.prior.log_softmax(0)[i] - q1[i]) if y1 == MISSING else self.prior.log_softmax(0)[i]
            for j in range(C2) if y2 == MISSING else [y2]:
                mean = self.m[j] + self.a @ self.loc
                log_p_x = dist.Normal(mean, 1.0).log_prob(x).sum() - 0.5 * (0.3 * self.a).square().sum()
                of_pair = log_p_x + (beta * (p2[j] - q2[j]) if y2 == MISSING else p2[j] + alpha * q2[j])
                inside = inside + (q2[j].exp() if y2 == MISSING else 1.0) * of_pair
            total = total + (q1[i].exp() * inside if y1 == MISSING else inside + alpha * q1[i])
        kl = torch.distributions.kl_divergence(dist.Normal(self.loc, 0.3), dist.Normal(torch.zeros(2), 1.0)).sum()
        return total - beta * kl


@pytest.mark.parametrize(("y1", "y2"), [(MISSING, MISSING), (MISSING, 1), (2, MISSING), (0, 3)])
@pytest.mark.parametrize(("alpha", "beta"), [(0.0, 1.0), (3.0, 0.5)])
def test_gradients_are_those_of_the_sum_over_both_labels(y1, y2, alpha, beta):
    torch.manual_seed(4)
    chain, x = Chain(), torch.randn(D)
    parameters = [chain.q1, chain.q2, chain.child, chain.m, chain.loc]
    exact = chain.bound(x, y1, y2, alpha, beta)
    expected = torch.autograd.grad(exact, parameters)
    elbo, rows, repeats = TraceLabels_ELBO(missing_labels="reinforce", beta=beta) + alpha * ClassifierTerm(), 2000, 25
    labels = torch.full((rows,), y1), torch.full((rows,), y2)
    found, values = [], []
    for _ in range(repeats):
        terms = elbo.weighted_terms(chain.model, chain.guide, x.expand(rows, -1), *labels)
        value = sum(terms.values()).mean()
        values.append(value.detach())
        found.append(torch.autograd.grad(value, parameters))
    for samples, target in zip([values, *zip(*found, strict=True)], [exact, *expected], strict=True):
        samples = torch.stack([*samples])
        error = 5 * samples.std(0) / math.sqrt(repeats) + 1e-12
        assert ((samples.mean(0) - target).abs() <= error).all(), (samples.mean(0), target, error)
    assert_close(sum(t for n, t in terms.items() if n.startswith("score")), torch.zeros(rows))
