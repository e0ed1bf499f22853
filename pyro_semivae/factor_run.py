"""A run of LaRVAE's example: its images and labels, training and evaluation of the model and its baseline."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from pyro_semivae import data, report
from pyro_semivae.data import FactorData, ImageData
from pyro_semivae.errors import InputError
from pyro_semivae.flags import naming
from pyro_semivae.infer import Objective
from pyro_semivae.models import SemiVAE
from pyro_semivae.processes import is_first, only_first
from pyro_semivae.runs import Run, S
from pyro_semivae.spaces import Real
from pyro_semivae.train import History, fit

if TYPE_CHECKING:
    from pyro_semivae.cli import Factors

HELD_OUT = 2_000
SMALL = {"images": 300, "held_out": 50, "test": 100}


class FactorRun(Run[S]):
    """One run on images of a grid of factors, or with binary attributes treated as numbers, a few of them labelled.

    Attributes:
        args: the settings, with defaults resolved for these data.
        data: the images; with `--hold-out`, held-out training images are in place of the test images.
        x, y: the training images, and their labels, most of them missing. labels: their space.
    """

    args: Factors

    def __init__(self, args: S):
        super().__init__(args)
        name = "room" if self.args.dataset == "auto" else self.args.dataset
        self.args = self.args.for_data(name)
        self.data: FactorData | ImageData = self._attributes(name) if name in data.ATTRIBUTES else self._factors(name)
        self.dataset = f"{name}-{self.args.image_size}{'-held-out' if self.args.hold_out else ''}"
        self.open_folder()
        self.labelled = int((~self.y.isnan()).any(1).sum())
        print(
            f"{self.dataset}: {len(self.x)} images, {self.labelled} of them labelled; {self.device}; writing to "
            f"{self.out}",
            flush=True,
        )

    def _factors(self, name: str) -> FactorData:
        args = self.args
        with naming("--image-size", "size"):
            grid = data.load_grid(name, args.data_dir, size=args.image_size)
        sizes = SMALL if args.smoke_test else {"images": args.images, "held_out": args.hold_out or HELD_OUT}
        with naming("--images, held_out, test", "images, held_out, test"), naming("--images", "images"):
            found = data.factor_data(grid, **sizes)
        found = found.choosing() if args.hold_out else found
        with naming("--labelled", "labelled"), naming("--known", "known"):
            number = args.number_labelled(len(found.train))
            y = found.labels(number, seed=args.seed, known=args.known_names())
        if unknown := [name for name, column in zip(grid.factor_names, y.T, strict=True) if column.isnan().all()]:
            print(f"NOTE: no label of {', '.join(unknown)} is known; the labels of generated images, if any, are off")
        self.x, self.y, self.labels = found.train.x, y, Real(len(grid.sizes))
        return found

    def _attributes(self, name: str) -> ImageData:
        args = self.args
        found = data.load_small(name) if args.smoke_test else data.load(name, args.data_dir)
        if args.hold_out:
            with naming("--hold-out", "num_rows"):
                found = found.hold_out(args.hold_out)
        if (size := found.x_shape[1]) != args.image_size:
            raise InputError(f"--image-size: got {args.image_size}; expected {size} with --dataset {name}")
        if args.known is not None:
            raise InputError(f"--known: got it with --dataset {name}; expected it with a grid of factors")
        with naming("--labelled", "labelled"):
            rows = data.labelled_rows(found.y, args.number_labelled(len(found.x)), args.seed)
        self.x, self.y = found.x, data.hide(found.y, rows).to(torch.get_default_dtype())
        self.labels = Real(len(found.label_names)).in_units_of(self.y)
        return found

    @property
    def share(self) -> float:
        """N / N_labelled, by which the weights of means over labelled rows are multiplied."""
        return len(self.y) / self.labelled

    def train(self, make: Callable[[], SemiVAE], objective: Callable[[SemiVAE, float], Objective]) -> None:
        """Trains the baseline (unless `--no-baseline`) and the model, evaluates both, writes metrics and figures.

        Args:
            make: returns a new model. objective: model, weight tau of the label replacement -> objective.
        """
        others: dict[str, SemiVAE] = {}
        measured: dict[str, Any] = {}
        if self.args.baseline and self.args.tau > 0:
            print("the baseline, without label replacement", flush=True)
            torch.manual_seed(self.args.seed)
            others["baseline"] = make()
            self._fit(others["baseline"], objective(others["baseline"], 0.0), checkpoint=self.out / "baseline.pt")
            found = self._measured(others["baseline"]) if is_first() else {}
            measured = {f"baseline_{name}": value for name, value in found.items() if name != "protocol"}
        torch.manual_seed(self.args.seed)
        vae = make()
        history = self._fit(vae, objective(vae, self.args.tau))
        only_first()
        notes = {"notes": history.notes} if history.notes else {}
        found = {"labelled": self.labelled, **self._measured(vae), **measured}
        self.finish({**found, "compiled": history.compiled, **notes})
        draw = report.draw_factors if isinstance(self.data, FactorData) else report.draw_real_attributes
        draw(vae, self.data, history, self.out, others=others)
        self.draw_graph(vae, self.x, self.y, objective(vae, self.args.tau))

    def _fit(self, vae: SemiVAE, elbo: Objective, **how: Any) -> History:
        options = {**self.fit_options(), "also_unlabelled": True, "labelled_batch_size": self.args.batch_size, **how}
        return fit(vae, self.x, self.y, elbo=elbo, corrupt=None, **options)

    def _measured(self, vae: SemiVAE) -> dict[str, Any]:
        measure = report.measure_factors if isinstance(self.data, FactorData) else report.measure_real_attributes
        return measure(vae, self.data, quick=self.args.smoke_test)
