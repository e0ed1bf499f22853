"""The reverse bound against mathematics: by hand, by summation on a grid, its gradients, the flow's density."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from by_hand import through
from inverted_toy import HIGH, LOW, SHAPE, C, D, Y, log_bernoulli, log_q_y, log_q_z, make
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from pyro_semivae.infer import LocalParameters, Step, TraceReverse_ELBO
from pyro_semivae.models import M2
from pyro_semivae.spaces import Classes

ENUMERATE = {"enumerate": "parallel"}


class Drawn(Messenger):
    """Records what sites are drawn, by name."""

    def __init__(self):
        super().__init__()
        self.values = {}

    def _pyro_post_sample(self, msg):
        if not msg["is_observed"]:
            self.values[msg["name"]] = msg["value"]


def log_relaxed(logit, logits, temperature):
    """The density of sigmoid(logit) under the binary concrete distribution (Maddison et al. 2017, Eq. 25)."""
    x = logit.sigmoid()
    alpha, t = logits.exp(), temperature
    top = t * alpha * x ** (-t - 1) * (1 - x) ** (-t - 1)
    return (top / (alpha * x**-t + (1 - x) ** -t) ** 2).log().flatten(1).sum(1)


@pytest.mark.parametrize("kind", ["classes", "binary"])
@pytest.mark.parametrize("observed", [("y",), ("y", "z")], ids=["eq-5", "eq-17"])
@pytest.mark.parametrize("gradient", ["relaxed", "reinforce", "mean", "hard"])
def test_equals_the_formula_by_hand(gradient, observed, kind):
    """Eqs. 5 and 17, values and every gradient; the score function's surrogate too."""
    vae, y, t = make(kind), Y[kind], 0.7
    elbo = vae.elbo(observed=observed, gradient=gradient, temperature=t).parts()[1].what
    with Drawn() as drawn, LocalParameters():
        terms = elbo.evaluate(Step(vae.model, vae.guide, (None, y))).contributions()
    z, x = (drawn.values[name].detach().reshape(len(y), *shape) for name, shape in (("z", (D,)), ("x", SHAPE)))
    code = torch.eye(C)[y] if kind == "classes" else y
    logits = through(vae.p_x.net, code, z).view(-1, *SHAPE)
    if gradient == "relaxed":
        logit = logits + (t * x.logit() - logits).detach()
        x = (logit / t).sigmoid()
        log_p_x, log_q_x = log_relaxed(logit / t, logits, t), log_relaxed(logit / t, torch.zeros_like(logits), t)
    else:
        x = logits.sigmoid() if gradient == "mean" else x
        log_p_x, log_q_x = log_bernoulli(x, logits), torch.full((len(y),), -math.prod(SHAPE) * math.log(2))
    log_p_z = -D * math.log(HIGH - LOW)
    expected = log_q_x + log_q_y(vae, x, y) + log_q_z(vae, x, code, z) - log_p_x
    expected = expected - (0.0 if "z" in observed else log_p_z)
    if gradient == "reinforce":
        rest = (expected.sum() - expected) / (len(y) - 1)
        expected = expected + (expected - rest).detach() * (log_p_x - log_p_x.detach())
    ours = sum(terms.values())
    assert_close(ours, expected)
    assert ("reverse: -log p(z)" in terms) == ("z" not in observed) and not any("log p(y)" in name for name in terms)
    parameters = [p for name, p in vae.named_parameters()]
    for a, b in zip(*(torch.autograd.grad(s.sum(), parameters) for s in (ours, expected)), strict=True):
        assert_close(a, b)


# x on a grid: everything can be summed.


