"""The hand-written programs that the benchmark times compute the library's objectives."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyro
import pytest
import torch
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_semivae.conditionals import LaplaceLikelihood
from pyro_semivae.data import Batch
from pyro_semivae.models import CCVAE, M2
from pyro_semivae.nn import Convs, MLPs
from pyro_semivae.spaces import Binary, Classes, Counts

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from handwritten import CASES, common, counts, faces, images


class Noise(TorchDispatchMode):
    """Records all random tensors, or gives recorded ones in their order.

    Attributes:
        drawn: the recorded tensors. given: the tensors to give.
    """

    def __init__(self, given=None):
        super().__init__()
        self.drawn, self.given = [], None if given is None else list(given)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return out
        if self.given is None:
            self.drawn.append(out.clone())
            return out
        return out.copy_(self.given.pop(0).broadcast_to(out.shape))


@dataclass(frozen=True)
class Small:
    """A small model for a case's program.

    Attributes:
        make: returns the model and its objective. batch: for the batch's other values than scale and rows.
        noise: the library's random tensors -> those of the program.
    """

    make: Callable
    batch: Callable
    noise: Callable
    labelled: int = 2


X, SCALE = (1, 3, 5), torch.tensor([0.3, 0.3, 0.7, 0.7, 0.7, 0.7, 0.7])
Y = torch.tensor([3, 9, -1, -1, -1, -1, -1])


def ccvae():
    vae = CCVAE(X, Classes(10), z_c=4, z_s=0, networks=MLPs((11,)))
    return vae, vae.elbo(marginal="jensen", weights="independent", num_samples=images.K)


def m2():
    vae = M2(X, Classes(10), networks=MLPs((11,)), z=6)
    return vae, vae.elbo(classifier_weight=images.ALPHA)


def of_faces():
    vae = CCVAE((3, 17, 16), Binary(5), z_s=4, networks=Convs(), likelihood=LaplaceLikelihood)
    return vae, faces.objective(vae)


def of_counts():
    vae = counts.Cells(Counts(9), Classes(4), z=3)
    return vae, vae.elbo()


def binary_labels():
    y = torch.full((7, 5), torch.nan)
    y[:2] = torch.tensor([[0.0, 1, 1, 0, 1], [1, 1, 0, 0, 0]])
    return y


SMALL = {
    "ccvae": Small(ccvae, lambda: {"x": torch.rand(7, *X), "y": Y}, lambda z, _: [z[0], z[1:, :2]]),
    "m2": Small(m2, lambda: {"x": torch.rand(7, *X), "y": Y}, lambda z_l, z_u: [z_l, z_u.squeeze(1)]),
    "ccvae-faces": Small(
        of_faces,
        lambda: {"x": torch.rand(7, 3, 17, 16), "y": binary_labels()},
        lambda z_c, z_s: [torch.cat([z_c[0], z_s[0].squeeze(1)], 1), z_c[1:, :2]],
    ),
    "counts": Small(
        of_counts,
        lambda: {"x": torch.rand(7, 9).mul(8).floor(), "y": Y.clamp(max=2), "size": 10 + 30 * torch.rand(7, 1)},
        lambda z: [torch.cat([z[Y[:2].clamp(max=2), 0, [0, 1]], z[:, 0, 2:].flatten(0, 1)])],
    ),
}


def losses_of(name):
    """Of the library and of the program: name of a loss -> the loss and its gradients."""
    small = SMALL[name]
    vae, elbo = small.make()
    values = small.batch()
    batch = Batch(values, SCALE, torch.arange(len(SCALE)), small.labelled)
    critics, module = elbo.modules(), elbo(vae.model, vae.guide)
    trained = {"loss": vae, **critics}
    with Noise() as noise, pyro.validation_enabled(False):
        found = module.evaluate(*map(values.get, vae.spaces), scale=SCALE, labelled=small.labelled)
        ours = {"loss": -found.total(), **found.losses}
    with Noise(small.noise(*noise.drawn)) as given:
        by_hand = CASES[name].losses(vae, critics, batch)
    assert not given.given
    return [
        {
            of: (loss, torch.autograd.grad(loss, [*trained[of].parameters()], retain_graph=True, allow_unused=True))
            for of, loss in losses.items()
        }
        for losses in (ours, by_hand)
    ]


@pytest.mark.parametrize("name", CASES)
def test_a_program_has_the_losses_and_gradients_of_the_library(name):
    ours, by_hand = losses_of(name)
    assert_close(by_hand, ours, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_a_wrong_sign_is_seen(monkeypatch, name):
    program = sys.modules[CASES[name].losses.__module__]
    monkeypatch.setattr(program, "log_normal", lambda *given: -common.log_normal(*given))
    ours, by_hand = losses_of(name)
    with pytest.raises(AssertionError):
        assert_close(by_hand, ours)
