"""A conditional is a module that returns a distribution given its parents.

Models and guides are lists of `pyro.sample` statements with conditionals. A conditional knows its family of
distributions and how a network's raw output becomes the family's parameters, but nothing about sites, plates or missing
labels. Conditionals broadcast on the left: extra batch dimensions of the parents (Monte Carlo samples, enumerated
labels) become batch dimensions of the distribution.
"""

from pyro_semivae.conditionals.base import Conditional
from pyro_semivae.conditionals.entries import (
    PerLabelAndRestGaussian,
    PerLabelBernoulli,
    PerLabelGaussian,
    PerLabelNormal,
)
from pyro_semivae.conditionals.flows import Flow
from pyro_semivae.conditionals.groups import KnownIn, Point, WithoutDensity
from pyro_semivae.conditionals.labels import BayesLabel, Label, LabelAndGaussian, LabelPrior
from pyro_semivae.conditionals.latents import (
    Gaussian,
    GaussianExperts,
    ProductOfExperts,
    SplitGaussian,
    SquashedGaussian,
    StandardNormal,
    UniformBox,
)
from pyro_semivae.conditionals.likelihoods import (
    BernoulliLikelihood,
    ContinuousBernoulliLikelihood,
    GaussianLikelihood,
    HeteroscedasticGaussianLikelihood,
    LaplaceLikelihood,
    Likelihood,
    NegativeBinomialLikelihood,
    PoissonLikelihood,
    UniformImage,
)

__all__ = [
    "BayesLabel",
    "BernoulliLikelihood",
    "Conditional",
    "ContinuousBernoulliLikelihood",
    "Flow",
    "Gaussian",
    "GaussianExperts",
    "GaussianLikelihood",
    "HeteroscedasticGaussianLikelihood",
    "KnownIn",
    "Label",
    "LabelAndGaussian",
    "LabelPrior",
    "LaplaceLikelihood",
    "Likelihood",
    "NegativeBinomialLikelihood",
    "PerLabelAndRestGaussian",
    "PerLabelBernoulli",
    "PerLabelGaussian",
    "PerLabelNormal",
    "Point",
    "PoissonLikelihood",
    "ProductOfExperts",
    "SplitGaussian",
    "SquashedGaussian",
    "StandardNormal",
    "UniformBox",
    "UniformImage",
    "WithoutDensity",
]
