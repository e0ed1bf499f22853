"""The record of an epoch: means over its steps, under the terms' names."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from torch import Tensor

from pyro_semivae.data.batches import Batch
from pyro_semivae.errors import InputError
from pyro_semivae.infer.graph import graphs_of, with_parents
from pyro_semivae.models import SemiVAE
from pyro_semivae.processes import Processes

if TYPE_CHECKING:
    from pyro_semivae.trainer import StepReport


class Tally:
    """Accumulates the values of steps, on the device until they are read."""

    def __init__(self, vae: SemiVAE):
        self.vae, self.start, self.steps = vae, time.perf_counter(), 0
        self.sums: Tensor | None = None
        self.told: StepReport | None = None
        self.names: list[str] = []

    def add(self, told: StepReport, batch: Batch) -> None:
        """Adds a step."""
        if self.told is None:
            floats = batch.floats
            values = {name: _few(floats.get(name)) for name in self.vae.spaces}
            graphs = graphs_of(self.vae.model, self.vae.guide, values, self.vae.continuous_labels)
            self.names = with_parents(told.names.terms, graphs)
        elif (got := told.names.reported) != (before := self.told.names.reported):
            other = sorted({*got} ^ {*before}) or got
            raise InputError(f"terms: got {other} in some batches and not in others; expected the same in every batch")
        self.told, self.steps = told, self.steps + 1
        self.sums = told.sums if self.sums is None else self.sums + told.sums

    def bound(self, means: list[float] | None = None) -> float:
        """The mean bound so far: the sum of its own terms, unweighted.

        Args:
            means: the mean values of the steps, if not those of this process.
        """
        means = (self.sums / self.steps).tolist() if means is None else means
        own = zip(means, self.told.names.in_elbo, strict=False)
        return means[len(self.names) + 1] + sum(mean for mean, in_elbo in own if in_elbo)

    def record(self, epoch: int, processes: Processes) -> dict[str, float]:
        """The epoch's record for the history, with means over processes."""
        means, told = processes.mean(self.sums / self.steps).tolist(), self.told
        terms, monitors = means[: len(self.names)], means[len(self.names) + 2 :]
        of_terms = zip(self.names, map(float, told.weights), strict=True)
        weights = {name: weight for name, weight in of_terms if weight != 1}
        return {
            "epoch": epoch + 1,
            "objective": means[len(self.names)],
            "elbo": self.bound(means),
            **{f"term/{name}": value for name, value in zip(self.names, terms, strict=True)},
            **{f"weight/{name}": value for name, value in weights.items()},
            **{f"monitor/{name}": value for name, value in zip(told.names.monitors, monitors, strict=True)},
            "seconds": time.perf_counter() - self.start,
        }


def _few(values: Tensor | None) -> Tensor | None:
    """The first two rows, which suffice to determine a graph."""
    return None if values is None else values[:2]
