"""LaRVAE's objective, for any model whose labels may be missing (Nie et al. 2020, Eq. 7)."""

from __future__ import annotations

from typing import Literal

from pyro_semivae.errors import InputError, check_choice, check_count
from pyro_semivae.infer.base import Objective
from pyro_semivae.infer.derived import FromPrior, GuideAlone, Hidden, ImportanceWeighted, Labelled
from pyro_semivae.infer.labels import TraceLabels_ELBO
from pyro_semivae.infer.terms import ClassifierTerm, GeneratedLabelsTerm, RegressionTerm
from pyro_semivae.infer.weights import Weight, check_weight


def label_replacement(
    unsupervised: Objective,
    *labels: str,
    alpha: Weight = 1.0,
    tau: Weight = 1.0,
    replacement: Literal["guide", "prior"] = "guide",
    latents: tuple[str, ...] = ("z",),
    samples: int = 1,
    generated: Weight = 0.0,
    classes: tuple[str, ...] = (),
    pixels: Weight = 1.0,
    density: bool = False,
    also_labelled: bool = True,
) -> Objective:
    r"""LaRVAE: an unsupervised objective, with a label loss and a conditional ELBO on the labelled rows.

    .. math::
        L_{unsup} + \alpha \, E_{x,y}\big[-|\mu_y(x) - y|^2\big]
        + \tau \, E_{x,y}\big[E_{q(z|x)}[\log p(x|y,z)] - KL(q(z|x) \Vert p(z))\big]

    The last bracket is a bound on log p(x|y), tight if q(z|x) is p(z|x,y). (In the paper's Eqs. 9 and B.19 the KL has
    the opposite sign, with which it is not a bound.) Here log p(y), which has no parameters, is added, for a bound on
    log p(x, y_o): if some labels of a row are missing, they are sampled from q(y|x), and log p(y_m) - log q(y_m|x) is
    part of the bound. The paper's weights multiply means over all and over labelled rows; an objective here is a sum
    over rows, in which `alpha` and `tau` are N / N_labelled times the paper's.

    Args:
        unsupervised: a bound with added terms, `vae.elbo() + 3.0 * BatchTotalCorrelation(n)`; it is evaluated without
            the labels. labels: the names of the labels.
        alpha: weight of the label loss, `RegressionTerm`. tau: weight of the label replacement; 0 is the
            semi-supervised baseline of Locatello et al. 2019.
        replacement: z from the `"guide"`, as in the paper; or from the `"prior"`, log p(x|y) >= E_p(z)[log p(x|y,z)],
            so that only y can carry the factors that the labels stand for; no label may depend on z in the guide.
            latents: the latents sampled from the prior.
        samples: K; above 1, the importance-weighted bound with K samples.
        pixels: weight of log p(x|y,z), in the unsupervised part and in the label replacement.
        generated: weight of `GeneratedLabelsTerm`. classes: the labels that are classes, with the label loss
            log q(y|x). density: see `RegressionTerm`.
        also_labelled: whether the unsupervised part includes the labelled rows; see `Hidden`.

    Raises:
        InputError: there is no label, or an option has an invalid value.
    """
    if not labels or not {*classes} <= {*labels}:
        raise InputError(f"labels: got {labels} and the classes {classes}; expected labels that include the classes")
    check_choice("replacement", replacement, ("guide", "prior"))
    for name, weight in (("alpha", alpha), ("tau", tau), ("generated", generated), ("pixels", pixels)):
        check_weight(name, weight, least=0)
    bound = unsupervised.bound
    if not isinstance(bound, TraceLabels_ELBO):
        raise InputError(f"unsupervised: got {type(bound).__name__}; expected a sum with TraceLabels_ELBO")
    replaced: Objective = TraceLabels_ELBO(max_plate_nesting=bound.max_plate_nesting)
    if pixels != 1:
        unsupervised, replaced = (what.weighted({"log p(x)": pixels}) for what in (unsupervised, replaced))
    if replacement == "prior":
        replaced = FromPrior(replaced, *latents, scored=labels if alpha != 0 or generated != 0 else ())
    if check_count("samples", samples) > 1:
        replaced = ImportanceWeighted(replaced, samples)
    # Without label replacement, labelled rows need no decoder.
    supervised: Objective = tau * replaced
    if tau == 0 and generated == 0 and alpha != 0:
        supervised = GuideAlone(max_plate_nesting=bound.max_plate_nesting)
    real = [label for label in labels if label not in classes]
    if real and alpha != 0:
        supervised = supervised + alpha * RegressionTerm(*real, density=density)
    if classes and alpha != 0:
        supervised = supervised + alpha * ClassifierTerm(*classes)
    if generated != 0:
        supervised = supervised + generated * GeneratedLabelsTerm(*labels, density=density)
    return Hidden(unsupervised, *labels, also_labelled=also_labelled, prefix="") + Labelled(supervised, *labels)
