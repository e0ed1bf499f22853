"""CCVAE's Tables 6 and 7, REVAE's D.2 and split, what keeps style, and the first recipe taken apart."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from studies.job import RESULTS, Job, cell, markdown

# CCVAE, Tables 6 and 7: test accuracy, generation accuracy, mutual information of generations.
PAPER = {
    ("mnist", "0.004"): (0.927, 0.910, 0.020),
    ("mnist", "0.06"): (0.974, 0.954, 0.014),
    ("mnist", "0.2"): (0.979, 0.961, 0.013),
    ("mnist", "1.0"): (0.988, 0.973, 0.010),
    ("fashionmnist", "0.004"): (0.741, 0.734, 0.025),
    ("fashionmnist", "0.06"): (0.865, 0.806, 0.024),
    ("fashionmnist", "0.2"): (0.879, 0.801, 0.028),
    ("fashionmnist", "1.0"): (0.901, 0.798, 0.029),
    ("mnist", "10"): (0.767, None, None),  # REVAE D.2: one labelled image per class
}
MEASURES = {
    "test_accuracy": "accuracy",
    "generation_accuracy": "generation accuracy",
    "mutual_information": "MI",
}
# Of generations and interventions, which no paper measures. Real test images have a share of about 1.
DIVERSITY = {"generation_variance_share": "variance share", "generation_recall": "recall"}
SET = {"intervention_accuracy": "interventions of the new class", "intervention_precision": "among its images"}
KEPT = ("brightness", "thickness", "width", "height", "slant")
REAL = "mutual_information_real"  # of test images: below it generations are surer than real images
CLEAN = "test_accuracy_clean"  # the guide without the noise that it was trained with
# A short run of the first recipe with one of its parts taken out, on the last 10,000 training rows.
ABLATIONS = {
    "all": {},
    "exact marginal": {"marginal": "exact"},
    "classifier weight 1": {"alpha": 0.0},
    "beta 1": {"beta": 1.0},
    "no noise": {"shift": 0, "dropout": 0.0},
    "last weights": {"ema_decay": 0.0},
    "z_c of 10": {"z_c": 10},
}
ABLATED = (("mnist", "0.004"), ("fashionmnist", "0.06"))
# The first recipe with a change: a consistency term, which it does without; and REVAE's split of the latents, beside
# REVAE's Tables 1 and 2.
CONSISTENCY = (("mnist", "0.004"), ("fashionmnist", "0.004"), ("fashionmnist", "0.06"))
SPLIT = {
    ("fashionmnist", "0.004"): (0.68, 0.61, 0.03),
    ("fashionmnist", "0.06"): (0.82, 0.72, 0.03),
    ("fashionmnist", "0.2"): (0.85, 0.76, 0.02),
}
VARIANTS: dict[str, tuple[Iterable[tuple[str, str]], dict[str, Any]]] = {
    "consistency": (CONSISTENCY, {"consistency": 300.0}),
    "split": (SPLIT, {"z_c": 4, "z_s": 10}),
}
# What keeps style in interventions, in the recipe's short run on held-out rows: its parts alone and together, and on
# other models; see `infer.style_terms`.
NEITHER = {"tau": 0.0, "generated": 0.0, "style": 0.0, "independence": 0.0}
REPLACEMENT, REGRESSION, READ = {"tau": 0.5}, {"generated": 40.0}, {"style": 0.5}
INDEPENDENCE = {"independence": 10.0}
STYLE: dict[str, tuple[str, dict[str, Any]]] = {
    "all": ("ccvae.py", {}),
    "neither": ("ccvae.py", NEITHER),
    "replacement": ("ccvae.py", {**NEITHER, **REPLACEMENT}),
    "regression": ("ccvae.py", {**NEITHER, **REGRESSION}),
    "both": ("ccvae.py", {**NEITHER, **REPLACEMENT, **REGRESSION}),
    "both and independence": ("ccvae.py", {"style": 0.0}),
    "both and style read off": ("ccvae.py", {"independence": 0.0}),
    "all with beta 1": ("ccvae.py", {"beta": 1.0}),
    "all with beta 4": ("ccvae.py", {"beta": 4.0}),
    "all with missing labels summed": ("ccvae.py", {"impute": "enumerate"}),
    "all on all rows": ("ccvae.py", {"share": 1.0}),
    "DIVA": ("diva.py", {}),
    "DIVA with all": ("diva.py", {**REPLACEMENT, **REGRESSION, **READ, **INDEPENDENCE}),
    "M2": ("m2.py", {}),
    "M2 with regression": ("m2.py", REGRESSION),
}
STYLE_MEASURES = (
    "test_accuracy",
    "generation_accuracy",
    "intervention_accuracy",
    "intervention_precision",
    "generation_variance_share",
)
DEFAULT_PRESET = "recipe"


def job_of(dataset: str, rate: str, preset: str, seed: int) -> Job:
    if rate != "10":
        return Job("ccvae", dataset, rate, preset, seed)
    # One image per class: the paper's regulariser; the recipe's preset for so few labels.
    changes = {"regulariser": 5.0} if preset == "paper" else {}
    return Job("ccvae", dataset, rate, "one-shot" if preset == "recipe" else preset, seed, changes=changes)


def jobs(preset: str, seeds: Sequence[int] | None) -> list[Job]:
    """Three seeds at the lowest rate, five samples of one image per class, one seed elsewhere and of other presets."""
    if preset == "ablation":
        short = {"epochs": 10, "hold_out": 10_000}
        return [
            Job("ccvae", dataset, rate, "recipe-1", seed, part, {**changes, **short})
            for dataset, rate in ABLATED
            for seed in seeds or [0]
            for part, changes in ABLATIONS.items()
        ]
    if preset == "style":
        return [
            Job("ccvae", dataset, "0.004", "demo", seed, f"style {part}", {**changes, "hold_out": 10_000}, script)
            for dataset in ("mnist", "fashionmnist")
            for seed in seeds or [0]
            for part, (script, changes) in STYLE.items()
        ]
    if preset in VARIANTS:
        rows, changes = VARIANTS[preset]
        return [Job("ccvae", *row, "recipe-1", seed, preset, changes) for row in rows for seed in seeds or [0]]
    many = {"0.004": 3, "10": 5} if preset == "recipe" else {}
    return [
        job_of(dataset, rate, preset, seed)
        for dataset, rate in PAPER
        if (preset, rate) != ("recipe-1", "10")  # one image per class has a preset of its own
        for seed in seeds or range(many.get(rate, 1))
    ]


def recorded(preset: str) -> list[tuple[Job, list[dict]]]:
    """By row of the papers' tables: the first of its jobs, and what is recorded of all its seeds."""
    rows = [[job for job in jobs(preset, range(10)) if (job.dataset, job.rate) == row] for row in PAPER]
    found = [(these[0], [run for job in these if (run := job.result())]) for these in rows if these]
    return [(job, runs) for job, runs in found if runs]


