"""The CCVAE bound against mathematics: exact posteriors, signs, Monte-Carlo gradients against quadrature."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import weighed
from ccvae_toy import D_C, D_S, K, Y, gaussian, log_normal, make, recorded, seeded
from pyro import poutine
from torch import nn
from torch.nn import functional as F

from pyro_semivae import CCVAE
from pyro_semivae.infer import TraceCCVAE_ELBO
from pyro_semivae.infer.graph import NamedTerms
from pyro_semivae.nn import MLPs
from pyro_semivae.spaces import MISSING, Classes


class Toy(nn.Module):
    """p(y) p(z_c|y) p(z_s) N(x | A z_c + B z_s + b, s^2 I), and its exact posterior as the guide."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.log_p_y = torch.tensor([0.2, 0.5, 0.3]).log()
        self.mu = torch.randn(3, D_C, generator=generator)
        self.sigma = torch.rand(3, D_C, generator=generator) + 0.5
        self.a = torch.randn(7, D_C, generator=generator)
        self.b = torch.randn(7, D_S, generator=generator)
        self.s = 0.7

    def joint(self):
        """Per class, the Gaussian of (z_c, x): means (3, 9), covariances (3, 9, 9)."""
        noise = self.b @ self.b.T + self.s**2 * torch.eye(7)
        mean = torch.cat([self.mu, self.mu @ self.a.T], -1)
        covariance = []
        for sigma in self.sigma:
            v = torch.diag(sigma**2)
            covariance.append(
                torch.cat([torch.cat([v, v @ self.a.T], 1), torch.cat([self.a @ v, self.a @ v @ self.a.T + noise], 1)])
            )
        return mean, torch.stack(covariance)

    def log_p_x_given_y(self, x):
        mean, covariance = self.joint()
        return dist.MultivariateNormal(mean[:, D_C:], covariance[:, D_C:, D_C:]).log_prob(x.unsqueeze(1))  # (B, 3)

    def log_p_z_c_given_y(self, z):
        return dist.Normal(self.mu, self.sigma).log_prob(z.unsqueeze(-2)).sum(-1)  # (..., 3)

    def model(self, x, y=None):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(logits=self.log_p_y), obs=y, infer={"enumerate": "parallel"})
            z_c = pyro.sample("z_c", dist.Normal(self.mu[y], self.sigma[y]).to_event(1))
            z_s = pyro.sample("z_s", dist.Normal(torch.zeros(D_S), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z_c @ self.a.T + z_s @ self.b.T, self.s).to_event(1), obs=x)

    def guide(self, x, y=None):
        mean, covariance = self.joint()
        gain = torch.linalg.solve(covariance[:, D_C:, D_C:], covariance[:, D_C:, :D_C]).mT  # (3, D_c, 7)
        loc = mean[:, :D_C] + (gain @ (x.unsqueeze(1) - mean[:, D_C:]).unsqueeze(-1)).squeeze(-1)  # (B, 3, D_c)
        post = covariance[:, :D_C, :D_C] - gain @ covariance[:, D_C:, :D_C]
        post = (post + post.mT) / 2
        with pyro.plate("data", len(x)):
            mixture = dist.Categorical(logits=self.log_p_x_given_y(x) + self.log_p_y)
            z_c = pyro.sample(
                "z_c", dist.MixtureSameFamily(mixture, dist.MultivariateNormal(loc, post.expand(len(x), 3, D_C, D_C)))
            )
            precision = torch.eye(D_S) + self.b.T @ self.b / self.s**2
            mean_s = torch.linalg.solve(precision, self.b.T @ (x - z_c @ self.a.T).unsqueeze(-1) / self.s**2).squeeze(
                -1
            )
            pyro.sample("z_s", dist.MultivariateNormal(mean_s, precision_matrix=precision))
            logits = self.log_p_z_c_given_y(z_c) + self.log_p_y
            pyro.sample("y", dist.Categorical(logits=logits), obs=y, infer={"enumerate": "parallel"})


@pytest.mark.parametrize("marginal", ["exact", "jensen"])
def test_with_the_exact_posterior_every_draw_is_the_log_evidence(marginal):
    """CCVAE's Eqs. 4 and 5 are tight where q is the posterior."""
    toy = Toy()
    x, y = torch.randn(len(Y), 7), Y % 3 * (Y != MISSING) - (Y == MISSING).long()
    log_p_xy = toy.log_p_x_given_y(x) + toy.log_p_y
    log_p_x = log_p_xy.logsumexp(-1)
    elbo = TraceCCVAE_ELBO(marginal=marginal, num_samples=K, weights="independent", detach="none")
    for draw in range(3):
        torch.manual_seed(draw)
        terms = elbo.weighted_terms(toy.model, toy.guide, x)
        torch.testing.assert_close(sum(terms.values()), log_p_x)

        guide = poutine.trace(toy.guide)
        terms = elbo.weighted_terms(toy.model, guide, x, y)
        z_c = guide.trace.nodes["z_c"]["value"]  # (1 + K, B, D_c)
        log_q = toy.log_p_z_c_given_y(z_c) + toy.log_p_y
        log_q = log_q.log_softmax(-1).gather(-1, y.clamp(min=0).expand(1 + K, -1).unsqueeze(-1)).squeeze(-1)
        w = (log_q[0] - log_q[1:].logsumexp(0) + math.log(K)).exp()
        bracket = sum(value for name, value in terms.items() if name not in ("log q(y_o|x)", "log p(y_o)")) / w
        observed = y != MISSING
        exact_q = log_p_xy.gather(-1, y.clamp(min=0).unsqueeze(-1)).squeeze(-1) - log_p_x  # log p(y|x)
        total = bracket + exact_q + terms["log p(y_o)"]
        torch.testing.assert_close(total[observed], (log_p_x + exact_q)[observed])
        torch.testing.assert_close(sum(terms.values())[~observed], log_p_x[~observed])


