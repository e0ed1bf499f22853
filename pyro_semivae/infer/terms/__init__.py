"""What may be added to a bound, one file each: its equation, its source, and a function of the bound's run."""

from pyro_semivae.infer.terms.balance import BalanceTerm
from pyro_semivae.infer.terms.classifier import ClassifierTerm
from pyro_semivae.infer.terms.consistency import ConsistencyTerm
from pyro_semivae.infer.terms.entropy import EntropyTerm
from pyro_semivae.infer.terms.image import ImageTerm
from pyro_semivae.infer.terms.nearest import NearestLabelTerm
from pyro_semivae.infer.terms.total_correlation import TotalCorrelation

__all__ = [
    "BalanceTerm",
    "ClassifierTerm",
    "ConsistencyTerm",
    "EntropyTerm",
    "ImageTerm",
    "NearestLabelTerm",
    "TotalCorrelation",
]
