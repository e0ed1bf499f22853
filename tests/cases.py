"""One table of cases: every model with its objectives, built small, for the contract tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from pyro_semivae import CCVAE, SemiVAE
from pyro_semivae.conditionals import LaplaceLikelihood
from pyro_semivae.data import jitter
from pyro_semivae.infer import (
    BalanceTerm,
    BatchTotalCorrelation,
    ClassifierTerm,
    ConsistencyTerm,
    DensityRatio,
    DIPTerm,
    EntropyTerm,
    FromPrior,
    GeneratedLabelsTerm,
    GuideAlone,
    Hidden,
    ImportanceWeighted,
    Labelled,
    NearestLabelTerm,
    Objective,
    RegressionTerm,
    ReplacementTerm,
    TotalCorrelation,
    TraceSymmetricKL_ELBO,
)
from pyro_semivae.models import DIVA, M1, M1M2, M2, M3, MVAE, VAE, InvertedVAE, LaRVAE, RbVAE, SwapVAE
from pyro_semivae.nn import Convs, MLPs
from pyro_semivae.spaces import MISSING, Binary, Classes, Groups, Real


def weighed(vae: CCVAE, *, classifier_weight: float = 1.0, added: tuple = (), **options) -> Objective:
    """CCVAE's bound with a weight of the classifier's term, which is 1 in the bound, and `(weight, term)` added."""
    elbo = vae.elbo(**options)
    for weight, term in ((classifier_weight - 1, ClassifierTerm()), *added):
        elbo = elbo + weight * term if weight else elbo
    return elbo


@dataclass(frozen=True)
class Case:
    """A model, an objective and a batch with labelled and unlabelled rows; all sizes differ.

    `example` is the script that trains the model, where there is one already.
    """

    name: str
    build: Callable[[], SemiVAE]
    objective: Callable[[SemiVAE], Objective]
    example: str | None = None

    def make(self, seed: int = 0) -> tuple[SemiVAE, Objective]:
        torch.manual_seed(seed)
        vae = self.build()
        return vae, self.objective(vae)

    def batch(self, seed: int = 1) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        vae = self.build()
        if isinstance(vae.labels, Groups):
            y = torch.tensor([1, 0, 0, 1, 1, 0, 1, 0, 0])
        elif isinstance(vae.labels, Classes):
            y = torch.tensor([2, MISSING, 0, 4, MISSING, 2, 1, 3, MISSING])
        else:
            y = torch.tensor([[1, 0, 1], [N, N, N], [0, N, 1], [N, 1, N], [N, N, N], [1, 1, 0], [0, 0, 0]])
        return torch.rand(len(y), *vae.x_shape, generator=generator), y


N = float("nan")


def ccvae(z_s: int = 3, dropout: float = 0.0, **options) -> Callable[[], SemiVAE]:
    networks = MLPs((11,), dropout)
    return lambda: CCVAE((1, 4, 7), Classes(5), z_c=2, z_s=z_s, networks=networks, label_hidden=(6,), **options)


def classes(model: type[SemiVAE], **sizes: int) -> Callable[[], SemiVAE]:
    return lambda: model((1, 4, 7), Classes(5), networks=MLPs((11,)), **sizes)


def binary(model: type[SemiVAE], **options) -> Callable[[], SemiVAE]:
    return lambda: model((1, 4, 7), Binary(3), networks=MLPs((11,)), **options)


def m1m2(m1: Callable[[], SemiVAE], z: int) -> Callable[[], SemiVAE]:
    return lambda: M1M2(m1(), z=z, hidden=(6,))


def inverted(labels: Classes | Binary, **options) -> Callable[[], SemiVAE]:
    hidden = {"classifier_hidden": (6,), "encoder_hidden": (5,), "decoder_hidden": (11,)}
    return lambda: InvertedVAE((1, 4, 7), labels, z=8, **hidden, **options)


def reference() -> SemiVAE:
    return RbVAE((1, 4, 7), z=3, e=2, networks=MLPs((11,)))


def larvae() -> SemiVAE:
    return LaRVAE((1, 4, 7), Real(3), z=2, networks=MLPs((11,)))


def told(*kept: str) -> GeneratedLabelsTerm:
    """What images show of the labels that they are generated of, for the model to learn."""
    return GeneratedLabelsTerm(labels_from="prior", kept=kept, teaches="model")


def symmetric(vae: VAE) -> Objective:
    """sVAE (Pu et al. 2018)."""
    torch.manual_seed(0)
    return TraceSymmetricKL_ELBO(DensityRatio("z", net=MLPs((11,)).discriminator((1, 4, 7), [3])))


def convolutional() -> SemiVAE:
    return CCVAE((2, 64, 64), Binary(3), z_s=4, networks=Convs(), likelihood=LaplaceLikelihood)


CASES = [
    Case("ccvae-exact", ccvae(), lambda vae: vae.elbo(num_samples=4), "ccvae.py"),
    Case("ccvae-jensen", ccvae(), lambda vae: vae.elbo(marginal="jensen", num_samples=4), "ccvae.py"),
    Case("ccvae-bayes", ccvae(classifier="bayes"), lambda vae: vae.elbo(num_samples=4), "ccvae.py"),
    Case("ccvae-no-rest", ccvae(z_s=0), lambda vae: vae.elbo(detach="none", num_samples=4), "ccvae.py"),
    Case("ccvae-weighted", ccvae(), lambda vae: vae.elbo(detach="weighted-terms") + 8.0 * ClassifierTerm(), "ccvae.py"),
    Case("ccvae-regulariser", ccvae(), lambda vae: vae.elbo(num_samples=4) + 5.0 * NearestLabelTerm(), "ccvae.py"),
    Case(
        "ccvae-consistency",
        ccvae(dropout=0.2),
        lambda vae: vae.elbo(num_samples=4) + 5.0 * ConsistencyTerm(),
        "ccvae.py",
    ),
    Case("ccvae-balance", ccvae(), lambda vae: vae.elbo() + 2.0 * EntropyTerm() + 5.0 * BalanceTerm(), "ccvae.py"),
    Case(
        "ccvae-interventions",
        ccvae(),
        lambda vae: vae.elbo(num_samples=4) + 0.5 * ReplacementTerm("z_c") + 2.0 * told("z_s"),
        "ccvae.py",
    ),
    Case(
        "ccvae-interventions-enumerated",
        ccvae(),
        lambda vae: vae.elbo(num_samples=4) + 0.5 * ReplacementTerm("z_c", missing_labels="enumerate", densities=True),
    ),
    Case("ccvae-sampled", ccvae(), lambda vae: vae.elbo(marginal="sampled", num_samples=4), "ccvae.py"),
    Case("vae", classes(VAE, z=3), lambda vae: vae.elbo(beta=2.0), "vae.py"),
    Case("m1", classes(M1, z=3), lambda vae: vae.elbo(), "m1.py"),
    Case("m1-binary", binary(M1, z=4), lambda vae: vae.elbo()),
    Case("m2", classes(M2, z=3), lambda vae: vae.elbo(classifier_weight=3.0), "m2.py"),
    Case(
        "m1m2",
        lambda: M1M2(classes(M1, z=4)(), z=3, hidden=(6,)),
        lambda vae: vae.elbo(classifier_weight=3.0),
        "m1m2.py",
    ),
    Case("m1m2-binary", m1m2(binary(M1, z=4), z=6), lambda vae: vae.elbo(classifier_weight=3.0)),
    Case("m3", classes(M3, z_c=2, z_s=3), lambda vae: vae.elbo(classifier_weight=3.0), "m3.py"),
    Case("diva", classes(DIVA, z_c=2, z_s=3), lambda vae: vae.elbo(classifier_weight=3.0, beta=2.0), "diva.py"),
    Case("mvae", classes(MVAE, z=3), lambda vae: vae.elbo(label_weight=3.0), "mvae.py"),
    Case("mvae-binary", binary(MVAE, z=4), lambda vae: vae.elbo(subsets=3, beta=2.0)),
    Case("inverted", inverted(Classes(5)), lambda vae: vae.elbo(classifier_weight=3.0), "inverted_vae.py"),
    Case(
        "inverted-relaxed",
        inverted(Classes(5)),
        lambda vae: vae.elbo(classifier_weight=3.0, image_weight=0.5, missing_labels="gumbel"),
    ),
    Case(
        "inverted-binary",
        inverted(Binary(3), classifier_noise=partial(jitter, pixels=0.5, shear=0.2, each_axis=True)),
        lambda vae: vae.elbo(classifier_weight=3.0, image_weight=0.5),
    ),
    Case("m2-gumbel", classes(M2, z=3), lambda vae: vae.elbo(classifier_weight=3.0, missing_labels="gumbel")),
    Case("vae-binary", binary(VAE, z=3), lambda vae: vae.elbo()),
    Case("m2-relaxed", binary(M2, z=4), lambda vae: vae.elbo(classifier_weight=3.0)),
    Case("m2-score", binary(M2, z=4), lambda vae: vae.elbo(classifier_weight=3.0, missing_labels="reinforce")),
    Case("m3-binary", binary(M3, z_s=4), lambda vae: vae.elbo(classifier_weight=3.0)),
    Case("diva-binary", binary(DIVA, z_s=4), lambda vae: vae.elbo(classifier_weight=3.0)),
    Case("convolutional", convolutional, lambda vae: vae.elbo(num_samples=4), "ccvae.py"),
    Case("binary-jensen", binary(CCVAE, z_s=4), lambda vae: vae.elbo(marginal="jensen", num_samples=4), "ccvae.py"),
    Case("binary-sampled", binary(CCVAE, z_s=4), lambda vae: vae.elbo(marginal="sampled", num_samples=4), "ccvae.py"),
    Case(
        "binary-more",
        binary(CCVAE, z_s=4),
        lambda vae: vae.elbo() + 2.0 * ConsistencyTerm() + 4.0 * EntropyTerm() + 5.0 * BalanceTerm(),
        "ccvae.py",
    ),
    Case(
        "binary-interventions",
        binary(CCVAE, z_s=4),
        lambda vae: vae.elbo(num_samples=4) + 0.5 * ReplacementTerm("z_c", entries="one") + 2.0 * told("z_s"),
        "ccvae.py",
    ),
    Case("m2-hidden", classes(M2, z=3), lambda vae: vae.elbo() + 0.5 * Hidden(vae.elbo().bound, "y")),
    Case("factor-vae", classes(VAE, z=3), lambda vae: vae.elbo() + 6.0 * TotalCorrelation(hidden=(7,))),
    Case("beta-tcvae", classes(VAE, z=3), lambda vae: vae.elbo() + 5.0 * BatchTotalCorrelation(99)),
    Case("dip-vae", classes(VAE, z=3), lambda vae: vae.elbo() + 2.0 * DIPTerm("II")),
    Case("svae", classes(VAE, z=3), symmetric),
    Case("rbvae", reference, lambda vae: vae.elbo(beta=2.0), "rbvae.py"),
    Case("rbvae-symmetric", reference, lambda vae: vae.symmetric(r1=0.5), "rbvae.py"),
    Case(
        "rbvae-recipe",
        reference,
        lambda vae: vae.elbo(scales=2, adversarial=3.0, latents=0.5, crossed=0.5, r1=1.0),
        "rbvae.py",
    ),
    Case("swap-vae", lambda: SwapVAE((1, 4, 7), z=3, e=2, networks=MLPs((11,))), lambda vae: vae.elbo(), "rbvae.py"),
    Case(
        "swap-vae-adversarial",
        lambda: SwapVAE((1, 4, 7), z=3, e=2, networks=MLPs((11,))),
        lambda vae: vae.elbo(adversarial=2.0, r1=1.0, swap=0.5),
    ),
    Case(
        "larvae",
        larvae,
        lambda vae: vae.elbo(base=vae.base("tc", 3.0, 99), alpha=5.0, tau=2.0, generated=3.0),
        "larvae.py",
    ),
    Case(
        "larvae-prior",
        larvae,
        lambda vae: vae.elbo(base=vae.base("factor", 3.0, 99), alpha=5.0, replacement="prior", samples=3),
    ),
    Case("larvae-baseline", larvae, lambda vae: vae.elbo(tau=0.0, alpha=5.0) + 0.5 * GuideAlone(max_plate_nesting=2)),
    Case(
        "larvae-by-hand",
        larvae,
        lambda vae: (
            vae.elbo(tau=0.0)
            + Labelled(vae.elbo(), "y", prefix="more: ")
            + FromPrior(vae.elbo().bound, "z")
            + 0.5 * ImportanceWeighted(vae.elbo().bound, 2)
            + 0.5 * RegressionTerm()
            + GeneratedLabelsTerm()
        ),
    ),
    Case("binary-bayes", binary(CCVAE, z_s=4, classifier="bayes"), lambda vae: vae.elbo(num_samples=4), "ccvae.py"),
]

BY_NAME = {case.name: case for case in CASES}
