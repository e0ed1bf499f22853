"""CCVAE on FashionMNIST (or MNIST, or scikit-learn's digits): train, measure, draw.

python examples/ccvae.py                                      # FashionMNIST, 0.4 % of the labels
python examples/ccvae.py --dataset mnist --labelled 10        # one labelled image per class
python examples/ccvae.py --preset paper --labelled 0.2        # the paper's setting
"""

from __future__ import annotations

import argparse

import torch

from pyro_semivae import CCVAE, cli
from pyro_semivae.report import draw_classes, measure_classes
from pyro_semivae.train import SCHEDULES, fit

PRESETS = {
    "recipe": {"marginal": "jensen", "alpha": 50.0, "schedule": "cosine", "binarise": True, "epochs": 20},
    "paper": {"marginal": "exact", "alpha": 0.0, "schedule": "constant", "binarise": False, "epochs": 100},
}


def flags() -> argparse.ArgumentParser:
    parser = cli.parser(__doc__, datasets=cli.data.NAMES, lr=5e-4, labelled={"digits": "100", "*": "0.004"})
    parser.add_argument("--z-c", type=int, default=10, help="size of the characteristic latent")
    parser.add_argument("--z-s", type=int, default=0, help="size of the rest")
    parser.add_argument("--classifier", default="network", choices=["network", "bayes"])
    parser.add_argument("--marginal", choices=["exact", "jensen"], help="how missing labels enter")
    parser.add_argument("--detach", default="weight", choices=["weight", "weighted-terms", "none"])
    parser.add_argument("--num-samples", type=int, default=20, help="K, for q(y|x)")
    parser.add_argument("--alpha", type=float, help="extra weight alpha N / N_labelled on log q(y|x); 0 is the bound")
    parser.add_argument("--regulariser-weight", type=float, default=0.0, help="mu of REVAE D.2")
    parser.add_argument("--schedule", choices=SCHEDULES, help="of the learning rate")
    parser.add_argument("--binarise", action=argparse.BooleanOptionalAction, help="train on binary draws of the pixels")
    return parser


def train(args: argparse.Namespace, job: cli.Run) -> tuple[CCVAE, list]:
    x, num_classes = job.data.x, len(job.data.classes)
    hidden = (32,) if args.smoke_test else (600, 600)
    vae = CCVAE(job.data.x_shape, num_classes, z_c=args.z_c, z_s=args.z_s, hidden=hidden, classifier=args.classifier)
    elbo = vae.elbo(
        marginal=args.marginal,
        detach=args.detach,
        num_samples=args.num_samples,
        classifier_weight=1 + args.alpha * len(x) / len(job.labelled_rows),
        regulariser_weight=args.regulariser_weight,
    )
    transform = torch.bernoulli if args.binarise else None
    history = fit(vae, x, job.y, elbo=elbo, schedule=SCHEDULES[args.schedule], transform=transform, **job.fit_options())
    return vae, history


def run() -> None:
    args = cli.parse(flags(), PRESETS)
    job = cli.Run(args, preferred="fashionmnist")
    vae, history = train(args, job)
    draw_classes(vae, job.data, history, job.out)
    job.finish({**measure_classes(vae, job.data, quick=args.smoke_test), "bound_per_row": history[-1]["bound"]})


if __name__ == "__main__":
    cli.main(run)
