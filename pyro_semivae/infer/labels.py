"""The ELBO of models in which labels are latent where they are missing: VAE, M2, M3, DIVA."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from pyro import poutine
from pyro.distributions import Bernoulli
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.nn import functional as F

from pyro_semivae.errors import InputError, check_choice, check_number
from pyro_semivae.infer.base import RowELBO, Rows, advantage, joined, log_prob, masked, plate_dims, row_scale
from pyro_semivae.infer.evidence import Evidence, enumerates, select
from pyro_semivae.infer.handlers import LabelledFirst
from pyro_semivae.infer.labelled import Run
from pyro_semivae.infer.roles import assign_roles
from pyro_semivae.spaces import is_missing


class TraceLabels_ELBO(RowELBO):
    r"""The ELBO, missing labels y_m with the guide's q(y_m | .), observed ones y_o as they are.

    .. math::
        \log p(x, y_o) \ge E_{q(y_m|.) q(z|.)}[\log p(x, y_o, y_m, z) - \log q(y_m|.) - \log q(z|.)]
            \;+\; \alpha \sum_{i \in o} \log q(y_i|.)

    with one draw of z. The last term, the classifier's, is no part of the bound. A guide q(y|x) q(z|x,y) makes it the
    objective of M2 (Kingma et al. 2014, Eqs. 6 to 9), q(z|x) q(y|z) with p(z|y) that of DIVA (CCVAE C.4), a label that
    only the guide has that of M3 (CCVAE Eq. 2), and no label at all the (beta-)VAE's.

    Args:
        classifier_weight: alpha, on log q(y_o | .).
        beta: multiplies log p and log q of the latents, and log p(y) - log q(y|.) of missing labels.
        unscaled: names of latents that beta leaves alone (M1M2's features, which are data to its M2).
        labels: how missing labels of the model are dealt with. `"sum"`: enumerated, exactly. Where one site (x) depends
            on several binary labels at once there are 2^L terms, and they are drawn instead: `"score"`, one draw each,
            the gradient by the score function with the other rows' mean as the baseline, unbiased; `"relaxed"`, one
            draw of the relaxed (concrete) Bernoulli, less noisy, and no bound, for x is scored with labels between 0
            and 1; for a class label, of the relaxed one-hot (Gumbel-softmax). In both, -KL(q(y_i|.) || p(y_i)) is
            exact.
        temperature: of the relaxed labels.
        apart: whether labelled rows, where `LabelledFirst` says which (`fit` does), are run apart from the others with
            their labels not enumerated: faster where x depends on the label.
        max_plate_nesting: 1 for one class label, 2 for the plate "labels" inside of "data".

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

    def rows(self, model: Callable, guide: Callable, *args, **kwargs) -> Rows:
        number = LabelledFirst.number_now() if self.apart and self.labels == "sum" else 0
        if not number:
            return self._rows(self._run(model, guide, args, kwargs))
        known = self._run(model, guide, *_rows_of(slice(number), args, kwargs), complete=True)
        rest = _rows_of(slice(number, None), args, kwargs)
        if not len(next(part for part in (*rest[0], *rest[1].values()) if isinstance(part, Tensor))):
            return self._rows(known)
        return joined(self._rows(known), self._rows(self._run(model, guide, *rest)))

    def _rows(self, run: Run) -> Rows:
        roles, sites = run.roles, run.model.nodes
        tables = {label: _Table(run, label) for label in dict.fromkeys([*roles.labels, *run.observed])}
        terms = {f"p({name})": self._expected(run, tables, sites[name]) for name in roles.data}
        for name in roles.latents:
            beta = 1.0 if name in self.unscaled else self.beta
            terms[f"p({name})"] = beta * self._expected(run, tables, sites[name])
            terms[f"q({name})"] = -beta * self._expected(run, tables, run.guide.nodes[name])
        of_labels = {label: self._label_terms(run, label, tables[label]) for label in roles.labels}
        for part in of_labels.values():
            terms |= part
        for label, y in run.observed.items():
            log_q = select(tables[label].log_q, tables[label].values, y, -tables[label].log_q.dim())
            site = run.guide.nodes[label]
            terms[f"q({label}|x)"] = self.classifier_weight * self.to_rows(masked(log_q, site), site)
        if self.labels == "score":
            terms |= self._scores(run, sum(terms.values()), of_labels)
        return Rows(terms, row_scale(run.model, roles.data + roles.latents))

    def _run(self, model: Callable, guide: Callable, args: tuple, kwargs: dict, complete: bool = False) -> Run:
        if self.labels == "sum":
            guide_trace, model_trace, observed = self.traces(model, guide, args, kwargs, complete=complete)
        else:
            draw = DrawLabels(None if self.labels == "score" else self.temperature)
            guide_trace = poutine.trace(draw(guide)).get_trace(*args, **kwargs)
            model_trace = poutine.trace(poutine.replay(Evidence()(model), trace=guide_trace)).get_trace(*args, **kwargs)
            observed = draw.observed
        roles = assign_roles(model_trace, guide_trace)
        for label in roles.labels:
            if label not in guide_trace.nodes:
                raise InputError(
                    f"label '{label}' is not in the guide: this bound needs q({label}|..) there, with "
                    f'infer={{"enumerate": "parallel"}}'
                )
        return Run(guide_trace, model_trace, roles, observed)

    def _expected(self, run: Run, tables: dict[str, _Table], site: dict) -> Tensor:
        """The log-density of a site, the mean over the values of the label that it depends on, `(B,)`."""
        table = log_prob(site)
        label = run.label_of(site["name"], table)
        if label:
            if plate_dims(run.guide.nodes[label]) - plate_dims(site):
                raise InputError(
                    f"labels: got 'sum', but site '{site['name']}' depends on all the labels '{label}' at once, "
                    f"which makes 2^L terms; accepted for this model are 'relaxed', 'score'"
                )
            weights, dim = tables[label].weights, run.enumeration_dim(label)
            between = (1,) * (-dim - weights.dim())
            table = (weights.reshape(weights.shape[0], *between, *weights.shape[1:]) * table).sum(dim)
        return self.to_rows(table, site)

    def _label_terms(self, run: Run, label: str, table: _Table) -> dict[str, Tensor]:
        """log p(y), and -log q(y|.) of missing labels; both times beta where the label is missing."""
        site, classifier = run.model.nodes[label], run.guide.nodes[label]
        log_p, log_q = (table.weights * site["fn"].log_prob(table.values)).sum(0), (table.weights * table.log_q).sum(0)
        missing = run.where_missing(label, torch.ones_like(log_q))
        log_p = (1 + (self.beta - 1) * missing) * log_p
        return {
            f"p({label})": self.to_rows(masked(log_p, site), site),
            f"q({label})": self.to_rows(masked(-self.beta * missing * log_q, classifier), site),
        }

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


class _Table:
    """A label's values, log q(y|.) of each, `(C, B)` or `(2, B, L)`, and their weights: q(y|.) where y is missing, 1
    and 0 where it is observed."""

    def __init__(self, run: Run, label: str):
        fn = run.guide.nodes[label]["fn"]
        self.values = fn.enumerate_support(expand=False)
        self.log_q = fn.log_prob(self.values)
        self.weights = self.log_q.exp()
        if label in run.observed:
            y = run.observed[label]
            self.weights = torch.where(is_missing(y), self.weights, (self.values == y).to(self.log_q))


class DrawLabels(Messenger):
    """Draws the missing entries of a guide's label sites and keeps the observed ones.

    Args:
        temperature: of relaxed draws, Bernoulli or, as vectors, one-hot, reparameterised; None for plain ones.
    """

    def __init__(self, temperature: float | None):
        super().__init__()
        self.temperature = temperature
        self.observed: dict[str, Tensor] = {}

    def _pyro_sample(self, msg) -> None:
        if not enumerates(msg):
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
