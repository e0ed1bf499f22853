"""The multimodal VAE's objective: ELBOs of all evidence, of single modalities and of random subsets."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from pyro_semivae.errors import InputError, check_count, check_number
from pyro_semivae.infer.base import Bound
from pyro_semivae.infer.evaluation import Value
from pyro_semivae.infer.evidence import enumeration_dim, select
from pyro_semivae.infer.handlers import Until
from pyro_semivae.infer.run import Run
from pyro_semivae.infer.step import Step
from pyro_semivae.infer.tables import log_prob, reduce_plates, row_dim
from pyro_semivae.infer.weights import Weight, at, check_weight
from pyro_semivae.spaces import all_missing, any_known, as_labels, entry_by_entry


class TraceMVAE_ELBO(Bound):
    r"""Sub-sampled ELBOs for a guide q(z | evidence) with any subset as evidence (Wu and Goodman 2018, Eq. 5).

    With modalities X, the image and each observed label,

    .. math::
        \mathrm{ELBO}(x, y_o) + \mathrm{ELBO}(x) + \sum_{i \in o} \mathrm{ELBO}(y_i)
            + \sum_{j=1}^{k} \mathrm{ELBO}(X_j), \qquad
        \mathrm{ELBO}(X) = E_{q(z|X)}\Big[\sum_{m \in X} \lambda_m \log p(m|z) + \log p(z) - \log q(z|X)\Big].

    Only the first is a bound on log p(x, y_o); the others train the guide for incomplete evidence. Rows without labels
    have ELBO(x) only.

    Args:
        label_weight: lambda of the labels (the authors' code: 10 on MNIST and CelebA, 50 on FashionMNIST); the image's
            is 1.
        subsets: k. A subset contains each label with probability 1/2; the first, third, ... also contain the image. No
            effect if there is only one label.
        beta: multiplies log p and log q of the latents.
        max_plate_nesting: 1 for class labels, 2 if a label has entries in a plate inside the plate of rows.

    The model must sample its labels before its image, because ELBOs without the image stop there. In total, an image is
    encoded once per step and decoded 2 + ceil(k / 2) times; images without labels are decoded once, if the step says
    which rows are labelled (`fit` does).

    Terms (each `(B,)`, in nats): `log p(x|z)`, `log p(y|z)`, `log p(z)`, `-log q(z|x,y)` of the first ELBO; the same
    names with the prefix `x:` for the image's ELBO, `y:` for the sum of the labels' ELBOs, `subset:` for the sum of the
    subsets' ELBOs.

    Raises:
        ValueError: an option has an invalid value; the guide has label sites.
    """

    def __init__(self, *, label_weight: float = 1.0, subsets: int = 1, beta: Weight = 1.0, max_plate_nesting: int = 1):
        super().__init__(max_plate_nesting=max_plate_nesting)
        self.label_weight = check_number("label_weight", label_weight, least=0)
        self.subsets, self.beta = check_count("subsets", subsets, 0), check_weight("beta", beta, least=0)

    def runs(self, step: Step) -> list[Run]:
        """The runs with the image: one for labelled and one for unlabelled rows, if the step says which they are."""
        return [self._run(part) for part in step.parts()]

    def _run(self, step: Step) -> Run:
        x, y = self._arguments(step)
        if y is None or step.without_labels:
            return step.another((self, "image"), args=(x, None), kwargs={}).run(self.max_plate_nesting)
        y = as_labels(y)
        nothing, alone = all_missing(y), entry_by_entry(y)
        some = [_half(y, nothing) for _ in range(self.subsets if len(alone) > 1 else 0)]
        # The evidence sets lie in the dimension of particles, left of all plates, so that an image is encoded once.
        args = (x, torch.stack([y, nothing, *some[::2]]))
        seen = step.another((self, "image and labels"), args=args, kwargs={}).run(self.max_plate_nesting)
        self._check(seen)
        without = [*alone, *some[1::2]]
        of_labels = {"model": Until(seen.roles.labels)(step.model), "args": (None, torch.stack(without)), "kwargs": {}}
        unseen = step.another((self, "labels"), **of_labels).run(self.max_plate_nesting)
        seen.kept.update(y=y, unseen=unseen, without=without, alone=len(alone), some=bool(some))
        return seen

    def _arguments(self, step: Step) -> tuple[Tensor | None, Tensor | None]:
        values = [*step.named().values()]
        return values[0], values[1] if len(values) > 1 else None

    def _check(self, run: Run) -> None:
        if own := set(run.roles.labels) & set(run.guide.nodes):
            raise InputError(f"labels {sorted(own)} are sites of the guide; expected them as arguments only")

    def values(self, run: Run) -> list[Value]:
        if "y" not in run.kept:
            return [replace(value, value=value.value[0]) for value in self._elbos(run)]
        y, without, alone = (run.kept[name] for name in ("y", "without", "alone"))
        labels, unseen = run.roles.labels, self._elbos(run.kept["unseen"])
        seen = [replace(v, value=torch.cat([v.value[:1], _where_known(y, v.value[1:])])) for v in self._elbos(run)]
        unseen = [replace(v, value=_where_known(torch.stack(without), v.value)) for v in unseen]
        values = [replace(v, value=v.value[0]) for v in seen]
        of_image = [v for v in seen if v.name not in {f"log p({name})" for name in labels}]
        values += [_extra("x", v, v.value[1]) for v in of_image]
        values += [_extra("y", v, v.value[:alone].sum(0)) for v in unseen]
        if run.kept["some"]:
            of_subsets = {v.name: v.value[2:].sum(0) for v in seen}
            for v in unseen:
                of_subsets[v.name] = of_subsets[v.name] + v.value[alone:].sum(0)
            values += [_extra("subset", v, of_subsets[v.name]) for v in seen]
        return values

    def _elbos(self, run: Run) -> list[Value]:
        """The terms of the ELBOs for the same images with several subsets of their labels, `(parts, B)`."""
        roles, beta = run.roles, at((self.beta,), run.step.done)
        values = []
        for name, site in run.model.nodes.items():
            if name in roles.latents:
                of_guide = run.guide.nodes[name]
                values.append(Value(f"log p({name})", _to_parts(log_prob(site), site), beta))
                values.append(Value(f"-log q({name})", -_to_parts(log_prob(of_guide), of_guide), beta))
            elif name in run.observed:
                log_p = select(log_prob(site), site["value"], run.observed[name], enumeration_dim(site))
                values.append(Value(f"log p({name})", _to_parts(log_p, site), self.label_weight))
            elif name in roles.data:
                values.append(Value(f"log p({name})", _to_parts(log_prob(site), site)))
        return values


def _extra(of: str, value: Value, by_row: Tensor) -> Value:
    """A term of another ELBO than the first one, which is the bound."""
    return replace(value, name=f"{of}: {value.name}", value=by_row, in_elbo=False)


def _to_parts(table: Tensor, site: dict) -> Tensor:
    """Sums a site's `table` over the plates inside the plate of rows, `(parts, B)`."""
    dim = row_dim(site)
    return reduce_plates(table, site, keep={dim}).reshape(-1, table.shape[dim])


def _where_known(y: Tensor, values: Tensor) -> Tensor:
    """`values` `(parts, B)`, set to 0 in rows without known entries in `y`, `(B, ...)` or `(parts, B, ...)`."""
    return torch.where(any_known(y), values, 0.0)


def _half(y: Tensor, nothing: Tensor) -> Tensor:
    """`y` with each entry kept with probability 1/2, and missing otherwise."""
    return torch.where(torch.rand(y.shape, device=y.device) < 0.5, y, nothing)
