"""The CCVAE bound against mathematics: exact posteriors, the formula by hand, brute force, limits, signs."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from torch import nn
from torch.nn import functional as F

from pyro_semivae import CCVAE
from pyro_semivae.infer import LocalParameters, RowScale, TraceCCVAE_ELBO
from pyro_semivae.labels import MISSING

C, D_C, D_S, K, H, W = 5, 2, 3, 4, 2, 7
Y = torch.tensor([2, MISSING, 0, 4, MISSING, 2, 1, MISSING])  # B = 8 rows


def make(classifier="network", seed=0):
    torch.manual_seed(seed)
    vae = CCVAE((1, H, W), C, z_c=D_C, z_s=D_S, hidden=(11,), label_hidden=(6,), classifier=classifier)
    vae.p_y.logits.copy_(torch.tensor([0.1, 0.3, 0.2, 0.15, 0.25]).log())
    return vae, torch.rand(len(Y), 1, H, W)


def recorded(vae, elbo, x, y):
    """The terms, and the values of the latents that the guide drew for them: name -> (particles, B, D)."""
    guide = poutine.trace(vae.guide)
    with LocalParameters():
        rows = elbo.rows(vae.model, guide, x, y)
    nodes = guide.trace.nodes
    return rows, {name: nodes[name]["value"] for name in ("z_c", "z_s")}


def gaussian(h):
    loc, raw = h.chunk(2, -1)
    return loc, F.softplus(raw) + 1e-3


def log_normal(z, loc, scale):
    return (-0.5 * ((z - loc) / scale) ** 2 - scale.log() - 0.5 * math.log(2 * math.pi)).sum(-1)


def by_hand(vae, x, y, draws, *, marginal, detach, classifier_weight=1.0, beta=1.0):
    """design: the bound in plain torch, row by row in meaning, with the same noise as the objective's draws."""
    loc, scale = gaussian(vae.q_z.net(x))  # (B, D)
    drawn = torch.cat([draws["z_c"], draws["z_s"]], -1).detach()  # (1 + K [+ 1], B, D)
    z_all = loc + scale * ((drawn - loc) / scale).detach()
    z, z_k = z_all[0], z_all[1 : 1 + K]
    z_c, z_s = z.split([D_C, D_S], -1)

    mu, sigma = gaussian(vae.p_z_c.net(torch.arange(C)))  # (C, D_c)
    log_p_y = vae.p_y.logits
    log_p_zc_y = log_normal(z_c.unsqueeze(-2), mu, sigma)  # (B, C)

    def log_q_y(z):
        if hasattr(vae.q_y, "net"):
            return vae.q_y.net(z).log_softmax(-1)
        return (log_normal(z.unsqueeze(-2), mu, sigma) + log_p_y).log_softmax(-1)

    logits = vae.p_x.net(z_c, z_s).flatten(1)
    pixels = x.flatten(1)
    log_p_x = (pixels * F.logsigmoid(logits) + (1 - pixels) * F.logsigmoid(-logits)).sum(-1)
    log_p_zs = log_normal(z_s, torch.zeros(D_S), torch.ones(D_S))
    log_q_zc = log_normal(z_c, loc[:, :D_C], scale[:, :D_C])
    log_q_zs = log_normal(z_s, loc[:, D_C:], scale[:, D_C:])

    names = ("p(x)", "p(z_s)", "p(z_c)", "q(z_c)", "q(z_s)", "q(y|z)", "q(y|x)", "p(y)")
    terms = {name: [] for name in names}
    for b in range(len(x)):
        plain = {"p(x)": log_p_x[b], "p(z_s)": beta * log_p_zs[b]}
        plain |= {"q(z_c)": -beta * log_q_zc[b], "q(z_s)": -beta * log_q_zs[b]}
        if y[b] == MISSING:
            if marginal == "exact":
                p_zc = (log_p_zc_y[b].exp() * log_p_y.exp()).sum().log()
            else:
                log_q = log_q_y(z_c[b])
                p_zc = sum(log_q[c].exp() * (log_p_zc_y[b, c] + log_p_y[c] - log_q[c]) for c in range(C))
            row = {**plain, "p(z_c)": beta * p_zc, "q(y|z)": 0 * p_zc, "q(y|x)": 0 * p_zc, "p(y)": 0 * p_zc}
        else:
            q_x = torch.stack([log_q_y(z_k[k, b, :D_C])[y[b]].exp() for k in range(K)]).mean()
            live, cut = log_q_y(z_c[b])[y[b]], log_q_y(z_c[b].detach())[y[b]]
            w = (live if detach == "none" else cut).exp() / q_x
            inside = cut if detach == "weighted-terms" else live
            row = {name: w * value for name, value in plain.items()}
            row |= {"p(z_c)": w * beta * log_p_zc_y[b, y[b]], "q(y|z)": -w * inside}
            row |= {"q(y|x)": classifier_weight * q_x.log(), "p(y)": log_p_y[y[b]]}
        for name in names:
            terms[name].append(row[name])
    return {name: torch.stack(values) for name, values in terms.items()}


