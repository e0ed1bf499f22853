"""What the tests of sums and terms share: small models, labels some of which are missing, terms that do little."""

import torch

from pyro_semivae.infer import (
    LocalParameters,
    Step,
    Term,
)
from pyro_semivae.models import M2, VAE
from pyro_semivae.nn import MLPs
from pyro_semivae.spaces import MISSING, Classes

SHAPE, C, D = (1, 4, 7), 5, 3
Y = torch.tensor([2, MISSING, 0, 4, MISSING, 1, 2])


def make(model=M2, **sizes):
    torch.manual_seed(0)
    sizes = sizes or ({"z": D} if model in (M2, VAE) else {"z_c": 2, "z_s": 4})
    return model(SHAPE, Classes(C), networks=MLPs((11,)), **sizes), torch.rand(len(Y), *SHAPE)


def evaluate(elbo, vae, x, y, **how):
    torch.manual_seed(3)
    with LocalParameters():
        return elbo.evaluate(Step(vae.model, vae.guide, (x, y), **how))


class Ones(Term):
    """One per row, under a name."""

    def __init__(self, name="ones", value=1.0):
        self.name, self.value = name, value

    def values(self, run):
        return {self.name: torch.full((run.model.nodes["x"]["value"].shape[0],), self.value)}


class Keeps(Term):
    """The run that the bound made."""

    def values(self, run):
        self.run = run
        return {}


class Given(Term):
    """A function of the run, under a name."""

    def __init__(self, of, name="given", whole_batch=False):
        self.of, self.name, self.whole_batch = of, name, whole_batch

    def values(self, run):
        return {self.name: self.of(run)}
