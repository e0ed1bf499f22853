"""Command lines as dataclasses: flags whose values are checked when parsed, presets, one-line errors."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, NoReturn, TypeVar

from pyro_semivae.data import parse_labelled
from pyro_semivae.defaults import by_data_set, for_data
from pyro_semivae.errors import InputError, check_count, check_number

F = TypeVar("F", bound="Flags")


def flag(default: Any, meaning: str, kind: Callable[[str], Any] = str, *, group: str = "", **options: Any) -> Any:
    """A field of `Flags`.

    Args:
        default: the value without the flag. With False the flag is a switch; with True there is `--no-flag` too. A
            dict is a default that depends on the data: see `defaults`.
        meaning: the text for `--help`.
        kind: converts the argument's text to its value, or raises `argparse.ArgumentTypeError`.
        group: the heading in `--help` under which the flag is listed.
        options: other options of `ArgumentParser.add_argument`, such as `choices` and `nargs`.
    """
    about: dict[str, Any] = {"type": kind}
    if isinstance(default, bool):
        about = {"action": argparse.BooleanOptionalAction if default else "store_true"}
    return field(default_factory=lambda: default, metadata={"help": meaning, "group": group, **about, **options})


class _Given:
    """The names of the given flags; a slot, so that `vars` contains only the flags."""

    __slots__ = ("given",)
    given: Collection[str]


@dataclass(kw_only=True)
class Flags(_Given):
    """The settings of a script, one flag per field.

    Attributes:
        PRESETS: name -> defaults of several flags; the first preset is the default.
        DEFAULTS: defaults that override those of a base class.
    """

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {"demo": {}}
    DEFAULTS: ClassVar[dict[str, Any]] = {}

    preset: str = flag(None, "sets defaults of other flags")

    def __post_init__(self) -> None:
        self.given = frozenset()

    @classmethod
    def parse(cls: type[F], description: str | None, argv: Sequence[str] | None = None) -> F:
        """Parses a command line. Defaults that depend on the data stay unresolved until `for_data`.

        Order of precedence: given flags, values implied by given flags (`chosen`), `--smoke-test` (two epochs), the
        preset, the defaults.
        """
        parser, groups = _Parser(description), {}
        defaults = {name: {**cls.defaults(name), "preset": next(iter(cls.PRESETS))} for name in cls.PRESETS}
        for name, about in sorted(cls._about().items(), key=lambda item: item[1]["group"]):
            group = about.pop("group")
            if group and group not in groups:
                groups[group] = parser.add_argument_group(group)
            about["help"] += _shown({preset: values[name] for preset, values in defaults.items()})
            groups.get(group, parser).add_argument(f"--{name.replace('_', '-')}", default=argparse.SUPPRESS, **about)
        given = vars(parser.parse_args(argv))
        chosen = cls.defaults(given.get("preset"), quick=given.get("smoke_test", False))
        settings = cls(**{**chosen, **cls.chosen(given), **given})
        settings.given = {*given}
        try:
            settings.check_given()
        except InputError as error:
            parser.error(str(error))
        return settings

    @classmethod
    def chosen(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """Defaults that are implied by the given flags."""
        return {}

    def check_given(self) -> None:
        """Hook for scripts to refuse given flags (`given`) that have no effect. It is called before the data are known,
        and again afterwards.

        Raises:
            InputError: a given flag has no effect.
        """

    @classmethod
    def defaults(cls, preset: str | None = None, *, quick: bool = False) -> dict[str, Any]:
        """The values of all flags for a preset (default: the first one); `quick`: with `--smoke-test`."""
        preset = preset or next(iter(cls.PRESETS))
        values = {f.name: f.default_factory() for f in fields(cls)}  # type: ignore[misc]
        values |= {**cls.DEFAULTS, "preset": preset, **cls.PRESETS[preset]}
        short = {name: 2 for name, value in values.items() if name.endswith("epochs") and value != 0}
        return {**values, **(short if quick else {})}

    @classmethod
    def _about(cls) -> dict[str, dict[str, Any]]:
        """Flag's name -> its options for `ArgumentParser.add_argument`."""
        about = {f.name: dict(f.metadata) for f in fields(cls)}
        about["preset"]["choices"] = list(cls.PRESETS)
        return about

    def for_data(self: F, keys: str | Sequence[str]) -> F:
        """The settings for a data set, with defaults that depend on it resolved: see `defaults.for_data`.

        Raises:
            InputError: a given flag has no effect on these data.
        """
        found = replace(self, **{name: for_data(value, keys) for name, value in vars(self).items()})
        found.given = self.given
        found.check_given()
        return found


