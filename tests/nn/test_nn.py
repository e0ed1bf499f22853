"""Networks: convolutions of any size, networks of one's own."""

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from pyro_semivae.check import check_model
from pyro_semivae.conditionals import LaplaceLikelihood
from pyro_semivae.errors import InputError
from pyro_semivae.models import CCVAE, M2
from pyro_semivae.nn import Convs, Custom, Joined, MLPs
from pyro_semivae.spaces import MISSING, Classes

SIZES = [(2, 16, 16), (3, 28, 20), (2, 32, 32), (3, 45, 64), (1, 64, 64), (3, 17, 50), (1, 128, 128)]


def layers_of_table_3(channels):
    """The layers of CCVAE's Table 3, as they were when convolutions took 64x64 images alone."""
    encoder = []
    for c_in, c_out in ((channels, 32), (32, 32), (32, 64), (64, 128)):
        encoder += [nn.Conv2d(c_in, c_out, 4, 2, 1), nn.ReLU()]
    encoder = nn.Sequential(*encoder, nn.Conv2d(128, 256, 4), nn.ReLU(), nn.Flatten())
    start(encoder, {0: channels * 16, 2: 32 * 16, 4: 32 * 16, 6: 64 * 16, 8: 128 * 16})
    last = nn.Linear(256 + 5, 7)
    decoder = [nn.Linear(9 + 5, 256), nn.Unflatten(1, (256, 1, 1)), nn.ReLU(), nn.ConvTranspose2d(256, 128, 4)]
    for c_in, c_out in ((128, 64), (64, 32), (32, 32), (32, channels)):
        decoder += [nn.ReLU(), nn.ConvTranspose2d(c_in, c_out, 4, 2, 1)]
    decoder = nn.Sequential(*decoder)
    start(decoder, {3: 256, 5: 128 * 4, 7: 64 * 4, 9: 32 * 4, 11: 32 * 4})
    return encoder, last, decoder


def start(layers, fans):
    for i, fan in fans.items():
        nn.init.normal_(layers[i].weight, std=math.sqrt(2 / fan))
        nn.init.zeros_(layers[i].bias)


def test_64x64_is_table_3_to_the_bit():
    torch.manual_seed(3)
    encoder, last, decoder = layers_of_table_3(3)
    torch.manual_seed(3)
    ours = Convs().encoder((3, 64, 64), 7, [Classes(5)]), Convs().decoder([9, Classes(5)], (3, 64, 64))
    old = nn.ModuleDict({"layers": encoder, "last": last}), nn.ModuleDict({"layers": decoder})
    for one, other in zip(ours, old, strict=True):
        assert list(one.state_dict()) == list(other.state_dict())
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    x, y, z = torch.randn(6, 3, 64, 64), torch.tensor([2, 0, 4, 1, 1, 3]), torch.randn(6, 9)
    code = torch.eye(5)[y]
    assert torch.equal(ours[0](x, y), last(torch.cat([encoder(x), code], -1)))
    assert torch.equal(ours[1](z, y), decoder(torch.cat([z, code], -1)))


@pytest.mark.parametrize("shape", [*SIZES, (2, 21, 16), (2, 31, 47), (2, 90, 45)], ids=str)
def test_convolutions_of_any_size(shape):
    """Batch dimensions on the left, and labels, as at 64x64; images have exactly their size."""
    encoder, decoder = Convs().encoder(shape, 7, [4, Classes(5)]), Convs().decoder([9, Classes(5)], shape)
    x, v, z = torch.randn(3, *shape), torch.randn(2, 1, 4), torch.randn(2, 3, 9)
    y = torch.arange(5)[:, None, None]  # enumerated
    h = encoder(x, v, y)
    assert h.shape == (5, 2, 3, 7)
    assert_close(h[4, 1, 2], encoder(x[2], v[1, 0], torch.tensor(4)))
    image = decoder(z, y)
    assert image.shape == (5, 2, 3, *shape)
    assert_close(image[4, 1, 2], decoder(z[1, 2], torch.tensor(4)))
    sides = [tuple(part.kernel_size) for part in encoder.layers if isinstance(part, nn.Conv2d)][-1]
    assert 4 <= min(sides) <= 7


