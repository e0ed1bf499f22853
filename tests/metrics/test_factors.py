"""Lines on features, and the errors without any."""

import pytest
import torch
from torch.testing import assert_close

from pyro_semivae import metrics
from pyro_semivae.errors import InputError


def test_a_linear_relation_is_found_and_its_error_is_the_tests():
    x, x_test = torch.randn(50, 3), torch.randn(20, 3)
    w, b = torch.randn(3, 2), torch.randn(2)
    errors = metrics.linear_errors(x, x @ w + b, x_test, x_test @ w + b + torch.tensor([0.25, -0.5]))
    assert_close(errors, torch.tensor([0.25, 0.5], dtype=torch.float64))


def test_it_is_least_squares_and_ridge():
    x, y, x_test, y_test = torch.randn(40, 3), torch.randn(40, 2), torch.randn(9, 3), torch.randn(9, 2)
    one = torch.cat([x, torch.ones(40, 1)], 1)
    slopes = torch.linalg.lstsq(one, y).solution
    expected = (torch.cat([x_test, torch.ones(9, 1)], 1) @ slopes - y_test).abs().mean(0)
    assert_close(metrics.linear_errors(x, y, x_test, y_test), expected)
    centred, mean = x - x.mean(0), y.mean(0)
    slopes = torch.linalg.solve(centred.T @ centred + 7 * torch.eye(3), centred.T @ (y - mean))
    expected = ((x_test - x.mean(0)) @ slopes + mean - y_test).abs().mean(0)
    assert_close(metrics.linear_errors(x, y, x_test, y_test, ridge=7.0), expected)


def test_the_median_is_the_best_constant():
    y, y_test = torch.rand(101, 2) ** 3, torch.rand(40, 2)
    expected = (y_test - y.sort(0).values[50]).abs().mean(0)
    assert_close(metrics.median_errors(y, y_test), expected)


def test_principal_components_are_those_of_the_first_rows():
    x, other = torch.randn(30, 2, 4) * torch.arange(1.0, 9).view(2, 4), torch.randn(7, 2, 4)
    found, found_other = metrics.principal_components(x, other, 3)
    centred = x.flatten(1) - x.flatten(1).mean(0)
    _, _, directions = torch.linalg.svd(centred, full_matrices=False)
    assert_close(found.abs(), (centred @ directions[:3].T).abs())
    assert_close(found_other.abs(), ((other.flatten(1) - x.flatten(1).mean(0)) @ directions[:3].T).abs())


def test_what_is_wrong_is_said():
    x = torch.rand(5, 2)
    with pytest.raises(InputError, match="features, factors: got 5 and 4 rows"):
        metrics.linear_errors(x, x[:4], x, x)
    with pytest.raises(InputError, match="features_test, factors_test: got 5 and 4 rows"):
        metrics.linear_errors(x, x, x, x[:4])
    with pytest.raises(InputError, match="got 2 and 2 features, 2 and 1 factors; expected equal numbers"):
        metrics.linear_errors(x, x, x, x[:, :1])
    with pytest.raises(InputError, match="ridge: got -1"):
        metrics.linear_errors(x, x, x, x, ridge=-1)
