"""The label family side by side: every model on every data set."""

from __future__ import annotations

from collections.abc import Sequence

from studies import ccvae, faces
from studies.job import PRESETS, RATES, Job, markdown, mean_and_error

DATASETS = ("mnist", "fashionmnist", "faces")
FAMILY = ("ccvae", "m2", "m3", "diva", "mvae")
# CCVAE's Tables 6 and 7 have M2's accuracies, REVAE's Tables 1 and 2 M3's on FashionMNIST.
M2 = {
    "mnist": dict(zip(RATES, (0.918, 0.962, 0.968, 0.981), strict=True)),
    "fashionmnist": dict(zip(RATES, (0.756, 0.848, 0.860, 0.892), strict=True)),
}
M3 = {"fashionmnist": {"0.004": 0.22, "0.06": 0.34, "0.2": 0.31}}


def job_of(dataset: str, rate: str, preset: str, seed: int, model: str) -> Job:
    """CCVAE's runs are those of its own studies."""
    if model != "ccvae":
        return Job("labels", dataset, rate, preset, seed, model, script=f"{model}.py")
    if dataset != "faces":
        return ccvae.job_of(dataset, rate, preset, seed)
    return faces.job_of(rate, preset, seed, "jensen")


def jobs(preset: str, seeds: Sequence[int] | None) -> list[Job]:
    return [
        job_of(dataset, rate, preset, seed, model)
        for dataset in DATASETS
        for rate in RATES
        for model in FAMILY
        for seed in seeds or [0]
    ]


def table(dataset: str, preset: str) -> str:
    """A Markdown table of one data set: the models' measures, and the papers' accuracies where they have any."""
    several = dataset == "faces"
    measures = faces.MEASURES if several else ccvae.MEASURES
    head = ["data", "labelled", "model", "seeds", *measures.values(), *([] if several else ["paper's accuracy"])]
    lines, seen = [], dict.fromkeys((job.rate, job.model) for job in jobs(preset, [0]))
    for rate, model in seen:
        runs = [run for seed in range(10) if (run := job_of(dataset, rate, preset, seed, model).result())]
        if runs:
            runs = [*map(faces.with_capture, runs)] if several else runs
            cells = [mean_and_error(run[m] for run in runs) if m in runs[0] else "" for m in measures]
            theirs = [] if several else [papers_accuracy(dataset, rate, model)]
            lines.append([dataset, rate, model, str(len(runs)), *cells, *theirs])
    return markdown(head, lines)


def papers_accuracy(dataset: str, rate: str, model: str) -> str:
    """What CCVAE's or REVAE's tables have, if they have it."""
    tables = {"m2": M2, "m3": M3, "ccvae": {dataset: {rate: ccvae.PAPER.get((dataset, rate), (None,))[0]}}}
    theirs = tables.get(model, {}).get(dataset, {}).get(rate)
    return "" if theirs is None else f"{theirs:.3f}"


def tables() -> list[str]:
    return [table(dataset, preset) for preset in PRESETS for dataset in DATASETS]
