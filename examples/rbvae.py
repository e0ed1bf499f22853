"""Reference-based VAEs (Ruiz et al. 2019): what plain outlines tell about the style of other digits.

python examples/rbvae.py                    # MNIST at 32x32, sRb-VAE by our recipe (ten minutes on two cores)
python examples/rbvae.py --no-symmetric     # Rb-VAE: the ELBO alone
python examples/rbvae.py --preset paper --image-size 64 --cuda      # the paper's setting
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch

from pyro_semivae import cli
from pyro_semivae.conditionals import LaplaceLikelihood
from pyro_semivae.flags import count, flag, number
from pyro_semivae.infer import Objective
from pyro_semivae.models import RbVAE
from pyro_semivae.nn import PixelNormConvs
from pyro_semivae.reference_run import ReferenceRun

OURS = {"adversarial": 30.0, "latents": 1.0, "crossed": 0.5, "r1": 1.0, "scales": 3, "scale": 0.3, "warm_up": 0.2}
PAPER = {"lr": 1e-4, "schedule": "constant", "width": 32, "strided": False, "batch_size": 64, "images": 0, "epochs": 50}


@dataclass(kw_only=True)
class Settings(cli.Reference):
    """The flags."""

    PRESETS: ClassVar = {"demo": OURS, "paper": PAPER}

    z: int = flag(32, "size of the common factors", count())
    e: int = flag(32, "size of the target factors", count())
    symmetric: bool = flag(True, "sRb-VAE, the symmetric divergence; without it Rb-VAE, the ELBO alone")
    adversarial: float = flag(1.0, "weight of the discriminators' density ratios", number(least=0))
    latents: float = flag(1.0, "weight of log q(z, e|x~) of generated images", number(least=0))
    crossed: float = flag(0.0, "fraction of generated images with the z of the other set's", number(least=0, most=1))
    r1: float = flag(0.0, "weight of the discriminators' gradient penalty", number(least=0))
    scales: int = flag(1, "scales of the reconstruction; 1: Laplace pixels", count())
    scale: float = flag(0.1, "of the Laplace pixels", number(above=0))
    beta: float = flag(1.0, "weight of the latents' densities; 1: the bound", number(least=0))
    width: int = flag(16, "channels of the networks' first layer", count())
    strided: bool = flag(True, "networks of strided convolutions, faster on a CPU; without them the paper's blocks")


def make(job: ReferenceRun[Settings]) -> RbVAE:
    args = job.args
    networks = PixelNormConvs(args.width, strided=args.strided, start=-2.0)
    likelihood = partial(LaplaceLikelihood, scale=args.scale)
    return RbVAE(job.data.x_shape, z=args.z, e=args.e, networks=networks, likelihood=likelihood)


def objective(vae: RbVAE, args: Settings) -> Objective:
    if not args.symmetric:
        return vae.elbo(beta=args.beta, scales=args.scales)
    if args.preset == "paper":
        return vae.symmetric(lr=args.lr)
    weights = {"adversarial": args.adversarial, "latents": args.latents, "crossed": args.crossed}
    return vae.elbo(beta=args.beta, scales=args.scales, r1=args.r1, lr=args.lr, **weights)


def run() -> None:
    job = ReferenceRun(Settings.parse(__doc__))
    vae = make(job)
    job.train(vae, objective(vae, job.args), optimiser=partial(torch.optim.Adam, betas=(0.5, 0.99)))


if __name__ == "__main__":
    cli.main(run)
