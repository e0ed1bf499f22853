"""Continuous labels, each entry missing on its own, beside a class label: the bound against a loop over the classes."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from by_hand import assert_equal_with_gradients
from pyro.poutine.messenger import Messenger
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from pyro_semivae.infer import ClassifierTerm, TraceLabels_ELBO
from pyro_semivae.spaces import MISSING, Real

NAN = math.nan
C, K, D, E = 3, 2, 4, 5  # classes, continuous labels, sizes of z and x
ENUMERATE = {"enumerate": "parallel"}
CLASS = torch.tensor([2, MISSING, 0, MISSING, MISSING, 1])
ANGLES = torch.tensor([[0.3, -1.0], [NAN, 0.5], [NAN, NAN], [1.2, 0.1], [NAN, NAN], [NAN, 2.0]])
X = torch.linspace(-1, 1, len(CLASS) * E, dtype=torch.float64).reshape(-1, E)


class Pose(nn.Module):
    """p(c) p(a | c) p(z) p(x | c, a, z), q(c | x) q(a | x, c) q(z | x, c, a)."""

    def __init__(self):
        super().__init__()
        self.p_c, self.p_a = nn.Parameter(torch.randn(C)), nn.Parameter(torch.randn(C, K))
        self.means, self.turn, self.out = (nn.Parameter(torch.randn(n, E)) for n in (C, K, D))
        self.q_c, self.q_a = nn.Linear(E, C), nn.Linear(E, K)
        self.by_class, self.raw = nn.Parameter(torch.randn(C, K)), nn.Parameter(torch.randn(K))
        self.q_z, self.of_c, self.of_a = (
            nn.Linear(E, D),
            nn.Parameter(torch.randn(C, D)),
            nn.Parameter(torch.randn(K, D)),
        )

    def p_x_given(self, c, a, z):  # c (..., B, 1), a (..., B, K), z (..., B, 1, D)
        return dist.Normal(self.means[c] + (a @ self.turn).unsqueeze(-2) + z @ self.out, 1.0).to_event(1)

    def q_a_given(self, x, c):  # x (B, E), c (..., B, 1): (..., B, K)
        return dist.Normal(self.q_a(x) + self.by_class[c.squeeze(-1)], F.softplus(self.raw) + 0.1)

    def q_z_given(self, x, c, a):
        return dist.Normal(self.q_z(x).unsqueeze(-2) + self.of_c[c] + (a @ self.of_a).unsqueeze(-2), 0.6).to_event(1)

    def model(self, x, c=None, a=None):
        pyro.module("pose", self)
        c = None if c is None else c[:, None]
        with pyro.plate("rows", len(x), dim=-2):
            c = pyro.sample("c", dist.Categorical(logits=self.p_c), obs=c, infer=ENUMERATE)
            with pyro.plate("angles", K, dim=-1):
                a = pyro.sample("a", dist.Normal(self.p_a[c.squeeze(-1)], 1.0), obs=a)
            z = pyro.sample("z", dist.Normal(torch.zeros(D), 1.0).to_event(1))
            pyro.sample("x", self.p_x_given(c, a, z), obs=x[:, None])

    def guide(self, x, c=None, a=None):
        c = None if c is None else c[:, None]
        with pyro.plate("rows", len(x), dim=-2):
            logits = self.q_c(x)[:, None]
            c = pyro.sample("c", dist.Categorical(logits=logits), obs=c, infer=ENUMERATE)
            with pyro.plate("angles", K, dim=-1):
                a = pyro.sample("a", self.q_a_given(x, c), obs=a)
            pyro.sample("z", self.q_z_given(x, c, a))

    def by_hand(self, eps_a, eps_z, alpha, beta):
        out = []
        for i in range(len(X)):
            x, given, total, known = X[i : i + 1], ANGLES[i], 0.0, []
            log_q_c, log_p_c = self.q_c(X[i]).log_softmax(-1), self.p_c.log_softmax(-1)
            missing = CLASS[i] < 0
            for value in torch.arange(C) if missing else [CLASS[i]]:
                c = value.reshape(1, 1)
                q_a = self.q_a_given(x, c)
                a = torch.where(given.isnan(), q_a.loc + q_a.scale * eps_a[i], given)
                q_z = self.q_z_given(x, c, a)
                z = q_z.base_dist.loc + 0.6 * eps_z[i]
                inside = self.p_x_given(c, a, z).log_prob(X[i]).sum()
                inside = inside + beta * (dist.Normal(0.0, 1.0).log_prob(z).sum() - q_z.log_prob(z).sum())
                log_p_a, log_q_a = dist.Normal(self.p_a[value], 1.0).log_prob(a)[0], q_a.log_prob(a)[0]
                inside = inside + torch.where(given.isnan(), beta * (log_p_a - log_q_a), log_p_a).sum()
                inside = inside + (beta * (log_p_c - log_q_c)[value] if missing else log_p_c[value])
                total = total + (log_q_c[value].exp() if missing else 1.0) * inside
                known.append(log_q_c[value] + torch.where(given.isnan(), 0.0, log_q_a).sum())
            anything = not missing or not given.isnan().all()
            out.append(total + (alpha * torch.stack(known).logsumexp(0) if anything else 0.0))
        return torch.stack(out)


class Noise(Messenger):
    """The same noise whatever the class, for z and for what is missing of the angles."""

    def __init__(self, **noise):
        super().__init__()
        self.noise = noise

    def _pyro_sample(self, msg):
        if msg["name"] in self.noise:
            fn, eps = msg["fn"], self.noise[msg["name"]]
            base = getattr(fn, "base_dist", fn)
            fn.rsample = lambda *_: base.loc + base.scale * eps


@pytest.mark.parametrize(("alpha", "beta"), [(0.0, 1.0), (3.0, 2.5)])
def test_a_class_and_continuous_labels_by_hand(alpha, beta):
    pose, eps_a, eps_z = Pose(), torch.randn(len(X), K), torch.randn(len(X), 1, D)
    elbo = TraceLabels_ELBO(beta=beta, max_plate_nesting=2) + alpha * ClassifierTerm()
    terms = elbo.weighted_terms(pose.model, Noise(a=eps_a, z=eps_z)(pose.guide), X, CLASS, ANGLES)
    assert list(terms) == [
        "log p(x|c,a,z)",
        "log p(z)",
        "-log q(z|x,c,a)",
        "log p(c)",
        "-log q(c_m|x)",
        "log p(a|c)",
        "-log q(a_m|x,c)",
        "log q(c_o,a_o|x)",
    ]
    total, expected = sum(terms.values()), pose.by_hand(eps_a, eps_z, alpha, beta)
    assert_equal_with_gradients(total, expected, pose)


def test_the_space_of_continuous_labels():
    real = Real(2)
    assert real.validate([[1.0, NAN]]).shape == (1, 2) and real.missing(3).isnan().all()
    q = real.distribution(torch.tensor([[[1.0, 2.0, 0.0, 50.0]]]))
    assert q.batch_shape == (1, 2) and q.loc.tolist() == [[1.0, 2.0]]
    assert_close(q.scale, torch.tensor([[math.log(2) + 1e-3, 50.001]]))
    mean, deviation = real.frequencies(torch.tensor([[1.0, NAN], [3.0, NAN], [5.0, NAN]]), smoothing=1e-9)
    assert_close(mean, torch.tensor([3.0, 0.0]))
    assert_close(deviation, torch.tensor([(8 / 3) ** 0.5, 1.0]))


def test_units_change_what_networks_see_and_say_and_nothing_else():
    """log p(y) in units is that of (y - loc) / scale without, less the logarithm of the scale."""
    loc, scale, raw = torch.tensor([40.0, -2.0]), torch.tensor([20.0, 0.1]), torch.randn(5, 1, 4)
    plain, units = Real(2), Real(2, tuple(loc.tolist()), tuple(scale.tolist()))
    y = loc + scale * torch.randn(5, 2)
    z = (y - loc) / scale
    assert_close(units.code(y, torch.float64), plain.code(z, torch.float64))
    found, expected = units.distribution(raw).log_prob(y), plain.distribution(raw).log_prob(z) - scale.log()
    assert_close(found, expected)
    assert_close(
        units.prior_distribution(units.prior()).log_prob(y), torch.distributions.Normal(loc, scale).log_prob(y)
    )
    known = torch.cat([y, torch.full((1, 2), NAN)])
    learnt = plain.in_units_of(known)
    assert_close(torch.tensor([learnt.loc, learnt.scale]), torch.stack([y.mean(0), y.std(0, correction=0)]))
    assert plain.in_units_of(torch.full((3, 2), 7.0)) == Real(2, (7.0, 7.0), (1.0, 1.0)), "no spread, no unit"
    assert plain.in_units_of(torch.full((3, 2), NAN)) == Real(2, (0.0, 0.0), (1.0, 1.0)), "nothing known"
    for wrong, message in (((1.0,), "loc: got"), ((1.0, NAN), "loc: got nan")):
        with pytest.raises(ValueError, match=message):
            Real(2, loc=wrong)
    with pytest.raises(ValueError, match="scale: got 0"):
        Real(2, scale=(1.0, 0.0))
