"""The CCVAE bound (Joy et al. 2020, 2021), one expression for any pattern of missing labels."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from pyro import poutine
from torch import Tensor

from pyro_semivae.errors import InputError, check_choice, check_count, check_number
from pyro_semivae.infer.base import RowELBO, Rows, log_prob, masked, plate_dims, reduce_plates, row_dim, row_scale
from pyro_semivae.infer.evidence import Evidence, select
from pyro_semivae.infer.handlers import Particles
from pyro_semivae.infer.labelled import Run
from pyro_semivae.infer.roles import Roles, assign_roles
from pyro_semivae.spaces import any_known, is_missing


class TraceCCVAE_ELBO(RowELBO):
    r"""A bound for labels that are leaves of the guide, q(z | x) q(y | z), and parents of latents in the model.

    With observed labels :math:`y_o` and missing ones :math:`y_m`, guide :math:`q(z|x)` and classifier
    :math:`q(y_o|z) = \prod_{i \in o} q(y_i|z)`, a row's bound is

    .. math::
        \log p(x, y_o) \ge E_{q(z|x)}\Big[ w \Big( \log p(x|z) + \log p(z_s)
            + \sum_{i \in o} \log p(z_c^i|y_i) + \sum_{i \in m} \log \sum_{y_i} p(z_c^i|y_i) p(y_i)
            - \log q(y_o|z) - \log q(z|x) \Big) \Big] + \log q(y_o|x) + \sum_{i \in o} \log p(y_i),

        w = q(y_o|z) / q(y_o|x), \qquad q(y_o|x) = E_{q(z|x)}[q(y_o|z)].

    All labels observed, it is CCVAE's Eq. 4 (REVAE's Eq. 5). None observed, w = 1 and it is the ELBO with the
    exact marginal prior over z_c. The factors of the sum over a label are whatever sites of the model depend on
    it, so other graphs of this kind work as well; the label's own prior must not depend on latents.

    Args:
        marginal: how missing labels enter. `"exact"`: log sum_y p(z_c|y) p(y). `"jensen"`: CCVAE's Eq. 5,
            E_{q(y|z)}[log p(z_c|y) p(y) / q(y|z)], itself summed exactly; looser by KL(q(y|z) || p(y|z_c)), and
            it ties the classifier to the conditional prior on unlabelled rows. `"sampled"`: Jensen's with one draw of
            each missing label, as the authors' code, its gradient by the score function (their PyTorch code leaves
            that out and is biased); unbiased for Jensen's, and noisier.
        detach: where the latents are detached in q(y_o|z). `"weight"`: in w (the authors' PyTorch code; CCVAE
            C.3.1). `"weighted-terms"`: in w and in -log q(y_o|z) (their Pyro code). `"none"`: nowhere, the gradient of
            the bound. What is half-detached is another gradient: w's denominator still pushes log q(y_o|x) up, as many
            times as the bracket has nats, which trains the classifier and moves the encoder. With nothing detached the
            classifier needs a `classifier_weight` and, against noise, the `control_variate` (docs/ccvae.md, detail 3).
        classifier_weight: multiplies log q(y_o|x). At 1 it is the bound, and the bound hardly pushes the
            classifier (scaling q(y|z) by a constant changes nothing, for -log q(y_o|z) and log q(y_o|x)
            cancel); above 1 is a documented departure.
        beta: multiplies log p and log q of the latents, as in beta-VAE: all of `p(z)` and `q(z)`, and so with the
            Jensen bound also the log p(y) - log q(y|z) of a missing label. Not log p(x), not the terms of observed
            labels. At 1 it is the bound; above 1 is a documented departure that narrows the latents' channel.
        num_samples: K, the number of draws of z for q(y_o|x), from the guide alone and independent of the
            bracket's.
        weights: how w is estimated from them. `"normalised"`: q(y_o|z) over the mean of all K + 1, the bracket's own
            among them; its mean is 1 whatever K, and it is at most K + 1. `"independent"`, the papers': over the mean
            of the K others; its mean is above 1 (and falls to it as K grows) and nothing caps it: with many labels the
            bound starts thousands of nats too low, and training drowns. Both are biased by O(1/K).
        control_variate: whether the gradient of w is taken times the bracket less its mean over the batch's other
            labelled rows, instead of times the bracket. A bracket is minus thousands of nats (all of log p(x|z)), so
            that without it the classifier learns little but noise, and with `detach` the encoder is told thousands of
            times over to raise q(y_o|x): through w's denominator, for of its numerator that part is cut off. Since w
            has mean 1, it changes no expectation with normalised weights and `detach="none"`, which it makes usable.
            A term of value 0.
        regulariser_weight: mu of REVAE D.2: mu log q(y~|z') on rows without any observed label, with y ~ p(y),
            z' ~ p(z_c|y) (detached), and y~ the label of the labelled row of the batch whose q(z_c|x) is
            highest at z' (the paper takes it over all labelled rows, which is the same where a batch holds them
            all). Needs a single label site; costs a second run of the guide.
        consistency_weight: lambda of -lambda KL(r(y) || q(y|z)) on missing labels, r(y) = q(y|x) (K draws, no gradient)
            of another run of the guide, under other noise: a corrupted image (`fit`'s `corrupt`), dropout, z. Not part
            of the bound: a departure that asks of unlabelled rows that the classifier not mind the noise (the Pi-model
            of Laine and Aila, ICLR 2017). Costs a second run of the guide, without gradients.
        entropy_weight: kappa of -kappa H(q(y|z)) on missing labels: an image is to be of one class.
        balance_weight: lambda of -lambda KL(q(y) || p(y)), q(y) the mean of q(y|z) over the batch's missing labels: the
            classes are to be as frequent as their prior says. One number a batch, not multiplied by the rows' scale.
            With `entropy_weight` it is information maximisation (Krause et al., NeurIPS 2010; Hu et al., ICML 2017): no
            part of the bound, it finds clusters where labels are too few to.
        max_plate_nesting: 1 for class labels, 2 where a label has entries in a plate inside of the rows'.

    Terms (each `(B,)`, in nats, named by the sites; here for CCVAE's): `p(x)`, `p(z_s)`, `p(z_c)`, `q(z_s)`,
    `q(z_c)`, weighted by w, `q(..)` with minus; `p(z_c)` is log p(z_c|y_o) where y is observed and the marginal
    where it is missing; `q(y|z)` = -w log q(y_o|z), `q(y|x)`, `p(y)`, `control(w)` (0), `regulariser`, `consistency`,
    `entropy`; and `batch/balance`, a scalar. Monitor: `ess`, the effective sample size of w over the rows with an
    observed label, as a fraction of their number.

    Raises:
        ValueError: an option is not one of those above; the guide lacks a classifier that the bound needs.
    """

    def __init__(
        self,
        *,
        marginal: Literal["exact", "jensen", "sampled"] = "exact",
        detach: Literal["weight", "weighted-terms", "none"] = "weight",
        classifier_weight: float = 1.0,
        beta: float = 1.0,
        weights: Literal["independent", "normalised"] = "normalised",
        control_variate: bool = False,
        num_samples: int = 20,
        regulariser_weight: float = 0.0,
        consistency_weight: float = 0.0,
        entropy_weight: float = 0.0,
        balance_weight: float = 0.0,
        max_plate_nesting: int = 1,
    ):
        super().__init__(max_plate_nesting=max_plate_nesting)
        for name, value, accepted in (
            ("marginal", marginal, ("exact", "jensen", "sampled")),
            ("detach", detach, ("weight", "weighted-terms", "none")),
            ("weights", weights, ("independent", "normalised")),
        ):
            check_choice(name, value, accepted)
        factors = {
            "classifier_weight": classifier_weight,
            "beta": beta,
            "regulariser_weight": regulariser_weight,
            "consistency_weight": consistency_weight,
            "entropy_weight": entropy_weight,
            "balance_weight": balance_weight,
        }
        for name, value in factors.items():
            check_number(name, value, least=0)
        self.marginal = marginal
        self.detach = detach
        self.classifier_weight = classifier_weight
        self.beta = beta
        self.weights = weights
        self.control_variate = control_variate
        self.num_samples = check_count("num_samples", num_samples)
        self.regulariser_weight = regulariser_weight
        self.consistency_weight = consistency_weight
        self.entropy_weight = entropy_weight
        self.balance_weight = balance_weight
        self.needs_labels = classifier_weight != 1 or regulariser_weight != 0

    def rows(self, model: Callable, guide: Callable, *args, **kwargs) -> Rows:
        # Particle 0 is the bracket's z, particles 1 .. K those of q(y|x), the last one is z, detached.
        detached = self.detach != "none"
        guide_trace, model_trace, evidence = self.traces(
            model, guide, args, kwargs, particles=1 + self.num_samples, detach_first=detached
        )
        roles = assign_roles(model_trace, guide_trace)
        run, observed = Run(guide_trace, model_trace, roles, evidence.observed), evidence.observed
        if evidence.continuous:
            raise InputError(f"labels {evidence.continuous} are continuous; accepted by this bound are discrete ones")
        densities, log_p_observed = self._model_densities(run)
        terms = {f"p({','.join(sites)})": self._weight(sites, roles) * value for sites, value in densities.items()}
        for name in roles.latents:
            terms[f"q({name})"] = -self.beta * self.first_log_prob(guide_trace.nodes[name])
        scale = row_scale(model_trace, roles.data + roles.latents)
        after = {}
        if self.consistency_weight:
            divergence = self._divergence_from_another_run(run, lambda: guide(*args, **kwargs))
            after["consistency"] = -self.consistency_weight * divergence
        if self.entropy_weight:
            after["entropy"] = -self.entropy_weight * self._entropy(run)
        if self.balance_weight:
            after["batch/balance"] = -self.balance_weight * self._imbalance(run)
        if not observed:
            return Rows({**terms, **after}, scale)

        labelled = torch.stack([any_known(y) for y in observed.values()]).any(0)
        log_q_z = self._log_q_observed(run)  # log q(y_o|z), (particles, B)
        log_q_x = torch.logsumexp(log_q_z[1 : 1 + self.num_samples], 0) - math.log(self.num_samples)
        log_q_x = torch.where(labelled, log_q_x, 0.0)  # exactly, whatever the rounding
        log_q_own = log_q_z[-1 if detached else 0]
        log_mean = log_q_x
        if self.weights == "normalised":  # of all K + 1 draws
            total = torch.logaddexp(log_q_own, log_q_x + math.log(self.num_samples))
            log_mean = torch.where(labelled, total - math.log(1 + self.num_samples), 0.0)
        w = (log_q_own - log_mean).exp()
        y = ",".join(observed)
        terms[f"q({y}|z)"] = -log_q_z[-1 if self.detach == "weighted-terms" else 0]
        bracket = sum(terms.values()).detach()
        terms = {name: w * term for name, term in terms.items()}
        if self.control_variate:
            terms["control(w)"] = -_mean_of_others(bracket, labelled) * (w - w.detach())
        terms[f"q({y}|x)"] = self.classifier_weight * log_q_x
        terms[f"p({y})"] = log_p_observed
        if self.regulariser_weight:
            log_q = self._log_q_nearest(run, lambda: guide(*args, **kwargs))
            terms["regulariser"] = self.regulariser_weight * torch.where(labelled, 0.0, log_q)
        return Rows({**terms, **after}, scale, {"ess": _effective_sample_size(w.detach(), labelled)})

    def _weight(self, names: tuple[str, ...], roles: Roles) -> float:
        """beta for latents, 1 for data."""
        if self.beta != 1 and 0 < len(set(names) & set(roles.data)) < len(names):
            raise InputError(f"beta: accepted is 1 where one label's sum has both data and latents, here {names}")
        return 1.0 if set(names) <= set(roles.data) else self.beta

    def _model_densities(self, run: Run) -> tuple[dict[tuple[str, ...], Tensor], Tensor | float]:
        """log p of data and latents, `(B,)` by their sites, missing labels summed; and log p(y_o)."""
        sites, roles, observed = run.model.nodes, run.roles, run.observed
        tables = {name: log_prob(sites[name]) for name in roles.data + roles.labels + roles.latents}
        parents = {name: run.label_of(name, tables[name]) for name in roles.data + roles.latents}
        densities = {(name,): self.to_rows(tables[name], sites[name]) for name, label in parents.items() if not label}
        log_p_observed: Tensor | float = 0.0
        for label in roles.labels:
            site, prior = sites[label], tables[label]
            dim, values = site["infer"]["_enumerate_dim"], site["value"]
            children = [name for name, parent in parents.items() if parent == label]
            factor = sum(reduce_plates(tables[n], sites[n], keep=plate_dims(site)) for n in children)
            if not children:
                raise InputError(f"label '{label}': no latent or data site of the model depends on it")
            if self.marginal == "exact":
                summed = torch.logsumexp(factor + prior, dim)
                # Without its prior (masked) a label is summed with even odds, so that a row that is masked has 0.
                summed = summed - (1 - masked(torch.ones_like(summed), site)) * math.log(len(values))
            else:
                log_q = self._classifier(run, label).narrow(self.particle_dim, 0, 1)
                inside = factor + prior - log_q
                summed = _draw(inside, log_q, dim) if self.marginal == "sampled" else (log_q.exp() * inside).sum(dim)
            if label in observed:
                y = observed[label]
                summed = torch.where(is_missing(y), summed, select(factor, values, y, dim))
                log_p_observed = log_p_observed + self.to_rows(select(prior, values, y, dim), site)
            densities[tuple(children)] = self.to_rows(summed, site)
        return densities, log_p_observed

    def _classifier(self, run: Run, label: str) -> Tensor:
        """log q(y|z) of every value of a label, `(C, ..., particles, plates)`."""
        if label not in run.guide.nodes:
            raise InputError(
                f"label '{label}' is not in the guide: this bound needs its classifier q({label}|z) there, with "
                f'infer={{"enumerate": "parallel"}}'
            )
        table = log_prob(run.guide.nodes[label])
        if table.shape[self.particle_dim] == 1:  # and there is more than one particle
            raise InputError(f"label '{label}': the guide's q({label}|..) must depend on a sampled latent")
        return table

    def _log_q_observed(self, run: Run) -> Tensor:
        """log q(y_o|z) = sum over the observed entries, `(particles, B)`; 0 in rows without any."""
        total: Tensor | float = 0.0
        for label, y in run.observed.items():
            log_q, site = self._classifier(run, label), run.guide.nodes[label]
            table = select(log_q, site["value"], y, site["infer"]["_enumerate_dim"])
            table = reduce_plates(table, site, keep={row_dim(site)})
            total = total + table.reshape(table.shape[self.particle_dim], table.shape[row_dim(site)])
        return total

    def _divergence_from_another_run(self, run: Run, guide: Callable[[], None]) -> Tensor:
        """KL(r(y) || q(y|z)) summed over the missing labels of each row, r from another run of the guide, `(B,)`."""
        particles = Particles(self.num_samples, self.particle_dim)
        with torch.no_grad(), poutine.enum(first_available_dim=self.particle_dim - 1), particles:
            other = poutine.trace(Evidence()(guide)).get_trace()

        def divergence(label: str, log_q: Tensor, dim: int) -> Tensor:
            with torch.no_grad():
                log_r = log_prob(other.nodes[label]).logsumexp(self.particle_dim, keepdim=True)
                log_r = log_r - math.log(self.num_samples)
            return (log_r.exp() * (log_r - log_q)).sum(dim)

        return self._over_missing(run, divergence)

    def _entropy(self, run: Run) -> Tensor:
        """H(q(y|z)) summed over the missing labels of each row, `(B,)`."""
        return self._over_missing(run, lambda label, log_q, dim: -(log_q.exp() * log_q).sum(dim))

    def _over_missing(self, run: Run, of: Callable[[str, Tensor, int], Tensor]) -> Tensor:
        """A function of each label, its log q(y|z) at the first particle and the dimension of its values, summed over a
        row's missing labels, `(B,)`."""
        total: Tensor | float = 0.0
        for label in run.roles.labels:
            log_q, site = self._classifier(run, label).narrow(self.particle_dim, 0, 1), run.guide.nodes[label]
            values = of(label, log_q, site["infer"]["_enumerate_dim"])
            total = total + self.to_rows(run.where_missing(label, values), site)
        return total

    def _imbalance(self, run: Run) -> Tensor:
        """KL(q(y) || p(y)) summed over labels, q(y) the mean of q(y|z) over the rows where y is missing, a scalar."""
        total: Tensor | float = 0.0
        for label in run.roles.labels:
            log_q, site = self._classifier(run, label).narrow(self.particle_dim, 0, 1), run.guide.nodes[label]
            rows, of_model = row_dim(site), run.model.nodes[label]
            prior = of_model["fn"].log_prob(of_model["value"]).narrow(rows, 0, 1)  # (C, 1, 1 [, L]), as in every row
            missing = masked(run.where_missing(label, torch.ones_like(log_q[:1])), site)
            mean = (log_q.exp() * missing / missing.sum(rows, keepdim=True).clamp(min=1)).sum(rows, keepdim=True)
            log_mean = mean.clamp(min=torch.finfo(mean.dtype).tiny).log()  # no row may be missing
            total = total + (mean * (log_mean - prior)).sum()
        return total

    def _log_q_nearest(self, run: Run, guide: Callable[[], None]) -> Tensor:
        """REVAE D.2: log q(y~|z') with z' ~ p(z_c|y) and y~ the label of the nearest labelled row, `(B,)`."""
        if len(run.roles.labels) != 1 or next(iter(run.observed.values())).dim() != 1:
            raise InputError(f"regulariser_weight: needs one class label, got the label sites {run.roles.labels}")
        (label,) = run.roles.labels
        site, y = run.model.nodes[label], run.observed[label]
        dim, drawn = site["infer"]["_enumerate_dim"], site["fn"].sample()  # (B,)
        draws = {}
        for name in run.roles.latents:
            fn = run.model.nodes[name]["fn"]
            if run.label_of(name, log_prob(run.model.nodes[name])):
                z = fn.sample().movedim(dim - fn.event_dim, 0)  # (C, ..., B, D)
                z = z.reshape(z.shape[:1] + z.shape[-1 - fn.event_dim :])  # (C, B, D)
                draws[name] = z[drawn, torch.arange(len(y), device=y.device)]  # (B, D)
        log_q_z = sum(  # log q(z'_b | x_r) of every draw b under every row r, (B, B)
            run.guide.nodes[name]["fn"].log_prob(z.unsqueeze(1)) for name, z in draws.items()
        )
        nearest = log_q_z.masked_fill(is_missing(y), -math.inf).argmax(1)
        with (
            poutine.enum(first_available_dim=self.particle_dim - 1),
            Evidence().then_model(),
            poutine.condition(data=draws),
        ):
            classifier = poutine.trace(guide).get_trace().nodes[label]
        log_q_y = select(log_prob(classifier), classifier["value"], y[nearest], classifier["infer"]["_enumerate_dim"])
        return self.to_rows(log_q_y, classifier)


def _draw(values: Tensor, log_q: Tensor, dim: int) -> Tensor:
    """One entry of `values` along `dim`, drawn from q; the gradient is that of its mean (score function)."""
    gumbel = -(-torch.rand_like(log_q).clamp(min=torch.finfo(log_q.dtype).tiny).log()).log()
    drawn = (log_q + gumbel).argmax(dim, keepdim=True)
    value, log_q = (torch.gather(t, dim, drawn).squeeze(dim) for t in torch.broadcast_tensors(values, log_q))
    return value + value.detach() * (log_q - log_q.detach())


def _mean_of_others(values: Tensor, rows: Tensor) -> Tensor:
    """For each row the mean of `values` over the other `rows` of a mask; 0 where there are none."""
    values = torch.where(rows, values, 0.0)
    return (values.sum() - values) / (rows.sum() - 1).clamp(min=1)


def _effective_sample_size(w: Tensor, rows: Tensor) -> Tensor:
    """(sum w)^2 / (n sum w^2) over the `rows` of a mask, a fraction of their number n; 0 where there are none."""
    w = torch.where(rows, w, 0.0)
    return w.sum() ** 2 / ((w**2).sum() * rows.sum()).clamp(min=torch.finfo(w.dtype).tiny)
