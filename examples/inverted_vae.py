"""The inverted VAE (Gemp et al. 2017): half of the classes are labelled, the others never.

python examples/inverted_vae.py                            # MNIST: digits 0-4 are labelled, 5-9 have to be found
python examples/inverted_vae.py --preset m2                # M2: without labels without images
python examples/inverted_vae.py --dataset fashionmnist
python examples/inverted_vae.py --preset paper             # the paper's Appendix D
python examples/inverted_vae.py --preset reference-code    # the settings of the authors' code
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pyro_semivae import cli, report
from pyro_semivae.checkpoints import load_checkpoint
from pyro_semivae.data import NAMES, jitter
from pyro_semivae.errors import InputError
from pyro_semivae.example_run import ExampleRun
from pyro_semivae.flags import count, flag, number
from pyro_semivae.infer import TraceInverted_ELBO
from pyro_semivae.models import InvertedVAE
from pyro_semivae.processes import only_first
from pyro_semivae.train import constant, fit

OURS = {"missing_labels": "gumbel", "gradient": "hard", "temperature": 0.67, "alpha": 5.0, "image_weight": 10.0}
OURS |= {"reverse_weight": {"digits": 0.25, "*": 10.0}, "lr": 3e-3, "batch_size": {"digits": 50, "*": 250}}
OURS |= {"classifier_hidden": [200, 200], "encoder_hidden": [200, 200], "activation": "relu"}
OURS |= {"shift": {"digits": 0.5, "*": 2.0}, "rotate": 15.0, "zoom": 0.15, "shear": 0.25}
# The best settings for M2.
M2 = {"missing_labels": "gumbel", "gradient": "hard", "temperature": 0.67, "alpha": 0.5, "image_weight": 0.0}
M2 |= {"reverse_weight": 0.0, "no_reverse": True, "lr": 3e-3, "batch_size": {"digits": 50, "*": 250}}
PAPER = {"missing_labels": "gumbel", "gradient": "hard", "temperature": 1.0, "alpha": 10.0, "image_weight": 0.1}
PAPER |= {"reverse_weight": 1.0, "lr": 0.01, "batch_size": 10_000, "schedule": "constant", "clip": 1.0, "eps": 1e-4}
# The authors' code: 1000 epochs of 4 steps. Its L2 image term has no gradient, because the image is a hard sample.
CODE = {**PAPER, "image_weight": 0.0, "box": 1.5708, "clip_norm": 5.0, "epochs": 667}
NOISE = "noise on q(y|x)'s input in training:"
ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU}


@dataclass(kw_only=True)
class Settings(cli.Common):
    """The flags."""

    PRESETS: ClassVar = {
        "demo": {**OURS, "epochs": {"digits": 60, "own": None, "*": 5}, "first_epochs": {"digits": 60, "*": 2}},
        "m2": {**M2, "epochs": {"digits": 60, "own": None, "*": 8}},
        "paper": {**PAPER, "epochs": 150},
        "reference-code": CODE,
    }
    DEFAULTS: ClassVar = {"labelled": {"own": "all", "*": "1.0"}}

    dataset: str = cli.dataset_flag([name for name in NAMES if name in ("digits", "mnist", "fashionmnist")])
    classes: int = flag({"own": 0, "*": 5}, "number of classes with labels, the first ones; 0: half", count(0))
    unpaired_labels: int = flag(10_000, "number of labels without images", count())
    no_reverse: bool = flag(
        False,
        "drop the reverse model with its bound and its image term (--reverse-weight 0 keeps the latter); for M2's own "
        "settings use --preset m2",
    )
    missing_labels: str = flag("gumbel", "estimator of missing labels", choices=["gumbel", "enumerate", "reinforce"])
    gradient: str = flag(
        "hard",
        "gradient estimator for generated images in reverse",
        choices=["relaxed", "reinforce", "mean", "hard"],
    )
    temperature: float = flag(0.67, "temperature of relaxed distributions", number(above=0))
    alpha: float = flag(5.0, "classifier weight: of log q(y|x) on labelled rows", number(least=0))
    image_weight: float = flag(10.0, "weight of the image term |x - E[x|y,z]|^2 on labelled rows", number(least=0))
    reverse_weight: float = flag(10.0, "weight of the reverse bound", number(least=0))
    beta: float = flag(1.0, "weight of the densities of z and missing y; 1: the bound", number(least=0))
    first_epochs: int = flag(0, "pre-training epochs on the labelled rows, without the classifier's loss", count(0))
    true_epochs: int = flag(
        0,
        "pre-training epochs with the labels of all classes: a diagnostic, which shows the bound of the true classes",
        count(0),
    )
    classifier_hidden: list[int] = flag([50, 50], "sizes of the classifier's hidden layers", count(), nargs="+")
    encoder_hidden: list[int] = flag([10, 10], "sizes of the encoder's hidden layers", count(), nargs="+")
    decoder_hidden: list[int] = flag([250, 500], "sizes of the decoder's hidden layers", count(), nargs="+")
    shift: float = flag(0.0, f"{NOISE} translate by at most N pixels", number(least=0))
    rotate: float = flag(0.0, f"{NOISE} rotate by at most N degrees", number(least=0, most=360))
    zoom: float = flag(0.0, f"{NOISE} zoom each axis by at most this fraction", number(least=0, below=1))
    shear: float = flag(0.0, f"{NOISE} shear by at most N columns per row", number(least=0))
    activation: str = flag("tanh", "activation of the hidden layers", choices=list(ACTIVATIONS))
    box: float = flag(1.5, "limit of z, which is in [-box, box]^2", number(above=0))
    clip: float = flag(0.0, "clip the gradient's entries to +- this value; 0: no clipping", number(least=0))
    clip_norm: float = flag(0.0, "clip the gradient's norm, before its entries; 0: no clipping", number(least=0))
    eps: float = flag(1e-8, "Adam's epsilon", number(above=0))


def clip(parameters: Iterable[nn.Parameter], norm: float, value: float) -> None:
    """Clips the gradient's norm, then its entries."""
    parameters = list(parameters)
    if norm:
        nn.utils.clip_grad_norm_(parameters, norm)
    if value:
        nn.utils.clip_grad_value_(parameters, value)


