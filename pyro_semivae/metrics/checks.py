"""Input checks that the metrics share: without them wrong shapes broadcast silently, and NaN counts as wrong."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyro_semivae.errors import InputError, as_tensor
from pyro_semivae.spaces import Binary, Classes, Labels, any_known, as_labels, label_space

ROUNDING = 1e-3  # the tolerance of sums of probabilities


def check_finite(name: str, values: Any, dims: int | None = None) -> Tensor:
    """Checks that values are finite, with `dims` dimensions if given, and returns them as a tensor.

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
    """Checks probabilities and returns them: in [0, 1] and, if `of_classes`, with sum 1 over the last dimension.

    The tolerance, for rounding, is 1e-3.

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
        raise InputError(f"{name}: got {got}; expected probabilities with sum 1")
    return probs


def check_classes(name: str, scores: Tensor, y: Any, *, leading: bool = False) -> Tensor:
    """Checks class labels `(N,)` against their `scores` `(N, C)` (`leading`: `(..., N, C)`); returns int64 labels.

    Args:
        name: the name of the scores. scores: already checked; the result is on their device. y: some may be missing.

    Raises:
        InputError: the shapes do not fit, or labels are not -1, 0, ..., C - 1.

    >>> check_classes("probs", torch.rand(2, 3), [2, -1])
    tensor([ 2, -1])
    """
    y = as_labels(y)
    fits = y.dim() == 1 and (scores.dim() >= 2 if leading else scores.dim() == 2)
    if not fits or scores.shape[-2] != len(y) or scores.shape[-1] < 2:
        accepted = f"({'..., ' if leading else ''}N, C) and (N,), C >= 2"
        raise InputError(f"{name}, y: got shapes {tuple(scores.shape)} and {tuple(y.shape)}; expected {accepted}")
    return Classes(scores.shape[-1]).validate(y).to(scores.device)


def check_binary(name: str, scores: Tensor, y: Any) -> Tensor:
    """Checks binary labels `(N, L)` against their `scores` `(N, L)`; returns 0, 1, or NaN where missing.

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
    """`check_classes` for integers, `check_binary` for floats."""
    several = label_space(y, 2).entries is not None
    return (check_binary if several else check_classes)(name, scores, y)


def known_rows(name: str, labels: Labels, y: Any, least: int = 1) -> tuple[Tensor, Tensor]:
    """The indices `(M,)` of the rows with a known label (for binary labels: any), and all labels, checked.

    Both are on the CPU.

    Raises:
        InputError: `y` is outside its space, or fewer than `least` rows have a known label.

    >>> known_rows("y", Classes(3), [2, -1, 0])[0]
    tensor([0, 2])
    """
    y = labels.validate(y, name).cpu()
    known = any_known(y).nonzero()[:, 0]
    if len(known) < least:
        raise InputError(f"{name}: got {len(y)} rows, {len(known)} with a known label; expected {least} or more")
    return known, y


def check_rows(name: str, x: Any, y: Tensor | None = None) -> Tensor:
    """Checks images, or anything else in rows, and returns them as a tensor.

    Raises:
        InputError: they are not a tensor of rows, or their number is not that of `y`, if given.

    >>> check_rows("x", torch.rand(2, 1, 8, 8), torch.tensor([0, 1])).shape
    torch.Size([2, 1, 8, 8])
    """
    x = as_tensor(name, x)
    if not x.dim() or (y is not None and (not y.dim() or len(x) != len(y))):
        shapes = f"{tuple(x.shape)}" if y is None else f"{tuple(x.shape)} and {tuple(y.shape)}"
        names = name if y is None else f"{name}, y"
        raise InputError(f"{names}: got shapes {shapes}; expected {'rows' if y is None else 'equally many rows'}")
    return x
