"""M1 (Kingma et al. 2014): a VAE on all rows, then a logistic regression on the latents of the labelled ones.

python examples/m1.py
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from pyro_semivae import cli
from pyro_semivae.example_run import ExampleRun
from pyro_semivae.models import M1


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    return cli.compared_parser(__doc__, split=False).parse(cli.COMPARED, argv)


def run() -> None:
    job = ExampleRun(arguments(), preferred="fashionmnist")
    vae = M1(job.data.x_shape, job.data.labels, z=job.args.z, **job.parts())
    job.train(vae, vae.elbo(beta=job.args.beta), then=lambda: vae.fit_classifier(job.data.x, job.y))


if __name__ == "__main__":
    cli.main(run)
