"""Latents replaced by fresh ones: the bound, by hand, in closed form."""

import math

import pyro.distributions as dist
import pytest
import torch
from ccvae_toy import D_C, D_S, C, K, Y, make
from pyro import poutine
from style_toy import CLASSES, LABELS, NAN, SEVERAL, Entries, Linear, X, attributes, of, spied
from terms import evaluate
from torch.testing import assert_close

from pyro_semivae.infer import (
    ReplacementTerm,
    Step,
    TraceLabels_ELBO,
)
from pyro_semivae.models import LaRVAE
from pyro_semivae.nn import MLPs
from pyro_semivae.spaces import Real


class Exact(Linear):
    """Where z_c is known from y (its spread is nothing), the guide's z_s is the posterior given both."""

    def posterior(self, x, y):
        precision = torch.eye(D_S) + self.w_s.T @ self.w_s / self.sigma**2
        rest = x - self.b - self.means[y] @ self.w_c.T
        mean = torch.linalg.solve(precision, (rest @ self.w_s / self.sigma**2).T).T
        return dist.MultivariateNormal(mean, precision_matrix=precision)


def test_it_is_log_p_x_given_y_where_the_latents_that_are_kept_have_their_posterior():
    """Every single sample: the term with its densities is the evidence, and with the wrong sign of either it is not."""
    pair = Exact(1e-9)
    x, y = torch.randn(5, X), torch.tensor([2, 0, 1, 1, 2])
    found = of(TraceLabels_ELBO() + ReplacementTerm("z_c", densities=True), pair, x, y)
    told = {name: value for name, value in found.items() if name.startswith("replaced: ")}
    assert [*told] == ["replaced: log p(x)", "replaced: log p(z_s)", "replaced: -log q(z_s)"]
    covariance = pair.w_s @ pair.w_s.T + pair.sigma**2 * torch.eye(X)
    evidence = dist.MultivariateNormal(pair.means[y] @ pair.w_c.T + pair.b, covariance).log_prob(x)
    assert_close(sum(told.values()), evidence, rtol=1e-6, atol=1e-6)


def test_its_mean_and_gradients_are_those_of_the_closed_form():
    """E log N(x; W_c z_c + W_s z_s + b, sigma^2), z_c ~ N(m_y, s^2), z_s ~ N(mu(x), t^2), within 5 standard errors."""
    pair, repeats = Linear(0.6), 4000
    x, y = torch.randn(4, X), torch.tensor([2, 0, 1, 1])
    many = x.repeat_interleave(repeats, 0), y.repeat_interleave(repeats)
    own = [p for name, p in pair.named_parameters() if not name.startswith(("q_c", "q_y"))]
    found = of(TraceLabels_ELBO() + ReplacementTerm("z_c"), pair, *many)["replaced: log p(x)"]
    values = found.reshape(4, repeats)
    loc = pair.means[y] @ pair.w_c.T + pair.q_s(x) @ pair.w_s.T + pair.b
    spread = pair.spread.exp() ** 2 * pair.w_c.square().sum() + (pair.w_s.square() @ pair.scale_s.square()).sum()
    exact = dist.Normal(loc, pair.sigma).log_prob(x).sum(1) - spread / (2 * pair.sigma**2)
    error = values.std(1) / math.sqrt(repeats)
    assert ((values.mean(1) - exact).abs() < 5 * error).all()
    expected = torch.autograd.grad(exact.sum(), own)
    means = [torch.autograd.grad(values[:, part].mean(1).sum(), own, retain_graph=True) for part in parts(repeats)]
    for i, gradient in enumerate(expected):
        each = torch.stack([mean[i] for mean in means])
        error = each.std(0) / math.sqrt(len(each))
        assert ((each.mean(0) - gradient).abs() < 5 * error + 1e-9).all(), i
    others = [*pair.q_c.parameters(), *pair.q_y.parameters()]
    assert not any(g.any() for g in torch.autograd.grad(found.sum(), others, allow_unused=True, materialize_grads=True))


def parts(repeats, number=20):
    return [slice(i, repeats, number) for i in range(number)]


