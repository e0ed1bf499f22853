"""The gradient noise of the CCVAE bound's variants, on rendered faces.

python benchmarks/gradients.py [--cuda] [--epochs 2] [--out benchmarks/results/gradients-cpu.json]

A run measures two things. First, the gradient noise at fixed parameters (at initialisation, and after training with the
exact marginal): the total variance, over repeated samples, of the gradients of encoder, classifier and conditional
prior. It compares the exact, the Jensen and the sampled marginal on rows without labels, the only rows on which they
differ, and estimators of the weights w and of their gradient on labelled rows. Second, CCVAE's Fig. 8: the norm of the
classifier's gradient over training, with z_c reparameterised in q(y|z_c) (`detach="none"`) and without (`"weight"`), as
a figure next to the JSON.
"""

from __future__ import annotations

import argparse
import datetime
from pathlib import Path

import pyro
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyro_semivae import CCVAE, data
from pyro_semivae.conditionals import LaplaceLikelihood
from pyro_semivae.data import Batches
from pyro_semivae.files import writable_folder, write_json
from pyro_semivae.nn import Convs
from pyro_semivae.runs import versions
from pyro_semivae.spaces import Binary

PARTS = {"encoder": "q_z", "classifier": "q_y", "conditional prior": "p_z_c"}
VARIANTS = {
    "marginal": {name: {"marginal": name} for name in ("exact", "jensen", "sampled")},
    "weights": {
        "independent": {"weights": "independent"},
        "normalised": {"weights": "normalised"},
        "normalised, control variate": {"weights": "normalised", "control_variate": True},
        "the same, nothing detached": {"weights": "normalised", "control_variate": True, "detach": "none"},
    },
}


def make(prior: Tensor) -> CCVAE:
    return CCVAE((3, 64, 64), Binary(len(prior)), z_s=27, prior=prior, networks=Convs(), likelihood=LaplaceLikelihood)


def gradients(vae: CCVAE, module, x: Tensor, y: Tensor, repeats: int) -> dict[str, Tensor]:
    """Gradients of the bound per row for repeated samples: part -> `(repeats, number of parameters)`."""
    out = {part: [] for part in PARTS}
    for _ in range(repeats):
        vae.zero_grad(set_to_none=True)
        (module(x, y) / len(x)).backward()
        for part, name in PARTS.items():
            grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in getattr(vae, name).parameters()]
            out[part].append(torch.cat([g.flatten() for g in grads]))
    return {part: torch.stack(values) for part, values in out.items()}


def noise(vae: CCVAE, x: Tensor, y: Tensor, repeats: int) -> dict[str, dict[str, float]]:
    """Variant -> part -> total variance of the gradient."""
    found = {}
    for option, variants in VARIANTS.items():
        labels = torch.full_like(y, torch.nan) if option == "marginal" else y
        for variant, options in variants.items():
            module = vae.elbo(**options)(vae.model, vae.guide)
            torch.manual_seed(0)
            found[variant] = {p: g.var(0).sum().item() for p, g in gradients(vae, module, x, labels, repeats).items()}
    return found


def train(batches: Batches, prior: Tensor, detach: str, epochs: int, device) -> tuple[CCVAE, list[float]]:
    """Trains with the exact marginal; returns the model and the norm of the classifier's gradient at every step."""
    torch.manual_seed(0)
    vae = make(prior).to(device)
    module = vae.elbo(detach=detach)(vae.model, vae.guide)
    optimiser, norms = torch.optim.Adam(vae.parameters(), 2e-4, fused=True), []
    for epoch in range(epochs):
        for batch in batches.epoch(epoch):
            optimiser.zero_grad()
            (-module.evaluate(batch.x, batch.y, scale=batch.scale).total()).backward()
            norms.append(torch.cat([p.grad.flatten() for p in vae.q_y.parameters()]).norm())
            optimiser.step()
        print(f"detach={detach}: epoch {epoch + 1} of {epochs}", flush=True)
    return vae, torch.stack(norms).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuda", action="store_true")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--labelled", type=float, default=0.06)
    parser.add_argument("--repeats", type=int, default=40, help="draws of a gradient")
    parser.add_argument("--rows", type=int, default=100, help="of the batch whose gradient it is")
    parser.add_argument("--out", default="benchmarks/results/gradients.json")
    args = parser.parse_args()
    pyro.enable_validation(False)
    device = "cuda" if args.cuda else "cpu"
    faces = data.load("faces")
    y = data.hide(faces.y, data.labelled_rows(faces.y, args.labelled, seed=0))
    prior = Binary(y.shape[1]).frequencies(y)
    batches = Batches(faces.x, y, batch_size=100, labelled_batch_size=50, device=device)
    found, norms = {}, {}
    x, known = faces.x[: args.rows].to(device) / 255, faces.y[: args.rows].to(device)
    for detach in ("weight", "none"):
        vae, norms[detach] = train(batches, prior, detach, args.epochs, device)
        if detach == "weight":
            found["after training"] = noise(vae, x, known, args.repeats)
    torch.manual_seed(0)
    found["at the start"] = noise(make(prior).to(device), x, known, args.repeats)

    for when, table in found.items():
        for option, variants in VARIANTS.items():
            print(f"\n{when}: total variance of the gradient, by {option}")
            for part in PARTS:
                print(f"  {part:>18}: " + ", ".join(f"{v} {table[v][part]:.3g}" for v in variants))
    steady = {name: torch.tensor(values[len(values) // 2 :]) for name, values in norms.items()}
    for name, values in steady.items():
        print(f"classifier's gradient norm, detach={name}: mean {values.mean():.3g}, deviation {values.std():.3g}")

    out = Path(args.out)
    writable_folder(out.parent, "--out")
    figure = Figure(figsize=(6, 3))
    axis = figure.subplots()
    for name, label in (("none", "reparameterised"), ("weight", "not reparameterised")):
        axis.semilogy(norms[name], lw=0.6, label=f"{label} (detach={name})")
    axis.set(xlabel="step", ylabel="norm of the classifier's gradient")
    axis.legend(fontsize=7)
    figure.savefig(out.with_suffix(".png"), dpi=130, bbox_inches="tight")
    about = {"command": " ".join(["python", "benchmarks/gradients.py", *_flags(args)]), "versions": versions()}
    about["date"] = datetime.date.today().isoformat()
    spread = {name: [values.mean().item(), values.std().item()] for name, values in steady.items()}
    write_json(out, {"variance": found, "classifier_gradient_norm_mean_and_std": spread, **about})


def _flags(args: argparse.Namespace) -> list[str]:
    return [f"--{name}" if value is True else f"--{name} {value}" for name, value in vars(args).items() if value]


if __name__ == "__main__":
    main()
