"""A density that is a point in some rows."""

import pyro.distributions as dist
import torch
from torch import nn
from torch.testing import assert_close

from pyro_semivae.conditionals import Gaussian, KnownIn, StandardNormal
from pyro_semivae.distributions import KnownWhere
from pyro_semivae.nn import MLP

KNOWN = torch.tensor([True, False, False, True])


def test_it_is_the_vector_where_it_is_known_and_the_density_elsewhere():
    value, base = torch.tensor([1.0, 2.0, 3.0], requires_grad=True), dist.Normal(torch.randn(4, 3), 0.7).to_event(1)
    fn = KnownWhere(base, KNOWN, value)
    assert fn.batch_shape == (4,) and fn.event_shape == (3,) and fn.has_rsample
    torch.manual_seed(0)
    drawn = fn.rsample((5,))
    torch.manual_seed(0)
    plain = base.rsample((5,))
    assert_close(drawn, torch.where(KNOWN[:, None], value, plain))
    assert_close(fn.log_prob(drawn), torch.where(KNOWN, 0.0, base.log_prob(plain)))
    assert_close(fn.mean, torch.where(KNOWN[:, None], value, base.mean))
    assert_close(fn.variance, torch.where(KNOWN[:, None], 0.0, base.variance))
    (gradient,) = torch.autograd.grad(drawn.sum(), value)
    assert_close(gradient, torch.full((3,), 5.0 * 2))
    assert not fn.sample().requires_grad
    assert_close(fn.expand((2, 4)).log_prob(drawn[:2]), fn.log_prob(drawn[:2]))


def test_a_prior_without_parents_has_the_rows_of_the_groups():
    p_e = KnownIn(StandardNormal(3), nn.Parameter(torch.arange(3.0)), group=2)
    y = torch.tensor([2, 0, 1, 2, 0])
    fn = p_e(y)
    assert fn.batch_shape == (5,) and torch.equal(fn.rsample()[y == 2], torch.arange(3.0).expand(2, 3))
    value = torch.randn(5, 3)
    expected = dist.Normal(0.0, 1.0).log_prob(value).sum(1)
    assert_close(fn.log_prob(value), torch.where(y == 2, 0.0, expected))


def test_without_groups_all_rows_are_others_and_samples_on_the_left_broadcast():
    q_e = KnownIn(Gaussian(MLP([(4,)], [5], (6,))), nn.Parameter(torch.zeros(3)))
    x = torch.randn(7, 4)
    value = torch.randn(7, 3)
    assert_close(q_e(x, None).log_prob(value), q_e.otherwise(x).log_prob(value))
    y = torch.arange(7) % 2
    assert q_e(torch.randn(2, 7, 4), y).batch_shape == (2, 7)


def test_what_is_in_a_known_row_is_not_looked_at():
    """Not even where it has no density: values and gradients are finite."""
    base = dist.Normal(torch.zeros(4, 3, requires_grad=True), 1.0).to_event(1)
    fn = KnownWhere(base, KNOWN, torch.zeros(3))
    value = torch.full((4, 3), torch.inf).where(KNOWN[:, None], torch.tensor(0.5)).requires_grad_()
    log_p = fn.log_prob(value)
    (gradient,) = torch.autograd.grad(log_p.sum(), value)
    assert log_p.isfinite().all() and gradient.isfinite().all() and not gradient[KNOWN].any()