@pytest.mark.parametrize(
    "shape, channels",
    [
        ((1, 16, 16), [64, 128]),
        ((1, 31, 40), [64, 128]),
        ((1, 63, 32), [32, 64, 128]),
        ((1, 127, 64), [32, 32, 64, 128]),
        ((1, 128, 128), [32, 32, 32, 64, 128]),
    ],
)
def test_channels_follow_the_size(shape, channels):
    convs = [part for part in Convs().encoder(shape, 7).layers if isinstance(part, nn.Conv2d)]
    assert [part.out_channels for part in convs] == [*channels, 256]
    convs = [part for part in Convs().decoder([9], shape).layers if isinstance(part, nn.ConvTranspose2d)]
    assert [part.out_channels for part in convs] == [*channels[::-1], 1]


@pytest.mark.parametrize("shape", SIZES, ids=str)
def test_convolutions_keep_the_scale_of_signals(shape):
    """He's start: what goes in with a root mean square of 1 comes out with one of about 1.

    Means over four seeds are 0.79 to 0.95 for images of 16x16 to 128x96 (edges see padding); with PyTorch's own start
    they are 0.01 to 0.15.
    """
    ratios = {"encoder": [], "decoder": []}
    for seed in range(4):
        torch.manual_seed(seed)
        encoder, decoder = Convs().encoder(shape, 7).layers, Convs().decoder([9], shape).layers[2:]
        for name, layers, h in (
            ("encoder", encoder, torch.randn(8, *shape)),
            ("decoder", decoder, torch.randn(16, 256, 1, 1)),
        ):
            ratios[name].append((layers(h).square().mean() / h.square().mean()).sqrt().item())
    for name, found in ratios.items():
        assert 0.65 < sum(found) / len(found) < 1.2, (name, found)


@pytest.mark.parametrize("shape", [(1, 15, 64), (1, 64, 15), (1, 8, 8), (64,)])
def test_small_images_are_for_mlps(shape):
    for make in (lambda: Convs().encoder(shape, 7), lambda: Convs().decoder([9], shape)):
        with pytest.raises(InputError, match=r"of at least 16x16 pixels for convolutions; MLPs"):
            make()


def test_convolutions_return_what_their_weights_are_under_autocast():
    encoder, decoder = Convs().encoder((1, 16, 18), 7).float(), Convs().decoder([9], (1, 16, 18)).float()
    with torch.autocast("cpu", torch.bfloat16):
        h, x = encoder(torch.randn(3, 1, 16, 18).float()), decoder(torch.randn(3, 9).float())
    assert h.dtype == x.dtype == torch.float32


def test_dropout_of_convolutions_is_the_encoders_while_it_trains():
    torch.manual_seed(0)
    plain = Convs().encoder((2, 16, 16), 7)
    torch.manual_seed(0)
    encoder = Convs(dropout=0.4).encoder((2, 16, 16), 7)
    assert list(plain.state_dict()) == list(encoder.state_dict())
    x = torch.randn(5, 2, 16, 16)
    assert torch.equal(plain(x), encoder.eval()(x))
    assert not torch.equal(encoder.train()(x), encoder(x))
    assert not [part for part in Convs(dropout=0.4).decoder([9], (2, 16, 16)).modules() if isinstance(part, nn.Dropout)]
    with pytest.raises(InputError, match=r"dropout: got 1\.0"):
        Convs(dropout=1.0)


# Networks of one's own.


