"""The inverted VAE (Gemp et al. 2017): half of the classes are labelled, none of the others ever is.

python examples/inverted_vae.py                            # MNIST: digits 0-4 are labelled, 5-9 are to be found
python examples/inverted_vae.py --preset m2                # M2: without labels that have no image
python examples/inverted_vae.py --dataset fashionmnist
python examples/inverted_vae.py --preset paper             # the paper's Appendix D
python examples/inverted_vae.py --preset reference-code    # the settings of the authors' code
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pyro_semivae import cli, report
from pyro_semivae.checkpoints import load_checkpoint
from pyro_semivae.data import NAMES, jitter
from pyro_semivae.errors import InputError
from pyro_semivae.example_run import ExampleRun
from pyro_semivae.flags import count, number
from pyro_semivae.infer import TraceInverted_ELBO
from pyro_semivae.models import InvertedVAE
from pyro_semivae.train import constant, fit

OURS = {"labels": "relaxed", "gradient": "hard", "temperature": 0.67, "alpha": 5.0, "image_weight": 10.0}
OURS |= {"reverse_weight": {"digits": 0.25, "*": 10.0}, "lr": 3e-3, "batch_size": {"digits": 50, "*": 250}}
OURS |= {"classifier_hidden": [200, 200], "encoder_hidden": [200, 200], "activation": "relu"}
OURS |= {"shift": {"digits": 0.5, "*": 2.0}, "turn": 15.0, "zoom": 0.15, "shear": 0.25}
# What suits M2 better than all that.
M2 = {"labels": "relaxed", "gradient": "hard", "temperature": 0.67, "alpha": 0.5, "image_weight": 0.0}
M2 |= {"reverse_weight": 0.0, "no_reverse": True, "lr": 3e-3, "batch_size": {"digits": 50, "*": 250}}
PAPER = {"labels": "relaxed", "gradient": "hard", "temperature": 1.0, "alpha": 10.0, "image_weight": 0.1}
PAPER |= {"reverse_weight": 1.0, "lr": 0.01, "batch_size": 10_000, "schedule": "constant", "clip": 1.0, "eps": 1e-4}
# Theirs: 1000 epochs of 4 steps; of label and image terms by name, L2 has no gradient, for the image is a hard draw.
CODE = {**PAPER, "image_weight": 0.0, "box": 1.5708, "clip_norm": 5.0, "epochs": 667}
PRESETS = {
    "demo": {**OURS, "epochs": {"digits": 60, "own": None, "*": 5}, "first_epochs": {"digits": 60, "*": 2}},
    "m2": {**M2, "epochs": {"digits": 60, "own": None, "*": 8}},
    "paper": {**PAPER, "epochs": 150},
    "reference-code": CODE,
}
CLASSES = ("digits", "mnist", "fashionmnist")
NOISE = {
    "shift": "moved by up to so many pixels",
    "turn": "turned by up to so many degrees",
    "zoom": "zoomed along each axis by up to so large a fraction",
    "shear": "sheared by up to so many columns per row",
}
ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU}


def clip(parameters: Iterable[nn.Parameter], norm: float, value: float) -> None:
    """Clips the gradient's norm, then its entries."""
    parameters = list(parameters)
    if norm:
        nn.utils.clip_grad_norm_(parameters, norm)
    if value:
        nn.utils.clip_grad_value_(parameters, value)


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = cli.parser(__doc__, datasets=[name for name in NAMES if name in CLASSES], labelled={"*": "1.0"})
    parser.add_argument("--classes", type=count(), default=5, help="how many classes, the first ones, have labels")
    parser.add_argument("--labels-alone", type=count(), default=10_000, help="number of labels without images")
    what = (
        "without the reverse model, its bound and its image term (--reverse-weight 0 keeps that); M2's own: --preset m2"
    )
    parser.add_argument("--no-reverse", action="store_true", help=what)
    parser.add_argument("--labels", choices=["relaxed", "sum", "score"], help="estimator of missing labels")
    parser.add_argument("--gradient", choices=["relaxed", "score", "mean", "hard"], help="through imagined images")
    parser.add_argument("--temperature", type=number(above=0), help="temperature of relaxed distributions")
    parser.add_argument("--alpha", type=number(least=0), help="weight of log q(y|x) of labelled rows")
    parser.add_argument("--image-weight", type=number(least=0), help="weight of |x - E[x|y,z]|^2 of labelled rows")
    parser.add_argument("--reverse-weight", type=number(least=0), help="weight of the reverse bound")
    parser.add_argument(
        "--beta", type=number(least=0), default=1.0, help="weight of the densities of z and missing y; 1: the bound"
    )
    what = "epochs before, of the labelled rows alone and without their classifier: what z is for"
    parser.add_argument("--first-epochs", type=count(0), default=0, help=what)
    what = "a diagnostic, not the task: epochs before, with every class's labels; which bound have the true classes?"
    parser.add_argument("--true-epochs", type=count(0), default=0, help=what)
    for part, sizes in (("classifier", [50, 50]), ("encoder", [10, 10]), ("decoder", [250, 500])):
        what = f"hidden sizes of the {part}"
        parser.add_argument(f"--{part}-hidden", type=count(), nargs="+", default=sizes, help=what)
    kinds = {"zoom": number(least=0, below=1), "turn": number(least=0, most=360)}
    for flag, what in NOISE.items():
        what = f"noise of what q(y|x) sees in training: {what}"
        parser.add_argument(f"--{flag}", type=kinds.get(flag, number(least=0)), default=0.0, help=what)
    parser.add_argument("--activation", choices=ACTIVATIONS, default="tanh", help="of the hidden layers")
    parser.add_argument("--box", type=number(above=0), default=1.5, help="z is in [-box, box]^2")
    parser.add_argument(
        "--clip", type=number(least=0), default=0.0, help="clip the gradient's entries to +- this; 0: do not"
    )
    parser.add_argument("--clip-norm", type=number(least=0), default=0.0, help="... and its norm before; 0: do not")
    parser.add_argument("--eps", type=number(above=0), default=1e-8, help="Adam's epsilon")
    return parser.parse(PRESETS, argv)


