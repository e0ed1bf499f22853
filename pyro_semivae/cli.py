"""What the scripts share: their flags, and how they end."""

from __future__ import annotations

import argparse
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
from pyro_semivae.runs import device_of
from pyro_semivae.train import SCHEDULES


def few_flags(description: str, out: str, *, dataset: bool = False) -> argparse.Namespace:
    """The flags of a short script on data of its own: `smoke_test`, `device`, and `out`, a folder, which is made.

    Args:
        dataset: whether there is `dataset` too, the path of data of the user's, or None.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke-test", action="store_true", help="train for one epoch")
    parser.add_argument("--cuda", action="store_true", help="train on the GPU")
    parser.add_argument("--out", type=Path, default=Path(out), help="the folder of the figures (default: %(default)s)")
    if dataset:
        parser.add_argument("--dataset", type=Path, help="a folder of images, with a csv or in sub-folders of classes")
    args = parser.parse_args()
    try:
        args.device = device_of(args.cuda)
    except InputError as error:
        parser.error(str(error))
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


def dataset_flag(names: Sequence[str]) -> Any:
    """The field `--dataset`, which takes one of some names, or a path."""
    names = ["auto", *names]
    what = f"{', '.join(names)} (falls back on built-in data), or the path of a folder of images, an .npz or .npy file"
    return flag("auto", what, flags.dataset(names), metavar="NAME|PATH")


OWN, CHEXPERT = "data of your own (--dataset PATH)", "labels of CheXpert"


@dataclass(kw_only=True)
class Trained(Flags):
    """The flags of every script that trains. See `flags.Flags` for how their defaults depend on presets and on data."""

    data_dir: str | None = flag(None, f"root of the data sets (default: ${data.sets.DATA_ENV}, else ./data)")
    epochs: int | None = flag(None, "passes through the unlabelled rows", count())
    batch_size: int = flag(
        {"faces": 64, "own conv": 64, "*": 200}, "unlabelled rows a step; half as many labelled ones", count()
    )
    lr: float = flag(1e-3, "Adam's learning rate", number(above=0))
    schedule: str = flag("cosine", "of the learning rate", choices=list(SCHEDULES))
    warm_up: float = flag(0.0, "fraction of training over which beta rises from 0", number(least=0, most=1))
    ema_decay: float = flag(0.0, "decay of the weights' exponential moving average; 0: none", number(least=0, below=1))
    seed: int = flag(0, "fixes split, initialisation, batches and noise", count(0, 2**32 - 1))
    hold_out: int = flag(
        0,
        "use the last N training rows as validation set, in the place of the test set; 0: the test set",
        count(0),
    )
    cuda: bool = flag(False, "train on the GPU")
    precision: str = flag(
        "32-true",
        "of the networks' layers; bf16-mixed is faster where the processor has it",
        choices=["32-true", "bf16-mixed"],
    )
    compile: str = flag(
        "auto",
        "run the training step as one compiled graph; auto: where that saves more time than compiling takes",
        choices=list(COMPILE),
    )
    out: str | None = flag(None, "output folder (default: runs/<script>-<dataset>[-<preset>])")
    resume: bool = flag(False, "continue from the checkpoint in the output folder")
    overwrite: bool = flag(False, "remove the run in the output folder and start afresh")
    smoke_test: bool = flag(False, "quick end-to-end check, in seconds")


@dataclass(kw_only=True)
class Common(Trained):
    """The flags of the examples on images with labels."""

    dataset: str = dataset_flag(data.NAMES)
    csv: str | None = flag(
        None, "the labels of the images (default: the one csv in the folder)", group=OWN, metavar="FILE"
    )
    label: str | None = flag(
        None,
        "the label: one column of classes, or several of 0 and 1, with commas (default: the only choice)",
        group=OWN,
        metavar="COLUMN",
    )
    kinds: str | None = flag(
        None,
        "class, binary, real, data or ignore, where values do not tell: as age=real,digit=class",
        flags.kinds,
        group=OWN,
        metavar="COLUMN=KIND",
    )
    size: int | None = flag(
        None, "resize images to this many pixels on both sides", count(4), group=OWN, metavar="PIXELS"
    )
    blank: str = flag("negative", "what a finding that is not mentioned is", group=CHEXPERT, choices=POLICIES)
    uncertain: str = flag("missing", "what an uncertain one is", group=CHEXPERT, choices=POLICIES)
    views: str = flag("frontal", "which images", group=CHEXPERT, choices=("frontal", "all"))
    labelled: str = flag(
        {"digits": "100", "own": "all", "*": "0.004"},
        "how many training rows keep their labels: with a point a fraction of all, else a count; all: those that are "
        "known",
        flags.labelled,
    )


@dataclass(kw_only=True)
class Reference(Trained):
    """The flags of the models that learn from reference images."""

    DEFAULTS: ClassVar = {"epochs": {"digits": 40, "*": 5}, "image_size": {"faces": 64, "affectnet": 64, "*": 32}}

    batch_size: int = flag(32, "images of each set, unlabelled and reference, in a step", count())
    dataset: str = flag(
        "auto",
        "outlines of what, in random styles; faces: rendered ones, whose mouth is learned; affectnet: expressions, "
        "neutral faces as references; auto: mnist (falls back on the built-in digits)",
        choices=["auto", "mnist", "fashionmnist", "digits", "faces", "affectnet"],
    )
    image_size: int = flag(
        32, "pixels of the sides: 32 or 64, of affectnet any from 16; the paper's: 64, 96", count(16)
    )
    images: int = flag(
        16_000,
        "take N training images: half of them are references, each other one has two styles (of faces: one); 0: all",
        count(0),
    )

    @classmethod
    def defaults(cls, preset: str | None = None, *, quick: bool = False) -> dict[str, Any]:
        """A quick run has few images, too."""
        return {**super().defaults(preset, quick=quick), **({"images": 300} if quick else {})}


@dataclass(kw_only=True)
class Factors(Trained):
    """The flags of the models whose labels are factors of a grid of images."""

    DEFAULTS: ClassVar = {
        "epochs": {"faces": 10, "celeba": 5, "*": 12},
        "lr": {"faces": 1e-3, "celeba": 1e-3, "*": 2e-3},
        "schedule": "constant",
    }

    batch_size: int = flag(64, "images in a step, and labelled ones beside them", count())
    dataset: str = flag(
        "auto",
        "a grid of factors, or images whose binary attributes are taken as numbers; auto: room, which is rendered, as "
        "sprites and faces are",
        choices=["auto", *data.GRIDS, "faces", "celeba"],
    )
    image_size: int = flag(
        {"faces": 64, "celeba": 64, "*": 32}, "pixels of the sides: 32, or the paper's 64", count(16)
    )
    images: int = flag(12_000, "how many images of a grid there are to train on", count(2))
    labelled: str = flag(
        {"faces": "0.05", "*": "0.01"},
        "how many have labels: with a point a fraction of all, else a count",
        flags.labelled,
    )
    known: str | None = flag(None, "the factors that labels tell, with commas (default: all)")
    tau: float = flag(
        {"faces": 0.05, "celeba": 0.05, "*": 1.0},
        "weight of the label replacement, of the mean over labelled images",
        number(least=0),
    )
    baseline: bool = flag(True, "train the same without label replacement first, for the figures and `baseline_...`")

    def number_labelled(self, number: int) -> float | int:
        """The count or fraction of `--labelled`."""
        return number if self.labelled == "all" else data.parse_labelled(self.labelled)

    def known_names(self) -> list[str] | None:
        """Those of `--known`."""
        return None if self.known is None else [name.strip() for name in self.known.split(",")]


@dataclass(kw_only=True)
class Networks(Common):
    """The flags of scripts whose networks follow the data: see `ExampleRun.parts`."""

    shift: int = flag(0, "move what the encoder sees in training by up to N pixels", count(0))
    dropout: float = flag(0.0, "dropout of the encoder's hidden units", number(least=0, below=1))


@dataclass(kw_only=True)
class Compared(Networks):
    """The flags of the models that CCVAE is compared with."""

    PRESETS: ClassVar = {
        "demo": {"epochs": {"digits": 200, "faces": 10, "own": None, "*": 12}},
        "recipe": {"epochs": 40},
    }
    DEFAULTS: ClassVar = {"ema_decay": 0.998}

    beta: float = flag(1.0, "weight of the latents' densities; 1: the bound", number(least=0))


@dataclass(kw_only=True)
class Classified(Compared):
    """The flags of those of them with a classifier that is trained beside the bound, as CCVAE's is in its example.

    The preset "plain" is the objective as it was published, with the weight that Kingma et al.'s code has on the
    classifier.
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

    alpha: float = flag(by_label(*ALPHA), "weight alpha N / N_labelled on log q(y|.) of labelled rows", number(least=0))


