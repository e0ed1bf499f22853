"""M3 (CCVAE, Eq. 2): a VAE with a classifier on part of its latents; it generates by rejection sampling.

python examples/m3.py
"""

from __future__ import annotations

from dataclasses import dataclass

from pyro_semivae import cli
from pyro_semivae.example_run import ExampleRun
from pyro_semivae.models import M3


@dataclass(kw_only=True)
class Settings(cli.Classified, cli.TwoLatents):
    """The flags."""


def make(job: ExampleRun[Settings]) -> M3:
    return M3(job.data.x_shape, job.data.labels, z_c=job.args.z_c, z_s=job.args.z_s, **job.parts())


def run() -> None:
    job = ExampleRun(Settings.parse(__doc__), preferred="fashionmnist")
    vae, args = make(job), job.args
    job.train(vae, vae.elbo(classifier_weight=job.weight(args.alpha), beta=args.beta))


if __name__ == "__main__":
    cli.main(run)
