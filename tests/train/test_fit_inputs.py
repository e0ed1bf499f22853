"""What `fit` takes, what it leaves alone, and what it says at its end."""

import os
import signal
from functools import partial

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import SVI
from torch.testing import assert_close
from training import make, options, rows, same_weights, untimed

from pyro_semivae import CCVAE, tasks
from pyro_semivae.data import Batches
from pyro_semivae.errors import InputError
from pyro_semivae.infer import ClassifierTerm
from pyro_semivae.models import DIVA, M2, M3, MVAE, VAE, InvertedVAE
from pyro_semivae.nn import MLPs
from pyro_semivae.spaces import Binary, Classes
from pyro_semivae.stopping import EarlyStopping
from pyro_semivae.train import Interrupted, _fabric, fit
from pyro_semivae.watch import signs_of_failure

INTEGERS = (torch.int8, torch.uint8, torch.int16, torch.int32)


def small(model, labels, **options):
    torch.manual_seed(0)
    if model is InvertedVAE:
        return model((1, 2, 2), labels, classifier_hidden=(5,), encoder_hidden=(4,), decoder_hidden=(3,), **options)
    return model((1, 2, 2), labels, networks=MLPs((7,)), **options)


@pytest.mark.parametrize("model", [CCVAE, M2, MVAE, InvertedVAE])
@pytest.mark.parametrize("dtype", INTEGERS)
def test_labels_of_any_integer_type_are_the_same_labels(model, dtype):
    """A uint8 tensor is a mask where it is an index: MVAE's experts were chosen by it, M2's training failed."""
    x, y, few = torch.rand(6, 1, 2, 2), torch.tensor([1, 2, 1, 2, 0, 2]), options(epochs=2, batch_size=3)
    results = []
    for labels in (y, y.to(dtype), y.to(dtype).numpy(), y.tolist()):
        vae = small(model, Classes(3))
        torch.manual_seed(1)
        found = [*tasks.infer(vae, x, labels).values(), tasks.generate(vae, labels), tasks.intervene(vae, x, labels)]
        fit(vae, x, labels, **few)
        results.append([*found, *vae.state_dict().values()])
    for others in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], others, strict=True))


@pytest.mark.parametrize("dtype", INTEGERS)
def test_objectives_and_batches_take_small_integers(dtype):
    x, y = torch.rand(4, 1, 2, 2), torch.tensor([1, 2, 1, 0])
    for model in (M2, MVAE):
        vae, terms = small(model, Classes(3)), []
        for labels in (y, y.to(dtype)):
            torch.manual_seed(1)
            terms.append(vae.elbo().weighted_terms(vae.model, vae.guide, x, labels))
        assert all(torch.equal(terms[0][name], terms[1][name]) for name in terms[0])
    assert next(Batches(x, y.to(dtype), batch_size=2).epoch(0)).y.dtype == torch.int64


@pytest.mark.parametrize("model", [CCVAE, M2, MVAE, InvertedVAE])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_binary_labels_take_the_models_dtype(model, dtype):
    y = torch.tensor([[0, 1], [1, 1], [torch.nan, 0], [0, torch.nan]], dtype=dtype)
    vae = small(model, Binary(2)).float()
    fit(vae, torch.rand(4, 1, 2, 2), y, **options(epochs=1, batch_size=2))
    assert tasks.generate(vae, y).dtype == torch.float32


def test_numpy_arrays_and_lists_train_as_tensors_do():
    x, y, _ = rows()
    first = make()
    fit(first, x, y, **options(epochs=1))
    for images, labels in ((x.numpy(), y.numpy()), (x.double().div(255).tolist(), y.tolist())):
        other = make()
        fit(other, images, labels, **options(epochs=1, seed=np.int64(0), batch_size=np.int64(8)))
        assert same_weights(first, other)


