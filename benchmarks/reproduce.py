"""Reproduces the papers' tables, a run at a time, and prints them beside the papers' numbers.

python benchmarks/reproduce.py ccvae                                        # every run that is still missing
python benchmarks/reproduce.py ccvae --dataset mnist --rate 0.06 --seed 0   # one of them
python benchmarks/reproduce.py ccvae --preset paper                         # the same in the paper's exact setting
python benchmarks/reproduce.py ccvae --table                                # the table of what is there

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


@dataclass(frozen=True)
class Job:
    """One run: its flags and where its result is kept."""

    dataset: str
    rate: str
    seed: int
    preset: str

    @property
    def path(self) -> Path:
        return RESULTS / "ccvae" / f"{self.dataset}-{self.rate}-{self.preset}-seed{self.seed}.json"

    @property
    def settings(self) -> dict[str, object]:
        """The preset's settings, as the example has them now; REVAE D.2 adds its regulariser."""
        return {**EXAMPLE["PRESETS"][self.preset], **({"regulariser_weight": 5.0} if self.rate == "10" else {})}

    def done(self) -> bool:
        """Whether there is a result, of these very settings."""
        return self.path.exists() and json.loads(self.path.read_text())["settings"] == self.settings

    def command(self, cuda: bool) -> list[str]:
        work = ROOT / "runs" / "reproduce" / self.path.stem
        flags = {"dataset": self.dataset, "labelled": self.rate, "seed": self.seed, "preset": self.preset, "out": work}
        if self.rate == "10":
            flags["regulariser-weight"] = self.settings["regulariser_weight"]
        listed = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
        return [sys.executable, str(ROOT / "examples" / "ccvae.py"), *listed, "--resume", *(["--cuda"] if cuda else [])]

    def run(self, cuda: bool) -> None:
        command = self.command(cuda)
        subprocess.run(command, check=True)
        metrics = json.loads((Path(command[command.index("--out") + 1]) / "metrics.json").read_text())
        self.path.parent.mkdir(parents=True, exist_ok=True)
        shown = " ".join(["python", "benchmarks/reproduce.py", "ccvae", "--dataset", self.dataset, "--rate", self.rate])
        shown += f" --seed {self.seed} --preset {self.preset}{' --cuda' if cuda else ''}"
        date = datetime.date.today().isoformat()
        write_json(self.path, {**metrics, "settings": self.settings, "command": shown, "date": date})


def default_seeds(rate: str, preset: str) -> range:
    """Three seeds at the lowest rate, five draws of one image per class, one seed elsewhere."""
    if preset == "paper":
        return range(1)
    return range({"0.004": 3, "10": 5}.get(rate, 1))


def jobs(args: argparse.Namespace) -> list[Job]:
    return [
        Job(dataset, rate, seed, args.preset)
        for dataset, rate in PAPER
        if args.dataset in (None, dataset) and args.rate in (None, rate)
        for seed in (default_seeds(rate, args.preset) if args.seed is None else [args.seed])
    ]


def table(preset: str) -> str:
    """A Markdown table of the recorded runs: ours (mean over seeds, +- standard error) and the paper's."""
    head = ("data", "labelled", "preset", "seeds", "accuracy", "paper", "generation accuracy", "paper", "MI", "paper")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for (dataset, rate), paper in PAPER.items():
        paths = sorted((RESULTS / "ccvae").glob(f"{dataset}-{rate}-{preset}-seed*.json"))
        if not paths:
            continue
        runs = [json.loads(path.read_text()) for path in paths]
        cells = [dataset, "10 images" if rate == "10" else rate, preset, str(len(runs))]
        for measure, theirs in zip(MEASURES, paper, strict=True):
            values = [run[measure] for run in runs]
            error = f" ± {statistics.stdev(values) / len(values) ** 0.5:.3f}" if len(values) > 1 else ""
            cells += [f"{statistics.mean(values):.3f}{error}", "" if theirs is None else f"{theirs:.3f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=["ccvae"])
    parser.add_argument("--dataset", choices=sorted({dataset for dataset, _ in PAPER}))
    parser.add_argument("--rate", choices=sorted({rate for _, rate in PAPER}), help="0.004 ... 1.0, or 10 images")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--preset", default="recipe", choices=["recipe", "paper"])
    parser.add_argument("--cuda", action="store_true")
    parser.add_argument("--table", action="store_true", help="print the table of recorded runs")
    parser.add_argument("--dry-run", action="store_true", help="list the runs that are missing")
    args = parser.parse_args()
    if args.table:
        print(table(args.preset))
        return
    missing = [job for job in jobs(args) if not job.done()]
    print(f"{len(missing)} runs to do", flush=True)
    for job in missing:
        print(" ".join(job.command(args.cuda)), flush=True)
        if not args.dry_run:
            job.run(args.cuda)


if __name__ == "__main__":
    main()
