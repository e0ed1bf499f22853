"""M1+M2 (Kingma et al. 2014): a VAE on all rows, then an M2 on its latents.

python examples/m1m2.py
"""

from __future__ import annotations

from pyro_semivae import cli
from pyro_semivae.models import M1, M1M2
from pyro_semivae.train import fit


def run() -> None:
    parser = cli.compared_parser(__doc__, split=False, alpha=0.1)
    parser.add_argument("--features", type=int, default=50, help="size of M1's latent")
    args = cli.parse(parser, cli.COMPARED)
    job = cli.Run(args, preferred="fashionmnist")
    m1 = M1(job.data.x_shape, job.data.labels, z=args.features, **job.parts())
    fit(m1, job.data.x, job.y, **{**job.fit_options(), "checkpoint": job.out / "m1.pt"})
    vae = M1M2(m1, z=args.z, prior=job.prior())
    job.train(vae, vae.elbo(classifier_weight=job.weight(args.alpha), beta=args.beta))


if __name__ == "__main__":
    cli.main(run)
