"""The label loss of continuous labels: how far the guide's mean is from what is observed (Locatello et al. 2019)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pyro.poutine import Trace
from torch import Tensor

from pyro_semivae.errors import InputError
from pyro_semivae.infer.base import Term
from pyro_semivae.infer.run import Run
from pyro_semivae.infer.tables import masked, to_rows
from pyro_semivae.spaces import is_missing


class RegressionTerm(Term):
    r"""-|y_o - E_q[y|x]|^2 of observed continuous labels, summed over entries; 0 where none is observed.

    .. math::
        -\sum_{i \in o} (\mu_{y_i}(x) - y_i)^2

    (Nie et al. 2020, Eq. 8), in the squared units of the labels: of labels of variance 1, always saying the mean has as
    many as there are labels, beside some thousand nats of an image's pixels, so that weights of 100 and more are usual.
    With `density` it is log q(y_o|x), in nats, in which the guide's variance counts.

    Args:
        labels: which continuous labels; default: all. density: see above.

    Raises:
        InputError: when evaluated: there is no such continuous label.
    """

    needs_labels = True

    def __init__(self, *labels: str, density: bool = False):
        self.labels, self.density = labels, density

    def values(self, run: Run) -> Mapping[str, Tensor]:
        if unknown := [name for name in self.labels if name not in run.continuous and run.observed]:
            accepted = ", ".join(run.continuous) or "those of model and guide, which have none"
            raise InputError(f"RegressionTerm: got {unknown}; expected continuous labels: {accepted}")
        names = [name for name in run.continuous if not self.labels or name in self.labels]
        return dict(regression(run.guide, name, run.observed[name], self.density) for name in names)


def regression(guide: Trace, label: str, y: Tensor, density: bool) -> tuple[str, Tensor]:
    """The name and the values `(B,)` of the term of one label.

    Args:
        guide: a trace. y: the values, some missing. density: log q(y|.) in the place of the squared error.
    """
    site = guide.nodes[label]
    fn, missing = site["fn"], is_missing(y)
    known = torch.where(missing, fn.mean.detach(), y.nan_to_num())
    table = fn.log_prob(known) if density else -(known - fn.mean).square()
    table = torch.where(missing, 0.0, table)
    name = f"log q({label}_o)" if density else f"-|{label}_o - E[{label}|.]|^2"
    return name, to_rows(masked(table, site), site)