def test_latents_handed_to_tasks_take_the_models_dtype():
    vae = small(M2, Classes(3), z=2).float()
    y = torch.tensor([0, 1])
    expected = tasks.decode(vae, {"z": torch.tensor([[1.0, 2.0], [0.0, 1.0]])}, y)
    for z in (torch.tensor([[1, 2], [0, 1]]), np.array([[1.0, 2.0], [0.0, 1.0]]), [[1, 2], [0, 1]]):
        assert_close(tasks.decode(vae, {"z": z}, y), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": None}, "x: got nothing"),
        ({"x": "images"}, "x: got str"),
        ({"x": torch.rand(4, 1, 4, 7).to_sparse()}, "x: got torch.sparse_coo"),
        ({"x": [[1.0], [1.0, 2.0]]}, "x: got list"),
        ({"y": [[1], [2, 3]]}, "y: got list"),
        ({"y": []}, "y: got dtype torch.float64"),
        ({"y": [1, 2]}, "x, y: got 60 rows of x and 2 rows of y"),
        ({"y": torch.ones(60, dtype=torch.bool)}, "y: got dtype torch.bool"),
        ({"batch_size": 2.5}, "batch_size: got 2.5"),
        ({"epochs": 2.5}, "epochs: got 2.5"),
        ({"lr": "a"}, "lr: got 'a'"),
        ({"clip": 1.0}, r"clip: got 1.0; expected a function, e.g. partial\(torch"),
        ({"schedule": "linear"}, "schedule: got 'linear'; expected 'constant', 'cosine'"),
        ({"schedule": 0.5}, "schedule: got 0.5; expected a function"),
        ({"corrupt": 1}, "corrupt: got 1"),
        ({"on_epoch": 1}, "on_epoch: got 1"),
        ({"seed": -1}, "seed: got -1"),
        ({"seed": 10**20}, "seed: got 1"),
        ({"precision": "bf16-true"}, "precision: got 'bf16-true'; expected '64-true'"),
        ({"precision": "16-mixed"}, "precision: got '16-mixed' on the CPU"),
        ({"vae": torch.nn.Linear(1, 1)}, "vae: got Linear"),
        ({"vae": CCVAE}, "vae: got <class"),
        ({"x": torch.zeros(0, 1, 4, 7), "y": torch.zeros(0).long()}, "x: got 0 rows"),
        ({"config": ["a"]}, "config: got list; expected a dict"),
        ({"accelerator": "abacus"}, "accelerator: got 'abacus'"),
        ({"accelerator": "mps"}, "accelerator: got 'mps'"),
        ({"on_epoch": lambda *_: 0.5}, "on_epoch: returned 0.5; expected None, or a dict"),
        ({"on_epoch": lambda *_: {"a": "b"}}, "on_epoch: returned {'a': 'b'}"),
        ({"corrupt": lambda x: x[:1]}, r"corrupt: returned \(1, 1, 4, 7\); expected images of the shape \(13,"),
        ({"corrupt": lambda x: None}, "corrupt: returned NoneType"),
    ],
)
def test_what_fit_does_not_take_is_named(change, message):
    x, y, _ = rows()
    given = {"vae": make(), "x": x, "y": y, **options(), **change}
    with pytest.raises(InputError, match=message):
        fit(**given)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda: Classes(2.5), "num_classes: got 2.5; expected an integer from 2 up"),
        (lambda: Classes("3"), "num_classes: got '3'"),
        (lambda: small(M2, Classes(3), z=2.5), "z: got 2.5; expected a positive integer"),
        (lambda: small(CCVAE, Classes(3), z_s=True), "z_s: got True; expected a non-negative integer"),
        (lambda: small(M2, Classes(3), prior="a"), "prior: got str"),
        (lambda: small(CCVAE, Binary(2), prior=None).labels.prior("a"), "prior: got str"),
        (lambda: small(CCVAE, Classes(3)).elbo(beta="a"), "beta: got 'a'; expected a finite number from 0"),
        (lambda: small(M2, Classes(3)).elbo(temperature=None), "temperature: got None; expected a finite number"),
        (lambda: small(MVAE, Classes(3)).elbo(label_weight="a"), "label_weight: got 'a'"),
        (lambda: small(InvertedVAE, Classes(3)).elbo(image_weight="a"), "image_weight: got 'a'"),
        (lambda: EarlyStopping("elbo", maximise="no"), "maximise: got 'no'; expected True, False"),
    ],
)
def test_options_of_another_type_are_named(run, message):
    with pytest.raises(InputError, match=message):
        run()


