"""CCVAE's bound over two labels that depend on each other in the model: equal to loops over their values."""

import itertools

import pyro
import pyro.distributions as dist
import pytest
import torch
from by_hand import assert_equal_with_gradients
from pyro import poutine
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from pyro_semivae.errors import InputError
from pyro_semivae.infer import ClassifierTerm, LocalParameters, Step, TraceCCVAE_ELBO

SUM, A, B, D, X, K = {"enumerate": "parallel"}, 2, 3, 4, 5, 6
FIRST = torch.tensor([0, 1, -1, -1, 1, 0, -1])
SECOND = torch.tensor([2, -1, 1, -1, 0, -1, -1])


class Pair(nn.Module):
    """p(a) p(b | a) p(u | a, b) p(v | b) p(x | u, v), q(u, v | x) q(a | u) q(b | u, v)."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.p_a, self.p_b = nn.Parameter(torch.randn(A)), nn.Parameter(torch.randn(A, B))
        self.loc_u, self.loc_v = nn.Parameter(torch.randn(A, B, D)), nn.Parameter(torch.randn(B, 2))
        self.to_x, self.encode = nn.Linear(D + 2, X), nn.Linear(X, D + 2)
        self.q_a, self.q_b = nn.Linear(D, A), nn.Linear(D + 2, B)

    def model(self, x, a=None, b=None):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Categorical(logits=self.p_a), obs=a, infer=SUM)
            b = pyro.sample("b", dist.Categorical(logits=self.p_b[a]), obs=b, infer=SUM)
            u = pyro.sample("u", dist.Normal(self.loc_u[a, b], 1.0).to_event(1))
            v = pyro.sample("v", dist.Normal(self.loc_v[b], 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.to_x(torch.cat([u, v], -1)), 1.0).to_event(1), obs=x)

    def guide(self, x, a=None, b=None):
        with pyro.plate("data", len(x)):
            loc_u, loc_v = self.encode(x).split([D, 2], -1)
            u = pyro.sample("u", dist.Normal(loc_u, 0.5).to_event(1))
            v = pyro.sample("v", dist.Normal(loc_v, 0.7).to_event(1))
            pyro.sample("a", dist.Categorical(logits=self.q_a(u)), obs=a, infer=SUM)
            pyro.sample("b", dist.Categorical(logits=self.q_b(torch.cat([u, v], -1))), obs=b, infer=SUM)


def by_hand(net, x, first, second, u, v, beta):
    """Each row's bound by loops, u and v being `(K + 1, B, ..)` functions of the parameters."""
    out = []
    log_a, log_b = net.p_a.log_softmax(-1), net.p_b.log_softmax(-1)
    q_a, q_b = net.q_a(u).log_softmax(-1), net.q_b(torch.cat([u, v], -1)).log_softmax(-1)
    loc_u, loc_v = net.encode(x).split([D, 2], -1)
    for i in range(len(x)):
        z_u, z_v = u[0, i], v[0, i]
        pairs = [
            (a, b) for a, b in itertools.product(range(A), range(B)) if first[i] in (-1, a) and second[i] in (-1, b)
        ]
        prior = torch.stack([log_a[a] + log_b[a, b] for a, b in pairs])
        of_u = torch.stack([dist.Normal(net.loc_u[a, b], 1.0).log_prob(z_u).sum() for a, b in pairs])
        of_v = torch.stack([dist.Normal(net.loc_v[b], 1.0).log_prob(z_v).sum() for _, b in pairs])
        log_p_y = prior.logsumexp(0)
        log_p_z = (prior + of_u + of_v).logsumexp(0) - log_p_y
        log_q_y = sum((q[:, i, y[i]] for q, y in ((q_a, first), (q_b, second)) if y[i] >= 0), torch.zeros(len(u)))
        log_q_x = log_q_y[1:].logsumexp(0) - torch.tensor(float(K)).log()
        w = (log_q_y[0] - log_q_x).exp()
        log_x = dist.Normal(net.to_x(torch.cat([z_u, z_v])), 1.0).log_prob(x[i]).sum()
        log_q = dist.Normal(loc_u[i], 0.5).log_prob(z_u).sum() + dist.Normal(loc_v[i], 0.7).log_prob(z_v).sum()
        bracket = log_x + beta * log_p_z - log_q_y[0] - beta * log_q
        known = first[i] >= 0 or second[i] >= 0
        out.append(w * bracket + log_q_x + log_p_y if known else log_x + beta * (log_p_z - log_q))
    return torch.stack(out)


@pytest.mark.parametrize("beta", [1.0, 2.5])
def test_two_labels_with_common_children_are_summed_together(beta):
    """Values and every gradient, both labels missing in all four ways."""
    net, x = Pair(), torch.randn(len(FIRST), X)
    elbo = TraceCCVAE_ELBO(num_samples=K, weights="independent", detach="none", beta=beta)
    guide = poutine.trace(net.guide)
    with LocalParameters():
        found = elbo.evaluate(Step(net.model, guide, (x, FIRST, SECOND)))
    ours = sum(found.contributions().values())
    loc_u, loc_v = net.encode(x).split([D, 2], -1)
    u, v = (guide.trace.nodes[name]["value"].detach().reshape(K + 1, len(x), -1) for name in ("u", "v"))
    u, v = loc_u + (u - loc_u).detach(), loc_v + (v - loc_v).detach()
    expected = by_hand(net, x, FIRST, SECOND, u, v, beta)
    assert_equal_with_gradients(ours, expected, net)


def test_no_label_known_is_the_exact_marginal():
    net, x = Pair(), torch.randn(len(FIRST), X)
    elbo = TraceCCVAE_ELBO(num_samples=K)
    torch.manual_seed(1)
    none = elbo.weighted_terms(net.model, net.guide, x)
    torch.manual_seed(1)
    missing = elbo.weighted_terms(net.model, net.guide, x, torch.full_like(FIRST, -1), torch.full_like(FIRST, -1))
    assert_close(sum(none.values()), sum(missing.values()))
    assert list(none)[:2] == ["log p(x|u,v)", "log p(u,v|a_o,b_o)"]


def test_what_the_bound_does_not_do_is_said():
    net, x = Pair(), torch.randn(len(FIRST), X)
    with pytest.raises(
        InputError, match=r"marginal: got 'jensen', and the labels \['a', 'b'\].*expected 'exact' for them"
    ):
        TraceCCVAE_ELBO(marginal="jensen").weighted_terms(net.model, net.guide, x, FIRST, SECOND)
    elbo = TraceCCVAE_ELBO(num_samples=K)
    with pytest.raises(InputError, match=r"got \['a'\]; expected all observed labels together"):
        (elbo + ClassifierTerm("a")).weighted_terms(net.model, net.guide, x, FIRST, SECOND)

    def chained(x, a=None, b=None):
        with pyro.plate("data", len(x)):
            loc_u, loc_v = net.encode(x).split([D, 2], -1)
            u = pyro.sample("u", dist.Normal(loc_u, 0.5).to_event(1))
            pyro.sample("v", dist.Normal(loc_v, 0.7).to_event(1))
            a = pyro.sample("a", dist.Categorical(logits=net.q_a(u)), obs=a, infer=SUM)
            raw = net.q_b(torch.cat([u, torch.zeros(*u.shape[:-1], 2)], -1)) + F.one_hot(a, B)
            pyro.sample("b", dist.Categorical(logits=raw), obs=b, infer=SUM)

    with pytest.raises(InputError, match=r"label 'b' depends on the labels \['a'\] in the guide; expected"):
        elbo.weighted_terms(net.model, chained, x, FIRST, SECOND)
