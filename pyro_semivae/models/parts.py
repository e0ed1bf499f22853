"""Conditionals that several models are made of, for one class label or several binary ones."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from pyro_semivae.conditionals import (
    BernoulliPrior,
    Categorical,
    CategoricalPrior,
    Conditional,
    Gaussian,
    PerLabelAndRestGaussian,
    PerLabelBernoulli,
    PerLabelGaussian,
    SplitGaussian,
)
from pyro_semivae.data.noise import shift
from pyro_semivae.errors import InputError, check_count
from pyro_semivae.labels import Binary, Classes, any_known
from pyro_semivae.nn import MLP, Networks, OneHot, Shape

Labels = Classes | Binary


def check_sizes(**sizes: int) -> None:
    """Checks sizes of latents: all from 1, but `z_s`, the rest, from 0.

    Raises:
        InputError: one is smaller, or no whole number.
    """
    for name, size in sizes.items():
        check_count(name, size, 0 if name == "z_s" else 1)


def drawn_labels(labels: Labels, options: dict) -> dict:
    """Options of `TraceLabels_ELBO` for models whose data depends on all labels: missing binary ones are drawn.

    Raises:
        InputError: they ask for the sum over 2^L values.
    """
    if not isinstance(labels, Binary):
        return options
    if options.get("labels") == "sum":
        raise InputError("labels: got 'sum', which is 2^L terms here; accepted are 'relaxed', 'score'")
    return {"labels": "relaxed", **options}


def classifier_weight(alpha: float, y: Tensor | None) -> float:
    """alpha N / N_labelled, on log q(y|.) of a labelled row: their total weight is alpha N however few they are.

    >>> classifier_weight(0.1, torch.tensor([3, -1, -1, 0]))
    0.2
    """
    known = 0 if y is None else int(any_known(y).sum())
    return alpha * len(y) / known if known else alpha


# The weights of the examples' recipe: of a class label, of binary ones. ALPHA weighs a classifier, see above.
ALPHA, BETA = (1000.0, 100.0), (4.0, 1.0)


def recipe_weights(labels: Labels, y: Tensor | None) -> dict[str, float]:
    """The weights of the examples' recipe for objectives with a classifier beside the bound.

    >>> recipe_weights(Classes(3), torch.tensor([0, -1]))
    {'classifier_weight': 2000.0, 'beta': 4.0}
    """
    kind = int(isinstance(labels, Binary))
    return {"classifier_weight": classifier_weight(ALPHA[kind], y), "beta": BETA[kind]}


def recipe_corruption(labels: Labels, x_shape: Shape) -> Callable[[Tensor], Tensor] | None:
    """The recipe's noise on what the guide sees: with a class label a shift by up to a pixel in 28, else none."""
    pixels = 0 if isinstance(labels, Binary) else round(min(x_shape[1:]) / 28)
    return partial(shift, pixels=pixels) if pixels else None


def frozen(module: nn.Module) -> nn.Module:
    """A copy whose parameters are buffers: kept and saved, and trained by nothing."""
    module = copy.deepcopy(module)
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            delattr(part, name)
            part.register_buffer(name, parameter.detach())
    return module


def label_prior(labels: Labels, probs: Tensor | None = None) -> Conditional:
    """p(y), uniform where no probabilities are given."""
    return (BernoulliPrior if isinstance(labels, Binary) else CategoricalPrior)(labels.prior(probs))


def label_code(labels: Labels) -> nn.Module:
    """Labels as what networks take: one-hot classes, binary labels as they are."""
    return nn.Identity() if isinstance(labels, Binary) else OneHot(labels.num_classes)


class KnownValues(nn.Module):
    """Labels to `batch + (E,)`, 1 for each value that a label is observed to have: `C` classes, or off and on of `L`.

    >>> KnownValues(Classes(3))(torch.tensor([2, -1])).tolist()
    [[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    >>> KnownValues(Binary(2))(torch.tensor([[1.0, torch.nan]])).tolist()
    [[0.0, 0.0, 1.0, 0.0]]
    """

    def __init__(self, labels: Labels):
        super().__init__()
        self.size = 2 * labels.num_labels if isinstance(labels, Binary) else labels.num_classes
        table = torch.cat([torch.eye(self.size), torch.zeros(1, self.size)])  # -1 is the last row
        self.register_buffer("table", table, persistent=False)

    def forward(self, y: Tensor) -> Tensor:
        return torch.cat([y == 0, y == 1], -1).to(self.table) if y.is_floating_point() else self.table[y.long()]


def characteristic_size(labels: Labels, z_c: int) -> int:
    """The number of entries of z_c: one for each binary label, `z_c` for a class label."""
    return labels.num_labels if isinstance(labels, Binary) else z_c


def split_encoder(labels: Labels, networks: Networks, x_shape: Shape, z_c: int, z_s: int) -> Conditional:
    """q(z_c, z_s | x), in the plates that the labels ask for."""
    size = characteristic_size(labels, z_c)
    net = networks.encoder(x_shape, 2 * (size + z_s))
    return PerLabelAndRestGaussian(net, size, z_s) if isinstance(labels, Binary) else SplitGaussian(net, (size, z_s))


def characteristic_prior(labels: Labels, z_c: int, hidden: tuple[int, ...], separation: float) -> Conditional:
    """p(z_c | y): Gaussians whose parameters an MLP makes of the class, or two Gaussians for each binary label."""
    if isinstance(labels, Binary):
        return PerLabelGaussian(labels.num_labels, separation)
    return Gaussian(nn.Sequential(label_code(labels), MLP([(labels.code_size,)], hidden, (2 * z_c,))))


def characteristic_classifier(labels: Labels, z_c: int, hidden: tuple[int, ...], slope: float = 1.0) -> Conditional:
    """q(y | z_c): an MLP for a class label, a line for each binary one."""
    if isinstance(labels, Binary):
        return PerLabelBernoulli(labels.num_labels, slope)
    return Categorical(MLP([(z_c,)], hidden, (labels.num_classes,)))