def _shown(defaults: dict[str, Any]) -> str:
    """A flag's default for `--help`, and its value in the presets where it differs."""
    (_, first), *others = ((preset, _default(value)) for preset, value in defaults.items())
    presets: dict[str, list[str]] = {}
    for preset, value in others:
        if value != first:
            presets.setdefault(value, []).append(preset)
    parts = [f"default: {first}"] if first else []
    parts += [f"{', '.join(names)}: {value or 'off'}" for value, names in presets.items()]
    return f" ({'; '.join(parts)})".replace("%", "%%") if parts else ""


def _default(value: Any) -> str:
    if isinstance(value, dict):
        return by_data_set(value)
    return "" if value is None or value is False else "on" if value is True else str(value)


class _Parser(argparse.ArgumentParser):
    """A parser with one-line errors, which keeps the line breaks of its description."""

    def __init__(self, description: str | None):
        super().__init__(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> NoReturn:
        words = message.removeprefix("argument ")
        self.exit(2, f"error: {words} (see --help)\n")


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
    """The type of a flag that takes a finite number, with the bounds of `check_number`.

    >>> number(least=0)("0.5")
    0.5
    """

    def finite_number(text: str) -> float:
        return _check(check_number, _read(float, text, "a number"), **bounds)

    return finite_number


def labelled(text: str) -> str:
    """The type of `--labelled`: a fraction (with a decimal point), a count, or "all"; returned as text."""
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
        raise argparse.ArgumentTypeError(f"got {text[:50]!r}; expected {accepted}") from None


def _check(check: Callable[..., Any], value: Any, **bounds: float) -> Any:
    try:
        return check("", value, **bounds)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix(": ")) from None


def dataset(names: Sequence[str]) -> Callable[[str], str]:
    """The type of `--dataset`: a name, or the path of the user's own data set; returned as text.

    >>> dataset(["auto", "digits"])("digits")
    'digits'
    """

    def name_or_path(text: str) -> str:
        if text not in names and not Path(text).expanduser().exists():
            accepted = f"{', '.join(names)}, or an existing folder of images, .npz or .npy file"
            raise argparse.ArgumentTypeError(f"got {text[:200]!r}; expected {accepted}")
        return text

    return name_or_path


def kinds(text: str) -> str:
    """The type of `--kinds`: the kinds of columns, such as `age=real,digit=class`; returned as text."""
    if not all(name and kind for name, kind in parse_kinds(text).items()):
        raise argparse.ArgumentTypeError(f"got {text[:200]!r}; expected columns and kinds as age=real,digit=class")
    return text


def parse_kinds(text: str) -> dict[str, str]:
    """Column -> kind.

    >>> parse_kinds("age=real, digit=class")
    {'age': 'real', 'digit': 'class'}
    """
    parts = [part.partition("=") for part in text.split(",")]
    return {name.strip(): kind.strip() for name, _, kind in parts}


@contextmanager
def naming(flag: str, argument: str) -> Iterator[None]:
    """Replaces the library's argument name in an `InputError` by the name of the flag."""
    try:
        yield
    except InputError as error:
        raise InputError(str(error).replace(f"{argument}: ", f"{flag}: ", 1)) from error
