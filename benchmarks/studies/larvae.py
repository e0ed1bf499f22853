"""Nie et al. 2020, Fig. 2: MIG and l2 of semi-supervised baselines and of LaRVAE on each, at four rates of labels;
Fig. 3: the weight of the label replacement and the size of the nuisance."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from studies.job import Job, cell, example, markdown, mean_and_error, recorded

DEFAULT_PRESET = "demo"
DATASETS = ("room", "sprites")
RATES = ("0.01", "0.015", "0.02", "0.025")
# Of the base, its weight.
BASES = {"beta": 4.0, "tc": 4.0, "factor": 10.0}
PRINTED = {"replacement": "guide", "generated": 0.0}  # with the weights of the others
# "longer", at the lowest rate: the baseline for the time that "ours" takes, whose step is 1.3 to 1.9 of its own
# (benchmarks/step_terms.py), or more.
METHODS: dict[str, dict[str, Any]] = {
    "baseline": {"tau": 0.0},
    "longer": {"tau": 0.0, "epochs": 10},
    "printed": PRINTED,
    "ours": {},
}
SEEDS = 4
# Of 187 steps of 64 images and 64 labelled ones; the paper's million steps take a GPU.
EPOCHS = {"room": 5, "sprites": 12}
TAUS = (0.1, 0.5, 1.0, 5.0, 10.0)
NUISANCES = (0, 1, 5, 10, 50)
CURVES = ("tau", "nuisance")
# What settings were chosen from, on images held out of the training set, two seeds: of the baselines their weight, so
# that what is compared with is at its best; of the rest what both share, and what only "ours" has.
TRIED = {"alpha": 100.0, "generated": 100.0}
CHOICES: list[tuple[str, str, dict[str, Any]]] = [
    *(
        (base, f"baseline {weight:g}", {**TRIED, "tau": 0.0, "weight": weight})
        for base, weights in {"beta": (1.0, 2.0, 4.0, 8.0), "tc": (2.0, 4.0, 8.0), "factor": (3.0, 10.0, 30.0)}.items()
        for weight in weights
    ),
    ("tc", "baseline alpha 300", {**TRIED, "tau": 0.0, "alpha": 300.0}),
    ("tc", "ours", TRIED),
    ("tc", "ours alpha 300", {**TRIED, "alpha": 300.0}),
    *(("tc", f"ours generated {weight:g}", {**TRIED, "generated": weight}) for weight in (0.0, 30.0, 300.0, 1000.0)),
    ("tc", "ours alpha 300 generated 300", {}),
]
MEASURES = ("mig", "l2", "generation_error", "effect", "leak", "factor_vae_score", "dci")
HIGHER = {"mig", "effect", "factor_vae_score", "dci"}


def jobs(preset: str, seeds: Sequence[int] | None) -> list[Job]:
    """Every base, method and rate; with the presets `tau` and `nuisance` the curves, on room at the lowest rate; with
    `choice` what settings were chosen from."""
    if preset == "choice":
        return [
            job_of("room", RATES[0], seed, base, f"choice {part}", {**changes, "hold_out": 2_000})
            for seed in ([0, 1] if seeds is None else seeds)
            for base, part, changes in CHOICES
        ]
    seeds = range(SEEDS) if seeds is None else seeds
    if preset in CURVES:
        return [point(preset, method, value, seed) for seed in seeds for method, value in points(preset)]
    return [
        job_of(dataset, rate, seed, base, method, changes)
        for dataset in DATASETS
        for seed in seeds
        for rate in RATES
        for base in BASES
        for method, changes in METHODS.items()
        if method != "longer" or (dataset, rate) == ("room", RATES[0])
    ]


def job_of(dataset: str, rate: str, seed: int, base: str, part: str, changes: dict[str, Any]) -> Job:
    own = {"base": base, "weight": BASES[base], "epochs": EPOCHS[dataset], "baseline": False, **changes}
    return Job("larvae", dataset, rate, "demo", seed, f"{base} {part}", own, "larvae.py")


def points(preset: str) -> list[tuple[str, float]]:
    """A curve's methods and values. A weight of 0 is the baseline."""
    if preset == "tau":
        return [(method, value) for method in ("printed", "ours") for value in TAUS]
    return [(method, size) for method in ("baseline", "printed", "ours") for size in NUISANCES]


def point(preset: str, method: str, value: float, seed: int) -> Job:
    """The run of a point of a curve; where the value is the example's own, the run of the method."""
    name = {"tau": "tau", "nuisance": "z"}[preset]
    own = value == vars(example("larvae").Settings.parse(None, []).for_data("room"))[name]
    part, changes = (method, {}) if own else (f"{method} {name} {value:g}", {name: value})
    return job_of("room", RATES[0], seed, "tc", part, {**METHODS[method], **changes})


