"""Models: one file per paper's graph."""

from pyro_semivae.models.base import SemiVAE
from pyro_semivae.models.ccvae import CCVAE

__all__ = ["CCVAE", "SemiVAE"]
