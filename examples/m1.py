"""M1 (Kingma et al. 2014): a VAE on all rows, then a logistic regression on the latents of the labelled ones.

python examples/m1.py
"""

from __future__ import annotations

import argparse

from pyro_semivae import cli
from pyro_semivae.models import M1
from pyro_semivae.train import cosine

PRESETS = {"demo": {"epochs": {"digits": 200, "faces": 6, "*": 12}, "lr": 1e-3}}


def flags() -> argparse.ArgumentParser:
    parser = cli.parser(__doc__, datasets=cli.data.NAMES, labelled={"digits": "100", "*": "0.004"})
    parser.add_argument("--z", type=int, default=20, help="size of the latent")
    parser.add_argument("--beta", type=float, default=1.0, help="weight of the latents' densities; 1 is the ELBO")
    return parser


def run() -> None:
    args = cli.parse(flags(), PRESETS)
    job = cli.Run(args, preferred="fashionmnist")
    vae = M1(job.data.x_shape, job.data.labels, z=args.z, **job.parts())
    job.train(vae, vae.elbo(beta=args.beta), schedule=cosine, then=lambda: vae.fit_classifier(job.data.x, job.y))


if __name__ == "__main__":
    cli.main(run)
