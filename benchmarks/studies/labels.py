"""The label family side by side: every model on every data set."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from studies import ccvae, faces
from studies.job import PRESETS, RATES, Job, cell, example, markdown

DATASETS = ("mnist", "fashionmnist", "faces")
FAMILY = ("ccvae", "m2", "m3", "diva", "mvae")
KEEPING = "ccvae, keeping style"
# The papers' accuracy, generation accuracy and MI by rate: M2's of CCVAE's Tables 6 and 7, M3's of REVAE's 1 and 2.
# (REVAE has no rate of 1.0.) On CelebA accuracy and swap difference: CCVAE's Tables 1 and 2, M3's accuracy REVAE's.
PAPERS = {
    ("mnist", "m2"): ((0.918, 0.962, 0.968, 0.981), (0.883, 0.929, 0.934, 0.948), (0.035, 0.026, 0.024, 0.020)),
    ("fashionmnist", "m2"): ((0.756, 0.848, 0.860, 0.892), (0.750, 0.792, 0.787, 0.789), (0.032, 0.032, 0.032, 0.031)),
    ("fashionmnist", "m3"): ((0.22, 0.34, 0.31), (0.19, 0.27, 0.21), (0.04, 0.04, 0.08)),
    ("faces", "ccvae"): ((0.832, 0.862, 0.878, 0.900), (1.177, 0.890, 0.790, 0.758)),
    ("faces", "m2"): ((0.794, 0.862, 0.877, 0.893), (2.118, 1.194, 1.179, 1.143)),
    ("faces", "m3"): ((0.52, 0.64, 0.73), ()),
    ("faces", "diva"): ((0.807, 0.860, 0.867, 0.877), (1.489, 0.976, 0.996, 0.941)),
    ("faces", "mvae"): ((0.793, 0.828, 0.847, 0.864), (2.114, 2.113, 2.088, 2.121)),
}
OF_CLASSES = {"swap_difference": "swap difference", "intervention_accuracy": "intervention accuracy"}
DEFAULT_PRESET = "demo"


def job_of(dataset: str, rate: str, preset: str, seed: int, model: str) -> Job:
    """CCVAE's runs are those of its own studies, where these have them; the others' layers compute in bfloat16.

    Its short runs are of its first recipe, which has no terms beside bound and classifier, as the others have none.
    """
    changes: dict[str, Any] = {"precision": "bf16-mixed"}
    if dataset == "faces" and model in ("ccvae", KEEPING):
        return faces.job_of(rate, preset, seed, "jensen" if model == "ccvae" else faces.STYLED)
    if model == "ccvae" and preset != "demo":
        return ccvae.job_of(dataset, rate, preset, seed)
    if model == "ccvae":
        preset, changes = "recipe-1", {**changes, "epochs": 10}
    return Job("labels", dataset, rate, preset, seed, model, changes, f"{model}.py")


def jobs(preset: str, seeds: Sequence[int] | None) -> list[Job]:
    return [
        job_of(dataset, rate, preset, seed, model)
        for dataset in DATASETS
        for rate in RATES
        for model in FAMILY
        if preset in example(model).Settings.PRESETS
        for seed in seeds or [0]
    ]


def table(dataset: str) -> str:
    """A Markdown table of one data set: the models' measures, and what the papers have of them (faces: on CelebA).

    A model has a line for every preset that was run, told apart by their epochs.
    """
    several = dataset == "faces"
    measures = faces.MEASURES if several else {**ccvae.MEASURES, **OF_CLASSES}
    of_papers = ("CelebA's accuracy", "CelebA's swap difference") if several else ("paper", "paper", "paper")
    head, lines = ["data", "labelled", "model", "epochs", "seeds", *measures.values(), *of_papers], []
    models = (KEEPING, *FAMILY) if several else FAMILY
    for rate, model, preset in itertools.product(RATES, models, PRESETS):
        runs = [run for seed in range(10) if (run := job_of(dataset, rate, preset, seed, model).result())]
        if runs:
            runs = [*map(faces.with_capture, runs)] if several else runs
            cells = [dataset, rate, named(dataset, model, preset), str(runs[0]["epochs"]), str(len(runs))]
            cells += [cell(runs, measure) for measure in measures]
            lines.append([*cells, *papers(dataset, rate, model, len(of_papers))])
    return markdown(head, lines)


def named(dataset: str, model: str, preset: str) -> str:
    """A model in a table; CCVAE alone is its first recipe, beside which there is the one that keeps style."""
    return KEEPING if (model, preset) == ("ccvae", "recipe") and dataset != "faces" else model


STATISTICS = ("brightness", "thickness", "slant", "width", "height")
KEPT = {"kept": "", "kept_by_fresh_samples": "fresh: ", "rest_explained": "z_s explains: "}


def kept_table(rate: str = "0.004") -> str:
    """A Markdown table of what an intervention on a class label keeps of an image, for the models that intervene, in
    their short runs, and for CCVAE with what keeps style."""
    head = ["data", "labelled", "model", "interventions of the class that was set", "variance share", "recall"]
    head += [f"{kind}{name}" for kind in KEPT.values() for name in STATISTICS]
    lines = []
    shown = [("ccvae", "recipe"), *((model, "demo") for model in FAMILY)]
    for dataset, (model, preset) in itertools.product(DATASETS[:2], shown):
        run = job_of(dataset, rate, preset, 0, model).result()
        if run and "kept" in run:
            cells = [cell([run], m) for m in ("intervention_accuracy", *ccvae.DIVERSITY)]
            of_kind = [run.get(kind, {}).get(name) for kind in KEPT for name in STATISTICS]
            cells += ["" if value is None else f"{value:.2f}" for value in of_kind]
            lines.append([dataset, rate, named(dataset, model, preset), *cells])
    return markdown(head, lines)


def papers(dataset: str, rate: str, model: str, number: int) -> list[str]:
    """The first n of the papers' numbers, empty where they have none."""
    if dataset != "faces" and model == "ccvae":
        theirs = ccvae.PAPER[dataset, rate]
    else:
        tables = PAPERS.get((dataset, "ccvae" if model == KEEPING else model), ((),) * number)
        theirs = [dict(zip(RATES, values, strict=False)).get(rate) for values in tables]
    return ["" if value is None else f"{value:.3f}" for value in theirs]


def tables() -> list[str]:
    return [*map(table, DATASETS), kept_table()]