def test_of_several_labels_it_is_the_mean_of_the_bounds_with_one_fresh_entry():
    """Values and all gradients, within 5 standard errors: fresh entries from their priors, the others from the guide.
    Two latents of the same label are fresh together."""
    pair, repeats = Entries(), 4000
    x, y = torch.randn(3, X), torch.tensor([[1.0, 0, 1, 0], [0, 0, 1, 1], [1, 1, 1, 0]])
    many = x.repeat_interleave(repeats, 0), y.repeat_interleave(repeats, 0)
    term = ReplacementTerm("z_c", "z_d", entries="one", densities=True)
    found = of(TraceLabels_ELBO(max_plate_nesting=2) + term, pair, *many)
    values = sum(value for name, value in found.items() if name.startswith("replaced: ")).reshape(3, repeats)
    exact = sum(pair.bound(x, y, torch.arange(LABELS) == i) for i in range(LABELS)) / LABELS
    error = values.std(1) / math.sqrt(repeats)
    assert ((values.mean(1) - exact).abs() < 5 * error).all()
    own = [*pair.parameters()]
    how = {"allow_unused": True, "materialize_grads": True}
    expected = torch.autograd.grad(exact.sum(), own, **how)
    means = [
        torch.autograd.grad(values[:, part].mean(1).sum(), own, retain_graph=True, **how) for part in parts(repeats)
    ]
    for (name, _), gradient, *each in zip(pair.named_parameters(), expected, *means, strict=True):
        each = torch.stack(each)
        error = each.std(0) / math.sqrt(len(each))
        assert ((each.mean(0) - gradient).abs() < 5 * error + 1e-9).all(), name
        assert gradient.any() == (name not in ("q_y", "p_y")), name


def test_missing_labels_of_several_are_each_sampled_from_their_own_probabilities():
    pair, repeats = Entries(), 6000
    x, y = torch.randn(1, X).expand(repeats, X), torch.tensor([NAN, NAN, 0.0, 1.0]).expand(repeats, LABELS)
    of(TraceLabels_ELBO(max_plate_nesting=2) + ReplacementTerm("z_c", "z_d"), pair, x, y)
    probs = torch.cat([pair.q_y[:2].sigmoid(), torch.tensor([0.0, 1.0])]).detach()
    fresh, _ = (z.detach().reshape(repeats, LABELS) for z in pair.given[-1])
    loc = probs * pair.means[1] + (1 - probs) * pair.means[0]
    assert ((fresh.mean(0) - loc).abs() < 5 * fresh.std(0) / math.sqrt(repeats)).all()


def test_missing_labels_are_sampled_from_the_guide_or_summed_under_it():
    pair, repeats = Linear(0.6), 8000
    x = torch.randn(3, X)
    y = torch.tensor([-1, 1, -1])
    pair.q_c.forward, pair.q_s.forward = (lambda x: x[:, :D_C]), (lambda x: x[:, :D_S])
    many = x.repeat_interleave(repeats, 0), y.repeat_interleave(repeats)
    means = {}
    for how in ("sample", "enumerate"):
        value = of(TraceLabels_ELBO() + ReplacementTerm("z_c", missing_labels=how), pair, *many)["replaced: log p(x)"]
        value = value.reshape(3, repeats)
        means[how] = value.mean(1), value.std(1) / math.sqrt(repeats)
        given = torch.autograd.grad(value.sum(), pair.q_y.parameters(), allow_unused=True, materialize_grads=True)
        assert not any(g.any() for g in given), "which label it is has no gradient"
    error = (means["sample"][1] ** 2 + means["enumerate"][1] ** 2).sqrt()
    assert ((means["sample"][0] - means["enumerate"][0]).abs() < 5 * error).all()
    # By hand: q(y|z_c) of the guide's z_c, and the closed form for each label.
    z_c = x[:, None, :D_C] + 0.5 * torch.randn(3, repeats, D_C)
    q_y = pair.q_y(z_c).softmax(-1).mean(1)
    q_y[1] = torch.eye(CLASSES)[1]
    loc = (pair.means @ pair.w_c.T)[None] + (x[:, :D_S] @ pair.w_s.T + pair.b)[:, None]
    spread = pair.spread.exp() ** 2 * pair.w_c.square().sum() + (pair.w_s.square() @ pair.scale_s.square()).sum()
    each = dist.Normal(loc, pair.sigma).log_prob(x[:, None]).sum(-1) - spread / (2 * pair.sigma**2)
    expected = (q_y * each).sum(1)
    slack = 5 * means["enumerate"][1] + 5 * each.std(1) / math.sqrt(repeats)
    assert ((means["enumerate"][0] - expected).abs() < slack).all()
    no_label = of(TraceLabels_ELBO() + ReplacementTerm("z_c"), pair, many[0], None)["replaced: log p(x)"]
    assert ((no_label.reshape(3, repeats).mean(1) - means["sample"][0]).abs() < 7 * error)[[0, 2]].all()


