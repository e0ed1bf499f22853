"""A run of a script: its device, seed, output folder and output files."""

from __future__ import annotations

import math
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch

from pyro_semivae import report
from pyro_semivae.drawing import show
from pyro_semivae.errors import InputError
from pyro_semivae.files import FolderLock, check_fields, load_checkpoint, writable_folder, write_json
from pyro_semivae.infer import Objective
from pyro_semivae.models import SemiVAE
from pyro_semivae.processes import is_first, launched
from pyro_semivae.spaces import any_known
from pyro_semivae.train import SCHEDULES

if TYPE_CHECKING:
    from pyro_semivae.cli import Trained

S = TypeVar("S", bound="Trained")

# The files of a run other than figures; m1.pt is the first stage of M1+M2, baseline.pt LaRVAE's baseline.
FILES = ("checkpoint.pt", "m1.pt", "baseline.pt", "config.json", "labelled_rows.json", "metrics.json")


def device_of(cuda: bool) -> torch.device:
    """The device of a script.

    Raises:
        InputError: a GPU is requested, but there is none.
    """
    if cuda and not torch.cuda.is_available():
        raise InputError("--cuda: this machine has no GPU that torch can use; leave the flag out to run on the CPU")
    return torch.device("cuda" if cuda else "cpu")


class Run(Generic[S]):
    """One run of a script.

    Attributes:
        args: the settings. device: the device. out: the output folder.
        dataset: the name of the data set. fallback: a sentence if `auto` could not use the preferred one, else None.
    """

    def __init__(self, args: S):
        self.args, self.start = args, time.perf_counter()
        self.device = device_of(args.cuda)
        self.dataset, self.fallback = "", None
        torch.manual_seed(args.seed)
        if args.resume and args.overwrite:
            raise InputError("--overwrite: got --resume too; expected one of the two")

    def open_folder(self, *, writes: bool = True) -> None:
        """Opens the output folder and locks it for the lifetime of this run. Of several processes that train together
        (`processes`) the first one alone locks it.

        Args:
            writes: whether the run writes. It then locks the folder, and needs `--resume` or `--overwrite` if there is
                already a run in it. If False, an existing run is read.
        """
        preset = f"-{self.args.preset}" if self.args.preset != "demo" else ""
        name = f"{Path(sys.argv[0]).stem}-{self.dataset}{preset}"
        self.out = writable_folder(self.args.out or Path("runs") / name, "--out")
        self.checkpoint = self.out / "checkpoint.pt"
        self.before_training = self.in_training = 0.0  # seconds spent before resuming
        if self.fallback:
            print(f"NOTE: {self.fallback}", flush=True)
        if writes and is_first():
            self._lock = FolderLock(self.out, "--out")
            self._take_folder()

    def _take_folder(self) -> None:
        """Handles a run that already exists in the output folder.

        Raises:
            InputError: there is one, finished or not, without `--resume` or `--overwrite`; or its checkpoint is
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
        """The arguments of `fit` that the common flags determine."""
        return {
            "epochs": self.args.epochs,
            "batch_size": self.args.batch_size,
            "lr": self.args.lr,
            "schedule": SCHEDULES[self.args.schedule],
            "warm_up": self.args.warm_up,
            "ema_decay": self.args.ema_decay,
            "seed": self.args.seed,
            "accelerator": self.device.type,
            "precision": self.args.precision,
            "compile": self.args.compile,
            "checkpoint": self.checkpoint,
            "resume": self.args.resume,
            "config": {**self.config(), "seconds_before_training": self.before_training + self.elapsed()},
        }

    def draw_graph(self, vae: SemiVAE, x: Any, y: Any, elbo: Objective) -> None:
        """Writes `graph.png`: model and guide, run on some rows that include labelled ones, and the objective."""
        rows = torch.cat([torch.arange(min(len(x), 10)), any_known(y).nonzero()[:10, 0].cpu()])
        of = {vae.data_sites[0]: x[rows], vae.label_sites[0]: y[rows]}
        show(vae, rows=of, objective=elbo, path=self.out / "graph.png")

    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.start

    def config(self) -> dict[str, Any]:
        """The flags and the data set used, as plain values."""
        return {**vars(self.args), "dataset_used": self.dataset}

    def about(self) -> dict[str, Any]:
        """The first entries of the metrics."""
        return {"dataset": self.dataset, "fallback": self.fallback}

    def finish(self, metrics: dict[str, Any]) -> dict[str, Any]:
        """Writes `config.json` and `metrics.json`, prints the metrics and returns them."""
        metrics = {
            **self.about(),
            "seed": self.args.seed,
            "epochs": self.args.epochs or load_checkpoint(self.checkpoint)["epoch"],
            **_finite(metrics),
            "measures": report.MEASURES,
            "seconds": round(self.before_training + self.in_training + self.elapsed(), 1),
            "processes": launched(),
            "device": torch.cuda.get_device_name() if self.args.cuda else f"{platform.machine()} CPU",
            "versions": versions(),
        }
        write_json(self.out / "config.json", self.config())
        write_json(self.out / "metrics.json", metrics)
        shown = {k: v for k, v in metrics.items() if not isinstance(v, dict | list)}
        shown = {k: round(v, 4) if isinstance(v, float) else v for k, v in shown.items()}
        print("\n".join(f"{name:>24}  {value}" for name, value in shown.items()), flush=True)
        if self.checkpoint.exists():
            print(f'go on with it: vae = pyro_semivae.load("{self.checkpoint}")', flush=True)
        return metrics


def _finite(value: Any, name: str = "") -> Any:
    """Replaces non-finite numbers, which JSON does not support, by None, and prints a note for each."""
    if isinstance(value, dict):
        return {key: _finite(part, f"{name}/{key}".strip("/")) for key, part in value.items()}
    if isinstance(value, list):
        return [_finite(part, name) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        print(f"NOTE: {name} is {value}; metrics.json has null", flush=True)
        return None
    return value


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that results depend on."""
    packages = ("pyro-semivae", "pyro-ppl", "torch", "torchvision", "numpy", "scikit-learn", "lightning-fabric")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}
