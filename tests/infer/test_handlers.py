"""Handlers that objectives, training and tasks share."""

import pyro
import pytest
import torch
from pyro import poutine

from pyro_semivae.infer import LocalParameters
from pyro_semivae.models import VAE
from pyro_semivae.nn import MLPs
from pyro_semivae.spaces import Classes


def test_parameters_are_local_as_long_as_a_handler_says_so_also_in_a_block_or_after_an_error():
    assert not LocalParameters.is_on()
    with LocalParameters():
        with LocalParameters(), poutine.block():
            assert LocalParameters.is_on()
        assert LocalParameters.is_on()
        with pytest.raises(ZeroDivisionError), LocalParameters():
            raise ZeroDivisionError
        assert LocalParameters.is_on()
    with pytest.raises(ZeroDivisionError), LocalParameters():
        raise ZeroDivisionError
    assert not LocalParameters.is_on()


def test_the_store_is_left_alone_where_parameters_are_local_and_nowhere_else():
    vae, x = VAE((1, 4, 4), Classes(3), networks=MLPs((5,))), torch.rand(2, 1, 4, 4)
    with torch.no_grad(), LocalParameters(), poutine.block():  # noise may ask the model: see `trainer.corrupted`
        vae.model(x)
    assert not [*pyro.get_param_store()]
    with torch.no_grad():
        vae.model(x)
    assert len([*pyro.get_param_store()]) == len([*vae.parameters()])
