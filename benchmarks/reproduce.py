"""Reproduces the papers' tables, a run at a time, and prints them beside the papers' numbers.

python benchmarks/reproduce.py ccvae                                        # every run that is still missing
python benchmarks/reproduce.py ccvae --dataset mnist --rate 0.06 --seed 0   # one of them
python benchmarks/reproduce.py ccvae --preset paper                         # the same in the paper's exact setting
python benchmarks/reproduce.py ccvae --preset demo                          # the recipe taken apart, on held-out rows
python benchmarks/reproduce.py ccvae --table                                # the tables of what is there

A run is `examples/ccvae.py` with its flags; its metrics go to benchmarks/results/, one JSON file a run. A run that was
stopped goes on where it was, and one whose file is there, with the preset's settings of today, is not run again.
`--dry-run` lists the commands.
"""

from __future__ import annotations

import argparse
import datetime
import json
import runpy
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from pyro_semivae.files import write_json

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
EXAMPLE = runpy.run_path(str(ROOT / "examples" / "ccvae.py"))

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
MEASURES = ("test_accuracy", "generation_accuracy", "mutual_information")


# The recipe's short run with one of its parts taken out, on the last 10,000 training rows.
ABLATIONS = {
    "all": {},
    "exact marginal": {"marginal": "exact"},
    "classifier weight 1": {"alpha": 0.0},
    "beta 1": {"beta": 1.0},
    "no shifts": {"shift": 0},
    "z_c of 10": {"z_c": 10},
}
ABLATED = (("mnist", "0.004"), ("fashionmnist", "0.06"))


@dataclass(frozen=True)
class Job:
    """One run: its flags and where its result is kept. `part` is a key of `ABLATIONS`, or None for a table's run."""

    dataset: str
    rate: str
    seed: int
    preset: str
    part: str | None = None

    @property
    def path(self) -> Path:
        part = f"-{self.part.replace(' ', '-')}" if self.part else ""
        return RESULTS / "ccvae" / f"{self.dataset}-{self.rate}-{self.preset}{part}-seed{self.seed}.json"

    @property
    def changes(self) -> dict[str, object]:
        """What the run adds to the preset."""
        if self.part:
            return {**ABLATIONS[self.part], "hold_out": 10_000}
        return {"regulariser_weight": 5.0} if self.rate == "10" else {}  # REVAE D.2

    @property
    def settings(self) -> dict[str, object]:
        """The preset's settings, as the example has them now, and the changes."""
        return {**EXAMPLE["PRESETS"][self.preset], **self.changes}

    def result(self) -> dict | None:
        """What was recorded, if it was with these very settings."""
        recorded = json.loads(self.path.read_text()) if self.path.exists() else {}
        return recorded if recorded.get("settings") == self.settings else None

    def command(self, cuda: bool, out: Path) -> list[str]:
        flags = {"dataset": self.dataset, "labelled": self.rate, "seed": self.seed, "preset": self.preset, "out": out}
        flags |= {name.replace("_", "-"): value for name, value in self.changes.items()}
        listed = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
        return ["python", "examples/ccvae.py", *listed, "--resume", *(["--cuda"] if cuda else [])]

    def run(self, cuda: bool) -> None:
        out = Path("runs") / "reproduce" / self.path.stem
        command = self.command(cuda, out)
        subprocess.run([sys.executable, *command[1:]], check=True, cwd=ROOT)
        metrics = json.loads((ROOT / out / "metrics.json").read_text())
        self.path.parent.mkdir(parents=True, exist_ok=True)
        about = {"settings": self.settings, "command": " ".join(command), "date": datetime.date.today().isoformat()}
        write_json(self.path, {**metrics, **about})


def default_seeds(rate: str, preset: str) -> range:
    """Three seeds at the lowest rate, five draws of one image per class, one seed elsewhere."""
    if preset != "recipe":
        return range(1)
    return range({"0.004": 3, "10": 5}.get(rate, 1))


def jobs(args: argparse.Namespace) -> list[Job]:
    return [
        Job(dataset, rate, seed, args.preset, part)
        for dataset, rate in (ABLATED if args.preset == "demo" else PAPER)
        if args.dataset in (None, dataset) and args.rate in (None, rate)
        for seed in (default_seeds(rate, args.preset) if args.seed is None else [args.seed])
        for part in (ABLATIONS if args.preset == "demo" else [None])
    ]


def table(preset: str) -> str:
    """A Markdown table of the recorded runs: ours (mean over seeds, +- standard error) and the paper's."""
    head = ("data", "labelled", "preset", "seeds", "accuracy", "paper", "generation accuracy", "paper", "MI", "paper")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for (dataset, rate), paper in PAPER.items():
        runs = [run for seed in range(10) if (run := Job(dataset, rate, seed, preset).result())]
        if not runs:
            continue
        cells = [dataset, "10 images" if rate == "10" else rate, preset, str(len(runs))]
        for measure, theirs in zip(MEASURES, paper, strict=True):
            values = [run[measure] for run in runs]
            error = f" ± {statistics.stdev(values) / len(values) ** 0.5:.3f}" if len(values) > 1 else ""
            cells += [f"{statistics.mean(values):.3f}{error}", "" if theirs is None else f"{theirs:.3f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def ablation_table() -> str:
    """A Markdown table of the recipe's short run and of its parts taken out: accuracies on held-out rows."""
    head = [f"{dataset} {rate}: {what}" for dataset, rate in ABLATED for what in ("accuracy", "generation accuracy")]
    lines = [f"| | {' | '.join(head)} |", "|---" * (1 + len(head)) + "|"]
    for part in ABLATIONS:
        cells = []
        for dataset, rate in ABLATED:
            run = Job(dataset, rate, 0, "demo", part).result()
            cells += [f"{run[measure]:.3f}" if run else "" for measure in MEASURES[:2]]
        lines.append(f"| {part} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=["ccvae"])
    parser.add_argument("--dataset", choices=sorted({dataset for dataset, _ in PAPER}))
    parser.add_argument("--rate", choices=sorted({rate for _, rate in PAPER}), help="0.004 ... 1.0, or 10 images")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--preset", default="recipe", choices=["recipe", "paper", "demo"])
    parser.add_argument("--cuda", action="store_true")
    parser.add_argument("--table", action="store_true", help="print the tables of recorded runs")
    parser.add_argument("--dry-run", action="store_true", help="list the runs that are missing")
    args = parser.parse_args()
    if args.table:
        print(table("recipe"), table("paper"), ablation_table(), sep="\n\n")
        return
    missing = [job for job in jobs(args) if job.result() is None]
    print(f"{len(missing)} runs to do", flush=True)
    for job in missing:
        print(job.path.name, flush=True)
        if not args.dry_run:
            job.run(args.cuda)


if __name__ == "__main__":
    main()
