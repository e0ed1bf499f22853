"""Objectives: bounds, one per file; terms to add to them (`terms`); and the classes to write new ones."""

from pyro_semivae.infer.base import Bound, Objective, Sum, Term
from pyro_semivae.infer.ccvae import TraceCCVAE_ELBO
from pyro_semivae.infer.derived import FromPrior, GuideAlone, Hidden, ImportanceWeighted, Labelled
from pyro_semivae.infer.evaluation import Evaluation, Value
from pyro_semivae.infer.generation import Generate
from pyro_semivae.infer.handlers import LocalParameters, Mean, Particles, Until
from pyro_semivae.infer.interventions import style_terms
from pyro_semivae.infer.inverted import TraceInverted_ELBO
from pyro_semivae.infer.labels import TraceLabels_ELBO
from pyro_semivae.infer.larvae import label_replacement
from pyro_semivae.infer.module import CompiledModule, ObjectiveModule
from pyro_semivae.infer.mvae import TraceMVAE_ELBO
from pyro_semivae.infer.reverse import TraceReverse_ELBO
from pyro_semivae.infer.roles import Roles, assign_roles, sample_sites
from pyro_semivae.infer.run import Run
from pyro_semivae.infer.step import Step
from pyro_semivae.infer.symmetric import TraceSymmetricKL_ELBO
from pyro_semivae.infer.terms import (
    BalanceTerm,
    BatchTotalCorrelation,
    ClassifierTerm,
    ConsistencyTerm,
    DensityRatio,
    DIPTerm,
    EntropyTerm,
    GeneratedLabelsTerm,
    ImageTerm,
    LatentReconstruction,
    MultiScaleTerm,
    NearestLabelTerm,
    RegressionTerm,
    ReplacementTerm,
    SwapTerm,
    TotalCorrelation,
)
from pyro_semivae.infer.traced import NotTraceable, Traced
from pyro_semivae.infer.weights import WarmUp

__all__ = [
    "BalanceTerm",
    "BatchTotalCorrelation",
    "Bound",
    "ClassifierTerm",
    "CompiledModule",
    "ConsistencyTerm",
    "DIPTerm",
    "DensityRatio",
    "EntropyTerm",
    "Evaluation",
    "FromPrior",
    "Generate",
    "GeneratedLabelsTerm",
    "GuideAlone",
    "Hidden",
    "ImageTerm",
    "ImportanceWeighted",
    "Labelled",
    "LatentReconstruction",
    "LocalParameters",
    "Mean",
    "MultiScaleTerm",
    "NearestLabelTerm",
    "NotTraceable",
    "Objective",
    "ObjectiveModule",
    "Particles",
    "RegressionTerm",
    "ReplacementTerm",
    "Roles",
    "Run",
    "Step",
    "Sum",
    "SwapTerm",
    "Term",
    "TotalCorrelation",
    "TraceCCVAE_ELBO",
    "TraceInverted_ELBO",
    "TraceLabels_ELBO",
    "TraceMVAE_ELBO",
    "TraceReverse_ELBO",
    "TraceSymmetricKL_ELBO",
    "Traced",
    "Until",
    "Value",
    "WarmUp",
    "assign_roles",
    "label_replacement",
    "sample_sites",
    "style_terms",
]
