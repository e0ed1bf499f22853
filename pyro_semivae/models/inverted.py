"""The inverted VAE ("labels untapped"): two models, each the other's guide (Gemp, Parente, Mahadevan, 2017)."""

from __future__ import annotations

from collections.abc import Callable

import pyro
from torch import Tensor, nn

from pyro_semivae.conditionals import (
    BernoulliLikelihood,
    Label,
    LabelPrior,
    SquashedGaussian,
    UniformBox,
    UniformImage,
)
from pyro_semivae.errors import InputError
from pyro_semivae.infer import TraceInverted_ELBO
from pyro_semivae.models import parts
from pyro_semivae.models.base import SemiVAE
from pyro_semivae.nn import MLP, Noisy
from pyro_semivae.spaces import Data, Labels


class InvertedVAE(SemiVAE):
    """Two models with the same parameters: images given labels and latents, and labels and latents given images.

    ::

        p(y) p(z) p(x | y, z)               forward: generative model; in reverse the guide
        q(x) q(y | x) q(z | x, y)           forward: inference model; in reverse the model

    ====  ======  ========================================  ======================================================
    site  symbol  shape: one class label | L binary labels  role (forward; in reverse)
    ====  ======  ========================================  ======================================================
    y     y       (B,) | (B, L)                             label, marginalised or sampled where missing; observed
    z     z       (B, D_z) | (B, 1, D_z)                    latent; observed too, or latent
    x     x       (B, C, H, W) | (B, 1, C, H, W)            data; latent: imagined
    ====  ======  ========================================  ======================================================

    Forward, it is M2 with z in a box: p(z) is uniform on `[low, high]^D_z`, and q(z | x, y) is a Gaussian pushed
    through a scaled sigmoid. The guide also has a density of images, q(x), with every pixel Bernoulli(1/2). In reverse,
    the same two functions exchange roles: the guide generates labels (and z) from images that the model samples. In
    this way labels without images train both: `elbo.terms(vae.model, vae.guide, None, y)`, or
    `fit(..., unpaired_labels=y)`.

    Args:
        x_shape: `(C, H, W)` of the images, float in [0, 1]; grey levels as `BernoulliLikelihood` takes them.
        labels: the label space.
        z: D_z. low, high: the box.
        classifier_hidden, encoder_hidden, decoder_hidden: hidden sizes of q(y | x), q(z | x, y), p(x | y, z).
        activation: the class of the non-linearity of all hidden layers.
        prior: p(y); uniform by default.
        classifier_noise: noise on the images that q(y | x) sees in training, e.g. `data.jitter`. y is then classified
            by what the noise preserves, and z carries the rest, as q(z | x, y) sees the clean image. See `nn.Noisy`.

    The default networks and box are those of the paper's Appendix D. The objective is `TraceInverted_ELBO`: Eqs. 3 to
    8, and 17.

    Differs from the reference code (github.com/all-umass/untapped): its z2 is called z; images are grey, not rounded;
    the box is the paper's (there: +- pi/2); labels are not softened, as the categorical distribution scores observed
    ones.

    >>> from pyro_semivae.spaces import Classes
    >>> import torch
    >>> vae = InvertedVAE((1, 8, 8), Classes(10))
    >>> x, y = torch.rand(4, 1, 8, 8), torch.tensor([3, -1, -1, 0])
    >>> sorted(vae.elbo().terms(vae.model, vae.guide, x, y))
    ['-log q(y_m|x)', '-log q(z|x,y)', 'log p(x|y,z)', 'log p(y)', 'log p(z)']
    >>> sorted(vae.elbo().terms(vae.model, vae.guide, None, torch.tensor([7, 7])))
    ['reverse: -log p(x|y,z)', 'reverse: log q(x)', 'reverse: log q(y|x)', 'reverse: log q(z|x,y)']

    Reference: I. Gemp, M. Parente, S. Mahadevan, "Inverting VAEs for Improved Generative Accuracy", 2017.
    """

    characteristic = ("y",)

    def __init__(
        self,
        x_shape: tuple[int, int, int] | Data,
        labels: Labels,
        *,
        z: int = 2,
        low: float = -1.5,
        high: float = 1.5,
        classifier_hidden: tuple[int, ...] = (50, 50),
        encoder_hidden: tuple[int, ...] = (10, 10),
        decoder_hidden: tuple[int, ...] = (250, 500),
        activation: type[nn.Module] = nn.Tanh,
        prior: Tensor | None = None,
        classifier_noise: Callable[[Tensor], Tensor] | None = None,
    ):
        super().__init__(x=x_shape, y=labels)
        parts.check_sizes(z=z)
        if not low < high:
            raise InputError(f"low, high: got {low}, {high}; expected low < high")
        self.p_y = LabelPrior(labels, prior)
        self.p_z = UniformBox(z, low, high)
        self.p_x = BernoulliLikelihood(self.spaces["x"], MLP([labels, z], decoder_hidden, self.x_shape, activation))
        self.q_x = UniformImage(self.x_shape)
        q_y = MLP([self.x_shape], classifier_hidden, (labels.raw_size,), activation)
        if classifier_noise is not None:
            q_y = Noisy(q_y, classifier_noise)
        self.q_y = Label(labels, q_y)
        self.q_z = SquashedGaussian(MLP([self.x_shape, labels], encoder_hidden, (2 * z,), activation), low, high)

    def model(self, x: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        self.register()
        with self.rows(x, y) as (x, y):
            with self.entries("y"):
                y = pyro.sample("y", self.p_y(), obs=y, infer={"enumerate": "parallel"})
            z = pyro.sample("z", self.p_z())
            return pyro.sample("x", self.p_x(y, z), obs=x)

    def guide(self, x: Tensor | None = None, y: Tensor | None = None) -> None:
        with self.rows(x, y) as (x, y):
            x = pyro.sample("x", self.q_x(), obs=x, infer={"is_auxiliary": x is not None})
            with self.entries("y"):
                y = pyro.sample("y", self.q_y(x), obs=y, infer={"enumerate": "parallel"})
            pyro.sample("z", self.q_z(x, y))

    def elbo(self, **options) -> TraceInverted_ELBO:
        """The objective of both models; see `TraceInverted_ELBO` for its options."""
        options = parts.drawn_labels(self.labels, options)
        return TraceInverted_ELBO(max_plate_nesting=self.max_plate_nesting, **options)

    def elbo_for(self, y: Tensor | None) -> TraceInverted_ELBO:
        """The objective with the weights of the example's recipe.

        The weights of the paper's Appendix D are a `classifier_weight` of 10, an `image_weight` of 0.1 and a
        `reverse_weight` of 1."""
        weights = {"classifier_weight": 5.0, "image_weight": 10.0, "reverse_weight": 10.0}
        return self.elbo(missing_labels="gumbel", gradient="hard", temperature=0.67, **weights)
