"""LaRVAE (Nie et al. 2020), and the semi-supervised disentanglement that it improves: factors as labels of few images.

python examples/larvae.py                        # a rendered room, labels of 1 % of its images (minutes on two cores)
python examples/larvae.py --base factor          # FactorVAE's critic in the place of beta-TCVAE's batch estimate
python examples/larvae.py --replacement guide --generated 0     # the label replacement as it is printed
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

    base: str = flag("tc", "beta-VAE, beta-TCVAE or FactorVAE", choices=["beta", "tc", "factor"])
    weight: float = flag(4.0, "of the base: beta, beta, gamma", number(least=0))
    z: int = flag(5, "size of the nuisance", count(0))
    alpha: float = flag(300.0, "weight of the label loss, of the mean over labelled images", number(least=0))
    replacement: str = flag("prior", "where z of the label replacement is from", choices=["guide", "prior"])
    samples: int = flag(1, "importance samples of the label replacement", count())
    generated: float = flag(300.0, "weight of the label loss on generated images", number(least=0))
    pixels: float = flag(4.0, "weight of the pixels' cross-entropy", number(above=0))
    convolutions: bool = flag(False, "the paper's decoder of transposed convolutions; without it a faster MLP")


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
