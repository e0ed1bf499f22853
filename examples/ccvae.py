"""CCVAE on images with class labels, or with several binary labels: train, evaluate, draw figures.

python examples/ccvae.py                                      # FashionMNIST with 0.4 % of the labels
python examples/ccvae.py --dataset faces                      # rendered faces, 18 binary labels on 20 % of the rows
python examples/ccvae.py --dataset pets/ --label kind         # a folder of images, and the label's column of its csv
python examples/ccvae.py --preset recipe --labelled 0.06      # our full recipe (the default is a short run of it)
python examples/ccvae.py --preset one-shot --labelled 10 --dataset mnist   # one labelled image per class
python examples/ccvae.py --preset paper --labelled 0.2        # the paper's setting
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import Tensor

from pyro_semivae import CCVAE, cli, tasks
from pyro_semivae.data import adversarial, alternate, drop_partly_labelled, jitter, lose_labels, only_with_grad
from pyro_semivae.defaults import by_label, by_networks
from pyro_semivae.example_run import ExampleRun
from pyro_semivae.flags import count, flag, naming, number
from pyro_semivae.infer import BalanceTerm, ClassifierTerm, ConsistencyTerm, EntropyTerm, NearestLabelTerm
from pyro_semivae.models.parts import BETA, STYLE, STYLE_BETA, STYLE_OF_BINARY

# The recipe without the terms that keep style in interventions on a label: see `infer.style_terms`.
RECIPE_1 = {"marginal": "jensen", "z_c": 30, "z_s": by_label(0, 27), "beta": by_networks(*BETA)}
RECIPE_1 |= {"lr": 1e-3, "schedule": "cosine", "ema_decay": 0.998, "alpha": by_label(1000.0, 1.0)}
RECIPE_1 |= {"shift": by_label(1, 0), "dropout": by_networks(0.1, 0.0)}
RECIPE = {**RECIPE_1, "z_c": 10, "z_s": by_label(20, 27)}
RECIPE |= {"beta": {"tiny": BETA[0], **by_networks(STYLE_BETA, BETA[1])}}  # tiny: see `parts.shows_style`
RECIPE |= {name: {"tiny": 0.0, **by_label(weight, STYLE_OF_BINARY.get(name, 0.0))} for name, weight in STYLE.items()}
RECIPE |= {"entries": by_label("all", STYLE_OF_BINARY["entries"])}
ONE_SHOT = {**RECIPE_1, "beta": 1.0, "alpha": 3000.0, "consistency": 3000.0, "entropy": 300.0, "balance": 1200.0}
ONE_SHOT |= {"shift": 2, "rotate": 15.0, "zoom": 0.15, "adversarial": 3.0, "dropout": 0.0}
PAPER = {"marginal": "exact", "alpha": 0.0, "beta": 1.0, "shift": 0, "schedule": "constant"}
PAPER |= {"z_c": 10, "z_s": by_label(0, 27)}
PAPER |= {
    "weights": by_label("independent", "normalised"),
    "num_samples": 100,
    "lr": by_label(5e-4, 2e-4),
}  # num_samples: as in the authors' code


@dataclass(kw_only=True)
class Settings(cli.Networks, cli.Style):
    """The flags."""

    PRESETS: ClassVar = {
        "demo": {**RECIPE, "epochs": {"digits": 400, "own": None, "*": 10}},
        "recipe": {**RECIPE, "epochs": 40},
        "recipe-1": {**RECIPE_1, "epochs": 40},
        "one-shot": {**ONE_SHOT, "epochs": 12},
        "paper": {**PAPER, "epochs": 100},
    }
    DEFAULTS: ClassVar = {"labelled": {"digits": "100", "faces": "0.2", "own": "all", "*": "0.004"}}

    z_c: int = flag(10, "number of entries of z_c, the characteristic latent (binary labels: one per label)", count())
    z_s: int = flag(by_label(20, 27), "number of entries of z_s, the other latent", count(0))
    prior: str = flag(
        "labelled",
        "p(y) of binary labels: frequencies in the labelled rows, or uniform",
        choices=["labelled", "uniform"],
    )
    partly: str | None = flag(
        None,
        "remove each label with probability 1/2 from half of the labelled rows; keep or drop these rows",
        choices=["keep", "drop"],
    )
    classifier: str = flag(
        "network", "q(y|z_c): a network, or Bayes' rule on p(z_c|y) p(y)", choices=["network", "bayes"]
    )
    marginal: str = flag(
        "jensen", "how missing labels are marginalised in the bound", choices=["exact", "jensen", "sampled"]
    )
    detach: str = flag(
        "weight",
        "where gradients through z_c into q(y|z_c) stop",
        choices=["weight", "weighted-terms", "none"],
    )
    control_variate: bool = flag(False, "reduce the variance of the gradient of w by a leave-one-out baseline")
    num_samples: int = flag(20, "number K of samples of z that estimate q(y|x)", count())
    weights: str = flag(
        "normalised",
        "estimator of the importance weight w = q(y|z_c) / q(y|x)",
        choices=["normalised", "independent"],
    )
    alpha: float = flag(0.0, "extra weight alpha N / N_labelled on log q(y|x); 0: the bound", number(least=0))
    beta: float = flag(1.0, "weight of the latents' densities; 1: the bound", number(least=0))
    regulariser: float = flag(0.0, "weight mu of the nearest-label regulariser (REVAE D.2)", number(least=0))
    consistency: float = flag(0.0, "weight of the consistency loss", number(least=0))
    entropy: float = flag(0.0, "weight of entropy minimisation", number(least=0))
    balance: float = flag(0.0, "weight of class balance", number(least=0))
    adversarial: float = flag(
        0.0,
        "L2 radius of the virtual adversarial perturbation, on half of the images in training",
        number(least=0),
    )
    rotate: float = flag(0.0, "rotate the encoder's input in training by at most N degrees", number(least=0, most=360))
    zoom: float = flag(0.0, "zoom the encoder's input in training by at most this fraction", number(least=0, below=1))


def partly_labelled(job: ExampleRun[Settings]) -> Tensor:
    """The labels after half of the labelled rows lost about half of theirs; `--partly` keeps or drops these rows."""
    with naming("--partly", "y"):
        y = lose_labels(job.y, job.args.seed)
    return drop_partly_labelled(y) if job.args.partly == "drop" else y


def noise(job: ExampleRun[Settings], vae: CCVAE) -> Callable[[Tensor], Tensor] | None:
    """The noise on the encoder's input in training; None for none."""
    args = job.args
    moved = job.noise()
    if args.rotate or args.zoom:
        moved = partial(jitter, pixels=args.shift, degrees=args.rotate, zoom=args.zoom)
    if not args.adversarial:
        return moved
    against = partial(adversarial, log_probs=partial(tasks.log_classify, vae, mean=True), radius=args.adversarial)
    return partial(only_with_grad, noise=partial(alternate, noises=[n for n in (moved, against) if n]))


