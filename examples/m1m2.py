"""M1+M2 (Kingma et al. 2014): a VAE on all rows, then an M2 on its latents.

python examples/m1m2.py
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pyro_semivae import cli
from pyro_semivae.checkpoints import load_weights
from pyro_semivae.example_run import ExampleRun
from pyro_semivae.files import load_checkpoint
from pyro_semivae.flags import count, flag
from pyro_semivae.models import M1, M1M2
from pyro_semivae.train import fit


@dataclass(kw_only=True)
class Settings(cli.Classified, cli.OneLatent):
    """The flags."""

    DEFAULTS: ClassVar = {**cli.Classified.DEFAULTS, "beta": 1.0}

    features: int = flag(50, "number of entries of M1's latent", count())


def make(job: ExampleRun[Settings], m1: M1 | None = None) -> M1M2:
    return M1M2(make_m1(job) if m1 is None else m1, z=job.args.z, prior=job.prior())


def make_m1(job: ExampleRun[Settings]) -> M1:
    return M1(job.data.x_shape, job.data.labels, z=job.args.features, **job.parts())


def first_stage(job: ExampleRun[Settings]) -> M1:
    """A trained M1; if the second stage has already begun, it is loaded unchanged."""
    m1, file = make_m1(job), job.out / "m1.pt"
    if job.args.resume and job.checkpoint.exists():
        load_weights(m1, load_checkpoint(file, "M1"), file)
        return m1.eval()
    fit(m1, job.data.x, job.y, **{**job.fit_options(), "corrupt": job.noise(), "checkpoint": file})
    return m1


def run() -> None:
    job = ExampleRun(Settings.parse(__doc__), preferred="fashionmnist")
    args, vae = job.args, make(job, first_stage(job))
    job.train(vae, vae.elbo(classifier_weight=job.weight(args.alpha), beta=args.beta))


if __name__ == "__main__":
    cli.main(run)
