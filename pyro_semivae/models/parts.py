"""Conditionals that several models share, for one class label or several binary ones."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from functools import partial

from pyro.distributions import constraints
from torch import Tensor, nn

from pyro_semivae.conditionals import (
    BernoulliLikelihood,
    Conditional,
    Gaussian,
    GaussianLikelihood,
    Label,
    LaplaceLikelihood,
    Likelihood,
    NegativeBinomialLikelihood,
    PerLabelAndRestGaussian,
    PerLabelBernoulli,
    PerLabelGaussian,
    SplitGaussian,
)
from pyro_semivae.data.noise import shift
from pyro_semivae.errors import InputError, check_count
from pyro_semivae.infer import ClassifierTerm, Objective, TraceLabels_ELBO
from pyro_semivae.infer.weights import Weight, check_weight
from pyro_semivae.nn import MLP, Coded, Convs, Entries, MLPs, Networks, PixelNormConvs, Shape
from pyro_semivae.nn.convs import LEAST
from pyro_semivae.spaces import Data, Labels, any_known

MakeLikelihood = Callable[..., Likelihood]  # takes a space and a network: a likelihood class, or a partial of one


def check_sizes(**sizes: int) -> None:
    """Checks the sizes of latents: at least 1, except for `z_s`, at least 0.

    Raises:
        InputError: a size is smaller, or is not an integer.
    """
    for name, size in sizes.items():
        check_count(name, size, 0 if name == "z_s" else 1)


def drawn_labels(labels: Labels, options: dict) -> dict:
    """Options of `TraceLabels_ELBO` for models whose data depend on all labels: missing binary labels are sampled.

    Raises:
        InputError: `missing_labels` is "enumerate", which would need 2^L terms.
    """
    if labels.entries is None:
        return options
    if options.get("missing_labels") == "enumerate":
        raise InputError("missing_labels: got 'enumerate', which is 2^L terms here; expected 'gumbel', 'reinforce'")
    return {"missing_labels": "gumbel", **options}


def classified(max_plate_nesting: int, classifier_weight: Weight, **options) -> Objective:
    """`TraceLabels_ELBO` with its options plus a weighted `ClassifierTerm`; the bound alone if the weight is 0."""
    check_weight("classifier_weight", classifier_weight, least=0)
    bound = TraceLabels_ELBO(max_plate_nesting=max_plate_nesting, **options)
    return bound if classifier_weight == 0 else bound + classifier_weight * ClassifierTerm()


def classifier_weight(alpha: float, y: Tensor | None) -> float:
    """alpha N / N_labelled, the weight of log q(y|.) per labelled row; the total weight of these is then alpha N.

    Without labels, `y=None`, the weight is 0.

    >>> import torch
    >>> classifier_weight(0.1, torch.tensor([3, -1, -1, 0]))
    0.2
    """
    if y is None:
        return 0.0
    known = int(any_known(y).sum())
    return alpha * len(y) / known if known else alpha


# The weights of the examples' recipe. ALPHA is the alpha of `classifier_weight`: for a class label, for binary labels.
# BETA: for small images, whose likelihood is the cross-entropy; for other data.
ALPHA, BETA = (1000.0, 100.0), (4.0, 1.0)
# CCVAE's weights for images that show style: the largest beta, and the options of `infer.style_terms` for a class label
# and for binary labels.
STYLE_BETA, STYLE = 2.0, {"tau": 0.5, "generated": 40.0, "style": 0.5, "independence": 10.0}
STYLE_OF_BINARY = {"tau": 0.5, "generated": 20.0, "entries": "one"}


def recipe_weights(labels: Labels, y: Tensor | None, space: Data) -> dict[str, float]:
    """The weights of the examples' recipe, for objectives with a classifier term.

    >>> import torch
    >>> from pyro_semivae.spaces import Classes, Images
    >>> recipe_weights(Classes(3), torch.tensor([0, -1]), Images(1, 28, 28))
    {'classifier_weight': 2000.0, 'beta': 4.0}
    """
    alpha, beta = ALPHA[labels.entries is not None], BETA[likelihood_for(space) is not BernoulliLikelihood]
    return {"classifier_weight": classifier_weight(alpha, y), "beta": beta}


def shows_style(space: Data) -> bool:
    """Whether the data are images with sides of at least 16 pixels.

    On smaller images a style latent costs more than it gains: in a trial on scikit-learn's digits z_s stayed unused.
    """
    return space.pictures and min(space.shape[1:]) >= 16


def recipe_corruption(labels: Labels, x_shape: Shape) -> Callable[[Tensor], Tensor] | None:
    """The recipe's noise on the guide's images: with a class label, a shift by up to 1 pixel per 28; otherwise None."""
    pixels = round(min(x_shape[1:]) / 28) if labels.entries is None and len(x_shape) == 3 else 0
    return partial(shift, pixels=pixels) if pixels else None


def frozen(module: nn.Module) -> nn.Module:
    """A copy of a module whose parameters are buffers, which are saved but not trained."""
    module = copy.deepcopy(module)
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            delattr(part, name)
            part.register_buffer(name, parameter.detach())
    return module


def decoder(make: MakeLikelihood, networks: Networks, parents: Sequence[int | Coded], space: Data) -> Likelihood:
    """p(x | parents): a likelihood over a data space, with a network of the output shape that it needs."""
    of_class = make.func if isinstance(make, partial) else make
    if not (isinstance(of_class, type) and issubclass(of_class, Likelihood)):
        raise InputError(f"likelihood: got {make!r}; expected a likelihood class, or a partial of one")
    return make(space, networks.decoder(parents, of_class.raw_shape(space)))


def is_large(space: Data) -> bool:
    """Whether the data are images of more than 28 * 28 values (over all channels) with sides of at least 16 pixels."""
    return space.pictures and math.prod(space.shape) > 28 * 28 and min(space.shape[1:]) >= 16


def networks_for(space: Data) -> Networks:
    """A model's default networks: convolutions for large images (see `is_large`), otherwise MLPs."""
    return Convs() if is_large(space) else MLPs()


