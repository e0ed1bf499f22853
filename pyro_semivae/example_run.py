"""A run of an example: its data, its labelled rows, its folder and what it writes there."""

from __future__ import annotations

import math
import platform
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch
from torch import Tensor

from pyro_semivae import data, report
from pyro_semivae.checkpoints import replace_weights
from pyro_semivae.data import ImageData
from pyro_semivae.defaults import keys_of_own
from pyro_semivae.errors import InputError, check_number
from pyro_semivae.files import FolderLock, check_fields, load_checkpoint, user_path, writable_folder, write_json
from pyro_semivae.flags import naming, parse_kinds
from pyro_semivae.infer import Objective
from pyro_semivae.models import SemiVAE
from pyro_semivae.models.parts import classifier_weight, is_large, likelihood_for
from pyro_semivae.nn import Convs, MLPs
from pyro_semivae.spaces import Images, any_known
from pyro_semivae.train import SCHEDULES, fit
from pyro_semivae.watch import signs_of_failure

if TYPE_CHECKING:
    from pyro_semivae.cli import Common

S = TypeVar("S", bound="Common")

# What a run writes into its folder beside figures; m1.pt is the first stage of M1+M2.
FILES = ("checkpoint.pt", "m1.pt", "config.json", "labelled_rows.json", "metrics.json")


def device_of(cuda: bool) -> torch.device:
    """Where a script computes.

    Raises:
        InputError: a GPU is asked for, and there is none.
    """
    if cuda and not torch.cuda.is_available():
        raise InputError("--cuda: this machine has no GPU that torch can use; leave the flag out to run on the CPU")
    return torch.device("cuda" if cuda else "cpu")


