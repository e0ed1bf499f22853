"""A trained model and, where they are on this machine, the test images of its run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_semivae import data
from pyro_semivae.data import ImageData
from pyro_semivae.errors import InputError
from pyro_semivae.files import load_checkpoint, read_json, user_path
from pyro_semivae.flags import naming, parse_kinds
from pyro_semivae.models import SemiVAE
from pyro_semivae.models.saving import load


@dataclass(frozen=True)
class Trained:
    """What a run has left.

    Attributes:
        vae: the model, on the CPU. name: the model's class and the data set. data: the run's data set, or None.
        why_not: why there are no data; None where there are.
        assigned: the class that each value of the label is taken for, where classes were found without labels
            (`InvertedVAE`); empty where it is the value's own.
    """

    vae: SemiVAE
    name: str
    data: ImageData | None
    why_not: str | None
    assigned: tuple[int, ...] = ()

    @property
    def label_names(self) -> tuple[str, ...]:
        """The names of the label's values, or of the binary labels; empty where they are not known."""
        names = self.data.label_names if self.data else ()
        return tuple(names[k] for k in self.assigned) if names and self.assigned else names


def open_run(checkpoint: str | Path, data_dir: str | Path | None = None) -> Trained:
    """The model of a run, and its data set as the run had it. Nothing is downloaded.

    Args:
        checkpoint: the run's folder, or a checkpoint in it; or a file of `SemiVAE.save`.
        data_dir: root of the data sets (default: the run's, else as `data.data_root` says).

    Raises:
        InputError: there is no checkpoint, it is damaged, foreign, or of a model of one's own.
    """
    path = user_path(checkpoint, "checkpoint")
    file = path / "checkpoint.pt" if path.is_dir() else path
    if not file.is_file():
        what = "a folder without checkpoint.pt" if path.is_dir() else "which is not there"
        raise InputError(f"checkpoint: got {path}, {what}; expected the folder of a run, or a checkpoint")
    with naming("checkpoint", "path"):
        vae = load(file).eval()
    name, found, why_not = type(vae).__name__, None, None
    try:
        config = _config(file)
        name = f"{name} on {config['dataset_used']}"
        found = run_data(config, data_dir)
        if _shape(vae) != found.x_shape:
            found, why_not = None, f"they have the shape {found.x_shape}, the model's images {_shape(vae)}"
    except (InputError, OSError) as error:
        why_not = str(error).splitlines()[0]
    except (KeyError, TypeError, AttributeError) as error:
        why_not = f"the run does not say which they are ({error!r})"
    return Trained(vae, name, found, why_not, _assigned(file, found))


def _assigned(file: Path, found: ImageData | None) -> tuple[int, ...]:
    """What `metrics.json` beside a checkpoint says of classes that were found without labels."""
    beside = file.parent / "metrics.json"
    if found is None or not beside.is_file():
        return ()
    try:
        said = read_json(beside)
    except (InputError, OSError):
        return ()
    assigned = said.get("assigned") if isinstance(said, dict) else None
    classes = [repr(k) for k in range(len(found.label_names))]
    return tuple(assigned) if isinstance(assigned, list) and sorted(map(repr, assigned)) == sorted(classes) else ()


def _config(file: Path) -> dict[str, Any]:
    """The configuration of the run that wrote a checkpoint: from beside it, or its own where the run has not ended."""
    if (file.parent / "config.json").is_file():
        return read_json(file.parent / "config.json")
    return load_checkpoint(file).get("config") or {}


def _shape(vae: SemiVAE) -> tuple[int, ...]:
    return tuple(vae.spaces[vae.data_sites[0]].shape)


def run_data(config: dict[str, Any], data_dir: str | Path | None = None) -> ImageData:
    """The data set of a run's `config.json`, from this machine's disk.

    Raises:
        InputError: it is not as it was. FileNotFoundError: its files are not there.
        KeyError: the configuration is none of a run on images with labels.
    """
    used = config["dataset_used"].removesuffix("-held-out")
    if config["dataset"] not in ("auto", *data.NAMES):
        kinds = parse_kinds(config["kinds"]) if config["kinds"] else None
        seed = config["seed"]
        table = data.load_path(config["dataset"], config["csv"], size=config["size"], kinds=kinds, seed=seed)
        found = table.labelled_by(*(config["label"].split(",") if config["label"] else ()))
    elif config["smoke_test"]:
        found = data.load_small(used)
    else:
        options = {name: config[name] for name in ("blank", "uncertain", "views") if used == "chexpert"}
        found = data.load(used, data_dir or config["data_dir"], download=False, **options)
    return found.hold_out(config["hold_out"]) if config["hold_out"] else found


def some_rows(data: ImageData, number: int) -> Tensor:
    """The indices of some test rows: of class labels the first of each class, then the second of each, and so on; of
    binary labels the first rows."""
    y = data.y_test
    if y.is_floating_point():
        return torch.arange(min(number, len(y)))
    rank = torch.full_like(y, len(y))  # rows without a label come last
    for k in range(len(data.label_names)):
        rank[y == k] = torch.arange(int((y == k).sum()))
    return (rank * len(data.label_names) + y).argsort(stable=True)[:number]
