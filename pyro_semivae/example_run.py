"""A run of an example: its data, its labelled rows, its output folder and output files."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor

from pyro_semivae import data, report
from pyro_semivae.checkpoints import replace_weights
from pyro_semivae.data import ImageData
from pyro_semivae.defaults import keys_of_own
from pyro_semivae.errors import InputError, check_number
from pyro_semivae.files import user_path, write_json
from pyro_semivae.flags import naming, parse_kinds
from pyro_semivae.infer import Objective
from pyro_semivae.models import SemiVAE
from pyro_semivae.models.parts import classifier_weight, is_large, likelihood_for
from pyro_semivae.nn import Convs, MLPs
from pyro_semivae.plot import noted
from pyro_semivae.processes import only_first
from pyro_semivae.runs import Run
from pyro_semivae.spaces import Images, any_known
from pyro_semivae.train import fit
from pyro_semivae.watch import labelled_accuracy, signs_of_failure

if TYPE_CHECKING:
    from pyro_semivae.cli import Common

S = TypeVar("S", bound="Common")


class ExampleRun(Run[S]):
    """One run of an example on images with labels, some of which are hidden.

    Attributes:
        args: the settings, with defaults resolved for these data.
        data: the data set. y: its training labels, hidden (-1) except for the `labelled_rows`.

    Args:
        preferred: the data set for `--dataset auto`, if it is available. writes: see `Run.open_folder`.
    """

    def __init__(self, args: S, preferred: str, *, writes: bool = True):
        super().__init__(args)
        self.data, self.fallback = self._load(preferred)
        self.args = args = args.for_data(keys_of_own(self.data) if self.is_own else self.data.name)
        if args.hold_out:
            with naming("--hold-out", "num_rows"):
                self.data = self.data.hold_out(args.hold_out)
        self._check_rows("--hold-out" if args.hold_out else "--dataset")
        with naming("--labelled", "labelled"):
            self.labelled_rows = (
                any_known(self.data.y).nonzero()[:, 0]
                if args.labelled == "all"
                else data.labelled_rows(self.data.y, data.parse_labelled(args.labelled), args.seed)
            )
        self.y: Tensor = data.hide(self.data.y, self.labelled_rows)
        for name in {"shift", "shear"} & {*vars(args)}:  # a shift by the longer side moves the whole image out of view
            check_number(f"--{name}", vars(args)[name], least=0, most=max(self.data.x_shape[1:]))
        self.dataset = self.data.name
        self.open_folder(writes=writes)
        labelled = f"{len(self.data.x)} training rows, {len(self.labelled_rows)} of them labelled"
        doing = "writing to" if writes else "reading"
        print(f"{self.data.name}: {labelled}; {self.device}; {doing} {self.out}", flush=True)

    def _check_rows(self, flag: str) -> None:
        """Checks before training the rows that the evaluation after training needs."""
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
        """The data set, and a sentence if it is not the preferred one."""
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
            raise InputError(f"{', '.join(given)}: got {args.dataset} as --dataset; expected a path with these")
        if args.smoke_test:
            return data.load_small(args.dataset), None
        if args.dataset == "auto":
            return data.load_auto(preferred, args.data_dir)
        options = {"blank": args.blank, "uncertain": args.uncertain, "views": args.views}
        return data.load(args.dataset, args.data_dir, **(options if args.dataset == "chexpert" else {})), None

    def fit_options(self) -> dict[str, Any]:
        """The arguments of `fit` that the common flags determine."""
        return {**super().fit_options(), "labelled_batch_size": max(1, self.args.batch_size // 2)}

    def about(self) -> dict[str, Any]:
        return {**super().about(), "labelled": len(self.labelled_rows)}

    def finish(self, metrics: dict[str, Any]) -> dict[str, Any]:
        """As `Run.finish`; also writes `labelled_rows.json`."""
        write_json(self.out / "labelled_rows.json", self.labelled_rows.tolist(), indent=None)
        return super().finish(metrics)

    def parts(self) -> dict[str, Any]:
        """The arguments `networks` and `likelihood` of models for these data: see `models.parts`."""
        dropout, space = self.args.dropout, Images(*self.data.x_shape)
        hidden = (32,) if self.args.smoke_test else (600, 600)
        networks = Convs(dropout) if is_large(space) else MLPs(hidden, dropout)
        return {"networks": networks, "likelihood": likelihood_for(space)}

    def keep_classes(self, number: int) -> None:
        """Hides the labels of all but the first `number` classes.

        Raises:
            InputError: there are at most `number` classes, or no row of the first ones is labelled.
        """
        if not 1 <= number < len(self.data.label_names):
            raise InputError(f"--classes: got {number}; expected 1 to {len(self.data.label_names) - 1}")
        rows = self.labelled_rows[self.data.y[self.labelled_rows] < number]
        if not len(rows):
            raise InputError(f"--labelled: got {self.args.labelled}, which leaves no row of the first {number} classes")
        self.relabel(data.hide(self.data.y, rows))

    def relabel(self, y: Tensor) -> None:
        """Replaces the training labels by a subset of them; rows with at least one label count as labelled."""
        self.y = y
        self.labelled_rows = any_known(y).nonzero()[:, 0]

    def prior(self) -> Tensor | None:
        """p(y) of binary labels, from the labelled rows; None for class labels, whose prior is uniform."""
        return None if self.data.labels.entries is None else self.data.labels.frequencies(self.y)

    def weight(self, alpha: float) -> float:
        """alpha N / N_labelled, so that the labels' total weight does not depend on their number."""
        return classifier_weight(alpha, self.y)

    def noise(self) -> Callable[[Tensor], Tensor] | None:
        """The noise on the encoder's input in training, from `--shift`; None for none."""
        pixels = self.args.shift
        return partial(data.shift, pixels=pixels) if pixels else None

    def train(self, vae: SemiVAE, elbo: Objective, *, then: Callable[[], Any] | None = None, **options: Any) -> None:
        """Trains, evaluates, writes metrics and figures. Notes on failures are printed and added to `metrics.json`.

        Args:
            then: a second stage of training, whose weights are written to the checkpoint.
            options: further arguments of `fit`.
        """
        options = {"corrupt": self.noise(), "on_epoch": self._tested, **options}
        history = fit(vae, self.data.x, self.y, elbo=elbo, **{**self.fit_options(), **options})
        only_first()
        if then is not None:
            then()
            replace_weights(self.checkpoint, vae)
        how = {"corrupt": options["corrupt"], "quick": self.args.smoke_test, "seed": self.args.seed}
        notes = history.notes + signs_of_failure(vae, vae.table(self.data.x, self.y), seed=self.args.seed)
        found = report.measure(vae, self.data, **how)
        if note := report.sign_of_chance(found, len(self.data.label_names)):
            print(f"NOTE: {note}", flush=True)
            notes.append(note)
        self.finish({**found, "compiled": history.compiled, **({"notes": notes} if notes else {})})
        with noted(notes):
            report.draw(vae, self.data, history, self.out)
        self.draw_graph(vae, self.data.x, self.y, elbo)

    def _tested(self, epoch: int, vae: SemiVAE) -> dict[str, float]:
        """The classifier's accuracy on (up to 1,000) test images after an epoch, for the history only."""
        some = vae.table(self.data.x_test[:1000], self.data.y_test[:1000])
        return {f"monitor/test accuracy of {name}": value for name, value in labelled_accuracy(vae, some).items()}