@dataclass(kw_only=True)
class Generated(Flags):
    """The flags of `GeneratedLabelsTerm` for the model, whose decoder reads the label or latents below it.

    Attributes:
        NEEDS: flag -> the weights one of which it needs.
    """

    NEEDS: ClassVar[dict[str, tuple[str, ...]]] = {"share": ("generated",)}

    generated: float = flag(
        0.0, "weight of log q(y'|x~) of generated images x~, for the decoder alone to learn", number(least=0)
    )
    share: float = flag(
        0.25, "fraction of a step's images that have such terms, so much larger", number(above=0, most=1)
    )

    def check_given(self) -> None:
        """Refuses the options of terms that have no weight (one that depends on the data counts as one until then)."""
        super().check_given()
        for name in self.NEEDS.keys() & self.given:
            if getattr(self, name) and not any(getattr(self, other) for other in self.NEEDS[name]):
                other = " or ".join(f"--{other}" for other in self.NEEDS[name])
                raise InputError(f"--{name}: got it without {other}; expected a weight of that above 0 with it")

    def style_options(self) -> dict[str, Any]:
        """Those of `infer.style_terms`."""
        return {"tau": 0.0, "generated": self.generated, "style": 0.0, "independence": 0.0, "share": self.share}

    def with_style(self, elbo: Objective, *characteristic: str, kept: Sequence[str] = ()) -> Objective:
        """An objective, with the terms if any has a weight; see `infer.style_terms`."""
        how = self.style_options()
        wanted = any(how[name] for name in ("tau", "generated", "independence"))
        return elbo + style_terms(*characteristic, kept=kept, **how) if wanted else elbo


