"""Weights of terms: numbers, or schedules, which are functions of the fraction of training done."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from pyro_semivae.errors import InputError

Weight = float | Callable[[float], float]


@dataclass(frozen=True)
class WarmUp:
    """A schedule that rises linearly from 0 to `weight` over a fraction of training and then stays constant.

    >>> WarmUp(0.5, 4.0)(0.25)
    2.0

    Args:
        until: the fraction of training, in (0, 1]. weight: a number or another schedule.
    """

    until: float
    weight: Weight = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.until, int | float) or not 0 < self.until <= 1:
            raise InputError(f"until: got {self.until}; expected a fraction of training, above 0 and up to 1")
        check_weight("weight", self.weight)

    def __call__(self, done: float) -> float:
        return at((self.weight,), done) * min(1.0, done / self.until)


def at(weights: Iterable[Weight], done: float) -> float:
    """The product of weights at the fraction `done` of training.

    >>> at((2.0, lambda done: done), 0.5)
    1.0
    """
    return math.prod(_scheduled(weight, done) if callable(weight) else weight for weight in weights)


def _scheduled(weight: Callable[[float], float], done: float) -> float:
    found = weight(done)
    try:
        number = float(found)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"weight: the schedule returned {found!r:.50} at {done}; expected finite numbers")
    return number


def check_weight(name: str, weight: Any, *, least: float = -math.inf) -> Weight:
    """Checks that a weight is a finite number of at least `least`, or a function, and returns it.

    Raises:
        InputError: it is neither.
    """
    if callable(weight):
        return weight
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight) or weight < least:
        above = "" if least == -math.inf else f" from {least:g}"
        raise InputError(
            f"{name}: got {weight!r}; expected a finite number{above}, or a function of the fraction of training"
        )
    return weight
