"""Conditional-generation accuracy: do images generated for a label look like it to an independent classifier?"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from pyro_semivae.metrics.accuracy import accuracy


def generation_accuracy(
    generate: Callable[[Tensor], Tensor], classify: Callable[[Tensor], Tensor], y: Tensor
) -> tuple[float, Tensor]:
    """CCVAE D.6: the accuracy of a classifier on images generated with the condition as the label.

    Args:
        generate: labels `(B,)` -> images `(B, C, H, W)`.
        classify: images -> class probabilities `(B, C)`, of a classifier trained on real images.
        y: the labels to generate.

    Returns the accuracy and the images.
    """
    images = generate(y)
    return accuracy(classify(images), y), images
