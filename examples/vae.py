"""The VAE and the beta-VAE: no labels, for comparison.

python examples/vae.py
python examples/vae.py --beta 4
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from pyro_semivae import cli
from pyro_semivae.models import VAE


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    return cli.compared_parser(__doc__, split=False).parse(cli.COMPARED, argv)


def run() -> None:
    job = cli.Run(arguments(), preferred="fashionmnist")
    vae = VAE(job.data.x_shape, job.data.labels, z=job.args.z, **job.parts())
    job.train(vae, vae.elbo(beta=job.args.beta))


if __name__ == "__main__":
    cli.main(run)