def _row(job: Job, runs: list[dict]) -> list[str]:
    label = "10 images" if job.rate == "10" else str(job.rate)
    return [job.dataset, label, " ".join(filter(None, [job.preset, job.part])), str(len(runs))]


def table(preset: str) -> str:
    """A Markdown table of CCVAE's recorded runs: ours (mean over seeds, +- standard error) and the paper's."""
    papers = SPLIT if preset == "split" else PAPER
    head = ["data", "labelled", "preset", "seeds", "without noise"]
    head += [name for title in MEASURES.values() for name in (title, "paper")] + ["MI of test images"]
    lines = []
    for job, runs in recorded(preset):
        cells = [*_row(job, runs), cell(runs, CLEAN)]
        for measure, theirs in zip(MEASURES, papers[job.dataset, str(job.rate)], strict=True):
            cells += [cell(runs, measure), "" if theirs is None else f"{theirs:.3f}"]
        lines.append([*cells, cell(runs, REAL)])
    return markdown(head, lines)


def diversity_table(preset: str) -> str:
    """A Markdown table of the same runs: how diverse generations are, and what interventions set and keep."""
    head = [
        "data",
        "labelled",
        "preset",
        "seeds",
        *DIVERSITY.values(),
        *SET.values(),
        *(f"{name} kept" for name in KEPT),
    ]
    lines = []
    for job, runs in recorded(preset):
        if all("kept" in run for run in runs):
            runs = [{**run, **run["kept"]} for run in runs]
            lines.append([*_row(job, runs), *(cell(runs, measure) for measure in (*DIVERSITY, *SET, *KEPT))])
    return markdown(head, lines)


