"""LaRVAE's objective, of any model whose labels may be missing (Nie et al. 2020, Eq. 7)."""

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
    r"""An objective without labels, and of the labelled rows how well labels are told and what data they make.

    .. math::
        L_{unsup} + \alpha \, E_{x,y}\big[-|\mu_y(x) - y|^2\big]
        + \tau \, E_{x,y}\big[E_{q(z|x)}[\log p(x|y,z)] - KL(q(z|x) \Vert p(z))\big]

    The last bracket is a bound on log p(x|y), tight where q(z|x) is p(z|x,y). (In the paper's Eqs. 9 and B.19 the KL
    has the other sign, with which it is none.) Here it stands with log p(y), which has no parameters, as a bound on
    log p(x, y_o) of what is known: of a row with some labels missing, these are drawn from q(y|x), and
    log p(y_m) - log q(y_m|x) belongs to it. The paper's weights are of means over all and over labelled rows; an
    objective is a sum over rows, in which `alpha` and `tau` are N / N_labelled times as large as there.

    Args:
        unsupervised: a bound with what is added to it, `vae.elbo() + 3.0 * BatchTotalCorrelation(n)`; it never sees the
            labels. labels: their names.
        alpha: weight of the label loss, `RegressionTerm`. tau: of the label replacement; 0 is the semi-supervised
            baseline of Locatello et al. 2019.
        replacement: z from the `"guide"`, as in the paper; or from the `"prior"`, log p(x|y) >= E_p(z)[log p(x|y,z)]:
            then no other way than y has what y stands for. latents: the latents that are then from the prior.
        samples: K above 1 is the importance-weighted bound of K samples.
        pixels: weight of log p(x|y,z), in the unsupervised part and in the label replacement.
        generated: weight of `GeneratedLabelsTerm`. classes: which labels are classes, for which log q(y|x) is the label
            loss. density: see `RegressionTerm`.
        also_labelled: whether labelled rows have an unsupervised part, too; see `Hidden`.

    Raises:
        InputError: there is no label, or an option is none of these.
    """
    if not labels or not {*classes} <= {*labels}:
        raise InputError(f"labels: got {labels} and the classes {classes}; expected one or more, with these among them")
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
        replaced = FromPrior(replaced, *latents)
    if check_count("samples", samples) > 1:
        replaced = ImportanceWeighted(replaced, samples)
    # Without the replacement the labelled rows are not decoded.
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
