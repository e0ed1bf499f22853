"""Metrics of disentanglement, `metric(representation, factors, ...)` on plain arrays, one per file."""

from pyro_semivae.metrics.disentanglement.beta_vae_score import beta_vae_score
from pyro_semivae.metrics.disentanglement.dci import dci
from pyro_semivae.metrics.disentanglement.distance import label_distance
from pyro_semivae.metrics.disentanglement.factor_vae_score import factor_vae_score
from pyro_semivae.metrics.disentanglement.irs import robustness
from pyro_semivae.metrics.disentanglement.mig import mutual_information_gap
from pyro_semivae.metrics.disentanglement.modularity import explicitness, modularity
from pyro_semivae.metrics.disentanglement.sap import separated_predictability
from pyro_semivae.metrics.disentanglement.score import Score

__all__ = [
    "Score",
    "beta_vae_score",
    "dci",
    "explicitness",
    "factor_vae_score",
    "label_distance",
    "modularity",
    "mutual_information_gap",
    "robustness",
    "separated_predictability",
]