def test_labelled_bound_in_the_mean_is_the_log_evidence_up_to_the_bias_of_w():
    """CCVAE's Eq. 4: E[bound] -> log p(x, y) as K grows, up to 5 standard errors and the excess of w over 1."""
    toy = Toy()
    x = torch.randn(1, 7).expand(4_000, 7)
    y = torch.ones(len(x), dtype=torch.long)
    log_p_xy = (toy.log_p_x_given_y(x[:1]) + toy.log_p_y)[0, 1]
    log_p_x_y = log_p_xy - toy.log_p_y[1] - (toy.log_p_x_given_y(x[:1])[0] + toy.log_p_y).logsumexp(-1) + toy.log_p_y[1]
    guide = poutine.trace(toy.guide)
    terms = TraceCCVAE_ELBO(num_samples=200, detach="none", weights="independent").weighted_terms(
        toy.model, guide, x, y
    )
    total = sum(terms.values())
    # The bracket is constant under the exact posterior, so the bias is (E[w] - 1) times it plus that of log q(y|x).
    bracket = log_p_xy - log_p_x_y - toy.log_p_y[1]
    log_q = (toy.log_p_z_c_given_y(guide.trace.nodes["z_c"]["value"]) + toy.log_p_y).log_softmax(-1)[..., 1]
    w = (log_q[0] - log_q[1:].logsumexp(0) + math.log(200)).exp()
    corrected = total - (w - 1) * bracket - (terms["log q(y_o)"] - log_p_x_y)
    torch.testing.assert_close(corrected, log_p_xy.expand_as(corrected))
    for sample, exact, bias in ((w, 1.0, 1 / 200), (terms["log q(y_o)"], log_p_x_y.item(), 1 / 200)):
        error = 5 * sample.std() / math.sqrt(len(sample))
        assert abs(sample.mean() - exact) < error + 2 * bias, (sample.mean(), exact, error)


class Shifted(dist.Categorical):
    """A classifier whose log-probabilities are all shifted by one constant."""

    shift = torch.zeros(())

    def log_prob(self, value):
        return super().log_prob(value) + Shifted.shift

    def expand(self, batch_shape, _instance=None):
        return Shifted(logits=self.logits.expand(*batch_shape, self.logits.shape[-1]))


@pytest.mark.parametrize("weight", [1.0, 4.0])
def test_scaling_the_classifier_moves_the_loss_by_its_extra_weight_only(weight):
    """d bound / d log q(y|.) = classifier_weight - 1 per labelled row: invariant at 1, pushed up above 1."""
    vae, x = make()
    inner = vae.q_y

    class ShiftedClassifier(nn.Module):
        def forward(self, z):
            return Shifted(logits=inner.net(z))

    vae.q_y = ShiftedClassifier()
    y = torch.where(Y == MISSING, 3, Y)
    elbo = weighed(vae, classifier_weight=weight, num_samples=K)
    rows, draws = seeded(lambda: recorded(vae, elbo, x, y))
    before, z_s = rows.contributions(), draws["z_s"][0]
    w = before["log p(z_s)"] / log_normal(z_s, torch.zeros(D_S), torch.ones(D_S))
    Shifted.shift = torch.tensor(0.7)
    try:
        after = seeded(lambda: elbo.weighted_terms(vae.model, vae.guide, x, y))
    finally:
        Shifted.shift = torch.zeros(())
    moved = NamedTerms({name: after[name] - before[name] for name in before})
    torch.testing.assert_close(moved["log q(y_o)"], torch.full((len(Y),), 0.7 * weight))
    torch.testing.assert_close(moved["-log q(y_o)"], -0.7 * w)  # and E[w] = 1: the two cancel at weight 1
    for name in before:
        if not name.endswith(("log q(y_o|x)", "log q(y_o|z)")):
            torch.testing.assert_close(moved[name], torch.zeros(len(Y)))


def test_raising_the_true_labels_probability_lowers_the_loss():
    """The gradient of the labelled loss in the classifier's logits, at classifier_weight > 1."""
    vae, x = make()
    vae.q_y.net.layers[-1].bias.data.zero_()
    y = torch.full((len(Y),), 3)
    loss = weighed(vae, classifier_weight=50.0, num_samples=K).differentiable_loss(vae.model, vae.guide, x, y)
    (gradient,) = torch.autograd.grad(loss, [vae.q_y.net.layers[-1].bias])
    assert gradient[3] < 0 and (gradient[[0, 1, 2, 4]] > 0).all()


