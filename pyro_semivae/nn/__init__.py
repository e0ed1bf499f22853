"""Networks. They map parents to raw parameters; what the parameters mean is `conditionals.py`'s business.

Under autocast (`fit(precision="bf16-mixed")`) layers compute in the lower precision, and what a network returns is in
its weights' own again: densities are never summed in half precision.
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
