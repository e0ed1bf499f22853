"""A run of the reference-based models' example: its images, training and evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyro_semivae import data, report
from pyro_semivae.data.reference import ReferenceData
from pyro_semivae.errors import InputError
from pyro_semivae.flags import naming
from pyro_semivae.infer import Objective
from pyro_semivae.models import SemiVAE
from pyro_semivae.plot import noted
from pyro_semivae.processes import only_first
from pyro_semivae.runs import Run, S
from pyro_semivae.train import fit
from pyro_semivae.watch import signs_of_failure

if TYPE_CHECKING:
    from pyro_semivae.cli import Reference


class ReferenceRun(Run[S]):
    """One run on a pool of unlabelled images and a set of references.

    Attributes:
        args: the settings, with defaults resolved for these data. data: the images.

    Args:
        preferred: the data set that `--dataset auto` is made of, if it is available.
    """

    args: Reference

    def __init__(self, args: S, preferred: str = "mnist"):
        super().__init__(args)
        self.data: ReferenceData = self._images(preferred)
        args = self.args
        self._check_numbers()
        self.dataset = self.data.name
        self.open_folder()
        pool, references = len(self.data.pool), int((self.data.y == 1).sum())
        print(
            f"{self.dataset}: {pool} unlabelled images, {references} references; {self.device}; writing to {self.out}",
            flush=True,
        )

    def _images(self, preferred: str) -> ReferenceData:
        args = self.args
        if args.dataset == "faces" or (args.dataset == "affectnet" and args.smoke_test):
            args = self.args = args.for_data("faces")
            measured = {"measured": 200} if args.smoke_test else {}
            with naming("--images", "images"), naming("--image-size", "size"):
                return data.mouths(args.image_size, images=args.images, held_out=args.hold_out, **measured)
        if args.dataset == "affectnet":
            args = self.args = args.for_data("affectnet")
            base = data.load("affectnet", args.data_dir, size=args.image_size)
        elif args.smoke_test:
            base = data.load_small("digits")
        elif args.dataset == "auto":
            base, self.fallback = data.load_auto(preferred, args.data_dir)
        else:
            base = data.load(args.dataset, args.data_dir)
        args = self.args = args.for_data(base.name)
        if args.hold_out:
            with naming("--hold-out", "num_rows"):
                base = base.hold_out(args.hold_out)
        with naming("--images", "images"), naming("--image-size", "size"):
            if args.dataset == "affectnet":
                return data.one_class(base, "neutral", images=args.images, seed=args.seed)
            return data.styled(base, args.image_size, images=args.images, seed=args.seed)

    def _check_numbers(self) -> None:
        """Checks before training the numbers of images that the evaluation after training needs."""
        data, least = self.data, 2 * report.SHOWN
        for flag, what, number in (
            ("--hold-out", "test images", len(data.probing) + len(data.test)),
            ("--images", "references", int((data.y == 1).sum())),
        ):
            if number < least:
                raise InputError(f"{flag}: got {number} {what}; expected {least} or more")
        for names, what in ((data.class_names, "classes"), (data.attribute_names, "attributes")):
            if names and min(len(getattr(part, what).unique()) for part in (data.probing, data.test)) < 2:
                raise InputError("--hold-out: got test images of one class; expected two or more")

    def train(self, vae: SemiVAE, elbo: Objective, **options: Any) -> None:
        """Trains, evaluates, writes metrics and figures. Notes on failures are printed and added to `metrics.json`.

        Args:
            options: further arguments of `fit`.
        """
        rows = {"x": self.data.x, "y": self.data.y}
        options = {"corrupt": None, "on_epoch": self._watched, **options}
        history = fit(vae, rows, elbo=elbo, **{**self.fit_options(), **options})
        only_first()
        measured = report.measure_reference(vae, self.data, seed=self.args.seed, quick=self.args.smoke_test)
        notes = history.notes + signs_of_failure(vae, vae.table(rows), seed=self.args.seed)
        notes += report.signs_of_collapse(measured, history)
        for note in notes:
            print(f"NOTE: {note}", flush=True)
        self.finish({**measured, "compiled": history.compiled, **({"notes": notes} if notes else {})})
        with noted(notes):
            report.draw_reference(vae, self.data, history, self.out)
        self.draw_graph(vae, self.data.x, self.data.y, elbo)

    def _watched(self, epoch: int, vae: SemiVAE) -> dict[str, float]:
        """The latents' KL divergences after an epoch, for the history; prints a note for each sign of collapse."""
        found = report.divergences(vae, self.data)
        for note in report.signs_of_collapse(found):
            print(f"NOTE: after epoch {epoch}: {note}", flush=True)
        return {f"monitor/{name.replace('_', ' ')}": value for name, value in found.items()}
