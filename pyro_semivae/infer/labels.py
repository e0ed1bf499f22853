"""The ELBO of models in which labels are latent where they are missing: VAE, M2, M3, DIVA."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from pyro import poutine
from pyro.distributions import Bernoulli
from torch import Tensor
from torch.nn import functional as F

from pyro_semivae.errors import InputError, check_choice, check_count, check_number
from pyro_semivae.infer.base import RowELBO, Rows, advantage, joined, log_prob, masked, plate_dims, row_dim, row_scale
from pyro_semivae.infer.evidence import Evidence, enumerates
from pyro_semivae.infer.handlers import LabelledFirst
from pyro_semivae.infer.labelled import Run, log_sum, varies
from pyro_semivae.infer.roles import assign_roles
from pyro_semivae.spaces import any_known, is_missing


class TraceLabels_ELBO(RowELBO):
    r"""The ELBO, missing labels y_m with the guide's q(y_m | .), observed ones y_o as they are.

    .. math::
        \log p(x, y_o) \ge E_{q(y_m|.) q(z|.)}[\log p(x, y_o, y_m, z) - \log q(y_m|.) - \log q(z|.)]
            \;+\; \alpha \sum_{i \in o} \log q(y_i|.)

    with one draw of z. Labels may be parents of each other, and a site may depend on several: the sum is exact, over
    all that are missing together. The last term, the classifier's, is no part of the bound; of labels that depend on
    each other in the guide it is log q(y_o|.) of all that are observed, the missing ones summed out. A guide
    q(y|x) q(z|x,y) makes it the objective of M2 (Kingma et al. 2014, Eqs. 6 to 9), q(z|x) q(y|z) with p(z|y) that of
    DIVA (CCVAE C.4), a label that only the guide has that of M3 (CCVAE Eq. 2), and no label at all the (beta-)VAE's.

    Args:
        classifier_weight: alpha, on log q(y_o | .).
        beta: multiplies log p and log q of the latents, and log p(y) - log q(y|.) of missing labels.
        unscaled: names of latents that beta leaves alone (M1M2's features, which are data to its M2).
        labels: how missing labels of the model are dealt with. `"sum"`: enumerated, exactly. Where one site (x) depends
            on several binary labels at once there are 2^L terms, and they are drawn instead: `"score"`, one draw each,
            the gradient by the score function with the other rows' mean as the baseline, unbiased; `"relaxed"`, one
            draw of the relaxed (concrete) Bernoulli, less noisy, and no bound, for x is scored with labels between 0
            and 1; for a class label, of the relaxed one-hot (Gumbel-softmax). In both, -KL(q(y_i|.) || p(y_i)) is
            exact; the last term is then the mean of log q(y_i|.) over draws of its parents.
        temperature: of the relaxed labels.
        max_terms: how many values of labels together one site's sum may have.
        apart: whether labelled rows, where `LabelledFirst` says which (`fit` does), are run apart from the others with
            their labels not enumerated: faster where x depends on the label.
        max_plate_nesting: 1 for class labels, 2 where a label has entries in a plate inside of the rows'.

    Terms (each `(B,)`, in nats, named by the sites; here for M2's): `p(x)`, `p(z)`, `q(z)`, `p(y)`, `q(y)` (of missing
    labels, minus), `q(y|x)` = alpha log q(y_o|.), and with `"score"` the surrogate `score(y)`, whose value is 0.

    Raises:
        ValueError: an option is not one of those above; a label of the model is not in the guide.
    """

    def __init__(
        self,
        *,
        classifier_weight: float = 0.0,
        beta: float = 1.0,
        unscaled: Sequence[str] = (),
        labels: Literal["sum", "score", "relaxed"] = "sum",
        temperature: float = 0.5,
        apart: bool = False,
        max_terms: int = 1000,
        max_plate_nesting: int = 1,
    ):
        super().__init__(max_plate_nesting=max_plate_nesting)
        check_choice("labels", labels, ("sum", "score", "relaxed"))
        for name, value in (("classifier_weight", classifier_weight), ("beta", beta)):
            check_number(name, value, least=0)
        check_number("temperature", temperature, above=0)
        self.classifier_weight = classifier_weight
        self.beta = beta
        self.unscaled = tuple(unscaled)
        self.labels = labels
        self.temperature = temperature
        self.apart = apart
        self.max_terms = check_count("max_terms", max_terms)

    def rows(self, model: Callable, guide: Callable, *args, **kwargs) -> Rows:
        number = LabelledFirst.number_now() if self.apart and self.labels == "sum" else 0
        if not number:
            return self._rows(self._run(model, guide, args, kwargs))
        known = self._run(model, guide, *_rows_of(slice(number), args, kwargs), complete=True)
        if len(known.labels) > 1:  # of which some may be missing in these rows
            raise InputError(f"apart: got True, and the labels {[*known.labels]}; accepted with several is False")
        rest = _rows_of(slice(number, None), args, kwargs)
        if not len(next(part for part in (*rest[0], *rest[1].values()) if isinstance(part, Tensor))):
            return self._rows(known)
        return joined(self._rows(known), self._rows(self._run(model, guide, *rest)))

    def _rows(self, run: Run) -> Rows:
        roles, sites = run.roles, run.model.nodes
        sums = _Sums(run, self.max_terms)
        terms = {f"p({name})": self._mean(sums, log_prob(sites[name]), sites[name]) for name in roles.data}
        for name in run.latents:
            beta, of_guide = 1.0 if name in self.unscaled else self.beta, run.guide.nodes[name]
            terms[f"p({name})"] = beta * self._mean(sums, log_prob(sites[name]), sites[name])
            terms[f"q({name})"] = -beta * self._mean(sums, log_prob(of_guide), of_guide)
        of_labels = {label: self._label_terms(sums, label) for label in (*roles.labels, *run.continuous)}
        for part in of_labels.values():
            terms |= part
        for group in sums.groups():
            terms[f"q({','.join(group)}|x)"] = self.classifier_weight * self._classifier(sums, group)
        if self.labels == "score":
            terms |= self._scores(run, sum(terms.values()), of_labels)
        return Rows(terms, row_scale(run.model, roles.data + roles.latents))

    def _run(self, model: Callable, guide: Callable, args: tuple, kwargs: dict, complete: bool = False) -> Run:
        if self.labels == "sum":
            guide_trace, model_trace, evidence = self.traces(model, guide, args, kwargs, complete=complete)
        else:
            evidence = DrawLabels(None if self.labels == "score" else self.temperature)
            guide_trace = poutine.trace(evidence(guide)).get_trace(*args, **kwargs)
            model = poutine.replay(evidence.then_model()(model), trace=guide_trace)
            model_trace = poutine.trace(model).get_trace(*args, **kwargs)
        roles = assign_roles(model_trace, guide_trace)
        for label in roles.labels:
            if label not in guide_trace.nodes:
                raise InputError(
                    f"label '{label}' is not in the guide: this bound needs q({label}|..) there, with "
                    f'infer={{"enumerate": "parallel"}}'
                )
        return Run(guide_trace, model_trace, roles, evidence.observed, tuple(evidence.continuous))

    def _mean(self, sums: _Sums, table: Tensor, site: dict) -> Tensor:
        """The mean of a site's log-density over the missing labels that it depends on, `(B,)`."""
        return self.to_rows(sums.mean(table, site), site)

    def _label_terms(self, sums: _Sums, label: str) -> dict[str, Tensor]:
        """log p(y), and -log q(y|.) of missing labels; both times beta where the label is missing."""
        run, site, classifier = sums.run, sums.run.model.nodes[label], sums.run.guide.nodes[label]
        own = None if label in run.continuous else label
        log_p = run.where_beta(self.beta, label, sums.mean(sums.log_p(label), classifier, own))
        log_q = run.where_missing(label, -self.beta * sums.mean(sums.log_q[label], classifier, own))
        return {
            f"p({label})": self.to_rows(masked(log_p, site), site),
            f"q({label})": self.to_rows(masked(log_q, classifier), classifier),
        }

    def _classifier(self, sums: _Sums, group: Sequence[str]) -> Tensor:
        """log q(y_o|.) of labels, the discrete ones that are missing among them summed out, `(B,)`."""
        run, sites = sums.run, sums.run.guide.nodes
        factors = {label: sums.log_q_observed(label) for label in group}
        if len(group) == 1 and group[0] not in run.continuous:
            (label,) = group
            at_known = torch.where(run.matches(label, sums.values[label]), sums.log_q[label], 0.0)
            log_q = at_known.sum(sums.dims[label])
            return self.to_rows(masked(log_q, sites[label]), sites[label])
        outside = min(group, key=lambda label: len(plate_dims(sites[label])))
        left = log_sum(run, factors, [label for label in group if label not in run.continuous])
        total = sum(self.to_rows(table, sites[outside]) for table in left)
        given = [run.observed[label] for label in group if label in run.observed]
        anything = torch.stack([any_known(y).reshape(len(total)) for y in given]).any(0)
        by_plates = torch.where(anything, total, 0.0).reshape(-1, *(1,) * (-1 - row_dim(sites[outside])))
        return masked(by_plates, sites[outside]).reshape(len(total))

    def _scores(self, run: Run, total: Tensor, of_labels: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
        """The surrogates whose value is 0 and whose gradient is that of the drawn labels' probabilities.

        A draw's reward is all that it may change: the total less the label's own terms, which are exact means over its
        values. (Other labels' terms may depend on it, where it is their parent.)
        """
        terms = {}
        for label in run.roles.labels:
            site = run.guide.nodes[label]
            reward = advantage(total - sum(of_labels[label].values()))
            log_q = self.to_rows(run.where_missing(label, log_prob(site)), site)
            terms[f"score({label})"] = reward * (log_q - log_q.detach())
        return terms


def _rows_of(rows: slice, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    def part(value: Any) -> Any:
        return value[rows] if isinstance(value, Tensor) else value

    return tuple(map(part, args)), {name: part(value) for name, value in kwargs.items()}


class _Sums:
    """The labels' tables in a run, and means over the missing ones: the weights are q(y|.) where y is missing, 1 and 0
    where it is observed.

    Attributes:
        values, log_q, dims: by label, its values, log q(y|.) of each, and the dimension in which they lie. Labels that
            are drawn, or all known, have tables of their own values alone, in the first dimension.
    """

    def __init__(self, run: Run, max_terms: int):
        self.run, self.max_terms = run, max_terms
        self.values: dict[str, Tensor] = {}
        self.log_q: dict[str, Tensor] = {}
        self.dims: dict[str, int] = {}
        for label in run.labels:
            fn, dim = run.guide.nodes[label]["fn"], run.enumeration_dim(label)
            if label in run.continuous:
                self.values[label] = run.guide.nodes[label]["value"]
                self.log_q[label] = fn.log_prob(self.values[label])
                continue
            self.values[label] = fn.enumerate_support(expand=False) if dim is None else run.guide.nodes[label]["value"]
            self.log_q[label] = fn.log_prob(self.values[label])
            self.dims[label] = -self.log_q[label].dim() if dim is None else dim

    def log_p(self, label: str) -> Tensor:
        """log p(y|.) of each value."""
        return self.run.model.nodes[label]["fn"].log_prob(self.values[label])

    def log_q_observed(self, label: str) -> Tensor:
        """log q(y|.) of the values that an observed label can have: -inf of others than the known one. Of a continuous
        label that of the known value; 0 where it is missing, which has been drawn."""
        if label in self.run.continuous:
            return torch.where(self.run.missing(label), 0.0, self.log_q[label])
        return torch.where(self.run.known(label, self.values[label]), self.log_q[label], -torch.inf)

    def weights(self, label: str) -> Tensor:
        log_q = self.log_q[label]
        if label not in self.run.observed:
            return log_q.exp()
        return torch.where(self.run.missing(label), log_q.exp(), self.run.matches(label, self.values[label]).to(log_q))

    def mean(self, table: Tensor, site: dict, own: str | None = None) -> Tensor:
        """The mean of a site's table over all labels that it varies with; its dimensions for labels are then 1.

        Args:
            own: the label whose own table it is.

        Raises:
            InputError: the site depends on all entries of a label at once, or on too many values.
        """
        enumerated = [label for label in self.dims if label == own or self.run.enumeration_dim(label) is not None]
        along = [label for label in enumerated if varies(table, self.dims[label])]
        terms = math.prod(table.shape[self.dims[label]] for label in along)
        if terms > self.max_terms:
            raise InputError(
                f"max_terms: got {self.max_terms}, and site '{site['name']}' is summed over the {terms} values of the "
                f"labels {along}; accepted are as many, or labels='relaxed' or 'score', which sum none"
            )
        for label in self.run.elimination_order(enumerated):
            if varies(table, self.dims[label]):
                if plate_dims(self.run.guide.nodes[label]) - plate_dims(site):
                    raise InputError(
                        f"labels: got 'sum', but site '{site['name']}' depends on all the labels '{label}' at once, "
                        f"which makes 2^L terms; accepted for this model are 'relaxed', 'score'"
                    )
                table = (self.weights(label) * table).sum(self.dims[label], keepdim=True)
        return table

    def groups(self) -> list[tuple[str, ...]]:
        """The observed labels, each with the enumerated ones that the guide makes it depend on, or depend on it."""
        groups = {label: {label} for label in self.run.labels}
        for label in self.run.labels:
            for other in self.run.labels_of(self.log_q[label]):
                joined = groups[label] | groups[other]
                groups |= dict.fromkeys(joined, joined)
        found = dict.fromkeys(tuple(sorted(group, key=self.run.labels.index)) for group in groups.values())
        return [group for group in found if set(group) & set(self.run.observed)]


class DrawLabels(Evidence):
    """Draws the missing entries of a guide's discrete labels, as of continuous ones, and keeps the observed ones.

    Args:
        temperature: of relaxed draws, Bernoulli or, as vectors, one-hot, reparameterised; None for plain ones.
    """

    def __init__(self, temperature: float | None):
        super().__init__()
        self.temperature = temperature

    def _pyro_sample(self, msg) -> None:
        if not (enumerates(msg) and self.of_guide):
            super()._pyro_sample(msg)
            return
        fn = msg["fn"]
        if self.temperature is None:
            drawn = fn.sample()
        elif isinstance(fn, Bernoulli):
            drawn = ((fn.logits + torch.rand_like(fn.logits).logit(eps=1e-6)) / self.temperature).sigmoid()
        else:
            drawn = F.gumbel_softmax(fn.logits, self.temperature)  # (B, C)
        if msg["is_observed"]:
            y = msg["value"]
            self.observed[msg["name"]] = y
            missing = is_missing(y)
            if drawn.dim() > y.dim():  # one-hot rows; those of missing labels are not used
                y, missing = torch.eye(drawn.shape[-1]).to(drawn)[y], missing.unsqueeze(-1)
            drawn = torch.where(missing, drawn, y)
        msg["value"], msg["is_observed"], msg["done"] = drawn, False, True
