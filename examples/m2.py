"""M2 (Kingma et al. 2014): the label is a latent of its own, summed where it is missing.

python examples/m2.py
python examples/m2.py --dataset faces          # 18 binary labels, drawn where they are missing
"""

from __future__ import annotations

import argparse

from pyro_semivae import cli
from pyro_semivae.models import M2
from pyro_semivae.train import cosine

PRESETS = {"demo": {"epochs": {"digits": 200, "faces": 6, "*": 12}, "lr": 1e-3}}


def flags() -> argparse.ArgumentParser:
    parser = cli.parser(__doc__, datasets=cli.data.NAMES, labelled={"digits": "100", "*": "0.004"})
    parser.add_argument("--z", type=int, default=20, help="size of the latent")
    parser.add_argument(
        "--alpha", type=float, default=0.1, help="weight alpha N / N_labelled on log q(y|.) of labelled rows"
    )
    parser.add_argument("--beta", type=float, default=1.0, help="weight of the latents' densities; 1 is the ELBO")
    parser.add_argument(
        "--labels", choices=["relaxed", "score"], default="relaxed", help="how missing binary labels are drawn"
    )
    return parser


def run() -> None:
    args = cli.parse(flags(), PRESETS)
    job = cli.Run(args, preferred="fashionmnist")
    vae = M2(job.data.x_shape, job.data.labels, z=args.z, prior=job.prior(), **job.parts())
    drawn = {"labels": args.labels} if job.prior() is not None else {}
    job.train(vae, vae.elbo(classifier_weight=job.weight(args.alpha), beta=args.beta, **drawn), schedule=cosine)


if __name__ == "__main__":
    cli.main(run)
