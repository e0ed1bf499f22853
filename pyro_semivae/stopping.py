"""Early stopping: training ends when a value of the history stops improving, and the best epoch's weights are kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pyro_semivae.errors import InputError, check_count, check_number


@dataclass(frozen=True)
class EarlyStopping:
    """Ends training after `patience` epochs without a better value.

    Args:
        monitor: the name of a value in an epoch's record: returned by `on_epoch` (such as an accuracy on held-out
            rows), or one of `fit`'s, such as `"elbo"`. A non-finite value is never the best.
        patience: the number of epochs to wait for a better value.
        maximise: whether larger is better.
        least_gain: the minimum improvement for a value to count as better.

    Raises:
        InputError: an argument is invalid.

    >>> stop = EarlyStopping("accuracy", patience=2)
    >>> history = [{"accuracy": 0.5}, {"accuracy": 0.8}, {"accuracy": 0.7}, {"accuracy": 0.79}]
    >>> stop.best(history), stop.is_over(history), stop.is_over(history[:3])
    (1, True, False)
    """

    monitor: str
    patience: int = 5
    maximise: bool = True
    least_gain: float = 0.0

    def __post_init__(self) -> None:
        check_count("patience", self.patience)
        check_number("least_gain", self.least_gain, least=0)
        if not isinstance(self.maximise, bool):
            raise InputError(f"maximise: got {self.maximise!r}; expected True, False")
        if not isinstance(self.monitor, str):
            raise InputError(f"monitor: got {self.monitor!r}; expected the name of a value in the history")

    def best(self, history: Sequence[dict[str, float]]) -> int | None:
        """The index of the best epoch, the first one if several are equal; None if no epoch has a finite value.

        Raises:
            InputError: a record does not contain the value.
        """
        found, value = None, -math.inf
        for epoch, record in enumerate(history):
            if self.monitor not in record:
                raise InputError(
                    f"early_stopping: got the monitor {self.monitor!r}; expected {', '.join(map(repr, record))}"
                )
            now = record[self.monitor] if self.maximise else -record[self.monitor]
            if math.isfinite(now) and now > value + (self.least_gain if found is not None else 0.0):
                found, value = epoch, now
        return found

    def is_over(self, history: Sequence[dict[str, float]]) -> bool:
        """Whether training ends: no better value for `patience` epochs."""
        best = self.best(history)
        return len(history) > self.patience + (-1 if best is None else best)
