"""Searches for latents to which a classifier assigns a label, without a density of latents given the label."""

from __future__ import annotations

import math
import warnings
from numbers import Real

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyro_semivae.errors import InputError, check_count
from pyro_semivae.infer import LocalParameters, Until, sample_sites
from pyro_semivae.infer.evidence import Impute, enumerates
from pyro_semivae.models import SemiVAE
from pyro_semivae.spaces import is_missing
from pyro_semivae.structure import check_available
from pyro_semivae.tasks.latents import (
    Latents,
    check_rows,
    classify,
    decode,
    infer_latents,
    task,
)


@task
def sample_characteristics(vae: SemiVAE, y: Tensor, *, confidence: float = 0.5, max_proposals: int = 1000) -> Latents:
    """Samples characteristic latents for labels by rejection with the guide's classifier (REVAE, Appendix A).

    Samples from the prior, separately for each entry of several labels, until q(y | z) exceeds `confidence`; for a
    missing label the first sample is accepted.

    Args:
        y: labels, `(B,)` or `(B, L)`.
        max_proposals: the maximum number of proposals, in blocks of 50; entries without an accepted sample then take
            the one with the largest q(y | z), and a warning counts them.

    Returns the values of the characteristic sites, by name.

    Raises:
        InputError: the model has no characteristic latents; `confidence` is not between 0 and 1; `max_proposals` is not
            a positive integer.
    """
    check_available(vae, "sample_characteristics")
    check_confidence(confidence)
    check_count("max_proposals", max_proposals)
    y = vae.label_values(y)
    missing, best, found = is_missing(y), torch.full(y.shape, -1.0, device=y.device), {}
    (blank, _), at_once = vae.blank(len(y)), 50
    samples = pyro.plate("samples", at_once, dim=-1 - vae.max_plate_nesting)
    for _ in range(-(-max_proposals // at_once)):
        with LocalParameters(), Impute(), Until(vae.characteristic) as prior, samples:
            vae.model(None, y)
        drawn = {name: site["value"] for name, site in prior.sites.items()}
        with samples:
            log_prob = _log_q(vae, blank, drawn, torch.where(missing, 0, y))
        prob = torch.where(missing, 1.0, log_prob.exp())  # (S, B [, L])
        sure = prob > confidence
        chosen = torch.where(sure.any(0), sure.int().argmax(0), prob.argmax(0)).unsqueeze(0)  # the first, else the best
        prob = prob.gather(0, chosen)[0]
        better, best = (prob > best) & (best <= confidence), torch.where(best > confidence, best, prob.maximum(best))
        for name, value in drawn.items():
            index = chosen.reshape(chosen.shape + (1,) * (value.dim() - chosen.dim())).expand(1, *value.shape[1:])
            value = value.gather(0, index)[0]
            found[name] = where_rows(better, value, found.get(name, value))
        if (best > confidence).all():
            break
    else:
        late = int((best <= confidence).sum())
        warnings.warn(f"{late} of {best.numel()} labels found no sample with q(y|z) > {confidence}", stacklevel=3)
    return found


def check_confidence(confidence: float) -> None:
    """Raises an InputError unless it is a probability between 0 and 1."""
    if not isinstance(confidence, Real) or not 0 < confidence < 1:
        raise InputError(f"confidence: got {confidence!r}; expected a number between 0 and 1")


def where_rows(mask: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """`a` in the rows (or entries) of a mask, `b` elsewhere; the mask may lack trailing dimensions."""
    return torch.where(mask.reshape(mask.shape + (1,) * (b.dim() - mask.dim())), a, b)


@task
def closest_change(
    vae: SemiVAE, x: Tensor, y_new: Tensor, *, confidence: float = 0.5, steps: int = 200
) -> tuple[Tensor, Latents]:
    """Images with the smallest change of characteristics that the classifier assigns `y_new` to (REVAE, Appendix A).

    Searches the z with q(y_new | z) >= `confidence` that is closest to the posterior mean z_0, by gradients, as
    adversarial attacks do. Each step moves to the border where the linearised log-odds are those of `confidence`, then
    along that border back towards z_0. The closest point found beyond the border is returned. Each binary label has its
    own entry of z_c and its own search; if the classifier is linear, the result is exact.

    Args:
        x: `(B, C, H, W)`. y_new: the target labels, `(B,)` or `(B, L)`; latents of missing labels, and of those that
            the classifier already assigns, are unchanged.
        confidence: between 0 and 1. steps: the number of steps of the search.

    Returns the images `(B, C, H, W)` and the latents. A warning reports the number of labels for which no such z was
    found.

    Raises:
        InputError: the guide has no classifier on characteristic latents.
    """
    y_new = vae.label_values(y_new, "y_new")
    images = vae.images(x)
    check_rows(x=images, y_new=y_new)
    check_confidence(confidence)
    check_available(vae, "closest_change")
    (name,) = vae.characteristic
    latents, _ = infer_latents(vae, x)
    start, border = latents[name], _Border(vae, images, latents, y_new, confidence)
    ready = border.gap(start) <= 0
    found, nowhere = _closest_point(border, start, check_count("steps", steps))
    late = int((nowhere & ~ready).sum())
    if late:
        warnings.warn(
            f"{late} of {int((~ready).sum())} labels found no latents with q(y|z) >= {confidence}", stacklevel=3
        )
    latents = {**latents, name: torch.where(ready, start, found)}
    return decode(vae, latents), latents


class _Border:
    """The border beyond which the classifier assigns the target labels, as a function of the characteristic latents.

    Binary labels `(B, L)` have one entry of the characteristic latents each, and a class label `(B,)` has all of them.
    Quantities per label are `(B, L)` or `(B, 1)`.

    Args:
        images, latents: the inputs of the guide; the characteristic latents among them are not used.
        y_new: the target labels.
    """

    def __init__(self, vae: SemiVAE, images: Tensor, latents: Latents, y_new: Tensor, confidence: float):
        (self.name,) = vae.characteristic
        self.vae, self.images, self.latents = vae, images, latents
        self.missing, self.odds = is_missing(y_new), math.log(confidence / (1 - confidence))
        self.wanted = torch.where(self.missing, 0, y_new)
        self.by_entry = vae.labels.entries is not None and latents[self.name].dim() == y_new.dim()

    def gap(self, z: Tensor) -> Tensor:
        """The log-odds of `confidence` minus those of the target label; -1 where the target is missing."""
        log_q = _log_q(self.vae, self.images, {**self.latents, self.name: z}, self.wanted)
        gap = torch.where(self.missing, -1.0, self.odds - log_q + torch.log(-torch.expm1(log_q.clamp(max=-1e-7))))
        return gap if self.by_entry else gap.unsqueeze(-1)

    def sum(self, values: Tensor) -> Tensor:
        """Sums over the latents of one label: its entry, or all of z."""
        return values if self.by_entry else values.sum(-1, keepdim=True)

    def linearised(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The gap at a point, its gradient, and the gradient's squared length."""
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            gap = self.gap(z)
            (gradient,) = torch.autograd.grad(gap.sum(), z)
        return gap, gradient, self.sum(gradient**2).clamp(min=1e-12)


def _closest_point(border: _Border, start: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """The closest point to `start` beyond the border that a search visits, and a mask of where there is none."""
    z, found, least = start, start, torch.full_like(border.sum(start), math.inf)  # the least squared distance so far
    for _ in range(steps):
        gap, gradient, length = border.linearised(z)
        distance = border.sum((z - start) ** 2)
        better = (gap <= 0) & (distance < least)
        least, found = torch.where(better, distance, least), torch.where(better, z, found)
        over = -(gap + 1e-4) * gradient / length  # just across the border; at most 0.5 far, as the border may be curved
        over = over * (0.5 / border.sum(over**2).sqrt().clamp(min=0.5))
        back = start - z
        along_border = back - border.sum(back * gradient) * gradient / length
        z = z + torch.where(gap > 0, over, over + 0.3 * along_border)
    return found, least.isinf()


@task
def vary_within(
    vae: SemiVAE, x: Tensor, num_samples: int = 1, *, confidence: float = 0.5, max_proposals: int = 1000
) -> Tensor:
    """Images with new characteristics for the same labels (REVAE, Appendix A), `(num_samples, B, C, H, W)`.

    Characteristics are sampled by rejection (`sample_characteristics`) for the labels that the classifier assigns to x;
    the other latents of x are kept.
    """
    check_available(vae, "vary_within")
    latents, _ = infer_latents(vae, x)
    probs = classify(vae, x, mean=True)
    y = vae.labels.most_probable(probs)
    draws = range(check_count("num_samples", num_samples))
    drawn = (sample_characteristics(vae, y, confidence=confidence, max_proposals=max_proposals) for _ in draws)
    return torch.stack([decode(vae, {**latents, **z}) for z in drawn])


def _log_q(vae: SemiVAE, x: Tensor, latents: Latents, y: Tensor) -> Tensor:
    """The guide's log q(y | z) at the given latents."""
    with LocalParameters(), Impute(), poutine.condition(data=latents):
        sites = dict(sample_sites(poutine.trace(vae.guide).get_trace(x)))
    (label,) = (site for site in sites.values() if enumerates(site))
    return label["fn"].log_prob(y)
