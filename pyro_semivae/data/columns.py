"""Reads label columns of user data: classes as text, numbers, missing cells."""

from __future__ import annotations

import csv
import keyword
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_semivae.data.folders import open_text
from pyro_semivae.errors import InputError
from pyro_semivae.files import note, user_path
from pyro_semivae.spaces import MISSING, Binary, Classes, Real, Space, Vectors

KINDS = ("class", "binary", "real", "data", "ignore")
MISSING_CELLS = ("", "na", "n/a", "nan", "null", "?")
TRUTH = {"true": 1.0, "false": 0.0}
MOST_CLASSES = 20  # a column of at most this many distinct whole numbers is a class label by default
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE | re.ASCII)
TAKEN = ("x", "z", "data", "self")  # the image site, the latent site, the plate of rows, the model
NO_NUMBER = "expected numbers and missing cells"


@dataclass(frozen=True)
class Column:
    """The values of a site for all rows.

    Attributes:
        space: the values' space. values: missing ones are marked as the space defines. names: the names of the classes
            or entries; empty for data.
    """

    space: Space
    values: Tensor
    names: tuple[str, ...] = ()


def site_name(column: str) -> str:
    """Turns a column's name into a site name that is valid as a model's argument: lower case, with underscores.

    Python's keywords and names with another meaning (x, z, data, self) get an underscore at the end.

    Raises:
        InputError: the name has no letter and no digit.

    >>> site_name("Hair colour"), site_name("Größe (cm)"), site_name("5 o'clock"), site_name("class")
    ('hair_colour', 'größe_cm', '_5_o_clock', 'class_')
    """
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", column).lower())
    name = re.sub(r"\W+", "_", plain).strip("_")
    name = name if name.isidentifier() else f"_{name}"
    if name == "_" or not name.isidentifier():
        raise InputError(f"columns: got the name {column!r}; expected names with letters or digits")
    return f"{name}_" if keyword.iskeyword(name) or name in TAKEN else name


def read_csv(path: str | Path, name: str = "labels") -> tuple[dict[str, list[str]], list[int]]:
    """Reads a CSV file with a header, in UTF-8, delimited by commas, semicolons or tabs.

    Empty lines are skipped. In a file with a single column they are missing cells, except at the end. An unnamed first
    column that numbers the lines, as pandas writes it, is left out, with a note.

    Args:
        name: the argument's name in error messages.

    Returns a mapping from column name to cells, stripped of surrounding spaces, and the line number of each row.

    Raises:
        InputError: the file is missing, there is no line below the header, a line has the wrong number of cells, or a
            column name is missing or occurs twice.
    """
    path = user_path(path, name)
    if not path.is_file():
        raise InputError(f"{name}: no file {path}; expected the path of a csv file")
    with open_text(path) as file:
        first = file.readline()
        file.seek(0)
        delimiter = max(",;\t", key=lambda mark: len(next(csv.reader([first], delimiter=mark), [])))
        reader = csv.reader(file, delimiter=delimiter)
        header = [cell.strip() for cell in next(reader, [])]
        columns, lines, seen = [[] for _ in header], [], {}
        for row in reader:
            if not row and len(header) == 1:
                row = [""]
            elif not row:
                continue
            if len(row) != len(header):
                raise InputError(f"{path}: line {reader.line_num}: got {len(row)} cells; the header has {len(header)}")
            for column, cell in zip(columns, map(str.strip, row), strict=True):
                column.append(seen.setdefault(cell, cell))  # equal cells share one string in memory
            lines.append(reader.line_num)
    while len(header) == 1 and lines and columns[0][-1] == "":
        columns[0].pop(), lines.pop()
    if not lines:
        raise InputError(f"{path}: got no rows; expected a line of column names and a line for each row")
    if header[0] == "" and columns[0] in ([str(i + start) for i in range(len(lines))] for start in (0, 1)):
        note(f"{path}: the first column has no name and numbers the lines; it is left out")
        header, columns = header[1:], columns[1:]
    if "" in header or len(set(header)) < len(header):
        raise InputError(f"{path}: line 1: got the column names {header!r:.500}; expected different names")
    return dict(zip(header, columns, strict=True)), lines


