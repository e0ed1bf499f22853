"""Shared parts of the scripts: command-line flags and error handling."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

import torch

from pyro_semivae import data, flags
from pyro_semivae.compiling import COMPILE
from pyro_semivae.data.chexpert import POLICIES
from pyro_semivae.defaults import by_label, by_networks
from pyro_semivae.errors import InputError
from pyro_semivae.flags import Flags, count, flag, number
from pyro_semivae.infer import Objective, style_terms
from pyro_semivae.models.parts import ALPHA, BETA
from pyro_semivae.processes import is_first
from pyro_semivae.runs import device_of
from pyro_semivae.train import SCHEDULES


def few_flags(description: str, out: str, *, dataset: bool = False) -> argparse.Namespace:
    """Parses the flags of a short script: `smoke_test`, `device`, and `out`, a folder that is created.

    Args:
        dataset: whether to add `dataset`, the path of the user's own data (None if it is not given).
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke-test", action="store_true", help="train for one epoch")
    parser.add_argument("--cuda", action="store_true", help="train on the GPU")
    parser.add_argument("--out", type=Path, default=Path(out), help="folder for the figures (default: %(default)s)")
    if dataset:
        parser.add_argument("--dataset", type=Path, help="a folder of images, with a csv or one sub-folder per class")
    _quiet_unless_first()
    args = parser.parse_args()
    try:
        args.device = device_of(args.cuda)
    except InputError as error:
        parser.error(str(error))
    args.out.mkdir(parents=True, exist_ok=True)
    sys.excepthook = _one_line
    return args


def _quiet_unless_first() -> None:
    """Standard output of a process that trains with others goes nowhere, unless it is the first."""
    if not is_first():
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115, to the end of the process


def _user_message(error: BaseException) -> str | None:
    """The one-line message of an error that the user can fix; None for other errors."""
    if isinstance(error, InputError | OSError | FloatingPointError):
        return f"error: {str(error).splitlines()[0]}"  # Pyro appends the shapes of its trace
    memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
    if memory or (isinstance(error, RuntimeError) and "allocate" in str(error)):  # torch's type for the CPU's error
        return f"error: out of memory ({str(error).splitlines()[0][:200]}): use smaller networks or batches"
    return None


