"""AffectNet: faces labelled with their expression, from the official files of either release."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pyro_semivae.data.folders import image_array, open_text
from pyro_semivae.data.image_data import ImageData
from pyro_semivae.errors import InputError
from pyro_semivae.files import user_path

EXPRESSIONS = ("neutral", "happy", "sad", "surprise", "fear", "disgust", "anger", "contempt")
COLUMNS = (
    "subDirectory_filePath",
    "face_x",
    "face_y",
    "face_width",
    "face_height",
    "facial_landmarks",
    "expression",
    "valence",
    "arousal",
)
LANDMARKS = 68
FACE = 0.6  # width of the mean shape's bounding box, as a fraction of the image's side
WHERE = (
    "AffectNet is given to members of universities who sign a licence: http://mohammadmahoor.com/affectnet/. Unpack it "
    "so that {folder} holds train_set/ and val_set/ (the current release), or Manually_Annotated_Images/ and "
    "Manually_Annotated_file_lists/ (the old one)"
)


@dataclass(frozen=True)
class Faces:
    """The files of a split, relative to their folder, their expressions, and their landmarks `(N, 68, 2)` or None."""

    files: list[str]
    expressions: list[int]
    landmarks: np.ndarray | None = None


def load_affectnet(root: str | Path, *, size: int = 96) -> ImageData:
    """Loads faces with one of eight expressions, `(N, 3, size, size)`; the validation set serves as the test set.

    Faces from the old release are aligned and cropped as in Ruiz et al. (A.3.2): a similarity transform maps their 68
    landmarks as closely as possible to the training set's mean shape (Procrustes). Those from the current release are
    aligned crops already. Images without a face or without an expression are left out (codes 8 to 10).

    Args:
        root: the folder that contains `AffectNet/`. size: the images' height and width.

    Raises:
        FileNotFoundError: a file is missing; the message says where to get it. InputError: a file is malformed.
    """
    folder = user_path(root, "root") / "AffectNet"
    where = WHERE.format(folder=folder)
    if (folder / "train_set").is_dir():
        images = [folder / split / "images" for split in ("train_set", "val_set")]
        found = [read_annotations(folder / split, where) for split in ("train_set", "val_set")]
    elif (folder / "Manually_Annotated_file_lists").is_dir():
        images = [folder / "Manually_Annotated_Images"] * 2
        lists = [folder / "Manually_Annotated_file_lists" / f"{split}.csv" for split in ("training", "validation")]
        for path in lists:
            if not path.is_file():
                raise FileNotFoundError(f"dataset affectnet: no {path}. {where}")
        found = [read_list(path) for path in lists]
    else:
        raise FileNotFoundError(f"dataset affectnet: no {folder / 'train_set'}. {where}")
    mean = None if found[0].landmarks is None else mean_shape(found[0].landmarks)
    parts: list[Tensor] = []
    for at, faces in zip(images, found, strict=True):
        places = None if mean is None else [alignment(shape, mean, size) for shape in faces.landmarks]
        paths = [at / name for name in faces.files]
        parts.append(image_array(paths, "affectnet", channels=3, size=size, where=where, places=places))
        parts.append(torch.tensor(faces.expressions))
    return ImageData("affectnet", EXPRESSIONS, *parts)


def read_annotations(folder: Path, where: str = "") -> Faces:
    """Reads a split of the current release: `images/<id>.jpg` and `annotations/<id>_exp.npy`, the expression's number.

    Raises:
        FileNotFoundError: a folder or an image's annotation is missing. InputError: an annotation is not a number from
            0 to 10, or no image has an expression.
    """
    for name in ("images", "annotations"):
        if not (folder / name).is_dir():
            raise FileNotFoundError(f"dataset affectnet: no {folder / name}. {where}")
    files, expressions = [], []
    for path in sorted((folder / "images").rglob("*.jpg")):  # some copies have a folder for each expression
        annotation = folder / "annotations" / f"{path.stem}_exp.npy"
        if not annotation.is_file():
            raise FileNotFoundError(f"dataset affectnet: no {annotation} for {path.name}. {where}")
        try:
            value = int(str(np.load(annotation, allow_pickle=False).item()))
        except (ValueError, OSError, EOFError) as error:
            raise InputError(f"{annotation}: cannot be read ({error}); expected one number, 0 to 7") from error
        if not 0 <= value <= 10:
            raise InputError(f"{annotation}: got {value}; expected an expression, 0 to 7 (or none, 8 to 10)")
        if value < len(EXPRESSIONS):
            files.append(str(path.relative_to(folder / "images")))
            expressions.append(value)
    if not files:
        raise InputError(
            f"{folder}: got no image with an expression; expected images/<id>.jpg, annotations/<id>_exp.npy"
        )
    return Faces(files, expressions)


def read_list(path: Path) -> Faces:
    """Reads a list of the old release; the validation list has no header.

    Raises:
        InputError: a line has the wrong number of fields, its landmarks are not 68 pairs, its expression is not a
            number from 0 to 10, or an image is listed twice; the message names the line.
    """
    files, expressions, shapes, seen = [], [], [], set()
    with open_text(path) as file:
        for number, row in enumerate(csv.reader(file), 1):
            if not row or (number == 1 and row[0] == COLUMNS[0]):
                if row and tuple(row) != COLUMNS:
                    raise InputError(f"{path}: line 1: got the columns {row}; expected {', '.join(COLUMNS)}")
                continue
            at = f"{path}: line {number}"
            if len(row) != len(COLUMNS):
                raise InputError(f"{at}: got {len(row)} fields; expected {len(COLUMNS)}")
            fields = dict(zip(COLUMNS, row, strict=True))
            expression = fields["expression"]
            if not (expression.isascii() and expression.isdigit() and int(expression[:3]) <= 10):
                raise InputError(f"{at}, expression: got {expression[:50]!r}; expected a number from 0 to 10")
            name = fields[COLUMNS[0]]
            if name in seen:
                raise InputError(f"{at}: got {name} again; expected different images")
            seen.add(name)
            if int(expression) < len(EXPRESSIONS):
                files.append(name)
                expressions.append(int(expression))
                shapes.append(_landmarks(fields["facial_landmarks"], at))
    if not files:
        raise InputError(f"{path}: got no image with an expression; expected lines of {', '.join(COLUMNS)}")
    return Faces(files, expressions, np.stack(shapes))


def _landmarks(text: str, at: str) -> np.ndarray:
    """Parses `x;y;x;y;...` into an array `(68, 2)`."""
    try:
        values = [float(value) for value in text.split(";")]
    except ValueError:
        values = []
    if len(values) != 2 * LANDMARKS or not all(map(math.isfinite, values)):
        raise InputError(f"{at}, facial_landmarks: got {text[:50]!r}; expected {LANDMARKS} pairs x;y;x;y;...")
    shape = np.array(values).reshape(LANDMARKS, 2)
    if (shape == shape[0]).all():
        raise InputError(f"{at}, facial_landmarks: got {LANDMARKS} times the same point; expected a face")
    return shape


def mean_shape(shapes: np.ndarray, rounds: int = 5) -> np.ndarray:
    """The mean of landmarks `(N, 68, 2)` without their position, size and rotation (generalised Procrustes analysis).

    It is centred, has norm 1, and is upright like the mean of the unrotated shapes. It is computed from at most the
    first 10,000 shapes.

    Args:
        rounds: how many times all shapes are rotated to their mean.
    """
    shapes = np.stack([_normed(shape) for shape in shapes[:10_000]])
    mean = _normed(shapes.mean(0))
    for _ in range(rounds):
        mean = _normed(np.stack([shape @ _rotation(shape, mean) for shape in shapes]).mean(0))
    return mean


def alignment(shape: np.ndarray, mean: np.ndarray, size: int) -> tuple[float, ...]:
    """The similarity that maps landmarks `(68, 2)` closest to a mean shape, centred in `size` x `size` pixels.

    Returns the six coefficients that PIL's `Image.transform(.., AFFINE)` takes, which map positions in the new image to
    positions in the old one.
    """
    centre = shape.mean(0)
    scale = np.linalg.norm(shape - centre)
    wide = FACE * size / np.ptp(mean[:, 0])  # pixels per unit of the mean shape
    # new = (old - centre) / scale @ R * wide + size / 2, so old = (new - size / 2) / wide * scale @ R^T + centre.
    back = scale / wide * _rotation((shape - centre) / scale, mean).T
    (a, d), (b, e) = back  # rows: coefficients of new x and of new y
    c, f = centre - size / 2 * back.sum(0)
    return float(a), float(b), float(c), float(d), float(e), float(f)


def _normed(shape: np.ndarray) -> np.ndarray:
    shape = shape - shape.mean(0)
    return shape / np.linalg.norm(shape)


def _rotation(shape: np.ndarray, to: np.ndarray) -> np.ndarray:
    """The rotation R, without reflection, for which shape @ R is closest to the shape `to`."""
    u, _, v = np.linalg.svd(shape.T @ to)
    flip = np.diag([1.0, np.sign(np.linalg.det(u @ v))])
    return u @ flip @ v
