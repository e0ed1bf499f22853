"""M1 (Kingma et al. 2014): a VAE on all rows, then a logistic regression on the latents of the labelled rows.

python examples/m1.py
"""

from __future__ import annotations

from dataclasses import dataclass

from pyro_semivae import cli
from pyro_semivae.example_run import ExampleRun
from pyro_semivae.models import M1


@dataclass(kw_only=True)
class Settings(cli.Compared, cli.OneLatent):
    """The flags."""


def run() -> None:
    job = ExampleRun(Settings.parse(__doc__), preferred="fashionmnist")
    vae = M1(job.data.x_shape, job.data.labels, z=job.args.z, **job.parts())
    job.train(vae, vae.elbo(beta=job.args.beta), then=lambda: vae.fit_classifier(job.data.x, job.y))


if __name__ == "__main__":
    cli.main(run)