def _one_line(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if (message := _user_message(error)) is None:
        sys.__excepthook__(kind, error, trace)
    else:
        print(message, file=sys.stderr)


def dataset_flag(names: Sequence[str]) -> Any:
    """The field `--dataset`, which takes one of the names, or a path."""
    names = ["auto", *names]
    what = f"{', '.join(names)} (falls back on built-in data), or the path of a folder of images, an .npz or .npy file"
    return flag("auto", what, flags.dataset(names), metavar="NAME|PATH")


OWN, CHEXPERT = "your own data (--dataset PATH)", "labels of CheXpert"


@dataclass(kw_only=True)
class Trained(Flags):
    """The flags of every script that trains; `flags.Flags` explains how defaults depend on presets and on data."""

    data_dir: str | None = flag(None, f"root of the data sets (default: ${data.sets.DATA_ENV}, else ./data)")
    epochs: int | None = flag(None, "number of passes through the unlabelled rows", count())
    batch_size: int = flag(
        {"faces": 64, "own conv": 64, "*": 200}, "unlabelled rows per step; half as many labelled rows", count()
    )
    lr: float = flag(1e-3, "Adam's learning rate", number(above=0))
    schedule: str = flag("cosine", "learning-rate schedule", choices=list(SCHEDULES))
    warm_up: float = flag(0.0, "fraction of training over which beta rises from 0", number(least=0, most=1))
    ema_decay: float = flag(0.0, "decay of the weights' exponential moving average; 0: none", number(least=0, below=1))
    seed: int = flag(0, "seed of split, initialisation, batches and noise", count(0, 2**32 - 1))
    hold_out: int = flag(
        0,
        "use the last N training rows as validation set, in place of the test set; 0: evaluate on the test set",
        count(0),
    )
    cuda: bool = flag(False, "train on the GPU")
    precision: str = flag(
        "32-true",
        "precision of the networks' layers; bf16-mixed is faster if the processor supports it",
        choices=["32-true", "bf16-mixed"],
    )
    compile: str = flag(
        "auto",
        "run the training step as one compiled graph; auto: where that saves more time than compiling takes",
        choices=list(COMPILE),
    )
    out: str | None = flag(None, "output folder (default: runs/<script>-<dataset>[-<preset>])")
    resume: bool = flag(False, "continue from the checkpoint in the output folder")
    overwrite: bool = flag(False, "delete the run in the output folder and start again")
    smoke_test: bool = flag(False, "quick end-to-end check, in seconds")


@dataclass(kw_only=True)
class Common(Trained):
    """The flags of the examples on images with labels."""

    dataset: str = dataset_flag(data.NAMES)
    csv: str | None = flag(
        None, "csv file with the labels of the images (default: the only csv in the folder)", group=OWN, metavar="FILE"
    )
    label: str | None = flag(
        None,
        "column to use as the label: one column of classes, or several of 0 and 1, separated by commas (default: the "
        "only possible one)",
        group=OWN,
        metavar="COLUMN",
    )
    kinds: str | None = flag(
        None,
        "set the kinds of columns, if they cannot be inferred from the values: class, binary, real, data or ignore, "
        "e.g. age=real,digit=class",
        flags.kinds,
        group=OWN,
        metavar="COLUMN=KIND",
    )
    size: int | None = flag(
        None, "resize images to this height and width, in pixels", count(4), group=OWN, metavar="PIXELS"
    )
    blank: str = flag("negative", "value of a finding that is not mentioned", group=CHEXPERT, choices=POLICIES)
    uncertain: str = flag("missing", "value of an uncertain finding", group=CHEXPERT, choices=POLICIES)
    views: str = flag("frontal", "images to use, by their view", group=CHEXPERT, choices=("frontal", "all"))
    labelled: str = flag(
        {"digits": "100", "own": "all", "*": "0.004"},
        "training rows that keep their labels: a fraction of all rows (with a decimal point) or a count; all: every "
        "known label",
        flags.labelled,
    )


@dataclass(kw_only=True)
class Reference(Trained):
    """The flags of the models that learn from reference images."""

    DEFAULTS: ClassVar = {"epochs": {"digits": 40, "*": 5}, "image_size": {"faces": 64, "affectnet": 64, "*": 32}}

    batch_size: int = flag(32, "images from each set, unlabelled and reference, per step", count())
    dataset: str = flag(
        "auto",
        "mnist, fashionmnist, digits: outlines of these in random styles; faces: rendered faces, the target factors "
        "are the mouth's; affectnet: expressions, with neutral faces as references; auto: mnist (falls back on the "
        "built-in digits)",
        choices=["auto", "mnist", "fashionmnist", "digits", "faces", "affectnet"],
    )
    image_size: int = flag(
        32, "height and width in pixels: 32 or 64; affectnet: any from 16; the paper: 64, 96", count(16)
    )
    images: int = flag(
        16_000,
        "use N training images: half of them as references, the others in two styles each (faces: one); 0: all",
        count(0),
    )

    @classmethod
    def defaults(cls, preset: str | None = None, *, quick: bool = False) -> dict[str, Any]:
        """As `Flags.defaults`; a quick run also has only 300 images."""
        return {**super().defaults(preset, quick=quick), **({"images": 300} if quick else {})}


@dataclass(kw_only=True)
class Factors(Trained):
    """The flags of models whose labels are the factors of a grid of images."""

    DEFAULTS: ClassVar = {
        "epochs": {"faces": 10, "celeba": 5, "*": 12},
        "lr": {"faces": 1e-3, "celeba": 1e-3, "*": 2e-3},
        "schedule": "constant",
    }

    batch_size: int = flag(64, "images per step, and the same number of labelled images", count())
    dataset: str = flag(
        "auto",
        "a grid of factors, or images whose binary attributes are treated as numbers; auto: room, which is rendered, "
        "like sprites and faces",
        choices=["auto", *data.GRIDS, "faces", "celeba"],
    )
    image_size: int = flag(
        {"faces": 64, "celeba": 64, "*": 32}, "height and width in pixels: 32, or the paper's 64", count(16)
    )
    images: int = flag(12_000, "number of training images, from a grid", count(2))
    labelled: str = flag(
        {"faces": "0.05", "*": "0.01"},
        "training images with labels: a fraction of all images (with a decimal point) or a count",
        flags.labelled,
    )
    known: str | None = flag(None, "names of the factors that are labelled, separated by commas (default: all)")
    tau: float = flag(
        {"faces": 0.05, "celeba": 0.05, "*": 1.0},
        "weight of the label replacement, as a mean over labelled images",
        number(least=0),
    )
    baseline: bool = flag(True, "first train without label replacement, for the figures and the `baseline_...` metrics")

    def number_labelled(self, number: int) -> float | int:
        """The count or fraction of `--labelled`; `number` if it is "all"."""
        return number if self.labelled == "all" else data.parse_labelled(self.labelled)

    def known_names(self) -> list[str] | None:
        """The names in `--known`; None if it is not given."""
        return None if self.known is None else [name.strip() for name in self.known.split(",")]


@dataclass(kw_only=True)
class Networks(Common):
    """The flags of scripts whose networks depend on the data: see `ExampleRun.parts`."""

    shift: int = flag(0, "shift the encoder's input in training by at most N pixels", count(0))
    dropout: float = flag(0.0, "dropout probability of the encoder's hidden units", number(least=0, below=1))


@dataclass(kw_only=True)
class Compared(Networks):
    """The flags of the models that CCVAE is compared with."""

    PRESETS: ClassVar = {
        "demo": {"epochs": {"digits": 200, "faces": 10, "own": None, "*": 12}},
        "recipe": {"epochs": 40},
    }
    DEFAULTS: ClassVar = {"ema_decay": 0.998}

    beta: float = flag(1.0, "weight of the latents' densities; 1: the ELBO", number(least=0))


@dataclass(kw_only=True)
class Classified(Compared):
    """The flags of compared models whose objective has a classifier term in addition to the bound, as in CCVAE's
    example.

    The preset "plain" is the published objective, with the classifier weight of Kingma et al.'s code.
    """

    PRESETS: ClassVar = {
        **Compared.PRESETS,
        "plain": {**Compared.PRESETS["demo"], "alpha": 0.1, "beta": 1.0, "shift": 0, "dropout": 0.0},
    }
    DEFAULTS: ClassVar = {
        **Compared.DEFAULTS,
        "beta": by_networks(*BETA),
        "shift": by_label(1, 0),
        "dropout": by_networks(0.1, 0.0),
    }

    alpha: float = flag(
        by_label(*ALPHA), "classifier weight: log q(y|.) of labelled rows times alpha N / N_labelled", number(least=0)
    )


@dataclass(kw_only=True)
class Generated(Flags):
    """The flags of `GeneratedLabelsTerm` that trains the model, for decoders of the label or of latents below it.

    Attributes:
        NEEDS: flag -> weights, at least one of which must be above 0 for the flag to have an effect.
    """

    NEEDS: ClassVar[dict[str, tuple[str, ...]]] = {"share": ("generated",)}

    generated: float = flag(
        0.0, "weight of log q(y'|x~) on generated images x~; it trains the model, not the guide", number(least=0)
    )
    share: float = flag(
        0.25,
        "fraction of a step's images on which the style terms are computed; their weights are divided by it",
        number(above=0, most=1),
    )

    def check_given(self) -> None:
        """Refuses options of terms whose weight is 0 (a weight that depends on the data counts as non-zero until the
        data are known)."""
        super().check_given()
        for name in self.NEEDS.keys() & self.given:
            if getattr(self, name) and not any(getattr(self, other) for other in self.NEEDS[name]):
                other = " or ".join(f"--{other}" for other in self.NEEDS[name])
                raise InputError(f"--{name}: got it without {other}; expected a weight of that above 0 with it")

    def style_options(self) -> dict[str, Any]:
        """The keyword arguments of `infer.style_terms`."""
        return {"tau": 0.0, "generated": self.generated, "style": 0.0, "independence": 0.0, "share": self.share}

    def with_style(self, elbo: Objective, *characteristic: str, kept: Sequence[str] = ()) -> Objective:
        """The objective plus `infer.style_terms`, if any of these has a weight."""
        how = self.style_options()
        wanted = any(how[name] for name in ("tau", "generated", "independence"))
        return elbo + style_terms(*characteristic, kept=kept, **how) if wanted else elbo


@dataclass(kw_only=True)
class Style(Generated):
    """The flags of the terms that keep an image's style in interventions on its label: see `infer.style_terms`."""

    NEEDS: ClassVar = {
        "share": ("tau", "generated"),
        "entries": ("tau",),
        "impute": ("tau",),
        "style": ("generated",),
    }

    tau: float = flag(
        0.0,
        "weight of the label replacement log p(x|z_c',z_s), z_c' ~ p(z_c|y), which moves style into z_s",
        number(least=0),
    )
    style: float = flag(
        0.0, "weight of log q(z_s|x~) on generated images x~, which makes them depend on z_s", number(least=0)
    )
    independence: float = flag(0.0, "weight of -I(z_c; z_s), estimated by a critic", number(least=0))
    entries: str = flag(
        "all",
        "binary labels: entries of z_c' that are resampled in the label replacement; one: a random one",
        choices=["all", "one"],
    )
    impute: str = flag(
        "sample",
        "missing labels in the label replacement: a sample from q(y|z_c), or all classes, weighted by q(y|z_c)",
        choices=["sample", "enumerate"],
    )

    @classmethod
    def chosen(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """All weights are 0 without z_s; the weight of `style` is 0 without generated images; `entries` has no effect
        without `tau`."""
        off = ("tau", "generated", "style", "independence") if given.get("z_s") == 0 else ()
        off = off or (("style",) if given.get("generated") == 0 else ())
        chosen = {**super().chosen(given), **dict.fromkeys(off, 0.0)}
        return {**chosen, "entries": "all"} if {**chosen, **given}.get("tau") == 0 else chosen

    def style_options(self) -> dict[str, Any]:
        names = ("tau", "style", "independence", "entries")
        own = {**{name: getattr(self, name) for name in names}, "missing_labels": self.impute}
        return {**super().style_options(), **own}


@dataclass(kw_only=True)
class OneLatent(Flags):
    """The size of the latent z; with binary labels the same total as CCVAE's, 18 + 27."""

    z: int = flag(by_label(20, 45), "number of entries of z", count())


@dataclass(kw_only=True)
class TwoLatents(Flags):
    """The sizes of the latents z_c and z_s."""

    z_c: int = flag(10, "number of entries of z_c, the characteristic latent (binary labels: one per label)", count())
    z_s: int = flag(by_label(20, 27), "number of entries of z_s, the other latent", count(0))


def main(run: Callable[[], None]) -> None:
    """Runs a script's function; bad input prints one line on standard error and exits with status 2.

    Of several processes that train together (`processes`) the first one alone prints on standard output.
    """
    _quiet_unless_first()
    try:
        run()
    except Exception as error:
        if (message := _user_message(error)) is None:
            raise
        print(message, file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("interrupted: the last checkpoint, if any, is kept; continue with --resume", file=sys.stderr)
        raise SystemExit(130) from None