class Grid(nn.Module):
    """p(y) p(z) p(x | y, z) and q(x) q(y | x) q(z | x, y), as tables; x one of 7, y of 4, z of 3 values.

    Args:
        exact: q is the joint of p the other way round, so that p(x, z | y) is the exact posterior of the reverse model
            and, p(z) being uniform and independent of y, q(z | y) is uniform.
    """

    def __init__(self, exact):
        super().__init__()
        torch.manual_seed(1)
        self.log_p_y = torch.randn(4).log_softmax(0)
        self.log_p_z = torch.full((3,), -math.log(3))
        self.p_x = nn.Parameter(torch.randn(4, 3, 7))
        joint = self.log_p_y[:, None, None] + self.log_p_z[:, None] + self.p_x.log_softmax(-1)  # (y, z, x)
        joint = (joint if exact else torch.randn(4, 3, 7)).detach().movedim(-1, 0)  # (x, y, z)
        self.q_x = joint.flatten(1).logsumexp(1)
        self.q_y, self.q_z = nn.Parameter(joint.logsumexp(-1)), nn.Parameter(joint.clone())  # (x, y), (x, y, z)

    def model(self, x=None, y=None):
        with pyro.plate("data", len(y)):
            y = pyro.sample("y", dist.Categorical(logits=self.log_p_y), obs=y, infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Categorical(logits=self.log_p_z))
            pyro.sample("x", dist.Categorical(logits=self.p_x[y, z]), obs=x)

    def guide(self, x=None, y=None):
        with pyro.plate("data", len(y)):
            x = pyro.sample("x", dist.Categorical(logits=self.q_x), obs=x, infer={"is_auxiliary": x is not None})
            y = pyro.sample("y", dist.Categorical(logits=self.q_y[x]), obs=y, infer={"enumerate": "parallel"})
            pyro.sample("z", dist.Categorical(logits=self.q_z[x, y]))

    def log_q(self):
        """log q(x, y, z), log p(x | y, z), both `(y, z, x)`."""
        joint = self.q_x.log_softmax(0)[:, None, None] + self.q_y.log_softmax(-1)[..., None]
        return (joint + self.q_z.log_softmax(-1)).movedim(0, -1), self.p_x.log_softmax(-1)

    def expected(self, observed):
        """The bound by summation: Eq. 5 `(y,)`, or Eq. 17 `(y, z)`."""
        log_q, log_p = self.log_q()
        inner = (log_p.exp() * (log_q - log_p)).sum(-1)  # (y, z)
        return inner if "z" in observed else (self.log_p_z.exp() * (inner - self.log_p_z)).sum(-1)

    def evidence(self, observed):
        return self.log_q()[0].logsumexp(-1) if "z" in observed else self.log_q()[0].flatten(1).logsumexp(1)


@pytest.mark.parametrize("observed", [("y",), ("y", "z")], ids=["eq-5", "eq-17"])
def test_with_the_exact_posterior_every_draw_is_the_log_evidence(observed):
    grid, y = Grid(exact=True), torch.arange(4).repeat(50)
    with Drawn() as drawn:
        terms = TraceReverse_ELBO(observed=observed, gradient="hard").weighted_terms(grid.model, grid.guide, None, y)
    evidence = grid.evidence(observed)
    assert_close(sum(terms.values()), evidence[y, drawn.values["z"]] if "z" in observed else evidence[y])
    assert_close(grid.evidence(("y",)), grid.log_p_y)


@pytest.mark.parametrize("observed", [("y",), ("y", "z")], ids=["eq-5", "eq-17"])
@pytest.mark.parametrize("gradient", ["hard", "reinforce"])
def test_the_mean_is_the_bound_which_the_evidence_exceeds(observed, gradient):
    grid, copies = Grid(exact=False), 40_000
    bound, evidence = grid.expected(observed), grid.evidence(observed)
    assert (bound < evidence - 0.05).all()
    y = torch.arange(4).repeat_interleave(copies)
    with Drawn() as drawn:
        terms = TraceReverse_ELBO(observed=observed, gradient=gradient).weighted_terms(grid.model, grid.guide, None, y)
    total = sum(terms.values()).detach()
    group = y * 3 + drawn.values["z"] if "z" in observed else y
    for value, expected in enumerate(bound.flatten()):
        of_group = total[group == value]
        assert abs(of_group.mean() - expected) < 5 * of_group.std() / math.sqrt(len(of_group))


def gradients(grid, gradient, chunks=40, copies=500):
    """The mean over chunks of the gradients of Eq. 5, and their standard error: of the decoder, of q(y|x)."""
    y, drawn = torch.arange(4).repeat(copies), []
    for _ in range(chunks):
        terms = TraceReverse_ELBO(gradient=gradient).weighted_terms(grid.model, grid.guide, None, y)
        loss = sum(terms.values()).sum() / copies
        drawn.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, [grid.p_x, grid.q_y])]))
    drawn = torch.stack(drawn)
    return drawn.mean(0), drawn.std(0) / math.sqrt(chunks)


def test_the_score_functions_gradient_is_that_of_the_sum():
    grid = Grid(exact=False)
    exact = torch.autograd.grad(grid.expected(("y",)).sum(), [grid.p_x, grid.q_y])
    exact = torch.cat([g.flatten() for g in exact])
    mean, error = gradients(grid, "reinforce")
    assert ((mean - exact).abs() <= 5 * error + 1e-12).all() and (exact.abs() > 10 * error).any()


