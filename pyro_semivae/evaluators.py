"""Independent classifiers that evaluate generated images, trained on all labels: a convolutional network, a GP in place
of its last layer, and the logistic regression of Gemp et al. 2017."""

from __future__ import annotations

import hashlib
import itertools
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_semivae.caches import cache_folder, cached_checkpoint
from pyro_semivae.checkpoints import load_weights
from pyro_semivae.data import ImageData
from pyro_semivae.digests import digest
from pyro_semivae.errors import InputError, check_count
from pyro_semivae.files import check_fields, check_finite
from pyro_semivae.metrics.accuracy import accuracy as class_accuracy
from pyro_semivae.metrics.checks import known_rows
from pyro_semivae.metrics.mutual_information import LastLayerGP
from pyro_semivae.progress import steps_of
from pyro_semivae.spaces import to_unit

VERSION = 2  # version of the architecture and its training; cached files of other versions are not used


class ImageClassifier(nn.Module):
    """A convolutional network with 128 features, and logits for classes or binary labels.

    Shapes: images `(B, C, H, W)` float or uint8, H and W at least 4; logits `(B, num_labels)`.

    Raises:
        InputError: `x_shape` or `num_labels` is invalid; images have another shape.
    """

    def __init__(self, x_shape: tuple[int, int, int], num_labels: int, *, binary: bool = False):
        super().__init__()
        if len(x_shape) != 3 or min(x_shape) < 1 or min(x_shape[1:]) < 4:
            raise InputError(f"x_shape: got {tuple(x_shape)}; expected (C, H, W), H and W 4 or more")
        check_count("num_labels", num_labels)
        channels, height, width = x_shape
        self.binary, self.x_shape = binary, tuple(x_shape)
        if min(height, width) < 48:
            layers = [nn.Conv2d(channels, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
            layers += [nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
            size = 64 * (height // 4) * (width // 4)
        else:
            layers = []
            for c_in, c_out in itertools.pairwise([channels, 24, 48, 96]):
                layers += [nn.Conv2d(c_in, c_out, 4, 2, 1), nn.BatchNorm2d(c_out), nn.ReLU()]
            size = 96 * (height // 8) * (width // 8)
        self.features = nn.Sequential(*layers, nn.Flatten(), nn.Linear(size, 128), nn.ReLU())
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(128, num_labels))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self._features(x))

    def _features(self, x: Tensor) -> Tensor:
        if x.dim() != 4 or tuple(x.shape[1:]) != self.x_shape:
            raise InputError(f"x: got shape {tuple(x.shape)}; expected (B, {', '.join(map(str, self.x_shape))})")
        return self.features(to_unit(x))

    @torch.no_grad()
    def embed(self, x: Tensor) -> Tensor:
        """The penultimate features, `(B, 128)`."""
        return torch.cat([self._features(part) for part in x.split(1000)])

    @torch.no_grad()
    def classify(self, x: Tensor) -> Tensor:
        """Probabilities of the classes, or of binary labels being on, `(B, num_labels)`."""
        logits = self.logits(x)
        return logits.sigmoid() if self.binary else logits.softmax(-1)

    @torch.no_grad()
    def logits(self, x: Tensor) -> Tensor:
        """`(B, num_labels)`, without gradients and in batches."""
        return torch.cat([self(part) for part in x.split(1000)])


def independent_classifier(
    data: ImageData,
    *,
    seed: int = 0,
    steps: int = 900,
    device: torch.device | str = "cpu",
    cache: str | Path | None = None,
    progress: bool = True,
) -> tuple[ImageClassifier, float]:
    """The classifier of a data set and its test accuracy (for binary labels, the mean), trained once and cached.

    Missing labels (-1, NaN) are ignored in training and in the accuracy, which is NaN if no label is known.

    Args:
        steps: the number of Adam steps on batches of 200, with a cosine learning rate from 1e-3.
        cache: the folder of cached classifiers: see `caches.cache_folder`.

    Raises:
        InputError: labels are outside the data set's space, or no training label is known.
    """
    rows, y = known_rows("data.y", data.labels, data.y)
    several = data.labels.entries is not None
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        classifier = ImageClassifier(data.x_shape, len(data.label_names), binary=several).to(device)

        def make() -> dict[str, Any]:
            _train(classifier, data, rows, y, steps, progress)
            probs = classifier.classify(data.x_test.to(device)).cpu()
            weights = {name: value.cpu() for name, value in classifier.state_dict().items()}
            return {"weights": weights, "test_accuracy": data.labels.accuracy(probs, data.y_test)}

        path = _path("classifier", data, cache, seed, steps, VERSION)

        def use(state: dict[str, Any]) -> float:
            check_fields(state, path, {"test_accuracy": float})
            load_weights(classifier, state, path)
            return state["test_accuracy"]

        test_accuracy = cached_checkpoint(path, "ImageClassifier", make, use)
    return classifier.eval(), test_accuracy


def independent_posterior(
    data: ImageData,
    evaluator: ImageClassifier,
    *,
    num_rows: int = 20_000,
    steps: int = 300,
    cache: str | Path | None = None,
    progress: bool = True,
) -> LastLayerGP:
    """A `LastLayerGP` on the features of an independent classifier, fitted to training rows once and cached.

    Args:
        evaluator: the classifier of the same data; a cached GP belongs to these exact weights.
        num_rows: the number of training rows with a known label to fit to, sampled with a fixed seed.
        steps, progress: see `LastLayerGP`.
        cache: see `independent_classifier`.

    Raises:
        InputError: `num_rows` is not a positive integer; no training label is known.
    """
    check_count("num_rows", num_rows)

    def make() -> dict[str, Any]:
        known, y = known_rows("data.y", data.labels, data.y)
        rows = known[torch.randperm(len(known), generator=torch.Generator().manual_seed(0))[:num_rows]]
        features = evaluator.embed(data.x[rows].to(next(evaluator.parameters()).device))
        classes = None if evaluator.binary else len(data.label_names)
        return LastLayerGP(features, y[rows], classes, steps=steps, progress=progress).state()

    of_evaluator = hashlib.sha256(
        b"".join(p.detach().cpu().numpy().tobytes() for p in evaluator.parameters())
    ).hexdigest()
    path = _path("posterior", data, cache, of_evaluator, num_rows, steps)

    def use(state: dict[str, Any]) -> LastLayerGP:
        check_fields(state, path, {"mean": Tensor, "std": Tensor, "binary": bool, "shape": dict})
        check_finite({**state["weights"], "mean": state["mean"], "std": state["std"]}, path)
        return LastLayerGP.from_state(state)

    return cached_checkpoint(path, "LastLayerGP", make, use)


def logistic_regression(
    data: ImageData, *, iterations: int = 200, cache: str | Path | None = None
) -> tuple[Callable[[Tensor], Tensor], float]:
    """A logistic regression on the pixels of class-labelled images, and its test accuracy; fitted once and cached.

    Missing labels (-1) are ignored in the fit and in the accuracy, which is NaN if no label is known.

    Args:
        iterations: the maximum number of L-BFGS iterations. cache: see `independent_classifier`.

    Returns a function from images `(B, C, H, W)` to probabilities `(B, num_labels)`, 0 for classes without examples.

    Raises:
        InputError: the labels are binary, or the known ones are all of one class.
    """
    check_count("iterations", iterations)
    rows, y = known_rows("data.y", data.labels, data.y)
    if data.labels.entries is not None or len(y[rows].unique()) < 2:
        raise InputError(f"data: got {data.name} with labels of {data.labels}; expected two or more known classes")

    def make() -> dict[str, Any]:
        print(f"NOTE: fitting a logistic regression on {data.name}", file=sys.stderr, flush=True)
        pixels = to_unit(data.x[rows]).flatten(1).numpy()
        found = LogisticRegression(max_iter=iterations).fit(pixels, y[rows].numpy())
        coefficients, intercepts = torch.from_numpy(found.coef_), torch.from_numpy(found.intercept_)
        if len(found.classes_) == 2:  # one logit
            coefficients, intercepts = (torch.cat([-part / 2, part / 2]) for part in (coefficients, intercepts))
        weights = torch.zeros(len(data.label_names), coefficients.shape[1])
        biases = torch.full((len(data.label_names),), -math.inf)
        weights[found.classes_], biases[found.classes_] = coefficients.to(weights), intercepts.to(biases)
        probs = (to_unit(data.x_test).flatten(1) @ weights.T + biases).softmax(1)
        return {"weights": {"weight": weights, "bias": biases}, "test_accuracy": class_accuracy(probs, data.y_test)}

    path = _path("logistic", data, cache, iterations)

    def use(state: dict[str, Any]) -> tuple[Tensor, Tensor, float]:
        check_fields(state, path, {"test_accuracy": float})
        check_fields(state["weights"], path, {"weight": Tensor, "bias": Tensor}, "weights")
        weight, bias = state["weights"]["weight"], state["weights"]["bias"]
        if weight.shape != (len(data.label_names), math.prod(data.x_shape)) or bias.shape != weight.shape[:1]:
            raise InputError(f"checkpoint: {path}: got weights of shape {tuple(weight.shape)}, {tuple(bias.shape)}")
        return weight, bias, state["test_accuracy"]

    weight, bias, test_accuracy = cached_checkpoint(path, "LogisticRegression", make, use)

    def probabilities(x: Tensor) -> Tensor:
        return (to_unit(x).flatten(1) @ weight.to(x.device).T + bias.to(x.device)).softmax(1)

    return probabilities, test_accuracy


def _path(kind: str, data: ImageData, cache: str | Path | None, *settings: Any) -> Path:
    """The path of a classifier's cached file, from the data set and the settings of its training."""
    parts = [digest(part) for part in (data.x, data.y, data.x_test, data.y_test)]
    about = " ".join(map(str, (data.name, data.label_names, *parts, *settings)))
    name = f"{kind}-{data.name}-{hashlib.sha256(about.encode()).hexdigest()[:12]}.pt"
    return cache_folder(cache) / name


@torch.enable_grad()
def _train(classifier: ImageClassifier, data: ImageData, known: Tensor, y: Tensor, steps: int, progress: bool) -> None:
    """Trains on the `known` rows of the data, with labels `y` of all rows."""
    device = next(classifier.parameters()).device
    classifier.train()
    optimiser = torch.optim.Adam(classifier.parameters(), 1e-3, fused=True)
    for step in steps_of(steps, f"independent classifier on {data.name}", progress):
        optimiser.param_groups[0]["lr"] = 5e-4 * (1 + math.cos(math.pi * step / steps))
        rows = known[torch.randint(len(known), (200,))]
        logits, target = classifier(data.x[rows].to(device)), y[rows].to(device)
        if classifier.binary:  # the mean over known labels
            weight, target = (~target.isnan()).to(logits), target.nan_to_num()
            loss = F.binary_cross_entropy_with_logits(logits, target, weight, reduction="sum") / weight.sum()
        else:
            loss = F.cross_entropy(logits, target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    classifier.eval()
