"""Reproduces the papers' tables, a run at a time, and prints them beside the papers' numbers.

python benchmarks/reproduce.py ccvae                                        # every run that is still missing
python benchmarks/reproduce.py ccvae --dataset mnist --rate 0.06 --seed 0   # one of them
python benchmarks/reproduce.py ccvae --preset paper                         # the same in the paper's exact setting
python benchmarks/reproduce.py ccvae --preset demo                          # the recipe taken apart, on held-out rows
python benchmarks/reproduce.py ccvae --preset split                         # the recipe with 4 + 10 latents
python benchmarks/reproduce.py ccvae --preset consistency                   # what it does without
python benchmarks/reproduce.py faces                                        # 18 labels, three bounds
python benchmarks/reproduce.py labels                                       # CCVAE, M2, M3, DIVA, MVAE side by side
python benchmarks/reproduce.py ccvae --table                                # the tables of what is there

A run is an example with its flags; its metrics go to benchmarks/results/, one JSON file a run. A run that was stopped
goes on where it was, and one whose file is there, with the preset's settings of today, is not run again. `--dry-run`
lists the runs that are missing.
"""

from __future__ import annotations

import argparse
import datetime
import json
import runpy
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from pyro_semivae.cli import COMPARED
from pyro_semivae.files import write_json

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"


@dataclass(frozen=True)
class Job:
    """One run of an example: a study's data set, rate of labels and preset, a seed, and flags that change the preset.

    `part` names what `changes` do to the preset, for the file.
    """

    study: str
    dataset: str
    rate: str
    preset: str
    seed: int
    part: str = ""
    changes: dict[str, Any] = field(default_factory=dict)
    script: str = "ccvae.py"

    @property
    def path(self) -> Path:
        part = f"-{self.part.replace(' ', '-')}" if self.part else ""
        return RESULTS / self.study / f"{self.dataset}-{self.rate}-{self.preset}{part}-seed{self.seed}.json"

    @property
    def settings(self) -> dict[str, Any]:
        """The preset's settings for this data set, as the example has them now, and the changes."""
        settings = {**_presets(self.script)[self.preset], **self.changes}
        return {k: v.get(self.dataset, v["*"]) if isinstance(v, dict) else v for k, v in settings.items()}

    def result(self) -> dict | None:
        """What was recorded, if it was with these very settings."""
        recorded = json.loads(self.path.read_text()) if self.path.exists() else {}
        return recorded if recorded.get("settings") == self.settings else None

    def command(self, cuda: bool, out: Path) -> list[str]:
        flags = {"dataset": self.dataset, "labelled": self.rate, "seed": self.seed, "preset": self.preset, "out": out}
        flags |= {name.replace("_", "-"): value for name, value in self.changes.items()}
        listed = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
        return ["python", f"examples/{self.script}", *listed, "--resume", *(["--cuda"] if cuda else [])]

    def run(self, cuda: bool) -> None:
        out = Path("runs") / "reproduce" / self.study / self.path.stem
        command = self.command(cuda, out)
        subprocess.run([sys.executable, *command[1:]], check=True, cwd=ROOT)
        metrics = json.loads((ROOT / out / "metrics.json").read_text())
        self.path.parent.mkdir(parents=True, exist_ok=True)
        about = {"settings": self.settings, "command": " ".join(command), "date": datetime.date.today().isoformat()}
        write_json(self.path, {**metrics, **about})


@cache
def _presets(script: str) -> dict[str, dict[str, Any]]:
    """The presets of an example: its own, or those of the models that CCVAE is compared with."""
    return runpy.run_path(str(ROOT / "examples" / script)).get("PRESETS", COMPARED)


