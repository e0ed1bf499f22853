"""A run of an example that a table is made of, and the table's cells."""

from __future__ import annotations

import datetime
import hashlib
import json
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from pyro_semivae.files import write_json

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
PRESETS = ("recipe", "recipe-1", "demo")
RATES = ("0.004", "0.06", "0.2", "1.0")
# Flags that say which run it is, or where, and a preset's name; all others are settings.
NO_SETTINGS = {"dataset", "labelled", "seed", "preset", "out", "data_dir"}
NO_SETTINGS |= {"cuda", "compile", "resume", "overwrite", "smoke_test"}
# What runs had of weights whose flags came later.
ADDED = {"tau": 0.0, "generated": 0.0, "style": 0.0, "independence": 0.0}


@dataclass(frozen=True)
class Job:
    """One run of an example: a study's data set, rate of labels (None: no such flag) and preset, a seed, and flags that
    change the preset.

    `part` names what `changes` do to the preset, for the file.
    """

    study: str
    dataset: str
    rate: str | None
    preset: str
    seed: int
    part: str = ""
    changes: dict[str, Any] = field(default_factory=dict)
    script: str = "ccvae.py"

    @property
    def path(self) -> Path:
        parts = [self.dataset, self.rate, self.preset, self.part.replace(" ", "-"), f"seed{self.seed}"]
        return RESULTS / self.study / f"{'-'.join(filter(None, parts))}.json"

    @property
    def model(self) -> str:
        return Path(self.script).stem

    @property
    def flags(self) -> list[str]:
        """The example's flags that make it this run."""
        flags = {"dataset": self.dataset, "seed": self.seed, "preset": self.preset}
        flags |= {} if self.rate is None else {"labelled": self.rate}
        switched = example(self.model).Settings.defaults()  # a switch that is off has a flag where it is on by default
        changes = {n: v for n, v in self.changes.items() if not (v is False and switched[n] is not True)}
        flags |= {name.replace("_", "-"): value for name, value in changes.items()}
        return [word for name, value in flags.items() for word in _words(name, value)]

    @property
    def settings(self) -> dict[str, Any]:
        """All that the example does for these flags, as it is now: by flag."""
        settings = example(self.model).Settings.parse(None, self.flags).for_data(self.dataset)
        return {name: value for name, value in vars(settings).items() if name not in NO_SETTINGS}

    def result(self) -> dict | None:
        """What was recorded, if all the settings that were recorded with it are today's, those of flags that came later
        among them."""
        if not self.path.exists():
            return None
        recorded, now = json.loads(self.path.read_text()), self.settings
        then = {name: value for name, value in ADDED.items() if name in now}
        then |= {name: value for name, value in recorded["settings"].items() if name not in NO_SETTINGS}
        return recorded if {**now, **then} == now else None

    def run(self, cuda: bool, *, quiet: bool = False) -> None:
        """Runs the example, or goes on with it, and records what it measured; quiet: its output goes to a file.

        Raises:
            subprocess.CalledProcessError: it failed.
        """
        digest = hashlib.sha256(json.dumps(self.settings).encode()).hexdigest()[:8]  # other settings start afresh
        out = Path("runs") / "reproduce" / self.study / f"{self.path.stem}-{digest}"
        command = ["python", f"examples/{self.script}", *self.flags, "--out", str(out), "--resume"]
        command += ["--cuda"] if cuda else []
        if quiet:
            (ROOT / out).mkdir(parents=True, exist_ok=True)
        with open(ROOT / out / "log.txt", "w") if quiet else nullcontext() as log:
            subprocess.run([sys.executable, *command[1:]], check=True, cwd=ROOT, stdout=log, stderr=log)
        metrics = json.loads((ROOT / out / "metrics.json").read_text())
        self.path.parent.mkdir(parents=True, exist_ok=True)
        about = {"settings": self.settings, "command": " ".join(command), "date": datetime.date.today().isoformat()}
        write_json(self.path, {**metrics, **about})


def recorded(name: str) -> dict[str, Any]:
    """What a file of `benchmarks/results` says, nothing if there is none."""
    path = RESULTS / name
    return json.loads(path.read_text()) if path.exists() else {}


def _words(name: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    return [f"--{name}", *map(str, value if isinstance(value, list) else [value])]


def example(name: str) -> ModuleType:
    """The module of an example's script."""
    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))
    return import_module(f"examples.{name}")


# From which version of the measures on (`report.MEASURES`) values of a measure compare; others from the first one.
SINCE = {"mutual_information": 2}


def cell(runs: Sequence[dict], measure: str) -> str:
    """The mean of a measure over runs, +- its standard error; empty where a run lacks it, "-" where its value is of an
    older version of the measures and does not compare with today's."""
    if any(measure not in run for run in runs):
        return ""
    if any(run["measures"] < SINCE.get(measure, 1) for run in runs):
        return "-"
    return mean_and_error(run[measure] for run in runs)


def mean_and_error(values: Iterable[float], digits: int | None = None) -> str:
    """The mean, and with several values its standard error; with three digits, or none from 100 on."""
    values = list(values)
    if digits is None:
        digits = 0 if abs(statistics.mean(values)) >= 100 else 3
    error = f" ± {statistics.stdev(values) / len(values) ** 0.5:.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{error}"


def markdown(head: list[str], lines: list[list[str]]) -> str:
    """A table, or nothing where there are no lines."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *lines]) if lines else ""
