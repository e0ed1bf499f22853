import signal

import numpy as np
import pytest
import torch
from training import make, options, rows, same_weights, untimed

from pyro_semivae.checkpoints import load_weights, replace_weights
from pyro_semivae.errors import InputError
from pyro_semivae.files import load_checkpoint, save_checkpoint
from pyro_semivae.models import M1
from pyro_semivae.nn import MLPs
from pyro_semivae.spaces import MISSING, Classes
from pyro_semivae.stopping import EarlyStopping
from pyro_semivae.train import cosine, fit


@pytest.mark.parametrize("more", [{}, {"schedule": cosine}, {"ema_decay": 0.9}], ids=["plain", "cosine", "ema_decay"])
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


def with_buffers_and_a_shared_layer(seed=0):
    """A model with running means (buffers that change in training), and a parameter under two names."""
    vae = make(seed)
    vae.q_z.net = torch.nn.Sequential(vae.q_z.net, torch.nn.BatchNorm1d(10))
    vae.shared = vae.p_x.net
    return vae


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
@pytest.mark.parametrize("best", [None, 1, 3])
def test_buffers_and_shared_parameters_are_resumed_and_loaded(tmp_path, ema_decay, best):
    x, y, _ = rows()
    path, whole = tmp_path / "checkpoint.pt", with_buffers_and_a_shared_layer()
    stop = None if best is None else EarlyStopping("score")
    more = {
        "ema_decay": ema_decay,
        "early_stopping": stop,
        "on_epoch": lambda epoch, _: {"score": float(epoch == best)},
    }
    fit(whole, x, y, **options(**more))
    for epochs in (2, 4):
        parts = with_buffers_and_a_shared_layer(epochs - 2)
        fit(parts, x, y, **options(**more, epochs=epochs), checkpoint=path, resume=True)
    loaded = with_buffers_and_a_shared_layer(5)
    load_weights(loaded, load_checkpoint(path), path)
    assert same_weights(parts, whole) and same_weights(loaded, whole)


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_two_epochs_and_two_more_are_four(tmp_path, ema_decay):
    x, y, _ = rows()
    path = tmp_path / "checkpoint.pt"
    whole, parts = make(), make()
    fit(whole, x, y, **options(ema_decay=ema_decay))
    fit(parts, x, y, **options(epochs=2, ema_decay=ema_decay), checkpoint=path)
    fit(parts, x, y, **options(epochs=4, ema_decay=ema_decay), checkpoint=path, resume=True)
    assert same_weights(whole, parts)
    loaded = make(seed=6)
    load_weights(loaded, load_checkpoint(path), path)
    assert same_weights(loaded, whole), "the file's weights are those of the last epoch, not of the one resumed from"
    again = make(seed=5)
    fit(again, x, y, **options(epochs=4, ema_decay=ema_decay), checkpoint=path, resume=True)
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
    with pytest.raises(ValueError, match="holds a M2, expected a CCVAE"):
        fit(make(), x, y, **options(), checkpoint=path, resume=True)
    save_checkpoint(path, {"something": 1})
    with pytest.raises(ValueError, match="not a checkpoint of pyro_semivae"):
        load_checkpoint(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="damaged"):
        fit(make(), x, y, **options(), checkpoint=path, resume=True)
    with pytest.raises(FileNotFoundError, match="no file"):
        load_checkpoint(tmp_path / "other.pt")


def test_a_path_of_fit_has_its_tilde_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    x, y, _ = rows()
    fit(make(), x, y, **options(epochs=1), checkpoint="~/new/checkpoint.pt")
    assert len(fit(make(), x, y, **options(epochs=2), checkpoint="~/new/checkpoint.pt", resume=True)) == 2
    assert (tmp_path / "new" / "checkpoint.pt").is_file()
    for path, message in (("a\0b", "checkpoint: got 'a.x00b'"), (tmp_path, "checkpoint: got the folder")):
        with pytest.raises(InputError, match=message):
            fit(make(), x, y, **options(epochs=1), checkpoint=path)


def test_without_a_checkpoint_nothing_is_hashed(monkeypatch):
    monkeypatch.setattr("pyro_semivae.settings.digest", None)
    x, y, _ = rows()
    fit(make(), x, y, **options(epochs=1))


def test_a_second_stage_is_there_after_a_resume_with_nothing_left(tmp_path):
    x, y, _ = rows()
    path, given, models = tmp_path / "checkpoint.pt", options(epochs=2, ema_decay=0.9), []
    for stage in (1, 2):
        torch.manual_seed(stage)
        models.append(M1((1, 4, 7), Classes(5), networks=MLPs((11,))))
        fit(models[-1], x, y, **given, checkpoint=path, resume=True)
        if stage == 1:
            replace_weights(path, models[0].fit_classifier(x, y))
    assert models[0].q_y.net.weight.any() and same_weights(*models)


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
    old = {"model": "Old", "weights": {}}
    save_checkpoint(path, old)

    def killed(state, file):
        file.write(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(torch, "save", killed)
        save_checkpoint(path, {"new": 1})
    assert load_checkpoint(path) == old
    assert [p.name for p in tmp_path.iterdir()] == ["file.pt"]


def test_what_a_checkpoint_cannot_hold_is_refused_before_training(tmp_path):
    x, y, _ = rows()
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(ValueError, match=r"config\['where'\]: got pathlib.*expected in a checkpoint"):
        fit(make(), x, y, **options(), checkpoint=path, config={"where": path})
    history = fit(make(), x, y, **options(epochs=1), checkpoint=path, on_epoch=lambda e, v: {"a": np.float64(0.5)})
    assert type(history[0]["a"]) is float and load_checkpoint(path)["history"][0]["a"] == 0.5


def test_resuming_without_a_checkpoint_says_so(tmp_path, capsys):
    x, y, _ = rows()
    fit(make(), x, y, **options(epochs=1), checkpoint=tmp_path / "none.pt", resume=True)
    assert "starting at epoch 1" in capsys.readouterr().err
