"""MVAE (Wu and Goodman 2018): the posterior of one latent is a product of experts of image and labels.

python examples/mvae.py
python examples/mvae.py --dataset faces          # 18 binary labels, one expert per label
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pyro_semivae import cli
from pyro_semivae.example_run import ExampleRun
from pyro_semivae.flags import count, flag, number
from pyro_semivae.models import MVAE


@dataclass(kw_only=True)
class Settings(cli.Compared, cli.OneLatent):
    """The flags."""

    DEFAULTS: ClassVar = {**cli.Compared.DEFAULTS, "warm_up": 0.3}  # without it z stays unused

    label_weight: float = flag({"fashionmnist": 50.0, "*": 10.0}, "weight lambda of the labels", number(least=0))
    subsets: int = flag(1, "number k of random subsets of the labels per step", count(0))


def make(job: ExampleRun[Settings]) -> MVAE:
    return MVAE(job.data.x_shape, job.data.labels, z=job.args.z, **job.parts())


def run() -> None:
    job = ExampleRun(Settings.parse(__doc__), preferred="fashionmnist")
    vae, args = make(job), job.args
    job.train(vae, vae.elbo(label_weight=args.label_weight, subsets=args.subsets, beta=args.beta))


if __name__ == "__main__":
    cli.main(run)