class ExampleRun(Generic[S]):
    """One run of an example: device, seed, data with its labelled rows, output folder.

    Attributes:
        args: the settings, with the defaults of these data. out: the output folder.
        data: the data set. y: its training labels, hidden (-1) except for the `labelled_rows`.
        fallback: a sentence, if `auto` did not get the preferred data set.

    Args:
        writes: whether it is a new run, which locks its folder and does not write over another one's files unless
            `--resume` or `--overwrite` says so; or one that is there, to be read.
    """

    def __init__(self, args: S, preferred: str, *, writes: bool = True):
        self.args, self.start = args, time.perf_counter()
        self.device = device_of(args.cuda)
        torch.manual_seed(args.seed)
        self.data, self.fallback = self._load(preferred)
        self.args = args = args.for_data(keys_of_own(self.data) if self.is_own else self.data.name)
        if args.hold_out:
            with naming("--hold-out", "num_rows"):
                self.data = self.data.hold_out(args.hold_out)
        self._check_rows("--hold-out" if args.hold_out else "--dataset")
        if self.fallback:
            print(f"NOTE: {self.fallback}", flush=True)
        with naming("--labelled", "labelled"):
            self.labelled_rows = (
                any_known(self.data.y).nonzero()[:, 0]
                if args.labelled == "all"
                else data.labelled_rows(self.data.y, data.parse_labelled(args.labelled), args.seed)
            )
        self.y: Tensor = data.hide(self.data.y, self.labelled_rows)
        for name in {"shift", "shear"} & {*vars(args)}:  # the longer side of an image: all of it is out of sight then
            check_number(f"--{name}", vars(args)[name], least=0, most=max(self.data.x_shape[1:]))
        name = f"{Path(sys.argv[0]).stem}-{self.data.name}" + (f"-{args.preset}" if args.preset != "demo" else "")
        self.out = writable_folder(args.out or Path("runs") / name, "--out")
        self.checkpoint = self.out / "checkpoint.pt"
        self.before_training = self.in_training = 0.0  # seconds spent before resuming
        if args.resume and args.overwrite:
            raise InputError("--overwrite: got --resume too; expected one of the two")
        if writes:
            self._lock = FolderLock(self.out, "--out")  # as long as there is this run
            self._take_folder()
        labelled = f"{len(self.data.x)} training rows, {len(self.labelled_rows)} of them labelled"
        doing = "writing to" if writes else "reading"
        print(f"{self.data.name}: {labelled}; {self.device}; {doing} {self.out}", flush=True)

    def _check_rows(self, flag: str) -> None:
        """What the measures at the end need is told before the training."""
        own = self.data
        if len(own.x_test) < 2:
            raise InputError(f"{flag}: got one test image; expected two or more")
        if min(own.x_shape[1:]) < 4:
            raise InputError(f"--dataset: got images of {own.x_shape}; expected 4 x 4 pixels or more (--size)")
        if self.is_own and not any_known(own.y).any():
            raise InputError("--label: got a label that no training row has; expected one that some rows have")

    @property
    def is_own(self) -> bool:
        """Whether `--dataset` is a path."""
        return self.args.dataset not in ("auto", *data.NAMES)

    def _load(self, preferred: str) -> tuple[ImageData, str | None]:
        """The data set, and a sentence where it is not the one that was preferred."""
        args = self.args
        own = {"--csv": args.csv, "--label": args.label, "--kinds": args.kinds, "--size": args.size}
        if self.is_own:
            kinds = parse_kinds(args.kinds) if args.kinds else None
            args.dataset = str(user_path(args.dataset, "dataset").resolve())
            args.csv = None if args.csv is None else str(user_path(args.csv, "csv").resolve())
            with naming("--dataset", "dataset"), naming("--csv", "labels"), naming("--kinds", "kinds"):
                table = data.load_path(args.dataset, args.csv, size=args.size, kinds=kinds, seed=args.seed)
            print(table, flush=True)
            with naming("--label", "labelled_by"):
                return table.labelled_by(*(args.label.split(",") if args.label else ())), None
        if given := [flag for flag, value in own.items() if value is not None]:
            raise InputError(f"{', '.join(given)}: got {args.dataset} as --dataset; expected with these is a path")
        if args.smoke_test:
            return data.load_small(args.dataset), None
        if args.dataset == "auto":
            return data.load_auto(preferred, args.data_dir)
        options = {"blank": args.blank, "uncertain": args.uncertain, "views": args.views}
        return data.load(args.dataset, args.data_dir, **(options if args.dataset == "chexpert" else {})), None

    def _take_folder(self) -> None:
        """Looks for a run that is in the output folder already.

        Raises:
            InputError: there is one, finished or begun, and neither `--resume` nor `--overwrite`; or its checkpoint is
                damaged.
        """
        there = [self.out / name for name in FILES if (self.out / name).exists()]
        names = ", ".join(path.name for path in there)
        if self.args.resume and self.checkpoint.exists():
            state = load_checkpoint(self.checkpoint)
            check_fields(state, self.checkpoint, {"config": dict, "history": list, "epoch": int})
            self.before_training = state["config"].get("seconds_before_training", 0.0)
            epochs = state["history"]
            check_fields(epochs, self.checkpoint, dict.fromkeys(range(len(epochs)), dict), "history")
            self.in_training = sum(record.get("seconds", 0.0) for record in epochs)
            print(f"NOTE: --resume: goes on after epoch {state['epoch']} of {self.checkpoint}", flush=True)
        elif self.args.overwrite and there:
            print(f"NOTE: --overwrite: removes {names} of the run in {self.out}", flush=True)
            for path in there:
                path.unlink()
        elif there and not self.args.resume:
            raise InputError(
                f"--out: {self.out} has a run already ({names}): go on with it (--resume), replace it (--overwrite), "
                f"or name another folder"
            )

    def fit_options(self) -> dict[str, Any]:
        """The arguments of `fit` that the common flags decide."""
        return {
            "epochs": self.args.epochs,
            "batch_size": self.args.batch_size,
            "labelled_batch_size": max(1, self.args.batch_size // 2),
            "lr": self.args.lr,
            "schedule": SCHEDULES[self.args.schedule],
            "warm_up": self.args.warm_up,
            "ema_decay": self.args.ema_decay,
            "seed": self.args.seed,
            "accelerator": self.device.type,
            "precision": self.args.precision,
            "checkpoint": self.checkpoint,
            "resume": self.args.resume,
            "config": {**self.config(), "seconds_before_training": self.before_training + self.elapsed()},
        }

    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.start

    def parts(self) -> dict[str, Any]:
        """What models of such data are built of, `networks` and `likelihood`: see `models.parts`."""
        dropout, space = self.args.dropout, Images(*self.data.x_shape)
        hidden = (32,) if self.args.smoke_test else (600, 600)
        networks = Convs(dropout) if is_large(space) else MLPs(hidden, dropout)
        return {"networks": networks, "likelihood": likelihood_for(space)}

    def keep_classes(self, number: int) -> None:
        """Hides the labels of all but the first `number` classes.

        Raises:
            InputError: there are not more classes than that, or no such row is labelled.
        """
        if not 1 <= number < len(self.data.label_names):
            raise InputError(f"--classes: got {number}; expected 1 to {len(self.data.label_names) - 1}")
        rows = self.labelled_rows[self.data.y[self.labelled_rows] < number]
        if not len(rows):
            raise InputError(f"--labelled: got {self.args.labelled}, which leaves no row of the first {number} classes")
        self.relabel(data.hide(self.data.y, rows))

    def relabel(self, y: Tensor) -> None:
        """Takes other labels for training, fewer of them: the labelled rows are those with at least one label."""
        self.y = y
        self.labelled_rows = any_known(y).nonzero()[:, 0]

    def prior(self) -> Tensor | None:
        """p(y) of binary labels, from the labelled rows; None for class labels, whose prior is uniform."""
        return None if self.data.labels.entries is None else self.data.labels.frequencies(self.y)

    def weight(self, alpha: float) -> float:
        """alpha N / N_labelled, so that the labels' total weight does not depend on how many there are."""
        return classifier_weight(alpha, self.y)

    def noise(self) -> Callable[[Tensor], Tensor] | None:
        """What the encoder sees in training instead of an image, by `--shift`; None where that is the image."""
        pixels = self.args.shift
        return partial(data.shift, pixels=pixels) if pixels else None

    def train(self, vae: SemiVAE, elbo: Objective, *, then: Callable[[], Any] | None = None, **options: Any) -> None:
        """Trains, measures, writes, draws figures. What was plainly not learnt is said in print and in `metrics.json`.

        Args:
            then: a second stage of training, whose weights the checkpoint gets.
            options: those of `fit` that the common flags leave open.
        """
        options = {"corrupt": self.noise(), **options}
        history = fit(vae, self.data.x, self.y, elbo=elbo, **{**self.fit_options(), **options})
        if then is not None:
            then()
            replace_weights(self.checkpoint, vae)
        how = {"corrupt": options["corrupt"], "quick": self.args.smoke_test, "seed": self.args.seed}
        notes = signs_of_failure(vae, vae.table(self.data.x, self.y), seed=self.args.seed)
        self.finish({**report.measure(vae, self.data, **how), **({"notes": notes} if notes else {})})
        report.draw(vae, self.data, history, self.out)

    def config(self) -> dict[str, Any]:
        """The flags and the data set used, as plain values."""
        return {**vars(self.args), "dataset_used": self.data.name}

    def finish(self, metrics: dict[str, Any]) -> dict[str, Any]:
        """Writes `config.json`, `labelled_rows.json` and `metrics.json`, prints the metrics and returns them."""
        metrics = {
            "dataset": self.data.name,
            "fallback": self.fallback,
            "labelled": len(self.labelled_rows),
            "seed": self.args.seed,
            "epochs": self.args.epochs or load_checkpoint(self.checkpoint)["epoch"],
            **_finite(metrics),
            "measures": report.MEASURES,
            "seconds": round(self.before_training + self.in_training + self.elapsed(), 1),
            "device": torch.cuda.get_device_name() if self.args.cuda else f"{platform.machine()} CPU",
            "versions": versions(),
        }
        write_json(self.out / "config.json", self.config())
        write_json(self.out / "labelled_rows.json", self.labelled_rows.tolist(), indent=None)
        write_json(self.out / "metrics.json", metrics)
        shown = {k: v for k, v in metrics.items() if not isinstance(v, dict | list)}
        shown = {k: round(v, 4) if isinstance(v, float) else v for k, v in shown.items()}
        print("\n".join(f"{name:>24}  {value}" for name, value in shown.items()), flush=True)
        if self.checkpoint.exists():
            print(f'go on with it: vae = pyro_semivae.load("{self.checkpoint}")', flush=True)
        return metrics


def _finite(value: Any, name: str = "") -> Any:
    """The same with None for numbers that are not finite, which JSON has not; a note in print says which."""
    if isinstance(value, dict):
        return {key: _finite(part, f"{name}/{key}".strip("/")) for key, part in value.items()}
    if isinstance(value, list):
        return [_finite(part, name) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        print(f"NOTE: {name} is {value}; metrics.json has null", flush=True)
        return None
    return value


def versions() -> dict[str, str]:
    """Versions of what numbers depend on."""
    packages = ("pyro-semivae", "pyro-ppl", "torch", "torchvision", "numpy", "scikit-learn", "lightning-fabric")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}
