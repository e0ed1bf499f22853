"""Ruiz et al. 2019, Table 1 (MNIST): target factors read off features, for nine methods; what the table misses; the
recipe taken apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from studies.job import Job, cell, markdown

DATASETS = ("mnist", "fashionmnist", "faces")
DEFAULT_PRESET = "demo"
METHODS: dict[str, dict[str, Any]] = {
    "vae": {"method": "vae"},
    "beta-vae": {"method": "beta-vae"},
    "beta-tcvae": {"method": "beta-tcvae"},
    "dip-vae-1": {"method": "dip-vae-1"},
    "dip-vae-2": {"method": "dip-vae-2"},
    "svae": {"method": "svae"},
    "swap-vae": {"method": "swap-vae"},
    "rb-vae": {"symmetric": False},
    "srb-vae": {},
}
# The paper's red, green, blue, scale, width, mean.
PAPER = {
    "vae": (0.099, 0.104, 0.101, 0.034, 0.085, 0.085),
    "beta-vae": (0.093, 0.099, 0.094, 0.039, 0.089, 0.083),
    "beta-tcvae": (0.098, 0.100, 0.099, 0.034, 0.084, 0.083),
    "dip-vae-1": (0.055, 0.064, 0.063, 0.038, 0.100, 0.064),
    "dip-vae-2": (0.077, 0.069, 0.076, 0.035, 0.098, 0.071),
    "svae": (0.094, 0.092, 0.084, 0.036, 0.104, 0.082),
    "swap-vae": (0.116, 0.116, 0.114, 0.039, 0.104, 0.098),
    "rb-vae": (0.065, 0.069, 0.062, 0.061, 0.095, 0.070),
    "srb-vae": (0.057, 0.053, 0.055, 0.038, 0.095, 0.060),
}
ERRORS = ("error_red", "error_green", "error_blue", "error_scale", "error_width", "mean_absolute_error")
# What the paper shows as pictures.
BEYOND = {
    "mean_absolute_error_all": "error from all latents",
    "style_from_common": "scale from z",
    "class_from_target": "digit from e",
    "class_from_common": "digit from z",
    "transfer_error_scale": "transfer: scale",
    "transfer_error": "transfer: all",
    "digit_kept": "digit kept",
}
# Of faces, whose target is the mouth.
OF_FACES = {
    "error_smile": "corners from e",
    "error_width": "width from e",
    "style_from_common": "corners from z",
    "attribute_from_target_smile": "smiling, told from e",
    "attribute_from_target_no_smile": "not smiling, told from e",
    "attribute_from_common": "smile or none, told from z",
    "transfer_attribute": "transfer: smile or none",
    "transfer_error_smile": "transfer: corners",
    "transfer_error_width": "transfer: width",
    "digit_kept": "hair colour kept",
}
ANCHORS = ("error_median", "error_pixels", "error_components")
# The recipe without its parts, on the last 10,000 training rows.
ABLATIONS = {
    "all": {},
    "no crossing": {"crossed": 0.0},
    "no discriminators": {"adversarial": 0.0},
    "no R1": {"r1": 0.0},
    "no latents' likelihood": {"latents": 0.0},
    "crossing, no R1": {"r1": 0.0, "latents": 0.0},
    "discriminators alone": {"crossed": 0.0, "r1": 0.0, "latents": 0.0},
    "none": {"symmetric": False},
}
# What strengths and weights were chosen from, and what was tried of our recipe, there, too.
CHOICES: dict[str, dict[str, Any]] = {
    **{
        f"{method} {strength:g}": {"method": method, "strength": strength}
        for method, strengths in {
            "beta-vae": (2.0, 4.0, 8.0),
            "beta-tcvae": (1.0, 2.5, 5.0, 10.0),
            "dip-vae-1": (0.1, 0.5, 2.0, 10.0),
            "dip-vae-2": (0.1, 0.5, 2.0, 10.0),
        }.items()
        for strength in strengths
    },
    **{
        f"svae {adversarial:g} {latents:g}": {"method": "svae", "adversarial": adversarial, "latents": latents}
        for adversarial, latents in ((1.0, 0.0), (3.0, 0.1), (10.0, 0.0), (10.0, 0.1))
    },
    **{f"swap-vae {weight:g}": {"method": "swap-vae", "adversarial": weight} for weight in (3.0, 10.0, 30.0)},
    "rb-vae z 16": {"symmetric": False, "z": 16},
    "srb-vae e 16": {"e": 16},
    "srb-vae adversarial 60": {"adversarial": 60.0},
}
HELD_OUT = {"ablation": ABLATIONS, "choice": CHOICES}


def jobs(preset: str, seeds: Sequence[int] | None) -> list[Job]:
    """Three seeds of every method on every data set; one of every ablation and choice, on held-out rows."""
    if preset in HELD_OUT:
        return [
            job_of("mnist", "demo", seed, part, {**changes, "hold_out": 10_000})
            for seed in seeds or [0]
            for part, changes in HELD_OUT[preset].items()
        ]
    return [
        job_of(dataset, preset, seed, method, changes)
        for dataset in DATASETS
        for seed in seeds or range(3)
        for method, changes in METHODS.items()
    ]


def job_of(dataset: str, preset: str, seed: int, part: str, changes: dict[str, Any]) -> Job:
    return Job("rbvae", dataset, None, preset, seed, part.replace("'", "").replace(",", ""), changes, "rbvae.py")


def table(preset: str) -> str:
    """A Markdown table: means over seeds, +- standard errors, of what Table 1 has, and the paper's mean."""
    head = ["data", "method", "seeds", *(name.removeprefix("error_").replace("_", " ") for name in ERRORS), "paper"]
    lines = []
    for (dataset, method), runs in recorded(preset, DATASETS[:2]).items():
        theirs = f"{PAPER[method][-1]:.3f}" if dataset == "mnist" else ""
        runs, seeds = learnt(runs)
        lines.append([dataset, method, seeds, *(cell(runs, name) for name in ERRORS), theirs])
    return markdown(head, lines)


