"""DIVA as CCVAE's Appendix C.4 modifies it: CCVAE's graph with a classifier beside the ELBO.

python examples/diva.py
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from pyro_semivae import cli
from pyro_semivae.example_run import ExampleRun
from pyro_semivae.models import DIVA


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    return cli.compared_parser(__doc__, split=True, classified=True).parse(cli.COMPARED, argv)


def make(job: ExampleRun) -> DIVA:
    sizes = {"z_c": job.args.z_c, "z_s": job.args.z_s}
    return DIVA(job.data.x_shape, job.data.labels, **sizes, prior=job.prior(), **job.parts())


def run() -> None:
    job = ExampleRun(arguments(), preferred="fashionmnist")
    vae, args = make(job), job.args
    job.train(vae, vae.elbo(classifier_weight=job.weight(args.alpha), beta=args.beta))


if __name__ == "__main__":
    cli.main(run)
