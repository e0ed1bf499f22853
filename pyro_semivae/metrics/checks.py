"""The checks that measures have in common: tensors of the wrong shape broadcast in silence, and NaN counts as wrong."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyro_semivae.errors import InputError, as_tensor
from pyro_semivae.spaces import Binary, Classes, Labels, any_known, as_labels, label_space

ROUNDING = 1e-3  # how far sums of probabilities may be from 1


def check_finite(name: str, values: Any, dims: int | None = None) -> Tensor:
    """Finite numbers, of `dims` dimensions where that is given.

    Raises:
        InputError: they are something else.

    >>> check_finite("features", [[1.0, 2.0]], dims=2)
    tensor([[1., 2.]])
    """
    values = as_tensor(name, values)
    if dims is not None and values.dim() != dims:
        raise InputError(f"{name}: got shape {tuple(values.shape)}; expected {dims} dimensions")
    if not values.isfinite().all():
        raise InputError(f"{name}: got NaN or infinity in shape {tuple(values.shape)}; expected finite numbers")
    return values


def check_probs(name: str, probs: Any, *, of_classes: bool = True) -> Tensor:
    """Probabilities: in [0, 1] and, `of_classes`, along the last dimension of the sum 1; what rounds may be 1e-3 more.

    Raises:
        InputError: they are something else.

    >>> check_probs("probs", torch.tensor([[0.5, 0.5]]))
    tensor([[0.5000, 0.5000]])
    """
    probs = check_finite(name, probs)
    if not probs.is_floating_point() or ((probs < 0) | (probs > 1 + ROUNDING)).any():
        raise InputError(
            f"{name}: got {probs.dtype} from {probs.min().item():g} to {probs.max().item():g}; expected "
            f"probabilities, floats in [0, 1]"
        )
    sums = probs.sum(-1, dtype=torch.double)
    if of_classes and ((sums - 1).abs() > ROUNDING).any():
        got = f"sums from {sums.min().item():g} to {sums.max().item():g}"
        raise InputError(f"{name}: got {got}; expected probabilities of sum 1")
    return probs


def check_classes(name: str, scores: Tensor, y: Any, *, leading: bool = False) -> Tensor:
    """Class labels `(N,)` of which `scores` `(N, C)` (`leading`: `(..., N, C)`) say something; int64, some missing.

    Args:
        name: of the scores. scores: checked already; their device is that of the result.

    Raises:
        InputError: the shapes do not fit, or labels are not -1, 0, ..., C - 1.

    >>> check_classes("probs", torch.rand(2, 3), [2, -1])
    tensor([ 2, -1])
    """
    y = as_labels(y)
    fits = y.dim() == 1 and (scores.dim() >= 2 if leading else scores.dim() == 2)
    if not fits or scores.shape[-2] != len(y) or scores.shape[-1] < 2:
        accepted = f"({'..., ' if leading else ''}N, C) and (N,), C two or more"
        raise InputError(f"{name}, y: got shapes {tuple(scores.shape)} and {tuple(y.shape)}; expected {accepted}")
    return Classes(scores.shape[-1]).validate(y).to(scores.device)


def check_binary(name: str, scores: Tensor, y: Any) -> Tensor:
    """Binary labels `(N, L)` of which `scores` `(N, L)` say something; 0, 1 and, where missing, NaN.

    Args:
        name, scores: see `check_classes`.

    Raises:
        InputError: the shapes do not fit, or labels are something else.

    >>> check_binary("probs", torch.rand(1, 2), [[1.0, 0.0]])
    tensor([[1., 0.]])
    """
    y = as_labels(y)
    if y.dim() != 2 or scores.shape != y.shape or not y.shape[1]:
        raise InputError(
            f"{name}, y: got shapes {tuple(scores.shape)} and {tuple(y.shape)}; expected (N, L) and (N, L)"
        )
    return Binary(y.shape[1]).validate(y).to(scores.device)


def check_labels(name: str, scores: Tensor, y: Any) -> Tensor:
    """`check_classes` of integers, `check_binary` of floats."""
    several = label_space(y, 2).entries is not None
    return (check_binary if several else check_classes)(name, scores, y)


def known_rows(name: str, labels: Labels, y: Any, least: int = 1) -> tuple[Tensor, Tensor]:
    """The numbers `(M,)` of the rows whose label is known (of binary labels: any of them), and all labels as checked.

    Both are on the CPU.

    Raises:
        InputError: `y` is outside of its space, or fewer than `least` rows are known.

    >>> known_rows("y", Classes(3), [2, -1, 0])[0]
    tensor([0, 2])
    """
    y = labels.validate(y, name).cpu()
    known = any_known(y).nonzero()[:, 0]
    if len(known) < least:
        raise InputError(f"{name}: got {len(y)} labels, {len(known)} rows of them known; expected {least} or more")
    return known, y


def check_rows(name: str, x: Any, y: Tensor | None = None) -> Tensor:
    """Images, or anything else in rows; as many as `y`, where that is given.

    Raises:
        InputError: they are no tensor of rows, or not as many.

    >>> check_rows("x", torch.rand(2, 1, 8, 8), torch.tensor([0, 1])).shape
    torch.Size([2, 1, 8, 8])
    """
    x = as_tensor(name, x)
    if not x.dim() or (y is not None and (not y.dim() or len(x) != len(y))):
        shapes = f"{tuple(x.shape)}" if y is None else f"{tuple(x.shape)} and {tuple(y.shape)}"
        names = name if y is None else f"{name}, y"
        raise InputError(f"{names}: got shapes {shapes}; expected as many rows of each")
    return x
