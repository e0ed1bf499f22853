"""Entropy minimisation (Grandvalet and Bengio, NeurIPS 2004)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from pyro_semivae.infer.base import Term
from pyro_semivae.infer.run import Run


class EntropyTerm(Term):
    r"""-H(q(y|.)), the negative entropy of missing labels, so that each example is assigned to one class.

    .. math::
        -H(q(y_m|z)) = \sum_{i \in m} \sum_y q(y_i = y|z) \log q(y_i = y|z)

    at the bound's own sample of z. With `BalanceTerm` it is information maximisation (Krause et al., NeurIPS 2010),
    which finds clusters where there are not enough labels.
    """

    def values(self, run: Run) -> Mapping[str, Tensor]:
        return {"-H(q(y_m))": -run.over_missing(lambda label, log_q, dim: -(log_q.exp() * log_q).sum(dim))}
