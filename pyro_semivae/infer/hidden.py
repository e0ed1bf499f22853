"""A bound on the same rows without some of their labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from pyro_semivae.errors import InputError
from pyro_semivae.infer.base import Bound
from pyro_semivae.infer.evaluation import Value
from pyro_semivae.infer.run import Run
from pyro_semivae.infer.step import Step


class Hidden(Bound):
    """A bound as it is where labels are missing, on all rows: `vae.elbo() + 0.5 * Hidden(vae.elbo().bound, "y")`.

    Args:
        bound: the bound. labels: names of the arguments of model and guide that it does not see.

    Terms: those of the bound, with `"without y: "` before their names.
    """

    def __init__(self, bound: Bound, *labels: str):
        if not isinstance(bound, Bound) or not labels:
            raise InputError(
                f"Hidden: got {type(bound).__name__}, {list(labels)}; expected a bound (of an objective: its "
                f"`bound`), and the names of one label or more"
            )
        super().__init__(max_plate_nesting=bound.max_plate_nesting)
        self.hides, self.labels = bound, labels
        self.prefix = f"without {','.join(labels)}: "

    def runs(self, step: Step) -> Sequence[Run]:
        if unknown := set(self.labels) - set(step.named()):
            raise InputError(f"Hidden: got {sorted(unknown)}; expected {', '.join(step.named())}")
        return self.hides.runs(step.hiding(self.labels))

    def values(self, run: Run) -> list[Value]:
        return self._named(self.hides.values(run))

    def surrogates(self, run: Run, values: Sequence[Value]) -> list[Value]:
        own = [replace(v, name=v.name.removeprefix(self.prefix)) for v in values if v.name.startswith(self.prefix)]
        return self._named(self.hides.surrogates(run, own))

    def monitors(self, run: Run) -> dict[str, Tensor]:
        return {f"{self.prefix}{name}": value for name, value in self.hides.monitors(run).items()}

    def scale(self, run: Run) -> Any:
        return self.hides.scale(run)

    def warming_up(self, until: float) -> Bound | None:
        own = self.hides.warming_up(until)
        return None if own is None else Hidden(own, *self.labels)

    def _named(self, values: Sequence[Value]) -> list[Value]:
        return [replace(value, name=f"{self.prefix}{value.name}") for value in values]
