"""Images of one class as references, those of the others as the unlabelled pool, e.g. neutral faces and expressions."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_semivae.data.image_data import ImageData
from pyro_semivae.data.reference import ReferenceData, Shown
from pyro_semivae.errors import InputError, check_choice, check_count


def one_class(base: ImageData, reference: str, *, images: int = 0, seed: int = 0) -> ReferenceData:
    """Splits a data set by class, for learning what distinguishes the other classes from one (Ruiz et al., 4).

    The attributes are the classes except the reference class; there are no numeric factors and no further classes.
    Images are shuffled, in an order that depends on the seed alone. Images without a label are in the pool, and are
    not evaluated. Half of the test images of the other classes are for training probes.

    Args:
        base: images with class labels. reference: the references' class. images: the number of training images to
            use, 2 or more; 0: all. seed: of the order.

    Raises:
        InputError: the data have no class labels, there is no such class, or there is no training image of that class
            or of the other classes.
    """
    if base.labels.num_values is None or base.labels.entries is not None:
        raise InputError(f"base: got {base.name}; expected images with class labels")
    neutral = base.label_names.index(check_choice("reference", reference, base.label_names))
    generator = torch.Generator().manual_seed(seed)
    number = min(check_count("images", images, 0) or len(base.x), len(base.x))
    rows = torch.randperm(len(base.x), generator=generator)[:number]
    rows_test = torch.randperm(len(base.x_test), generator=generator)
    known = (base.y_test[rows_test] != -1) & (base.y_test[rows_test] != neutral)
    pool, references = rows[base.y[rows] != neutral], rows[base.y[rows] == neutral]
    if not len(pool) or not len(references):
        got = f"{len(references)} of class {reference!r} among {number} training images, {len(pool)} others"
        raise InputError(f"images: got {got}; expected one or more of both")
    x = base.x[torch.cat([pool, references])]
    y = torch.arange(2).repeat_interleave(torch.tensor([len(pool), len(references)]))
    measured = _shown(base.x_test[rows_test[known]], base.y_test[rows_test[known]], neutral)
    middle = len(measured) // 2
    names = tuple(name for name in base.label_names if name != reference)
    unlabelled = _shown(x[: len(pool)], base.y[pool], neutral)
    name = f"{base.name}-{base.x_shape[-1]}"
    return ReferenceData(name, (), (), x, y, unlabelled, measured[:middle], measured[middle:], names)


def _shown(x: Tensor, y: Tensor, neutral: int) -> Shown:
    """Images with attributes that number the classes without the reference class; -1 stays -1."""
    return Shown(x, torch.zeros(len(x), 0), torch.full((len(x),), -1), y - (y > neutral).long())
