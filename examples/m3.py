"""M3 (CCVAE, Eq. 2): a VAE with a classifier on a part of its latents; it generates by rejection.

python examples/m3.py
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from pyro_semivae import cli
from pyro_semivae.example_run import ExampleRun
from pyro_semivae.models import M3


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    return cli.compared_parser(__doc__, split=True, classified=True).parse(cli.COMPARED, argv)


def make(job: ExampleRun) -> M3:
    return M3(job.data.x_shape, job.data.labels, z_c=job.args.z_c, z_s=job.args.z_s, **job.parts())


def run() -> None:
    job = ExampleRun(arguments(), preferred="fashionmnist")
    vae, args = make(job), job.args
    job.train(vae, vae.elbo(classifier_weight=job.weight(args.alpha), beta=args.beta))


if __name__ == "__main__":
    cli.main(run)