@pytest.mark.parametrize("bound", ["exact", "jensen", "sampled"])
def test_the_decoder_gets_a_fresh_z_c_and_the_guides_z_s(bound):
    vae, x = make()
    plain = {v.name: v.value for v in evaluate(vae.elbo(num_samples=K, marginal=bound), vae, x, Y).values}
    found, seen = spied(vae, vae.elbo(num_samples=K, marginal=bound) + ReplacementTerm("z_c"), x, Y)
    (z_c, z_s), (fresh, kept) = seen
    assert_close(z_s.reshape(len(Y), D_S), kept.reshape(len(Y), D_S))
    assert not torch.isclose(z_c.reshape(len(Y), D_C), fresh.reshape(len(Y), D_C)).any()
    p = (x.flatten(1), vae.p_x(fresh.reshape(len(Y), D_C), kept.reshape(len(Y), D_S)))
    assert_close(found["replaced: log p(x)"], p[1].log_prob(x))
    if bound != "sampled":  # which draws between
        assert_close({name: found[name] for name in plain}, plain)


def test_fresh_latents_are_those_of_the_labels_that_are_known():
    vae, _ = make()
    y = torch.tensor([2, 0]).repeat_interleave(3000)
    x = torch.rand(len(y), 1, 2, 7)
    _, seen = spied(vae, vae.elbo(num_samples=K) + ReplacementTerm("z_c"), x, y)
    fresh = seen[-1][0].reshape(2, 3000, D_C)
    fn = vae.p_z_c(torch.tensor([2, 0])).base_dist
    assert ((fresh.mean(1) - fn.loc).abs() < 5 * fn.scale / math.sqrt(3000)).all()
    assert ((fresh.std(1) / fn.scale - 1).abs() < 0.1).all()


def test_of_several_labels_one_entry_of_each_row_is_fresh_and_the_others_are_kept():
    vae, x = attributes(), torch.rand(5, 1, 2, 7)
    objective = vae.elbo(num_samples=K) + ReplacementTerm("z_c", entries="one", densities=True)
    found, seen = spied(vae, objective, x, SEVERAL)
    (z_c, _), (mixed, _) = [[part.reshape(5, -1) for part in each] for each in seen]
    assert torch.equal((z_c != mixed).sum(1), torch.ones(5, dtype=torch.long))
    kept = z_c == mixed
    of_guide = vae.q_z(x)[0]
    log_q = of_guide.log_prob(z_c).where(kept, torch.tensor(0.0)).sum(1)
    assert_close(found["replaced: -log q(z_c)"], -log_q)
    means = torch.stack([vae.p_z_c(torch.full((5, 4), value)).log_prob(z_c) for value in (0.0, 1.0)])
    log_p, (no, yes) = found["replaced: log p(z_c)"], means.where(kept, torch.tensor(0.0))
    y, known = SEVERAL.nan_to_num(), ~SEVERAL.isnan()
    assert_close(log_p[3], torch.where(y == 1, yes, no).sum(1)[3])
    least = torch.where(known, torch.where(y == 1, yes, no), torch.minimum(no, yes)).sum(1)
    most = torch.where(known, torch.where(y == 1, yes, no), torch.maximum(no, yes)).sum(1)
    assert ((least - 1e-9 <= log_p) & (log_p <= most + 1e-9)).all()
    everything, seen = spied(vae, vae.elbo(num_samples=K) + ReplacementTerm("z_c", densities=True), x, SEVERAL)
    assert (seen[0][0] != seen[1][0]).all() and "replaced: log p(z_c)" not in everything
    many = vae.elbo(num_samples=K) + ReplacementTerm("z_c", entries="one")
    _, seen = spied(vae, many, x[:1].expand(4000, 1, 2, 7), SEVERAL[:1].expand(4000, 4))
    which = (seen[0][0] != seen[1][0]).reshape(4000, 4).double().mean(0)
    assert ((which - 0.25).abs() < 5 * math.sqrt(0.25 * 0.75 / 4000)).all(), "each of them as often"


def test_of_a_single_binary_label_the_one_entry_is_fresh():
    vae, x = attributes(number=1), torch.rand(5, 1, 2, 7)
    y = torch.tensor([1.0, 0.0, NAN, 1.0, 0.0])[:, None]
    found, seen = spied(vae, vae.elbo(num_samples=K) + ReplacementTerm("z_c", entries="one", densities=True), x, y)
    assert (seen[0][0] != seen[1][0]).all() and torch.equal(seen[0][1], seen[1][1])
    assert not found["replaced: log p(z_c)"].any() and not found["replaced: -log q(z_c)"].any()


