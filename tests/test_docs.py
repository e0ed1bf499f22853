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
from pyro_semivae import metrics

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


@pytest.mark.parametrize("page", [README, *sorted((README.parent / "docs").glob("*.md"))], ids=lambda page: page.name)
def test_the_tables_of_results_are_the_recorded_ones(page, monkeypatch):
    """Every row with a number is printed by `benchmarks/reproduce.py <study> --table`."""
    monkeypatch.syspath_prepend(README.parent / "benchmarks")
    studies = runpy.run_path(str(README.parent / "benchmarks" / "reproduce.py"))["STUDIES"]
    recorded = {row for study in studies.values() for table in study.tables() for row in table.splitlines()}
    shown = re.findall(r"^\|.*\| \d+\.\d+ .*$", page.read_text(), re.M)
    assert not [row for row in shown if row not in recorded]


def test_the_docs_show_all_that_is_recorded_of_the_recipes(monkeypatch):
    monkeypatch.syspath_prepend(README.parent / "benchmarks")
    studies = runpy.run_path(str(README.parent / "benchmarks" / "reproduce.py"))["STUDIES"]
    pages = {"ccvae": README, **{study: README.parent / "docs" / f"{study}.md" for study in ("faces", "inverted")}}
    for study, preset in (("ccvae", "recipe"), ("faces", "demo"), ("inverted", "demo"), ("inverted", "paper")):
        rows = studies[study].table(preset).splitlines()
        assert rows and [row for row in rows if row not in pages[study].read_text()] == []


def test_readme_snippets_run(monkeypatch, tmp_path):
    torch.set_default_dtype(torch.float32)
    monkeypatch.chdir(tmp_path)
    snippets = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
    assert snippets, "the README shows how the library is used"
    torch.manual_seed(0)
    names = {"__name__": "readme"}
    exec(compile(snippets[0], "README.md", "exec"), names)
    assert metrics.accuracy(names["probs"], names["digits"].y_test) > 0.75, "the first snippet learns"
    for snippet in snippets[1:]:  # they go on from the first
        exec(compile(snippet, "README.md", "exec"), names)
    assert names["probs"].keys() == {"digit", "colour"} and names["blue"].shape == (1, 4, 1, 8, 8)


@pytest.mark.parametrize("page", ["objectives.md", "data.md", "graphs.md", "demo.md"])
def test_snippets_of_the_docs_run(page, monkeypatch, tmp_path):
    monkeypatch.setenv("PYRO_SEMIVAE_CACHE", str(tmp_path))
    torch.set_default_dtype(torch.float32)
    snippets = re.findall(r"```python\n(.*?)```", (README.parent / "docs" / page).read_text(), re.S)
    assert snippets
    names = {"__name__": page}
    for snippet in snippets:
        exec(compile(snippet, page, "exec"), names)