def read_columns(
    given: Mapping[str, Any],
    kinds: Mapping[str, str] | None = None,
    *,
    at: Callable[[int], str] = "row {}".format,
    data: Iterable[str] = (),
    classes: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Column]:
    """Reads labels (and numeric data) from columns; returns a mapping from site name to column.

    ======================================  ================================================
    values                                  default kind
    ======================================  ================================================
    text                                    class; names sorted
    0 and 1, or true and false              binary
    at most 20 distinct whole numbers >= 0  class; the numbers are the names, in their order
    other numbers                           real
    `(N, K)` of 0, 1 and missing            binary, K entries; `(N, 1)` is read as `(N,)`
    `(N, K)` of other numbers               real, K entries
    ======================================  ================================================

    Missing values are NaN, None and the cells "", NA, N/A, NaN, null and ? (in any case), and -1 in integer arrays
    without any other negative number.

    Args:
        given: column -> `(N,)` strings, numbers or booleans, or `(N, K)` numbers: lists, arrays or tensors.
        kinds: column (or site) -> "class", "binary", "real", "data" (numbers that are not a label), or "ignore";
            it overrides the default kind.
        at: row index -> its location, for error messages. data: names of data arrays outside `given`; in `kinds` they
            may only have the kind "data".
        classes: column -> names of its classes 0, 1, ..., if known; the column's default kind is then "class".

    Raises:
        InputError: a column has no known value, or values that do not fit its kind; a class label has a single class;
            two columns become the same site; a kind or a column in `kinds` is unknown. The message names the column
            and, for a wrong value, the row.

    >>> found = read_columns({"Hair colour": ["dark", "fair", "", "dark"], "age": ["31.5", "NA", "7", "8"]})
    >>> found["hair_colour"].names, found["hair_colour"].values, found["age"].space
    (('dark', 'fair'), tensor([ 0,  1, -1,  0]), Real(size=1))
    """
    kinds = _checked_kinds(kinds, given, tuple(data))
    classes = classes or {}
    out: dict[str, Column] = {}
    made: dict[str, str] = {}
    for name, values in given.items():
        site = site_name(name)
        if site in made:
            raise InputError(f"columns: got {made[site]!r} and {name!r}, both of which become the site {site!r}")
        made[site] = name
        kind = kinds.get(name)
        if kind != "ignore":
            out[site] = _column(name, _values(name, values), kind, at, classes.get(name))
    return out


def _checked_kinds(kinds: Any, given: Mapping[str, Any], data: Sequence[str]) -> dict[str, str]:
    """Column -> kind."""
    if kinds is None:
        return {}
    if not isinstance(kinds, Mapping):
        raise InputError(f"kinds: got {kinds!r}; expected a mapping from column to {', '.join(KINDS)}")
    columns = {site_name(name): name for name in given} | {name: name for name in (*given, *data)}
    for name, kind in kinds.items():
        if name not in columns:
            listed = ", ".join(map(repr, [*given, *data])) or "none: there are no columns"
            raise InputError(f"kinds: got the column {name!r}; expected {listed}")
        accepted = KINDS if columns[name] in given else ("data",)
        if kind not in accepted:
            raise InputError(f"kinds: got {kind!r} for {name!r}; expected {', '.join(map(repr, accepted))}")
    return {columns[name]: kind for name, kind in kinds.items()}


