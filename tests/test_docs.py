"""Examples in docstrings and in the README run."""

import doctest
import importlib
import pkgutil
import re
import runpy
from pathlib import Path

import pytest
import torch

import pyro_semivae

MODULES = ["pyro_semivae", *(m.name for m in pkgutil.walk_packages(pyro_semivae.__path__, "pyro_semivae."))]
README = Path(__file__).parents[1] / "README.md"


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    torch.set_default_dtype(torch.float32)
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert not failed


def test_every_public_class_and_function_has_a_docstring():
    for name in MODULES:
        module = importlib.import_module(name)
        for key, obj in vars(module).items():
            if not key.startswith("_") and getattr(obj, "__module__", None) == name and callable(obj):
                assert obj.__doc__, f"{name}.{key}"


def test_the_results_in_the_readme_are_the_recorded_ones():
    reproduce = runpy.run_path(str(README.parent / "benchmarks" / "reproduce.py"))
    presets = ("recipe", "paper", "split")
    recorded = [row for preset in presets for row in reproduce["table"](preset).splitlines()[2:]]
    shown = re.findall(r"^\| (?:mnist|fashionmnist) \|.*$", README.read_text(), re.M)
    assert sorted(shown) == sorted(recorded), "README.md does not show what `reproduce.py ccvae --table` prints"
    tried = re.findall(r"^\| (?:mnist|fashionmnist) \|.*$", (README.parent / "docs" / "ccvae.md").read_text(), re.M)
    assert tried == reproduce["consistency_table"]().splitlines()[2:], "docs/ccvae.md"


def test_readme_snippets_run(monkeypatch, tmp_path):
    torch.set_default_dtype(torch.float32)
    monkeypatch.chdir(tmp_path)
    snippets = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
    assert snippets, "the README shows how the library is used"
    for snippet in snippets:
        exec(compile(snippet, "README.md", "exec"), {"__name__": "readme"})
