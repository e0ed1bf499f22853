"""Terms to add to a bound, one per file, with equation and source; each is a function of the bound's run."""

from pyro_semivae.infer.terms.balance import BalanceTerm
from pyro_semivae.infer.terms.batch_total_correlation import BatchTotalCorrelation
from pyro_semivae.infer.terms.classifier import ClassifierTerm
from pyro_semivae.infer.terms.consistency import ConsistencyTerm
from pyro_semivae.infer.terms.density_ratio import DensityRatio
from pyro_semivae.infer.terms.dip import DIPTerm
from pyro_semivae.infer.terms.entropy import EntropyTerm
from pyro_semivae.infer.terms.generated_labels import GeneratedLabelsTerm
from pyro_semivae.infer.terms.image import ImageTerm
from pyro_semivae.infer.terms.latents import LatentReconstruction
from pyro_semivae.infer.terms.multi_scale import MultiScaleTerm
from pyro_semivae.infer.terms.nearest import NearestLabelTerm
from pyro_semivae.infer.terms.regression import RegressionTerm
from pyro_semivae.infer.terms.replacement import ReplacementTerm
from pyro_semivae.infer.terms.swap import SwapTerm
from pyro_semivae.infer.terms.total_correlation import TotalCorrelation

__all__ = [
    "BalanceTerm",
    "BatchTotalCorrelation",
    "ClassifierTerm",
    "ConsistencyTerm",
    "DIPTerm",
    "DensityRatio",
    "EntropyTerm",
    "GeneratedLabelsTerm",
    "ImageTerm",
    "LatentReconstruction",
    "MultiScaleTerm",
    "NearestLabelTerm",
    "RegressionTerm",
    "ReplacementTerm",
    "SwapTerm",
    "TotalCorrelation",
]