def likelihood_for(space: Data) -> MakeLikelihood:
    """A model's default likelihood.

    Laplace for large images (see `is_large`) and the Bernoulli cross-entropy for other images; Gaussian with a learned
    scale for vectors; negative binomial for counts.
    """
    if space.pictures:
        return LaplaceLikelihood if is_large(space) else BernoulliLikelihood
    whole = constraints.nonnegative_integer in space.within
    return NegativeBinomialLikelihood if whole else partial(GaussianLikelihood, learned=True)


def defaults(
    space: Data, networks: Networks | None, likelihood: MakeLikelihood | None
) -> tuple[Networks, MakeLikelihood]:
    """The given networks and likelihood, or the defaults for the data space."""
    return (
        networks_for(space) if networks is None else networks,
        likelihood_for(space) if likelihood is None else likelihood,
    )


def reference_defaults(
    space: Data, networks: Networks | None, likelihood: MakeLikelihood | None
) -> tuple[Networks, MakeLikelihood]:
    """Like `defaults`, for models with a reference set: `PixelNormConvs()` and a Laplace likelihood of scale 0.1."""
    if networks is None:
        networks = PixelNormConvs() if space.pictures and min(space.shape[1:]) >= LEAST else networks_for(space)
    return networks, partial(LaplaceLikelihood, scale=0.1) if likelihood is None else likelihood


def characteristic(labels: Labels, z_c: int) -> int | Entries:
    """z_c as a parent of networks: a vector of size `z_c`, or a scalar for each entry of a label."""
    return z_c if labels.entries is None else Entries(labels.entries)


def split_encoder(labels: Labels, networks: Networks, x_shape: Shape, z_c: int, z_s: int) -> Conditional:
    """q(z_c, z_s | x), with z_c in the plate of the label's entries, if it has any."""
    if labels.entries is None:
        return SplitGaussian(networks.encoder(x_shape, 2 * (z_c + z_s)), (z_c, z_s))
    return PerLabelAndRestGaussian(networks.encoder(x_shape, 2 * (labels.entries + z_s)), labels.entries, z_s)


def characteristic_prior(labels: Labels, z_c: int, hidden: tuple[int, ...], separation: float) -> Conditional:
    """p(z_c | y): a Gaussian with an MLP of the class label, or two Gaussians for each entry of a binary label."""
    if labels.entries is None:
        return Gaussian(MLP([labels], hidden, (2 * z_c,)))
    return PerLabelGaussian(labels.entries, separation)


def characteristic_classifier(labels: Labels, z_c: int, hidden: tuple[int, ...], slope: float = 1.0) -> Conditional:
    """q(y | z_c): an MLP, or a logistic regression on a scalar for each entry of a label."""
    if labels.entries is None:
        return Label(labels, MLP([(z_c,)], hidden, (labels.raw_size,)))
    return PerLabelBernoulli(labels.entries, slope)
