"""The VAE, the beta-VAE and FactorVAE: no labels, for comparison.

python examples/vae.py
python examples/vae.py --beta 4
python examples/vae.py --gamma 6        # FactorVAE (Kim and Mnih 2018)
"""

from __future__ import annotations

from dataclasses import dataclass

from pyro_semivae import cli
from pyro_semivae.example_run import ExampleRun
from pyro_semivae.flags import flag, number
from pyro_semivae.infer import TotalCorrelation
from pyro_semivae.models import VAE


@dataclass(kw_only=True)
class Settings(cli.Compared, cli.OneLatent):
    """The flags."""

    gamma: float = flag(0.0, "weight of the latents' total correlation", number(least=0))


def run() -> None:
    job = ExampleRun(Settings.parse(__doc__), preferred="fashionmnist")
    vae = VAE(job.data.x_shape, job.data.labels, z=job.args.z, **job.parts())
    elbo = vae.elbo(beta=job.args.beta)
    if job.args.gamma:
        elbo = elbo + job.args.gamma * TotalCorrelation()
    job.train(vae, elbo)


if __name__ == "__main__":
    cli.main(run)
