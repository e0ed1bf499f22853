"""Likelihoods: each is the density it is named after, has a mean in its data's space, and says which data it takes."""

import math
from functools import partial

import pyro.distributions as dist
import pytest
import torch
from scipy import integrate, stats
from torch import nn
from torch.testing import assert_close

from pyro_semivae.check import check_model
from pyro_semivae.conditionals import (
    BernoulliLikelihood,
    ContinuousBernoulliLikelihood,
    GaussianLikelihood,
    HeteroscedasticGaussianLikelihood,
    LaplaceLikelihood,
    Likelihood,
    NegativeBinomialLikelihood,
    PoissonLikelihood,
)
from pyro_semivae.distributions import NegativeBinomial
from pyro_semivae.errors import InputError
from pyro_semivae.models import CCVAE, M1, M2, M3, MVAE, VAE
from pyro_semivae.models.parts import likelihood_for, networks_for
from pyro_semivae.nn import Convs, MLPs
from pyro_semivae.spaces import Binary, Classes, Counts, Images, Vectors
from pyro_semivae.train import fit

B, K = 5, 3
IMAGES, VECTORS, COUNTS = Images(2, 4, 7), Vectors(6), Counts(6)
ALL = [
    (BernoulliLikelihood, IMAGES),
    (ContinuousBernoulliLikelihood, IMAGES),
    (LaplaceLikelihood, IMAGES),
    (partial(LaplaceLikelihood, scale=0.3), VECTORS),
    (GaussianLikelihood, IMAGES),
    (partial(GaussianLikelihood, scale=0.2, learned=True), VECTORS),
    (HeteroscedasticGaussianLikelihood, IMAGES),
    (HeteroscedasticGaussianLikelihood, VECTORS),
    (PoissonLikelihood, COUNTS),
    (NegativeBinomialLikelihood, COUNTS),
]
each = pytest.mark.parametrize(("make", "space"), ALL, ids=lambda value: str(getattr(value, "func", value))[-40:])


def kind(make):
    return getattr(make, "func", make)


def by_scipy(likelihood, raw, x):
    """The log-density of a row, by scipy, from a network's output."""
    space, name = likelihood.space, type(likelihood).__name__
    if isinstance(likelihood, HeteroscedasticGaussianLikelihood):
        raw, scale = raw.chunk(2, -len(space.shape))
        scale = (scale.exp() + 1).log() + 1e-3
    loc = 1 / (1 + (-raw).exp()) if isinstance(space, Images) else raw.exp() if isinstance(space, Counts) else raw
    loc, x = loc.detach().numpy(), x.numpy()
    density = {
        "BernoulliLikelihood": lambda: stats.bernoulli.logpmf(x, loc),
        "LaplaceLikelihood": lambda: stats.laplace.logpdf(x, loc, likelihood.scale),
        "GaussianLikelihood": lambda: stats.norm.logpdf(x, loc, likelihood.scale),
        "HeteroscedasticGaussianLikelihood": lambda: stats.norm.logpdf(x, loc, scale.detach().numpy()),
        "PoissonLikelihood": lambda: stats.poisson.logpmf(x, loc),
    }
    if name == "NegativeBinomialLikelihood":  # of scipy's form: r failures, p = r / (r + mean)
        r = likelihood.log_r.exp().detach().numpy()
        return stats.nbinom.logpmf(x, r, r / (r + loc))
    return density[name]()


def values_of(space, kind):
    if isinstance(space, Counts):
        return torch.randint(9, (B, *space.shape)).double()
    x = torch.rand(B, *space.shape)
    return x.round() if kind is BernoulliLikelihood else x


@each
def test_it_is_the_density_it_is_named_after_and_broadcasts_on_the_left(make, space):
    if kind(make) is ContinuousBernoulliLikelihood:
        pytest.skip("by quadrature, below")
    likelihood = make(space, nn.Identity())
    if kind(make) is NegativeBinomialLikelihood:
        nn.init.normal_(likelihood.log_r)
    raw, x = torch.randn(K, B, *likelihood.raw_shape(space)), values_of(space, kind(make))
    p = likelihood(raw)
    assert p.batch_shape == (K, B) and p.event_shape == space.shape
    expected = torch.as_tensor(by_scipy(likelihood, raw, x)).flatten(2).sum(-1)
    assert_close(p.log_prob(x), expected)
    space.validate(p.mean[0].detach() if not isinstance(space, Counts) else p.mean[0].round(), "x")  # is in the space


