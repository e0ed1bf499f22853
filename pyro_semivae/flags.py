"""Command-line flags: values checked as they are read, defaults that depend on the data set, errors of one line."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from pyro_semivae.data import ImageData, parse_labelled
from pyro_semivae.data.sets import SMALL
from pyro_semivae.errors import InputError, check_count, check_number
from pyro_semivae.models import parts
from pyro_semivae.spaces import Images


def count(least: int = 1, most: int = 2**31 - 1) -> Callable[[str], int]:
    """The type of a flag that takes a whole number.

    >>> count()("3")
    3
    """

    def whole_number(text: str) -> int:
        value = _read(int, text, "a whole number")
        return _check(check_count, value, least=least, most=most)

    return whole_number


def number(**bounds: float) -> Callable[[str], float]:
    """The type of a flag that takes a finite number; bounds as those of `check_number`.

    >>> number(least=0)("0.5")
    0.5
    """

    def finite_number(text: str) -> float:
        return _check(check_number, _read(float, text, "a number"), **bounds)

    return finite_number


def labelled(text: str) -> str:
    """The type of `--labelled`: a fraction (with a point) or a count, as it is written; or "all" that are known."""
    if text == "all":
        return text
    try:
        value = parse_labelled(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("labelled: ")) from None
    if isinstance(value, float):
        _check(check_number, value, above=0, most=1)
    else:
        _check(check_count, value)
    return text


def _read(kind: type, text: str, accepted: str) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"got {text[:50]!r}; accepted is {accepted}") from None


def _check(check: Callable[..., Any], value: Any, **bounds: float) -> Any:
    try:
        return check("", value, **bounds)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix(": ")) from None


class Parser(argparse.ArgumentParser):
    """A parser whose error is one line, and whose help comes last: after presets have set the defaults it shows."""

    def __init__(self, description: str | None):
        super().__init__(description=description, formatter_class=_Formatter, add_help=False)

    def error(self, message: str) -> NoReturn:
        words = message.removeprefix("argument ")
        self.exit(2, f"error: {words} (see --help)\n")

    def parse(self, presets: dict[str, dict[str, Any]], argv: Sequence[str] | None = None) -> argparse.Namespace:
        """Parses with `--preset` as the defaults of others; the first preset is the default one."""
        self.add_argument("--preset", default=next(iter(presets)), choices=presets, help="sets defaults of other flags")
        known, _ = self.parse_known_args(argv)
        few = {name: 2 for name in ("epochs", *presets[known.preset]) if name.endswith("epochs")}
        self.set_defaults(**{**presets[known.preset], **(few if known.smoke_test else {})})
        self.add_argument("-h", "--help", action="help", help="show this, with the preset's defaults, and exit")
        return self.parse_args(argv)


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the description's lines and shows defaults, by data set where they depend on it."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if isinstance(action.default, dict):
            return f"{action.help} (default: {by_data_set(action.default)})".replace("%", "%%")
        shown = action.default is None or action.default is False or action.default == argparse.SUPPRESS
        return action.help if shown else super()._get_help_string(action)


def by_label(classes: Any, binary: Any) -> dict[str, Any]:
    """A default for data sets with class labels, and one for those with binary labels."""
    return {"classes": classes, "attributes": binary}


def by_networks(mlps: Any, convolutions: Any) -> dict[str, Any]:
    """A default for data that have MLPs, and one for those that have convolutions: see `parts.networks_for`."""
    return {"mlp": mlps, "conv": convolutions}


def for_dataset(args: argparse.Namespace, keys: str | Sequence[str]) -> dict[str, Any]:
    """The flags with the defaults of a data set, where they depend on it.

    Args:
        keys: the name of a data set of `data.NAMES`, or what the defaults of another go by, the first that is there.
    """
    if isinstance(keys, str):
        keys = (keys, *(("mlp", "classes") if keys in SMALL else ("conv", "attributes")))
    return {flag: _first(v, (*keys, "*")) if isinstance(v, dict) else v for flag, v in vars(args).items()}


def _first(default: dict[str, Any], keys: Sequence[str]) -> Any:
    return default[next(key for key in keys if key in default)]


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


def dataset(names: Sequence[str]) -> Callable[[str], str]:
    """The type of `--dataset`: a name, or the path of a data set of one's own, as it is written.

    >>> dataset(["auto", "digits"])("digits")
    'digits'
    """

    def name_or_path(text: str) -> str:
        if text not in names and not Path(text).expanduser().exists():
            accepted = f"{', '.join(names)}, or a folder of images, an .npz or .npy file that is there"
            raise argparse.ArgumentTypeError(f"got {text[:200]!r}; accepted are {accepted}")
        return text

    return name_or_path


def kinds(text: str) -> str:
    """The type of `--kinds`: what columns are, as `age=real,digit=class`, as it is written."""
    if not all(name and kind for name, kind in parse_kinds(text).items()):
        raise argparse.ArgumentTypeError(f"got {text[:200]!r}; accepted are columns and kinds as age=real,digit=class")
    return text


def parse_kinds(text: str) -> dict[str, str]:
    """
    >>> parse_kinds("age=real, digit=class")
    {'age': 'real', 'digit': 'class'}
    """
    parts = [part.partition("=") for part in text.split(",")]
    return {name.strip(): kind.strip() for name, _, kind in parts}


@contextmanager
def naming(flag: str, argument: str) -> Iterator[None]:
    """Bad input that names an argument of the library names the flag that it came by."""
    try:
        yield
    except InputError as error:
        raise InputError(str(error).replace(f"{argument}: ", f"{flag}: ", 1)) from error
