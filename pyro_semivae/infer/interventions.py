"""Terms with which an intervention on a label preserves the rest of an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pyro_semivae.errors import InputError, check_number
from pyro_semivae.infer.base import Objective, Sum
from pyro_semivae.infer.terms import GeneratedLabelsTerm, ReplacementTerm, TotalCorrelation
from pyro_semivae.infer.weights import WarmUp


def style_terms(
    *characteristic: str,
    kept: Sequence[str] = (),
    tau: float = 0.5,
    generated: float = 20.0,
    style: float = 0.0,
    independence: float = 0.0,
    warm_up: float = 0.25,
    entries: Literal["all", "one"] = "all",
    missing_labels: Literal["sample", "enumerate"] = "sample",
    share: float = 0.25,
) -> Objective:
    r"""Terms to add to a bound, so that latents below a label carry the label's information and others the style.

    .. math::
        \tau \, E_{p(z_c|y) \, q(z_s|x)}[\log p(x|z_c,z_s)]
        + w \, E_{p(y') \, p(z_c'|y') \, q(z_s|x)}[\log q(y'|\tilde x)] - \gamma \, I(z_c; z_s),
        \qquad \tilde x = E[x|z_c',z_s]

    A bound on log p(x) does not distinguish style in z_c from style in z_s: both are latents of one decoder, each with
    a prior. Style in z_c is lost in an intervention on y, which samples a fresh z_c. In the first term
    (`ReplacementTerm`), only z_s carries the style of x, so that style moves to z_s; alone, it also moves the class
    there, which is part of x as well. The second term (`GeneratedLabelsTerm` for the model) requires that an image
    decoded from a fresh z_c and any example's z_s has the class of z_c, so that class information in z_s is overruled.
    The third term (`TotalCorrelation` between sites, FactorVAE's critic) makes z_s independent of z_c. Without it, the
    decoder gets pairs that no image has, for which only the classifier trains it.

    With `entries="one"`, for several labels, the z_c of the first term is that of one random label, and the latents of
    the other labels are kept like z_s, as in an intervention on one label.

    Args:
        characteristic: names of the latents below the label. Without any (for a model whose decoder reads the label
            itself), only the second term is used. kept: names of the other latents.
        tau, generated: the weights. warm_up: the fraction of training over which `generated` rises to its value,
            because labels inferred from images are only as good as the classifier.
        style: weight of log q(z_s|x~), which makes the style of a generated image inferable from it; it needs
            `generated`, with which it rises, and `kept`. independence: gamma, which rises in the same way and needs
            both kinds of latents; `fit` trains its critic.
        entries, missing_labels: see `ReplacementTerm`. share: the fraction of the rows that have the first two terms.

    Raises:
        InputError: there is no term to add; an option has an invalid value, or lacks another that it needs.

    >>> from pyro_semivae import CCVAE
    >>> from pyro_semivae.spaces import Classes
    >>> vae = CCVAE((1, 8, 8), Classes(10), z_c=10, z_s=20)
    >>> objective = vae.elbo() + style_terms("z_c", kept=["z_s"], style=0.5, independence=10.0)
    >>> import torch
    >>> list(objective.terms(vae.model, vae.guide, torch.rand(5, 1, 8, 8)))[-4:]
    ['replaced: log p(x|z_c,z_s)', "shown: log q(y'|x~)", 'shown: log q(z_s|x~)', '-TC(z_c;z_s)']
    """
    for name, weight in (("tau", tau), ("generated", generated), ("style", style), ("independence", independence)):
        check_number(name, weight, least=0)
    if isinstance(kept, str):
        raise InputError(f"kept: got {kept!r}; expected a sequence of names, [{kept!r}]")
    if style and not (generated and kept):
        raise InputError(f"style: got {style} without `generated` or `kept`; expected these, or 0")
    if independence and not (characteristic and kept):
        raise InputError(f"independence: got {independence} without latents below the label or `kept`; expected both")
    check_number("warm_up", warm_up, above=0, most=1)
    parts = []
    if characteristic and tau:
        how = {"entries": entries, "missing_labels": missing_labels, "share": share}
        parts += (tau * ReplacementTerm(*characteristic, **how)).parts()
    if generated:
        latents = kept if style else ()
        shown = GeneratedLabelsTerm(labels_from="prior", kept=kept, teaches="model", latents=latents, share=share)
        weights = {f"shown: log q({name}|x~)": style / generated for name in latents}
        parts += (WarmUp(warm_up, generated) * shown).weighted(weights).parts()
    if independence:
        critic = TotalCorrelation(*characteristic, *kept, hidden=(300,) * 3, lr=1e-3, by_site=True)
        parts += (WarmUp(warm_up, independence) * critic).parts()
    if not parts:
        raise InputError(f"tau, generated: got {tau} and {generated} for {list(characteristic)}; expected one above 0")
    return Sum(*parts)