def found(dataset: str, rate: str, base: str, method: str) -> dict[int, dict]:
    """The recorded runs, by seed."""
    of = [job_of(dataset, rate, seed, base, method, METHODS[method]) for seed in range(10)]
    return {job.seed: run for job in of if (run := job.result())}


def table() -> str:
    """A Markdown table: means over seeds, +- standard errors."""
    lines = [
        [dataset, base, rate, method, str(len(runs)), *(cell([*runs.values()], name) for name in MEASURES)]
        for dataset in DATASETS
        for base in BASES
        for rate in RATES
        for method in METHODS
        if (runs := found(dataset, rate, base, method))
    ]
    return markdown(["data", "base", "labels", "method", "seeds", *(m.replace("_", " ") for m in MEASURES)], lines)


def differences() -> str:
    """A Markdown table of what a method has more than the baseline on the same labelled images; the mean over seeds and
    its standard error, and in how many cells it is better by two of them or more."""
    lines, better = [], {}
    for dataset in DATASETS:
        for base in BASES:
            for rate in RATES:
                baseline = found(dataset, rate, base, "baseline")
                for method in list(METHODS)[1:]:
                    runs = found(dataset, rate, base, method)
                    seeds = sorted({*runs} & {*baseline})
                    if len(seeds) < 2:
                        continue
                    cells = []
                    for name in ("mig", "l2"):
                        more = [runs[seed][name] - baseline[seed][name] for seed in seeds]
                        error = statistics.stdev(more) / len(more) ** 0.5
                        gain = statistics.mean(more) * (1 if name in HIGHER else -1)
                        better.setdefault((dataset, method, name), []).append(gain >= 2 * error)
                        cells.append(mean_and_error(more))
                    lines.append([dataset, base, rate, method, str(len(seeds)), *cells])
    for (dataset, method, name), wins in better.items():
        lines.append([dataset, f"{name}: better in {sum(wins)} of {len(wins)} cells", "", method, "", "", ""])
    return markdown(["data", "base", "labels", "method", "pairs", "MIG", "l2"], lines)


def choices() -> str:
    """A Markdown table of what settings were chosen from."""
    lines = []
    of: dict[str, list[dict]] = {}
    for job in jobs("choice", range(10)):
        if run := job.result():
            of.setdefault(job.part, []).append(run)
    for part, runs in of.items():
        lines.append([part.replace(" choice", ""), str(len(runs)), *(cell(runs, m) for m in MEASURES)])
    return markdown(["held-out room, 1 %", "seeds", *(m.replace("_", " ") for m in MEASURES)], lines)


def curves() -> str:
    """A Markdown table of the curves."""
    lines = []
    for preset in CURVES:
        for method, value in points(preset):
            if runs := [run for seed in range(10) if (run := point(preset, method, value, seed).result())]:
                lines.append([preset, f"{value:g}", method, str(len(runs)), cell(runs, "mig"), cell(runs, "l2")])
    return markdown(["room, 1 %, beta-TCVAE", "value", "method", "seeds", "MIG", "l2"], lines)


# Of the example's own run, which has the baseline beside it.
EXAMPLE = {
    "MIG": "mig",
    "l2": "l2",
    "DCI (forests)": "dci",
    "SAP (continuous)": "sap",
    "FactorVAE's score": "factor_vae_score",
    "error of decode(true y)": "generation_error",
    "effect of a traversal (1 is as far as the label)": "effect",
    "leak of a traversal": "leak",
}


FACES = {
    "accuracy": "test_accuracy",
    "effect of a traversal": "effect",
    "leak of a traversal": "leak",
}


def example_table() -> str:
    """A Markdown table of the run of the example that is recorded, `python examples/larvae.py`."""
    run = recorded("larvae/example-room-seed0.json")
    lines = [[what, f"{run[f'baseline_{name}']:.3f}", f"{run[name]:.3f}"] for what, name in EXAMPLE.items() if run]
    return markdown(["room", "baseline (tau 0)", "LaRVAE, z from the prior, labels of generated images"], lines)


def faces_table() -> str:
    """A Markdown table of the recorded run of `python examples/larvae.py --dataset faces`."""
    run = recorded("larvae/example-faces-seed0.json")
    lines = [[what, f"{run[f'baseline_{name}']:.3f}", f"{run[name]:.3f}"] for what, name in FACES.items() if run]
    return markdown(["faces", "baseline (tau 0)", "LaRVAE"], lines)


def tables() -> list[str]:
    return [table(), differences(), choices(), curves(), example_table(), faces_table()]
