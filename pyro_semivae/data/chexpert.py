"""CheXpert: chest X-rays with findings that may be uncertain or not mentioned, from the official files."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from pyro_semivae.data.folders import image_array, open_text
from pyro_semivae.data.image_data import ImageData
from pyro_semivae.errors import InputError
from pyro_semivae.files import user_path

FINDINGS = ("Cardiomegaly", "Edema", "Consolidation", "Atelectasis", "Pleural Effusion")
WHERE = (
    "Register at https://stanfordmlgroup.github.io/competitions/chexpert/ for CheXpert-v1.0-small (Stanford's research "
    "use agreement) and unpack it so that {folder} holds train.csv, valid.csv, train/ and valid/"
)
Policy = Literal["negative", "positive", "missing"]
POLICIES = {"negative": 0.0, "positive": 1.0, "missing": torch.nan}


def load_chexpert(
    root: str | Path,
    *,
    blank: Policy = "negative",
    uncertain: Policy = "missing",
    views: Literal["frontal", "all"] = "frontal",
    findings: tuple[str, ...] = FINDINGS,
    size: int = 64,
) -> ImageData:
    """Loads grey X-rays, `(N, 1, size, size)`; the validation images labelled by radiologists are the test set.

    Labels may be missing in both sets.

    Args:
        root: the folder that contains `CheXpert-v1.0-small/`.
        blank: the value of a finding that is not mentioned. uncertain: the value of an uncertain one (-1). `"missing"`
            makes it a missing label.
        views: frontal images only, or lateral ones too.
        findings: which columns (default: the five that CCVAE uses, C.2).

    Raises:
        FileNotFoundError: a file is missing; the message says where to get it. InputError: a file is malformed, or a
            policy or finding is unknown.
    """
    for name, value, accepted in (("blank", blank, POLICIES), ("uncertain", uncertain, POLICIES)):
        if value not in accepted:
            raise InputError(f"{name}: got {value!r}; expected {', '.join(map(repr, accepted))}")
    if not findings or isinstance(findings, str):
        raise InputError(f"findings: got {findings!r}; expected one or more names of columns")
    if views not in ("frontal", "all"):
        raise InputError(f"views: got {views!r}; expected 'frontal', 'all'")
    folder = user_path(root, "root") / "CheXpert-v1.0-small"
    parts, trained = [], set()
    for split in ("train", "valid"):
        path = folder / f"{split}.csv"
        if not path.is_file():
            raise FileNotFoundError(f"dataset chexpert: no {path}. {WHERE.format(folder=folder)}")
        files, y = read_findings(path, findings, views, POLICIES[blank], POLICIES[uncertain])
        for name in files:
            if name in trained:
                raise InputError(f"{path}: {name} is in train.csv as well; expected different images")
        trained.update(files)
        paths = [folder / name for name in files]
        parts += [image_array(paths, "chexpert", channels=1, size=size, where=WHERE.format(folder=folder)), y]
    return ImageData("chexpert", tuple(findings), *parts)


def read_findings(
    path: Path, findings: tuple[str, ...], views: str, blank: float, uncertain: float
) -> tuple[list[str], Tensor]:
    """Reads a CheXpert table: the image files, relative to its folder, and the values of `findings`, float `(N, L)`.

    Raises:
        InputError: a column is missing, a line has a different number of fields from the first one, an image is listed
            twice, a view is neither frontal nor lateral, or a value is not 1, 0, -1 or blank. The message names the
            line and the column.
    """
    meaning = {"": blank, "1.0": 1.0, "0.0": 0.0, "-1.0": uncertain, "1": 1.0, "0": 0.0, "-1": uncertain}
    files, rows, seen = [], [], set()
    with open_text(path) as file:
        table = csv.DictReader(file)
        unknown = {"Path", "Frontal/Lateral", *findings} - set(table.fieldnames or [])
        if unknown:
            raise InputError(f"{path}: no column {sorted(unknown)}; it has {table.fieldnames}")
        for row in table:
            fields = sum(value is not None for name, value in row.items() if name) + len(row.get(None, ()))
            if fields != len(table.fieldnames):
                accepted = len(table.fieldnames)
                raise InputError(f"{path}: line {table.line_num}: got {fields} fields; expected {accepted}")
            image = re.sub(r"^CheXpert-v1\.0(-small)?/", "", row["Path"])
            if image in seen:
                raise InputError(f"{path}: line {table.line_num}, Path: got {image} again; expected different ones")
            seen.add(image)
            if row["Frontal/Lateral"] not in ("Frontal", "Lateral"):
                raise InputError(
                    f"{path}: line {table.line_num}, Frontal/Lateral: got {row['Frontal/Lateral']!r}; "
                    f"expected Frontal, Lateral"
                )
            if views == "frontal" and row["Frontal/Lateral"] != "Frontal":
                continue
            for name in findings:
                if row[name] not in meaning:
                    raise InputError(
                        f"{path}: line {table.line_num}, {name}: got {row[name]!r}; expected 1.0, 0.0, -1.0, blank"
                    )
            files.append(image)
            rows.append([meaning[row[name]] for name in findings])
    if not rows:
        raise InputError(f"{path}: no image of the views {views!r}")
    return files, torch.tensor(rows)
