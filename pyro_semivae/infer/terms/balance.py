"""Class balance: the marginal entropy term of information maximisation (Krause et al. 2010; Hu et al., ICML 2017)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pyro_semivae.errors import InputError
from pyro_semivae.infer.base import Term
from pyro_semivae.infer.run import Run
from pyro_semivae.infer.tables import masked, row_dim


class BalanceTerm(Term):
    r"""-KL(q(y) || p(y)), with q(y) the mean of q(y|z) over the batch's missing labels: class balance.

    .. math::
        -\sum_i KL\Big(\tfrac{1}{|m_i|} \sum_{b \in m_i} q(y_i|z_b) \,\Big\Vert\, p(y_i)\Big)

    with m_i the rows in which label i is missing. It matches the class frequencies to the prior. It is one number per
    batch, not multiplied by the rows' scale. The model must have the label, with the same prior in all rows.
    """

    whole_batch = True

    def values(self, run: Run) -> Mapping[str, Tensor]:
        total: Tensor | float = 0.0
        discrete = [label for label in run.labels if label not in run.continuous]
        if not discrete:
            raise InputError("BalanceTerm: the guide has no discrete label; expected a classifier for at least one")
        for label in discrete:
            if label not in run.model.nodes:
                raise InputError(f"BalanceTerm: label '{label}' is not in the model; expected labels with a prior")
            log_q, site = run.first_classifier(label), run.guide.nodes[label]
            rows, of_model = row_dim(site), run.model.nodes[label]
            log_p = of_model["fn"].log_prob(of_model["value"])
            if others := [other for other in run.labels_of(log_p) if other != label]:
                raise InputError(
                    f"BalanceTerm: label '{label}' depends on {others} in the model; expected a prior alone"
                )
            prior = log_p.narrow(rows, 0, 1)  # (C, 1, 1 [, L]), the same in every row
            missing = masked(run.where_missing(label, torch.ones_like(log_q[:1])), site)
            mean = (log_q.exp() * missing / missing.sum(rows, keepdim=True).clamp(min=1)).sum(rows, keepdim=True)
            log_mean = mean.clamp(min=torch.finfo(mean.dtype).tiny).log()  # there may be no missing rows
            total = total + (mean * (log_mean - prior)).sum()
        return {"-KL(q(y_m) || p(y))": -total}
