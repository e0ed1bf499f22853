"""The classifier's term: log q(y_o|x) for observed labels (Kingma et al. 2014, Eq. 9; CCVAE Eq. 4)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from pyro_semivae.errors import InputError
from pyro_semivae.infer.base import Term
from pyro_semivae.infer.run import Run


class ClassifierTerm(Term):
    r"""log q(y_o | x), the log-probability of observed labels under the guide; 0 where none is observed.

    .. math::
        \log q(y_o|x) = \log E_{q(z|x)}[q(y_o|z)]

    estimated with the additional samples of z in the bound's run, K of them with CCVAE's bound. This bound (Eq. 4)
    already contains it with weight 1, so that `vae.elbo() + 9 * ClassifierTerm("y")` has it with weight 10. If the run
    has one sample, the term is log q(y_o|z) at that sample, as in M3 and DIVA (CCVAE Eq. 2, C.4). M2's q(y|x) needs no
    sample (Kingma et al. 2014, Eq. 9).

    Args:
        labels: names of labels; default: all. For labels that depend on each other in the guide it is the joint
            probability of the observed ones, with the missing ones marginalised.

    Raises:
        InputError: when evaluated: a name is not a label; a label depends on others that are not among `labels`.
    """

    needs_labels = True

    def __init__(self, *labels: str):
        self.labels = labels

    def values(self, run: Run) -> Mapping[str, Tensor]:
        if unknown := [label for label in self.labels if label not in run.labels]:
            accepted = ", ".join(run.labels) or "those of the guide, which has none"
            raise InputError(f"ClassifierTerm: got {unknown}; expected labels: {accepted}")
        if not run.labels:
            raise InputError("ClassifierTerm: the guide has no label; expected a classifier for at least one")
        if not run.observed:
            return {}
        if run.particles > 1:
            if self.labels and set(self.labels) != set(run.observed):
                accepted = f"all observed labels together, {list(run.observed)}"
                raise InputError(f"ClassifierTerm: got {list(self.labels)}; expected {accepted} with this bound")
            return {f"log q({_observed(run.observed)}|x)": run.log_q_given_data}
        found = {}
        for group in run.groups:
            if not self.labels or set(group) <= set(self.labels):
                found[f"log q({_observed(group)})"] = run.log_q_observed(group)
            elif set(group) & set(self.labels):
                accepted = f"all or none of {list(group)}, which depend on each other in the guide"
                raise InputError(f"ClassifierTerm: got {list(self.labels)}; expected {accepted}")
        return found


def _observed(labels: Iterable[str]) -> str:
    return ",".join(f"{label}_o" for label in labels)
