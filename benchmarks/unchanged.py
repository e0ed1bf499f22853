"""Checks that a change of the code changes no number: bounds and short trainings of all cases, smoke tests of examples.

python benchmarks/unchanged.py record FILE     # before the change
python benchmarks/unchanged.py compare FILE    # after it; prints the differences, and fails if there are any

It records, in float64 and with fixed seeds, for each case of tests/cases.py its loss, the sum of each of its terms, the
sum of its squared gradients and, after two epochs of `fit`, the bound and a hash of the weights; for each example the
metrics and a hash of the weights of its `--smoke-test`. Hashes agree on the same machine with the same torch; numbers
are compared to twelve digits.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from cases import CASES, Case  # noqa: E402  (the tests' table)

from pyro_semivae.files import write_json  # noqa: E402
from pyro_semivae.train import fit  # noqa: E402


def digest(weights: dict[str, Tensor]) -> str:
    """A hash of the values alone, which does not change if parameters are renamed."""
    arrays = [value.detach().contiguous().numpy().tobytes() for value in weights.values()]
    of_each = sorted(hashlib.sha256(array).hexdigest() for array in arrays)
    return hashlib.sha256("".join(of_each).encode()).hexdigest()[:16]


def numbers_of_case(case: Case) -> dict[str, float | str]:
    vae, elbo = case.make()
    x, y = case.batch()
    torch.manual_seed(7)
    terms = elbo.weighted_terms(vae.model, vae.guide, x, y)
    found: dict[str, float | str] = {f"term {name}": term.sum().item() for name, term in terms.items()}
    torch.manual_seed(7)
    loss = elbo(vae.model, vae.guide)(x, y)
    loss.backward()
    found["loss"] = loss.item()
    found["gradients"] = sum(p.grad.square().sum().item() for p in vae.parameters() if p.grad is not None)
    history = fit(vae, x, y, elbo=elbo, epochs=2, batch_size=4, seed=3, progress=False)
    return {**found, "fit's objective": history[-1]["objective"], "weights": digest(vae.state_dict())}


def numbers_of_example(script: Path) -> dict[str, float | str]:
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--smoke-test", "--seed", "3", "--out", folder]
        subprocess.run([sys.executable, str(script), *flags], check=True, cwd=folder, capture_output=True)
        metrics = json.loads((Path(folder) / "metrics.json").read_text())
        weights = torch.load(Path(folder) / "checkpoint.pt", weights_only=True)["weights"]
    measured = {name: value for name, value in metrics.items() if isinstance(value, float) and name != "seconds"}
    return {**measured, "weights": digest(weights)}


def same(a: float | str | None, b: float | str | None) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=1e-12, abs_tol=1e-12)
    return a == b


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["record", "compare"])
    parser.add_argument("file", type=Path)
    parser.add_argument("--no-examples", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    found = {}
    for case in CASES:
        found[case.name] = numbers_of_case(case)
        print(case.name, flush=True)
    for script in (
        [] if args.no_examples else sorted({*(ROOT / "examples").glob("*.py")} - {ROOT / "examples" / "demo.py"})
    ):
        found[script.name] = numbers_of_example(script)
        print(script.name, flush=True)
    if args.what == "record":
        write_json(args.file, found)
        return
    before = json.loads(args.file.read_text())
    differences = [
        f"{name}: {key}: {before[name].get(key)} -> {found[name].get(key)}"
        for name in found
        if name in before
        for key in dict.fromkeys([*before[name], *found[name]])
        if not same(before[name].get(key), found[name].get(key))
    ]
    new = [name for name in found if name not in before]
    print(*differences, sep="\n")
    print(
        f"{len(differences)} differences in {len(found) - len(new)} cases and examples; new: {', '.join(new) or 'none'}"
    )
    sys.exit(bool(differences))


if __name__ == "__main__":
    main()