@pytest.mark.parametrize("marginal", ["exact", "jensen"])
def test_monte_carlo_gradient_equals_quadrature(marginal):
    """1-d z_c, no z_s: the mean gradient over many draws is within 5 standard errors of Gauss-Hermite quadrature.

    The classifier's weights are zero (its gradients are not), where w is exactly 1 and unbiased at finite K.
    """
    torch.manual_seed(1)
    vae = CCVAE((1, 1, 3), Classes(3), z_c=1, z_s=0, networks=MLPs((4,)), label_hidden=(2,))
    for net in (vae.q_z.net, vae.p_x.net, vae.q_y.net):
        net.layers[1] = nn.Tanh()  # quadrature is exact for smooth functions only
    with torch.no_grad():
        vae.q_y.net.layers[-1].weight.zero_()
    parameters = [p for name, p in vae.named_parameters()]
    nodes, weights = (torch.tensor(a) for a in np.polynomial.hermite_e.hermegauss(80))
    weights = weights / weights.sum()
    for label in (1, MISSING):
        x1 = torch.rand(1, 1, 1, 3)
        loc, scale = gaussian(vae.q_z.net(x1))
        z = loc + scale * nodes[:, None]  # (80, 1)
        mu, sigma = gaussian(vae.p_z_c.net(torch.arange(3)))
        log_p_zy = log_normal(z.unsqueeze(-2), mu, sigma)
        log_q = vae.q_y.net(z).log_softmax(-1)
        logits = vae.p_x.net(z, z[:, :0]).flatten(1)
        inside = (x1.flatten() * F.logsigmoid(logits) + (1 - x1.flatten()) * F.logsigmoid(-logits)).sum(-1)
        inside = inside - log_normal(z, loc, scale)
        if label == MISSING and marginal == "exact":
            value = (weights * (inside + (log_p_zy - math.log(3)).logsumexp(-1))).sum()
        elif label == MISSING:
            value = (weights * (inside + (log_q.exp() * (log_p_zy - math.log(3) - log_q)).sum(-1))).sum()
        else:
            q_x = (weights * log_q[:, label].exp()).sum()
            w = log_q[:, label].exp() / q_x
            value = (weights * w * (inside + log_p_zy[:, label] - log_q[:, label])).sum() + q_x.log() - math.log(3)
        exact = torch.autograd.grad(value, parameters, allow_unused=True)

        chunks, rows = 40, 1000
        elbo = vae.elbo(marginal=marginal, detach="none", num_samples=2)
        y = torch.full((rows,), label)
        samples = []
        for _ in range(chunks):
            loss = elbo.differentiable_loss(vae.model, vae.guide, x1.expand(rows, -1, -1, -1), y) / rows
            samples.append(torch.autograd.grad(-loss, parameters, allow_unused=True))
        for (name, _), expected, *drawn in zip(vae.named_parameters(), exact, *samples, strict=True):
            if expected is None:
                assert all(g is None or not g.any() for g in drawn), name
                continue
            drawn = torch.stack([torch.zeros_like(expected) if g is None else g for g in drawn])
            error = drawn.std(0) / math.sqrt(chunks)
            assert ((drawn.mean(0) - expected).abs() <= 5 * error + 1e-10).all(), (label, name)


def test_the_control_variate_takes_the_noise_of_large_brackets_and_no_expectation():
    """With normalised weights and nothing detached: the same mean gradient, the classifier's a tenth as noisy."""
    torch.manual_seed(0)
    vae = CCVAE((1, 20, 20), Classes(3), z_c=2, z_s=1, networks=MLPs((5,)), label_hidden=(4,))
    x, y = torch.rand(4, 1, 20, 20).repeat(10, 1, 1, 1), torch.tensor([2, 0, 1, MISSING] * 10)
    names, parameters = zip(*vae.named_parameters(), strict=True)
    mean, noise = {}, {}
    for control in (False, True):
        elbo = vae.elbo(detach="none", weights="normalised", num_samples=2, control_variate=control)
        assert (elbo.weighted_terms(vae.model, vae.guide, x, y).get("control(w)", torch.zeros(1)) == 0).all()
        drawn = [
            torch.autograd.grad(elbo.differentiable_loss(vae.model, vae.guide, x, y), parameters) for _ in range(300)
        ]
        drawn = [torch.stack(values).flatten(1) for values in zip(*drawn, strict=True)]
        mean[control] = [values.mean(0) for values in drawn]
        noise[control] = [values.std(0) / math.sqrt(len(values)) for values in drawn]
    for name, a, b, s, t in zip(names, mean[False], mean[True], noise[False], noise[True], strict=True):
        assert ((a - b).abs() <= 5 * (s**2 + t**2).sqrt() + 1e-10).all(), name
        if name.startswith("q_y"):
            assert t.norm() < 0.1 * s.norm(), name
