"""What check_model's parts find that only they can: losses that differ, parameters that are not saved."""

import pytest
from cases import CASES

from pyro_semivae.check import ContractError, check_model
from pyro_semivae.infer import TraceCCVAE_ELBO


def made():
    vae, _ = CASES[0].make()
    return vae, *CASES[0].batch()


@pytest.mark.parametrize("name", ["differentiable_loss", "loss_and_grads", "weighted_terms"])
def test_entry_points_that_differ(name):
    elbo = TraceCCVAE_ELBO(num_samples=2)
    inner = getattr(elbo, name)

    def twice(*args):
        found = inner(*args)
        return {key: 2 * value for key, value in found.items()} if name == "weighted_terms" else 2 * found

    setattr(elbo, name, twice)
    with pytest.raises(ContractError, match=r"gives .*, loss gives .*, under one seed"):
        check_model(*made(), elbo)


def test_parameters_that_the_state_dict_lacks(monkeypatch):
    vae, x, y = made()
    state, load = vae.state_dict, vae.load_state_dict
    name = "p_x.net.layers.0.bias"
    monkeypatch.setattr(vae, "state_dict", lambda: {key: value for key, value in state().items() if key != name})
    monkeypatch.setattr(vae, "load_state_dict", lambda saved: load(saved, strict=False))
    with pytest.raises(ContractError, match="after the state dict was saved and loaded"):
        check_model(vae, x, y)
