"""Relative times of training steps, of epochs and of steps with many labels; all within one run.

python benchmarks/speed.py [--cuda] [--steps 60] [--out benchmarks/results/speed-cpu.json]

A step of CCVAE and of M2 by Pyro's handlers, as a compiled graph, and by plain `SVI.step` with `pyro.optim.Adam`,
beside hand-written torch, eager and under `torch.compile`. All have the same networks, the same fused Adam (SVI:
Pyro's, one optimiser a tensor) and the same bound (CCVAE's Jensen bound, K = 20; M2's marginalised over ten classes).
The hand-written program has one concatenated forward pass, with the labelled terms computed for the labelled rows only.
The steps alternate, so that other load slows all; ratios are of medians.
"""

from __future__ import annotations

import argparse
import datetime
import math
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import torch
from pyro.infer import SVI
from torch import Tensor
from torch.nn import functional as F

from pyro_semivae import CCVAE
from pyro_semivae.conditionals import LaplaceLikelihood
from pyro_semivae.data import Batch, Batches, hide
from pyro_semivae.files import write_json
from pyro_semivae.infer import Objective, Traced
from pyro_semivae.models import M2, SemiVAE
from pyro_semivae.nn import Convs
from pyro_semivae.runs import versions
from pyro_semivae.spaces import Binary, Classes
from pyro_semivae.train import fit

K, ALPHA = 20, 1.0
CONVS = {"networks": Convs(), "likelihood": LaplaceLikelihood}


def gaussian(raw: Tensor) -> tuple[Tensor, Tensor]:
    loc, scale = raw.chunk(2, -1)
    return loc, F.softplus(scale) + 1e-3


def log_normal(z: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    return (-0.5 * ((z - loc) / scale) ** 2 - scale.log() - 0.5 * math.log(2 * math.pi)).sum(-1)


def plain_ccvae(vae: CCVAE, batch: Batch) -> Tensor:
    """CCVAE's bound in plain torch, `(B,)`, on a batch with the labelled rows first."""
    labelled = batch.labelled
    encoder, decoder, classifier = vae.q_z.net.layers, vae.p_x.net.layers, vae.q_y.net.layers
    x, y = batch.x.flatten(1), batch.y[:labelled, None]
    loc, scale = gaussian(encoder(x))
    z = loc + scale * torch.randn_like(scale)
    log_p_x = -F.binary_cross_entropy_with_logits(decoder(z), x, reduction="none").sum(-1)
    log_p_zy = log_normal(z.unsqueeze(-2), *gaussian(vae.p_z_c.net.layers(torch.eye(10, device=z.device))))
    inside = log_p_x - log_normal(z, loc, scale)
    log_prior = -math.log(log_p_zy.shape[-1])

    log_q = classifier(z).log_softmax(-1)
    log_q_l, log_q_u = log_q[:labelled], log_q[labelled:]
    unlabelled = inside[labelled:] + (log_q_u.exp() * (log_p_zy[labelled:] + log_prior - log_q_u)).sum(-1)

    z_k = loc[:labelled] + scale[:labelled] * torch.randn(K, labelled, z.shape[-1], device=z.device)
    log_q_k = classifier(z_k).log_softmax(-1).gather(-1, y.expand(K, -1, -1)).squeeze(-1)
    log_q_x = log_q_k.logsumexp(0) - math.log(K)
    cut = classifier(z[:labelled].detach()).log_softmax(-1).gather(-1, y).squeeze(-1)
    w = (cut - log_q_x).exp()
    bracket = inside[:labelled] + log_p_zy[:labelled].gather(-1, y).squeeze(-1) - log_q_l.gather(-1, y).squeeze(-1)
    return torch.cat([w * bracket + log_q_x + log_prior, unlabelled])


def plain_m2(vae: M2, batch: Batch) -> Tensor:
    """M2's bound: labelled rows with their label, the others once for each class, all classes in one batch."""
    labelled = batch.labelled
    encoder, decoder, classifier = vae.q_z.net.layers, vae.p_x.net.layers, vae.q_y.net.layers
    x, codes = batch.x.flatten(1), torch.eye(10, device=batch.x.device)

    def bound(x: Tensor, code: Tensor) -> Tensor:
        loc, scale = gaussian(encoder(torch.cat([x, code], -1)))
        z = loc + scale * torch.randn_like(scale)
        logits = decoder(torch.cat([code, z], -1))
        log_p_x = -F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)
        return log_p_x + log_normal(z, torch.zeros_like(z), torch.ones_like(z)) - log_normal(z, loc, scale)

    log_q = classifier(x).log_softmax(-1)
    x_u, log_q_u = x[labelled:], log_q[labelled:].T  # (10, B_u)
    each = bound(x_u.expand(10, -1, -1), codes[:, None].expand(-1, len(x_u), -1))
    unlabelled = (log_q_u.exp() * (each - log_q_u)).sum(0)
    y = batch.y[:labelled]
    of_labels = bound(x[:labelled], codes[y]) + ALPHA * log_q[:labelled].gather(-1, y[:, None]).squeeze(-1)
    return torch.cat([of_labels, unlabelled]) - math.log(10)