# CCVAE, Tables 6 and 7: test accuracy, generation accuracy, mutual information of generations.
CCVAE = {
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
CCVAE_MEASURES = {
    "test_accuracy": "accuracy",
    "generation_accuracy": "generation accuracy",
    "mutual_information": "MI",
}
CLEAN = "test_accuracy_clean"  # the guide without the noise that it was trained with
# The recipe's short run with one of its parts taken out, on the last 10,000 training rows.
ABLATIONS = {
    "all": {},
    "exact marginal": {"marginal": "exact"},
    "classifier weight 1": {"alpha": 0.0},
    "beta 1": {"beta": 1.0},
    "no noise": {"shift": 0, "dropout": 0.0},
    "last weights": {"average": 0.0},
    "z_c of 10": {"z_c": 10},
}
ABLATED = (("mnist", "0.004"), ("fashionmnist", "0.06"))
# The recipe with a change: a consistency term, which it does without; and REVAE's split of the latents, beside
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


def ccvae_job(dataset: str, rate: str, preset: str, seed: int) -> Job:
    if rate != "10":
        return Job("ccvae", dataset, rate, preset, seed)
    # One image per class: the paper's regulariser; the recipe's preset for so few labels.
    changes = {"regulariser": 5.0} if preset == "paper" else {}
    return Job("ccvae", dataset, rate, "few" if preset == "recipe" else preset, seed, changes=changes)


def ccvae_jobs(preset: str, seeds: Sequence[int] | None) -> list[Job]:
    """Three seeds at the lowest rate, five draws of one image per class, one seed elsewhere and of other presets."""
    if preset == "demo":
        held_out = {"hold_out": 10_000}
        return [
            Job("ccvae", dataset, rate, preset, seed, part, {**changes, **held_out})
            for dataset, rate in ABLATED
            for seed in seeds or [0]
            for part, changes in ABLATIONS.items()
        ]
    if preset in VARIANTS:
        rows, changes = VARIANTS[preset]
        return [Job("ccvae", *row, "recipe", seed, preset, changes) for row in rows for seed in seeds or [0]]
    many = {"0.004": 3, "10": 5} if preset == "recipe" else {}
    return [
        ccvae_job(dataset, rate, preset, seed) for dataset, rate in CCVAE for seed in seeds or range(many.get(rate, 1))
    ]


def table(preset: str) -> str:
    """A Markdown table of CCVAE's recorded runs: ours (mean over seeds, +- standard error) and the paper's."""
    papers = SPLIT if preset == "split" else CCVAE
    head = ["data", "labelled", "preset", "seeds", "without noise"]
    head += [name for title in CCVAE_MEASURES.values() for name in (title, "paper")]
    lines = []
    for (dataset, rate), paper in papers.items():
        jobs = [job for job in ccvae_jobs(preset, range(10)) if (job.dataset, job.rate) == (dataset, rate)]
        runs = [run for job in jobs if (run := job.result())]
        if runs:
            label = "10 images" if rate == "10" else rate
            cells = [dataset, label, " ".join(filter(None, [jobs[0].preset, jobs[0].part])), str(len(runs))]
            cells.append(mean_and_error(run[CLEAN] for run in runs))
            for measure, theirs in zip(CCVAE_MEASURES, paper, strict=True):
                cells += [mean_and_error(run[measure] for run in runs), "" if theirs is None else f"{theirs:.3f}"]
            lines.append(cells)
    return markdown(head, lines)


def consistency_table() -> str:
    """A Markdown table of the recipe with and without a consistency term: test accuracy, generation accuracy."""
    lines = []
    for job in ccvae_jobs("consistency", None):
        runs = [job.result(), ccvae_job(job.dataset, job.rate, "recipe", job.seed).result()]
        if all(runs):
            measured = [f"{run[measure]:.3f}" for measure in list(CCVAE_MEASURES)[:2] for run in runs]
            lines.append([job.dataset, job.rate, *measured])
    head = ["data", "labelled", "accuracy, consistency", "recipe", "generation accuracy, consistency", "recipe"]
    return markdown(head, lines)


def ablation_table() -> str:
    """A Markdown table of the recipe's short run and of its parts taken out: accuracies on held-out rows."""
    measures = list(CCVAE_MEASURES)[:2]
    head = ["", *(f"{data} {rate}: {CCVAE_MEASURES[m]}" for data, rate in ABLATED for m in measures)]
    found = {(job.dataset, job.part): job.result() for job in ccvae_jobs("demo", None)}
    lines = []
    for part in ABLATIONS:
        runs = [found[dataset, part] for dataset, _ in ABLATED]
        if any(runs):
            lines.append([part, *(f"{run[m]:.3f}" if run else "" for run in runs for m in measures)])
    return markdown(head, lines)


# Faces: the measures of CCVAE's Tables 1 and 2, Figs. 10 and 12, and ours, for the bound's three marginals.
MARGINALS = ("exact", "jensen", "sampled")
RATES = ("0.004", "0.06", "0.2", "1.0")
FACES_MEASURES = {
    "test_accuracy": "accuracy",
    "generation_accuracy": "generation accuracy",
    "mutual_information": "MI",
    "swap_difference": "swap difference",
    "intervention_condition_number": "condition number",
    "intervention_selectivity": "selectivity",
    "capture_own": "capture",
    "capture_others": "by others",
}


def faces_parts(rate: str) -> dict[str, dict[str, Any]]:
    """The three marginals; at 6 % of the labels also partly labelled rows, used or dropped."""
    parts = {marginal: {"marginal": marginal} for marginal in MARGINALS}
    return parts | {f"partly {what}": {"partly": what} for what in ("keep", "drop") if rate == "0.06"}


def faces_jobs(preset: str, seeds: Sequence[int] | None) -> list[Job]:
    return [
        Job("faces", "faces", rate, preset, seed, part, changes)
        for rate in RATES
        for part, changes in faces_parts(rate).items()
        for seed in seeds or [0]
    ]


def faces_table(preset: str) -> str:
    """A Markdown table of the recorded runs on faces."""
    head, lines = ["labelled", "", "seeds", *FACES_MEASURES.values()], []
    found: dict[tuple[str, str], list[dict]] = {}
    for job in faces_jobs(preset, range(10)):
        if run := job.result():
            found.setdefault((job.rate, job.part), []).append(_with_capture(run))
    for (rate, part), runs in found.items():
        cells = [mean_and_error(run[measure] for run in runs) for measure in FACES_MEASURES]
        lines.append([rate, part, str(len(runs)), *cells])
    return markdown(head, lines)


def _with_capture(run: dict) -> dict:
    capture = run["characteristic_capture"]
    return {**run, "capture_own": capture["own_nonlinear"], "capture_others": capture["others_nonlinear"]}


# The label family side by side: every model on every data set. CCVAE's Tables 6 and 7 have M2's accuracies.
FAMILY = ("ccvae", "m2", "m3", "diva", "mvae")
M2_ACCURACIES = {
    "mnist": dict(zip(RATES, (0.918, 0.962, 0.968, 0.981), strict=True)),
    "fashionmnist": dict(zip(RATES, (0.756, 0.848, 0.860, 0.892), strict=True)),
}
# REVAE's Tables 1 and 2 have M3 on FashionMNIST: accuracy and generation accuracy.
M3_ACCURACIES = {"0.004": (0.22, 0.19), "0.06": (0.34, 0.27), "0.2": (0.31, 0.21)}


def labels_jobs(preset: str, seeds: Sequence[int] | None) -> list[Job]:
    return [
        Job("labels", dataset, rate, preset, seed, model, script=f"{model}.py")
        for dataset in ("mnist", "fashionmnist", "faces")
        for rate in RATES
        for model in FAMILY
        for seed in seeds or [0]
    ]


def labels_table(dataset: str, preset: str) -> str:
    """A Markdown table of one data set: the models' measures, and the papers' accuracies where they have any."""
    measures = FACES_MEASURES if dataset == "faces" else {**CCVAE_MEASURES}
    head, lines = ["labelled", "model", "seeds", *measures.values(), "paper's accuracy"], []
    found: dict[tuple[str, str], list[dict]] = {}
    for job in labels_jobs(preset, range(10)):
        if job.dataset == dataset and (run := job.result()):
            found.setdefault((job.rate, job.part), []).append(_with_capture(run) if dataset == "faces" else run)
    for (rate, model), runs in found.items():
        cells = [mean_and_error(run[measure] for run in runs) if measure in runs[0] else "" for measure in measures]
        lines.append([rate, model, str(len(runs)), *cells, _papers_accuracy(dataset, rate, model)])
    return markdown(head, lines)


def _papers_accuracy(dataset: str, rate: str, model: str) -> str:
    theirs = None
    if model == "ccvae" and (dataset, rate) in CCVAE:
        theirs = CCVAE[dataset, rate][0]
    if model == "m2" and dataset in M2_ACCURACIES:
        theirs = M2_ACCURACIES[dataset][rate]
    if model == "m3" and dataset == "fashionmnist":
        theirs = M3_ACCURACIES.get(rate, (None,))[0]
    return "" if theirs is None else f"{theirs:.3f}"


def mean_and_error(values: Iterable[float]) -> str:
    """The mean, and with several values its standard error."""
    values = list(values)
    error = f" ± {statistics.stdev(values) / len(values) ** 0.5:.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{error}"


def markdown(head: list[str], lines: list[list[str]]) -> str:
    """A table, or nothing where there are no lines."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *lines]) if lines else ""


STUDIES = {"ccvae": ccvae_jobs, "faces": faces_jobs, "labels": labels_jobs}
PRESETS = ("recipe", "demo")
TABLES = {
    "ccvae": lambda: [table("recipe"), table("paper"), table("split"), consistency_table(), ablation_table()],
    "faces": lambda: [faces_table("recipe"), faces_table("demo")],
    "labels": lambda: [labels_table(data, preset) for data in ("mnist", "fashionmnist", "faces") for preset in PRESETS],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--dataset", choices=["mnist", "fashionmnist", "faces"])
    parser.add_argument("--rate", choices=[*RATES, "10"], help="10: images, one a class")
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--part", help="of a study's jobs: a marginal, a model ...")
    parser.add_argument("--preset", default="recipe", choices=["recipe", "paper", "demo", *VARIANTS])
    parser.add_argument("--cuda", action="store_true")
    parser.add_argument("--table", action="store_true", help="print the tables of recorded runs")
    parser.add_argument("--dry-run", action="store_true", help="list the runs that are missing")
    args = parser.parse_args()
    if args.table:
        print(*filter(None, TABLES[args.study]()), sep="\n\n")
        return
    jobs = STUDIES[args.study](args.preset, args.seeds)
    missing = [
        job
        for job in jobs
        if args.dataset in (None, job.dataset) and args.rate in (None, job.rate) and args.part in (None, job.part)
        if job.result() is None
    ]
    print(f"{len(missing)} runs to do", flush=True)
    for job in missing:
        print(job.path.name, flush=True)
        if not args.dry_run:
            job.run(args.cuda)


if __name__ == "__main__":
    main()