def beyond_table(preset: str) -> str:
    """A Markdown table of what the paper's measure misses, and the anchors."""
    lines = []
    for (dataset, method), runs in recorded(preset, DATASETS[:2]).items():
        runs, _ = learnt(runs)
        lines.append([dataset, method, *(cell(runs, name) for name in BEYOND)])
        lines += anchors(dataset, method, runs, len(BEYOND))
    return markdown(["data", "method", *BEYOND.values()], lines)


def faces_table(preset: str) -> str:
    """A Markdown table of faces whose target is the mouth."""
    lines = []
    for (dataset, method), runs in recorded(preset, DATASETS[2:]).items():
        runs, seeds = learnt(runs)
        lines.append([dataset, method, seeds, *(cell(runs, name) for name in OF_FACES)])
        lines += anchors(dataset, method, runs, len(OF_FACES) + 1)
    return markdown(["data", "method", "seeds", *OF_FACES.values()], lines)


def learnt(runs: list[dict]) -> tuple[list[dict], str]:
    """The runs whose latents have a nat or more of the image, and how many these are of how many; all, if none has:
    a VAE whose first steps make all images alike may stay with that (its run says so, `notes`)."""
    found = [run for run in runs if run["kl_common"] >= 1]
    return found or runs, str(len(runs)) if len(found) == len(runs) else f"{len(found)} of {len(runs)}"


def anchors(dataset: str, method: str, runs: list[dict], number: int) -> list[list[str]]:
    """The table's line of what needs no model, after the last method."""
    if method != "srb-vae":
        return []
    found = ", ".join(f"{name.removeprefix('error_')} {runs[0][name]:.3f}" for name in ANCHORS)
    return [[dataset, f"errors without a model: {found}", *[""] * number]]


def held_out_table(preset: str) -> str:
    """A Markdown table of runs on held-out rows: the recipe's parts taken out, or what settings were chosen from."""
    names = {part.replace("'", "").replace(",", ""): part for part in HELD_OUT[preset]}
    names_of = ("mean_absolute_error", *BEYOND)
    runs = [(names[job.part], run) for job in jobs(preset, None) if (run := job.result())]
    lines = [[part, *(f"{run[name]:.3f}" if name in run else "" for name in names_of)] for part, run in runs]
    return markdown(["recipe", "error from e", *BEYOND.values()], lines)


def recorded(preset: str, datasets: Sequence[str]) -> dict[tuple[str, str], list[dict]]:
    """The recorded runs of a preset on some data sets, by data set and method."""
    found: dict[tuple[str, str], list[dict]] = {}
    for job in jobs(preset, range(10)):
        if job.dataset in datasets and (run := job.result()):
            found.setdefault((job.dataset, job.part), []).append(run)
    return found


def tables() -> list[str]:
    held_out = [held_out_table(preset) for preset in HELD_OUT]
    return [table("demo"), beyond_table("demo"), faces_table("demo"), *held_out]
