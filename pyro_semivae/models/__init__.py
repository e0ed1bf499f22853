"""Models: one file for each paper's graph."""

from pyro_semivae.models.base import SemiVAE
from pyro_semivae.models.ccvae import CCVAE
from pyro_semivae.models.diva import DIVA
from pyro_semivae.models.inverted import InvertedVAE
from pyro_semivae.models.larvae import LaRVAE
from pyro_semivae.models.m1 import M1
from pyro_semivae.models.m1m2 import M1M2
from pyro_semivae.models.m2 import M2
from pyro_semivae.models.m3 import M3
from pyro_semivae.models.mvae import MVAE
from pyro_semivae.models.rbvae import RbVAE
from pyro_semivae.models.swapvae import SwapVAE
from pyro_semivae.models.vae import VAE

__all__ = [
    "CCVAE",
    "DIVA",
    "M1",
    "M1M2",
    "M2",
    "M3",
    "MVAE",
    "VAE",
    "InvertedVAE",
    "LaRVAE",
    "RbVAE",
    "SemiVAE",
    "SwapVAE",
]
