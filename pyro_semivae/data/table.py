"""A table of sites for user data, in which any cell may be missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pyro_semivae.data.columns import Column, site_name
from pyro_semivae.data.image_data import ImageData
from pyro_semivae.errors import InputError
from pyro_semivae.spaces import Space, any_known

KIND_OF = {"classes": "class", "attributes": "binary", "values": "real"}  # `Space.report` -> kind of label
SHOWN = 10  # the most names of a label that are printed


@dataclass(frozen=True)
class Table:
    """Training and test rows with data and any number of labels, any of which may be missing.

    `fit`, tasks and metrics accept `train` and `test` for a model with these sites. For a model with a single label,
    `labelled_by` selects the images and that label.

    Attributes:
        name: the data set's name.
        spaces: site -> space; data sites come first, `"x"` the first of them, then label sites.
        names: label site -> the names of its classes or entries (for a label from one column, the column's name).
        train, test: site -> values, with the same positive number of rows for all sites. Missing values are marked as
            the space defines, -1 or NaN.
        files: "train" and "test" -> the file of each row, for a folder of images the path in it; empty for arrays.

    Raises:
        InputError: a site is missing or unknown, values are outside their space, or numbers of rows or names differ.

    >>> from pyro_semivae.spaces import Classes, Images
    >>> x, y = torch.rand(3, 1, 8, 8), torch.tensor([0, 1, -1])
    >>> spaces = {"x": Images(1, 8, 8), "pet": Classes(2)}
    >>> print(Table("pets", spaces, {"pet": ("cat", "dog")}, {"x": x, "pet": y}, {"x": x[:2], "pet": y[:2]}))
    pets: 3 training rows, 2 test rows
      x    Images(channels=1, height=8, width=8)
      pet  class: cat, dog; known in 2 of 3 training rows, 2 of 2 test rows
    """

    name: str
    spaces: dict[str, Space]
    names: dict[str, tuple[str, ...]]
    train: dict[str, Tensor]
    test: dict[str, Tensor]
    files: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        spaces = self.spaces
        if not isinstance(spaces, Mapping) or not all(isinstance(space, Space) for space in spaces.values()):
            raise InputError(f"spaces: got {spaces!r:.200}; expected a mapping from site to space")
        are_labels = [space.is_label for space in spaces.values()]
        if next(iter(spaces), None) != "x" or are_labels != sorted(are_labels) or are_labels[0]:
            raise InputError(f"spaces: got {', '.join(spaces)}; expected sites of data, 'x' the first, then labels")
        labels = {site: space for site, space in spaces.items() if space.is_label}
        if set(self.names) != set(labels):
            raise InputError(f"names: got those of {list(self.names)}; expected those of the labels {list(labels)}")
        for site, space in labels.items():
            number = space.num_values if space.entries is None else space.entries
            if len(self.names[site]) != number or len(set(self.names[site])) < number:
                got = f"{len(self.names[site])} names, {self.names[site]!r:.200}"
                raise InputError(f"names[{site!r}]: got {got}; expected {number} different ones, for {space}")
        self._set("spaces", dict(spaces))
        self._set("names", {site: tuple(self.names[site]) for site in labels})
        self._set("train", self._checked("train", self.train))
        self._set("test", self._checked("test", self.test))
        self._set("files", {part: tuple(names) for part, names in self.files.items()})
        sizes = {"train": len(self.train["x"]), "test": len(self.test["x"])}
        if self.files and {part: len(names) for part, names in self.files.items()} != sizes:
            got = ", ".join(f"{len(names)} of {part}" for part, names in self.files.items())
            raise InputError(f"files: got {got}; expected one for each row, {sizes}, or none")

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)  # the class is frozen

    def _checked(self, part: str, given: Mapping[str, Any]) -> dict[str, Tensor]:
        if set(given) != set(self.spaces):
            raise InputError(f"{part}: got values of {list(given)}; expected those of {list(self.spaces)}")
        out = {site: space.validate(given[site], f"{part}[{site!r}]") for site, space in self.spaces.items()}
        sizes = {site: len(values) for site, values in out.items()}
        if len(set(sizes.values())) > 1 or not sizes["x"]:
            got = ", ".join(f"{size} of {site}" for site, size in sizes.items())
            raise InputError(f"{part}: got rows: {got}; expected as many of each, one or more")
        return out

    @property
    def kinds(self) -> dict[str, str]:
        """Label site -> "class", "binary" or "real"."""
        return {site: KIND_OF[space.report] for site, space in self.spaces.items() if space.is_label}

    def labelled_by(self, *columns: str) -> ImageData:
        """The images with a single label, for models with one label.

        Args:
            columns: the site or column names of one class label, or of one or more binary labels, which become the
                entries of one label in the given order. Default: the only class label, or all binary labels if there is
                no class label.

        Raises:
            InputError: the data are not images; a label is unknown or real; class and binary labels are mixed; or no
                label is named and the default is ambiguous.
        """
        kinds = self.kinds
        listed = ", ".join(f"{site} ({kind})" for site, kind in kinds.items()) or "none"
        accepted = f"expected one class label, or one or several binary ones. The labels of {self.name}: {listed}"
        if not self.spaces["x"].pictures:
            raise InputError(f"labelled_by: the data are {self.spaces['x']}; expected images: use train and test")
        if not all(isinstance(column, str) for column in columns):
            raise InputError(f"labelled_by: got {columns!r}; {accepted}")
        sites = tuple(column if column in kinds else site_name(column) for column in columns) or self._by_itself()
        if unknown := [column for column, site in zip(columns, sites, strict=bool(columns)) if site not in kinds]:
            raise InputError(f"labelled_by: got {', '.join(map(repr, unknown))}; {accepted}")
        found = [kinds[site] for site in sites]
        if not sites or (found != ["class"] and set(found) != {"binary"}) or len(set(sites)) < len(sites):
            got = ", ".join(f"{site!r} ({kind})" for site, kind in zip(sites, found, strict=True)) or "no label"
            raise InputError(f"labelled_by: got {got}; {accepted}")
        if found == ["class"]:
            y, y_test = self.train[sites[0]], self.test[sites[0]]
        else:
            y, y_test = (torch.cat([part[site] for site in sites], 1) for part in (self.train, self.test))
        names = tuple(name for site in sites for name in self.names[site])
        return ImageData(self.name, names, self.train["x"], y, self.test["x"], y_test)

    def _by_itself(self) -> tuple[str, ...]:
        """The default sites of `labelled_by`; empty if they are ambiguous."""
        classes, binary = (tuple(s for s, kind in self.kinds.items() if kind == of) for of in ("class", "binary"))
        return binary if not classes else classes if len(classes) == 1 else ()

    def described(self) -> dict[str, str]:
        """A description of each site: its space; for labels the kind, the names and the numbers of known rows."""
        n, n_test = len(self.train["x"]), len(self.test["x"])
        out = {site: f"{space}" for site, space in self.spaces.items()}
        for site, kind in self.kinds.items():
            known, known_test = (int(any_known(part[site]).sum()) for part in (self.train, self.test))
            of = f"known in {known} of {n} training rows, {known_test} of {n_test} test rows"
            out[site] = f"{kind}: {_listed(self.names[site])}; {of}"
        return out

    def __str__(self) -> str:
        lines = [f"{self.name}: {len(self.train['x'])} training rows, {len(self.test['x'])} test rows"]
        width = max(map(len, self.spaces))
        return "\n".join([*lines, *(f"  {site:{width}}  {said}" for site, said in self.described().items())])

    __repr__ = __str__


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f", ... ({len(names)})" if len(names) > SHOWN else "")


def make_table(
    name: str,
    data: Mapping[str, tuple[Space, Tensor]],
    data_test: Mapping[str, tuple[Space, Tensor]],
    columns: Mapping[str, Column],
    rows: tuple[Tensor, Tensor],
    files: Mapping[str, Sequence[str]] | None = None,
) -> Table:
    """Makes a table from training and test data, and from columns for all rows with the indices of the training and
    test rows, `rows`; see `Table` for `files`."""
    if twice := sorted(set(data) & set(columns)):
        raise InputError(f"columns: got {', '.join(map(repr, twice))}, sites of data already; expected others")
    ordered = dict(sorted(columns.items(), key=lambda item: item[1].space.is_label))
    spaces = {site: space for site, (space, _) in data.items()}
    for site, column in ordered.items():
        space = column.space
        spaces[site] = space.in_units_of(column.values[rows[0]]) if space.is_label else space
    parts = (
        {site: x for site, (_, x) in part.items()} | {site: c.values[of] for site, c in ordered.items()}
        for part, of in zip((data, data_test), rows, strict=True)
    )
    names = {site: c.names for site, c in ordered.items() if c.space.is_label}
    return Table(name, spaces, names, *parts, dict(files or {}))


def taken(values: Tensor, rows: Tensor) -> Tensor:
    """Selects rows of values; consecutive rows are a view, so that memory-mapped values stay in their file."""
    first, last = int(rows[0]), int(rows[-1])
    return values[first : last + 1] if last - first + 1 == len(rows) else values[rows.to(values.device)]
