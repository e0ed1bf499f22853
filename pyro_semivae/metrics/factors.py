"""Errors of factors predicted linearly from features, and predicted without features (Ruiz et al. 2019, Table 1)."""

from __future__ import annotations

import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression, Ridge
from torch import Tensor

from pyro_semivae.errors import InputError, check_number
from pyro_semivae.metrics.checks import check_finite


def linear_errors(
    features: Tensor, factors: Tensor, features_test: Tensor, factors_test: Tensor, *, ridge: float = 0.0
) -> Tensor:
    """The mean absolute error of each factor, predicted from features by least squares with an intercept, `(F,)`
    float64.

    Args:
        features, factors: `(N, D)` and `(N, F)`, to fit the regression on. features_test, factors_test: other rows.
        ridge: the weight of the squared coefficients relative to the sum of squared errors.

    Raises:
        InputError: the numbers of rows or columns differ, or numbers are not finite.

    >>> x = torch.arange(6.0).unsqueeze(1)
    >>> linear_errors(x, 2 * x + 1, x, 2 * x + 2)
    tensor([1.0000], dtype=torch.float64)
    """
    (x, y), (x_test, y_test) = _rows(features, factors, ""), _rows(features_test, factors_test, "_test")
    if x.shape[1] != x_test.shape[1] or y.shape[1] != y_test.shape[1]:
        got = f"{x.shape[1]} and {x_test.shape[1]} features, {y.shape[1]} and {y_test.shape[1]} factors"
        raise InputError(f"features_test, factors_test: got {got}; expected equal numbers in both sets")
    lines = (Ridge(check_number("ridge", ridge, least=0)) if ridge else LinearRegression()).fit(x.numpy(), y.numpy())
    return (torch.from_numpy(lines.predict(x_test.numpy())) - y_test).abs().mean(0)


def median_errors(factors: Tensor, factors_test: Tensor) -> Tensor:
    """The mean absolute error of the median as prediction, `(F,)`: the error without features.

    >>> median_errors(torch.tensor([[0.0], [1.0], [5.0]]), torch.tensor([[3.0]]))
    tensor([2.], dtype=torch.float64)
    """
    factors, factors_test = check_finite("factors", factors, 2), check_finite("factors_test", factors_test, 2)
    return (factors_test.double() - factors.double().median(0).values).abs().mean(0).cpu()


def principal_components(x: Tensor, x_test: Tensor, number: int = 32) -> tuple[Tensor, Tensor]:
    """Rows projected on their first principal components, `(N, number)`, and other rows projected on the same.

    Args:
        x, x_test: `(N, ...)`, flattened.

    Raises:
        InputError: values are not finite.
    """
    x, x_test = (check_finite(name, part).flatten(1).double().cpu() for name, part in (("x", x), ("x_test", x_test)))
    found = PCA(min(number, *x.shape), random_state=0).fit(x.numpy())
    return torch.from_numpy(found.transform(x.numpy())), torch.from_numpy(found.transform(x_test.numpy()))


def _rows(features: Tensor, factors: Tensor, end: str) -> tuple[Tensor, Tensor]:
    x, y = check_finite(f"features{end}", features, 2), check_finite(f"factors{end}", factors, 2)
    if len(x) != len(y) or not len(x):
        got = f"{len(x)} and {len(y)} rows"
        raise InputError(f"features{end}, factors{end}: got {got}; expected the same number of each, one or more")
    return x.double().cpu(), y.double().cpu()
