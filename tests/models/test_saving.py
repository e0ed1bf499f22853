"""Models as files: what is loaded is what was saved, and a file names nothing but this package's parts."""

from functools import partial

import numpy as np
import pytest
import torch
from cases import CASES
from torch import nn

import pyro_semivae
from pyro_semivae import Pair, SemiVAE, data, tasks
from pyro_semivae.conditionals import GaussianLikelihood, LabelPrior, StandardNormal
from pyro_semivae.errors import InputError
from pyro_semivae.files import load_checkpoint, save_checkpoint
from pyro_semivae.infer import TraceLabels_ELBO
from pyro_semivae.models import CCVAE, M1, M1M2, VAE, InvertedVAE
from pyro_semivae.nn import MLPs, Networks
from pyro_semivae.spaces import Binary, Classes, Images, Real, Vectors
from pyro_semivae.train import fit

NETWORKS = MLPs((7,), dropout=0.1)
BUILT = [
    lambda: CCVAE((1, 4, 7), Classes(5), z_c=3, networks=NETWORKS, prior=torch.tensor([0.1, 0.2, 0.3, 0.15, 0.25])),
    lambda: CCVAE(Vectors(4), Binary(3), networks=NETWORKS, likelihood=partial(GaussianLikelihood, learned=True)),
    lambda: CCVAE(x_shape=torch.zeros(1, 4, 7).shape, labels=Binary(3), networks=NETWORKS, classifier="bayes"),
    lambda: M1M2(M1((1, 4, 7), Classes(5), z=4, networks=NETWORKS), z=2, hidden=(6,)),
    lambda: InvertedVAE((1, 4, 7), Classes(5), activation=nn.ReLU, classifier_noise=partial(data.shift, pixels=2)),
]


def changed(vae):
    with torch.no_grad():
        for value in vae.state_dict().values():
            value.add_(torch.rand_like(value))
    return vae


@pytest.mark.parametrize("make", BUILT)
def test_what_is_loaded_is_what_was_saved(make, tmp_path):
    vae = changed(make())
    vae.save(tmp_path / "model.pt")
    torch.manual_seed(3)
    again = pyro_semivae.load(tmp_path / "model.pt")
    assert again.configuration() == vae.configuration() and type(again) is type(vae)
    for name, value in vae.state_dict().items():
        assert torch.equal(again.state_dict()[name], value) and again.state_dict()[name].dtype == value.dtype
    x = torch.rand(6, *vae.x_shape)
    for one, other in zip(vae.inputs(x), again.inputs(x), strict=True):
        assert (one is None) == (other is None)
    torch.manual_seed(0)
    found = tasks.classify(vae, x, num_samples=3)
    torch.manual_seed(0)
    assert torch.equal(tasks.classify(again, x, num_samples=3), found)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_model_says_how_it_was_built(case, tmp_path):
    vae, _ = case.make()
    vae.save(tmp_path / "model.pt")
    assert pyro_semivae.load(tmp_path / "model.pt").configuration() == vae.configuration()


def test_a_checkpoint_is_loaded_too_with_the_weights_that_the_model_has(tmp_path):
    vae, x, y = BUILT[0](), torch.rand(9, 1, 4, 7), torch.arange(9) % 5
    fit(vae, x, y, epochs=3, batch_size=3, ema_decay=0.9, progress=False, checkpoint=tmp_path / "c.pt")
    again = pyro_semivae.load(tmp_path / "c.pt")
    assert all(torch.equal(again.state_dict()[name], value) for name, value in vae.state_dict().items())


def test_weights_keep_their_dtype(tmp_path):
    BUILT[0]().float().save(tmp_path / "model.pt")
    assert {p.dtype for p in pyro_semivae.load(tmp_path / "model.pt").parameters()} == {torch.float32}


class Own(SemiVAE):
    """p(y) p(z) p(x | y, z) and q(y | x) q(z | x, y), by another's conditionals."""

    states_graph = False

    def __init__(self, size, *, networks=NETWORKS, angle=None):
        super().__init__(x=Vectors(size), angle=angle or Real(1))
        self.p_angle, self.p_z = LabelPrior(self.spaces["angle"]), StandardNormal(2)
        self.p_x = GaussianLikelihood(self.spaces["x"], networks.decoder([2], (size,)))

    def model(self, x=None, angle=None):
        """Not needed here."""

    guide = model

    def elbo(self, **options):
        return TraceLabels_ELBO(**options)


def test_a_graph_of_ones_own_is_loaded_by_its_class(tmp_path):
    vae = changed(Own(4, angle=Real(2)))
    vae.save(tmp_path / "model.pt")
    again = pyro_semivae.load(tmp_path / "model.pt", Own)
    assert again.spaces == vae.spaces and torch.equal(again.p_x.net.layers[0].weight, vae.p_x.net.layers[0].weight)
    with pytest.raises(InputError, match=r"holds a test_saving.Own, your own class; expected load\(path, Own\)"):
        pyro_semivae.load(tmp_path / "model.pt")
    with pytest.raises(InputError, match=r"model: got VAE; expected what .* holds, a Own"):
        pyro_semivae.load(tmp_path / "model.pt", VAE)


