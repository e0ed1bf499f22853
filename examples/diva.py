"""DIVA as CCVAE's Appendix C.4 modifies it: CCVAE's graph with a classifier beside the ELBO.

python examples/diva.py
"""

from __future__ import annotations

import argparse

from pyro_semivae import cli
from pyro_semivae.models import DIVA
from pyro_semivae.train import cosine

PRESETS = {"demo": {"epochs": {"digits": 200, "faces": 6, "*": 12}, "lr": 1e-3}}


def flags() -> argparse.ArgumentParser:
    parser = cli.parser(__doc__, datasets=cli.data.NAMES, labelled={"digits": "100", "*": "0.004"})
    parser.add_argument(
        "--z-c", type=int, default=10, help="size of the characteristic latent (binary labels: one a label)"
    )
    parser.add_argument("--z-s", type=int, default=20, help="size of the rest")
    parser.add_argument(
        "--alpha", type=float, default=1.0, help="weight alpha N / N_labelled on log q(y|.) of labelled rows"
    )
    parser.add_argument("--beta", type=float, default=1.0, help="weight of the latents' densities; 1 is the ELBO")
    return parser


def run() -> None:
    args = cli.parse(flags(), PRESETS)
    job = cli.Run(args, preferred="fashionmnist")
    sizes = {"z_c": args.z_c, "z_s": args.z_s}
    vae = DIVA(job.data.x_shape, job.data.labels, **sizes, prior=job.prior(), **job.parts())
    job.train(vae, vae.elbo(classifier_weight=job.weight(args.alpha), beta=args.beta), schedule=cosine)


if __name__ == "__main__":
    cli.main(run)