def test_continuous_labels_are_as_the_bound_has_them():
    torch.manual_seed(0)
    vae = LaRVAE((1, 2, 7), Real(3), z=2, networks=MLPs((11,)))
    y = torch.tensor([[0.5, NAN, 1.0], [NAN] * 3, [1.0, 2.0, 3.0]])
    found, seen = spied(vae, TraceLabels_ELBO(max_plate_nesting=2) + ReplacementTerm("z"), torch.rand(3, 1, 2, 7), y)
    (own, z), (same, fresh) = [[part.reshape(3, -1) for part in each] for each in seen]
    assert_close(own, same)
    assert_close(own[~y.isnan()], y[~y.isnan()])
    assert (z != fresh).all() and "replaced: log p(x)" in found


def test_densities_of_continuous_labels_count_where_they_are_missing():
    """log p(y_m) - log q(y_m|x), by hand; nothing of the entries that are known."""
    torch.manual_seed(0)
    vae = LaRVAE((1, 2, 7), Real(3), z=2, networks=MLPs((11,)))
    x, y = torch.rand(4, 1, 2, 7), torch.tensor([[0.5, NAN, 1.0], [NAN] * 3, [1.0, 2.0, 3.0], [NAN, NAN, 0.2]])
    objective = TraceLabels_ELBO(max_plate_nesting=2) + ReplacementTerm("z", densities=True)
    found, seen = spied(vae, objective, x, y)
    label = seen[0][0].reshape(4, 3)
    traced = poutine.trace(vae.guide).get_trace(x, None).nodes["y"]["fn"]
    q_y = dist.Normal(traced.loc.detach(), traced.scale.detach())
    missing = y.isnan()
    assert_close(found["replaced: -log q(y_m)"], -(q_y.log_prob(label) * missing).sum(1))
    prior = poutine.trace(vae.model).get_trace(None, None).nodes["y"]["fn"]
    log_p = dist.Normal(prior.loc.detach(), prior.scale.detach()).log_prob(label)
    assert_close(found["replaced: log p(y_m)"], (log_p * missing).sum(1))
    assert found["replaced: log p(y_m)"][2] == 0 and (found["replaced: log p(y_m)"][[0, 1, 3]] != 0).all()


def test_rows_without_data_have_no_part():
    pair = Linear(0.6)
    guide = pair.guide
    pair.guide = lambda x, y: guide(x.nan_to_num(), y)
    x = torch.randn(3, X)
    x[1] = NAN
    value = of(TraceLabels_ELBO() + ReplacementTerm("z_c"), pair, x, torch.tensor([2, 0, -1]))["replaced: log p(x)"]
    assert value[1] == 0 and (value[[0, 2]] < 0).all()
    gradients = torch.autograd.grad(value.sum(), pair.parameters(), allow_unused=True, materialize_grads=True)
    assert all(g.isfinite().all() for g in gradients)


def test_some_rows_with_every_value_of_the_label():
    vae, x = make()
    term = ReplacementTerm("z_c", missing_labels="enumerate", share=0.4)
    found, seen = spied(vae, vae.elbo(num_samples=K) + term, x, Y)
    (z_c, z_s), *each = [[part.reshape(-1, part.shape[-1]) for part in parts] for parts in seen]
    rows = (each[0][1][:, None] == z_s[None]).all(-1).double().argmax(1)
    q_y = vae.q_y(z_c).probs
    known = Y >= 0
    q_y[known] = torch.eye(C)[0]  # of a label that is known there is one pass, the first
    values = torch.stack([vae.p_x(fresh, kept).log_prob(x[rows]) for fresh, kept in each], 1)
    assert values.shape == (3, C)
    assert_close(found["replaced: log p(x)"][rows], (q_y[rows] * values).sum(1) * 8 / 3)


def test_arguments_that_are_left_out_keep_their_defaults():
    pair, x, y = Linear(0.6), torch.randn(4, X), torch.tensor([2, 0, 1, 1])
    seen = []

    def model(x, scale=1.5, y=None):
        seen.append(scale)
        return pair.model(x, y)

    def guide(x, scale=1.5, y=None):
        seen.append(scale)
        return pair.guide(x, y)

    step = Step(model, guide, (x,), {"y": y})
    values = (TraceLabels_ELBO() + ReplacementTerm("z_c", share=0.5)).evaluate(step).values
    assert "replaced: log p(x)" in [value.name for value in values] and {*seen} == {1.5}
