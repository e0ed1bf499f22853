"""The error of bad input, and the checks that arguments have in common."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor


class InputError(ValueError):
    """Bad input from the user: the message names the argument, what came and what is accepted."""


def check_count(name: str, value: object, least: int = 1) -> int:
    """A whole number from `least`, as an int.

    Raises:
        InputError: it is something else.

    >>> check_count("draws", 3)
    3
    """
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise InputError(f"{name}: got {value!r}; accepted are {least}, {least + 1}, ...")
    return int(value)


def as_tensor(name: str, value: Any) -> Tensor:
    """A dense tensor of real numbers from a tensor, a numpy array or (nested) lists of numbers.

    Raises:
        InputError: it is something else, sparse, quantised, or complex.

    >>> as_tensor("x", [[1, 2]])
    tensor([[1, 2]])
    """
    accepted = "a dense tensor, a numpy array or lists of numbers"
    if not isinstance(value, Tensor):
        if not isinstance(value, np.ndarray | Sequence) or isinstance(value, str | bytes):
            raise InputError(f"{name}: got {type(value).__name__}; accepted is {accepted}")
        try:
            value = torch.as_tensor(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"{name}: got {type(value).__name__} ({error}); accepted is {accepted}") from error
    if value.layout != torch.strided or value.is_quantized or value.is_complex():
        raise InputError(f"{name}: got {value.layout}, {value.dtype}; accepted is {accepted}")
    return value
