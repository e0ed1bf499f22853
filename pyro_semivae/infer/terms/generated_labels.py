"""The labels of generated data, told by the guide: the label loss where there are as many labels as one likes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pyro import poutine
from torch import Tensor

from pyro_semivae.errors import InputError
from pyro_semivae.infer.base import Term
from pyro_semivae.infer.generation import Generating, generated_sites
from pyro_semivae.infer.run import Run
from pyro_semivae.infer.tables import log_prob, masked, to_rows
from pyro_semivae.infer.terms.regression import regression
from pyro_semivae.spaces import is_missing


class GeneratedLabelsTerm(Term):
    r"""What the guide says of the labels of data that the model generates of them (ours).

    .. math::
        -\sum_i (\mu_{y_i}(\tilde x) - y'_i)^2, \qquad
        y'_i \sim \hat p(y_i), \quad z \sim p(z), \quad \tilde x = E[x | y', z]

    of continuous labels, and log q(y'|x~) of classes. Each entry of y' is that of some row of the batch, on its own, so
    that entries are independent. It is what wake-sleep's sleep phase (Hinton et al. 1995) asks of the guide's labels:
    no gradient goes through x~, and the model learns nothing of it.

    Args:
        labels: which labels; default: all that the batch has. density: log q(y'|x~) of continuous labels, too.

    A batch in which no value of some entry is known has zeros.

    Raises:
        InputError: when evaluated: there is no such label.
    """

    whole_batch = True  # y' are of all rows, and every row has one

    def __init__(self, *labels: str, density: bool = False):
        self.labels, self.density = labels, density

    def values(self, run: Run) -> Mapping[str, Tensor]:
        if unknown := [name for name in self.labels if name not in run.observed and run.observed]:
            accepted = ", ".join(run.observed)
            raise InputError(f"GeneratedLabelsTerm: got {unknown}; expected labels: {accepted}")
        names = [name for name in run.observed if not self.labels or name in self.labels]
        if not names:
            return {}
        step, given = run.step, run.step.named()
        if unknown := [name for name in run.observed if name not in given]:
            raise InputError(
                f"model: its labels {unknown} are no arguments of that name; expected y=... for the site 'y'"
            )
        drawn, known = {}, []
        for name in run.observed:
            drawn[name], there = shuffled(given[name])
            known.append(there)
        with torch.no_grad(), Generating(generated_sites(run), {}, mean=True):
            made = poutine.trace(step.model).get_trace(*{**given, **drawn}.values())
        data = {n: made.nodes[n]["value"].reshape(given[n].shape) for n in generated_sites(run) if n in given}
        guide = poutine.trace(step.guide).get_trace(*{**given, **drawn, **data}.values())
        found = {}
        for name in names:
            if name in run.continuous:
                title, values = regression(guide, name, drawn[name], self.density)
            else:
                site = guide.nodes[name]
                title, values = f"log q({name}_o)", to_rows(masked(log_prob(site), site), site)
            title = title.replace(f"{name}_o", f"{name}'").replace("|.", "|x~")
            found[title] = values * torch.stack(known).all()
        return found


def shuffled(y: Tensor) -> tuple[Tensor, Tensor]:
    """Labels whose entries are each those of some row that has it, and whether there is any such row for each entry.

    Args:
        y: `(B,)` or `(B, E)`, some missing.
    """
    columns = y.unsqueeze(1) if y.dim() == 1 else y
    known = ~is_missing(columns)
    there = known.any(0)
    chances = torch.where(there, known, True).T.to(torch.get_default_dtype())  # (E, B)
    rows = torch.multinomial(chances, len(y), replacement=True).T
    drawn = columns.gather(0, rows)
    drawn = torch.where(is_missing(drawn), torch.zeros_like(drawn), drawn)
    return drawn.reshape(y.shape), there.all()
