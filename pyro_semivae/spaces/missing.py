"""Missing labels in tensors: -1 in integer tensors, NaN in float tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyro_semivae.errors import InputError, as_tensor

MISSING = -1


def is_missing(y: Tensor) -> Tensor:
    """Boolean mask of the missing entries of `y`, in its shape: NaN in a float tensor, -1 in an integer tensor.

    >>> is_missing(torch.tensor([3, -1])), is_missing(torch.tensor([0.0, float("nan")]))
    (tensor([False,  True]), tensor([False,  True]))

    Raises:
        InputError: see `as_labels`.
    """
    y = as_labels(y)  # in uint8, 255 compares equal to -1
    return y.isnan() if y.is_floating_point() else y == MISSING


def any_known(y: Tensor) -> Tensor:
    """Boolean mask `(..., N)` of the rows with any known label, for `y` integers `(..., N)` or floats `(..., N, L)`.

    >>> any_known(torch.tensor([3, -1])), any_known(torch.tensor([[0.0, torch.nan], [torch.nan, torch.nan]]))
    (tensor([ True, False]), tensor([ True, False]))
    """
    known = ~is_missing(y)
    return known.any(-1) if y.is_floating_point() else known


def entry_by_entry(y: Tensor) -> list[Tensor]:
    """For each entry, the labels with all other entries missing: L tensors `(N, L)`; `(N,)` is returned unchanged.

    >>> entry_by_entry(torch.tensor([[1.0, 0.0]]))
    [tensor([[1., nan]]), tensor([[nan, 0.]])]
    """
    if not y.is_floating_point():
        return [y]
    return [torch.where(torch.arange(y.shape[-1], device=y.device) == i, y, torch.nan) for i in range(y.shape[-1])]


def all_missing(y: Tensor) -> Tensor:
    """Labels with the shape and dtype of `y`, all missing.

    >>> all_missing(torch.tensor([3, 1]))
    tensor([-1, -1])
    """
    return torch.full_like(y, torch.nan if y.is_floating_point() else MISSING)


def as_labels(y: Any, name: str = "y", accepted: str = "integers (classes) or floats (binary labels)") -> Tensor:
    """Labels as a tensor: integers of any type are converted to int64, floats are unchanged.

    uint8 would not do: as an index a uint8 tensor acts as a mask, and it cannot hold -1.

    Args:
        y: a tensor, a numpy array or lists of numbers. accepted: the expected values, for the error message.

    Raises:
        InputError: `y` is something else, or boolean.

    >>> as_labels(torch.tensor([1, 2], dtype=torch.uint8)).dtype
    torch.int64
    """
    y = as_tensor(name, y, accepted)
    if y.dtype == torch.bool:
        raise InputError(f"{name}: got dtype torch.bool; expected {accepted}")
    return y if y.is_floating_point() else y.long()
