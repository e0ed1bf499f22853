"""What makes an intervention on a label keep all else: replacement, regression, independence."""

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
    r"""Terms to add to a bound, so that latents below a label have what the label stands for and others all else.

    .. math::
        \tau \, E_{p(z_c|y) \, q(z_s|x)}[\log p(x|z_c,z_s)]
        + w \, E_{p(y') \, p(z_c'|y') \, q(z_s|x)}[\log q(y'|\tilde x)] - \gamma \, I(z_c; z_s),
        \qquad \tilde x = E[x|z_c',z_s]

    A bound on log p(x) can be as good with style in z_c as in z_s: both are latents of one decoder, with a prior each.
    With style in z_c an intervention on y, which has a fresh z_c, loses it. The first term (`ReplacementTerm`) has no
    way to x's style but z_s, so that style goes there; alone it takes the class there, too, which is a part of x as
    well. The second one (`GeneratedLabelsTerm` for the model) asks that what is decoded of a fresh z_c and anybody's
    z_s has the class of z_c: what z_s knows of the class is overruled. The third one (`TotalCorrelation` between
    sites, FactorVAE's critic) makes every z_s as likely with one class as with another. Else the decoder is asked for
    pairs that no image has, on which nothing but the classifier teaches it.

    Args:
        characteristic: the latents below the label; none (of a model whose decoder reads the label itself): the second
            term alone. kept: the other latents.
        tau, generated: the weights. warm_up: the fraction of training over which `generated` rises to its value, for
            the labels of images are as good as the classifier.
        style: weight of log q(z_s|x~), by which the style that an image is generated with can be told from it; it needs
            `generated`, with which it rises, and `kept`. independence: gamma, which rises as they do and needs both
            kinds of latents; its critic is trained by `fit`.
        entries, missing_labels: see `ReplacementTerm`. share: of the rows that have the terms, see there.

    Raises:
        InputError: no term is left; an option is none of these, or lacks what it needs.

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
        told = GeneratedLabelsTerm(labels_from="prior", kept=kept, teaches="model", latents=latents, share=share)
        weights = {f"shown: log q({name}|x~)": style / generated for name in latents}
        parts += (WarmUp(warm_up, generated) * told).weighted(weights).parts()
    if independence:
        critic = TotalCorrelation(*characteristic, *kept, hidden=(300,) * 3, lr=1e-3, by_site=True)
        parts += (WarmUp(warm_up, independence) * critic).parts()
    if not parts:
        raise InputError(f"tau, generated: got {tau} and {generated} of {list(characteristic)}; expected a term to add")
    return Sum(*parts)
