"""What the scripts share: their flags, and how they end."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

import torch

from pyro_semivae import data, flags
from pyro_semivae.data.chexpert import POLICIES
from pyro_semivae.errors import InputError
from pyro_semivae.example_run import device_of
from pyro_semivae.flags import Parser, by_label, by_networks, count, number
from pyro_semivae.models.parts import ALPHA, BETA


def few_flags(description: str, out: str, *, dataset: bool = False) -> argparse.Namespace:
    """The flags of a short script on data of its own: `smoke_test`, `device`, and `out`, a folder, which is made.

    Args:
        dataset: whether there is `dataset` too, the path of data of the user's, or None.
    """
    flags = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--smoke-test", action="store_true", help="train for one epoch")
    flags.add_argument("--cuda", action="store_true", help="train on the GPU")
    flags.add_argument("--out", type=Path, default=Path(out), help="the folder of the figures (default: %(default)s)")
    if dataset:
        flags.add_argument("--dataset", type=Path, help="a folder of images, with a csv or in sub-folders of classes")
    args = flags.parse_args()
    try:
        args.device = device_of(args.cuda)
    except InputError as error:
        flags.error(str(error))
    args.out.mkdir(parents=True, exist_ok=True)
    sys.excepthook = _one_line
    return args


def _told(error: BaseException) -> str | None:
    """What is to be said of an error that is the user's to mend; None for others."""
    if isinstance(error, InputError | OSError | FloatingPointError):
        return f"error: {str(error).splitlines()[0]}"  # Pyro appends the shapes of its trace
    memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
    if memory or (isinstance(error, RuntimeError) and "allocate" in str(error)):  # torch has no kind for the CPU's
        return f"error: out of memory ({str(error).splitlines()[0][:200]}): smaller networks or batches"
    return None


def _one_line(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if (said := _told(error)) is None:
        sys.__excepthook__(kind, error, trace)
    else:
        print(said, file=sys.stderr)


def parser(description: str, *, datasets: Sequence[str], labelled: dict[str, str]) -> Parser:
    """A parser with the flags that all examples have; a script adds its own.

    Args:
        labelled: the default of `--labelled` by data set, `"*"` for any other. (Any default may be such a dict.)
    """
    out = Parser(description)
    names = ["auto", *datasets]
    what = f"{', '.join(names)} (falls back on built-in data), or the path of a folder of images, an .npz or .npy file"
    out.add_argument("--dataset", default="auto", type=flags.dataset(names), metavar="NAME|PATH", help=what)
    out.add_argument("--data-dir", help=f"root of the data sets (default: ${data.sets.DATA_ENV}, else ./data)")
    own = out.add_argument_group("data of your own (--dataset PATH)")
    own.add_argument("--csv", metavar="FILE", help="the labels of the images (default: the one csv in the folder)")
    what = "the label: one column of classes, or several of 0 and 1, with commas (default: the only choice)"
    own.add_argument("--label", metavar="COLUMN", help=what)
    what = "class, binary, real, data or ignore, where values do not tell: as age=real,digit=class"
    own.add_argument("--kinds", type=flags.kinds, metavar="COLUMN=KIND", help=what)
    own.add_argument("--size", type=count(4), metavar="PIXELS", help="resize images to this many pixels on both sides")
    chexpert = out.add_argument_group("labels of CheXpert")
    for flag, default, accepted, meaning in (
        ("--blank", "negative", POLICIES, "what a finding that is not mentioned is"),
        ("--uncertain", "missing", POLICIES, "what an uncertain one is"),
        ("--views", "frontal", ("frontal", "all"), "which images"),
    ):
        chexpert.add_argument(flag, default=default, choices=accepted, help=meaning)
    out.add_argument("--epochs", type=count(), help="passes through the unlabelled rows")
    what = "unlabelled rows a step; half as many labelled ones"
    out.add_argument("--batch-size", type=count(), default={"faces": 64, "own conv": 64, "*": 200}, help=what)
    out.add_argument("--lr", type=number(above=0), help="Adam's learning rate")
    what = "how many training rows keep their labels: with a point a fraction of all, else a count; all: those that are"
    what += " known"
    out.add_argument("--labelled", type=flags.labelled, default={**labelled, "own": "all"}, help=what)
    what = "fixes split, initialisation, batches and noise"
    out.add_argument("--seed", type=count(0, 2**32 - 1), default=0, help=what)
    what = "use the last N training rows as validation set, in the place of the test set; 0: the test set"
    out.add_argument("--hold-out", type=count(0), default=0, help=what)
    out.add_argument("--cuda", action="store_true", help="train on the GPU")
    what = "of the networks' layers; bf16-mixed is faster where the processor has it"
    out.add_argument("--precision", default="32-true", choices=["32-true", "bf16-mixed"], help=what)
    out.add_argument("--out", help="output folder (default: runs/<script>-<dataset>[-<preset>])")
    again = out.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="continue from the checkpoint in the output folder")
    again.add_argument("--overwrite", action="store_true", help="remove the run in the output folder and start afresh")
    out.add_argument("--smoke-test", action="store_true", help="quick end-to-end check, in seconds")
    return out


