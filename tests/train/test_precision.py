"""Training in lower precision."""

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision
from torch.testing import assert_close
from training import make, options, rows, same_weights

from pyro_semivae.errors import InputError
from pyro_semivae.files import load_checkpoint
from pyro_semivae.train import fit


@pytest.mark.skipif(torch.cuda.is_available(), reason="auto is the GPU then")
def test_half_precision_is_not_replaced_in_silence():
    x, y, _ = rows()
    with pytest.raises(InputError, match="precision: got '16-mixed' on the CPU"):
        fit(make(), x, y, **options(), accelerator="auto", precision="16-mixed")


def test_layers_compute_in_half_precision_and_images_and_scales_do_not(monkeypatch):
    x, y, _ = rows()
    vae, seen = make().float(), []
    elbo = vae.elbo()
    run = elbo.evaluate

    def spy(step):
        result = run(step)
        seen.append((step.args[0], result.scale, result.total()))
        return result

    elbo.evaluate = spy
    monkeypatch.setattr(torch, "get_default_dtype", lambda: torch.float32)
    fit(vae, x, y, elbo=elbo, precision="bf16-mixed", **options(epochs=1))
    levels = x.unique().float() / 255
    for images, scale, total in seen:
        assert images.dtype == scale.dtype == total.dtype == torch.float32
        assert torch.isin(images, levels).all()
        assert_close(scale.double().sum(), torch.tensor(1.0, dtype=torch.float64), rtol=1e-6, atol=0)


class Scaled(MixedPrecision):
    """What 16-mixed is on a GPU, without the layers' half precision, which the CPU lacks."""

    def __init__(self):
        super().__init__("16-mixed", "cpu", torch.amp.GradScaler("cpu", growth_interval=3))

    def forward_context(self):
        return torch.autocast("cpu", enabled=False)


@pytest.fixture
def scaled(monkeypatch):
    def fabric(accelerator, precision, elbo):
        how = {"plugins": Scaled()} if precision == "16-mixed" else {"precision": precision}
        return Fabric(accelerator=accelerator.type, devices=1, **how)

    monkeypatch.setattr("pyro_semivae.train._fabric", fabric)


def test_gradients_are_clipped_after_a_scaler_has_unscaled_them(scaled):
    """The clip sees the gradients, not 65,536 times as much."""
    norms, x, y = [], *rows()[:2]

    def clip(parameters):
        norms.append(torch.nn.utils.clip_grad_norm_([*parameters], 1e-3).item())

    plain, mixed = make(), make()
    fit(plain, x, y, **options(epochs=1), clip=clip)
    fit(mixed, x, y, **options(epochs=1), clip=clip, precision="16-mixed")
    half = len(norms) // 2
    assert_close(norms[:half], norms[half:], rtol=1e-6, atol=0)
    for a, b in zip(plain.parameters(), mixed.parameters(), strict=True):
        assert_close(a, b, rtol=1e-6, atol=1e-9)


def test_a_scaler_goes_on_where_it_was(scaled, tmp_path):
    """Its scale has grown by then; with the one it starts with the rounding would be another."""
    x, y, _ = rows()
    whole, parts, path = make(), make(), tmp_path / "c.pt"
    given = {**options(ema_decay=0.5), "precision": "16-mixed"}
    fit(whole, x, y, **{**given, "epochs": 4}, checkpoint=tmp_path / "whole.pt")
    for epochs in (2, 4):
        fit(parts, x, y, **{**given, "epochs": epochs}, checkpoint=path, resume=True)
    assert same_weights(whole, parts)
    scales = [load_checkpoint(file)["scaler"] for file in (tmp_path / "whole.pt", path)]
    assert scales[0] == scales[1] and scales[0]["scale"] > 2.0**16
