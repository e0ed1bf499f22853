"""Defaults of flags that depend on the data: a dict by the name of a data set, or by what the data are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyro_semivae.data import ImageData
from pyro_semivae.data.sets import CLASSES, SMALL
from pyro_semivae.models import parts
from pyro_semivae.spaces import Images


def by_label(classes: Any, binary: Any) -> dict[str, Any]:
    """A default for data sets with class labels, and one for those with binary labels."""
    return {"classes": classes, "attributes": binary}


def by_networks(mlps: Any, convolutions: Any) -> dict[str, Any]:
    """A default for data that have MLPs, and one for those that have convolutions: see `parts.networks_for`."""
    return {"mlp": mlps, "conv": convolutions}


def for_data(default: Any, keys: str | Sequence[str]) -> Any:
    """A default's value on a data set; what does not depend on data is itself.

    Args:
        keys: the name of a data set of `data.NAMES`, or what the defaults of another go by, the first that is there.

    >>> for_data({"digits": 400, "*": 10}, "mnist"), for_data(0.5, "mnist")
    (10, 0.5)
    """
    if not isinstance(default, dict):
        return default
    if isinstance(keys, str):
        keys = (keys, "mlp" if keys in SMALL else "conv", "classes" if keys in CLASSES else "attributes")
    return default[next(key for key in (*keys, "*") if key in default)]


def keys_of_own(own: ImageData) -> tuple[str, ...]:
    """What the defaults of data of one's own go by; its name, which may be that of another set, is none of it."""
    networks = "conv" if parts.is_large(Images(*own.x_shape)) else "mlp"
    return f"own {networks}", "own", networks, own.labels.report


# What a default may depend on, beside the names of data sets, and how it is called.
OF_DATA = {"classes": "class labels", "attributes": "binary labels", "mlp": "small images", "conv": "large images"}
OF_DATA |= {"own": "your own data", "own conv": "your own large images"}


def by_data_set(default: dict[str, Any]) -> str:
    """A default that depends on the data set, in words.

    >>> by_data_set({"digits": 1, "mnist": 1, "*": 0})
    '1 on digits, mnist; else 0'
    >>> by_data_set({"classes": 4.0, "attributes": 1.0})
    '4.0 on class labels; 1.0 on binary labels'
    """
    default = {OF_DATA.get(name, name): "what 3,000 steps take" if v is None else v for name, v in default.items()}
    if "*" not in default:
        return "; ".join(f"{value} on {name}" for name, value in default.items())
    names: dict[str, list[str]] = {}
    for name, value in default.items():
        if name != "*":
            names.setdefault(str(value), []).append(name)
    parts = [f"{value} on {', '.join(on)}" for value, on in names.items() if value != str(default["*"])]
    return "; ".join([*parts, f"else {default['*']}"]) if parts else str(default["*"])
