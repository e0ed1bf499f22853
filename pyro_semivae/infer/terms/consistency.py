"""Consistency regularisation: the Pi-model (Laine and Aila, ICLR 2017)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from pyro import poutine
from torch import Tensor

from pyro_semivae.errors import check_count
from pyro_semivae.infer.base import Term
from pyro_semivae.infer.evidence import Evidence
from pyro_semivae.infer.handlers import Particles
from pyro_semivae.infer.run import Run
from pyro_semivae.infer.tables import log_prob


class ConsistencyTerm(Term):
    r"""-KL(r(y) || q(y|z)) for missing labels, r(y) = q(y|x) from another run of the guide, without gradient.

    .. math::
        -\sum_{i \in m} KL(r(y_i) \Vert q(y_i|z)), \qquad r(y_i) = \tfrac{1}{K} \sum_k q(y_i|z_k), \; z_k \sim q(z|x')

    where the other run has different noise: a corrupted image x' (`fit`'s `corrupt`), dropout, z. It trains the
    classifier to be invariant to the noise on unlabelled examples. It costs a second run of the guide.

    Args:
        num_samples: K; default: the number of samples that the bound uses for q(y|x).
    """

    def __init__(self, num_samples: int | None = None):
        self.num_samples = None if num_samples is None else check_count("num_samples", num_samples)

    def values(self, run: Run) -> Mapping[str, Tensor]:
        size = self.num_samples or max(1, run.particles - 1)
        dim = run.particle_dim
        with torch.no_grad(), poutine.enum(first_available_dim=dim - 1), Particles(size, dim), Evidence():
            other = run.step.run_guide()

        def divergence(label: str, log_q: Tensor, label_dim: int) -> Tensor:
            with torch.no_grad():
                log_r = log_prob(other.nodes[label])
                log_r = log_r.logsumexp(dim, keepdim=True) - math.log(log_r.shape[dim])
            return (log_r.exp() * (log_r - log_q)).sum(label_dim)

        return {"-KL(r(y_m) || q(y_m))": -run.over_missing(divergence)}
