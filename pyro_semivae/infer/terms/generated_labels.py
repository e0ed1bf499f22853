"""The label loss on generated data: the guide infers the labels that the model generated the data from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor

from pyro_semivae.errors import InputError, check_choice, check_number
from pyro_semivae.infer.base import Term
from pyro_semivae.infer.generation import Generating, generated_sites
from pyro_semivae.infer.graph import argument_names
from pyro_semivae.infer.roles import sample_sites
from pyro_semivae.infer.run import Run
from pyro_semivae.infer.some_rows import SomeRows
from pyro_semivae.infer.tables import log_prob, masked, plate_dims, to_rows
from pyro_semivae.infer.terms.regression import regression
from pyro_semivae.spaces import is_missing


class GeneratedLabelsTerm(Term):
    r"""The label loss on data that the model generates from sampled labels (ours).

    .. math::
        -\sum_i (\mu_{y_i}(\tilde x) - y'_i)^2, \qquad
        y'_i \sim \hat p(y_i), \quad z \sim p(z), \quad \tilde x = E[x | y', z]

    for continuous labels, and log q(y'|x~) for classes. It trains one of two parts:

    * the **guide** (`teaches="guide"`, for LaRVAE): no gradient goes through x~. This is the loss of wake-sleep's sleep
      phase (Hinton et al. 1995) for the guide's labels, with an unlimited number of labels, and of the inverted VAE's
      reverse bound.
    * the **model** (`teaches="model"`, for models with other latents than the label's): the gradient goes through x~
      only, to the decoder and p(z_c|y), and the guide's parameters get none. With log q(y'|x~) it is a bound on the
      mutual information of an image and its label,

      .. math::
          I(y'; \tilde x) \ge H(y') + E[\log q(y'|\tilde x)]

      (Barber and Agakov, NIPS 2003). With the other latents from the guide (`kept`), the label overrules the class
      information in an example's own style, so that these latents cannot carry the class.

    Args:
        labels: names of labels; default: all. density: whether to use log q(y'|x~) for continuous labels, too.
        labels_from: y' from the `"batch"`, each entry from a random row that has it, so that entries are independent;
            the term is 0 for a batch in which some entry has no known value. Or y' from the model's `"prior"`, which
            needs no observed labels.
        kept: names of latents with each example's own value from the guide, without gradient; all others come from the
            model. teaches: see above.
        latents: names of latents that the guide infers as well, log q(z_s|x~) at the z_s that x~ is decoded from; with
            `teaches="model"`, a bound on the mutual information of x~ and z_s, as for labels. None of them may be a
            parent of a label in the guide, which would then read it.
        share: the fraction of the rows, chosen at random, that have the term, scaled up accordingly.

    Raises:
        InputError: an option has an invalid value. When evaluated: a label or latent does not exist; a latent
            to keep has one value for each value of a label.
    """

    def __init__(
        self,
        *labels: str,
        density: bool = False,
        labels_from: Literal["batch", "prior"] = "batch",
        kept: Sequence[str] = (),
        teaches: Literal["guide", "model"] = "guide",
        latents: Sequence[str] = (),
        share: float = 1.0,
    ):
        self.labels, self.density, self.kept, self.latents = labels, density, tuple(kept), tuple(latents)
        self.labels_from = check_choice("labels_from", labels_from, ("batch", "prior"))
        self.teaches = check_choice("teaches", teaches, ("guide", "model"))
        self.share = check_number("share", share, above=0, most=1)

    @property
    def whole_batch(self) -> bool:
        """Labels from the batch need all its rows."""
        return self.labels_from == "batch"

    def values(self, run: Run) -> Mapping[str, Tensor]:
        there = (*run.observed,) if self.labels_from == "batch" else (*run.roles.labels, *run.continuous)
        there += tuple(name for name in self.labels if name in run.latents)  # continuous labels missing in all rows
        self._check(run, there)
        names = [name for name in there if not self.labels or name in self.labels]
        if not names:
            return {}
        rows, step, known = SomeRows(run, self.share), run.step, None
        changes: dict[str, Any] = dict.fromkeys(there)
        if self.labels_from == "batch":
            drawn = {name: shuffled(step.named()[name]) for name in run.observed}
            changes = {name: rows.of(y) for name, (y, _) in drawn.items()}
            known = torch.stack([complete for _, complete in drawn.values()]).all()
        by_model = self.teaches == "model" and torch.is_grad_enabled()
        with torch.set_grad_enabled(by_model):
            made = self._generated(rows, changes)
        if self.labels_from == "prior":
            changes = {name: _as_argument(made[name]).detach() for name in there}
        own = {name: rows.of(step.named()[name]) for name in generated_sites(run)}
        x = {name: made[name]["value"].reshape(value.shape) for name, value in own.items()}
        seen = {name: value.detach().requires_grad_(by_model) for name, value in x.items()}
        args, kwargs = rows.arguments({**changes, **seen})
        with poutine.condition(data={name: made[name]["value"].detach() for name in self.latents}):
            guide = poutine.trace(step.guide).get_trace(*args, **kwargs)
        found = [self._label_loss(run, guide, name, changes[name]) for name in names]
        sites = {name: guide.nodes[name] for name in self.latents}
        found += [(f"log q({name}|x~)", to_rows(log_prob(site), site)) for name, site in sites.items()]
        if by_model:
            found = [(name, through(value, seen, x)) for name, value in found]
        if known is not None:
            found = [(name, torch.where(known, value, 0.0)) for name, value in found]
        before = "shown: " if self.teaches == "model" else ""
        return {f"{before}{name}": rows.spread(value) for name, value in found}

    def _check(self, run: Run, labels: Sequence[str]) -> None:
        unknown = [name for name in self.labels if name not in labels]
        if unknown and (labels or self.labels_from == "prior"):
            accepted = ", ".join(labels) or "labels of the model, which has none (or hides them)"
            raise InputError(f"GeneratedLabelsTerm: got {unknown}; expected labels: {accepted}")
        if not labels and self.labels_from == "prior":
            raise InputError(
                "GeneratedLabelsTerm: got no label; expected a model with one, or the names of continuous labels that "
                "are missing in all rows"
            )
        accepted = {*argument_names(run.step.model, keyword_only=True), *run.step.named()}
        for what, names in (("labels", labels), ("data", generated_sites(run))):
            if unknown := [name for name in names if name not in accepted]:
                raise InputError(
                    f"model: its {what} {unknown} are no arguments of that name; expected y=... for the site 'y'"
                )
        if not generated_sites(run):
            raise InputError("GeneratedLabelsTerm: got a model without float data; expected some to generate")
        for what, latents in (("kept", self.kept), ("latents", self.latents)):
            if unknown := [name for name in latents if name not in run.latents]:
                raise InputError(f"{what}: got {unknown}; expected latents: {', '.join(run.latents)}")
        for name in self.kept:
            run.value(name)  # raises if the latent has one value for each value of a label

    def _generated(self, rows: SomeRows, changes: Mapping[str, Any]) -> dict[str, dict]:
        """The model's sites, with kept latents from the guide, data their mean, and all others sampled."""
        own = {name: rows.latent(name).detach() for name in self.kept}
        args, kwargs = rows.arguments(changes)
        with Generating(generated_sites(rows.run), {}, mean=True), poutine.condition(data=own):
            trace = poutine.trace(rows.run.step.model).get_trace(*args, **kwargs)
        return dict(sample_sites(trace))

    def _label_loss(self, run: Run, guide: Trace, label: str, y: Tensor) -> tuple[str, Tensor]:
        """The name and the values of a label's loss in a trace of the guide."""
        if label in run.continuous or label in run.latents:
            title, values = regression(guide, label, y, self.density)
            return title.replace(f"{label}_o", f"{label}'").replace("|.", "|x~"), values
        site = guide.nodes[label]
        return f"log q({label}'|x~)", to_rows(masked(log_prob(site), site), site)


def _as_argument(site: dict) -> Tensor:
    """A site's values in the shape of an argument: one dimension per plate, `(B,)` if the only plate is the rows'."""
    value, event_dim = site["value"], site["fn"].event_dim
    plates = [value.shape[dim - event_dim] for dim in sorted(plate_dims(site))]
    return value.reshape(*plates, *value.shape[value.dim() - event_dim :])


def through(values: Tensor, at: Mapping[str, Tensor], inputs: Mapping[str, Tensor]) -> Tensor:
    """`values`, `(B,)`, with the gradient through `inputs` only.

    Args:
        values: a function of the leaves `at`; each row depends on its own row of these. inputs: the values of `at`,
            with their gradients.
    """
    slopes = torch.autograd.grad(values.sum(), [*at.values()], retain_graph=True, allow_unused=True)
    if all(slope is None for slope in slopes):
        raise InputError(
            "GeneratedLabelsTerm: got a term that does not depend on the generated data; expected a guide that reads "
            "the data, and no parents of its labels among `latents`"
        )
    found = values.detach()
    for slope, value in zip(slopes, inputs.values(), strict=True):
        if slope is not None:  # otherwise the guide does not read it
            found = found + (slope * (value - value.detach())).flatten(1).sum(1)
    return found


def shuffled(y: Tensor) -> tuple[Tensor, Tensor]:
    """Labels with each entry from a random row that has it, and whether there is such a row for every entry.

    Args:
        y: `(B,)` or `(B, E)`, some missing.
    """
    columns = y.unsqueeze(1) if y.dim() == 1 else y
    known = ~is_missing(columns)
    there = known.any(0)
    chances = torch.where(there, known, True).T.to(torch.get_default_dtype())  # (E, B)
    rows = torch.multinomial(chances, len(y), replacement=True).T
    drawn = columns.gather(0, rows)
    drawn = torch.where(is_missing(drawn), torch.zeros_like(drawn), drawn)
    return drawn.reshape(y.shape), there.all()
