"""Tasks: uses of a trained model. Each task is written once and works for any model/guide pair.

A task runs the model and the guide under effect handlers, and uses only the roles of their sites and the model's
`characteristic`. Tasks do not train. They run without gradients, in evaluation mode (no dropout), and take images as
float or uint8.
Returned images are means of p(x|.), float `(..., C, H, W)`, with the leading dimensions given below. Inputs may be on
any device; outputs are on the model's device.
"""

from pyro_semivae.structure import available, classifies, infers_from_labels
from pyro_semivae.tasks.images import generate, interpolate, intervene, reconstruct, swap, traverse, walk
from pyro_semivae.tasks.latents import (
    Latents,
    classify,
    decode,
    in_batches,
    infer,
    infer_latents,
    log_classify,
    prior_of_characteristics,
)
from pyro_semivae.tasks.search import closest_change, sample_characteristics, vary_within

__all__ = [
    "Latents",
    "available",
    "classifies",
    "classify",
    "closest_change",
    "decode",
    "generate",
    "in_batches",
    "infer",
    "infer_latents",
    "infers_from_labels",
    "interpolate",
    "intervene",
    "log_classify",
    "prior_of_characteristics",
    "reconstruct",
    "sample_characteristics",
    "swap",
    "traverse",
    "vary_within",
    "walk",
]