def test_the_continuous_bernoulli_is_normalised_and_has_its_mean():
    for logit in (-6.0, -0.9, -1e-4, 0.0, 0.3, 4.0):
        likelihood = ContinuousBernoulliLikelihood(Vectors(1), nn.Identity())
        p = likelihood(torch.tensor([logit]))

        def density(x, p=p):
            return p.log_prob(torch.tensor([x])).exp().item()

        assert integrate.quad(density, 0, 1)[0] == pytest.approx(1, abs=1e-9)
        mean = integrate.quad(lambda x, density=density: x * density(x), 0, 1)[0]
        assert p.mean.item() == pytest.approx(mean, abs=1e-6)
        if abs(logit) > 0.1:  # the closed form
            pi = 1 / (1 + math.exp(-logit))
            constant = 2 * math.atanh(1 - 2 * pi) / (1 - 2 * pi)
            assert density(0.3) == pytest.approx(constant * pi**0.3 * (1 - pi) ** 0.7, rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_continuous_bernoulli_is_exact_at_any_logit(dtype):
    """Against density, mean and quantiles by their closed forms in float64; torch's are off by a nat in float32."""
    logits = torch.tensor([-1000.0, -50.0, -17.0, -0.3, -0.049, -1e-4, 0.0, 1e-4, 0.051, 3.0, 17.0, 50.0, 1000.0])
    raw, x = logits.to(dtype).requires_grad_(), torch.tensor([[0.0], [0.3], [1.0]])
    p = ContinuousBernoulliLikelihood(Vectors(1), nn.Identity())(raw[:, None])
    found = p.log_prob(x.to(dtype)[:, None])
    (slope,) = torch.autograd.grad(found.sum(), raw)
    size = logits.abs().clamp(min=1e-8)
    log_norm = torch.where(logits > 0, logits, 0) + (-torch.expm1(-size) / size).log()
    mean = torch.where(logits > 0, 1, 0) - logits.sign() * (1 / size - 1 / torch.expm1(size))
    mean = torch.where(size < 1e-3, 0.5 + logits / 12, mean)
    accuracy = {"rtol": 1e-5, "atol": 1e-5} if dtype is torch.float32 else {"rtol": 1e-9, "atol": 1e-8}
    assert_close(found, (logits * x - log_norm).to(dtype), **accuracy)
    assert_close(p.mean[:, 0], mean.to(dtype), **accuracy)
    assert_close(slope, (x.sum() - 3 * mean).to(dtype), **accuracy)
    u = torch.tensor([[0.0], [0.2], [0.9], [1.0]], dtype=dtype)
    quantile = p.base_dist.icdf(u[..., None])[..., 0].double()
    from_peak = torch.where(logits > 0, 1 - quantile, quantile)
    below = torch.expm1(-size * from_peak) / torch.expm1(-size)
    assert_close(torch.where(logits > 0, 1 - below, below).to(dtype), u.expand(4, 13), rtol=1e-3, atol=1e-4)
    samples = p.sample((4000,))[..., 0].double()
    assert (samples.mean(0) - mean).abs().max() < 0.03 and samples.min() >= 0 and samples.max() <= 1


def test_a_learned_scale_starts_where_it_is_said():
    for scale in (0.0011, 0.3, 50.0, 1e4):
        likelihood = GaussianLikelihood(Vectors(2), nn.Identity(), scale=scale, learned=True)
        assert likelihood(torch.zeros(2)).stddev[0].item() == pytest.approx(scale, rel=1e-9)


def test_a_learned_scale_is_found():
    """Of a standard deviation of 0.3 around a mean that is known."""
    likelihood = GaussianLikelihood(Vectors(4), nn.Identity(), learned=True)
    assert [*dict(likelihood.named_parameters())] == ["raw"] and likelihood(torch.zeros(4)).stddev.max() == 1
    x, optimiser = 0.3 * torch.randn(2000, 4), torch.optim.Adam(likelihood.parameters(), 0.05)
    for _ in range(300):
        optimiser.zero_grad()
        (-likelihood(torch.zeros_like(x)).log_prob(x).mean()).backward()
        optimiser.step()
    assert likelihood(torch.zeros(4)).stddev[0].item() == pytest.approx(x.square().mean().sqrt().item(), rel=1e-3)
    assert not [*GaussianLikelihood(Vectors(4), nn.Identity()).parameters()]


@pytest.mark.parametrize("make", [PoissonLikelihood, NegativeBinomialLikelihood])
def test_the_means_sum_to_a_size(make):
    likelihood, raw = make(COUNTS, nn.Identity(), sized=True), torch.randn(B, 6)
    size = torch.linspace(10, 90, B)[:, None]
    mean = likelihood(size, raw).mean
    assert_close(mean.sum(-1, keepdim=True), size)
    assert_close(mean, size * raw.softmax(-1))


@pytest.mark.parametrize(
    ("make", "space", "x", "message"),
    [
        (BernoulliLikelihood, Vectors(2), [[0.5, 1.2]], r"x: got \[1.2.*\]; BernoulliLikelihood accepts numbers in"),
        (ContinuousBernoulliLikelihood, Vectors(2), [[-0.1, 0.2]], r"ContinuousBernoulliLikelihood accepts numbers in"),
        (BernoulliLikelihood, Counts(2), [[0.0, 2.0]], r"x: got \[2.0, 2.0, 2.0, 2.0\]; Bern"),
    ],
)
def test_data_are_checked_against_the_support(make, space, x, message):
    vae = VAE(space, Classes(2), networks=MLPs((4,)), likelihood=make)
    x = torch.tensor(x).repeat(4, 1)
    for run in (lambda: vae.table(x), lambda: fit(vae, x, progress=False), lambda: check_model(vae, x)):
        with pytest.raises(InputError, match=message):
            run()
    absent = torch.full((1, 2), torch.nan)
    vae.table(torch.cat([x.clamp(0, 1), absent]) if isinstance(space, Vectors) else x.clamp(0, 1))


@pytest.mark.parametrize("make", [PoissonLikelihood, NegativeBinomialLikelihood])
def test_counts_have_densities_of_counts_alone(make):
    with pytest.raises(InputError, match=r"likelihood: got \w+ for Images.*; it accepts Counts"):
        VAE((1, 8, 8), Classes(2), likelihood=make)


@pytest.mark.parametrize("value", [MLPs, "laplace", nn.Identity()])
def test_a_likelihood_is_a_class(value):
    with pytest.raises(InputError, match=r"likelihood: got .*; expected a likelihood class"):
        VAE((1, 8, 8), Classes(2), likelihood=value)


@pytest.mark.parametrize(
    ("space", "networks", "likelihood"),
    [
        (Images(1, 28, 28), MLPs(), BernoulliLikelihood),
        (Images(1, 8, 8), MLPs(), BernoulliLikelihood),
        (Images(3, 12, 40), MLPs(), BernoulliLikelihood),
        (Images(3, 32, 32), Convs(), LaplaceLikelihood),
        (Images(1, 64, 64), Convs(), LaplaceLikelihood),
        (VECTORS, MLPs(), GaussianLikelihood),
        (COUNTS, MLPs(), NegativeBinomialLikelihood),
    ],
)
def test_networks_and_likelihood_follow_the_data(space, networks, likelihood):
    assert networks_for(space) == networks and kind(likelihood_for(space)) is likelihood


@pytest.mark.parametrize("model", [CCVAE, M1, M2, M3, MVAE])
@pytest.mark.parametrize("labels", [Classes(3), Binary(2)], ids=["classes", "binary"])
def test_they_do_so_whatever_the_labels(model, labels):
    for space in (Images(3, 64, 64), Vectors(7)):
        p_x = model(space, labels).p_x
        assert type(p_x) is kind(likelihood_for(space)) and p_x.space == space
        assert any(isinstance(part, nn.ConvTranspose2d) for part in p_x.modules()) == isinstance(space, Images)


@each
def test_a_model_trains_with_it(make, space):
    torch.manual_seed(0)
    vae = M2(space, Classes(3), z=2, networks=MLPs((8,)), likelihood=make)
    x = torch.cat([values_of(space, kind(make))] * 4)
    y = (torch.arange(len(x)) % 4) - 1
    check_model(vae, x, y)
    history = fit(vae, x, y, epochs=40, batch_size=10, lr=1e-2, warm_up=0.0, corrupt=None, progress=False)
    assert history[-1]["elbo"] > history[0]["elbo"]


@pytest.mark.parametrize("labels", [Classes(3), Binary(2)], ids=["classes", "binary"])
@pytest.mark.parametrize(
    ("space", "beta"),
    [(Images(1, 8, 8), 4.0), (Images(1, 16, 20), 4.0), (Images(3, 32, 32), 1.0), (Vectors(7), 1.0)],
)
def test_the_recipes_beta_follows_the_data_and_not_the_labels(space, beta, labels):
    """CCVAE's is half of the others' where small images show style."""
    y = labels.missing(4)
    y[0] = 1
    for model in (M2, M3):
        assert model(space, labels).elbo_for(y).bound.beta == beta
    assert CCVAE(space, labels).elbo_for(y).bound.beta == (2.0 if space == Images(1, 16, 20) else beta)


class Exponential(Likelihood):
    """One of one's own."""

    support = torch.distributions.constraints.positive

    def entries(self, raw):
        return dist.Exponential(raw.exp())


def test_a_likelihood_of_ones_own_says_what_it_takes():
    vae = VAE(Vectors(2), Classes(2), networks=MLPs((4,)), likelihood=Exponential)
    with pytest.raises(InputError, match=r"x: got \[-1.0\]; Exponential accepts GreaterThan\(lower_bound=0.0\)"):
        vae.table(torch.tensor([[1.0, -1.0]]))
    vae.table(torch.tensor([[1.0, 2.0], [torch.nan, torch.nan]]))


def test_a_negative_binomial_has_torchs_density_and_computes_less(monkeypatch):
    x, log_r = torch.tensor([[0.0, 3, 50], [7, 0, 1]]), torch.tensor([-2.0, 0.3, 4.0], requires_grad=True)
    logits = (3 * torch.randn(4, 2, 3)).requires_grad_()
    own = NegativeBinomial(log_r.exp(), logits)
    assert own.expand((5, 4, 2, 3)).r is own.r and own.to_event(1).log_prob(x).shape == (4, 2)
    theirs = dist.NegativeBinomial(log_r.exp(), logits=logits)
    of_torch, lgamma, shapes = theirs.log_prob(x), torch.lgamma, []
    monkeypatch.setattr(torch, "lgamma", lambda given: shapes.append(given.shape) or lgamma(given))
    found, weights = own.log_prob(x), torch.rand(4, 2, 3)
    assert shapes == [(2, 3), (2, 3), (3,)]
    assert_close(found, of_torch, rtol=1e-12, atol=1e-12)
    assert_close(own.expand((5, 4, 2, 3)).log_prob(x), of_torch.expand(5, 4, 2, 3))
    gradients = [torch.autograd.grad((value * weights).sum(), [log_r, logits]) for value in (found, of_torch)]
    assert_close(*gradients, rtol=1e-10, atol=1e-10)
    without = [kind(torch.zeros(1), logits=torch.ones(1)) for kind in (NegativeBinomial, dist.NegativeBinomial)]
    assert [float(each.log_prob(torch.zeros(1))) for each in without] == [0, 0]
    with pytest.raises(ValueError, match="support"):
        NegativeBinomial(log_r.exp(), logits, validate_args=True).log_prob(x + 0.5)