@pytest.mark.parametrize("task", [tasks.classify, tasks.infer, tasks.reconstruct])
@pytest.mark.parametrize("model", [CCVAE, M2, MVAE])
def test_tasks_without_images_say_so(task, model):
    if model is not MVAE or task is tasks.classify:  # whose labels are evidence enough
        with pytest.raises(InputError, match=r"x: got .*; expected"):
            task(small(model, Classes(3)), None)
    else:
        task(small(model, Classes(3)), None, torch.tensor([1, 2]))


def test_models_that_cannot_be_trained_are_named():
    x, y, _ = rows()
    with pytest.raises(InputError, match="no parameter requires a gradient"):
        fit(make().requires_grad_(False), x, y, **options())
    with torch.inference_mode():
        vae = make()
        with pytest.raises(InputError, match="inside of torch"):
            fit(vae, x, y, **options())


def test_frozen_parameters_stay_and_the_others_train():
    x, y, _ = rows()
    vae, start = make(), make()
    vae.p_x.requires_grad_(False)
    fit(vae, x, y, **options(epochs=1, ema_decay=0.5), clip=partial(torch.nn.utils.clip_grad_norm_, max_norm=1.0))
    assert same_weights(vae.p_x, start.p_x) and not same_weights(vae.q_z, start.q_z)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_fit_trains_where_gradients_are_off(mode):
    x, y, _ = rows()
    first, second = make(), make()
    fit(first, x, y, **options(epochs=1))
    with mode():
        fit(second, x.clone(), y.clone(), **options(epochs=1))
        assert not torch.is_grad_enabled()
    assert same_weights(first, second)


def test_images_that_require_gradients_get_none():
    x = torch.rand(8, 1, 4, 7, requires_grad=True)
    fit(make(), x, torch.arange(8) % 5, **options(epochs=1))
    assert x.grad is None


def test_the_callers_random_numbers_go_on_as_if_nothing_had_happened():
    x, y, _ = rows()
    vae = make()
    torch.manual_seed(3)
    expected = torch.rand(5)
    torch.manual_seed(3)
    first = torch.rand(2)
    fit(vae, x, y, **options(epochs=1))
    assert torch.equal(torch.cat([first, torch.rand(3)]), expected)


def test_a_callback_changes_nothing():
    """Neither what it draws, nor what the caller had drawn before, nor the modes it leaves the model in."""
    x, y, _ = rows()
    runs = []

    def callback(epoch, vae):
        torch.set_grad_enabled(False)
        tasks.classify(vae, x)
        torch.manual_seed(epoch)

    for draws, on_epoch in ((0, None), (7, callback)):
        vae = make()
        torch.rand(draws)
        runs.append((vae, untimed(fit(vae, x, y, **options(ema_decay=0.5), on_epoch=on_epoch))))
    assert same_weights(runs[0][0], runs[1][0]) and runs[0][1] == runs[1][1]


def test_an_average_that_is_not_finite_is_named(tmp_path):
    x, y, _ = rows()
    vae = make()

    def spoil(epoch, vae):  # the averages are in place while the callback runs
        with torch.no_grad():
            vae.q_z.net.layers[0].bias[0] = torch.nan

    with pytest.raises(FloatingPointError, match=r"average of q_z.net.layers.0.bias: not finite after epoch 1"):
        fit(vae, x, y, **options(ema_decay=0.5), checkpoint=tmp_path / "c.pt", on_epoch=spoil)
    assert not (tmp_path / "c.pt").exists()


