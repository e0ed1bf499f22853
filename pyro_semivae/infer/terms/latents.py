"""The reconstruction of latents: what the guide says of those that an image was generated of (Ruiz et al. 2019)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from pyro_semivae.infer.base import Term
from pyro_semivae.infer.generation import Generate, generation
from pyro_semivae.infer.run import Run


class LatentReconstruction(Term):
    r"""log q(z | x~) of latents z and data x~ that the model generates (Ruiz et al. 2019, Eq. 2; wake-sleep's sleep).

    .. math::
        E_{p(z) p(x|z)}[\log q(z | x)]

    Its maximum over the guide is the model's posterior: it is minus KL(p || q) up to terms without the guide.

    Args:
        generate: how the model generates.
        stop_gradients: no gradient goes through z and x~, so that it teaches the guide alone.
    """

    whole_batch = True

    def __init__(self, generate: Generate | None = None, *, stop_gradients: bool = True):
        self.generate, self.stop_gradients = generate or Generate(), stop_gradients

    def values(self, run: Run) -> Mapping[str, Tensor]:
        found = generation(run, self.generate).log_q(run.latents, stop_gradients=self.stop_gradients)
        return {f"log q({name}|x~)": value for name, value in found.items()}
