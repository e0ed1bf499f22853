"""The Frechet distance between two sets of features, as Gaussians."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_semivae.errors import InputError
from pyro_semivae.metrics.checks import check_finite


def frechet_distance(features_a: Tensor, features_b: Tensor) -> float:
    """|mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)), for features `(N, F)` and `(M, F)`.

    With features from the Inception network of Heusel et al. (NeurIPS 2017), which this library does not include, it is
    the FID. With other features, values are comparable only among themselves. It needs many more rows than F.

    >>> a = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
    >>> round(frechet_distance(a, a + torch.tensor([3.0, 0.0])), 3)
    9.0

    Raises:
        InputError: features have another shape, are not finite, have fewer than two rows or columns, or differ in their
            number of columns.
    """
    parts = {name: check_finite(name, f, 2) for name, f in (("features_a", features_a), ("features_b", features_b))}
    for name, features in parts.items():
        if min(features.shape) < 2:
            raise InputError(f"{name}: got shape {tuple(features.shape)}; expected (N, F), both two or more")
    a, b = (features.double() for features in parts.values())
    if a.shape[1] != b.shape[1]:
        shapes = f"{tuple(a.shape)} and {tuple(b.shape)}"
        raise InputError(f"features_a, features_b: got shapes {shapes}; expected (N, F) and (M, F)")
    s_a, s_b = torch.cov(a.T), torch.cov(b.T)
    # tr (S_a S_b)^(1/2) is the sum of the roots of the eigenvalues of S_a S_b, which are real and not negative.
    root = torch.linalg.eigvals(s_a @ s_b).real.clamp(min=0).sqrt().sum()
    return ((a.mean(0) - b.mean(0)).square().sum() + s_a.trace() + s_b.trace() - 2 * root).item()
