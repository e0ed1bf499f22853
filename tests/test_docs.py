"""Examples in docstrings and in the README run."""

import doctest
import importlib
import json
import pkgutil
import re
import runpy
from pathlib import Path

import pytest
import torch
from PIL import Image

import pyro_semivae
from pyro_semivae import metrics, tasks

MODULES = ["pyro_semivae", *(m.name for m in pkgutil.walk_packages(pyro_semivae.__path__, "pyro_semivae."))]
README = Path(__file__).parents[1] / "README.md"
PAGES = [README, *sorted((README.parent / "docs").glob("*.md"))]
OF_STUDIES = [page for page in PAGES if page.name != "processes.md"]  # whose tables have a test of their own
DRAW = README.parent / "docs" / "draw.py"


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


@pytest.mark.parametrize("page", OF_STUDIES, ids=lambda page: page.name)
def test_the_tables_of_results_are_the_recorded_ones(page, monkeypatch):
    """Every row with a number is printed by `benchmarks/reproduce.py <study> --table`."""
    monkeypatch.syspath_prepend(README.parent / "benchmarks")
    studies = runpy.run_path(str(README.parent / "benchmarks" / "reproduce.py"))["STUDIES"]
    recorded = {row for study in studies.values() for table in study.tables() for row in table.splitlines()}
    shown = re.findall(r"^\|.*\| \d+\.\d+ (?!m?s |GFLOP).*$", page.read_text(), re.M)
    assert not [row for row in shown if row not in recorded]


def test_the_tables_of_speed_are_the_recorded_ones(monkeypatch):
    monkeypatch.syspath_prepend(README.parent / "benchmarks")
    import speed

    record = json.loads((README.parent / "benchmarks" / "results" / "speed-cpu.json").read_text())
    for page, table in zip(("performance", "results"), speed.tables(record), strict=True):
        assert table and table in (README.parent / "docs" / f"{page}.md").read_text()
    record = json.loads((README.parent / "benchmarks" / "results" / "speed-cuda.json").read_text())
    page = (README.parent / "docs" / "performance.md").read_text()
    assert all(table and table in page for table in speed.tables(record))


def test_the_table_of_the_profile_is_the_recorded_one(monkeypatch):
    monkeypatch.syspath_prepend(README.parent / "benchmarks")
    import profile_step

    record = json.loads((README.parent / "benchmarks" / "results" / "profile-cpu.json").read_text())
    assert profile_step.table(record["results"]) in (README.parent / "docs" / "performance.md").read_text()


def test_the_tables_of_processes_are_the_recorded_ones(monkeypatch):
    monkeypatch.syspath_prepend(README.parent / "benchmarks")
    import scaling

    record = json.loads((scaling.RESULTS / "scaling-cpu.json").read_text())
    text = (README.parent / "docs" / "processes.md").read_text()
    assert all(table and table in text for table in scaling.tables(record))


def test_the_table_of_peers_is_the_recorded_one():
    text = (README.parent / "docs" / "performance.md").read_text()
    found = json.loads((README.parent / "benchmarks" / "results" / "peers-cpu.json").read_text())["results"]
    for name, result in found.items():
        sides = [result["sides"][side] for side in ("theirs", "compiled", "handlers")]
        cells = [f"{side['seconds']:.3g} s" for side in sides]
        cells += [f"×{result['ratios'][f'over_{side}']:.2f}" for side in ("compiled", "handlers")]
        cells += [f"{side['peak_mb']:.0f} MB" for side in sides] + [f"{side['accuracy']:.0%}" for side in sides[:2]]
        row = re.search(rf"^\| `{name}` \| (.*) \|$", text, re.M)
        assert row and row[1].split(" | ") == cells, " | ".join(cells)


