"""M1: a VAE on all rows, then a classifier on its latents (Kingma, Rezende, Mohamed, Welling, NIPS 2014)."""

from __future__ import annotations

import warnings

import numpy as np
import pyro
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from pyro_semivae.conditionals import Gaussian, Label, StandardNormal
from pyro_semivae.errors import InputError
from pyro_semivae.infer import TraceLabels_ELBO
from pyro_semivae.models import parts
from pyro_semivae.models.base import SemiVAE
from pyro_semivae.nn import Networks
from pyro_semivae.spaces import Data, Labels, is_missing


class _Line(nn.Module):
    """A linear map without trained parameters: the second stage sets its weights."""

    def __init__(self, in_size: int, out_size: int):
        super().__init__()
        self.register_buffer("weight", torch.zeros(out_size, in_size))
        self.register_buffer("bias", torch.zeros(out_size))

    def forward(self, z: Tensor) -> Tensor:
        return nn.functional.linear(z, self.weight, self.bias).to(self.weight.dtype)


class M1(SemiVAE):
    """A VAE and a linear classifier on its latents, which is fitted afterwards.

    ::

        p(z) p(x | z)                  generative model
        q(z | x) q(y | z)              inference model

    ====  ======  ========================================  =========================
    site  symbol  shape: one class label | L binary labels  role
    ====  ======  ========================================  =========================
    y     y       (B,) | (B, L)                             label, in the guide alone
    z     z       (B, D_z) | (B, 1, D_z)                    latent
    x     x       (B, C, H, W) | (B, 1, C, H, W)            data
    ====  ======  ========================================  =========================

    Two stages: train with `elbo()`, the VAE's ELBO, on all rows; then call `fit_classifier(x, y)`. It fits
    scikit-learn's logistic regression to the posterior means of the labelled rows and copies its weights to q(y | z).
    The first stage does not use labels, so M1 can neither generate from a label nor intervene on one: use M2, M3 or
    CCVAE for that.

    Args:
        x_shape, labels, networks, likelihood: see `CCVAE`. z: D_z.

    Differs from the original: logistic regression (there: a transductive SVM, or M2 on the latents).

    >>> from pyro_semivae.spaces import Classes
    >>> from pyro_semivae.nn import MLPs
    >>> vae = M1((1, 8, 8), Classes(10), networks=MLPs((16,)))
    >>> x, y = torch.rand(20, 1, 8, 8), torch.arange(20) % 10
    >>> vae.fit_classifier(x, y).q_y(torch.zeros(3, 20)).probs.shape
    torch.Size([3, 10])
    """

    def __init__(
        self,
        x_shape: tuple[int, int, int] | Data,
        labels: Labels,
        *,
        z: int = 20,
        networks: Networks | None = None,
        likelihood: parts.MakeLikelihood | None = None,
    ):
        super().__init__(x=x_shape, y=labels)
        parts.check_sizes(z=z)
        networks, likelihood = parts.defaults(self.spaces["x"], networks, likelihood)
        self.p_z = StandardNormal(z)
        self.p_x = parts.decoder(likelihood, networks, [z], self.spaces["x"])
        self.q_z = Gaussian(networks.encoder(self.x_shape, 2 * z))
        self.q_y = Label(labels, _Line(z, labels.raw_size))

    def model(self, x: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        self.register()
        with self.rows(x, y) as (x, y):
            z = pyro.sample("z", self.p_z())
            return pyro.sample("x", self.p_x(z), obs=x)

    def guide(self, x: Tensor | None = None, y: Tensor | None = None) -> None:
        with self.rows(x, y) as (x, y):
            z = pyro.sample("z", self.q_z(x))
            with self.entries("y"):
                pyro.sample("y", self.q_y(z), obs=y, infer={"enumerate": "parallel"})

    def elbo(self, **options) -> TraceLabels_ELBO:
        """The VAE's ELBO, the first stage; see `TraceLabels_ELBO` for its options."""
        return TraceLabels_ELBO(max_plate_nesting=self.max_plate_nesting, **options)

    @torch.no_grad()
    def fit_classifier(self, x: Tensor, y: Tensor) -> M1:
        """The second stage: fits q(y | z) to the observed labels, each binary label on the rows where it is observed.

        For a binary label with fewer than two distinct observed values, q(y_i | z) is constant, its frequency by the
        rule of succession, (n_on + 1) / (n + 2), and a warning is given.

        Args:
            x: images `(B, C, H, W)`. y: their labels, some missing.

        Raises:
            ValueError: fewer than two classes are observed; the numbers of images and labels differ.
        """
        rows = self.table(x, y)
        x, y = rows["x"], rows["y"]
        training = self.training
        loc = torch.cat([self.eval().q_z(self.images(part)).mean for part in x.split(1000)]).cpu().numpy()
        self.train(training)
        one = self.labels.entries is None
        columns, net, lines, constant = (y[:, None] if one else y).cpu(), self.q_y.net, [], []
        for i in range(columns.shape[1]):
            known = ~is_missing(columns[:, i])
            values = columns[known, i].long().numpy()
            if len(np.unique(values)) < 2:
                if one:
                    raise InputError(f"y: got {len(np.unique(values))} classes with labels; expected two or more")
                odds = (values.sum() + 1) / (len(values) - values.sum() + 1)
                lines.append((torch.zeros_like(net.weight[:1]), torch.as_tensor([np.log(odds)]).to(net.bias)))
                constant.append(i)
                continue
            found = LogisticRegression(max_iter=2000).fit(loc[known.numpy()], values)
            lines.append(tuple(torch.as_tensor(a).to(net.weight) for a in (found.coef_, found.intercept_)))
        if one:
            self._set_classes(*lines[0], found.classes_)
        else:
            net.weight.copy_(torch.cat([weight for weight, _ in lines]))
            net.bias.copy_(torch.cat([bias for _, bias in lines]))
        if constant:
            warnings.warn(
                f"labels {constant} have at most one value in y: their classifiers return its frequency", stacklevel=2
            )
        return self

    def _set_classes(self, weight: Tensor, bias: Tensor, classes: np.ndarray) -> None:
        """Sets the weights from a regression on the observed classes; an absent class gets a logit of -30."""
        if len(classes) == 2:  # for two classes scikit-learn has one linear function
            weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
        self.q_y.net.weight.zero_()
        self.q_y.net.bias.fill_(-30.0)
        rows = torch.as_tensor(classes)
        self.q_y.net.weight[rows], self.q_y.net.bias[rows] = weight, bias
