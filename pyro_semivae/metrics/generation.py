"""Conditional-generation accuracy: do images generated for a label look like it to an independent classifier?"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from pyro_semivae.metrics.accuracy import mean_accuracy
from pyro_semivae.spaces import as_labels


def generation_accuracy(
    generate: Callable[[Tensor], Tensor], classify: Callable[[Tensor], Tensor], y: Tensor
) -> tuple[float, Tensor]:
    """CCVAE D.6: the accuracy of a classifier on images generated with the condition as the label.

    Args:
        generate: labels `(B,)` or `(B, L)` -> images `(B, C, H, W)`.
        classify: images -> probabilities of the classes `(B, C)` or that labels are on `(B, L)`, of a classifier
            trained on real images.
        y: the labels to generate; missing ones (-1, NaN) are left to `generate`, and do not count.

    Returns the accuracy (of binary labels: their mean accuracy; NaN where all are missing) and the images.

    Raises:
        InputError: see `accuracy` and `label_accuracy`, of what `classify` returns.
    """
    y = as_labels(y)
    images = generate(y)
    return mean_accuracy(classify(images), y), images
