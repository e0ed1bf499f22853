"""Settings of scripts: what precedes what, and presets that name flags."""

import runpy
from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar

import pytest

from pyro_semivae.flags import Flags, count, flag, number

SCRIPTS = (Path(__file__).parents[1] / "examples").glob("*.py")
EXAMPLES = [path for path in SCRIPTS if path.name != "demo.py"]  # which trains nothing


@dataclass(kw_only=True)
class Base(Flags):
    epochs: int | None = flag({"digits": 60, "*": 5}, "passes", count())
    first_epochs: int = flag(0, "before", count(0))
    smoke_test: bool = flag(False, "quick")
    lr: float = flag(0.1, "rate", number(above=0))
    sizes: list = flag([3], "sizes", count(), nargs="+")


@dataclass(kw_only=True)
class Settings(Base):
    PRESETS: ClassVar = {"demo": {}, "long": {"epochs": 40, "first_epochs": 7, "lr": 0.3}}
    DEFAULTS: ClassVar = {"lr": 0.2}

    @classmethod
    def chosen(cls, given):
        return {"lr": 0.7} if given.get("first_epochs") == 4 else {}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", {"epochs": 5, "first_epochs": 0, "lr": 0.2, "preset": "demo", "sizes": [3]}),
        ("--preset long", {"epochs": 40, "first_epochs": 7, "lr": 0.3, "preset": "long"}),
        ("--preset long --smoke-test", {"epochs": 2, "first_epochs": 2, "lr": 0.3}),
        ("--smoke-test", {"epochs": 2, "first_epochs": 0, "smoke_test": True}),
        ("--epochs 9 --preset long --smoke-test --lr 1", {"epochs": 9, "first_epochs": 2, "lr": 1.0}),
        ("--sizes 1 2 --first-epochs 3", {"sizes": [1, 2], "first_epochs": 3}),
        ("--preset long --first-epochs 4", {"lr": 0.7, "first_epochs": 4, "epochs": 40}),
        ("--lr 1 --first-epochs 4", {"lr": 1.0, "first_epochs": 4}),
    ],
)
def test_what_is_given_precedes_the_quick_run_the_preset_and_the_defaults(line, expected):
    found = vars(Settings.parse(None, line.split()).for_data("mnist"))
    assert {name: found[name] for name in expected} == expected
    assert Settings.parse(None, []).for_data("digits").epochs == 60


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--epochs x", "error: --epochs: got 'x'; expected a whole number (see --help)"),
        ("--lr 0", "error: --lr: got 0.0; expected a finite number above 0 (see --help)"),
        ("--preset none", "error: --preset: invalid choice: 'none' (choose from"),
    ],
)
def test_an_error_is_one_line(line, message, capsys):
    with pytest.raises(SystemExit) as stop:
        Settings.parse(None, line.split())
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.startswith(message) and said.count("\n") == 1


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_presets_and_defaults_name_flags_that_there_are(path):
    settings = runpy.run_path(str(path))["Settings"]
    names = {f.name for f in fields(settings)}
    assert {name for values in (settings.DEFAULTS, *settings.PRESETS.values()) for name in values} <= names
    assert settings(**settings.defaults()) == settings.parse(None, [])