def check(args: Settings) -> None:
    """Sets the weights of the reverse model to 0 with `--no-reverse`, and prints a note."""
    if args.no_reverse and (args.reverse_weight or args.image_weight):
        print("NOTE: --no-reverse: --reverse-weight and --image-weight are 0", flush=True)
        args.reverse_weight = args.image_weight = 0.0


def make(job: ExampleRun[Settings]) -> InvertedVAE:
    args, noise = job.args, None
    if args.shift or args.rotate or args.zoom or args.shear:
        noise = partial(
            jitter, pixels=args.shift, degrees=args.rotate, zoom=args.zoom, shear=args.shear, each_axis=True
        )
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


def objective(vae: InvertedVAE, args: Settings, alpha: float) -> TraceInverted_ELBO:
    return vae.elbo(
        missing_labels=args.missing_labels,
        gradient=args.gradient,
        temperature=args.temperature,
        classifier_weight=alpha,
        image_weight=args.image_weight,
        reverse_weight=args.reverse_weight,
        beta=args.beta,
    )


def fit_options(job: ExampleRun[Settings]) -> dict[str, Any]:
    # A fused step would unscale half-precision gradients itself, after clipping.
    adam = partial(torch.optim.Adam, eps=job.args.eps, fused=job.args.precision != "16-mixed")
    args, options = job.args, {**job.fit_options(), "optimiser": adam}
    if args.clip or args.clip_norm:
        options["clip"] = partial(clip, norm=args.clip_norm, value=args.clip)
    return options


def first_stages(vae: InvertedVAE, job: ExampleRun[Settings], alone: dict[str, Tensor]) -> None:
    """Pre-trains on the labelled rows, without q(y|x); then, with `--true-epochs`, on all rows with all labels.

    A resumed run skips both stages, which its checkpoint contains.
    """
    args = job.args
    if args.resume and job.checkpoint.exists():
        before = load_checkpoint(job.checkpoint)["config"]
        for name, now in (("first_epochs", args.first_epochs), ("true_epochs", args.true_epochs)):
            if (was := before.get(name, 0)) != now:
                name = f"--{name.replace('_', '-')}"
                raise InputError(f"{name}: got {now}; expected {was} with --resume, as before")
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
    job = ExampleRun(Settings.parse(__doc__), preferred="mnist")
    args = job.args
    check(args)
    args.classes = args.classes or len(job.data.label_names) // 2
    job.keep_classes(args.classes)
    vae = make(job)
    y_alone = vae.p_y().sample((args.unpaired_labels,))  # before training, so that a resumed run samples the same
    alone = {"unpaired_labels": y_alone} if args.reverse_weight else {}
    first_stages(vae, job, alone)
    options = {**fit_options(job), **alone, "also_unlabelled": True}
    history = fit(vae, job.data.x, job.y, elbo=objective(vae, args, args.alpha), **options)
    only_first()
    measured, canonical = report.measure_extraction(vae, job.data, job.labelled_rows, args.classes, seed=args.seed)
    if args.true_epochs:
        measured["true_epochs"] = args.true_epochs
    job.finish({**measured, "compiled": history.compiled, **({"notes": history.notes} if history.notes else {})})
    report.draw_extraction(vae, job.data, canonical, measured, history, job.out)


if __name__ == "__main__":
    cli.main(run)
