"""Gemp et al. 2017, Table 1: classes that are never labelled, with and without labels that have no image."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from studies.job import Job, markdown, mean_and_error

DATASETS = ("mnist", "fashionmnist")
DEFAULT_PRESET = "demo"
# The forward model alone; all of it but the labels without images; all of it.
MODELS: dict[str, dict[str, Any]] = {
    "m2": {"no_reverse": True},
    "without unpaired labels": {"reverse_weight": 0.0},
    "inverted": {},
}
WIDE = {"classifier_hidden": [200, 200], "encoder_hidden": [200, 200], "activation": "relu"}
OWN = {
    "demo": {
        "m2": {"preset": "m2"},  # with what suits it better than the others' settings
        "m2 wide": {"preset": "m2", **WIDE},  # with their networks
        "m2 as inverted": {"no_reverse": True},  # with their settings
        "from true classes": {"first_epochs": 0, "true_epochs": 3},  # all of it, begun there: which bound have they?
    }
}
PAPER = {"m2": 2.30, "inverted": 2.07}  # cross-entropy on digits 5 to 9, in nats
UNSEEN = ("cross_entropy_unseen", "accuracy_unseen", "calibration_error_unseen")
MEASURES = {
    "cross_entropy_unseen_pairwise": "cross-entropy",
    "cross_entropy_unseen_optimal": "best assignment",
    "accuracy_unseen_pairwise": "accuracy",
    "accuracy_unseen_optimal": "best assignment",
    "calibration_error_unseen_pairwise": "calibration error",
    "elbo_per_example": "ELBO per test example",
    "test_accuracy": "accuracy, labelled classes",
}


def jobs(preset: str, seeds: Sequence[int] | None) -> list[Job]:
    """Ten trials of every model on both data sets, unless other seeds are named."""
    return [
        Job("inverted", dataset, "1.0", preset, seed, model, changes, "inverted_vae.py")
        for seed in seeds or range(10)
        for dataset in DATASETS
        for model, changes in models(preset).items()
    ]


def models(preset: str) -> dict[str, dict[str, Any]]:
    """Flags by model; what all is compared with, the inverted one, is the last."""
    found = {**MODELS, **OWN.get(preset, {})}
    inverted = found.pop("inverted")
    return {**found, "inverted": inverted}


def table(preset: str) -> str:
    """A Markdown table: means over trials, +- standard errors, and how many trials found all the classes."""
    head = ["data", "", "trials", *MEASURES.values(), "all classes found", "paper's cross-entropy"]
    lines = []
    for dataset in DATASETS:
        found = {model: trials(dataset, model, preset) for model in models(preset)}
        for model, runs in found.items():
            if runs:
                cells = [mean_and_error((run[m] for run in runs), digits=3) for m in MEASURES]
                all_found = f"{sum(run['distinct_digits'] == 10 for run in runs)} of {len(runs)}"
                paper = f"{PAPER[model]:.2f}" if dataset == "mnist" and model in PAPER else ""
                lines.append([dataset, model, str(len(runs)), *cells, all_found, paper])
        for less in found:
            if less != "inverted" and min(len(found[less]), len(found["inverted"])) > 1:
                cells = [
                    difference(*([run[m] for run in found[which]] for which in (less, "inverted"))) for m in MEASURES
                ]
                lines.append([dataset, f"inverted minus {less}", "", *cells, "", ""])
    return markdown(head, lines)


def trials(dataset: str, model: str, preset: str) -> list[dict]:
    """What is recorded, of up to twenty seeds."""
    found = [job.result() for job in jobs(preset, range(20)) if (job.dataset, job.part) == (dataset, model)]
    return [_pairwise(run) for run in found if run]


def _pairwise(run: dict) -> dict:
    """A run with the measures under the pairwise assignment by their own names, which before version 3 of the measures
    stood under the names of those under the paper's."""
    return run if run["measures"] >= 3 else {**{f"{name}_pairwise": run[name] for name in UNSEEN}, **run}


def difference(first: Sequence[float], second: Sequence[float]) -> str:
    """The second mean minus the first, +- the standard error of two independent samples."""
    error = sum(statistics.variance(values) / len(values) for values in (first, second)) ** 0.5
    return f"{statistics.mean(second) - statistics.mean(first):.3f} ± {error:.3f}"


def tables() -> list[str]:
    return [*map(table, ("demo", "paper", "reference-code"))]
