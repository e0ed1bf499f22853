"""Rendered faces with 18 labels: the bound's three marginals, and partly labelled rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from studies.job import PRESETS, RATES, Job, cell, markdown, recorded

# Faces: the measures of CCVAE's Tables 1 and 2, Figs. 10 and 12, and ours, for the bound's three marginals.
MARGINALS = ("exact", "jensen", "sampled")
MEASURES = {
    "test_accuracy": "accuracy",
    "test_accuracy_balanced": "balanced",
    "generation_accuracy": "generation accuracy",
    "generation_accuracy_balanced": "balanced",
    "mutual_information": "MI",
    "swap_difference": "swap difference",
    "intervention_condition_number": "condition number",
    "intervention_selectivity": "selectivity",
    "own_linear": "capture",
    "own_nonlinear": "non-linear",
    "others_linear": "by others",
    "others_nonlinear": "non-linear",
}


# The quiet gradient of the weights, with the classifier's weight that it then needs.
CONTROL = {"marginal": "jensen", "control_variate": True, "detach": "none", "alpha": 100.0}
# The gradient of the bound as it is, with the recipe's weight on the classifier.
NOTHING_DETACHED = {"marginal": "jensen", "control_variate": True, "detach": "none"}
# What keeps style for class labels (`infer.style_terms`), here for each label or for all at once.
ONE, ALL = ({"tau": 0.5, "entries": entries} for entries in ("one", "all"))
REGRESSION = {"generated": 5.0}
STYLE = {
    "replace one": ONE,
    "replace all": ALL,
    "regression": REGRESSION,
    "replace one and regression": ONE | REGRESSION,
}
DEFAULT_PRESET = "demo"


def parts(rate: str) -> dict[str, dict[str, Any]]:
    """The three marginals (one where no label is missing); at 6 % also partly labelled rows, used or dropped, the
    control variate, nothing detached, and the terms that keep style.
    """
    parts = {marginal: {"marginal": marginal} for marginal in (MARGINALS if rate != "1.0" else ("jensen",))}
    if rate != "0.06":
        return parts
    parts |= {f"partly {what}": {"partly": what} for what in ("keep", "drop")}
    parts |= {"control variate": CONTROL, "nothing detached": NOTHING_DETACHED}
    return parts | {part: {"marginal": "jensen", **terms} for part, terms in STYLE.items()}


def job_of(rate: str, preset: str, seed: int, part: str) -> Job:
    return Job("faces", "faces", rate, preset, seed, part, parts(rate)[part])


def jobs(preset: str, seeds: Sequence[int] | None) -> list[Job]:
    return [job_of(rate, preset, seed, part) for rate in RATES for part in parts(rate) for seed in seeds or [0]]


def table(preset: str) -> str:
    """A Markdown table of the recorded runs on faces."""
    head, lines = ["labelled", "", "seeds", *MEASURES.values()], []
    found: dict[tuple[str, str], list[dict]] = {}
    for job in jobs(preset, range(10)):
        if run := job.result():
            found.setdefault((job.rate, job.part), []).append(with_capture(run))
    for (rate, part), runs in found.items():
        cells = [cell(runs, measure) for measure in MEASURES]
        lines.append([rate, part, str(len(runs)), *cells])
    return markdown(head, lines)


def with_capture(run: dict) -> dict:
    return {**run, **run["characteristic_capture"]}


def label_table(rate: str, preset: str, part: str = "jensen") -> str:
    """A Markdown table of one run's labels: how well each is read, generated, switched and captured."""
    run = job_of(rate, preset, 0, part).result()
    if run is None:
        return ""
    lines = []
    for i, (name, accuracy) in enumerate(run["test_accuracy_per_label"].items()):
        drawn, moved = run["generation_accuracy_per_label"][name], run["intervention_matrix"][i][i]
        captured = run["characteristic_capture_per_label"][name]
        cells = [f"{value:.2f}" for value in (accuracy, drawn, moved, *captured)]
        lines.append([name, *cells])
    head = ["label", "accuracy", "generation accuracy", "moved by its switch (nats)", "capture", "non-linear"]
    return markdown(head, lines)


def gradient_table() -> str:
    """A Markdown table of what `benchmarks/gradients.py` recorded: variances by variant, at the start and trained."""
    run = recorded("gradients-cpu.json")
    if not run:
        return ""
    start, trained = (run["variance"][when] for when in ("at the start", "after training"))
    head = ["", *start["exact"], *(f"{part}, trained" for part in trained["exact"])]
    return markdown(
        head,
        [
            [variant, *(f"{value:.2g}" for value in (*parts.values(), *trained[variant].values()))]
            for variant, parts in start.items()
        ],
    )


def tables() -> list[str]:
    return [*map(table, PRESETS), label_table("0.2", "demo"), gradient_table()]