def test_a_hard_draw_tells_the_decoder_nothing():
    """The reference's estimator: its decoder gradient has mean zero, where the true one has not; q(y|x)'s is right."""
    grid = Grid(exact=False)
    exact = torch.autograd.grad(grid.expected(("y",)).sum(), [grid.p_x, grid.q_y])
    mean, error = gradients(grid, "hard")
    size = grid.p_x.numel()
    assert (mean[:size].abs() <= 5 * error[:size]).all()
    assert (exact[0].flatten().abs() > 5 * error[:size]).any()
    assert ((mean[size:] - exact[1].flatten()).abs() <= 5 * error[size:]).all()


def test_the_prior_of_what_is_observed_is_not_scored():
    vae = make()
    before, after = [], []
    for out in (before, after):
        torch.manual_seed(3)
        out.append(vae.elbo().parts()[1].what.weighted_terms(vae.model, vae.guide, None, Y["classes"]))
        vae.p_y.logits.copy_(torch.tensor([0.1, 0.3, 0.2, 0.15, 0.25]).log())
    assert all(torch.equal(before[0][name], after[0][name]) for name in before[0])


def test_with_images_it_is_the_bound_of_eq_59():
    vae, y = make(), Y["classes"]
    x = torch.rand(len(y), *SHAPE)
    with Drawn() as drawn, LocalParameters():
        terms = TraceReverse_ELBO().evaluate(Step(vae.model, vae.guide, (x, y))).contributions()
    z = drawn.values["z"]
    expected = log_q_y(vae, x, y) + log_q_z(vae, x, torch.eye(C)[y], z) + D * math.log(HIGH - LOW)
    assert_close(sum(terms.values()), expected - math.prod(SHAPE) * math.log(2))


class Coins(nn.Module):
    """Two binary latents a and b under one label, of one float type; a model p(y) p(a) p(b | a), a guide of all."""

    def __init__(self, dtype, size=1.0):
        super().__init__()
        self.dtype = dtype
        start = torch.tensor([[0.7, -1.1, 0.4], [-0.3, 0.9, 1.2]], dtype=dtype)
        self.p, self.q = nn.Parameter(size * start), nn.Parameter(start.flip(0))

    def model(self, x=None, y=None):
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Categorical(logits=torch.zeros(3, dtype=self.dtype)), obs=y, infer=ENUMERATE)
            a = pyro.sample("a", dist.Bernoulli(logits=self.p[0, y]))
            pyro.sample("b", dist.Bernoulli(logits=self.p[1, y] + 2 * a))

    def guide(self, x=None, y=None):
        with pyro.plate("data", len(y)):
            a = pyro.sample("a", dist.Bernoulli(logits=torch.zeros(len(y), dtype=self.dtype)))
            b = pyro.sample("b", dist.Bernoulli(logits=0.5 * a))
            logits = torch.stack([self.q[0, :1] * a, self.q[1, 1:2] * b, self.q[0, 2:] * (a - b)], -1)
            pyro.sample("y", dist.Categorical(logits=logits), obs=y, infer=ENUMERATE)


def test_several_relaxed_latents_are_exact_in_single_precision():
    """Far from 0 the draws round to 0 and 1; each site's density is that of its logit all the same."""
    y, t = torch.arange(3).repeat(400), 0.5
    totals = {}
    for dtype in (torch.float32, torch.float64):
        coins = Coins(dtype, size=15.0)
        with Drawn() as drawn:
            terms = TraceReverse_ELBO(gradient="relaxed", temperature=t).weighted_terms(
                coins.model, coins.guide, None, y
            )
        minus_divergence = terms["reverse: log q(a)"] + terms["reverse: -log p(a)"]
        logits = coins.p[0, y]
        noise = torch.linspace(1e-4, 1 - 1e-4, 20_001, dtype=torch.float64).logit()
        l = (logits[:3, None].double() + noise) / t  # quantiles of the relaxed logits of y = 0, 1, 2
        log_p = math.log(t) - noise - 2 * F.softplus(-noise)
        log_q = math.log(t) - t * l - 2 * F.softplus(-t * l)
        expected = (log_q - log_p).mean(1)
        for value in range(3):
            of_value = minus_divergence[y == value].double().detach()
            error = of_value.std() / math.sqrt(len(of_value))
            assert abs(of_value.mean() - expected[value]) < 5 * error + 0.01, (dtype, value)
        totals[dtype] = minus_divergence.mean()
        assert (drawn.values["a"] == 1 - torch.finfo(dtype).eps).any() == (dtype == torch.float32), (
            "where it is clamped"
        )
    assert totals[torch.float32] < 0


