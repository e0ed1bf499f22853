"""Seconds per epoch and peak memory of other packages' semi-supervised VAEs beside ours, on the same data, with the
same networks, batch size, labels and number of passes.

python benchmarks/peers.py [--peers pyro,pyroved] [--rows 6000] [--out benchmarks/results/peers-cpu.json]

Each side of a comparison is a process of its own, which does only this training; epochs of the sides alternate, so that
other load slows all. Ours are M2 and MVAE in `fit`, with and without the compiled step. The others:

pyro       M2 as Pyro's example of a semi-supervised VAE writes it (our own code), with and without Pyro's checks
pyroved    pyroVED's `ssiVAE` without invariances, which is M2, in its `auxSVItrainer`
rotated    pyroVED's `ssiVAE` with rotations, and M2 with the same decoder; 2 % of the rows, batches of 20
multivae   MultiVae's `MVAE` of image and label, in the loop of its trainer without logs and checkpoints

Packages are installed into an environment each, `--environments FOLDER/<package>`, which is kept; a package that cannot
be installed or fails is recorded as such. pythae is compared by `step_pythae.py`.

The rows of a batch differ. The others' M2 alternates batches of labelled and of unlabelled rows; ours has both in each
batch, in the proportion of the data. An epoch is one pass through all rows, in as many batches, on each side.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from speed import about

from pyro_semivae import data
from pyro_semivae.caches import cache_folder
from pyro_semivae.files import write_json

SCRIPTS = Path(__file__).parent / "peer_scripts"


@dataclass(frozen=True)
class Peer:
    """A comparison.

    Attributes:
        model: ours, see `peer_scripts/ours.py`.
        script, sides: the peer's script, and the settings of each of its sides by name.
        package: the folder of its environment; None: the current one. requires: what is installed into it.
        z, hidden: the latents' size and the hidden layers of each network.
        weight: of the classifier's term, or of log p(y|z).
        warm_up: whether beta rises from 0 to 1 in all epochs but the last (an MVAE otherwise leaves z unused at first).
        share: the part of `--rows` that is used. batch_size: rows per batch.
    """

    model: str
    script: str
    sides: dict[str, dict[str, Any]] = field(default_factory=lambda: {"theirs": {}})
    package: str | None = None
    requires: tuple[str, ...] = ()
    z: int = 20
    hidden: tuple[int, ...] = (600, 600)
    weight: float = 20.0
    warm_up: bool = False
    share: float = 1.0
    batch_size: int = 200


PYROVED = {"script": "pyroved_ssivae.py", "package": "pyroved", "requires": ("pyroved==0.3.0",)}
PEERS = {
    "pyro": Peer("m2", "pyro_example.py", {"theirs": {"validation": True}, "theirs, unchecked": {"validation": False}}),
    "pyroved": Peer("m2", sides={"theirs": {"invariances": None}}, **PYROVED),
    "rotated": Peer(
        "rotated",
        sides={"theirs": {"invariances": ["r"]}},
        z=10,
        hidden=(64, 64),
        share=0.02,
        batch_size=20,
        **PYROVED,
    ),
    "multivae": Peer(
        "mvae", "multivae_mvae.py", package="multivae", requires=("multivae==1.0.3",), weight=10.0, warm_up=True
    ),
}
OURS = {"compiled": {"compile": "on"}, "handlers": {"compile": "off"}}


def environment(peer: Peer, folder: Path) -> Path:
    """The Python of a peer's environment, which is made if it does not exist.

    Raises:
        subprocess.CalledProcessError: the package cannot be installed.
    """
    if peer.package is None:
        return Path(sys.executable)
    at = folder / peer.package
    python = at / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    done = at / "installed.txt"
    if not (python.exists() and done.exists() and done.read_text().split() == [*peer.requires]):
        print(f"installing {' '.join(peer.requires)} into {at}", flush=True)
        venv.create(at, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *peer.requires], check=True)
        done.write_text("\n".join(peer.requires))
    return python


class Side:
    """A process that trains an epoch when told to.

    Raises:
        RuntimeError: (all methods) it has ended, or says something other than JSON.
    """

    def __init__(self, python: Path, script: str, folder: Path, settings: dict[str, Any], log: Path):
        self.log = log
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH" or script == "ours.py"}
        if script == "ours.py":
            kept["PYTHONPATH"] = os.pathsep.join(filter(None, (str(SCRIPTS.parents[1]), kept.get("PYTHONPATH"))))
        command = [str(python), str(SCRIPTS / script), str(folder), json.dumps(settings)]
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, bufsize=1, env=kept
            )

    def epoch(self) -> float:
        """Seconds of one epoch."""
        with contextlib.suppress(BrokenPipeError):  # the answer will say so
            self.process.stdin.write("go\n")
        return self.answer()["seconds"]

    def answer(self) -> dict[str, Any]:
        """The next line that the process prints."""
        line = self.process.stdout.readline()
        try:
            return json.loads(line)
        except json.JSONDecodeError as error:
            lines = self.log.read_text().strip().splitlines() or ["no message"]
            raise RuntimeError(lines[-1]) from error

    def end(self) -> None:
        """Ends the process."""
        self.process.kill()
        self.process.communicate()


def load(name: str, rows: int, labelled: float, seed: int = 0) -> dict[str, np.ndarray]:
    """The first rows of a data set in a random order, uint8 `(N, C, H, W)`, their classes, the indices of the labelled
    rows, and 2,000 test rows."""
    found = data.load(name, download=False)
    order = torch.randperm(len(found.x), generator=torch.Generator().manual_seed(seed))[:rows]
    x, y = found.x[order], found.y[order]
    arrays = {"x": x, "y": y, "labelled": data.labelled_rows(y, round(labelled * len(y)), seed)}
    arrays |= {"x_test": found.x_test[:2000], "y_test": found.y_test[:2000]}
    return {name: values.numpy() for name, values in arrays.items()}


def data_set(name: str) -> str:
    """`name`, or for "auto" MNIST if it is on disk and the built-in digits otherwise."""
    if name != "auto":
        return name
    try:
        data.load("mnist", download=False)
    except FileNotFoundError as error:
        print(f"using the built-in digits: {error}", flush=True)
        return "digits"
    return "mnist"


def compare(
    peer: Peer, arrays: dict[str, np.ndarray], epochs: int, python: Path, *, lr: float = 1e-3
) -> dict[str, dict[str, Any]]:
    """What each side reports: the median time of an epoch, without the first, and accuracy, parameters and memory.

    A side that fails has "failed", the last line of its messages, in place of these.
    """
    shared = {name: getattr(peer, name) for name in ("hidden", "z", "weight", "batch_size")}
    shared |= {"epochs": epochs + 1, "warm_up": peer.warm_up * (epochs + 1), "lr": lr}
    sides: dict[str, Side] = {}
    times: dict[str, list[float]] = {}
    reports: dict[str, dict[str, Any]] = {}

    def attempt(name: str, what: Callable[[], Any]) -> Any:
        if "failed" in reports.get(name, {}):
            return None
        try:
            return what()
        except RuntimeError as error:
            reports[name] = {"failed": str(error)}
            return None

    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "data.npz", **arrays)
        try:
            for name, own in (peer.sides | OURS).items():
                ours = name in OURS
                settings = {**shared, **own, **({"model": peer.model} if ours else {})}
                script, runs = ("ours.py", Path(sys.executable)) if ours else (peer.script, python)
                sides[name] = Side(runs, script, Path(folder), settings, Path(folder) / f"{name}.txt")
            for _ in range(epochs + 1):
                for name, side in sides.items():
                    if (seconds := attempt(name, side.epoch)) is not None:
                        times.setdefault(name, []).append(seconds)
            for name, side in sides.items():
                if (found := attempt(name, side.answer)) is not None:
                    first, *others = times[name]
                    reports[name] = {"seconds": statistics.median(others), "first_seconds": first, **found}
        finally:
            for side in sides.values():
                side.end()
    return reports


def ratios(sides: dict[str, dict[str, Any]]) -> dict[str, float]:
    """The time of the peer's epoch over ours: `over_compiled`, `over_handlers`.

    >>> ratios({"theirs": {"seconds": 3.0}, "compiled": {"seconds": 1.5}, "handlers": {"failed": "no"}})
    {'over_compiled': 2.0}
    """
    if "seconds" not in sides["theirs"]:
        return {}
    return {
        f"over_{name}": sides["theirs"]["seconds"] / sides[name]["seconds"] for name in OURS if "seconds" in sides[name]
    }


def shown(name: str, result: dict[str, Any]) -> str:
    """A comparison in lines of text."""
    lines = [f"{name}: {result['rows']} rows, batches of {result['batch_size']}"]
    for side, found in result["sides"].items():
        if "failed" in found:
            lines.append(f"  {side:>18}  failed: {found['failed']}")
        else:
            measured = f"{found['seconds']:8.2f} s per epoch, {found['peak_mb']:6.0f} MB, "
            measured += f"accuracy {found['accuracy']:.3f}, {found['parameters']} parameters"
            lines.append(f"  {side:>18}  {measured}")
    lines += [f"  theirs {said.replace('_', ' ')}: {value:.2f}" for said, value in result["ratios"].items()]
    return "\n".join(lines)


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default=",".join(PEERS), help="names, separated by commas (default: all)")
    parser.add_argument("--dataset", default="auto", choices=("auto", "mnist", "digits"))
    parser.add_argument("--rows", type=int, default=6000, help="number of training rows")
    parser.add_argument("--labelled", type=float, default=1 / 6, help="the labelled share of the rows")
    parser.add_argument("--epochs", type=int, default=3, help="number of epochs to time, after a first one")
    parser.add_argument("--environments", type=Path, help="the folder of the peers' environments")
    parser.add_argument("--out", help="write the results as JSON; those of other peers in this file are kept")
    args = parser.parse_args(given)
    args.peers = args.peers.split(",")
    if unknown := sorted({*args.peers} - {*PEERS}):
        parser.error(f"--peers: got {', '.join(unknown)}; expected some of {', '.join(PEERS)}")
    return args


def main() -> None:
    args = arguments()
    folder = args.environments or cache_folder() / "peers"
    name = data_set(args.dataset)
    kept = json.loads(Path(args.out).read_text())["results"] if args.out and Path(args.out).exists() else {}
    for key in args.peers:
        peer = PEERS[key]
        arrays = load(name, max(2 * peer.batch_size, round(peer.share * args.rows)), args.labelled)
        setting = {"model": peer.model, "package": peer.package, "dataset": name, "rows": len(arrays["x"])}
        setting |= {"labelled": len(arrays["labelled"]), "batch_size": peer.batch_size, "epochs": args.epochs}
        setting |= {"hidden": [*peer.hidden], "z": peer.z}
        try:
            sides = compare(peer, arrays, args.epochs, environment(peer, folder))
        except subprocess.CalledProcessError as error:
            sides = {"theirs": {"failed": f"not installed: {error}"}}
        result = {**setting, "sides": sides, "ratios": ratios(sides), **about("cpu")}
        print(shown(key, result), flush=True)
        kept[key] = result
        if args.out:
            write_json(args.out, {"results": {key: kept[key] for key in PEERS if key in kept}})


if __name__ == "__main__":
    main()
