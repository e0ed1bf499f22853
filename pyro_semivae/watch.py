"""Stops training at non-finite values, naming their origin; reports models that have not learnt anything."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pyro_semivae import tasks
from pyro_semivae.check import inspect_model
from pyro_semivae.infer import LocalParameters, Step
from pyro_semivae.infer.graph import same_term
from pyro_semivae.models import SemiVAE
from pyro_semivae.spaces import Labels, any_known, is_missing
from pyro_semivae.streams import RandomStreams

LEAST_KL = 1.0  # nats; below it latents count as unused


@dataclass(frozen=True)
class Watched:
    """A step's terms, `(T, B)`, and their names; the indices of its rows, `(B,)`; its name; its loss."""

    terms: Tensor
    rows: Tensor
    names: Sequence[str]
    where: str
    loss: Tensor


class FiniteWatch:
    """Keeps the terms and losses of steps, on the device, and every `every` steps checks that they are finite."""

    def __init__(self, every: int):
        self.every, self.steps = every, []

    def __call__(self, terms: Tensor, rows: Tensor, names: Sequence[str], where: str, loss: Tensor) -> None:
        """Keeps a step, see `Watched`; may raise, as `check`."""
        self.steps.append(Watched(terms, rows, names, where, loss))
        if len(self.steps) >= self.every:
            self.check()

    def check(self) -> None:
        """Checks the steps since the last check.

        Raises:
            FloatingPointError: a term is not finite; the message names the first such step, the terms, their sites and
                the rows. Or all terms are finite, but not their scaled sum.
        """
        steps, self.steps = self.steps, []
        values = [value.detach().flatten() for step in steps for value in (step.terms, step.loss)]
        if not steps or bool(torch.cat(values).isfinite().all()):
            return
        step = next(step for step in steps if not (step.terms.isfinite().all() and step.loss.isfinite()))
        bad = ~step.terms.isfinite()
        if not bad.any():
            raise FloatingPointError(
                f"the bound is not finite at {step.where}, though its terms are: their scaled sum is too large a number"
            )
        culprits = [name for name, row in zip(step.names, bad, strict=True) if row.any()]
        sites = sorted({site for name in culprits for site in re.findall(r"\(([^|()]+)", name)})
        rows = step.rows.to(bad.device)[bad.any(0)].tolist()
        raise FloatingPointError(
            f"the bound is not finite at {step.where}: term {', '.join(culprits)} "
            f"(site {', '.join(sites)}) at rows {rows[:10]}{' ...' if len(rows) > 10 else ''} of the training set"
        )


def check_weights(module: nn.Module, averages: Mapping[str, Tensor], epoch: int) -> None:
    """Raises a FloatingPointError that names the non-finite parameters or averages, if there are any."""
    bad = [f"parameter {name}" for name, parameter in module.named_parameters() if not parameter.isfinite().all()]
    bad += [f"average of {name}" for name, value in averages.items() if not value.isfinite().all()]
    if bad:
        raise FloatingPointError(f"{', '.join(bad[:5])}: not finite after epoch {epoch}")


def signs_of_failure(vae: SemiVAE, table: Mapping[str, Tensor], *, seed: int = 0) -> list[str]:
    """Notes on what a trained model has plainly not learnt, each with a suggestion; empty if there are none.

    For each discrete label, the classifier's accuracy on (up to 1,000) labelled training rows is compared with the
    majority baseline, which always predicts the most frequent value. The KL divergence of the latents' posterior from
    their prior on (up to 500) rows is compared with `LEAST_KL`.

    Args:
        table: training rows, as returned by `SemiVAE.table`.
        seed: seed of the samples; the global generators are not changed.
    """
    device = next(vae.parameters()).device
    with RandomStreams(seed, device), torch.no_grad(), LocalParameters():
        found = {name: _against_chance(vae, name, table) for name in _classified(vae)}
        notes = [_at_chance(vae, name, *values) for name, values in found.items() if values]
        notes = [*filter(None, notes)]
        given = [*vae.data_sites, *(name for name in vae.label_sites if vae.spaces[name].always_known)]
        rows = vae.inputs({name: values[:500] for name, values in table.items() if name in given})
        latents = inspect_model(vae).latents
        values = vae.elbo().bound.evaluate(Step(vae.model, vae.guide, rows)).values
        own = [name for latent in latents for name in (f"log p({latent})", f"-log q({latent})")]
        densities = [value.value for value in values if any(same_term(value.name, name) for name in own)]
        if densities and (kl := -sum(densities).mean().item()) < LEAST_KL:
            notes.append(
                f"KL(q({', '.join(latents)} | x) || p) is {kl:.2f} nats: the latents are hardly used. Try a warm_up "
                f"(of 0.3, say), a smaller beta, more epochs, or a larger lr"
            )
    return notes


def labelled_accuracy(vae: SemiVAE, table: Mapping[str, Tensor], *, seed: int = 0) -> dict[str, float]:
    """Label site -> the classifier's accuracy on (up to 1,000) rows with this label, for the classified labels.

    Args:
        table, seed: see `signs_of_failure`.
    """
    with RandomStreams(seed, next(vae.parameters()).device), torch.no_grad(), LocalParameters():
        found = {name: _against_chance(vae, name, table) for name in _classified(vae)}
    return {name: values[0] for name, values in found.items() if values}


def _classified(vae: SemiVAE) -> tuple[str, ...]:
    """The labels that the model classifies."""
    return vae.label_sites if vae.characteristic and (tasks.classifies(vae) or tasks.infers_from_labels(vae)) else ()


def _against_chance(vae: SemiVAE, name: str, table: Mapping[str, Tensor]) -> tuple[float, float, float] | None:
    """Accuracy on known labels, that of the majority baseline (per entry), its standard error; None if no label is
    known or the label is not discrete."""
    space, y = vae.spaces[name], table.get(name)
    known = [] if y is None or space.num_values is None else any_known(y).nonzero()[:1000, 0].cpu()
    if not len(known):
        return None
    data = {site: table[site][known.to(table[site].device)] for site in vae.data_sites}
    probs = tasks.classify(vae, data if len(vae.spaces) > 2 else data[vae.data_sites[0]], mean=True)
    probs = (probs[name] if isinstance(probs, Mapping) else probs).cpu()
    return _accuracy_and_chance(space, probs, y[known.to(y.device)].cpu())


def _at_chance(vae: SemiVAE, name: str, accuracy: float, chance: float, error: float) -> str:
    """The note on a classifier that is no better than chance; empty for others."""
    if chance == 1 or accuracy > chance + 2 * error:  # with a single value there is nothing to learn
        return ""
    of = "" if len(vae.label_sites) == 1 else f" of '{name}'"
    return (
        f"accuracy{of} on labelled training rows is {accuracy:.2f}, and always saying the most frequent value "
        f"has {chance:.2f}: the classifier has learnt nothing. Try more epochs, a larger classifier_weight "
        f"or a warm_up (of 0.3, say), and look at the images and labels"
    )


def _accuracy_and_chance(labels: Labels, probs: Tensor, y: Tensor) -> tuple[float, float, float]:
    """Accuracy on known labels, that of the majority baseline (per entry), and its standard error."""
    known = ~is_missing(y)
    right = (labels.most_probable(probs) == y)[known].double().mean().item()
    frequent = (labels.most_probable(labels.frequencies(y)) == y)[known].double().mean().item()
    return right, frequent, (frequent * (1 - frequent) / int(known.sum())) ** 0.5