def test_every_latents_score_counts():
    """Of two discrete latents both get the score function: its gradient is that of the sum."""
    coins, exact = Coins(torch.float64), 0.0
    for y in range(3):
        for a in (0.0, 1.0):
            for b in (0.0, 1.0):
                one, a_, b_ = torch.tensor([y]), torch.tensor([a]), torch.tensor([b])
                log_p = dist.Bernoulli(logits=coins.p[0, one]).log_prob(a_)
                log_p = log_p + dist.Bernoulli(logits=coins.p[1, one] + 2 * a).log_prob(b_)
                given = {"a": a_, "b": b_, "y": one}
                trace = poutine.trace(poutine.condition(coins.guide, given)).get_trace(None, one)
                exact = exact + (log_p.exp() * (trace.log_prob_sum() - log_p)).sum()
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(exact, [coins.p, coins.q])])
    y, drawn = torch.arange(3).repeat(2000), []
    for _ in range(40):
        terms = TraceReverse_ELBO(gradient="reinforce").weighted_terms(coins.model, coins.guide, None, y)
        assert {"reverse: score(a)", "reverse: score(b)"} <= set(terms)
        got = torch.autograd.grad(sum(terms.values()).sum() / 2000, [coins.p, coins.q])
        drawn.append(torch.cat([g.flatten() for g in got]))
    drawn = torch.stack(drawn)
    error = drawn.std(0) / math.sqrt(len(drawn))
    assert ((drawn.mean(0) - expected).abs() <= 5 * error + 1e-12).all()
    assert (expected[:6].abs() > 10 * error[:6]).all()


def test_what_does_not_fit_is_refused():
    vae, m2 = make(), M2(SHAPE, Classes(C), z=D)
    with pytest.raises(ValueError, match=r"guide: failed in reverse .*expected sites for all data"):
        TraceReverse_ELBO().weighted_terms(m2.model, m2.guide, None, Y["classes"])
    for y in (None, Y["classes"].where(Y["classes"] != 1, -1)):
        with pytest.raises(ValueError, match="y: got missing labels of given data 'x'; expected observed labels"):
            TraceReverse_ELBO().weighted_terms(vae.model, vae.guide, torch.rand(6, *SHAPE), y)
    with pytest.raises(ValueError, match="observed: got 'z', and values of the label 'y'; expected no values"):
        TraceReverse_ELBO(observed=("z",)).weighted_terms(vae.model, vae.guide, None, Y["classes"])
    for gradient in ("relaxed", "mean"):
        binary = make("binary")
        with pytest.raises(
            ValueError,
            match=f"gradient: got '{gradient}'; expected 'reinforce' or 'hard' for 'y', a label that is latent",
        ):
            binary.elbo(observed=("z",), gradient=gradient).parts()[1].what.weighted_terms(binary.model, binary.guide)
    with pytest.raises(ValueError, match="site 'x' is in the model only: with roles exchanged"):
        TraceReverse_ELBO().weighted_terms(
            m2.model, lambda x=None, y=None: m2.guide(torch.rand(6, *SHAPE), y), None, Y["classes"]
        )
    with pytest.raises(ValueError, match=r"observed: got \['w'\]; expected 'y', 'z', 'x'"):
        TraceReverse_ELBO(observed=("y", "w")).weighted_terms(vae.model, vae.guide, None, Y["classes"])
    grid = Grid(exact=True)
    for gradient in ("relaxed", "mean"):
        with pytest.raises(
            ValueError, match=f"gradient: got '{gradient}'; expected 'reinforce' or 'hard' for 'z', which is not binary"
        ):
            TraceReverse_ELBO(gradient=gradient).weighted_terms(grid.model, grid.guide, None, torch.arange(4))
    for option, value in (("gradient", "soft"), ("temperature", 0.0)):
        with pytest.raises(ValueError, match=f"{option}: got "):
            TraceReverse_ELBO(**{option: value})


def test_the_model_and_the_guide_are_functions_to_call():
    vae = make()
    imagined = poutine.trace(vae.guide).get_trace(None, None)
    assert not imagined.nodes["x"]["is_observed"] and imagined.nodes["x"]["value"].shape == (1, *SHAPE)
    seen = poutine.trace(vae.guide).get_trace(torch.rand(3, *SHAPE), None)
    assert seen.nodes["x"]["is_observed"] and seen.nodes["x"]["infer"]["is_auxiliary"]
