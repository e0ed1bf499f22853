"""Detection of out-of-distribution images: the mutual information of the label and the classifier's parameters."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.contrib.gp as gp
import pyro.distributions as dist
import torch
from pyro.infer import TraceMeanField_ELBO
from torch import Tensor

from pyro_semivae.errors import InputError, check_count
from pyro_semivae.metrics.checks import check_finite, check_probs, check_rows, known_rows
from pyro_semivae.progress import steps_of
from pyro_semivae.spaces import Binary, Classes, as_binary


def _own_parameters():
    """Keeps parameters in their module, so that two GPs in a process do not share Pyro's store."""
    return pyro.settings.context(module_local_params=True)


class _KnownBinary(gp.likelihoods.Likelihood):
    """Bernoulli labels through a sigmoid; missing labels (NaN), which Pyro's `Binary` does not support, are masked."""

    def forward(self, f_loc: Tensor, f_var: Tensor, y: Tensor) -> Tensor:
        f = dist.Normal(f_loc, f_var.sqrt())()
        known = ~y.isnan()
        fn = dist.Bernoulli(logits=f).mask(known).to_event(y.dim())
        return pyro.sample(self._pyro_get_fullname("y"), fn, obs=y.nan_to_num())


class LastLayerGP:
    """A sparse variational GP instead of a classifier's last layer (CCVAE C.3, D.6: 200 inducing points).

    Args:
        features: `(N, F)` penultimate features of real images. y: their labels, `(N,)` classes or `(N, L)` binary
            labels. Rows with a missing class (-1) are left out, and missing entries of binary labels (NaN) are masked.
        num_classes: C latent functions with a softmax; `None` for binary labels, L functions with a sigmoid.
        num_inducing: the number of inducing points, sampled from the features.
        steps: the number of Adam steps, on batches of 500.

    All computation is in float64 on the CPU. Features are standardised; the kernel is RBF with a length scale per
    feature.

    Raises:
        InputError: features are not `(N, F)` or not finite; labels do not fit them, or fewer than two are known; a
            number is not a positive integer.
    """

    def __init__(
        self,
        features: Tensor,
        y: Tensor,
        num_classes: int | None,
        *,
        num_inducing: int = 200,
        steps: int = 400,
        lr: float = 0.02,
        seed: int = 0,
        progress: bool = True,
    ):
        check_count("num_inducing", num_inducing)
        check_count("steps", steps, 0)
        self.binary = num_classes is None
        labels = Binary(as_binary(y).shape[1]) if self.binary else Classes(check_count("num_classes", num_classes, 2))
        known, y = known_rows("y", labels, y, least=2)
        features = check_finite("features", features, 2).detach().cpu().double()
        if len(features) != len(y):
            shapes = f"{tuple(features.shape)} and {tuple(y.shape)}"
            raise InputError(f"features, y: got shapes {shapes}; expected equally many rows")
        features, y = (
            features[known],
            y[known].double().T if self.binary else y[known],
        )  # in Pyro's GPs the dimension of outputs is on the left
        self.mean, self.std = features.mean(0), features.std(0).clamp(min=1e-6)
        features = (features - self.mean) / self.std
        with torch.random.fork_rng(), _own_parameters():
            torch.manual_seed(seed)
            size = features.shape[-1]
            kernel = gp.kernels.RBF(
                size, variance=torch.tensor(5.0).double(), lengthscale=torch.full((size,), math.sqrt(size)).double()
            )
            batch = min(500, len(features))
            start = torch.randperm(len(features))[: max(batch, num_inducing)]
            self.gp = gp.models.VariationalSparseGP(
                features[start[:batch]],
                y[..., start[:batch]],
                kernel,
                Xu=features[start[:num_inducing]].clone(),
                likelihood=_KnownBinary() if self.binary else gp.likelihoods.MultiClass(num_classes),
                latent_shape=torch.Size([len(y) if self.binary else num_classes]),
                num_data=len(features),
                whiten=True,
                jitter=1e-5,
            ).double()
            optimiser = torch.optim.Adam(self.gp.parameters(), lr)
            loss = TraceMeanField_ELBO().differentiable_loss
            for _ in steps_of(steps, "sparse GP on its features", progress):
                rows = torch.randint(len(features), (batch,))
                self.gp.set_data(features[rows], y[..., rows])
                optimiser.zero_grad()
                (loss(self.gp.model, self.gp.guide) / len(features)).backward()
                optimiser.step()

    def state(self) -> dict[str, Any]:
        """The weights and the features' mean and scale, in a form that a checkpoint can hold."""
        shape = {"size": len(self.mean), "outputs": self.gp.latent_shape[0], "inducing": len(self.gp.Xu)}
        weights = {name: value.detach().clone() for name, value in self.gp.state_dict().items()}
        return {"weights": weights, "mean": self.mean, "std": self.std, "binary": self.binary, "shape": shape}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> LastLayerGP:
        """Restores a GP from its `state`."""
        size, outputs, inducing = (state["shape"][name] for name in ("size", "outputs", "inducing"))
        rows = max(2, inducing)
        features = torch.zeros(rows, size)
        y = torch.zeros(rows, outputs) if state["binary"] else torch.zeros(rows, dtype=torch.long)
        found = cls(features, y, None if state["binary"] else outputs, num_inducing=inducing, steps=0, progress=False)
        found.gp.load_state_dict(state["weights"])
        found.mean, found.std = state["mean"], state["std"]
        return found

    @torch.no_grad()
    @_own_parameters()
    def sample_probs(self, features: Tensor, num_samples: int = 64, seed: int = 0) -> Tensor:
        """p(y | x, omega) for samples of omega, `(num_samples, B, C)`; for binary labels `(num_samples, B, L, 2)`.

        Raises:
            InputError: features are not `(B, F)` or not finite; `num_samples` is not a positive integer.
        """
        check_count("num_samples", num_samples)
        features = check_finite("features", features, 2)
        if features.shape[1] != len(self.mean):
            raise InputError(f"features: got shape {tuple(features.shape)}; expected (B, {len(self.mean)})")
        features = (features.cpu().double() - self.mean) / self.std
        generator = torch.Generator().manual_seed(seed)
        out = []
        for part in features.split(1000):
            loc, variance = self.gp(part, full_cov=False)  # (C, B)
            noise = torch.randn((num_samples, *loc.shape), generator=generator, dtype=loc.dtype)
            f = (loc + variance.clamp(min=0).sqrt() * noise).movedim(1, -1)  # (S, B, C)
            out.append(torch.stack([-f, f], -1).sigmoid() if self.binary else f.softmax(-1))
        return torch.cat(out, 1)