def test_the_table_of_the_roofline_is_the_recorded_one():
    text = (README.parent / "docs" / "performance.md").read_text()
    for result in json.loads((README.parent / "benchmarks" / "results" / "roofline-cpu.json").read_text())["results"]:
        cells = [f"{result['model']}, {result['batch_size']}", f"{result['gflop']:.3g} GFLOP"]
        cells += [f"{result[f'{kind}_gflops']:.3g} GFLOP/s" for kind in ("products", "compiled", "handlers")]
        cells += [f"{100 * result[f'{kind}_fraction']:.0f} %" for kind in ("compiled", "handlers")]
        assert (row := f"| {' | '.join(cells)} |") in text, row


def test_the_docs_show_all_that_is_recorded_of_the_recipes(monkeypatch):
    monkeypatch.syspath_prepend(README.parent / "benchmarks")
    studies = runpy.run_path(str(README.parent / "benchmarks" / "reproduce.py"))["STUDIES"]
    docs = README.parent / "docs"
    pages = {"ccvae": docs / "results.md", **{study: docs / f"{study}.md" for study in ("faces", "inverted")}}
    for study, preset in (("ccvae", "recipe"), ("faces", "demo"), ("inverted", "demo"), ("inverted", "paper")):
        rows = studies[study].table(preset).splitlines()
        assert rows and [row for row in rows if row not in pages[study].read_text()] == []


@pytest.fixture
def in_float32(monkeypatch, tmp_path):
    """As a user's script runs, in a folder of its own."""
    monkeypatch.setenv("PYRO_SEMIVAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    torch.set_default_dtype(torch.float32)


def snippets_of(page):
    found = re.findall(r"```python\n(.*?)```", page.read_text(), re.S)
    assert found
    return found


def test_the_snippets_of_the_readme_are_scripts_that_learn(in_float32):
    first, graph = snippets_of(README)
    names = {"__name__": "readme"}
    exec(compile(first, "README.md", "exec"), names)
    digits, vae = names["digits"], names["vae"]
    assert metrics.accuracy(tasks.classify(vae, digits.x_test), digits.y_test) > 0.88
    assert names["as_three"].shape == (1, 4, 1, 8, 8)
    names = {"__name__": "readme"}  # a script of its own
    exec(compile(graph, "README.md", "exec"), names)
    right = {"digit": digits.y_test, "odd": digits.y_test % 2}
    assert {name: metrics.accuracy(names["probs"][name], y) > 0.7 for name, y in right.items()} == dict.fromkeys(
        right, True
    )
    assert names["sevens"].shape == (1, 4, 1, 8, 8)


@pytest.mark.parametrize("page", ["start.md", "objectives.md", "data.md", "graphs.md", "demo.md"])
def test_snippets_of_the_docs_run(page, in_float32):
    names = {"__name__": page}
    for snippet in snippets_of(README.parent / "docs" / page):
        exec(compile(snippet, page, "exec"), names)


def test_the_faults_say_what_the_page_says(in_float32):
    page = (README.parent / "docs" / "faults.md").read_text()
    start, *faults = re.findall(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", page, re.S)
    names = {"__name__": "faults"}
    exec(compile(start[0], "start", "exec"), names)
    assert len(faults) == len(re.findall(r"^### \d+\. ", page, re.M)) == 20
    for snippet, message in faults:
        with pytest.raises((ValueError, OSError, FloatingPointError)) as raised:
            exec(compile(snippet, "fault", "exec"), names)
        assert message and " ".join(str(raised.value).split()).startswith(" ".join(message.split()))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_that_are_there(page):
    """Where files are read as they are; the site's own links are checked where it is built."""
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        path = page.parent / target
        lesson = README.parent / "examples" / "notebooks" / Path(target).name  # where the site has them
        assert path.exists() or (target.startswith("lessons/") and lesson.exists()), target


@pytest.mark.parametrize("name", runpy.run_path(str(DRAW))["MODELS"])
def test_the_pictures_of_models_are_what_show_draws(name):
    torch.set_default_dtype(torch.float32)
    drawn = runpy.run_path(str(DRAW))
    said = Image.open(drawn["DRAWN"] / f"{name}.png").text["Description"]
    assert said == drawn["described"](drawn["picture_of"](name))
    assert f"drawn/{name}.png" in (README.parent / "docs" / "models.md").read_text()