def consistency_table() -> str:
    """A Markdown table of the first recipe with and without a consistency term: test and generation accuracy."""
    lines = []
    for job in jobs("consistency", None):
        runs = [job.result(), job_of(job.dataset, job.rate, "recipe-1", job.seed).result()]
        if all(runs):
            measured = [f"{run[measure]:.3f}" for measure in list(MEASURES)[:2] for run in runs]
            lines.append([job.dataset, job.rate, *measured])
    head = ["data", "labelled", "accuracy, consistency", "recipe-1", "generation accuracy, consistency", "recipe-1"]
    return markdown(head, lines)


def style_table() -> str:
    """A Markdown table of what keeps style in interventions, on held-out rows, seed 0."""
    lines = []
    for job in jobs("style", None):
        if run := job.result():
            measured = [run[name] for name in STYLE_MEASURES] + [run["kept"][name] for name in KEPT]
            lines.append([job.dataset, job.part.removeprefix("style "), *(f"{value:.3f}" for value in measured)])
    head = [name.removeprefix("generation_").replace("_", " ") for name in STYLE_MEASURES[2:]]
    head = ["data", "terms", "accuracy", "generation accuracy", *head, *(f"{name} kept" for name in KEPT)]
    return markdown(head, lines)


def ablation_table() -> str:
    """A Markdown table of the first recipe's short run and of its parts taken out: accuracies on held-out rows."""
    measures = list(MEASURES)[:2]
    found = {(job.dataset, job.part): run for job in jobs("ablation", None) if (run := job.result())}
    columns = [(data, rate) for data, rate in ABLATED if any(dataset == data for dataset, _ in found)]
    head = ["recipe-1", *(f"{data} {rate}: {MEASURES[m]}" for data, rate in columns for m in measures)]
    lines = []
    for part in ABLATIONS:
        runs = [found.get((dataset, part)) for dataset, _ in columns]
        if any(runs):
            lines.append([part, *(f"{run[m]:.3f}" if run else "" for run in runs for m in measures)])
    return markdown(head, lines)


def letters_table() -> str:
    """A Markdown table of `letters.py`: the same measures, on letters."""
    kept = ("brightness", "slant")
    head = ["", "epochs", "accuracy", "generation accuracy", "interventions of the new letter", "among its images"]
    head += ["variance share", *(f"{name} kept" for name in kept)]
    lines = []
    for part in ("recipe-200-epochs", "recipe-1-200-epochs", "recipe", "without", "recipe-1"):
        path = RESULTS / "ccvae" / f"letters-{part}-seed0.json"
        run = json.loads(path.read_text()) if path.exists() else None
        if run is not None:
            measured = [run[name] for name in STYLE_MEASURES] + [run["kept"][name] for name in kept]
            name = part.removesuffix("-200-epochs").replace("without", "recipe without style terms")
            lines.append([name, str(run["epochs"]), *(f"{value:.3f}" for value in measured)])
    return markdown(head, lines)


def tables() -> list[str]:
    presets = ("recipe", "recipe-1", "paper", "split")
    others = [consistency_table(), ablation_table(), style_table(), letters_table()]
    return [*map(table, presets), *map(diversity_table, presets), *others]
