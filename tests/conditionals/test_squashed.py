"""The Gaussian pushed through a scaled sigmoid (Gemp et al. 2017, Appendix A): its density, its mean, its ends."""

import itertools
import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy.integrate import quad
from scipy.special import expit
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.testing import assert_close

from pyro_semivae.distributions import SquashedNormal, mean_of_sigmoid

LOW, HIGH = -1.5, 1.5


@pytest.mark.parametrize(("loc", "scale"), [(0.0, 1.0), (1.3, 0.4), (-0.5, 2.5)])
def test_the_flows_density_integrates_to_one_and_has_the_mean(loc, scale):
    q = SquashedNormal(torch.tensor(loc), torch.tensor(scale), -1.0, 2.5)
    u = torch.linspace(-30, 30, 200_001)
    z = -1.0 + 3.5 * u.sigmoid()
    inside = (z > -1 + 1e-9) & (z < 2.5 - 1e-9)
    density = q.log_prob(z[inside]).exp()
    assert_close(torch.trapezoid(density, z[inside]), torch.tensor(1.0), atol=1e-5, rtol=0)
    assert_close(torch.trapezoid(density * z[inside], z[inside]), q.mean, atol=1e-4, rtol=0)
    assert abs(q.expand((40_000,)).sample().mean() - q.mean) < 5 * 3.5 / 2 / 200


def test_appendix_a_prints_the_sigmoid_of_a_value_where_the_value_stands():
    u = torch.linspace(-3, 3, 7, requires_grad=True)
    low, high = -1.5, 1.5
    unit = u.sigmoid()
    (slope,) = torch.autograd.grad((low + (high - low) * unit).sum(), u)
    assert_close(slope, (high - low) * unit * (1 - unit))  # Eq. 14, read right
    assert not torch.allclose(slope, (high - low) * (1 - unit).sigmoid() * unit.sigmoid())  # as printed
    q = SquashedNormal(torch.tensor(0.3), torch.tensor(0.8), low, high)
    by_hand = dist.Normal(0.3, 0.8).log_prob(u) - slope.log()
    assert_close(q.log_prob(low + (high - low) * unit), by_hand)


def test_the_density_of_a_saturated_draw_is_finite_in_single_precision():
    q = SquashedNormal(
        torch.tensor([40.0, -40.0], dtype=torch.float32), torch.tensor(1.0, dtype=torch.float32), LOW, HIGH
    )
    z = q.sample((1000,))
    assert q.log_prob(z).isfinite().all() and (z < HIGH).all() and (z >= LOW).all()
    assert dist.Uniform(LOW, HIGH).log_prob(z).isfinite().all()
    ends = q.expand((2, 2)).log_prob(torch.tensor([[LOW], [HIGH]], dtype=torch.float32))
    assert_close(ends[0], ends[1].flip(0))  # the box's ends are alike


@pytest.mark.parametrize(("loc", "scale"), [(-16.0, 1.0), (-20.0, 1.0), (17.0, 0.1), (25.0, 3.0)])
def test_draws_near_the_ends_of_the_box_have_the_density_of_what_was_drawn(loc, scale):
    """In single precision z rounds to an end; -log q and its gradient are those of the Gaussian's own draw."""
    values = {}
    for dtype in (torch.float32, torch.float64):
        at, noise = torch.tensor(loc, dtype=dtype, requires_grad=True), torch.tensor(scale, dtype=dtype)
        torch.manual_seed(0)
        if dtype == torch.float32:
            q = SquashedNormal(at, noise, LOW, HIGH).expand((20_000,))
            minus = -q.log_prob(q.rsample())
        else:
            eps = torch.randn(20_000, dtype=torch.float32).double()
            u = at + noise * eps
            minus = 0.5 * eps**2 + noise.log() + 0.5 * math.log(2 * math.pi) + math.log(HIGH - LOW)
            minus = minus + F.logsigmoid(u) + F.logsigmoid(-u)
        (slope,) = torch.autograd.grad(minus.mean(), at)
        values[dtype] = (minus.mean().double(), slope.double())
    assert_close(values[torch.float32], values[torch.float64], rtol=1e-4, atol=1e-4)
    assert values[torch.float64][1] * loc < 0, "the entropy draws the location back"


