import signal

import numpy as np
import pytest
import torch
from training import make, options, rows, same_weights, untimed

from pyro_semivae import data
from pyro_semivae.checkpoints import load_weights
from pyro_semivae.conditionals import LaplaceImage
from pyro_semivae.files import load_checkpoint, save_checkpoint
from pyro_semivae.labels import MISSING
from pyro_semivae.nn import MLPs
from pyro_semivae.train import cosine, fit


@pytest.mark.parametrize("more", [{}, {"schedule": cosine}, {"average": 0.9}], ids=["plain", "cosine", "average"])
def test_a_resumed_run_is_bit_identical(tmp_path, more):
    x, y, _ = rows()
    more = options(**more)
    whole = make()
    expected = fit(whole, x, y, **more)
    path = tmp_path / "checkpoint.pt"

    class Stop(Exception):
        pass

    def stop(epoch, vae):
        if epoch == 3:
            raise Stop

    with pytest.raises(Stop):
        fit(make(), x, y, **more, checkpoint=path, on_epoch=stop)
    assert load_checkpoint(path)["epoch"] == 2
    torch.manual_seed(99)  # resuming does not depend on the state of the process
    resumed = make(seed=7)
    got = fit(resumed, x, y, **more, checkpoint=path, resume=True)
    assert same_weights(whole, resumed)
    assert untimed(got) == untimed(expected)


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_two_epochs_and_two_more_are_four(tmp_path, average):
    x, y, _ = rows()
    path = tmp_path / "checkpoint.pt"
    whole, parts = make(), make()
    fit(whole, x, y, **options(average=average))
    fit(parts, x, y, **options(epochs=2, average=average), checkpoint=path)
    fit(parts, x, y, **options(epochs=4, average=average), checkpoint=path, resume=True)
    assert same_weights(whole, parts)
    again = make(seed=5)
    fit(again, x, y, **options(epochs=4, average=average), checkpoint=path, resume=True)
    assert same_weights(whole, again), "nothing is left to train"


def test_ctrl_c_in_an_epoch_keeps_the_last_checkpoint(ctrl_c, tmp_path):
    x, y, _ = rows()
    path = tmp_path / "checkpoint.pt"
    whole, stopped = make(), make()
    fit(whole, x, y, **options())
    calls = 0

    def interrupt(images):
        nonlocal calls
        calls += 1
        if calls == 2 * 5 + 3:  # mid-way through the third epoch of five steps
            signal.raise_signal(signal.SIGINT)
        return images

    with pytest.raises(KeyboardInterrupt):
        fit(stopped, x, y, **options(), checkpoint=path, corrupt=interrupt)
    assert load_checkpoint(path)["epoch"] == 2
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]
    fit(stopped, x, y, **options(), checkpoint=path, resume=True, corrupt=interrupt)
    assert same_weights(whole, stopped)


def test_checkpoints_of_other_models_and_damaged_ones_are_refused(tmp_path):
    x, y, _ = rows()
    path = tmp_path / "checkpoint.pt"
    fit(make(), x, y, **options(epochs=1), checkpoint=path)
    with pytest.raises(ValueError, match="does not fit this CCVAE"):
        fit(make(z_c=3), x, y, **options(), checkpoint=path, resume=True)
    with pytest.raises(ValueError, match="other labelled rows"):
        fit(make(), x, torch.where(y == MISSING, 0, y), **options(), checkpoint=path, resume=True)
    state = load_checkpoint(path)
    save_checkpoint(path, {**state, "model": "M2"})
    with pytest.raises(ValueError, match="holds a M2, accepted is a CCVAE"):
        fit(make(), x, y, **options(), checkpoint=path, resume=True)
    save_checkpoint(path, {"something": 1})
    with pytest.raises(ValueError, match="not a checkpoint of pyro_semivae"):
        load_checkpoint(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="damaged"):
        fit(make(), x, y, **options(), checkpoint=path, resume=True)
    with pytest.raises(FileNotFoundError, match="no file"):
        load_checkpoint(tmp_path / "other.pt")


