"""The ELBO for models in which missing labels are latent: VAE, M2, M3, DIVA."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from pyro_semivae.errors import InputError, check_choice, check_count, check_number
from pyro_semivae.infer.base import Bound
from pyro_semivae.infer.evaluation import Value
from pyro_semivae.infer.run import Run
from pyro_semivae.infer.step import Step
from pyro_semivae.infer.tables import advantage, log_prob, masked, to_rows
from pyro_semivae.infer.weights import Weight, at, check_weight, is_one


class TraceLabels_ELBO(Bound):
    r"""The ELBO with observed labels y_o, and missing labels y_m under the guide's q(y_m | .).

    .. math::
        \log p(x, y_o) \ge E_{q(y_m|.) q(z|.)}[\log p(x, y_o, y_m, z) - \log q(y_m|.) - \log q(z|.)]

    with one sample of z. Labels may be parents of each other, and a site may depend on several: the sum is exact and
    joint over all missing labels. With a guide q(y|x) q(z|x,y) it is the bound of M2 (Kingma et al. 2014, Eqs. 6 to 8),
    with q(z|x) q(y|z) and p(z|y) that of DIVA (CCVAE C.4), with a label in the guide only that of M3 (CCVAE Eq. 2), and
    without labels that of the (beta-)VAE. The classifier's term of these models, alpha log q(y_o|.), is not part of the
    bound: it is `terms.ClassifierTerm`, which the models' `elbo()` adds.

    Args:
        beta: multiplies log p and log q of the latents, and log p(y) - log q(y|.) of missing labels; a number, or a
            schedule of the fraction of training done.
        unscaled: names of latents that beta does not multiply (M1M2's features, which are data to its M2).
        missing_labels: how missing labels of the model are treated. `"enumerate"`: marginalised exactly. If one
            site (x) depends on L binary labels at once, this has 2^L terms; sample them instead. `"reinforce"`: one
            sample each, with the score-function gradient and a leave-one-out baseline; unbiased. `"gumbel"`: one sample
            of the relaxed (concrete) Bernoulli, for a class label of the relaxed one-hot (Gumbel-softmax); it has less
            variance but is not a bound, because x is scored with labels between 0 and 1. In both,
            -KL(q(y_i|.) || p(y_i)) is exact; a classifier's term is then the mean of log q(y_i|.) over samples of its
            parents.
        temperature: the temperature of the relaxed labels.
        max_terms: the maximum number of joint label values that are enumerated for one site.
        split_labelled: whether to run the labelled rows separately, without enumerating labels, if the step says which
            rows are labelled (`fit` does); faster where x depends on the label.
        max_plate_nesting: 1 for class labels, 2 if a label has entries in a plate inside the plate of rows.

    Terms (each `(B,)`, in nats; here for M2's): `log p(x|y,z)`, `log p(z)`, `-log q(z|x,y)`, `log p(y)`,
    `-log q(y_m|x)`, and with `"reinforce"` the surrogate `score(y)`, whose value is 0.

    Raises:
        ValueError: an option has an invalid value; a label of the model is not in the guide.
    """

    def __init__(
        self,
        *,
        beta: Weight = 1.0,
        unscaled: Sequence[str] = (),
        missing_labels: Literal["enumerate", "reinforce", "gumbel"] = "enumerate",
        temperature: float = 0.5,
        split_labelled: bool = False,
        max_terms: int = 1000,
        max_plate_nesting: int = 1,
    ):
        super().__init__(max_plate_nesting=max_plate_nesting)
        self.beta = check_weight("beta", beta, least=0)
        self.unscaled = tuple(unscaled)
        self.missing_labels = check_choice("missing_labels", missing_labels, ("enumerate", "reinforce", "gumbel"))
        self.temperature = check_number("temperature", temperature, above=0)
        self.split_labelled = split_labelled
        self.max_terms = check_count("max_terms", max_terms)

    def runs(self, step: Step) -> list[Run]:
        if not (self.split_labelled and self.missing_labels == "enumerate" and step.labelled):
            return [self._run(step)]
        known, *rest = step.parts()
        runs = [self._run(known, fully_observed=True), *map(self._run, rest)]
        if len(runs[0].labels) > 1:  # some may be missing in these rows
            raise InputError(
                f"split_labelled: got True, and the labels {[*runs[0].labels]}; expected False with several"
            )
        return runs

    def most_terms(self) -> float:
        return self.max_terms if self.missing_labels == "enumerate" else math.inf

    def _run(self, step: Step, fully_observed: bool = False) -> Run:
        how = {"missing_labels": self.missing_labels, "temperature": self.temperature, "fully_observed": fully_observed}
        run = step.run(self.max_plate_nesting, **how)
        for label in run.roles.labels:
            if label not in run.guide.nodes:
                raise InputError(
                    f"label '{label}' is not in the guide: this bound needs q({label}|..) there, with "
                    f'infer={{"enumerate": "parallel"}}'
                )
        return run

    def values(self, run: Run) -> list[Value]:
        roles, sites, step_beta = run.roles, run.model.nodes, at((self.beta,), run.step.done)
        values = [Value(f"log p({name})", self._mean(run, log_prob(sites[name]), sites[name])) for name in roles.data]
        for name in run.latents:
            beta, of_guide = 1.0 if name in self.unscaled else step_beta, run.guide.nodes[name]
            values.append(Value(f"log p({name})", self._mean(run, log_prob(sites[name]), sites[name]), beta))
            values.append(Value(f"-log q({name})", -self._mean(run, log_prob(of_guide), of_guide), beta))
        for label in (*roles.labels, *run.continuous):
            values += self._label_values(run, label, step_beta)
        return values

    def _mean(self, run: Run, table: Tensor, site: dict) -> Tensor:
        """The mean of a site's log-density over the missing labels that it depends on, `(B,)`."""
        return to_rows(run.sums.mean(table, site, max_terms=self.max_terms), site)

    def _label_values(self, run: Run, label: str, beta: float) -> list[Value]:
        """log p(y), and -log q(y|.) of missing labels; both multiplied by beta where the label is missing."""
        sums, site, classifier = run.sums, run.model.nodes[label], run.guide.nodes[label]
        own = None if label in run.continuous else label
        log_p = sums.mean(sums.log_p(label), classifier, own, self.max_terms)
        log_q = run.where_missing(label, -sums.mean(sums.log_q[label], classifier, own, self.max_terms))
        weighted = None
        if not is_one(beta):
            weighted = to_rows(masked(run.where_beta(beta, label, log_p), site), site)
        return [
            Value(f"log p({label})", to_rows(masked(log_p, site), site), weighted=weighted),
            Value(f"-log q({label}_m)", to_rows(masked(log_q, classifier), classifier), beta),
        ]

    def surrogates(self, run: Run, values: Sequence[Value]) -> list[Value]:
        """Terms of value 0 with the score-function gradient for the sampled labels' probabilities.

        The reward of a sample is the total minus the label's own terms, which are exact means over its values. (Terms
        of other labels stay, because they may depend on it as their parent.)
        """
        if self.missing_labels != "reinforce":
            return []
        if batch := [value.name for value in values if not value.by_row]:
            raise InputError(
                f"missing_labels: got 'reinforce', and {batch}, of the batch; expected only terms per example"
            )
        total = sum(value.summed() for value in values if value.by_row)
        by_name, found = {value.name: value.summed() for value in values}, []
        for label in run.roles.labels:
            site = run.guide.nodes[label]
            own = [by_name[name] for name in (f"log p({label})", f"-log q({label}_m)") if name in by_name]
            reward = advantage(total - sum(own))
            log_q = to_rows(run.where_missing(label, log_prob(site)), site)
            found.append(Value(f"score({label})", reward * (log_q - log_q.detach())))
        return found
