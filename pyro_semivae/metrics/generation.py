"""Conditional-generation accuracy: does an independent classifier assign generated images their label?"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from pyro_semivae.metrics.accuracy import mean_accuracy
from pyro_semivae.spaces import as_labels


def generation_accuracy(
    generate: Callable[[Tensor], Tensor], classify: Callable[[Tensor], Tensor], y: Tensor
) -> tuple[float, Tensor]:
    """The accuracy of a classifier on generated images, with the condition as the true label (CCVAE D.6).

    Args:
        generate: labels `(B,)` or `(B, L)` -> images `(B, C, H, W)`.
        classify: images -> probabilities of the classes `(B, C)`, or of labels being 1 `(B, L)`, from a classifier
            trained on real images.
        y: the labels to generate; missing ones (-1, NaN) are left to `generate` and do not count.

    Returns the accuracy (for binary labels their mean accuracy; NaN if all are missing) and the images.

    Raises:
        InputError: the output of `classify` is not valid, see `accuracy` and `label_accuracy`.
    """
    y = as_labels(y)
    images = generate(y)
    return mean_accuracy(classify(images), y), images
