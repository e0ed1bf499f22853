"""The error for bad input, and common checks of arguments."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor


class InputError(ValueError):
    """Bad input from the user: the message names the argument, its value and what is expected."""


def check_count(name: str, value: object, least: int = 1, most: int = 2**31 - 1) -> int:
    """Checks that a value is an integer from `least` to `most`; returns an int.

    Raises:
        InputError: it is not.

    >>> check_count("samples", 3)
    3
    """
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        whole = {0: "a non-negative integer", 1: "a positive integer"}.get(least, f"an integer from {least} up")
        raise InputError(f"{name}: got {value!r}; expected {whole}")
    if value > most:
        raise InputError(f"{name}: got {value!r}; expected an integer from {least} to {most}")
    return int(value)


def as_tensor(name: str, value: Any, accepted: str = "a dense tensor, a numpy array or lists of numbers") -> Tensor:
    """Converts a tensor, a numpy array or (nested) lists of numbers to a dense tensor of real numbers.

    Args:
        name: the argument's name, for errors. accepted: the expected input, for errors.

    Raises:
        InputError: it has another type, or is sparse, quantised or complex.

    >>> as_tensor("x", [[1, 2]])
    tensor([[1, 2]])
    """
    if not isinstance(value, Tensor):
        if not isinstance(value, np.ndarray | Sequence) or isinstance(value, str | bytes):
            raise InputError(f"{name}: got {type(value).__name__}; expected {accepted}")
        try:
            with warnings.catch_warnings():  # for read-only memory maps: inputs are never written to
                warnings.filterwarnings("ignore", "The given NumPy array is not writ", UserWarning)
                value = torch.as_tensor(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"{name}: got {type(value).__name__} ({error}); expected {accepted}") from error
    if value.layout != torch.strided or value.is_quantized or value.is_complex():
        raise InputError(f"{name}: got {value.layout}, {value.dtype}; expected {accepted}")
    return value


def check_number(
    name: str,
    value: object,
    *,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    most: float | None = None,
) -> float:
    """Checks that a value is a finite number within bounds; returns a float.

    Args:
        above, least: the lower bound, exclusive or inclusive. below, most: the upper bound, likewise.

    Raises:
        InputError: it is not.

    >>> check_number("lr", 0.1, above=0)
    0.1
    """
    number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    if not (
        number
        and (above is None or value > above)
        and (least is None or value >= least)
        and (below is None or value < below)
        and (most is None or value <= most)
    ):
        low = f" above {above:g}" if above is not None else f" from {least:g}" if least is not None else ""
        high = f" below {below:g}" if below is not None else f" up to {most:g}" if most is not None else ""
        if least is not None and most is not None:
            high = high.removeprefix(" up")
        join = " and" if low and high and not high.startswith(" to") else ""
        raise InputError(f"{name}: got {value!r}; expected a finite number{low}{join}{high}")
    return float(value)


def check_choice(name: str, value: object, accepted: Iterable[str]) -> str:
    """Checks that a value is one of the accepted strings; returns it.

    Raises:
        InputError: it is not.

    >>> check_choice("how", "best", ("first", "best"))
    'best'
    """
    accepted = tuple(accepted)
    if not isinstance(value, str) or value not in accepted:
        raise InputError(f"{name}: got {value!r}; expected {', '.join(map(repr, accepted))}")
    return value
