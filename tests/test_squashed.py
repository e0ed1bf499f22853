"""The Gaussian pushed through a scaled sigmoid (Gemp et al. 2017, Appendix A): its density, its mean, its ends."""

import math

import pyro.distributions as dist
import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from pyro_semivae.distributions import SquashedNormal

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
