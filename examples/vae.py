"""The VAE, the beta-VAE and FactorVAE: no labels, for comparison.

python examples/vae.py
python examples/vae.py --beta 4
python examples/vae.py --gamma 6        # FactorVAE (Kim and Mnih 2018)
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from pyro_semivae import cli
from pyro_semivae.example_run import ExampleRun
from pyro_semivae.flags import number
from pyro_semivae.infer import TotalCorrelation
from pyro_semivae.models import VAE


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = cli.compared_parser(__doc__, split=False)
    parser.add_argument("--gamma", type=number(least=0), default=0.0, help="weight of the latents' total correlation")
    return parser.parse(cli.COMPARED, argv)


def run() -> None:
    job = ExampleRun(arguments(), preferred="fashionmnist")
    vae = VAE(job.data.x_shape, job.data.labels, z=job.args.z, **job.parts())
    elbo = vae.elbo(beta=job.args.beta)
    if job.args.gamma:
        elbo = elbo + job.args.gamma * TotalCorrelation()
    job.train(vae, elbo)


if __name__ == "__main__":
    cli.main(run)