class Trunk(nn.Module):
    """Features (B, 4, 2, 3), through BatchNorm."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)
        self.register_buffer("runs", torch.zeros(()))

    def forward(self, x):
        self.runs += 1
        assert x.dim() == 4, "what a network of one's own is given has one batch dimension"
        return nn.functional.adaptive_avg_pool2d(self.norm(self.conv(x)).relu(), (2, 3))


def image_net(in_size, out_shape):
    return nn.Sequential(
        nn.Linear(in_size, 11), nn.ReLU(), nn.Linear(11, math.prod(out_shape)), nn.Unflatten(1, out_shape)
    )


OWN, SHAPE = Custom(Trunk, image_net), (2, 9, 10)


def test_own_networks_take_left_dimensions_labels_and_vectors():
    encoder, decoder = OWN.encoder(SHAPE, 7, [6, Classes(5)]).eval(), OWN.decoder([8, Classes(5)], SHAPE)
    x, v, z, y = torch.randn(3, *SHAPE), torch.randn(2, 1, 6), torch.randn(2, 3, 8), torch.arange(5)[:, None, None]
    h, image = encoder(x, v, y), decoder(z, y)
    assert h.shape == (5, 2, 3, 7) and image.shape == (5, 2, 3, *SHAPE)
    features = encoder.layers(x).flatten(1)
    assert features.shape == (3, 24)
    assert_close(h[4, 1, 2], encoder.last(torch.cat([features[2], v[1, 0], torch.eye(5)[4]])))
    assert_close(image[4, 1, 2], decoder.layers(torch.cat([z[1, 2], torch.eye(5)[4]])[None])[0])
    assert OWN.encoder(SHAPE, 7)(torch.randn(4, 2, 3, *SHAPE)).shape == (4, 2, 3, 7)


def test_to_find_the_features_changes_nothing_in_the_network():
    net = nn.Sequential(Trunk(), nn.Dropout(0.5))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    torch.manual_seed(1)
    Custom(lambda: net).encoder(SHAPE, 7)
    after, drawn = net.state_dict(), torch.rand(1)
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert net.training and net[1].training
    torch.manual_seed(1)
    nn.Linear(24, 7)
    assert torch.equal(torch.rand(1), drawn), "but for the last layer nothing is drawn"


def test_a_missing_direction_has_the_default_networks():
    only_encoder, only_decoder = Custom(Trunk, others=MLPs((13,))), Custom(make_decoder=image_net, others=Convs())
    assert only_encoder.encoder(SHAPE, 7).layers.__class__ is Trunk
    assert only_encoder.decoder([3], SHAPE).layers[0].out_features == 13
    assert only_decoder.decoder([3], SHAPE).layers[0].out_features == 11
    assert only_decoder.encoder((2, 16, 16), 7).layers[0].out_channels == 64


def test_a_model_of_own_networks_meets_the_contract():
    y = torch.tensor([2, MISSING, 0, 4, MISSING, 1, 2])
    vae = M2(SHAPE, Classes(5), z=3, networks=OWN, likelihood=LaplaceLikelihood)
    assert len({id(part) for part in vae.modules() if isinstance(part, Trunk)}) == 2, "of y and of z"
    check_model(vae.eval(), torch.rand(7, *SHAPE), y)
    vae = CCVAE((2, 17, 20), Classes(5), z_c=2, z_s=3, networks=Convs(), likelihood=LaplaceLikelihood)
    check_model(vae, torch.rand(7, 2, 17, 20), y)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Custom(Trunk()), r"make_encoder: got Trunk; .*: lambda: Trunk\(\.\.\.\)$"),
        (lambda: Custom(None, Trunk()), r"make_decoder: got Trunk; .*: lambda in_size, out_shape: Trunk"),
        (lambda: Custom(3), "make_encoder: got int"),
        (lambda: Custom(others=Convs), "others: got .*Convs"),
        (lambda: Custom(lambda: 3).encoder(SHAPE, 7), "make_encoder: it returned int; expected a torch.nn.Module"),
        (
            lambda: Custom(lambda: nn.Linear(4, 5)).encoder(SHAPE, 7),
            r"make_encoder: Linear fails on a batch \(2, 2, 9, 10\): .*; expected .* maps \(B, 2, 9, 10\) to feat",
        ),
        (
            lambda: Custom(lambda: nn.Flatten(0)).encoder(SHAPE, 7),
            r"make_encoder: Flatten returns shape \(360,\) for a batch \(2, 2, 9, 10\)",
        ),
        (
            lambda: Custom(lambda: nn.Unflatten(0, (1, 2))).encoder(SHAPE, 7),
            r"Unflatten returns shape \(1, 2, 2, 9, 10\)",
        ),
        (lambda: Custom(lambda: nn.GRU(10, 5)).encoder((9, 10), 7), "make_encoder: GRU returns tuple"),
        (
            lambda: Custom(None, lambda size, shape: nn.Linear(size, 5)).decoder([3, Classes(4)], SHAPE),
            r"make_decoder: Linear maps \(B, 7\) to \(B, 5\); expected \(B, 2, 9, 10\)",
        ),
        (
            lambda: Custom(Trunk).encoder(SHAPE, 7)(torch.zeros(3, 2, 10, 9)),
            r"x: got shape \(3, 2, 10, 9\); expected shapes that end in \(2, 9, 10\)",
        ),
    ],
)
def test_networks_that_do_not_fit_are_named(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_lazy_layers_of_own_networks_find_their_sizes():
    encoder = Custom(lambda: nn.Sequential(nn.Flatten(), nn.LazyBatchNorm1d(), nn.LazyLinear(6))).encoder(SHAPE, 7)
    assert encoder.layers[2].in_features == 180 and encoder(torch.rand(3, *SHAPE)).shape == (3, 7)


def test_parents_are_joined_to_one_vector():
    x, y = torch.randn(3, 1, 2, 4), torch.tensor([[1], [2]])
    joined = Joined([(1, 2, 4), Classes(5)])(x, y)
    assert_close(joined[1, 2], torch.cat([x[2].flatten(), torch.eye(5)[2]]))
