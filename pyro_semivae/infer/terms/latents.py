"""The reconstruction of the latents from which an image was generated (Ruiz et al. 2019)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from pyro_semivae.infer.base import Term
from pyro_semivae.infer.generation import Generate, generation
from pyro_semivae.infer.run import Run


class LatentReconstruction(Term):
    r"""log q(z | x~) for latents z and data x~ from the model (Ruiz et al. 2019, Eq. 2; wake-sleep's sleep phase).

    .. math::
        E_{p(z) p(x|z)}[\log q(z | x)]

    It equals -KL(p || q) up to terms without the guide, and is maximised if the guide is the model's posterior.

    Args:
        generate: options for generating; default: `Generate()`.
        stop_gradients: whether to detach z and x~, so that the term trains only the guide.
    """

    whole_batch = True

    def __init__(self, generate: Generate | None = None, *, stop_gradients: bool = True):
        self.generate, self.stop_gradients = generate or Generate(), stop_gradients

    def values(self, run: Run) -> Mapping[str, Tensor]:
        found = generation(run, self.generate).log_q(run.latents, stop_gradients=self.stop_gradients)
        return {f"log q({name}|x~)": value for name, value in found.items()}
