"""The lessons run, those stored were executed from top to bottom, and the solutions go on from them."""

import ast
import json
import re
from pathlib import Path

import pytest
import torch

LESSONS = sorted((Path(__file__).parents[2] / "examples" / "notebooks").glob("*.ipynb"))
SMALL = re.compile(r"^(\w+) = .+?  # (.+) in the tests$", re.M)  # a size, and what it is in the tests


def cells_of(path, kind="code"):
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == kind]


def source_of(cell):
    return "".join(cell["source"])


def run_cell(source, names):
    """As a notebook does: what the last line is worth is shown."""
    *lines, last = ast.parse(source).body
    shown = isinstance(last, ast.Expr)
    exec(compile(ast.Module(lines if shown else [*lines, last], []), "cell", "exec"), names)
    if shown:
        value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
        ways = [getattr(value, name, None) for name in ("_repr_html_", "_repr_png_")]
        return [way() if way else repr(value) for way in ways]


def solution_of(path):
    return path.parent / "solutions" / f"{path.stem}.md"


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_runs_and_so_do_its_solutions(path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYRO_SEMIVAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PYRO_SEMIVAE_DATA", raising=False)
    torch.set_default_dtype(torch.float32)
    names = {"__name__": "lesson"}
    sources = [source_of(cell) for cell in cells_of(path)]
    assert any(SMALL.search(source) for source in sources), "no size is said to be smaller in the tests"
    for source in sources:
        run_cell(SMALL.sub(r"\1 = \2", source), names)
    snippets = re.findall(r"```python\n(.*?)```", solution_of(path).read_text(), re.S)
    assert snippets
    for snippet in snippets:
        run_cell(snippet, names)


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_stored_lesson_was_executed_from_top_to_bottom(path):
    cells = cells_of(path)
    assert [cell["execution_count"] for cell in cells] == [*range(1, len(cells) + 1)]
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert any("text/html" in output.get("data", {}) for output in outputs), "nothing is shown"
    told = json.dumps([{**output, "data": {**output.get("data", {}), "image/png": ""}} for output in outputs])
    told = re.sub(r"base64,[^\"\\]+", "", told)
    assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
    assert not re.findall(r"/(?:home|root|tmp|work|opt|Users)/", told), "a path of the machine that executed it"
    assert path.stat().st_size < 1_500_000


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_has_three_exercises_and_says_where_their_solutions_are(path):
    told = "\n".join(source_of(cell) for cell in cells_of(path, "markdown"))
    exercises = told.split("## Exercises")[1]
    assert re.findall(r"^(\d)\. ", exercises, re.M) == ["1", "2", "3"]
    assert f"](solutions/{path.stem}.md)" in exercises
    for target in re.findall(r"\]\(([\w/.]+)(?:#[\w-]+)?\)", told):  # a lesson, a page, a solution
        assert (path.parent / target).exists(), target
    assert re.findall(r"^## (\d)\. ", solution_of(path).read_text(), re.M) == ["1", "2", "3"]


@pytest.mark.slow
@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_runs_in_full_within_three_minutes(path, tmp_path):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=180, resources={"metadata": {"path": tmp_path}}).execute()
