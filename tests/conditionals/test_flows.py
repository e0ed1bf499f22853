"""Normalising flows as conditionals: exact densities, shapes, and bounds by hand."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn
from torch.testing import assert_close

from pyro_semivae.check import check_model
from pyro_semivae.conditionals import LaplaceLikelihood
from pyro_semivae.conditionals.flows import Flow, FlowDistribution
from pyro_semivae.errors import InputError
from pyro_semivae.infer import TraceLabels_ELBO
from pyro_semivae.models import CCVAE, M2, VAE
from pyro_semivae.nn import MLP, Joined, MLPs
from pyro_semivae.spaces import MISSING, Binary, Classes
from pyro_semivae.tasks import classify, reconstruct

zuko = pytest.importorskip("zuko")

SHAPE, C, D, CONTEXT = (1, 4, 7), 5, 3, 6
Y = torch.tensor([2, MISSING, 0, 4, MISSING, 1, 2])


def nsf(features=D, context=CONTEXT):
    return zuko.flows.NSF(features, context, transforms=2, bins=4, hidden_features=(8,))


def flow_m2(labels=None, **options):
    """M2 whose q(z | x, y) is a flow."""
    torch.manual_seed(0)
    labels = Classes(C) if labels is None else labels
    vae = M2(SHAPE, labels, z=D, networks=MLPs((11,)), likelihood=LaplaceLikelihood, **options)
    vae.q_z = Flow(nsf(), MLP([SHAPE, labels], (10,), (CONTEXT,)))
    return vae


def quadrature(fn):
    """A fine grid, `(N, 1)`, and the density of a one-dimensional distribution there times the step."""
    z = torch.linspace(-15, 15, 60001)[:, None]
    return z[:, 0], fn.log_prob(z).exp() * 30 / 60000


def one_dimensional():
    torch.manual_seed(4)
    flow = Flow(zuko.flows.NSF(1, 2, transforms=2, bins=4))
    for parameter in flow.parameters():
        nn.init.normal_(parameter, std=0.5)
    return flow(torch.tensor([0.7, -1.1]))


def test_a_flow_is_a_density_and_its_samples_are_from_it():
    """By quadrature it integrates to 1; moments of samples, and E_q[p / q] = 1, within 5 standard errors."""
    fn = one_dimensional()
    z, mass = quadrature(fn)
    assert_close(mass.sum(), torch.tensor(1.0), atol=1e-4, rtol=0)
    drawn = fn.sample((20000,))[:, 0]
    for power in (1, 2):
        error = drawn.pow(power).std() / math.sqrt(len(drawn))
        assert abs(drawn.pow(power).mean() - (mass * z.pow(power)).sum()) < 5 * error
    low, high = drawn.quantile(0.1), drawn.quantile(0.8)
    p_of_q = ((drawn > low) & (drawn < high)) / (high - low) / fn.log_prob(drawn[:, None]).exp()  # p is uniform there
    assert abs(p_of_q.mean() - 1) < 5 * p_of_q.std() / math.sqrt(len(drawn))
    assert drawn.std() > 0.1


def test_the_mean_is_the_image_of_the_bases_mean_in_one_dimension_the_median():
    fn = one_dimensional()
    z, mass = quadrature(fn)
    assert_close(mass[z < fn.mean].sum(), torch.tensor(0.5), atol=1e-3, rtol=0)
    assert abs((mass * z).sum() - fn.mean) > 0.02, "it is skewed"


def test_log_prob_is_the_change_of_variables():
    flow, context = Flow(nsf()), torch.randn(2, 4, CONTEXT)
    fn = flow(context)
    assert (fn.batch_shape, fn.event_shape, fn.has_rsample) == ((2, 4), (D,), True)
    z = fn.rsample((3,))
    assert z.shape == (3, 2, 4, D) and z.requires_grad
    for i, j, k in ((0, 0, 0), (2, 1, 3)):
        to_base = flow.flow(context[j, k]).transform
        jacobian = torch.autograd.functional.jacobian(to_base, z[i, j, k].detach())
        expected = dist.Normal(0.0, 1.0).log_prob(to_base(z[i, j, k])).sum() + jacobian.det().abs().log()
        assert_close(fn.log_prob(z)[i, j, k], expected)


def test_flows_expand_and_are_masked_and_live_in_plates():
    fn = Flow(nsf())(torch.randn(4, CONTEXT))
    wide = fn.expand((5, 4))
    z = wide.sample((2,))
    assert z.shape == (2, 5, 4, D) and not z.requires_grad and not torch.equal(z[:, 0], z[:, 1])
    assert_close(wide.log_prob(z), fn.log_prob(z))
    assert_close(wide.mean, fn.mean.expand(5, 4, D))
    mask = torch.tensor([True, False, True, False])
    assert_close(fn.mask(mask).log_prob(z[0, 0]), fn.log_prob(z[0, 0]) * mask)

    def run():
        with pyro.plate("samples", 5, dim=-2), pyro.plate("data", 4, dim=-1):
            pyro.sample("z", fn)

    site = poutine.trace(run).get_trace().nodes["z"]
    assert site["value"].shape == (5, 4, D)
    assert_close(site["fn"].log_prob(site["value"]), fn.log_prob(site["value"]))
    with pytest.raises(ValueError, match="support"):
        fn.log_prob(torch.full((4, D), torch.nan))
    assert fn.support.check(-z[0]).all()
    prior = Flow(nsf(context=0))()
    assert prior.batch_shape == () and prior.expand((7,)).sample().shape == (7, D)


@pytest.mark.parametrize("of_prior", [False, True])
def test_the_bound_with_a_flow_is_the_formula_by_hand(of_prior):
    """TraceLabels_ELBO, value and every gradient: the label is a parent of the flow, and summed where it is missing."""
    vae, x = flow_m2(), torch.rand(len(Y), *SHAPE)
    if of_prior:
        vae.p_z = Flow(nsf(context=0))
    guide = poutine.trace(vae.guide)
    total = sum(TraceLabels_ELBO().weighted_terms(vae.model, guide, x, Y).values())
    z = guide.trace.nodes["z"]["value"].reshape(C, len(Y), D)  # one for each value of the label
    found = torch.autograd.grad(total.sum(), [*vae.parameters()], allow_unused=True)

    rows = []
    log_q_y = vae.q_y(x).logits.log_softmax(-1)
    for b, y in enumerate(Y.tolist()):
        brackets = []
        for c in range(C):
            context = vae.q_z.net.layers(torch.cat([x[b].flatten(), torch.eye(C)[c]]))
            q_z = vae.q_z.flow(context)
            noise = q_z.transform(z[c, b]).detach()
            own = q_z.transform.inv(noise)
            assert_close(own, z[c, b])
            log_q = dist.Normal(0.0, 1.0).log_prob(q_z.transform(own)).sum()
            log_q = log_q + q_z.transform.log_abs_det_jacobian(own, noise)
            loc = vae.p_x.net.layers(torch.cat([torch.eye(C)[c], own])).sigmoid()
            log_p = dist.Laplace(loc, 1.0).log_prob(x[b].flatten()).sum() - math.log(C)
            log_p_z = vae.p_z.flow().log_prob(own) if of_prior else dist.Normal(0.0, 1.0).log_prob(own).sum()
            brackets.append(log_p + log_p_z - log_q)
        if y == MISSING:
            rows.append((log_q_y[b].exp() * (torch.stack(brackets) - log_q_y[b])).sum())
        else:
            rows.append(brackets[y])
    by_hand = torch.stack(rows)
    assert_close(total, by_hand)
    expected = torch.autograd.grad(by_hand.sum(), [*vae.parameters()], allow_unused=True)
    for (name, _), one, other in zip(vae.named_parameters(), found, expected, strict=True):
        assert (one is None) == (other is None), name
        assert one is None or (one.any() and torch.allclose(one, other)), name


@pytest.mark.parametrize("labels", [Classes(C), Binary(4)], ids=str)
def test_models_with_flows_meet_the_contract(labels):
    several = labels.entries is not None
    y = torch.where(torch.rand(7, 4) < 0.4, torch.nan, (torch.rand(7, 4) < 0.5).double()) if several else Y
    vae, x = flow_m2(labels), torch.rand(7, *SHAPE)
    vae.p_z = Flow(nsf(context=0))
    check_model(vae, x, y)
    assert classify(vae, x).isfinite().all()
    assert reconstruct(vae, x).shape == x.shape


def test_a_flow_in_ccvae_with_several_samples():
    """Two latents, of which q(z_s | x) is a flow: samples are left dimensions."""
    vae = CCVAE(SHAPE, Classes(C), z_c=2, z_s=4, networks=MLPs((11,)), likelihood=LaplaceLikelihood)

    class Both(nn.Module):
        def __init__(self, q_c, q_s):
            super().__init__()
            self.q_c, self.q_s = q_c, q_s

        def forward(self, x):
            return self.q_c(x)[0], self.q_s(x)

    vae.q_z = Both(vae.q_z, Flow(nsf(4), MLP([SHAPE], (10,), (CONTEXT,))))
    x = torch.rand(len(Y), *SHAPE)
    terms = vae.elbo(num_samples=6).weighted_terms(vae.model, vae.guide, x, Y)
    assert all(value.isfinite().all() for value in terms.values())


def test_reconstructions_are_at_the_image_of_the_bases_mean():
    vae = VAE(SHAPE, Classes(C), z=D, networks=MLPs((11,)), likelihood=LaplaceLikelihood)
    vae.q_z, x = Flow(nsf(), MLP([SHAPE], (10,), (CONTEXT,))), torch.rand(5, *SHAPE)
    z = vae.q_z.flow(vae.q_z.net(x)).transform.inv(torch.zeros(5, D))
    assert_close(reconstruct(vae, x), vae.p_x(z).mean)


class LogNormal(nn.Module):
    """A torch TransformedDistribution, without zuko."""

    def forward(self, context):
        base = dist.Normal(context, 0.5).to_event(1)
        return torch.distributions.TransformedDistribution(base, [torch.distributions.ExpTransform(cache_size=1)])


def test_distributions_of_torch_and_their_support_and_mean():
    loc = torch.randn(4, 3)
    fn = Flow(LogNormal(), Joined([2, 1]))(loc[:, :2], loc[:, 2:])
    z = fn.sample()
    assert_close(fn.log_prob(z), dist.LogNormal(loc, 0.5).log_prob(z).sum(-1))
    assert_close(fn.mean, loc.exp())
    assert fn.support.check(z).all() and not fn.support.check(-z).any()
    with pytest.raises(ValueError, match="support"):
        fn.log_prob(-z)
    assert_close(FlowDistribution(dist.Gamma(loc.exp(), 2.0).to_event(1)).mean, loc.exp() / 2)
    mixture = Flow(zuko.flows.GMM(3, 2))(torch.randn(4, 2))
    assert not mixture.has_rsample and mixture.sample().shape == (4, 3)
    with pytest.raises(InputError, match="mean: Mixture has none"):
        mixture.mean  # noqa: B018


def test_flows_compute_in_full_precision_under_autocast():
    vae, x = flow_m2().float(), torch.rand(7, *SHAPE, dtype=torch.float32)
    context = torch.randn(7, CONTEXT, dtype=torch.float32)
    fn = Flow(vae.q_z.flow)(context)
    z = fn.sample()
    log_q, mean = fn.log_prob(z), fn.mean
    with torch.autocast("cpu", torch.bfloat16):
        assert vae.q_z(x, Y.clamp(min=0)).rsample().dtype == torch.float32
        for own in (fn, Flow(vae.q_z.flow)(context)):
            assert torch.equal(own.log_prob(z), log_q) and torch.equal(own.mean, mean)
        torch.manual_seed(1)
        inside = fn.sample()
    torch.manual_seed(1)
    assert torch.equal(inside, fn.sample())


class Returns(nn.Module):
    def __init__(self, of):
        super().__init__()
        self.of = of

    def forward(self, context):
        return self.of(context)


@pytest.mark.parametrize(
    "of, message",
    [
        (lambda c: c, r"flow: Returns makes Tensor of batch shape \(\) and event shape \(\)"),
        (lambda c: dist.Normal(c, 1.0), r"Normal of batch shape \(7, 2\) and event shape \(\); .* batch shape \(7,\)"),
        (lambda c: dist.Normal(c[:, 0], 1.0), r"batch shape \(7,\) and event shape \(\)"),
        (lambda c: dist.Normal(c, 1.0).to_event(2), r"batch shape \(\) and event shape \(7, 2\)"),
        (lambda c: dist.Normal(c[0], 1.0).to_event(1), r"batch shape \(\) and event shape \(2,\)"),
    ],
)
def test_what_is_no_distribution_of_vectors_is_named(of, message):
    with pytest.raises(InputError, match=message):
        Flow(Returns(of))(torch.randn(7, 2))
