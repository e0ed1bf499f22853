"""Latents replaced by fresh samples from the model, so that the others carry the remaining information."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_semivae.errors import InputError, check_choice, check_number
from pyro_semivae.infer.base import Term
from pyro_semivae.infer.evidence import Evidence
from pyro_semivae.infer.run import Run
from pyro_semivae.infer.some_rows import SomeRows
from pyro_semivae.infer.tables import log_prob, plate_dims, row_dim, sampled_index, to_rows
from pyro_semivae.spaces import is_missing


class ReplacementTerm(Term):
    r"""log p(x | z_c', z_s), with z_c' ~ p(z_c | y) from the model and all other latents from the guide.

    .. math::
        \log p(x|y) \ge E_{p(z_c|y) \, q(z_s|x)}[\log p(x|z_c, z_s)] - KL(q(z_s|x) \Vert p(z_s))

    is the ELBO of a guide that samples z_c from p(z_c | y), so that its log p and -log q cancel. The term is the first
    part of it; with `densities` it is the whole bound. Without `densities`, a bound plus tau times the term has only
    one KL of z_s, which is equivalent to a beta-VAE's weight of beta / (1 + tau) for z_s. It is LaRVAE's label
    replacement (Nie et al. 2020, Eq. 9) one latent further down: there y itself is replaced by its observed value. A
    fresh z_c has no information on an example's style, so that this term moves the style to z_s, but also the class,
    see `style_terms`.

    With `entries="one"`, a single random entry of the latents is fresh, and the other entries, of other labels, come
    from the guide like z_s. With `densities` the term is then the mean of L such bounds, one for each entry; without
    them, the entries share their KL as z_s does, with a weight of beta / (1 + tau (L - 1) / L).

    A missing label is sampled once from q(y | .), without gradient. The whole is then a bound on log p(x), except that
    log p(y) - log q(y | x) is left out. It has the bound's gradients for the parameters of p(x | .), p(z_c | y) and
    q(z_s | x), and none for those of p(y) and q(y | x). The gradient for entries of z_c that are kept takes the missing
    labels of other entries as given.

    Args:
        latents: the names of the latents to replace.
        missing_labels: `"sample"`; or `"enumerate"`, the mean under q(y | .) over all values of a class label, which
            costs one pass of the model per value.
        entries: for latents with one entry per entry of a label: replace `"all"`, or `"one"`, a random entry in each
            example, so that the other entries are kept.
        densities: see above.
        share: the fraction of the rows, chosen at random, that have the term, scaled up accordingly: cheaper, with the
            same expectation.

    Terms (each `(B,)`, in nats): `replaced: log p(x|z_c,z_s)`; with `densities` `replaced: log p(z_s)` and
    `replaced: -log q(z_s|x)`, for every latent that is kept, also for those of whose entries some are.

    Raises:
        InputError: an option has an invalid value. When evaluated: a name is not a latent; the latents to keep
            have size 0, with `entries="all"`; a label is sampled by the bound, or depends on others; there is not
            exactly one class label to enumerate; `entries="one"`, and a latent is in no plate of entries.
    """

    def __init__(
        self,
        *latents: str,
        missing_labels: Literal["sample", "enumerate"] = "sample",
        entries: Literal["all", "one"] = "all",
        densities: bool = False,
        share: float = 1.0,
    ):
        if not latents:
            raise InputError("ReplacementTerm: got no latent; expected the names of one or more")
        self.latents, self.densities = latents, densities
        self.missing_labels = check_choice("missing_labels", missing_labels, ("sample", "enumerate"))
        self.entries = check_choice("entries", entries, ("all", "one"))
        self.share = check_number("share", share, above=0, most=1)

    def values(self, run: Run) -> Mapping[str, Tensor]:
        if unknown := [name for name in self.latents if name not in run.latents]:
            raise InputError(f"ReplacementTerm: got {unknown}; expected latents: {', '.join(run.latents)}")
        # Raises if a latent has one value for each value of a label:
        kept = {name: run.value(name) for name in (*run.latents, *run.continuous) if name not in self.latents}
        if kept and self.entries == "all" and not any(value.numel() for value in kept.values()):
            got = f"{[*kept]} of size 0 beside {[*self.latents]}"
            raise InputError(f"ReplacementTerm: got {got}; expected a latent to keep")
        found: dict[str, Tensor] = {}
        rows = SomeRows(run, self.share)
        for labels, weight in self._labels(run):
            for name, value in self._of_labels(rows, labels).items():
                value = value if weight is None else rows.of(weight) * value
                found[name] = found[name] + value if name in found else value
        return {name: rows.spread(value) for name, value in found.items()}

    def _labels(self, run: Run) -> Iterator[tuple[dict[str, Tensor], Tensor | None]]:
        """Values of the labels, and the weight of each row for these values, `(B,)` or None for 1."""
        if self.missing_labels == "sample":
            yield {label: _sampled(run, label) for label in run.roles.labels}, None
            return
        (label, *others) = run.roles.labels or (None,)
        if label is None or others or len(plate_dims(run.model.nodes[label])) > 1:
            raise InputError(
                f"missing_labels: got 'enumerate' and the labels {[*run.roles.labels]}; expected one class label"
            )
        if run.fully_observed:
            yield {label: run.observed[label]}, None
            return
        log_q, dim, site = run.first_classifier(label).detach(), run.enumeration_dim(label), run.guide.nodes[label]
        known = run.sums.values[label]
        for i in range(log_q.shape[dim]):
            y = known.select(dim, i).reshape(-1)
            weight = to_rows(log_q.select(dim, i).exp(), site)
            y = y.expand(weight.shape)
            if label in run.observed:
                given = run.observed[label]
                y = torch.where(is_missing(given), y, given)
                weight = torch.where(is_missing(given), weight, 1.0 if i == 0 else 0.0)
            yield {label: y}, weight

    def _of_labels(self, rows: SomeRows, labels: Mapping[str, Tensor]) -> dict[str, Tensor]:
        run = rows.run
        kept = {name: rows.latent(name) for name in run.latents if name not in self.latents}
        given = {name: rows.of(y) for name, y in labels.items()} | {name: rows.latent(name) for name in run.continuous}
        model = Evidence(data_complete=run.step.data_complete).then_model()(run.step.model)
        one = _OneEntry(rows, self.latents if self.entries == "one" else ())
        with poutine.condition(data={**given, **kept}), one:
            args, kwargs = rows.arguments()
            trace = poutine.trace(model).get_trace(*args, **kwargs)
        sites = trace.nodes
        found = {f"replaced: log p({name})": to_rows(log_prob(sites[name]), sites[name]) for name in run.roles.data}
        if self.densities:
            for name in run.continuous:  # missing continuous labels are latents
                site, of_guide = sites[name], run.guide.nodes[name]
                missing = rows.of(run.missing(name), row_dim(of_guide))
                tables = log_prob(site), rows.of(log_prob(of_guide), row_dim(of_guide))
                log_p, log_q = (to_rows(torch.where(missing, table, 0.0), site) for table in tables)
                found |= {f"replaced: log p({name}_m)": log_p, f"replaced: -log q({name}_m)": -log_q}
            for name in kept:
                found[f"replaced: log p({name})"] = to_rows(log_prob(sites[name]), sites[name])
                found[f"replaced: -log q({name})"] = -rows.of(run.first_log_q(name))
            for name, replaced in one.replaced.items():
                site, log_q = sites[name], run.first_log_q_table(name)
                tables = (log_prob(site), rows.of(log_q, row_dim(run.guide.nodes[name])))
                log_p, log_q = (to_rows(torch.where(replaced, 0.0, table), site) for table in tables)
                found |= {f"replaced: log p({name})": log_p, f"replaced: -log q({name})": -log_q}
        return found


def _sampled(run: Run, label: str) -> Tensor:
    """A label, sampled from q(y | .) where it is missing, in the shape of its plates."""
    if run.fully_observed:
        return run.observed[label]
    index = sampled_index(run.first_classifier(label), run.enumeration_dim(label))
    index = index.reshape(index.shape[row_dim(run.guide.nodes[label]) :])
    drawn = run.sums.values[label].reshape(-1)[index]
    return torch.where(is_missing(run.observed[label]), drawn, run.observed[label]) if label in run.observed else drawn


class _OneEntry(Messenger):
    """For latents with one entry per entry of a label: samples one random entry per row, and keeps the run's others.

    Attributes:
        replaced: latent -> mask of the fresh entries, `(B, L)`.
    """

    def __init__(self, rows: SomeRows, latents: Iterable[str]):
        super().__init__()
        self.rows, self.latents = rows, frozenset(latents)
        self.replaced: dict[str, Tensor] = {}
        self._which: dict[torch.Size, Tensor] = {}

    def _pyro_sample(self, msg: dict) -> None:
        if msg["name"] not in self.latents:
            return
        fn = msg["fn"]
        shape = fn.batch_shape
        if len(plate_dims(msg)) < 2:
            got = f"entries: got 'one', and the latent '{msg['name']}' in no plate inside the plate of rows"
            raise InputError(f"{got}; expected one with an entry for each entry of a label")
        if shape not in self._which:  # latents of one label share it
            score = torch.rand(shape, device=fn.sample().device)
            self._which[shape] = score == score.amax(-1, keepdim=True)
        fresh = self.replaced[msg["name"]] = self._which[shape]
        own = self.rows.latent(msg["name"])
        msg["value"] = torch.where(fresh.reshape(*shape, *(1,) * fn.event_dim), fn.rsample(), own)
        msg["done"] = True
