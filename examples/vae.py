"""The VAE and the beta-VAE: no labels, for comparison.

python examples/vae.py
python examples/vae.py --beta 4
"""

from __future__ import annotations

from pyro_semivae import cli
from pyro_semivae.models import VAE


def run() -> None:
    args = cli.parse(cli.compared_parser(__doc__, split=False), cli.COMPARED)
    job = cli.Run(args, preferred="fashionmnist")
    vae = VAE(job.data.x_shape, job.data.labels, z=args.z, **job.parts())
    job.train(vae, vae.elbo(beta=args.beta))


if __name__ == "__main__":
    cli.main(run)
