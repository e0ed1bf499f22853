"""LaRVAE's networks (Nie et al. 2020, Table D.2), and encoders of one family with decoders of another."""

import pytest
import torch
from torch import nn

from pyro_semivae.errors import InputError
from pyro_semivae.nn import MLP, Convs, InstanceNormConvs, MLPs, Paired


def layers_of(net, kinds):
    return [layer for layer in net.modules() if isinstance(layer, kinds)]


def test_at_64_pixels_they_are_those_of_the_table():
    encoder, decoder = InstanceNormConvs().encoder((3, 64, 64), 22), InstanceNormConvs().decoder([11], (3, 64, 64))
    convs = layers_of(encoder, nn.Conv2d)
    assert [(c.out_channels, c.kernel_size, c.stride) for c in convs] == [
        (32, (4, 4), (2, 2)),
        (32, (4, 4), (2, 2)),
        (64, (2, 2), (2, 2)),
        (64, (2, 2), (2, 2)),
    ]
    assert [linear.out_features for linear in layers_of(encoder, nn.Linear)] == [256, 22]
    assert [linear.out_features for linear in layers_of(decoder, nn.Linear)] == [256, 1024]
    up = layers_of(decoder, nn.ConvTranspose2d)
    assert [(c.out_channels, c.kernel_size, c.stride) for c in up] == [
        (64, (4, 4), (2, 2)),
        (32, (4, 4), (2, 2)),
        (32, (4, 4), (2, 2)),
        (3, (4, 4), (2, 2)),
    ]
    assert [len(layers_of(net, nn.InstanceNorm2d)) for net in (encoder, decoder)] == [4, 3]
    last = [*decoder.layers][-1]
    assert isinstance(last, nn.ConvTranspose2d), "what comes out is neither normalised nor cut off at 0"


@pytest.mark.parametrize("side", [32, 64, 128, 256])
def test_images_of_other_sides(side):
    networks = InstanceNormConvs(width=4, hidden=8)
    x = torch.rand(2, 3, 1, side, side)
    code = networks.encoder((1, side, side), 5)(x)
    assert code.shape == (2, 3, 5)
    assert networks.decoder([2, 3], (1, side, side))(code[..., :2], code[..., 2:]).shape == x.shape


def test_each_image_is_normalised_on_its_own():
    encoder = InstanceNormConvs(width=4, hidden=8).encoder((1, 32, 32), 5)
    x = torch.rand(4, 1, 32, 32)
    torch.testing.assert_close(encoder(x)[1:2], encoder(x[1:2]))
    assert not layers_of(InstanceNormConvs(normalise=False).encoder((1, 32, 32), 5), nn.InstanceNorm2d)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 64, 32), (5,), (1, 48, 48)])
def test_images_that_are_no_such_squares(shape):
    for make in (lambda: InstanceNormConvs().encoder(shape, 3), lambda: InstanceNormConvs().decoder([3], shape)):
        with pytest.raises(InputError, match=r"x_shape: got .*; expected square images of 32, 64, 128, 256 pixels"):
            make()
    with pytest.raises(InputError, match="width: got 0"):
        InstanceNormConvs(0)


def test_encoders_of_one_family_and_decoders_of_another():
    pair = Paired(Convs(), MLPs((7,)))
    assert layers_of(pair.encoder((1, 16, 16), 3), nn.Conv2d)
    assert isinstance(pair.decoder([3], (1, 16, 16)), MLP)