def mean_by_quad(loc, scale):
    """E[sigmoid(loc + scale e)], the integral over e split where the sigmoid turns."""
    turns = [(at - loc) / scale for at in (-40, -20, -8, -2, 0, 2, 8, 20, 40)]
    ends = sorted({-12.0, -6.0, -2.0, 0.0, 2.0, 6.0, 12.0, *(float(e) for e in np.clip(turns, -12, 12))})
    density = lambda e: expit(loc + scale * e) * math.exp(-(e**2) / 2) / math.sqrt(2 * math.pi)  # noqa: E731
    return sum(quad(density, a, b, epsabs=1e-15, epsrel=1e-13)[0] for a, b in itertools.pairwise(ends))


def test_the_mean_at_any_location_and_scale():
    assert mean_by_quad(1.0, 20.0) == pytest.approx(0.5199, abs=1e-4)
    locs = torch.tensor([-1e4, -300.0, -30.0, -2.0, 0.0, 0.3, 5.0, 60.0, 1e3])
    scales = torch.tensor([1e-3, 0.02, 0.3, 0.9, 1.0, 1.1, 3.0, 20.0, 300.0, 1e3])
    expected = torch.tensor([[mean_by_quad(loc, scale) for scale in scales.tolist()] for loc in locs.tolist()])
    for dtype, error in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        q = SquashedNormal(locs[:, None].to(dtype), scales.to(dtype), -2.0, 3.0)  # they broadcast
        assert q.mean.dtype == dtype
        assert_close(q.mean.double(), -2 + 5 * expected, atol=5 * error, rtol=0)
    assert_close(SquashedNormal(torch.tensor(1.0), torch.tensor(20.0), 0.0, 1.0).mean.item(), 0.5199, atol=5e-5, rtol=0)


@pytest.mark.parametrize("scale", [0.01, 0.7, 0.999, 1.001, 4.0, 200.0])
def test_the_mean_has_the_gradient_of_the_integral(scale):
    loc, scale = torch.tensor([-3.0, 0.2, 40.0], requires_grad=True), torch.tensor(scale, requires_grad=True)
    for wanted in (loc, scale):
        mean = SquashedNormal(loc, scale, 0.0, 1.0).mean
        (got,) = torch.autograd.grad(mean.sum(), wanted)
        for i in range(got.numel()):
            step = 1e-4 * (1 if wanted is loc else scale.item())
            shift = [step if wanted is loc else 0, 0 if wanted is loc else step]
            at = [(m, scale.item()) for m in (loc.tolist() if wanted is scale else [loc[i].item()])]
            change = sum(
                mean_by_quad(m + shift[0], s + shift[1]) - mean_by_quad(m - shift[0], s - shift[1]) for m, s in at
            )
            assert got.flatten()[i].item() == pytest.approx(change / (2 * step), abs=2e-8)


def test_the_mean_is_finite_far_out_and_asks_no_value():
    loc = torch.tensor([0.0, 1e6, -1e6, 3.0], dtype=torch.float32, requires_grad=True)
    scale = torch.tensor([1e-30, 1e-20, 1e20, 1e30], dtype=torch.float32, requires_grad=True)
    mean = SquashedNormal(loc, scale, -1.0, 1.0).mean
    assert_close(mean, torch.tensor([0.0, 1.0, 0.0, 0.0], dtype=torch.float32))
    assert all(part.isfinite().all() for part in torch.autograd.grad(mean.sum(), (loc, scale)))
    with FakeTensorMode():  # a constant on the CPU or a branch on a value fails here
        at, spread = torch.empty(3, 1, device="cuda"), torch.empty(4, device="cuda")
        fake = mean_of_sigmoid(at.expand(3, 4), spread.expand(3, 4))
        assert fake.shape == (3, 4) and fake.device.type == "cuda"
