"""DIVA as CCVAE's Appendix C.4 modifies it: CCVAE's graph with a classifier beside the ELBO.

python examples/diva.py
"""

from __future__ import annotations

from pyro_semivae import cli
from pyro_semivae.models import DIVA


def make(job: cli.Run) -> DIVA:
    sizes = {"z_c": job.args.z_c, "z_s": job.args.z_s}
    return DIVA(job.data.x_shape, job.data.labels, **sizes, prior=job.prior(), **job.parts())


def run() -> None:
    args = cli.parse(cli.compared_parser(__doc__, split=True, alpha=1.0), cli.COMPARED)
    job = cli.Run(args, preferred="fashionmnist")
    vae = make(job)
    job.train(vae, vae.elbo(classifier_weight=job.weight(args.alpha), beta=args.beta))


if __name__ == "__main__":
    cli.main(run)
