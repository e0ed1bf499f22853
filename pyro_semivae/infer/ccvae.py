"""The CCVAE bound (Joy et al. 2020, 2021) in one expression for all patterns of missing labels."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from pyro_semivae.errors import InputError, check_choice, check_count
from pyro_semivae.infer.base import Bound
from pyro_semivae.infer.evaluation import Value
from pyro_semivae.infer.evidence import enumeration_dim, select
from pyro_semivae.infer.roles import Roles
from pyro_semivae.infer.run import Run, log_sum
from pyro_semivae.infer.step import Step
from pyro_semivae.infer.tables import log_prob, masked, plate_dims, reduce_plates, sampled_index, to_rows
from pyro_semivae.infer.weights import Weight, at, check_weight, is_one
from pyro_semivae.spaces import is_missing


class TraceCCVAE_ELBO(Bound):
    r"""The bound for labels that are leaves in the guide, q(z | x) q(y | z), and parents of latents in the model.

    With observed labels :math:`y_o` and missing ones :math:`y_m`, guide :math:`q(z|x)` and classifier
    :math:`q(y_o|z) = \prod_{i \in o} q(y_i|z)`, the bound for a row is

    .. math::
        \log p(x, y_o) \ge E_{q(z|x)}\Big[ w \Big( \log p(x|z) + \log p(z_s)
            + \sum_{i \in o} \log p(z_c^i|y_i) + \sum_{i \in m} \log \sum_{y_i} p(z_c^i|y_i) p(y_i)
            - \log q(y_o|z) - \log q(z|x) \Big) \Big] + \log q(y_o|x) + \sum_{i \in o} \log p(y_i),

        w = q(y_o|z) / q(y_o|x), \qquad q(y_o|x) = E_{q(z|x)}[q(y_o|z)].

    If all labels are observed, it is CCVAE's Eq. 4 (REVAE's Eq. 5). If none is observed, w = 1 and it is the ELBO with
    the exact marginal prior over z_c. The sum over a label contains all sites of the model that depend on it, so other
    graphs of this kind work as well; the label's own prior must not depend on latents. Labels that are parents of each
    other in the model, or parents of one site, are marginalised jointly (only with the exact marginal).

    Args:
        marginal: how missing labels are marginalised. `"exact"`: log sum_y p(z_c|y) p(y). `"jensen"`: CCVAE's Eq. 5,
            E_{q(y|z)}[log p(z_c|y) p(y) / q(y|z)], with the expectation enumerated; looser by KL(q(y|z) || p(y|z_c)),
            and it ties the classifier to the conditional prior on unlabelled rows. `"sampled"`: Eq. 5 with one sample
            of each missing label, as in the authors' code, and the score-function gradient (which their PyTorch code
            omits, so that its gradient is biased); unbiased for Eq. 5, and noisier.
        detach: where the gradient through the latents stops in q(y_o|z). `"weight"`: in w (the authors' PyTorch code;
            CCVAE C.3.1). `"weighted-terms"`: in w and in -log q(y_o|z) (their Pyro code). `"none"`: nowhere, the
            gradient of the bound. Partial detaching changes the gradient: w's denominator still increases log q(y_o|x),
            multiplied by the bracket's nats, which trains the classifier and moves the encoder. With `"none"`, the
            classifier needs a `ClassifierTerm` and, against noise, the `control_variate` (docs/ccvae.md, detail 3).
        beta: a number, or a schedule of the fraction of training done; multiplies log p and log q of the latents, as in
            beta-VAE: all of `p(z)` and `q(z)`, and thus with Eq. 5 also log p(y) - log q(y|z) of a missing label. It
            does not multiply log p(x) and the terms of observed labels. The objective is a bound at 1; values above 1
            are a documented departure that reduces the information in the latents.
        num_samples: K, the number of samples of z for q(y_o|x), from the guide alone and independent of the sample in
            the bracket.
        weights: the estimator of w. `"normalised"`: q(y_o|z) divided by its mean over all K + 1 samples, including the
            bracket's own; this w has mean 1 for every K, and is at most K + 1. `"independent"`, as in the papers:
            divided by the mean over the K others; this w has a mean above 1 (which approaches 1 as K grows) and no
            upper limit: with many labels the bound starts thousands of nats too low, and training fails. Both are
            biased by O(1/K).
        control_variate: whether to subtract a baseline from the factor of w's gradient, the bracket: its mean over the
            batch's other labelled rows. A bracket is minus thousands of nats (mostly log p(x|z)). Without the baseline
            the classifier learns little except noise. With `detach` the gradient that increases q(y_o|x) in the encoder
            is also multiplied by thousands, through w's denominator, because the numerator's part is cut off. Since w
            has mean 1, it changes no expectation with normalised weights and `detach="none"`, which it makes usable.
            It is a term of value 0.
        max_plate_nesting: 1 for class labels, 2 if a label has entries in a plate inside the plate of rows.

    At weight 1 the bound hardly trains the classifier: multiplying q(y|z) by a constant changes nothing, because
    -log q(y_o|z) and log q(y_o|x) cancel. `vae.elbo() + alpha * ClassifierTerm("y")` is a documented departure. REVAE's
    regulariser (D.2), consistency, entropy and balance are `terms` as well.

    Terms (each `(B,)`, in nats; here for CCVAE's): `w log p(x|z_c,z_s)`, `w log p(z_s)`, `w log p(z_c|y_o)`,
    `-w log q(z_s|x)`, `-w log q(z_c|x)`, `-w log q(y_o|z)`, `control(w)` (0), `log q(y_o|x)`, `log p(y_o)`;
    `p(z_c|y_o)` is the marginal where y is missing. Monitor: `ess`, the effective sample size of w over the rows with
    an observed label, divided by their number.

    Raises:
        ValueError: an option has an invalid value; the guide lacks a classifier that the bound needs.
    """

    def __init__(
        self,
        *,
        marginal: Literal["exact", "jensen", "sampled"] = "exact",
        detach: Literal["weight", "weighted-terms", "none"] = "weight",
        beta: Weight = 1.0,
        weights: Literal["independent", "normalised"] = "normalised",
        control_variate: bool = False,
        num_samples: int = 20,
        max_plate_nesting: int = 1,
    ):
        super().__init__(max_plate_nesting=max_plate_nesting)
        self.marginal = check_choice("marginal", marginal, ("exact", "jensen", "sampled"))
        self.detach = check_choice("detach", detach, ("weight", "weighted-terms", "none"))
        self.weights = check_choice("weights", weights, ("independent", "normalised"))
        self.beta = check_weight("beta", beta, least=0)
        self.control_variate = control_variate
        self.num_samples = check_count("num_samples", num_samples)

    def runs(self, step: Step) -> list[Run]:
        """One run: particle 0 is the bracket's z, particles 1 to K are for q(y|x), and the last one is z, detached."""
        how = {"particles": 1 + self.num_samples, "detach_first": self.detach != "none"}
        run = step.run(self.max_plate_nesting, **how)
        if run.continuous:
            got = f"got the continuous labels {[*run.continuous]}"
            raise InputError(f"{type(self).__name__}: {got}; expected discrete labels")
        return [run]

    def values(self, run: Run) -> list[Value]:
        densities, log_p_observed = self._model_densities(run)
        beta, roles = at((self.beta,), run.step.done), run.roles
        values = [Value(name, value, self._weight(sites, roles, beta)) for name, sites, value in densities]
        values += [Value(f"-log q({name})", -run.first_log_q(name), beta) for name in roles.latents]
        if not run.observed:
            return values
        w, log_q_z = self._importance(run), run.log_q_known
        run.kept["w"] = w
        y = ",".join(f"{label}_o" for label in run.observed)
        values.append(Value(f"-log q({y}|z)", -log_q_z[-1 if self.detach == "weighted-terms" else 0]))
        bracket = sum(value.summed() for value in values).detach()
        values = [Value(v.name.replace("log", "w log", 1), w * v.value, v.weight) for v in values]
        if self.control_variate:
            values.append(Value("control(w)", -_mean_of_others(bracket, run.known_rows) * (w - w.detach())))
        values.append(Value(f"log q({y}|x)", run.log_q_given_data))
        values.append(Value(f"log p({y})", log_p_observed))
        return values

    def monitors(self, run: Run) -> dict[str, Tensor]:
        if not run.observed:
            return {}
        return {"ess": _effective_sample_size(run.kept["w"].detach(), run.known_rows)}

    def _importance(self, run: Run) -> Tensor:
        """w = q(y_o|z) / q(y_o|x), `(B,)`; 1 in rows without labels."""
        own = run.log_q_known[-1 if run.detached else 0]
        log_mean = run.log_q_given_data
        if self.weights == "normalised":  # of all K + 1 samples
            total = torch.logaddexp(own, log_mean + math.log(self.num_samples))
            log_mean = torch.where(run.known_rows, total - math.log(1 + self.num_samples), 0.0)
        return (own - log_mean).exp()

    def _weight(self, names: tuple[str, ...], roles: Roles, beta: float) -> float:
        """beta for latents, 1 for data."""
        if not is_one(beta) and 0 < len(set(names) & set(roles.data)) < len(names):
            raise InputError(f"beta: expected 1 where the sum over a label has both data and latents, here {names}")
        return 1.0 if set(names) <= set(roles.data) else beta

    def _model_densities(self, run: Run) -> tuple[list[tuple[str, tuple[str, ...], Tensor]], Tensor]:
        """log p of data and latents (names, sites, `(B,)`) with missing labels marginalised, and log p(y_o)."""
        sites, roles = run.model.nodes, run.roles
        tables = {name: log_prob(sites[name]) for name in roles.data + roles.labels + roles.latents}
        parents = {name: run.labels_of(tables[name]) for name in roles.data + roles.latents}
        densities = [
            (f"log p({name})", (name,), to_rows(tables[name], sites[name]))
            for name, labels in parents.items()
            if not labels
        ]
        log_p_observed: Tensor | float = 0.0
        for group in self._groups(run, tables):
            children = [name for name, labels in parents.items() if set(labels) & set(group)]
            if not children:
                raise InputError(f"label '{group[0]}': no latent or data site of the model depends on it")
            of_group = self._label_density if len(group) == 1 else self._joint_density
            density, own = of_group(run, group, children, tables)
            if set(group) & set(run.observed):
                log_p_observed = log_p_observed + own
            name = f"log p({','.join(children)}|{','.join(f'{label}_o' for label in group)})"
            densities.append((name, tuple(children), density))
        return densities, log_p_observed

    def _groups(self, run: Run, tables: dict[str, Tensor]) -> list[tuple[str, ...]]:
        """Groups of the model's labels; labels that one density depends on belong to the same group."""
        labels = run.roles.labels
        groups = {label: {label} for label in labels}
        for name, table in tables.items():
            together = {label for label in (*run.labels_of(table), name) if label in groups}
            joined = set().union(*(groups[label] for label in together))
            groups |= dict.fromkeys(joined, joined)
        return [*dict.fromkeys(tuple(sorted(group, key=labels.index)) for group in groups.values())]

    def _label_density(
        self, run: Run, group: tuple[str, ...], children: list[str], tables: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor | float]:
        """log p of the children of one label, given the label or with it marginalised, and log p(y_o)."""
        (label,), sites = group, run.model.nodes
        site, prior = sites[label], tables[label]
        dim, values = enumeration_dim(site), site["value"]
        factor = sum(reduce_plates(tables[n], sites[n], keep=plate_dims(site)) for n in children)
        if self.marginal == "exact":
            summed = torch.logsumexp(factor + prior, dim)
            # Where the prior is masked, use a uniform one, so that masked rows have 0.
            summed = summed - (1 - masked(torch.ones_like(summed), site)) * math.log(len(values))
        else:
            log_q = run.classifier(label).narrow(run.particle_dim, 0, 1)
            inside = factor + prior - log_q
            summed = _draw(inside, log_q, dim) if self.marginal == "sampled" else (log_q.exp() * inside).sum(dim)
        if label not in run.observed:
            return to_rows(summed, site), 0.0
        y = run.observed[label]
        summed = torch.where(is_missing(y), summed, select(factor, values, y, dim))
        return to_rows(summed, site), to_rows(select(prior, values, y, dim), site)

    def _joint_density(
        self, run: Run, group: tuple[str, ...], children: list[str], tables: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """As `_label_density`, for labels that depend on each other or have a child in common.

        It is log p(children, y_o) minus log p(y_o), each with the missing labels marginalised jointly.
        """
        if self.marginal != "exact":
            raise InputError(
                f"marginal: got {self.marginal!r}, and the labels {[*group]}, which depend on each other or have a "
                f"child in common; expected 'exact' for them"
            )
        sites = run.model.nodes
        outside = min((sites[name] for name in (*group, *children)), key=lambda site: len(plate_dims(site)))
        known = {label: run.known(label, sites[label]["value"]) for label in group}
        prior = {label: torch.where(known[label], tables[label], -torch.inf) for label in group}

        def summed(factors: dict[str, Tensor]) -> Tensor:
            return sum(to_rows(table, outside) for table in log_sum(run, factors, group))

        log_p_observed = summed(prior)
        return summed({**prior, **{name: tables[name] for name in children}}) - log_p_observed, log_p_observed


def _draw(values: Tensor, log_q: Tensor, dim: int) -> Tensor:
    """One entry of `values` along `dim`, sampled from q, with the score-function gradient of its mean."""
    drawn = sampled_index(log_q, dim).unsqueeze(dim)
    value, log_q = (torch.gather(t, dim, drawn).squeeze(dim) for t in torch.broadcast_tensors(values, log_q))
    return value + value.detach() * (log_q - log_q.detach())


def _mean_of_others(values: Tensor, rows: Tensor) -> Tensor:
    """The leave-one-out mean of `values` over the mask `rows`, for each row; 0 without other rows."""
    values = torch.where(rows, values, 0.0)
    return (values.sum() - values) / (rows.sum() - 1).clamp(min=1)


def _effective_sample_size(w: Tensor, rows: Tensor) -> Tensor:
    """(sum w)^2 / (n sum w^2) over the n rows of the mask `rows`; 0 if n is 0."""
    w = torch.where(rows, w, 0.0)
    return w.sum() ** 2 / ((w**2).sum() * rows.sum()).clamp(min=torch.finfo(w.dtype).tiny)
