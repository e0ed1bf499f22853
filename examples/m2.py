"""M2 (Kingma et al. 2014): the label is a latent, which is marginalised where it is missing.

python examples/m2.py
python examples/m2.py --dataset faces          # 18 binary labels, sampled where they are missing
"""

from __future__ import annotations

from dataclasses import dataclass

from pyro_semivae import cli
from pyro_semivae.defaults import by_label
from pyro_semivae.example_run import ExampleRun
from pyro_semivae.flags import flag
from pyro_semivae.models import M2


@dataclass(kw_only=True)
class Settings(cli.Classified, cli.OneLatent, cli.Generated):
    """The flags."""

    missing_labels: str = flag(
        by_label("enumerate", "gumbel"),
        "estimator of missing labels; enumerate for class labels, gumbel or reinforce for binary ones",
        choices=["enumerate", "gumbel", "reinforce"],
    )


def make(job: ExampleRun[Settings]) -> M2:
    return M2(job.data.x_shape, job.data.labels, z=job.args.z, prior=job.prior(), **job.parts())


def run() -> None:
    job = ExampleRun(Settings.parse(__doc__), preferred="fashionmnist")
    vae, args = make(job), job.args
    elbo = vae.elbo(classifier_weight=job.weight(args.alpha), beta=args.beta, missing_labels=args.missing_labels)
    job.train(vae, args.with_style(elbo))


if __name__ == "__main__":
    cli.main(run)
