"""Stops training at numbers that are not finite, and says where they came from."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class FiniteWatch:
    """Remembers, on the device, the first step with a term that is not finite; looks every so many steps."""

    def __init__(self, every: int):
        self.every, self.steps, self.first = every, [], None

    def __call__(self, terms: Tensor, rows: Tensor, names: Sequence[str], where: str) -> None:
        """Takes in the terms of a step, `(T, B)`, and the numbers of its rows, `(B,)`; may raise, as `check`."""
        bad = ~terms.isfinite()
        step = torch.full((), len(self.steps), device=bad.device)
        self.steps.append(where)
        seen = (bad, rows.to(bad.device), step)
        if self.first is not None:
            known = self.first[0].any()
            seen = tuple(torch.where(known, old, new) for old, new in zip(self.first, seen, strict=True))
        self.first = seen
        if len(self.steps) >= self.every:
            self.check(names)

    def check(self, names: Sequence[str]) -> None:
        """Looks at the steps since the last look.

        Raises:
            FloatingPointError: a term was not finite; names the step, the terms, their sites and the rows.
        """
        if self.first is not None and (bad := self.first[0]).any():
            culprits = [name for name, row in zip(names, bad, strict=True) if row.any()]
            sites = sorted({re.sub(r".*\(|[|)].*", "", name) for name in culprits})
            rows = self.first[1][bad.any(0)].tolist()
            raise FloatingPointError(
                f"the bound is not finite at {self.steps[int(self.first[2])]}: term {', '.join(culprits)} "
                f"(site {', '.join(sites)}) at rows {rows[:10]}{' ...' if len(rows) > 10 else ''} of the training set"
            )
        self.steps, self.first = [], None


def check_weights(module: nn.Module, epoch: int) -> None:
    """Raises a FloatingPointError that names the parameters which are not finite."""
    bad = [name for name, parameter in module.named_parameters() if not parameter.isfinite().all()]
    if bad:
        raise FloatingPointError(f"parameters {', '.join(bad[:5])} are not finite after epoch {epoch}")
