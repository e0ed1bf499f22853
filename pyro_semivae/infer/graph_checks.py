"""What a traced graph is checked for: that it is a function of tensors, and computes what the function computes."""

from __future__ import annotations

import pickle
import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from pyro_semivae.errors import InputError

TOLERANCE = {torch.float64: 1e-6, torch.float32: 0.02}  # of gradients, relative to their norm
LOWER = 0.2  # the tolerance in lower precision, also under autocast, whose losses are of float32
TF32 = 0.1  # the tolerance on a GPU that computes products of float32 with ten bits, as torch lets convolutions do


class NotTraceable(InputError):
    """A function cannot be run as one graph; the message says why.

    Attributes:
        first: whether it happened at the first call of a signature, before its graph was used for training.
    """

    first = False


@contextmanager
def as_before(buffers: Iterable[Tensor], *, on_error_alone: bool = False) -> Iterator[None]:
    """What is done inside changes neither torch's random generators nor these buffers.

    Args:
        on_error_alone: only if it raises an error.
    """
    kept = [(buffer, buffer.clone()) for buffer in buffers]
    generators = [torch.default_generator, *(torch.cuda.default_generators if torch.cuda.is_initialized() else ())]
    states = [generator.get_state() for generator in generators]
    restores = True
    try:
        yield
        restores = not on_error_alone
    finally:
        if restores:
            for generator, state in zip(generators, states, strict=True):
                generator.set_state(state)
            with torch.no_grad():
                for buffer, before in kept:
                    if not torch.equal(buffer, before):
                        buffer.copy_(before)


@contextmanager
def torch_alone() -> Iterator[None]:
    """Refuses random numbers that are not torch's: they would be constants of a graph."""
    own, of_numpy = random.getstate(), np.random.get_state(legacy=False)  # noqa: NPY002
    yield
    drawn = ["random"] if random.getstate() != own else []
    now = np.random.get_state(legacy=False)  # noqa: NPY002
    drawn += ["numpy.random"] if pickle.dumps(now) != pickle.dumps(of_numpy) else []
    if drawn:
        random.setstate(own)
        np.random.set_state(of_numpy)  # noqa: NPY002
        raise NotTraceable(f"compile: the step draws from {drawn[0]}; expected torch's random numbers alone")


Found = tuple[dict[str, Tensor], dict[str, list[Tensor | None]], Any]  # losses, their gradients, other outputs


def check_same(found: Found, expected: Found, *, exact: bool) -> None:
    """Compares a graph's losses, gradients and other outputs with the function's own, of the same noise.

    Args:
        exact: whether they may differ by the order of sums alone, as those of a graph that is not compiled.
    """
    for name, loss in expected[0].items():
        tolerance = _tolerance(loss, exact)
        pairs = list(zip(found[1][name], expected[1][name], strict=True))
        off = [
            float((found[0][name] - loss).abs() / loss.abs().clamp(min=1.0)),
            _off([a for a, _ in pairs], [b for _, b in pairs], least=1e-6 * max(1.0, float(loss.abs()))),
            *(_off([a], [b], least=1.0) for a, b in zip(*map(_tensors, (found[2], expected[2])), strict=True)),
        ]
        if bool(loss.isfinite()) and not all(part <= tolerance for part in off):
            raise NotTraceable(
                f"compile: the graph has the loss {float(found[0][name]):.6g} and the model, from the same random "
                f"numbers, {float(loss):.6g}; their gradients differ by {off[1]:.2g} of their norm, their terms by up "
                f"to {max(off[2:], default=0.0):.2g}. Something in model, guide or terms is not a function of tensors "
                f"and torch's random numbers alone, such as an attribute that changes from step to step, or a "
                f"generator of its own"
            )


def _tolerance(loss: Tensor, exact: bool) -> float:
    if loss.dtype not in TOLERANCE or torch.is_autocast_enabled(loss.device.type):
        return LOWER
    if exact:
        return 1e-5
    shortened = torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32
    return TF32 if loss.is_cuda and loss.dtype == torch.float32 and shortened else TOLERANCE[loss.dtype]


def _tensors(tree: Any) -> list[Tensor]:
    """The outputs to compare; scalars may be weights, which are numbers without a graph."""
    leaves, _ = tree_flatten(tree)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.dim()]


def _off(found: Sequence[Tensor | None], expected: Sequence[Tensor | None], *, least: float) -> float:
    """The norm of a difference, relative to the norm of what is expected; missing tensors are zeros."""
    pairs = [(a, b) for a, b in zip(found, expected, strict=True) if a is not None or b is not None]
    if not pairs:
        return 0.0
    mine = _joined([torch.zeros_like(b) if a is None else a for a, b in pairs])
    theirs = _joined([torch.zeros_like(a) if b is None else b for a, b in pairs])
    return float((mine - theirs).nan_to_num().norm() / theirs.nan_to_num().norm().clamp(min=least))


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().double().flatten() for tensor in tensors])


def first_line(error: BaseException) -> str:
    """An error's class and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
