"""The label loss for continuous labels: the squared error of the guide's mean (Locatello et al. 2019)."""

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
    r"""-|y_o - E_q[y|x]|^2 for observed continuous labels, summed over entries; 0 where none is observed.

    .. math::
        -\sum_{i \in o} (\mu_{y_i}(x) - y_i)^2

    (Nie et al. 2020, Eq. 8), in the squared units of the labels. For labels of variance 1, a constant prediction of the
    mean has an error equal to the number of labels, compared with some thousand nats for an image's pixels, so that
    weights of 100 and more are usual. With `density` it is log q(y_o|x), in nats, which includes the guide's variance.

    Args:
        labels: names of continuous labels; default: all. density: see above.

    Raises:
        InputError: when evaluated: a name is not a continuous label.
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
    """The name and the values, `(B,)`, of the term for one label.

    Args:
        guide: a trace. y: the values, some missing. density: whether to use log q(y|.) instead of the squared error.
    """
    site = guide.nodes[label]
    fn, missing = site["fn"], is_missing(y)
    known = torch.where(missing, fn.mean.detach(), y.nan_to_num())
    table = fn.log_prob(known) if density else -(known - fn.mean).square()
    table = torch.where(missing, 0.0, table)
    name = f"log q({label}_o)" if density else f"-|{label}_o - E[{label}|.]|^2"
    return name, to_rows(masked(table, site), site)
