"""MVAE (Wu and Goodman 2018): image and labels as experts on one latent.

python examples/mvae.py
python examples/mvae.py --dataset faces          # 18 binary labels, an expert each
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from pyro_semivae import cli
from pyro_semivae.example_run import ExampleRun
from pyro_semivae.flags import count, number
from pyro_semivae.models import MVAE


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = cli.compared_parser(__doc__, split=False)
    parser.add_argument(
        "--label-weight", type=number(least=0), default={"fashionmnist": 50.0, "*": 10.0}, help="lambda of labels"
    )
    parser.add_argument("--subsets", type=count(0), default=1, help="k, random subsets of the labels a step")
    parser.set_defaults(warm_up=0.3)  # without it z is left out of use
    return parser.parse(cli.COMPARED, argv)


def make(job: ExampleRun) -> MVAE:
    return MVAE(job.data.x_shape, job.data.labels, z=job.args.z, **job.parts())


def run() -> None:
    job = ExampleRun(arguments(), preferred="fashionmnist")
    vae, args = make(job), job.args
    job.train(vae, vae.elbo(label_weight=args.label_weight, subsets=args.subsets, beta=args.beta))


if __name__ == "__main__":
    cli.main(run)
