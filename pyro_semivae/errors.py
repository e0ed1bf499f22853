"""The error of bad input."""

from __future__ import annotations

from numbers import Integral


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
