"""Semi-supervised and disentangling VAEs as Pyro model/guide pairs with custom ELBOs."""

import sys

from pyro_semivae.drawing import show
from pyro_semivae.models import CCVAE, SemiVAE
from pyro_semivae.models.pair import Pair
from pyro_semivae.models.saving import load

__version__ = "0.1.0"

__all__ = ["CCVAE", "Pair", "SemiVAE", "__version__", "load", "show"]

if "IPython" in sys.modules:  # notebook displays of models, objectives, reports, data sets, histories
    from pyro_semivae.notebook import attach

    attach()