# The presets of the models that CCVAE is compared with. "plain" is the objective as it was published, with the weight
# that Kingma et al.'s code has on the classifier.
COMPARED = {
    "demo": {"epochs": {"digits": 200, "faces": 10, "own": None, "*": 12}, "lr": 1e-3},
    "recipe": {"epochs": 40, "lr": 1e-3},
}
COMPARED["plain"] = {**COMPARED["demo"], "alpha": 0.1, "beta": 1.0, "shift": 0, "dropout": 0.0}


def compared_parser(description: str, *, split: bool, classified: bool = False) -> Parser:
    """A parser with the flags of the models that CCVAE is compared with.

    Args:
        split: whether there are two latents, `--z-c` and `--z-s`, or one, `--z`.
        classified: whether a classifier is trained beside the bound, as CCVAE's is in its example: with a weight, on
            noisy images.
    """
    out = parser(description, datasets=data.NAMES, labelled={"digits": "100", "*": "0.004"})
    if split:
        out.add_argument("--z-c", type=count(), default=10, help="size of z_c (binary labels: one entry a label)")
        out.add_argument("--z-s", type=count(0), default=by_label(20, 27), help="size of the rest")
    else:  # with several labels as large as CCVAE's, 18 + 27
        out.add_argument("--z", type=count(), default=by_label(20, 45), help="size of the latent")
    add_average(out)
    what = "fraction of training over which beta rises from 0"
    out.add_argument("--warm-up", type=number(least=0, most=1), default=0.0, help=what)
    beta = by_networks(*BETA) if classified else 1.0
    out.add_argument(
        "--beta", type=number(least=0), default=beta, help="weight of the latents' densities; 1: the bound"
    )
    if classified:
        what = "weight alpha N / N_labelled on log q(y|.) of labelled rows"
        out.add_argument("--alpha", type=number(least=0), default=by_label(*ALPHA), help=what)
        what = "move what the encoder sees in training by up to N pixels"
        out.add_argument("--shift", type=count(0), default=by_label(1, 0), help=what)
        what = "dropout of the encoder's hidden units"
        out.add_argument("--dropout", type=number(least=0, below=1), default=by_networks(0.1, 0.0), help=what)
    return out


def add_average(out: Parser) -> None:
    """Adds `--average`, which the examples of CCVAE and the compared models share."""
    what = "decay of the weights' exponential moving average; 0: none"
    out.add_argument("--average", type=number(least=0, below=1), default=0.998, help=what)


def main(run: Callable[[], None]) -> None:
    """Runs a script's function; bad input is one line on standard error and exit status 2."""
    try:
        run()
    except Exception as error:
        if (said := _told(error)) is None:
            raise
        print(said, file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("interrupted: the last checkpoint is kept, if there was one; go on with --resume", file=sys.stderr)
        raise SystemExit(130) from None
