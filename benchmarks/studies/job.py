"""A run of an example that a table is made of, and the table's cells."""

from __future__ import annotations

import datetime
import json
import runpy
import statistics
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from pyro_semivae.cli import COMPARED
from pyro_semivae.files import write_json

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
PRESETS = ("recipe", "demo")
RATES = ("0.004", "0.06", "0.2", "1.0")


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
    def model(self) -> str:
        return Path(self.script).stem

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
        listed = [word for name, value in flags.items() for word in _words(name, value)]
        return ["python", f"examples/{self.script}", *listed, "--resume", *(["--cuda"] if cuda else [])]

    def run(self, cuda: bool) -> None:
        out = Path("runs") / "reproduce" / self.study / self.path.stem
        command = self.command(cuda, out)
        subprocess.run([sys.executable, *command[1:]], check=True, cwd=ROOT)
        metrics = json.loads((ROOT / out / "metrics.json").read_text())
        self.path.parent.mkdir(parents=True, exist_ok=True)
        about = {"settings": self.settings, "command": " ".join(command), "date": datetime.date.today().isoformat()}
        write_json(self.path, {**metrics, **about})


def _words(name: str, value: Any) -> list[str]:
    return [f"--{name}"] if value is True else [f"--{name}", str(value)]


@cache
def _presets(script: str) -> dict[str, dict[str, Any]]:
    """The presets of an example: its own, or those of the models that CCVAE is compared with."""
    return runpy.run_path(str(ROOT / "examples" / script)).get("PRESETS", COMPARED)


def mean_and_error(values: Iterable[float]) -> str:
    """The mean, and with several values its standard error."""
    values = list(values)
    digits = 0 if abs(statistics.mean(values)) >= 100 else 3
    error = f" ± {statistics.stdev(values) / len(values) ** 0.5:.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{error}"


def markdown(head: list[str], lines: list[list[str]]) -> str:
    """A table, or nothing where there are no lines."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *lines]) if lines else ""
