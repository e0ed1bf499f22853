"""The roles of the sites in a model and a guide trace: data, label or latent.

Objectives depend on these roles and never on the site names of one model.

=========  =======================================================================================
role       which sites
=========  =======================================================================================
data       observed in the model; absent from the guide, or observed there and marked `is_auxiliary` (a density of
           the data that is only scored by bounds that exchange the roles of model and guide)
label      `infer={"enumerate": "parallel"}`, in the model; the guide may have it too (its classifier)
latent     sampled in the guide and in the model
=========  =======================================================================================
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass

from pyro.infer.inspect import site_is_deterministic
from pyro.poutine import Trace
from pyro.poutine.util import site_is_subsample

from pyro_semivae.errors import InputError
from pyro_semivae.infer.evidence import enumerates


@dataclass(frozen=True)
class Roles:
    """Site names by role, in the order in which the model samples them."""

    data: tuple[str, ...]
    labels: tuple[str, ...]
    latents: tuple[str, ...]


def sample_sites(trace: Trace) -> Iterator[tuple[str, dict]]:
    """The random sites of a trace: sample statements except plates, subsamples and deterministic sites."""
    for name, site in trace.nodes.items():
        if site["type"] == "sample" and not site_is_deterministic(site) and not site_is_subsample(site):
            yield name, site


def assign_roles(model_trace: Trace, guide_trace: Trace) -> Roles:
    """The roles of all sites in one run of the guide and of the model replayed against it.

    Raises:
        ValueError: a site is in only one of the two and has no role. The message suggests a correction.
    """
    model = dict(sample_sites(model_trace))
    guide = dict(sample_sites(guide_trace))
    for name, site in guide.items():
        if name not in model and not (enumerates(site) or site["infer"].get("is_auxiliary")):
            raise InputError(
                f"site '{name}' is sampled in the guide but never in the model{_did_you_mean(name, model)}"
            )
    data, labels, latents = [], [], []
    for name, site in model.items():
        if enumerates(site):
            labels.append(name)
        elif site["is_observed"]:
            if name in guide and not (guide[name]["is_observed"] and guide[name]["infer"].get("is_auxiliary")):
                raise InputError(
                    f"site '{name}' is observed in the model and present in the guide: a label needs "
                    f'infer={{"enumerate": "parallel"}}, data must not be in the guide, unless observed and marked '
                    f'infer={{"is_auxiliary": True}}'
                )
            data.append(name)
        elif name in guide:
            latents.append(name)
        else:
            raise InputError(
                f"site '{name}' is latent in the model but never sampled in the guide"
                f"{_did_you_mean(name, guide)}; sample it there, observe it, or, if it is discrete, mark it "
                f'infer={{"enumerate": "parallel"}} to marginalise it'
            )
    return Roles(tuple(data), tuple(labels), tuple(latents))


def _did_you_mean(name: str, others: dict) -> str:
    close = difflib.get_close_matches(name, others, n=1, cutoff=0.5)
    return f": did you mean '{close[0]}'?" if close else f" (which has {', '.join(map(repr, others))})"