@pytest.mark.parametrize("classifier", ["network", "bayes"])
@pytest.mark.parametrize("detach", ["weight", "weighted-terms", "none"])
@pytest.mark.parametrize("marginal", ["exact", "jensen"])
def test_terms_and_gradients_equal_the_formula_by_hand(marginal, detach, classifier):
    vae, x = make(classifier)
    options = {"marginal": marginal, "detach": detach, "classifier_weight": 2.5, "beta": 1.7}
    rows, draws = recorded(vae, vae.elbo(num_samples=K, **options), x, Y)
    expected = by_hand(vae, x, Y, draws, **options)
    assert set(rows.terms) == set(expected)
    weights = torch.linspace(0.5, 1.5, len(Y))
    for name, value in expected.items():
        torch.testing.assert_close(rows.terms[name], value, rtol=1e-9, atol=1e-12, msg=f"term {name}")
        ours, theirs = (
            torch.autograd.grad((t * weights).sum(), list(vae.parameters()), retain_graph=True, allow_unused=True)
            if t.requires_grad
            else ()
            for t in (rows.terms[name], value)
        )
        for (parameter, _), a, b in zip(vae.named_parameters(), ours, theirs, strict=False):
            a, b = (torch.zeros(()) if g is None else g for g in (a, b))
            torch.testing.assert_close(*torch.broadcast_tensors(a, b), msg=f"d {name} / d {parameter}")


def test_regulariser_equals_the_formula_by_hand():
    """mu log q(y~ | z'), z' ~ p(z_c | y), y~ the label of the labelled row with the highest q(z_c | x)."""
    vae, x = make()
    mu = 3.0
    drawn = {}

    class Spy(nn.Module):  # records the z_c at which the classifier is evaluated
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, z):
            drawn["z"] = z
            return self.inner(z)

    vae.q_y = Spy(vae.q_y)
    terms = vae.elbo(regulariser_weight=mu, num_samples=K).terms(vae.model, vae.guide, x, Y)
    z = drawn["z"]  # the last evaluation is the regulariser's, (B, D_c)
    assert z.shape == (len(Y), D_C) and not z.requires_grad
    loc, scale = gaussian(vae.q_z.net(x))
    expected = torch.zeros(len(Y))
    for b in range(len(Y)):
        if Y[b] == MISSING:
            labelled = [r for r in range(len(Y)) if Y[r] != MISSING]
            near = max(labelled, key=lambda r: log_normal(z[b], loc[r, :D_C], scale[r, :D_C]).item())
            expected[b] = mu * vae.q_y.inner.net(z[b]).log_softmax(-1)[Y[near]]
    torch.testing.assert_close(terms["regulariser"], expected)
    grads = torch.autograd.grad(terms["regulariser"].sum(), list(vae.parameters()), allow_unused=True)
    touched = {name for (name, _), g in zip(vae.named_parameters(), grads, strict=True) if g is not None and g.any()}
    assert touched and all(name.startswith("q_y") for name in touched), "it trains the classifier alone"


def test_missing_labels_equal_a_loop_over_their_values():
    """Brute force: log sum_y p(x, y, z) from plain Pyro traces of the model, y observed at each value in turn."""
    vae, x = make()
    rows, draws = recorded(vae, vae.elbo(num_samples=K), x, torch.full((len(Y),), MISSING))
    z = {name: value[0] for name, value in draws.items()}
    joint = []
    for c in range(C):
        model = poutine.condition(vae.model, data=z)
        with LocalParameters():
            trace = poutine.trace(model).get_trace(x, torch.full((len(Y),), c))
        trace.compute_log_prob()
        joint.append(sum(trace.nodes[name]["log_prob"] for name in ("x", "y", "z_c", "z_s")))
    expected = torch.stack(joint).logsumexp(0)
    torch.testing.assert_close(sum(rows.terms[name] for name in ("p(x)", "p(z_c)", "p(z_s)")), expected)


def seeded(fn):
    torch.manual_seed(7)
    return fn()


