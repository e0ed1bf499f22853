"""Defaults of flags that depend on the data: a dict, keyed by data set or by kind of data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyro_semivae.data import ImageData
from pyro_semivae.data.sets import CLASSES, SMALL
from pyro_semivae.models import parts
from pyro_semivae.spaces import Images


def by_label(classes: Any, binary: Any) -> dict[str, Any]:
    """One default for data sets with class labels, another one for binary labels."""
    return {"classes": classes, "attributes": binary}


def by_networks(mlps: Any, convolutions: Any) -> dict[str, Any]:
    """One default for data sets with MLPs, another one for convolutions: see `parts.networks_for`."""
    return {"mlp": mlps, "conv": convolutions}


def for_data(default: Any, keys: str | Sequence[str]) -> Any:
    """A default's value for a data set; a default that is not a dict is returned unchanged.

    Args:
        keys: the name of a data set in `data.NAMES`; or, for other data, keys in order of preference: the first one in
            the dict counts, else "*".

    >>> for_data({"digits": 400, "*": 10}, "mnist"), for_data(0.5, "mnist")
    (10, 0.5)
    """
    if not isinstance(default, dict):
        return default
    if isinstance(keys, str):
        kinds = ("mlp" if keys in SMALL else "conv", "classes" if keys in CLASSES else "attributes")
        keys = (keys, *(("tiny",) if keys == "digits" else ()), *kinds)
    return default[next(key for key in (*keys, "*") if key in default)]


def keys_of_own(own: ImageData) -> tuple[str, ...]:
    """The keys for the user's own data; its name is not one of them, since it may be that of another data set."""
    space = Images(*own.x_shape)
    networks = "conv" if parts.is_large(space) else "mlp"
    return f"own {networks}", "own", *(() if parts.shows_style(space) else ("tiny",)), networks, own.labels.report


# Keys other than names of data sets -> their description in `--help`.
OF_DATA = {"classes": "class labels", "attributes": "binary labels", "mlp": "small images", "conv": "large images"}
OF_DATA |= {"tiny": "images with a side below 16 pixels"}
OF_DATA |= {"own": "your own data", "own conv": "your own large images"}


def by_data_set(default: dict[str, Any]) -> str:
    """Describes a default that depends on the data set.

    >>> by_data_set({"digits": 1, "mnist": 1, "*": 0})
    '1 on digits, mnist; else 0'
    >>> by_data_set({"classes": 4.0, "attributes": 1.0})
    '4.0 on class labels; 1.0 on binary labels'
    """
    shown = {name: "as many as 3,000 steps take" if value is None else value for name, value in default.items()}
    default = {OF_DATA.get(name, name): value for name, value in shown.items()}
    if "*" not in default:
        return "; ".join(f"{value} on {name}" for name, value in default.items())
    names: dict[str, list[str]] = {}
    for name, value in default.items():
        if name != "*":
            names.setdefault(str(value), []).append(name)
    parts = [f"{value} on {', '.join(on)}" for value, on in names.items() if value != str(default["*"])]
    return "; ".join([*parts, f"else {default['*']}"]) if parts else str(default["*"])