class Deep(Networks):
    """Networks of one's own, which no file can hold."""

    def encoder(self, x_shape, out_size, extra=()):
        return NETWORKS.encoder(x_shape, out_size, extra)

    def decoder(self, in_sizes, x_shape):
        return NETWORKS.decoder(in_sizes, x_shape)


def test_what_no_file_can_hold_is_named_and_a_model_like_it_takes_the_weights(tmp_path, capsys):
    vae, path = changed(CCVAE((1, 4, 7), Classes(5), networks=Deep())), tmp_path / "model.pt"
    vae.save(path)
    assert f"{path} cannot hold networks=<test_saving.Deep object" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"could not hold networks=.*; expected load\(path, vae\)"):
        pyro_semivae.load(path)
    again = CCVAE((1, 4, 7), Classes(5), networks=Deep())
    assert pyro_semivae.load(path, again) is again
    assert all(torch.equal(again.state_dict()[name], value) for name, value in vae.state_dict().items())
    with pytest.raises(InputError, match="does not fit this CCVAE: size mismatch"):
        pyro_semivae.load(path, CCVAE((1, 4, 7), Classes(5), z_c=2, networks=Deep()))
    net = nn.Linear(3, 3)
    pair = Pair(lambda x: net(x), lambda x: None, modules=[net], x=Vectors(3))
    pair.save(path)
    assert "cannot hold model=" in capsys.readouterr().err
    assert pyro_semivae.load(path, pair) is pair


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "pyro_semivae.files.writable_folder",
        "pyro_semivae.models.saving.load",
        "pyro_semivae.spaces.labels.as_binary",
        "pyro_semivae.data.noise.torch",
        "pyro_semivae.modelsx.VAE",
        "torch.nn.modules.linear.Linear",
    ],
)
def test_a_file_names_nothing_but_parts_of_models(name, tmp_path):
    BUILT[0]().save(tmp_path / "model.pt")
    state = load_checkpoint(tmp_path / "model.pt")
    for built in (
        {**state["built"], "class": name},
        {**state["built"], "arguments": {"labels": {"kind": "object", "of": name, "fields": {}}}},
        {**state["built"], "arguments": {"labels": {"kind": "name", "of": name}}},
    ):
        save_checkpoint(tmp_path / "bad.pt", {**state, "built": built})
        with pytest.raises(InputError, match=r"which is no model, space|your own class"):
            pyro_semivae.load(tmp_path / "bad.pt")


@pytest.mark.parametrize(
    "change",
    [
        {"built": -1},
        {"built": torch.zeros(2)},
        {"unknown": [1]},
        {"networks": torch.zeros(2)},
        {"likelihood": "MLPs"},
        {"z_c": -3},
        {"z_c": [1]},
    ],
)
def test_whatever_a_file_holds_is_told(change, tmp_path):
    BUILT[0]().save(tmp_path / "model.pt")
    state = load_checkpoint(tmp_path / "model.pt")
    built = state["built"]
    if "built" not in change:
        own = change if "unknown" in change else {"arguments": {**built["arguments"], **change}}
        change = {"built": {**built, **own}}
    save_checkpoint(tmp_path / "bad.pt", {**state, **change})
    with pytest.raises(InputError):
        pyro_semivae.load(tmp_path / "bad.pt")


def test_numbers_of_numpy_are_numbers(tmp_path):
    """As sizes, as settings and as arrays: what is built with them is saved."""
    size, prior = np.array([1, 4, 7]), np.array([0.25, 0.75], dtype=np.float32)
    scaled = partial(GaussianLikelihood, scale=np.float64(0.25), learned=np.True_)
    networks = MLPs((np.int64(7),), dropout=np.float64(0.25))
    vae = CCVAE(tuple(size), Classes(np.int64(2)), z_c=np.int64(3), networks=networks, likelihood=scaled, prior=prior)
    assert vae.p_y.logits.dtype == torch.get_default_dtype()
    vae.save(tmp_path / "model.pt")
    x, loaded = torch.rand(3, 1, 4, 7), pyro_semivae.load(tmp_path / "model.pt")
    assert torch.equal(tasks.reconstruct(vae, x), tasks.reconstruct(loaded, x))


@pytest.mark.parametrize("built", [{}, {"class": "pyro_semivae.models.ccvae.CCVAE", "unknown": []}, {"class": 3}])
def test_a_file_of_another_version_is_told(built, tmp_path):
    BUILT[0]().save(tmp_path / "model.pt")
    state = load_checkpoint(tmp_path / "model.pt")
    save_checkpoint(tmp_path / "bad.pt", {**state, "built": built})
    with pytest.raises(InputError, match=r"bad\.pt"):
        pyro_semivae.load(tmp_path / "bad.pt")
    del state["built"]
    save_checkpoint(tmp_path / "old.pt", state)
    with pytest.raises(InputError, match=r"old\.pt does not say how its CCVAE was built"):
        pyro_semivae.load(tmp_path / "old.pt")


def test_a_model_that_is_copied_can_be_saved(tmp_path):
    import copy

    vae = copy.deepcopy(VAE(Images(1, 4, 7), Classes(2), networks=NETWORKS))
    vae.save(tmp_path / "model.pt")
    assert pyro_semivae.load(tmp_path / "model.pt").configuration() == vae.configuration()
