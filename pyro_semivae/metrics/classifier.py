"""The independent classifier that judges generated images: a small convolutional network, trained on all labels."""

from __future__ import annotations

import hashlib
import math
import os
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_semivae.data import ImageData, to_unit
from pyro_semivae.errors import InputError
from pyro_semivae.files import load_checkpoint, save_checkpoint, writable_folder
from pyro_semivae.progress import steps_of

CACHE_ENV = "PYRO_SEMIVAE_CACHE"
VERSION = 1  # of the architecture and its training; a cached file of another version is trained anew


class ImageClassifier(nn.Module):
    """Two convolutions with pooling, 128 features, logits.

    Shapes: images `(B, C, H, W)` float or uint8, H and W divisible by 4; logits `(B, num_classes)`.
    """

    def __init__(self, x_shape: tuple[int, int, int], num_classes: int):
        super().__init__()
        channels, height, width = x_shape
        self.features = nn.Sequential(
            nn.Conv2d(channels, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64 * (height // 4) * (width // 4), 128),
            nn.ReLU(),
        )
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(128, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(to_unit(x)))

    @torch.no_grad()
    def embed(self, x: Tensor) -> Tensor:
        """The penultimate features, `(B, 128)`."""
        return torch.cat([self.features(to_unit(part)) for part in x.split(1000)])

    @torch.no_grad()
    def classify(self, x: Tensor) -> Tensor:
        """Class probabilities, `(B, num_classes)`."""
        return torch.cat([self(part).softmax(-1) for part in x.split(1000)])


def independent_classifier(
    data: ImageData,
    *,
    seed: int = 0,
    steps: int = 900,
    device: torch.device | str = "cpu",
    cache: str | Path | None = None,
    progress: bool = True,
) -> tuple[ImageClassifier, float]:
    """The classifier of a data set and its test accuracy, trained once and cached.

    Args:
        steps: Adam steps on batches of 200 with a cosine learning rate from 1e-3.
        cache: the folder of cached classifiers: default `$PYRO_SEMIVAE_CACHE`, else `~/.cache/pyro_semivae`.
    """
    folder = Path(cache or os.environ.get(CACHE_ENV) or Path.home() / ".cache" / "pyro_semivae")
    sums = int(data.x.sum(dtype=torch.int64)), int(data.y.sum())
    key = hashlib.sha256(f"{data.name} {tuple(data.x.shape)} {sums} {seed} {steps} {VERSION}".encode()).hexdigest()[:12]
    path = folder / f"classifier-{data.name}-{key}.pt"
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        classifier = ImageClassifier(data.x_shape, len(data.classes))
        if path.is_file():
            state = load_checkpoint(path, "ImageClassifier")
            classifier.load_state_dict(state["weights"])
            return classifier.to(device).eval(), state["test_accuracy"]
        classifier.to(device).train()
        optimiser = torch.optim.Adam(classifier.parameters(), 1e-3, fused=True)
        x, y = data.x.to(device), data.y.to(device)
        for step in steps_of(steps, f"independent classifier on {data.name}", progress):
            optimiser.param_groups[0]["lr"] = 5e-4 * (1 + math.cos(math.pi * step / steps))
            rows = torch.randint(len(x), (200,)).to(device)
            loss = F.cross_entropy(classifier(x[rows]), y[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    classifier.eval()
    right = classifier.classify(data.x_test.to(device)).argmax(-1).cpu() == data.y_test
    accuracy = right.double().mean().item()
    weights = {name: value.cpu() for name, value in classifier.state_dict().items()}
    try:
        writable_folder(folder, CACHE_ENV)
        save_checkpoint(path, {"model": "ImageClassifier", "weights": weights, "test_accuracy": accuracy})
    except InputError as error:
        print(f"NOTE: the independent classifier is not cached: {error}", file=sys.stderr, flush=True)
    return classifier, accuracy