def test_loading_runs_no_data(tmp_path):
    x, y, _ = rows()
    path = tmp_path / "checkpoint.pt"
    vae, fresh = make(), make(seed=3)
    fit(vae, x, y, **options(epochs=1), checkpoint=path, config={"z_c": 2})
    state = load_checkpoint(path, "CCVAE")
    load_weights(fresh, state)
    assert same_weights(vae, fresh) and state["config"] == {"z_c": 2}
    assert torch.equal(state["labelled"], torch.arange(20))


def test_a_file_is_the_old_or_the_new_one(tmp_path, monkeypatch):
    path = tmp_path / "file.pt"
    save_checkpoint(path, {"old": 1})

    def killed(state, file):
        file.write(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(torch, "save", killed)
        save_checkpoint(path, {"new": 1})
    assert torch.load(path, weights_only=True) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["file.pt"]


def test_what_a_checkpoint_cannot_hold_is_refused_before_training(tmp_path):
    x, y, _ = rows()
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(ValueError, match=r"config\['where'\]: got pathlib.*accepted in a checkpoint are"):
        fit(make(), x, y, **options(), checkpoint=path, config={"where": path})
    history = fit(make(), x, y, **options(epochs=1), checkpoint=path, on_epoch=lambda e, v: {"a": np.float64(0.5)})
    assert type(history[0]["a"]) is float and load_checkpoint(path)["history"][0]["a"] == 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "other batches"),
        ({"batch_size": 9}, "other batches"),
        ({"lr": 1e-3}, "other optimiser"),
        ({"schedule": cosine}, "other optimiser"),
        ({"corrupt": data.shift}, "other optimiser"),
        ({"precision": "bf16-mixed"}, "other optimiser"),
        ({"epochs": 1}, "epochs: got 1; .* trained for 2 already"),
    ],
)
def test_a_checkpoint_of_another_setting_is_refused(tmp_path, change, message):
    x, y, _ = rows()
    path = tmp_path / "checkpoint.pt"
    fit(make(), x, y, **options(epochs=2), checkpoint=path)
    with pytest.raises(ValueError, match=message):
        fit(make(), x, y, **{**options(), **change}, checkpoint=path, resume=True)


def test_a_checkpoint_of_another_model_of_the_same_sizes_is_refused(tmp_path):
    x, y, _ = rows()
    path = tmp_path / "checkpoint.pt"
    fit(make(), x, y, **options(epochs=2), checkpoint=path)
    for change, message in (
        ({"networks": MLPs((11,), dropout=0.5)}, "other model"),
        ({"likelihood": LaplaceImage}, "other model"),
        ({"prior": torch.tensor([0.1, 0.3, 0.2, 0.2, 0.2])}, r"other prior: .*-2\.30"),
    ):
        with pytest.raises(ValueError, match=message):
            fit(make(**change), x, y, **options(), checkpoint=path, resume=True)
    load_weights(make(networks=MLPs((11,), dropout=0.5)), load_checkpoint(path))  # the weights themselves fit
    with pytest.raises(ValueError, match=r"does not fit this CCVAE: .*size mismatch for"):
        load_weights(make(z_c=3), load_checkpoint(path))


def test_a_checkpoint_of_other_data_or_another_objective_is_refused(tmp_path):
    x, y, _ = rows()
    path, vae = tmp_path / "checkpoint.pt", make()
    fit(vae, x, y, **options(epochs=2), checkpoint=path)
    again = {**options(), "checkpoint": path, "resume": True}
    with pytest.raises(ValueError, match="other data"):
        fit(make(), 255 - x, y, **again)
    with pytest.raises(ValueError, match="other labels"):
        fit(make(), x, torch.where(y == MISSING, y, 4 - y), **again)
    with pytest.raises(ValueError, match=r"other objective: .*beta 1\.0.*, now .*beta 2\.0"):
        fit(make(), x, y, elbo=vae.elbo(beta=2.0), **again)


def test_resuming_without_a_checkpoint_says_so(tmp_path, capsys):
    x, y, _ = rows()
    fit(make(), x, y, **options(epochs=1), checkpoint=tmp_path / "none.pt", resume=True)
    assert "starting at epoch 1" in capsys.readouterr().err
