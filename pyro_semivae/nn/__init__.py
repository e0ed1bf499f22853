"""Networks, which map parents to raw parameters; `conditionals` defines the meaning of these parameters.

Under autocast (`fit(precision="bf16-mixed")`) layers compute in the lower precision, but a network's output has the
dtype of its weights: densities are never summed in half precision.
"""

from pyro_semivae.nn.instance_norm import InstanceNormConvs, Paired
from pyro_semivae.nn.mlp import MLP, Coded, Entries, Joined, Noisy, Shape, positive
from pyro_semivae.nn.networks import Convs, Custom, Discriminator, MLPs, Networks
from pyro_semivae.nn.pixel_norm import PixelNormConvs

__all__ = [
    "MLP",
    "Coded",
    "Convs",
    "Custom",
    "Discriminator",
    "Entries",
    "InstanceNormConvs",
    "Joined",
    "MLPs",
    "Networks",
    "Noisy",
    "Paired",
    "PixelNormConvs",
    "Shape",
    "positive",
]
