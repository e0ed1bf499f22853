"""The comparison with other packages: equal networks, processes that take turns, and what is recorded of them."""

import doctest
import importlib
import json
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from pyro_semivae.infer import LocalParameters, Step
from pyro_semivae.models import M2
from pyro_semivae.nn import MLPs
from pyro_semivae.spaces import Classes

ROOT = Path(__file__).parents[1]
SIDE = """
from turns import Turns
turns = Turns()
for _ in range(turns.settings["epochs"]):
    turns.wait()
    print("what a package prints")
    {body}
    turns.done()
turns.finish(accuracy=float(turns.data["y"].mean()), parameters=7, packages=["numpy"])
"""


@pytest.fixture
def module(monkeypatch):
    """Imports a module of the benchmarks."""
    for folder in ("benchmarks", "benchmarks/peer_scripts"):
        monkeypatch.syspath_prepend(ROOT / folder)
    return importlib.import_module


@pytest.mark.parametrize("name", ["ours", "peers", "roofline"])
def test_examples_in_docstrings(module, name):
    torch.set_default_dtype(torch.float32)
    found = doctest.testmod(module(name))
    assert found.attempted and not found.failed


def number_of_parameters(of):
    return sum(parameter.numel() for parameter in of.parameters())


def test_m2_has_the_networks_of_the_example_of_pyro(module):
    ours, _ = module("ours").make("m2", (1, 5, 7), (11, 13), 3, 20.0)
    theirs = module("pyro_example").SSVAE(5 * 7, (11, 13), 3, 20.0)
    shapes = [sorted(tuple(p.shape) for p in of.parameters()) for of in (ours, theirs)]
    assert shapes[0] == shapes[1]


def test_the_example_of_pyro_has_the_bound_of_m2_without_noise(module, monkeypatch):
    """With the same weights, and scales of 1 on both sides."""
    from pyro.infer import Trace_ELBO, TraceEnum_ELBO, config_enumerate

    monkeypatch.setattr("torch.distributions.normal._standard_normal", lambda shape, **kind: torch.zeros(shape, **kind))
    monkeypatch.setattr("pyro.module", lambda name, of: of)
    vae, elbo = module("ours").make("m2", (1, 5, 7), (11,), 3, 20.0)
    theirs = module("pyro_example").SSVAE(5 * 7, (11,), 3, 20.0)
    for own, other in ((vae.q_y, theirs.encoder_y), (vae.q_z, theirs.encoder_z), (vae.p_x, theirs.decoder)):
        other.load_state_dict(own.net.layers.state_dict())
    with torch.no_grad():  # raw scales: softplus(raw) + 1e-3 is 1 here, exp(raw) there
        for layer, raw in ((vae.q_z.net.layers[-1], torch.tensor(0.999).expm1().log()), (theirs.encoder_z[-1], 0.0)):
            layer.weight[3:], layer.bias[3:] = 0, raw
        first = theirs.decoder[0].weight
        first.copy_(first.roll(-10, 1))  # the label comes after z there
    x, y = torch.rand(4, 1, 5, 7), torch.tensor([3, 9, 0, 3])
    exact = TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False)
    guide = config_enumerate(theirs.guide, "parallel", expand=True)
    flat, code = x.flatten(1), torch.nn.functional.one_hot(y, 10).to(x)
    auxiliary = Trace_ELBO().loss(theirs.model_classify, theirs.guide_classify, flat, code)
    labelled = exact.loss(theirs.model, guide, flat, code) + auxiliary
    unlabelled = exact.loss(theirs.model, guide, flat)
    for labels, loss in ((y, labelled), (torch.full((4,), -1), unlabelled)):
        with LocalParameters():
            found = elbo.evaluate(Step(vae.model, vae.guide, (x, labels)))
        ours = sum(found.contributions().values()).sum()
        assert_close(ours, torch.as_tensor(-loss).to(ours), rtol=1e-5, atol=1e-5)


def test_the_decoder_rotates_by_its_first_latent(module):
    decoder = module("ours").RotatedDecoder(Classes(4), 3, (6, 5), (1, 7, 9))
    z, y = torch.randn(2, 3), torch.arange(4)[:, None]
    half = z.clone()
    half[:, 0] += torch.pi
    image = decoder(y, z)
    assert image.shape == (4, 2, 1, 7, 9)
    assert_close(decoder(y, half), image.flip(-1, -2))
    assert (image - decoder(y, z + torch.tensor([0.5, 0, 0]))).abs().max() > 1e-3


