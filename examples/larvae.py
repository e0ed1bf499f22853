"""LaRVAE (Nie et al. 2020) and its baseline, semi-supervised disentanglement: factors as labels for few images.

python examples/larvae.py                        # a rendered room, 1 % of its images labelled (minutes on two cores)
python examples/larvae.py --base factor          # FactorVAE's critic in place of beta-TCVAE's batch estimate
python examples/larvae.py --replacement guide --generated 0     # the label replacement as printed in the paper
python examples/larvae.py --tau 0                # the baseline alone
python examples/larvae.py --dataset faces        # 18 binary attributes as numbers
python examples/larvae.py --preset paper --image-size 64 --cuda # the paper's setting
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pyro_semivae import cli
from pyro_semivae.conditionals import BernoulliLikelihood
from pyro_semivae.factor_run import FactorRun
from pyro_semivae.flags import count, flag, number
from pyro_semivae.infer import Objective
from pyro_semivae.models import LaRVAE
from pyro_semivae.nn import InstanceNormConvs, MLPs, Paired

PAPER = {
    "lr": 1e-4,
    "schedule": "constant",
    "alpha": 100.0,
    "replacement": "guide",
    "generated": 0.0,
    "pixels": 1.0,
    "convolutions": True,
    "images": 100_000,
    "epochs": 640,  # a million steps
}


@dataclass(kw_only=True)
class Settings(cli.Factors):
    """The flags."""

    PRESETS: ClassVar = {"demo": {}, "paper": PAPER}

    base: str = flag(
        "tc", "unsupervised objective: beta-VAE, beta-TCVAE or FactorVAE", choices=["beta", "tc", "factor"]
    )
    weight: float = flag(
        4.0, "weight in the base: beta of beta-VAE and beta-TCVAE, gamma of FactorVAE", number(least=0)
    )
    z: int = flag(5, "number of entries of z, the nuisance latent", count(0))
    alpha: float = flag(300.0, "weight of the label loss, as a mean over labelled images", number(least=0))
    replacement: str = flag("prior", "distribution of z in the label replacement", choices=["guide", "prior"])
    samples: int = flag(1, "number of importance samples in the label replacement", count())
    generated: float = flag(300.0, "weight of the label loss on generated images", number(least=0))
    pixels: float = flag(4.0, "weight of the pixels' cross-entropy", number(above=0))
    convolutions: bool = flag(
        False, "use the paper's decoder with transposed convolutions; without the flag a faster MLP"
    )


def networks(args: Settings) -> InstanceNormConvs | Paired:
    if args.convolutions:
        return InstanceNormConvs()
    return Paired(InstanceNormConvs(8, 96, normalise=False), MLPs((192, 384)))


def run() -> None:
    job = FactorRun(Settings.parse(__doc__))
    args, share = job.args, job.share

    def make() -> LaRVAE:
        built = {"networks": networks(args), "likelihood": BernoulliLikelihood}
        return LaRVAE(tuple(job.x.shape[1:]), job.labels, z=args.z, **built)

    def objective(vae: LaRVAE, tau: float) -> Objective:
        return vae.elbo(
            base=vae.base(args.base, args.weight, len(job.x)),
            alpha=args.alpha * share,
            tau=tau * share,
            generated=args.generated * share if tau > 0 else 0.0,
            replacement=args.replacement,
            samples=args.samples,
            pixels=args.pixels,
            also_labelled=False,
        )

    job.train(make, objective)


if __name__ == "__main__":
    cli.main(run)