def test_ctrl_c_keeps_the_history_and_leaves_the_averages(ctrl_c):
    x, y, _ = rows()
    vae, whole, seen = make(), make(), []

    def stop(epoch, vae):
        seen.append({name: value.clone() for name, value in vae.state_dict().items()})
        if epoch == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as stopped:
        fit(vae, x, y, **options(ema_decay=0.9), on_epoch=stop)
    history = fit(whole, x, y, **options(ema_decay=0.9, epochs=4))
    assert isinstance(stopped.value, Interrupted) and untimed(stopped.value.history) == untimed(history[:2])
    assert all(torch.equal(seen[1][name], value) for name, value in vae.state_dict().items())


def test_small_sets_take_as_many_steps_as_large_ones(monkeypatch):
    x, y, _ = rows()
    monkeypatch.setattr("pyro_semivae.train.STEPS", 60)
    assert len(fit(make(), x, y, batch_size=8, progress=False)) == 12  # 40 unlabelled rows are five steps
    assert len(fit(make(), x, y, batch_size=4, progress=False)) == 10  # ten passes at least


def test_what_was_not_learnt_is_said(capsys):
    x, y, _ = rows(200, labelled=100)
    vae = make()
    fit(vae, x, y, **{**options(epochs=1, lr=1e-7), "progress": True})
    said = capsys.readouterr().err
    assert "NOTE: accuracy on labelled training rows is" in said and "NOTE: KL(q(z_c, z_s | x) || p) is" in said
    torch.manual_seed(0)
    x = torch.zeros(200, 1, 4, 7)
    x.flatten(1)[torch.arange(200), torch.arange(200) % 5] = 1.0
    vae = make()
    fit(vae, x, torch.arange(200) % 5, elbo=vae.elbo() + 8.0 * ClassifierTerm(), epochs=20, batch_size=20, lr=1e-2)
    assert signs_of_failure(vae, vae.table(x, torch.arange(200) % 5)) == []
    assert "NOTE" not in capsys.readouterr().err
    torch.manual_seed(0)
    plain = VAE((1, 2, 2), Classes(3), z=1, networks=MLPs((5,)))
    notes = signs_of_failure(plain, plain.table(torch.rand(9, 1, 2, 2)))
    assert len(notes) == 1 and notes[0].startswith("KL(q(z | x) || p) is")


def test_binary_labels_that_were_not_learnt_are_said():
    vae, y = small(CCVAE, Binary(2)), torch.tensor([[1.0, 0.0], [1.0, torch.nan], [1.0, 1.0], [0.0, torch.nan]])
    notes = signs_of_failure(vae, vae.table(torch.rand(4, 1, 2, 2), y))
    assert any("always saying the most frequent value has 0.67" in note for note in notes)


@pytest.mark.parametrize("labels", [Classes(3), Binary(2)])
def test_labels_of_one_value_say_nothing_about_a_classifier(labels):
    y = torch.ones(9).long() if labels == Classes(3) else torch.ones(9, 2)
    vae = small(CCVAE, labels)
    assert not any("accuracy" in note for note in signs_of_failure(vae, vae.table(torch.rand(9, 1, 2, 2), y)))


@pytest.mark.parametrize(
    ("x_shape", "message"),
    [
        (784, "x_shape: got 784"),
        ((28, 28), r"x_shape: got \(28, 28\)"),
        ((1, 0, 2), "x_shape: got 0"),
        ("abc", "x_shape: got 'a'"),
    ],
)
def test_shapes_that_are_no_images(x_shape, message):
    with pytest.raises(InputError, match=message):
        M2(x_shape, Classes(3))


def test_label_spaces_of_a_reloaded_module_are_said_to_be_so():
    """The class of a name is another one after `importlib.reload`."""
    old = type("Classes", (), {"__repr__": lambda self: "Classes(3)"})()
    with pytest.raises(InputError, match=r"labels: got Classes\(3\), from a module that has been reloaded since"):
        M2((1, 2, 2), old)


