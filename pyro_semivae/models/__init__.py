"""Models: one file per paper's graph."""

from pyro_semivae.models.base import SemiVAE
from pyro_semivae.models.ccvae import CCVAE, MultiLabelCCVAE

__all__ = ["CCVAE", "MultiLabelCCVAE", "SemiVAE"]