def timed(step: Callable[[], None], device: str) -> float:
    start = time.perf_counter()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def labels_ratio(steps: int, device: str, few: int = 5, many: int = 40, rows: int = 50) -> float:
    """The time of a step with `many` binary labels relative to one with `few`, with the same networks."""

    def prepare(num_labels: int) -> Callable[[], None]:
        vae = CCVAE((3, 64, 64), Binary(num_labels), z_s=many + 5 - num_labels, **CONVS).to(device)  # 45 latents
        module = vae.elbo(num_samples=K)(vae.model, vae.guide)
        x = torch.rand(rows, 3, 64, 64, device=device)
        y = torch.randint(0, 2, (rows, num_labels), device=device).float()
        y[rows // 2 :] = torch.nan

        def step() -> None:
            vae.zero_grad()
            module(x, y).backward()

        return step

    with pyro.validation_enabled(False):
        pair = prepare(few), prepare(many)
        times = [[timed(step, device) for step in pair] for _ in range(steps + 5)][5:]
    return statistics.median(t[1] for t in times) / statistics.median(t[0] for t in times)


def ccvae() -> tuple[SemiVAE, Objective]:
    vae = CCVAE((1, 28, 28), Classes(10), z_c=30, z_s=0)
    return vae, vae.elbo(marginal="jensen", weights="independent", num_samples=K)


def m2() -> tuple[SemiVAE, Objective]:
    vae = M2((1, 28, 28), Classes(10))
    return vae, vae.elbo(classifier_weight=ALPHA)


def measure(
    make: Callable[[], tuple[SemiVAE, Objective]],
    plain: Callable[[SemiVAE, Batch], Tensor],
    batch_size: int,
    steps: int,
    device: str,
) -> dict[str, float | str]:
    torch.manual_seed(0)
    x = torch.randint(0, 256, (12_000, 1, 28, 28), dtype=torch.uint8)
    y = hide(torch.arange(len(x)) % 10, torch.arange(3_000))
    vae, elbo = make()
    vae.to(device)
    module = elbo(vae.model, vae.guide)
    optimiser = torch.optim.Adam(vae.parameters(), 5e-4, fused=True)
    sizes = {"batch_size": batch_size, "labelled_batch_size": batch_size}
    batches = Batches(x, y, device=device, **sizes)
    batch = next(batches.epoch(0))

    def step(loss: Callable[[], Tensor]) -> None:
        value = loss()
        optimiser.zero_grad()
        value.backward()
        optimiser.step()

    def our_loss() -> Tensor:
        return -module.evaluate(batch.x, batch.y, scale=batch.scale, labelled=batch.labelled).total()

    def plain_loss() -> Tensor:
        return -(plain(vae, batch) * batch.scale).sum()

    def of_batch(x: Tensor, y: Tensor, scale: Tensor, labelled: int, *, done: float) -> tuple[dict[str, Tensor], None]:
        return {"loss": -module.evaluate(x, y, scale=scale, labelled=labelled, done=done).total()}, None

    graph = Traced(of_batch, [module], {"loss": vae})
    plain_compiled = torch.compile(plain)
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 5e-4}), loss=elbo)
    kinds: dict[str, Callable[[], Any]] = {
        "handlers": partial(step, our_loss),
        "compiled": partial(step, lambda: graph(batch.x, batch.y, batch.scale, batch.labelled)[0]["loss"]),
        "plain": partial(step, plain_loss),
        "plain_compiled": partial(step, lambda: -(plain_compiled(vae, batch) * batch.scale).sum()),
        "svi": lambda: svi.step(batch.x, batch.y),
    }
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    epochs = []
    with pyro.validation_enabled(False):
        for _ in range(steps + 10):
            for kind, take in kinds.items():
                times[kind].append(timed(take, device))
    pyro.clear_param_store()
    median = {kind: statistics.median(seconds[10:]) for kind, seconds in times.items()}
    for _ in range(3):  # an epoch of fit() beside as many bare steps, alternating
        options = {"epochs": 1, "progress": False, "accelerator": device, "compile": "off", **sizes}
        seconds = fit(vae, x, y, elbo=elbo, **options)[0]["seconds"]
        with pyro.validation_enabled(False):
            bare = sum(timed(kinds["handlers"], device) for _ in range(batches.steps))
        epochs.append(seconds / bare)
    return {
        "model": type(vae).__name__,
        "batch_size": batch_size,
        "handlers_over_plain": median["handlers"] / median["plain"],
        "compiled_over_plain": median["compiled"] / median["plain"],
        "compiled_over_plain_compiled": median["compiled"] / median["plain_compiled"],
        "svi_over_compiled": median["svi"] / median["compiled"],
        "epoch_ratio": statistics.median(epochs),
        "compile_seconds": graph.seconds,
        **{f"{kind}_ms": 1e3 * seconds for kind, seconds in median.items()},
    }


def about(device: str) -> dict[str, Any]:
    """Machine, date and versions of the measurement."""
    cpu = f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    machine = torch.cuda.get_device_name() if device == "cuda" else cpu
    return {"machine": machine, "date": datetime.date.today().isoformat(), "versions": versions()}


def arguments(description: str, steps: int) -> argparse.Namespace:
    """The flags of a benchmark of steps.

    Args:
        steps: the default number of steps to time.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuda", action="store_true")
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--out", help="write the results as JSON")
    return parser.parse_args()


def main() -> None:
    args = arguments(__doc__, 60)
    results = []
    for make, plain, batch_size in (
        (ccvae, plain_ccvae, 200),
        (ccvae, plain_ccvae, 64),
        (m2, plain_m2, 200),
        (m2, plain_m2, 64),
    ):
        results.append(measure(make, plain, batch_size, args.steps, "cuda" if args.cuda else "cpu"))
        print("  ".join(f"{k} {v:.3g}" if k != "model" else v for k, v in results[-1].items()), flush=True)
    ratio = labels_ratio(args.steps // 2, "cuda" if args.cuda else "cpu")
    print(f"a step with 40 binary labels over one with 5: {ratio:.3g}", flush=True)
    if args.out:
        write_json(args.out, {"results": results, "labels_40_over_5": ratio, **about("cuda" if args.cuda else "cpu")})


if __name__ == "__main__":
    main()