def make(job: ExampleRun[Settings]) -> CCVAE:
    args = job.args
    prior = job.prior() if args.prior == "labelled" else None
    built = {**job.parts(), "prior": prior, "classifier": args.classifier}
    return CCVAE(job.data.x_shape, job.data.labels, z_c=args.z_c, z_s=args.z_s, **built)


def run() -> None:
    job = ExampleRun(Settings.parse(__doc__), preferred="fashionmnist")
    args = job.args
    if args.partly:
        job.relabel(partly_labelled(job))
    vae = make(job)
    elbo = vae.elbo(
        marginal=args.marginal,
        detach=args.detach,
        num_samples=args.num_samples,
        weights=args.weights,
        control_variate=args.control_variate,
        beta=args.beta,
    )
    added = {
        ClassifierTerm(): job.weight(args.alpha),
        NearestLabelTerm(): args.regulariser,
        ConsistencyTerm(): args.consistency,
        EntropyTerm(): args.entropy,
        BalanceTerm(): args.balance,
    }
    for term, weight in added.items():
        if weight:
            elbo = elbo + weight * term
    elbo = args.with_style(elbo, "z_c", kept=["z_s"])
    with naming("--impute", "missing_labels"):
        job.train(vae, elbo, corrupt=noise(job, vae))


if __name__ == "__main__":
    cli.main(run)