def test_without_labels_it_is_pyros_enumerated_elbo():
    """y = None: the stock TraceEnum_ELBO with y enumerated in the model, in value and gradients."""
    vae, x = make()
    vae.q_y.requires_grad_(False)  # the exact marginal has no use for it

    def guide(x, y=None):
        with poutine.block(hide=["y"]):
            vae.guide(x, y)

    elbo = TraceCCVAE_ELBO(num_samples=1, detach="none")
    stock = TraceEnum_ELBO(max_plate_nesting=1)
    parameters = [p for p in vae.parameters() if p.requires_grad]
    draws = {name: value[0] for name, value in recorded(vae, elbo, x, None)[1].items()}
    # One set of draws for both: the guides sample them as functions of the encoder's output.
    noise = {}
    with LocalParameters():
        fns = poutine.trace(vae.guide).get_trace(x).nodes
    for name, z in draws.items():
        base = fns[name]["fn"].base_dist
        noise[name] = ((z - base.loc) / base.scale).detach()

    class Reparameterised(poutine.messenger.Messenger):
        def _pyro_sample(self, msg):
            if msg["name"] in noise and not msg["is_observed"]:
                base = msg["fn"].base_dist
                msg["value"] = base.loc + base.scale * noise[msg["name"]]
                msg["done"] = True

    with Reparameterised(), LocalParameters():
        ours = elbo.differentiable_loss(vae.model, vae.guide, x)
        theirs = stock.differentiable_loss(vae.model, guide, x)
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(torch.autograd.grad(ours, parameters), torch.autograd.grad(theirs, parameters), strict=True):
        torch.testing.assert_close(a, b)


def test_limits():
    vae, x = make()
    elbo = vae.elbo(num_samples=K)
    none, all_missing = (seeded(lambda y=y: elbo.terms(vae.model, vae.guide, x, y)) for y in (None, Y * 0 - 1))
    for name, value in none.items():
        torch.testing.assert_close(all_missing[name], value, msg=f"no label observed: {name}")
    for name in ("q(y|z)", "q(y|x)", "p(y)"):
        assert not all_missing[name].any()

    bayes, _ = make("bayes")
    exact, jensen = (
        seeded(lambda m=m: bayes.elbo(marginal=m, num_samples=K).terms(bayes.model, bayes.guide, x, Y))
        for m in ("exact", "jensen")
    )
    torch.testing.assert_close(exact["p(z_c)"], jensen["p(z_c)"])

    exact, jensen = (
        seeded(lambda m=m: vae.elbo(marginal=m, num_samples=K).terms(vae.model, vae.guide, x, Y))
        for m in ("exact", "jensen")
    )
    gap = exact["p(z_c)"] - jensen["p(z_c)"]
    assert (gap[Y == MISSING] > 1e-3).all(), "Jensen's bound is looser where the classifier is not Bayes'"
    assert not gap[Y != MISSING].any()


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
    toy = Toy()
    x, y = torch.randn(len(Y), 7), Y % 3 * (Y != MISSING) - (Y == MISSING).long()
    log_p_xy = toy.log_p_x_given_y(x) + toy.log_p_y
    log_p_x = log_p_xy.logsumexp(-1)
    elbo = TraceCCVAE_ELBO(marginal=marginal, num_samples=K, detach="none")
    for draw in range(3):
        torch.manual_seed(draw)
        terms = elbo.terms(toy.model, toy.guide, x)
        torch.testing.assert_close(sum(terms.values()), log_p_x)

        guide = poutine.trace(toy.guide)
        terms = elbo.terms(toy.model, guide, x, y)
        z_c = guide.trace.nodes["z_c"]["value"]  # (1 + K, B, D_c)
        log_q = toy.log_p_z_c_given_y(z_c) + toy.log_p_y
        log_q = log_q.log_softmax(-1).gather(-1, y.clamp(min=0).expand(1 + K, -1).unsqueeze(-1)).squeeze(-1)
        w = (log_q[0] - log_q[1:].logsumexp(0) + math.log(K)).exp()
        bracket = sum(value for name, value in terms.items() if name not in ("q(y|x)", "p(y)")) / w
        observed = y != MISSING
        exact_q = log_p_xy.gather(-1, y.clamp(min=0).unsqueeze(-1)).squeeze(-1) - log_p_x  # log p(y|x)
        total = bracket + exact_q + terms["p(y)"]
        torch.testing.assert_close(total[observed], (log_p_x + exact_q)[observed])
        torch.testing.assert_close(sum(terms.values())[~observed], log_p_x[~observed])


