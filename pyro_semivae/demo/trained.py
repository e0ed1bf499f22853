"""Loads a trained model and, if available on this machine, its run's data set."""

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
    """The results of a run.

    Attributes:
        vae: the model, on the CPU. name: the model's class and the data set. data: the run's data set, or None.
        why_not: why `data` is None; else None.
        assigned: the class assigned to each value of the label, if classes were learned without labels (`InvertedVAE`);
            empty if values and classes are the same.
    """

    vae: SemiVAE
    name: str
    data: ImageData | None
    why_not: str | None
    assigned: tuple[int, ...] = ()

    @property
    def label_names(self) -> tuple[str, ...]:
        """The names of the label's values, or of the binary labels; empty if unknown."""
        names = self.data.label_names if self.data else ()
        return tuple(names[k] for k in self.assigned) if names and self.assigned else names


def open_run(checkpoint: str | Path, data_dir: str | Path | None = None) -> Trained:
    """Loads a run's model, and its data set as used in the run. Nothing is downloaded.

    Args:
        checkpoint: the run's folder or a checkpoint in it, or a file written by `SemiVAE.save`.
        data_dir: the data sets' root folder (default: the run's, else see `data.data_root`).

    Raises:
        InputError: the checkpoint is missing, damaged, not from this library, or contains a user-defined model.
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
            found, why_not = None, f"their shape is {found.x_shape}, that of the model's images {_shape(vae)}"
    except (InputError, OSError) as error:
        why_not = str(error).splitlines()[0]
    except (KeyError, TypeError, AttributeError) as error:
        why_not = f"the run's configuration does not name them ({error!r})"
    return Trained(vae, name, found, why_not, _assigned(file, found))


def _assigned(file: Path, found: ImageData | None) -> tuple[int, ...]:
    """Reads the classes assigned to label values from `metrics.json` next to a checkpoint; empty if there are none."""
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
    """The configuration of the run that wrote a checkpoint: from `config.json` next to it, else from the checkpoint."""
    if (file.parent / "config.json").is_file():
        return read_json(file.parent / "config.json")
    return load_checkpoint(file).get("config") or {}


def _shape(vae: SemiVAE) -> tuple[int, ...]:
    return tuple(vae.spaces[vae.data_sites[0]].shape)


def run_data(config: dict[str, Any], data_dir: str | Path | None = None) -> ImageData:
    """Loads the data set named in a run's `config.json` from disk.

    Raises:
        InputError: the data set has changed. FileNotFoundError: its files are missing.
        KeyError: the configuration is not from a run on images with labels.
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
    """The indices of `number` test rows: for class labels the first row of each class, then the second of each, and so
    on; for binary labels the first rows."""
    y = data.y_test
    if y.is_floating_point():
        return torch.arange(min(number, len(y)))
    rank = torch.full_like(y, len(y))  # rows without a label come last
    for k in range(len(data.label_names)):
        rank[y == k] = torch.arange(int((y == k).sum()))
    return (rank * len(data.label_names) + y).argsort(stable=True)[:number]