def test_loaded_parameters_go_on_as_the_message_says(tmp_path):
    def build(seed):
        torch.manual_seed(seed)
        return M2((1, 2, 2), Classes(3), networks=MLPs((5,)))

    x, y, store = torch.rand(4, 1, 2, 2), torch.tensor([0, 1, -1, 2]), pyro.get_param_store()
    first = build(0)
    SVI(first.model, first.guide, pyro.optim.Adam({"lr": 0.1}), first.elbo()).step(x, y)
    saved = [p.detach().clone() for p in first.parameters()]
    store.save(tmp_path / "store.pt")
    pyro.clear_param_store()
    store.load(tmp_path / "store.pt")
    vae = build(1)
    with pytest.raises(RuntimeError, match=r"call pyro.module\('m2', vae, update_module_params=True\) first"):
        SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.1}), vae.elbo()).step(x, y)
    pyro.module("m2", vae, update_module_params=True)
    assert all(torch.equal(a, b) for a, b in zip(saved, vae.parameters(), strict=True))
    SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.1}), vae.elbo()).step(x, y)
    assert not any(torch.equal(a, b) for a, b in zip(saved, vae.parameters(), strict=True))


@pytest.mark.parametrize("model", [CCVAE, M2, M3, DIVA])
def test_the_guide_sees_moved_images_unless_told_otherwise(model):
    """By a pixel in 28 with a class label; small images, binary labels and models without the recipe: as they are."""
    torch.manual_seed(0)
    x, y = torch.rand(6, 1, 28, 30), torch.tensor([0, 1, 2, -1, -1, -1])
    vae, seen = model(x.shape[1:], Classes(3), networks=MLPs((3,))), []
    known = {tuple(image.tolist()) for image in x.flatten(1)}
    vae.guide = lambda x, y=None, run=vae.guide: (seen.extend(map(tuple, x.flatten(1).tolist())), run(x, y))[1]
    for corrupt, moved in (("recipe", True), (None, False)):
        seen.clear()
        fit(vae, x, y, elbo=vae.elbo(), epochs=1, batch_size=3, progress=False, corrupt=corrupt)
        assert any(image not in known for image in seen) == moved
    assert model((1, 8, 8), Classes(3), networks=MLPs((3,))).corruption() is None
    assert model((1, 28, 28), Binary(3), networks=MLPs((3,))).corruption() is None
    assert MVAE((1, 28, 28), Classes(3), networks=MLPs((3,))).corruption() is None
    with pytest.raises(InputError, match="corrupt: got 'noise'; expected a function"):
        fit(vae, x, y, corrupt="noise")


def test_the_models_warm_up_is_taken_unless_told_otherwise():
    x, y, _ = rows()
    for warm_up, expected in ((None, MVAE.warm_up), (0.0, 0.0)):
        vae = MVAE((1, 4, 7), Classes(5), networks=MLPs((3,)))
        history = fit(vae, x, y, warm_up=warm_up, **options())
        per_epoch = 5
        last = [((epoch + 1) * per_epoch - 1) / (len(history) * per_epoch) for epoch in range(len(history))]
        assert_close(
            [record.get("weight/log p(z)", 1.0) for record in history],
            [min(1.0, done / expected) if expected else 1.0 for done in last],
        )
    assert MVAE.warm_up > 0 and CCVAE.warm_up == 0


@pytest.mark.parametrize(("index", "devices"), [(-1, 1), (1, [1])])
def test_training_is_where_the_model_is(index, devices, monkeypatch):
    """Asked without a GPU: what Fabric is told."""
    told = []

    class ToldError(Exception):
        pass

    def fabric(**how):
        told.append(how)
        raise ToldError

    vae, seen = make(), []
    monkeypatch.setattr("pyro_semivae.train._fabric", lambda where, *rest: seen.append(where) or _fabric(where, *rest))
    monkeypatch.setattr("pyro_semivae.train.Fabric", fabric)
    x, y, _ = rows()
    with pytest.raises(ToldError):
        fit(vae, x, y, **options())
    assert seen == [next(vae.parameters()).device] and told[-1]["accelerator"] == "cpu" and told[-1]["devices"] == 1
    with pytest.raises(ToldError):
        _fabric(torch.device("cuda", index) if index > 0 else torch.device("cuda"), None, vae.elbo())
    assert told[-1]["accelerator"] == "cuda" and told[-1]["devices"] == devices
