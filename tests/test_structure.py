"""The structure of a graph is read once, and anew where the model is another one."""

import gc
import weakref

import pyro
import pytest
import torch

from pyro_semivae import tasks
from pyro_semivae.models import CCVAE, M2
from pyro_semivae.nn import MLPs
from pyro_semivae.spaces import Classes
from pyro_semivae.structure import structure


def make(model=CCVAE):
    return model((1, 4, 4), Classes(3), networks=MLPs((5,)))


@pytest.mark.parametrize("model", [CCVAE, M2])
def test_a_second_intervention_runs_guide_and_model_once_each_and_looks_at_no_blank_rows(model, monkeypatch):
    vae, x, y, runs = make(model), torch.rand(2, 1, 4, 4), torch.tensor([0, 2]), []
    tasks.intervene(vae, x, y)
    for name in ("model", "guide"):
        code = getattr(model, name)

        def counted(self, *args, code=code, name=name):
            runs.append(name)
            return code(self, *args)

        monkeypatch.setattr(model, name, counted)
    tasks.intervene(vae, x, y)  # other code: it is read anew
    assert len(runs) > 2
    runs.clear()
    monkeypatch.setattr(model, "blank", lambda *_: pytest.fail("the structure is known"))
    tasks.intervene(vae, x, y, 3)
    assert runs == ["guide", "model", "model", "model"]


class Alone(torch.nn.Module):
    """A conditional that does not look at its parent."""

    def __init__(self, conditional):
        super().__init__()
        self.conditional = conditional

    def forward(self, y):
        return self.conditional(torch.zeros(y.shape, dtype=y.dtype))


class Switched(CCVAE):
    """It has one more site by a setting."""

    def model(self, x=None, y=None):
        if self.with_extra:
            pyro.sample("extra", pyro.distributions.Normal(torch.zeros(()), 1.0))
        return super().model(x, y)


def test_another_part_is_seen_and_no_model_is_kept_alive():
    vae = make()
    before = structure(vae)
    assert "y" in before["p"]["z_c"] and structure(vae) is before
    vae.train()
    assert structure(vae) is before
    vae.p_z_c = Alone(vae.p_z_c)
    assert "y" not in structure(vae)["p"]["z_c"]
    vae.p_z_c = vae.p_z_c.conditional
    assert structure(vae) == before
    gone = weakref.ref(vae)
    del vae
    gc.collect()
    assert gone() is None


def test_another_setting_is_seen():
    vae = make(Switched)
    vae.with_extra = False
    assert "extra" not in structure(vae)["p"]
    vae.with_extra = True
    assert "extra" in structure(vae)["p"]
