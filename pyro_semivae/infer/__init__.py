"""Objectives: one bound per file, and the roles and handlers they are written with."""

from pyro_semivae.infer.base import ObjectiveModule, RowELBO, Rows
from pyro_semivae.infer.ccvae import TraceCCVAE_ELBO
from pyro_semivae.infer.handlers import LabelledFirst, LocalParameters, Mean, Particles, RowScale, Until
from pyro_semivae.infer.inverted import TraceInverted_ELBO
from pyro_semivae.infer.labels import TraceLabels_ELBO
from pyro_semivae.infer.mvae import TraceMVAE_ELBO
from pyro_semivae.infer.reverse import TraceReverse_ELBO
from pyro_semivae.infer.roles import Roles, assign_roles, sample_sites

__all__ = [
    "LabelledFirst",
    "LocalParameters",
    "Mean",
    "ObjectiveModule",
    "Particles",
    "Roles",
    "RowELBO",
    "RowScale",
    "Rows",
    "TraceCCVAE_ELBO",
    "TraceInverted_ELBO",
    "TraceLabels_ELBO",
    "TraceMVAE_ELBO",
    "TraceReverse_ELBO",
    "Until",
    "assign_roles",
    "sample_sites",
]