def mutual_information(probs: Tensor) -> Tensor:
    """I(y, omega | x) = H[E_omega p(y | x, omega)] - E_omega H[p(y | x, omega)] in nats (CCVAE D.6).

    Args:
        probs: `(S, ..., C)`, p(y | x, omega) for S samples of the classifier's parameters omega.

    Returns `(...)`.

    Raises:
        InputError: `probs` are not probabilities, or have fewer than two dimensions.

    >>> mutual_information(torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])).item()  # two certain samples that differ: log 2
    0.6931471824645996
    """
    probs = check_probs("probs", probs)
    if probs.dim() < 2:
        raise InputError(f"probs: got shape {tuple(probs.shape)}; expected (S, ..., C)")
    return _entropy(probs.mean(0)) - _entropy(probs).mean(0)


def _entropy(probs: Tensor) -> Tensor:
    return -torch.special.xlogy(probs, probs).sum(-1)


def image_mutual_information(
    images: Tensor, embed: Callable[[Tensor], Tensor], posterior: LastLayerGP, num_samples: int = 64
) -> float:
    """The mean mutual information over images (and binary labels), from features and a `LastLayerGP`, in nats.

    Args:
        images: `(B, C, H, W)`, one or more; no labels are needed. embed: images -> features `(B, F)`.
        posterior: the GP, fitted to such features.

    Raises:
        InputError: there is no image; the number of features is not that of the posterior.
    """
    if not len(check_rows("images", images)):
        raise InputError("images: got none; expected one or more")
    return mutual_information(posterior.sample_probs(embed(images), num_samples)).mean().item()