def check(args: argparse.Namespace) -> None:
    """Without the reverse model its weights are 0, and a note says so."""
    if args.no_reverse and (args.reverse_weight or args.image_weight):
        print("NOTE: --no-reverse: --reverse-weight and --image-weight are 0", flush=True)
        args.reverse_weight = args.image_weight = 0.0


def make(job: ExampleRun) -> InvertedVAE:
    args, noise = job.args, None
    if any(getattr(args, flag) for flag in NOISE):
        noise = partial(jitter, pixels=args.shift, degrees=args.turn, zoom=args.zoom, shear=args.shear, each_axis=True)
    return InvertedVAE(
        job.data.x_shape,
        job.data.labels,
        low=-args.box,
        high=args.box,
        classifier_hidden=tuple(args.classifier_hidden),
        encoder_hidden=tuple(args.encoder_hidden),
        decoder_hidden=tuple(args.decoder_hidden),
        activation=ACTIVATIONS[args.activation],
        classifier_noise=noise,
    )


def objective(vae: InvertedVAE, args: argparse.Namespace, alpha: float) -> TraceInverted_ELBO:
    return vae.elbo(
        labels=args.labels,
        gradient=args.gradient,
        temperature=args.temperature,
        classifier_weight=alpha,
        image_weight=args.image_weight,
        reverse_weight=args.reverse_weight,
        beta=args.beta,
    )


def fit_options(job: ExampleRun) -> dict[str, Any]:
    # A fused step unscales half-precision gradients itself, after they are clipped.
    adam = partial(torch.optim.Adam, eps=job.args.eps, fused=job.args.precision != "16-mixed")
    args, options = job.args, {**job.fit_options(), "optimiser": adam}
    if args.clip or args.clip_norm:
        options["clip"] = partial(clip, norm=args.clip_norm, value=args.clip)
    return options


def first_stages(vae: InvertedVAE, job: ExampleRun, alone: dict[str, Tensor]) -> None:
    """The labelled rows alone, without q(y|x); then, if asked for, all rows with all labels. A resumed run has them
    behind it, in its checkpoint."""
    args = job.args
    if args.resume and job.checkpoint.exists():
        before = load_checkpoint(job.checkpoint)["config"]
        for flag in ("first_epochs", "true_epochs"):
            was, now = before.get(flag, 0), getattr(args, flag)
            if was != now:
                flag = f"--{flag.replace('_', '-')}"
                raise InputError(f"{flag}: got {now}; accepted with --resume is {was}, as before")
        return
    options = {**fit_options(job), "schedule": constant, "checkpoint": None}
    if args.first_epochs:
        rows, half = job.labelled_rows, {"epochs": args.first_epochs, "batch_size": max(1, args.batch_size // 2)}
        fit(vae, job.data.x[rows], job.y[rows], elbo=objective(vae, args, alpha=0.0), **{**options, **half})
    if args.true_epochs:
        print("NOTE: --true-epochs: every label is used, the hidden ones too; this is a diagnostic", flush=True)
        options["epochs"] = args.true_epochs
        fit(vae, job.data.x, job.data.y, elbo=objective(vae, args, args.alpha), **options, **alone)


def run() -> None:
    job = ExampleRun(arguments(), preferred="mnist")
    args = job.args
    check(args)
    job.keep_classes(args.classes)
    vae = make(job)
    y_alone = vae.p_y().sample((args.labels_alone,))  # before any training, so that a resumed run draws the same
    alone = {"labels_alone": y_alone} if args.reverse_weight else {}
    first_stages(vae, job, alone)
    options = {**fit_options(job), **alone, "also_unlabelled": True}
    history = fit(vae, job.data.x, job.y, elbo=objective(vae, args, args.alpha), **options)
    measured, canonical = report.measure_extraction(vae, job.data, job.labelled_rows, args.classes, seed=args.seed)
    if args.true_epochs:
        measured["true_epochs"] = args.true_epochs
    job.finish(measured)
    report.draw_extraction(vae, job.data, canonical, measured, history, job.out)


if __name__ == "__main__":
    cli.main(run)
