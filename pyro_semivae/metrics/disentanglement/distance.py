"""The distance between inferred and true factors: LaRVAE's l2 score (Nie et al. 2020)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import torch

from pyro_semivae.errors import InputError
from pyro_semivae.metrics.checks import check_finite
from pyro_semivae.metrics.disentanglement.score import Score


def label_distance(inferred: Any, values: Any, *, without: Collection[int] = ()) -> Score:
    """The l2 score: the mean Euclidean distance between inferred and true factors. Lower is better.

    The paper states neither normalisation nor average. Here factors are used as given: standardised as in training, so
    that always predicting 0 has a distance of about the square root of their number.

    Args:
        inferred: the means of q(y|x), `(N, F)`. values: the true factors. without: columns to leave out, such as those
            with values that look the same in several images.

    Parts: `rmse` `(F,)`, the root mean squared error of each factor, including those left out.

    Raises:
        InputError: the shapes differ, numbers are not finite, a column does not exist, or none is left.

    >>> float(label_distance(torch.zeros(2, 2), torch.tensor([[3.0, 4.0], [0.0, 0.0]])))
    2.5
    """
    mean, true = (
        check_finite(n, v, 2).detach().double().cpu() for n, v in (("inferred", inferred), ("values", values))
    )
    if mean.shape != true.shape or not mean.numel():
        shapes = f"{tuple(mean.shape)} and {tuple(true.shape)}"
        raise InputError(f"inferred, values: got shapes {shapes}; expected (N, F) twice, N and F one or more")
    if not isinstance(without, Collection) or not all(isinstance(j, int | np.integer) for j in without):
        raise InputError(f"without: got {without!r}; expected numbers of columns, such as [2]")
    kept = [j for j in range(mean.shape[1]) if j not in without]
    if not {*without} <= {*range(mean.shape[1])} or not kept:
        raise InputError(f"without: got {sorted(without)}; expected some of the {mean.shape[1]} columns, not all")
    error = mean - true
    value = torch.linalg.vector_norm(error[:, kept], dim=1).mean().item()
    parts = {"rmse": error.square().mean(0).sqrt().numpy()}
    return Score(value, {"rows": len(mean), "without": [int(j) for j in np.sort([*without])]}, parts)
