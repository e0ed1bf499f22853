"""What every script of `benchmarks/peers.py` does: read data and settings, train an epoch when told to, report.

It needs numpy alone, because the peers' environments do not contain this library.
"""

from __future__ import annotations

import json
import re
import resource
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np


class Turns:
    """One side of a comparison: epochs in turns with the other sides.

    The script is called with a folder, which contains `data.npz`, and with settings as JSON. It waits for a line on its
    standard input before each epoch, and answers each with one line of JSON. What a package prints goes to the standard
    error.
    """

    def __init__(self) -> None:
        self.out, sys.stdout = sys.stdout, sys.stderr
        self.settings: dict[str, Any] = json.loads(sys.argv[2])
        self.data: dict[str, np.ndarray] = dict(np.load(Path(sys.argv[1]) / "data.npz"))
        self.start, self.imports = 0.0, peak_memory()

    def wait(self) -> None:
        """Waits for the turn and starts the clock."""
        if not sys.stdin.readline():
            sys.exit()
        self.start = time.perf_counter()

    def done(self) -> None:
        """Reports the seconds since the turn began."""
        self._say({"seconds": time.perf_counter() - self.start})

    def finish(self, *, accuracy: float, parameters: int, packages: list[str]) -> None:
        """Reports what was trained, and this process's peak memory."""
        versions = {name: version(name) for name in packages}
        memory = {"peak_mb": peak_memory(), "imports_mb": self.imports}
        self._say({"accuracy": accuracy, "parameters": parameters, "versions": versions, **memory})

    def _say(self, what: dict[str, Any]) -> None:
        print(json.dumps(what), file=self.out, flush=True)


def peak_memory() -> float:
    """The largest resident memory of this process so far, in MB (10^6 bytes).

    On Linux `ru_maxrss` also counts the process from which this one was started, so that `VmHWM` is used there.
    """
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.is_file() else None
    if found:
        return int(found[1]) * 1024 / 1e6
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 1e6 if sys.platform == "darwin" else most * 1024 / 1e6
