"""Early stopping: when training ends, whose weights stay, and that a resumed run does the same."""

import math

import pytest
import torch
from training import make, options, rows, same_weights, untimed

from pyro_semivae.checkpoints import load_weights
from pyro_semivae.errors import InputError
from pyro_semivae.files import load_checkpoint
from pyro_semivae.stopping import EarlyStopping
from pyro_semivae.train import fit

SCORES = [0.1, 0.5, 0.4, math.nan, 0.5, 0.9, 0.2]


def scored(seen=None):
    """A callback that returns the next score and keeps what the model was then."""

    def on_epoch(epoch, vae):
        if seen is not None:
            seen.append({name: value.clone() for name, value in vae.state_dict().items()})
        return {"score": SCORES[epoch - 1]}

    return on_epoch


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
@pytest.mark.parametrize(("patience", "epochs", "best"), [(2, 4, 1), (3, 5, 1), (4, 7, 5)])
def test_training_ends_and_the_best_epochs_weights_stay(tmp_path, ema_decay, patience, epochs, best):
    x, y, _ = rows()
    vae, seen, path = make(), [], tmp_path / "c.pt"
    stop = EarlyStopping("score", patience=patience)
    given = options(epochs=7, ema_decay=ema_decay)
    history = fit(vae, x, y, early_stopping=stop, on_epoch=scored(seen), checkpoint=path, **given)
    assert len(history) == len(seen) == epochs
    assert all(torch.equal(value, seen[best][name]) for name, value in vae.state_dict().items())
    assert not same_weights(vae, make())
    loaded = make(seed=3)
    load_weights(loaded, load_checkpoint(path, "CCVAE"), path)
    assert same_weights(loaded, vae)


@pytest.mark.parametrize("done", [1, 3, 4, 5])
def test_a_resumed_run_stops_where_the_whole_one_does(tmp_path, done):
    x, y, _ = rows()
    whole, parts, path = make(), make(), tmp_path / "c.pt"
    stop = EarlyStopping("score", patience=4)
    given = options(ema_decay=0.9)
    history = fit(whole, x, y, early_stopping=stop, on_epoch=scored(), **{**given, "epochs": 7})
    for epochs in (done, 7):
        again = {**given, "epochs": epochs, "checkpoint": path, "resume": True}
        resumed = fit(parts, x, y, early_stopping=stop, on_epoch=scored(), **again)
    assert same_weights(whole, parts) and str(untimed(resumed)) == str(untimed(history))
    with pytest.raises(InputError, match="trained with other optimiser"):
        fit(parts, x, y, early_stopping=EarlyStopping("score", patience=9), on_epoch=scored(), **again)


def test_smaller_may_be_better_and_a_gain_must_be_large_enough():
    history = [{"error": value} for value in (3.0, 2.0, 1.95, 1.5, math.inf)]
    assert EarlyStopping("error", maximise=False).best(history) == 3
    assert EarlyStopping("error", maximise=False, least_gain=0.1).best(history[:3]) == 1
    assert EarlyStopping("error").best(history) == 0
    none = [{"error": math.nan}] * 3
    stop = EarlyStopping("error", patience=2)
    assert stop.best(none) is None and not stop.is_over(none[:1]) and stop.is_over(none)


def test_without_a_finite_value_the_last_weights_stay():
    x, y, _ = rows()
    plain, stopped = make(), make()
    fit(plain, x, y, **options(epochs=2))
    stop = EarlyStopping("score", patience=2)
    history = fit(stopped, x, y, early_stopping=stop, on_epoch=lambda *_: {"score": math.nan}, **options(epochs=9))
    assert len(history) == 2 and same_weights(plain, stopped)


def test_what_cannot_be_monitored_is_named():
    x, y, _ = rows()
    with pytest.raises(InputError, match="got the monitor 'accuracy'; expected 'epoch', 'objective'"):
        fit(make(), x, y, early_stopping=EarlyStopping("accuracy"), **options())
    with pytest.raises(InputError, match="early_stopping: got 3; expected an EarlyStopping"):
        fit(make(), x, y, early_stopping=3, **options())
    for bad in ({"patience": 0}, {"least_gain": -1.0}, {"monitor": 3}):
        with pytest.raises(InputError, match=f"{next(iter(bad))}: got"):
            EarlyStopping(**{"monitor": "elbo", **bad})