def _values(name: str, given: Any) -> np.ndarray:
    """Numbers, float64 `(N,)` or `(N, K)` with NaN for missing; or strings, objects `(N,)` with None for missing."""
    if isinstance(given, Tensor):
        given = given.detach().cpu()
        given = (given.double() if given.is_floating_point() else given).numpy()
    accepted = "expected (N,) numbers or texts, or (N, K) numbers"
    try:
        texts = isinstance(given, list | tuple) and any(isinstance(value, str) for value in given)
        array = np.asarray(given, dtype=object if texts else None)  # a "U" dtype would pad each string to the longest
    except ValueError as error:
        raise InputError(f"{name}: got values that do not form an array ({error}); {accepted}") from error
    if array.ndim not in (1, 2) or array.dtype.kind not in "OUSbiuf":
        raise InputError(f"{name}: got {array.dtype} of shape {array.shape}; {accepted}")
    array = array[:, 0] if array.shape[1:] == (1,) else array
    if array.dtype.kind in "OUS":
        cells = _parsed(name, [_text(value) for value in array.ravel().tolist()]).reshape(array.shape)
        if cells.dtype == object and cells.ndim == 2:
            raise InputError(f"{name}: got texts of shape {array.shape}; {accepted}")
        return cells
    numbers = array.astype(np.float64)
    if array.dtype.kind == "i" and array.size and array.min() == MISSING:
        if set(np.unique(array)) == {-1, 1}:
            raise InputError(f"{name}: got -1 and 1 alone; expected 0 and 1, -1 (or NaN) where one is missing")
        numbers[array == MISSING] = np.nan
    return numbers


def _text(value: Any) -> str | None:
    """The stripped text of a cell; None if it is missing."""
    value = value.decode(errors="replace") if isinstance(value, bytes) else value
    text = "" if value is None else str(value).strip()
    return None if text.lower() in MISSING_CELLS else text


def _parsed(name: str, cells: list[str | None]) -> np.ndarray:
    known = [cell for cell in cells if cell is not None]
    truths = [cell.lower() in TRUTH for cell in known]
    if any(truths) and all(truth or cell in ("0", "1") for truth, cell in zip(truths, known, strict=True)):
        return np.array([np.nan if c is None else TRUTH.get(c.lower(), c) for c in cells], object).astype(np.float64)
    if all(NUMBER.fullmatch(cell) for cell in known):
        return np.array([np.nan if cell is None else float(cell) for cell in cells])
    if all(NUMBER.fullmatch(cell.replace(",", ".")) for cell in known):
        raise InputError(f"{name}: got numbers with a decimal comma, such as {known[0]!r}; expected a point")
    return np.array(cells, object)


def _column(
    name: str, values: np.ndarray, kind: str | None, at: Callable[[int], str], classes: Sequence[str] | None
) -> Column:
    is_text = values.dtype == object
    known = np.array([value is not None for value in values]) if is_text else ~np.isnan(values)
    elsewhere = f"kinds={{{name!r}: 'ignore'}} leaves it out"
    if not known.any():
        raise InputError(f"{name}: got a column without any value; expected one or more. {elsewhere}")
    if not is_text:
        _check_size(name, values, at)
    found = sorted(set(values[known])) if is_text else np.unique(values[known]).tolist()
    kind = kind or ("class" if classes else _kind(name, values, found, int(known.sum()), elsewhere))
    if kind == "class":
        if values.ndim > 1:
            raise InputError(f"{name}: got shape {values.shape}; expected classes (N,)")
        if classes:
            return _of_named_classes(name, values, found, classes)
        if not is_text and found[0] == MISSING and all(value == round(value) for value in found):
            raise InputError(_ambiguous(name))
        if len(found) < 2:
            raise InputError(f"{name}: got one class alone, {found[0]!r}; expected two or more. {elsewhere}")
        index = {value: i for i, value in enumerate(found)}
        codes = [index[value] if there else MISSING for value, there in zip(values.tolist(), known, strict=True)]
        names = tuple(found) if is_text else tuple(map(_number, found))
        return Column(Classes(len(found)), torch.tensor(codes), names)
    if is_text:
        row = next(i for i, cell in enumerate(values) if cell is not None and not NUMBER.fullmatch(cell))
        raise InputError(f"{name}: {at(row)}: got {values[row]!r}; {NO_NUMBER}, where the kind is {kind!r}")
    rows = torch.from_numpy(values.reshape(len(values), -1)).to(torch.get_default_dtype())
    names = (name,) if values.ndim == 1 else tuple(f"{name} {i}" for i in range(values.shape[1]))
    if kind == "data":
        return Column(Vectors(rows.shape[1]), rows)
    if kind == "real":
        _note_rounding(name, values.reshape(len(values), -1), rows)
        return Column(Real(rows.shape[1]), rows, names)
    if not set(found) <= {0.0, 1.0}:
        row = int(np.argmax((known & ~np.isin(values, (0, 1))).reshape(len(values), -1).any(1)))
        raise InputError(f"{name}: {at(row)}: got {values[row]}; expected 0, 1 and missing, as it is binary")
    return Column(Binary(rows.shape[1]), rows, names)