def test_labelled_bound_in_the_mean_is_the_log_evidence_up_to_the_bias_of_w():
    """E[bound] -> log p(x, y) as K grows: within 5 standard errors plus the measured excess of w over 1."""
    toy = Toy()
    x = torch.randn(1, 7).expand(4_000, 7)
    y = torch.ones(len(x), dtype=torch.long)
    log_p_xy = (toy.log_p_x_given_y(x[:1]) + toy.log_p_y)[0, 1]
    log_p_x_y = log_p_xy - toy.log_p_y[1] - (toy.log_p_x_given_y(x[:1])[0] + toy.log_p_y).logsumexp(-1) + toy.log_p_y[1]
    guide = poutine.trace(toy.guide)
    terms = TraceCCVAE_ELBO(num_samples=200, detach="none").terms(toy.model, guide, x, y)
    total = sum(terms.values())
    # The bracket is constant under the exact posterior, so the bias is (E[w] - 1) times it plus that of log q(y|x).
    bracket = log_p_xy - log_p_x_y - toy.log_p_y[1]
    w = sum(v for name, v in terms.items() if name not in ("q(y|x)", "p(y)")) / bracket
    corrected = total - (w - 1) * bracket - (terms["q(y|x)"] - log_p_x_y)
    torch.testing.assert_close(corrected, log_p_xy.expand_as(corrected))
    for sample, exact, bias in ((w, 1.0, 1 / 200), (terms["q(y|x)"], log_p_x_y.item(), 1 / 200)):
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
    elbo = vae.elbo(classifier_weight=weight, num_samples=K)
    rows, draws = seeded(lambda: recorded(vae, elbo, x, y))
    before, z_s = rows.terms, draws["z_s"][0]
    w = before["p(z_s)"] / log_normal(z_s, torch.zeros(D_S), torch.ones(D_S))
    Shifted.shift = torch.tensor(0.7)
    try:
        after = seeded(lambda: elbo.terms(vae.model, vae.guide, x, y))
    finally:
        Shifted.shift = torch.zeros(())
    moved = {name: after[name] - before[name] for name in before}
    torch.testing.assert_close(moved["q(y|x)"], torch.full((len(Y),), 0.7 * weight))
    torch.testing.assert_close(moved["q(y|z)"], -0.7 * w)  # and E[w] = 1: the two cancel at weight 1
    for name in before:
        if name not in ("q(y|x)", "q(y|z)"):
            torch.testing.assert_close(moved[name], torch.zeros(len(Y)))


def test_raising_the_true_labels_probability_lowers_the_loss():
    """The gradient of the labelled loss in the classifier's logits, at classifier_weight > 1."""
    vae, x = make()
    vae.q_y.net.layers[-1].bias.data.zero_()
    y = torch.full((len(Y),), 3)
    loss = vae.elbo(classifier_weight=50.0, num_samples=K).differentiable_loss(vae.model, vae.guide, x, y)
    (gradient,) = torch.autograd.grad(loss, [vae.q_y.net.layers[-1].bias])
    assert gradient[3] < 0 and (gradient[[0, 1, 2, 4]] > 0).all()


@pytest.mark.parametrize("marginal", ["exact", "jensen"])
def test_monte_carlo_gradient_equals_quadrature(marginal):
    """1-d z_c, no z_s: the mean gradient over many draws is within 5 standard errors of Gauss-Hermite quadrature.

    The classifier's weights are zero (its gradients are not), where w is exactly 1 and unbiased at finite K.
    """
    torch.manual_seed(1)
    vae = CCVAE((1, 1, 3), 3, z_c=1, z_s=0, hidden=(4,), label_hidden=(2,))
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


def test_row_scale_multiplies_rows_and_not_terms():
    vae, x = make()
    elbo = vae.elbo(num_samples=K)
    scale = torch.linspace(1, 2, len(Y))
    terms = seeded(lambda: elbo.terms(vae.model, vae.guide, x, Y))
    with RowScale(scale):
        scaled_terms = seeded(lambda: elbo.terms(vae.model, vae.guide, x, Y))
        loss = seeded(lambda: elbo.loss(vae.model, vae.guide, x, Y))
    for name, value in terms.items():
        torch.testing.assert_close(scaled_terms[name], value)
    torch.testing.assert_close(loss, -(sum(terms.values()) * scale).sum())


def test_hidden_values_of_missing_entries_do_not_matter_and_gradients_are_finite():
    vae, x = make()
    module = vae.elbo(num_samples=K)(vae.model, vae.guide)
    module(x, Y).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in vae.parameters())


def test_effective_sample_size_is_that_of_the_weights():
    vae, x = make()
    rows, draws = recorded(vae, vae.elbo(num_samples=K), x, Y)
    observed = Y != MISSING
    log_q = vae.q_y.net(draws["z_c"]).log_softmax(-1)[..., observed, :]
    log_q = log_q.gather(-1, Y[observed].expand(len(log_q), -1).unsqueeze(-1)).squeeze(-1)
    w = log_q[0].exp() / log_q[1 : 1 + K].exp().mean(0)
    torch.testing.assert_close(rows.monitors["ess"], w.sum() ** 2 / (w**2).sum() / len(w))


@pytest.mark.parametrize(("option", "value"), [("marginal", "sum"), ("detach", "all"), ("num_samples", 0)])
def test_bad_options_are_named(option, value):
    with pytest.raises(ValueError, match=rf"{option}: got .*{value}.*accepted are"):
        TraceCCVAE_ELBO(**{option: value})
