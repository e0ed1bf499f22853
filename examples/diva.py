"""DIVA as modified in CCVAE's Appendix C.4: CCVAE's graph with a classifier loss added to the ELBO.

python examples/diva.py
"""

from __future__ import annotations

from dataclasses import dataclass

from pyro_semivae import cli
from pyro_semivae.example_run import ExampleRun
from pyro_semivae.flags import naming
from pyro_semivae.models import DIVA


@dataclass(kw_only=True)
class Settings(cli.Classified, cli.TwoLatents, cli.Style):
    """The flags."""


def make(job: ExampleRun[Settings]) -> DIVA:
    sizes = {"z_c": job.args.z_c, "z_s": job.args.z_s}
    return DIVA(job.data.x_shape, job.data.labels, **sizes, prior=job.prior(), **job.parts())


def run() -> None:
    job = ExampleRun(Settings.parse(__doc__), preferred="fashionmnist")
    vae, args = make(job), job.args
    elbo = vae.elbo(classifier_weight=job.weight(args.alpha), beta=args.beta)
    with naming("--impute", "missing_labels"):
        job.train(vae, args.with_style(elbo, "z_c", kept=["z_s"]))


if __name__ == "__main__":
    cli.main(run)