def test_m2_with_rotations_has_a_bound(module):
    vae, elbo = module("ours").make("rotated", (1, 5, 7), (6, 5), 3, 20.0)
    assert vae.q_z.net.out_shape == (8,)  # an angle and three latents
    x, y = torch.rand(3, 1, 5, 7), torch.tensor([3, -1, -1])
    assert torch.stack([*elbo.terms(vae.model, vae.guide, x, y).values()]).isfinite().all()


def test_sides_take_turns_and_report(module, monkeypatch, tmp_path):
    peers = module("peers")
    script, failing = tmp_path / "side.py", tmp_path / "failing.py"
    script.write_text(SIDE.format(body="pass"))
    failing.write_text(SIDE.format(body="raise ValueError('no such network')"))
    monkeypatch.setenv("PYTHONPATH", "")
    for path in (script, failing):  # a script's own folder is what it imports from
        (tmp_path / "turns.py").write_text((peers.SCRIPTS / "turns.py").read_text())
        monkeypatch.setattr(peers, "OURS", {})
        peer = peers.Peer("m2", str(path), {"theirs": {}, "theirs, other": {}})
        arrays = peers.load("digits", 40, 0.25)
        found = peers.compare(peer, arrays, 2, Path(peers.sys.executable))
        assert [*found] == ["theirs", "theirs, other"]
        for report in found.values():
            if path == failing:
                assert report == {"failed": "ValueError: no such network"}
            else:
                assert report["accuracy"] == pytest.approx(arrays["y"].mean())
                assert report["parameters"] == 7 and 0 < report["seconds"] < 10 and 10 < report["peak_mb"] < 500


def test_data_have_balanced_labels(module):
    arrays = module("peers").load("digits", 400, 0.25)
    assert arrays["x"].shape == (400, 1, 8, 8) and arrays["x"].dtype == "uint8"
    assert len(arrays["labelled"]) == 100
    counts = torch.from_numpy(arrays["y"][arrays["labelled"]]).bincount()
    assert len(counts) == 10 and counts.max() - counts.min() <= 1


def test_unknown_peers_are_refused(module, capsys):
    with pytest.raises(SystemExit):
        module("peers").arguments(["--peers", "pyro,keras"])
    assert "got keras; expected some of pyro, pyroved, rotated, multivae" in capsys.readouterr().err


def test_the_recorded_sides_have_equal_networks_and_batches(module):
    found = json.loads((ROOT / "benchmarks" / "results" / "peers-cpu.json").read_text())["results"]
    assert found.keys() <= module("peers").PEERS.keys()
    for result in found.values():
        trained = [side for side in result["sides"].values() if "failed" not in side]
        assert len(trained) == len(result["sides"]) > 2
        assert len({side["parameters"] for side in trained}) == 1
        assert module("peers").ratios(result["sides"]) == result["ratios"]


def test_products_are_all_operations_that_are_counted(module):
    roofline = module("roofline")
    vae = M2((1, 3, 5), Classes(4), z=3, networks=MLPs((11,)))
    loss = vae.elbo()(vae.model, vae.guide)
    x, y = torch.rand(6, 1, 3, 5), torch.tensor([3, 1, -1, -1, -1, -1])
    with FlopCounterMode(display=False) as counter:
        loss(x, y).backward()
    with roofline.Products() as found:
        loss(x, y).backward()
    assert found.counts.total() > 12
    assert sum(roofline.flops(factors) * n for factors, n in found.counts.items()) == counter.get_total_flops()
    for factors in found.counts:
        a, b = roofline.bare(factors, "cpu").args
        assert (roofline.layout(a), roofline.layout(b)) == factors


def test_the_recorded_roofline_counts_all_operations(module):
    found = json.loads((ROOT / "benchmarks" / "results" / "roofline-cpu.json").read_text())["results"]
    assert [(r["model"], r["batch_size"]) for r in found] == [("CCVAE", 200), ("CCVAE", 64), ("M2", 200), ("M2", 64)]
    for result in found:
        assert result["gflop"] == result["products_gflop"]
        assert result["compiled_fraction"] == pytest.approx(result["products_ms"] / result["compiled_ms"])
