"""A run of LaRVAE's example: its images and labels, the baseline beside it, and what it measures of both."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from pyro_semivae import data, report
from pyro_semivae.data.factors import FactorData
from pyro_semivae.flags import naming
from pyro_semivae.infer import Objective
from pyro_semivae.models import SemiVAE
from pyro_semivae.runs import Run, S
from pyro_semivae.train import fit

if TYPE_CHECKING:
    from pyro_semivae.cli import Factors

HELD_OUT = 2_000
HELD_OUT = 2_000
SMALL = {"images": 300, "held_out": 50, "test": 100}


class FactorRun(Run[S]):
    """One run on images of a grid of factors, a few of them labelled.

    Attributes:
        args: the settings, with the defaults of these data. data: the images; with `--hold-out` the images to choose
            settings by are in the place of the test images. y: the labels of the training images, most of them missing.
    """

    args: Factors

    def __init__(self, args: S):
        super().__init__(args)
        args = self.args
        name = "room" if args.dataset == "auto" else args.dataset
        self.args = args = args.for_data(name)
        with naming("--image-size", "size"):
            grid = data.load_grid(name, args.data_dir, size=args.image_size)
        sizes = SMALL if args.smoke_test else {"images": args.images, "held_out": args.hold_out or HELD_OUT}
        with naming("--images, held_out, test", "images, held_out, test"), naming("--images", "images"):
            found = data.factor_data(grid, **sizes)
        self.data: FactorData = found.choosing() if args.hold_out else found
        with naming("--labelled", "labelled"), naming("--known", "known"):
            self.y = self.data.labels(
                args.number_labelled(len(self.data.train)), seed=args.seed, known=args.known_names()
            )
        self.dataset = f"{name}-{args.image_size}{'-held-out' if args.hold_out else ''}"
        self.open_folder()
        self.labelled = int((~self.y.isnan()).any(1).sum())
        print(
            f"{self.dataset}: {len(self.data.train)} images, {self.labelled} of them labelled; {self.device}; writing "
            f"to {self.out}",
            flush=True,
        )

    @property
    def share(self) -> float:
        """N / N_labelled, by which the weights of means over labelled rows are multiplied."""
        return len(self.y) / self.labelled

    def train(self, make: Callable[[], SemiVAE], objective: Callable[[SemiVAE, float], Objective]) -> None:
        """Trains the baseline, unless `--no-baseline`, and the model; measures, writes, draws figures.

        Args:
            make: a new model. objective: what it maximises, of the weight tau of the label replacement.
        """
        others: dict[str, Any] = {}
        measured: dict[str, Any] = {}
        if self.args.baseline and self.args.tau > 0:
            print("the baseline, without label replacement", flush=True)
            torch.manual_seed(self.args.seed)
            others["baseline"] = make()
            where = {"checkpoint": self.out / "baseline.pt"}
            self._fit(others["baseline"], objective(others["baseline"], 0.0), **where)
            found = report.measure_factors(others["baseline"], self.data, quick=self.args.smoke_test)
            measured = {f"baseline_{name}": value for name, value in found.items() if name != "protocol"}
        torch.manual_seed(self.args.seed)
        vae = make()
        history = self._fit(vae, objective(vae, self.args.tau))
        measured = {**report.measure_factors(vae, self.data, quick=self.args.smoke_test), **measured}
        self.finish({"labelled": self.labelled, **measured})
        report.draw_factors(vae, self.data, history, self.out, others=others)

    def _fit(self, vae: SemiVAE, elbo: Objective, **how: Any) -> Any:
        options = {**self.fit_options(), "also_unlabelled": True, "labelled_batch_size": self.args.batch_size, **how}
        return fit(vae, self.data.train.x, self.y, elbo=elbo, corrupt=None, **options)
