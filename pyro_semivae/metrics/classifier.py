"""The independent classifier that judges generated images: a small convolutional network, trained on all labels."""

from __future__ import annotations

import hashlib
import itertools
import math
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_semivae.data import ImageData, to_unit
from pyro_semivae.errors import InputError
from pyro_semivae.files import CACHE_ENV, cache_folder, load_checkpoint, save_checkpoint, writable_folder
from pyro_semivae.labels import Binary
from pyro_semivae.metrics.accuracy import accuracy as class_accuracy
from pyro_semivae.metrics.accuracy import label_accuracy
from pyro_semivae.progress import steps_of

VERSION = 2  # of the architecture and its training; a cached file of another version is trained anew


class ImageClassifier(nn.Module):
    """Convolutions, 128 features, logits of classes or of binary labels.

    Shapes: images `(B, C, H, W)` float or uint8, H and W divisible by 4 (from 48 on: by 8); logits `(B, num_labels)`.
    """

    def __init__(self, x_shape: tuple[int, int, int], num_labels: int, *, binary: bool = False):
        super().__init__()
        channels, height, width = x_shape
        self.binary = binary
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
        return self.head(self.features(to_unit(x)))

    @torch.no_grad()
    def embed(self, x: Tensor) -> Tensor:
        """The penultimate features, `(B, 128)`."""
        return torch.cat([self.features(to_unit(part)) for part in x.split(1000)])

    @torch.no_grad()
    def classify(self, x: Tensor) -> Tensor:
        """Probabilities of the classes, or that binary labels are on, `(B, num_labels)`."""
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
    """The classifier of a data set and its test accuracy (binary labels: the mean one), trained once and cached.

    Args:
        steps: Adam steps on batches of 200 with a cosine learning rate from 1e-3.
        cache: the folder of cached classifiers: default `$PYRO_SEMIVAE_CACHE`, else `~/.cache/pyro_semivae`.
    """
    folder = Path(cache or cache_folder())
    sums = sum(int(part.sum(dtype=torch.int64)) for part in data.x.split(10_000)), int(data.y.nansum())
    key = hashlib.sha256(f"{data.name} {tuple(data.x.shape)} {sums} {seed} {steps} {VERSION}".encode()).hexdigest()[:12]
    path = folder / f"classifier-{data.name}-{key}.pt"
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        binary = isinstance(data.labels, Binary)
        classifier = ImageClassifier(data.x_shape, len(data.label_names), binary=binary)
        if path.is_file():
            state = load_checkpoint(path, "ImageClassifier")
            classifier.load_state_dict(state["weights"])
            return classifier.to(device).eval(), state["test_accuracy"]
        classifier.to(device).train()
        optimiser = torch.optim.Adam(classifier.parameters(), 1e-3, fused=True)
        for step in steps_of(steps, f"independent classifier on {data.name}", progress):
            optimiser.param_groups[0]["lr"] = 5e-4 * (1 + math.cos(math.pi * step / steps))
            rows = torch.randint(len(data.x), (200,))
            logits, y = classifier(data.x[rows].to(device)), data.y[rows].to(device)
            if binary:  # of the labels that are known
                known = (~y.isnan()).to(logits)
                loss = F.binary_cross_entropy_with_logits(logits, y.nan_to_num(), known, reduction="sum") / known.sum()
            else:
                loss = F.cross_entropy(logits, y)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    classifier.eval()
    probs = classifier.classify(data.x_test.to(device)).cpu()
    accuracy = label_accuracy(probs, data.y_test).mean().item() if binary else class_accuracy(probs, data.y_test)
    weights = {name: value.cpu() for name, value in classifier.state_dict().items()}
    try:
        writable_folder(folder, CACHE_ENV)
        save_checkpoint(path, {"model": "ImageClassifier", "weights": weights, "test_accuracy": accuracy})
    except InputError as error:
        print(f"NOTE: the independent classifier is not cached: {error}", file=sys.stderr, flush=True)
    return classifier, accuracy
