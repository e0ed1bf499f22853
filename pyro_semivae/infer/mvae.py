"""The objective of the multimodal VAE: ELBOs of all that is known, of single modalities and of random subsets."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pyro_semivae.errors import InputError, check_count, check_number
from pyro_semivae.infer.base import RowELBO, Rows, joined, log_prob, reduce_plates, row_dim, row_scale
from pyro_semivae.infer.evidence import select
from pyro_semivae.infer.handlers import LabelledFirst, Until
from pyro_semivae.infer.roles import assign_roles
from pyro_semivae.spaces import all_missing, any_known, as_labels, entry_by_entry


class TraceMVAE_ELBO(RowELBO):
    r"""Sub-sampled ELBOs of a guide q(z | evidence) that takes any part of the evidence (Wu and Goodman 2018, Eq. 5).

    With modalities X, the image and each observed label,

    .. math::
        \mathrm{ELBO}(x, y_o) + \mathrm{ELBO}(x) + \sum_{i \in o} \mathrm{ELBO}(y_i)
            + \sum_{j=1}^{k} \mathrm{ELBO}(X_j), \qquad
        \mathrm{ELBO}(X) = E_{q(z|X)}\Big[\sum_{m \in X} \lambda_m \log p(m|z) + \log p(z) - \log q(z|X)\Big].

    Only the first is a bound on log p(x, y_o); the others train the guide for evidence that is not complete. Rows
    without labels have ELBO(x) alone.

    Args:
        label_weight: lambda of the labels (their code: 10 on MNIST and CelebA, 50 on FashionMNIST); the image's is 1.
        subsets: k. A subset holds each label with probability 1/2, and the image in every other one (in the first, the
            third, ...). Without effect where there is one label only.
        beta: multiplies log p and log q of the latents.
        max_plate_nesting: 1 for class labels, 2 where a label has entries in a plate inside of the rows'.

    The model must sample its labels before its image: what is known without the image is scored without it. All in all,
    an image is encoded once a step and decoded 2 + ceil(k / 2) times, or once without labels where `LabelledFirst` says
    which rows have any (`fit` does).

    Terms (each `(B,)`, in nats, named by the sites): `p(x)`, `p(y)`, `p(z)`, `q(z)` of the first ELBO, `x/p(x)`,
    `x/p(z)`, `x/q(z)` of the image's, `y/p(y)`, `y/p(z)`, `y/q(z)` of the labels' (their sum), `subset/...` of the
    subsets'.

    Raises:
        ValueError: an option is not one of those above; the guide has label sites.
    """

    def __init__(self, *, label_weight: float = 1.0, subsets: int = 1, beta: float = 1.0, max_plate_nesting: int = 1):
        super().__init__(max_plate_nesting=max_plate_nesting)
        for name, value in (("label_weight", label_weight), ("beta", beta)):
            check_number(name, value, least=0)
        self.label_weight, self.subsets, self.beta = label_weight, check_count("subsets", subsets, 0), beta

    def rows(self, model: Callable, guide: Callable, x: Tensor, y: Tensor | None = None) -> Rows:
        if y is None:
            terms, scale, _ = self._elbos(model, guide, x, [None])
            return Rows({name: value[0] for name, value in terms.items()}, scale)
        y, number = as_labels(y), LabelledFirst.number_now()
        if 0 < number < len(x):
            with LabelledFirst(0):
                labelled = self.rows(model, guide, x[:number], y[:number])
            return joined(labelled, self.rows(model, guide, x[number:]))
        nothing, alone = all_missing(y), entry_by_entry(y)
        some = [_half(y, nothing) for _ in range(self.subsets if len(alone) > 1 else 0)]
        with_image, without = [y, nothing, *some[::2]], [*alone, *some[1::2]]
        seen, scale, labels = self._elbos(model, guide, x, with_image)
        unseen, *_ = self._elbos(Until(labels)(model), guide, None, without)
        seen = {name: torch.cat([value[:1], _where_known(y, value[1:])]) for name, value in seen.items()}
        unseen = {name: _where_known(torch.stack(without), value) for name, value in unseen.items()}
        terms = {name: value[0] for name, value in seen.items()}
        terms |= {f"x/{name}": value[1] for name, value in seen.items() if name not in _of(labels)}
        terms |= {f"y/{name}": value[: len(alone)].sum(0) for name, value in unseen.items()}
        if some:
            subsets = {name: value[2:].sum(0) for name, value in seen.items()}
            for name, value in unseen.items():
                subsets[name] = subsets[name] + value[len(alone) :].sum(0)
            terms |= {f"subset/{name}": value for name, value in subsets.items()}
        return Rows(terms, scale)

    def _elbos(
        self, model: Callable, guide: Callable, x: Tensor | None, parts: list[Tensor | None]
    ) -> tuple[dict[str, Tensor], float | Tensor, tuple[str, ...]]:
        """The terms of the ELBOs of the same images with several parts of their labels, `(parts, B)`, in one run.

        The parts lie in the dimension of particles, left of all plates, so that an image is encoded once for all of
        them. Returns also the scale of the rows and the names of the label sites.
        """
        y = None if parts[0] is None else torch.stack(parts)
        guide_trace, model_trace, evidence = self.traces(model, guide, (x, y), {})
        roles, sites = assign_roles(model_trace, guide_trace), model_trace.nodes
        if own := set(roles.labels) & set(guide_trace.nodes):
            raise InputError(f"labels {sorted(own)} are sites of the guide: this objective takes them as evidence")
        terms = {}
        for name, site in sites.items():
            if name in roles.latents:
                of_guide = guide_trace.nodes[name]
                terms[f"p({name})"] = self.beta * _to_parts(log_prob(site), site)
                terms[f"q({name})"] = -self.beta * _to_parts(log_prob(of_guide), of_guide)
            elif name in evidence.observed:
                dim = site["infer"]["_enumerate_dim"]
                log_p = select(log_prob(site), site["value"], evidence.observed[name], dim)
                terms[f"p({name})"] = self.label_weight * _to_parts(log_p, site)
            elif name in roles.data:
                terms[f"p({name})"] = _to_parts(log_prob(site), site)
        return terms, row_scale(model_trace, roles.data + roles.latents), roles.labels


def _to_parts(table: Tensor, site: dict) -> Tensor:
    """Sums a site's `table` over the plates inside of "data", `(parts, B)`."""
    dim = row_dim(site)
    return reduce_plates(table, site, keep={dim}).reshape(-1, table.shape[dim])


def _of(labels: tuple[str, ...]) -> set[str]:
    return {f"p({name})" for name in labels}


def _where_known(y: Tensor, values: Tensor) -> Tensor:
    """`values` `(parts, B)`, 0 in rows where no label of `y`, `(B, ...)` or `(parts, B, ...)`, is known."""
    return torch.where(any_known(y), values, 0.0)


def _half(y: Tensor, nothing: Tensor) -> Tensor:
    """Each entry with probability 1/2."""
    return torch.where(torch.rand(y.shape, device=y.device) < 0.5, y, nothing)
