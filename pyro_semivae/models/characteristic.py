"""The graph that CCVAE and DIVA share: labels are parents of latents in the model, and leaves in the guide."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable
from typing import Literal

import pyro
from torch import Tensor

from pyro_semivae.conditionals import BayesLabel, LabelPrior, StandardNormal
from pyro_semivae.errors import check_choice
from pyro_semivae.models import parts
from pyro_semivae.models.base import SemiVAE
from pyro_semivae.nn import Networks
from pyro_semivae.spaces import Data, Labels


class CharacteristicVAE(SemiVAE, ABC):
    """p(y) p(z_c | y) p(z_s) p(x | z_c, z_s) and q(z_c, z_s | x) q(y | z_c); see `CCVAE` for arguments and shapes.

    A subclass defines the objective.

    Attributes:
        sizes: the defaults of z_c and z_s.
    """

    characteristic = ("z_c",)
    sizes: tuple[int, int]

    def __init__(
        self,
        x_shape: tuple[int, int, int] | Data,
        labels: Labels,
        *,
        z_c: int | None = None,
        z_s: int | None = None,
        networks: Networks | None = None,
        likelihood: parts.MakeLikelihood | None = None,
        prior: Tensor | None = None,
        classifier: Literal["network", "bayes"] = "network",
        label_hidden: tuple[int, ...] = (50,),
        separation: float = 4.0,
    ):
        super().__init__(x=x_shape, y=labels)
        check_choice("classifier", classifier, ("network", "bayes"))
        z_c, z_s = (own if size is None else size for own, size in zip(self.sizes, (z_c, z_s), strict=True))
        parts.check_sizes(z_c=z_c, z_s=z_s)
        networks, likelihood = parts.defaults(self.spaces["x"], networks, likelihood)
        self.p_y = LabelPrior(labels, prior)
        self.p_z_c = parts.characteristic_prior(labels, z_c, label_hidden, separation)
        self.p_z_s = StandardNormal(z_s)
        self.p_x = parts.decoder(likelihood, networks, [parts.characteristic(labels, z_c), z_s], self.spaces["x"])
        self.q_z = parts.split_encoder(labels, networks, self.x_shape, z_c, z_s)
        if classifier == "network":
            self.q_y = parts.characteristic_classifier(labels, z_c, label_hidden, separation)
        else:
            self.q_y = BayesLabel(self.p_z_c, self.p_y)

    def model(self, x: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        self.register()
        with self.rows(x, y) as (x, y):
            with self.entries("y"):
                y = pyro.sample("y", self.p_y(), obs=y, infer={"enumerate": "parallel"})
                z_c = pyro.sample("z_c", self.p_z_c(y))
            z_s = pyro.sample("z_s", self.p_z_s())
            return pyro.sample("x", self.p_x(z_c, z_s), obs=x)

    def guide(self, x: Tensor | None = None, y: Tensor | None = None) -> None:
        with self.rows(x, y) as (x, y):
            q_z_c, q_z_s = self.q_z(x)
            with self.entries("y"):
                z_c = pyro.sample("z_c", q_z_c)
                pyro.sample("y", self.q_y(z_c), obs=y, infer={"enumerate": "parallel"})
            pyro.sample("z_s", q_z_s)

    def corruption(self) -> Callable[[Tensor], Tensor] | None:
        """The recipe's noise, see `parts.recipe_corruption`."""
        return parts.recipe_corruption(self.labels, self.x_shape)
