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
    "frechet_distance": "Frechet distance",
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
# The terms that keep style in interventions (`infer.style_terms`): none, the recipe's, and others.
NEITHER = {"tau": 0.0, "generated": 0.0}
ONE = {**NEITHER, "tau": 0.5, "entries": "one"}
STYLED = "replace one and regression"
RECIPE = ONE | {"generated": 20.0}
OF_DIVA = f"DIVA {STYLED}"
# The runs that the recipe's terms were chosen from, on the last 2,000 training rows.
CHOICE = {
    "none": NEITHER,
    f"{STYLED} of 5": ONE | {"generated": 5.0},
    STYLED: RECIPE,
    f"{STYLED} of 40": ONE | {"generated": 40.0},
}
HELD_OUT = 2000
DEFAULT_PRESET = "demo"


def parts(rate: str) -> dict[str, dict[str, Any]]:
    """The three marginals (one where no label is missing) without terms that keep style, and the recipe with them; at
    6 % also partly labelled rows, used or dropped, the control variate, nothing detached, one of these terms alone, and
    DIVA with both.
    """
    parts = {marginal: {"marginal": marginal} for marginal in (MARGINALS if rate != "1.0" else ("jensen",))}
    if rate == "0.06":
        parts |= {f"partly {what}": {"partly": what} for what in ("keep", "drop")}
        parts |= {"control variate": CONTROL, "nothing detached": NOTHING_DETACHED}
    parts = {part: {**changes, **NEITHER} for part, changes in parts.items()}
    if rate == "0.06":
        parts |= {"replace one": {"marginal": "jensen", **ONE}, OF_DIVA: RECIPE}
    return parts | {STYLED: {"marginal": "jensen", **RECIPE}}


def job_of(rate: str, preset: str, seed: int, part: str) -> Job:
    script = "diva.py" if part == OF_DIVA else "ccvae.py"
    return Job("faces", "faces", rate, preset, seed, part, parts(rate)[part], script)


def choice_of(part: str, seed: int) -> Job:
    """A run on held-out rows."""
    return Job("faces", "faces", "0.06", "demo", seed, f"style {part}", {**CHOICE[part], "hold_out": HELD_OUT})


def jobs(preset: str, seeds: Sequence[int] | None) -> list[Job]:
    """One seed at each rate; of the preset "style", the runs on held-out rows that the recipe's terms were chosen
    from."""
    if preset == "style":
        return [choice_of(part, seed) for part in CHOICE for seed in seeds or [0]]
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


def choice_table() -> str:
    """A Markdown table of the runs on held-out rows, seed 0."""
    found = {part: with_capture(run) for part in CHOICE if (run := choice_of(part, 0).result())}
    lines = [[part, *(cell([run], measure) for measure in MEASURES)] for part, run in found.items()]
    return markdown(["held-out rows", *MEASURES.values()], lines) if lines else ""


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
    return [*map(table, PRESETS), choice_table(), label_table("0.2", "demo", STYLED), gradient_table()]
