"""The hand-written programs that the benchmark times compute the library's objectives."""

import runpy
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_semivae.conditionals import BernoulliLikelihood, LaplaceLikelihood
from pyro_semivae.data import Batch
from pyro_semivae.models import CCVAE, M2, InvertedVAE, LaRVAE, RbVAE
from pyro_semivae.nn import Convs, InstanceNormConvs, MLPs, Paired, PixelNormConvs
from pyro_semivae.spaces import Binary, Classes, Counts, Images, Real

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from handwritten import CASES, common, counts, faces, images, larvae, rbvae, two_labels

SPEED = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "speed.py"))


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
        make: returns the model and its objective. batch: returns the batch's values. alone: returns its labels without
            images. labelled: the number of labelled rows. strata: of the label y.
        noise: the library's random tensors -> those of the program.
    """

    make: Callable
    batch: Callable
    noise: Callable
    labelled: int = 2
    alone: Callable = lambda: None
    strata: tuple = ()


X, SCALE = (1, 3, 5), torch.tensor([0.3, 0.3, 0.7, 0.7, 0.7, 0.7, 0.7])
Y = torch.tensor([3, 9, -1, -1, -1, -1, -1])
Y_OF_SETS = torch.tensor([0, 0, 0, 1, 1, 1, 1])
PAIRS = {"digit": torch.tensor([3, 1, -1, -1, -1, -1, -1]), "colour": torch.tensor([2, -1, 0, -1, -1, -1, -1])}


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


def of_two_labels():
    vae = two_labels.Coloured(Images(3, 2, 4), Classes(4), Classes(3), z=5)
    return vae, vae.elbo()


def of_larvae():
    networks = Paired(InstanceNormConvs(3, 11, normalise=False), MLPs((13,)))
    vae = LaRVAE((3, 32, 32), Real(4), z=2, networks=networks, likelihood=BernoulliLikelihood)
    return vae, larvae.objective(vae)


def of_inverted():
    hidden = {"classifier_hidden": (7,), "encoder_hidden": (8,), "decoder_hidden": (9,)}
    vae = InvertedVAE(X, Classes(6), z=2, **hidden)
    return vae, vae.elbo_for(None)


def of_rbvae():
    likelihood = partial(LaplaceLikelihood, scale=rbvae.SCALE)
    vae = RbVAE((2, 17, 16), z=4, e=3, networks=PixelNormConvs(3, strided=True), likelihood=likelihood)
    return vae, rbvae.objective(vae)


def noise_of_larvae(*drawn):
    y_u, z_u, *_, z_l, _, rows, z_g, _ = drawn
    return [z_l.squeeze(1), rows.T, z_g.squeeze(1), torch.cat([y_u, z_u.squeeze(1)], 1)]


def noise_of_inverted(relaxed, z, _, z_of_image, *reverse):
    _, z_a, x_a, *_ = reverse
    return [torch.cat([z_of_image, z_a]), x_a.flatten(1), relaxed[2:], z]


def noise_of_rbvae(z, e, score, crossed, z_g, e_g):
    other = torch.where(Y_OF_SETS[:, None] != Y_OF_SETS, score, -1.0).argmax(1)
    return [z, e[:3], other[:3] - 3, other[3:], crossed, z_g, e_g[:3]]


def real_labels():
    return torch.where((torch.arange(7) < 2)[:, None], torch.randn(7, 4), torch.nan)


def binary_labels():
    y = torch.full((7, 5), torch.nan)
    y[:2] = torch.tensor([[0.0, 1, 1, 0, 1], [1, 1, 0, 0, 0]])
    return y


SMALL = {
    "ccvae": Small(ccvae, lambda: {"x": torch.rand(7, *X), "y": Y}, lambda z, _: [z[0], z[1:, :2]]),
    "m2": Small(m2, lambda: {"x": torch.rand(7, *X), "y": Y}, lambda z_l, z_u: [torch.cat([z_l, z_u.flatten(0, 2)])]),
    "ccvae-faces": Small(
        of_faces,
        lambda: {"x": torch.rand(7, 3, 17, 16), "y": binary_labels()},
        lambda z_c, z_s: [torch.cat([z_c[0], z_s[0].squeeze(1)], 1), z_c[1:, :2]],
    ),
    "inverted": Small(
        of_inverted,
        lambda: {"x": torch.rand(7, *X), "y": Y.clamp(max=5)},
        noise_of_inverted,
        alone=lambda: Batch({"y": torch.tensor([5, 0, 4])}, torch.tensor([0.4, 0.4, 0.4]), torch.arange(3)),
    ),
    "larvae": Small(of_larvae, lambda: {"x": torch.rand(7, 3, 32, 32), "y": real_labels()}, noise_of_larvae),
    "rbvae": Small(
        of_rbvae,
        lambda: {"x": torch.rand(7, 2, 17, 16), "y": Y_OF_SETS},
        noise_of_rbvae,
        labelled=0,
        strata=(3, 4),
    ),
    "two-labels": Small(
        of_two_labels,
        lambda: {"x": torch.rand(7, 3, 2, 4), **PAIRS},
        lambda z: [z.squeeze(2)],
        labelled=3,
    ),
    "counts": Small(
        of_counts,
        lambda: {"x": torch.rand(7, 9).mul(8).floor(), "y": Y.clamp(max=2), "size": 10 + 30 * torch.rand(7, 1)},
        lambda z_l, z_u: [torch.cat([z_l, z_u.flatten(0, 2)])],
    ),
}


def losses_of(name):
    """Of the library and of the program: name of a loss -> the loss and its gradients."""
    small = SMALL[name]
    vae, elbo = small.make()
    values = small.batch()
    strata = {"y": small.strata} if small.strata else {}
    batch = Batch(values, SCALE, torch.arange(len(SCALE)), small.labelled, small.alone(), strata)
    critics, module = elbo.modules(), elbo(vae.model, vae.guide)
    trained = {"loss": vae, **critics}
    with Noise() as noise:
        ours, _ = SPEED["evaluated"](module, *SPEED["given_of"](batch, tuple(vae.spaces)))
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