@dataclass(kw_only=True)
class Style(Generated):
    """The flags of what keeps an image's style in interventions on its label: see `infer.style_terms`."""

    NEEDS: ClassVar = {
        "share": ("tau", "generated"),
        "entries": ("tau",),
        "impute": ("tau",),
        "style": ("generated",),
    }

    tau: float = flag(
        0.0, "weight of log p(x|z_c',z_s), z_c' from p(z_c|y): style goes to the other latents", number(least=0)
    )
    style: float = flag(
        0.0, "weight of log q(z_s|x~) of generated images x~, so that they show their z_s", number(least=0)
    )
    independence: float = flag(0.0, "weight of -I(z_c; z_s), by a critic", number(least=0))
    entries: str = flag(
        "all", "binary labels: in tau's term z_c' is fresh in all entries, or in one at random", choices=["all", "one"]
    )
    impute: str = flag(
        "sample",
        "in tau's term, what a missing label is: a sample of q(y|z_c), or every class in turn, weighted",
        choices=["sample", "enumerate"],
    )

    @classmethod
    def chosen(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """Without latents to keep there is no term, and without generated images none of their style."""
        off = ("tau", "generated", "style", "independence") if given.get("z_s") == 0 else ()
        off = off or (("style",) if given.get("generated") == 0 else ())
        return {**super().chosen(given), **dict.fromkeys(off, 0.0)}

    def style_options(self) -> dict[str, Any]:
        names = ("tau", "style", "independence", "entries")
        own = {**{name: getattr(self, name) for name in names}, "missing_labels": self.impute}
        return {**super().style_options(), **own}


@dataclass(kw_only=True)
class OneLatent(Flags):
    """The size of a latent z; with several labels as large as CCVAE's, 18 + 27."""

    z: int = flag(by_label(20, 45), "size of the latent", count())


@dataclass(kw_only=True)
class TwoLatents(Flags):
    """The sizes of a latent in two parts."""

    z_c: int = flag(10, "size of z_c (binary labels: one entry a label)", count())
    z_s: int = flag(by_label(20, 27), "size of the rest", count(0))


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