def _check_size(name: str, values: np.ndarray, at: Callable[[int], str]) -> None:
    infinite = torch.from_numpy(values.reshape(len(values), -1)).to(torch.get_default_dtype()).isinf().any(1)
    if infinite.any():
        row, most = int(infinite.int().argmax()), torch.finfo(torch.get_default_dtype()).max
        raise InputError(f"{name}: {at(row)}: got {values[row]}; expected numbers up to {most:.1e}, and missing")


def _note_rounding(name: str, values: np.ndarray, rows: Tensor) -> None:
    """Notes a loss of precision in the default dtype, for numbers far from 0 and close together, such as timestamps."""
    for column, rounded in zip(values.T, rows.T, strict=True):
        known = column[~np.isnan(column)]
        error = np.abs(rounded.double().numpy()[~np.isnan(column)] - known).max(initial=0)
        if len(np.unique(known)) > 1 and error > 1e-2 * known.std():
            got = f"numbers about {known.mean():.6g} are rounded, by up to {error:.2g}; their standard deviation is"
            note(f"{name}: {got} {known.std():.2g}: subtract a number close to their mean first")


def _kind(name: str, values: np.ndarray, found: list, number: int, elsewhere: str) -> str:
    """The default kind of a column, from its distinct known values, `found`, and the number of known values."""
    if values.dtype == object:
        if len(found) > max(MOST_CLASSES, number / 2):
            raise InputError(
                f"{name}: got {len(found)} different texts in {number} cells, such as {found[0]!r:.50}; expected "
                f"fewer, as class names. {elsewhere}, 'class' makes them classes nevertheless"
            )
        return "class"
    if set(found) <= {0.0, 1.0}:
        return "binary"
    if values.ndim > 1 or not all(np.isfinite(value) and value == round(value) for value in found):
        return "real"
    if found[0] == MISSING and len(found) <= MOST_CLASSES + 1:
        raise InputError(_ambiguous(name))
    return "class" if found[0] >= 0 and len(found) <= MOST_CLASSES else "real"


def _ambiguous(name: str) -> str:
    return (
        f"{name}: got -1 and other whole numbers; expected empty cells (or NaN) where a label is missing, or "
        f"kinds={{{name!r}: 'real'}} where -1 is a number"
    )


def _of_named_classes(name: str, values: np.ndarray, found: list, classes: Sequence[str]) -> Column:
    if values.dtype == object or not all(value in range(len(classes)) for value in found):
        got = f"{', '.join(map(str, found[:5]))} and the names of {len(classes)} classes"
        raise InputError(f"{name}: got {got}; expected 0 to {len(classes) - 1} and missing")
    codes = torch.from_numpy(np.where(np.isnan(values), MISSING, values).astype(np.int64))
    return Column(Classes(len(classes)), codes, tuple(classes))


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))
