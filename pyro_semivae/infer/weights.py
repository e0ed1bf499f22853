"""Weights of terms: numbers, or schedules, which are functions of the fraction of training done."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from torch import Tensor

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


class Schedules:
    """Collects the schedules that an evaluation uses, so that their values can be an input of its graph.

    Inside `with schedules:`, every schedule that is evaluated is added. Inside `with schedules.given(values):`, the
    value of a schedule is its entry in `values`, a tensor, in the order in which they were added.

    >>> import torch
    >>> schedules = Schedules()
    >>> with schedules:
    ...     at((2.0, WarmUp(0.5)), 0.25)
    1.0
    >>> with schedules.given(torch.tensor(schedules.values(0.125))):
    ...     at((2.0, schedules.found[0]), 0.25)
    tensor(0.5000)
    """

    def __init__(self) -> None:
        self.found: list[Callable[[float], float]] = []
        self._values: Sequence[Tensor] | Tensor | None = None

    def __enter__(self) -> Schedules:
        self._token = _schedules.set(self)
        return self

    def __exit__(self, *error: object) -> None:
        _schedules.reset(self._token)
        self._values = None

    def given(self, values: Sequence[Tensor] | Tensor) -> Schedules:
        """The same, with a value for each schedule."""
        self._values = values
        return self

    def values(self, done: float) -> list[float]:
        """The values at a fraction of training."""
        return [_number(schedule, done) for schedule in self.found]

    def at(self, schedule: Callable[[float], float], done: float) -> float | Tensor:
        """A schedule's value. Schedules that it evaluates itself are not added."""
        if self._values is None:
            if schedule not in self.found:
                self.found.append(schedule)
            token = _schedules.set(None)
            try:
                return _number(schedule, done)
            finally:
                _schedules.reset(token)
        return self._values[self.found.index(schedule)]


_schedules: ContextVar[Schedules | None] = ContextVar("schedules", default=None)


def at(weights: Iterable[Weight], done: float) -> float:
    """The product of weights at the fraction `done` of training.

    >>> at((2.0, lambda done: done), 0.5)
    1.0
    """
    return math.prod(_scheduled(weight, done) if callable(weight) else weight for weight in weights)


def is_one(weight: float | Tensor) -> bool:
    """Whether a weight is the number 1; False for tensors, whose values are not read."""
    return not isinstance(weight, Tensor) and weight == 1


def _scheduled(weight: Callable[[float], float], done: float) -> float:
    asked = _schedules.get()
    return _number(weight, done) if asked is None else asked.at(weight, done)


def _number(weight: Callable[[float], float], done: float) -> float:
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
