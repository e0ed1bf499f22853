import signal

import numpy as np
import pyro
import pytest
import torch
from torch.testing import assert_close

from pyro_semivae import CCVAE, data, tasks
from pyro_semivae.conditionals import GreyBernoulli
from pyro_semivae.files import load_checkpoint, save_checkpoint
from pyro_semivae.labels import MISSING, Classes
from pyro_semivae.nn import MLPs
from pyro_semivae.train import cosine, fit, load_weights


def make(seed=0, **options):
    torch.manual_seed(seed)
    return CCVAE(
        (1, 4, 7), Classes(5), **{"z_c": 2, "z_s": 3, "networks": MLPs((11,)), "label_hidden": (6,), **options}
    )


def rows(n=60, labelled=20):
    generator = torch.Generator().manual_seed(5)
    x = torch.randint(0, 256, (n, 1, 4, 7), generator=generator, dtype=torch.uint8)
    y = torch.randint(0, 5, (n,), generator=generator)
    return x, data.hide(y, torch.arange(labelled)), y


def options(**more):
    return {"epochs": 4, "batch_size": 8, "labelled_batch_size": 5, "lr": 1e-2, "progress": False, **more}


def same_weights(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def untimed(history):
    return [{k: v for k, v in record.items() if k != "seconds"} for record in history]


def test_training_raises_the_bound_and_reports_its_terms():
    x, y, _ = rows()
    x[:] = x[:1]  # one image, so that there is much to learn
    history = fit(make(), x, y, **options(epochs=25))
    assert [record["epoch"] for record in history] == list(range(1, 26))
    assert history[-1]["bound"] > history[0]["bound"] + 1
    terms = [v for k, v in history[-1].items() if k.startswith("term/")]
    assert_close(sum(terms), history[-1]["bound"])
    assert 0 < history[-1]["monitor/ess"] <= 1


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others():
    x, y, _ = rows()
    runs = []
    for seed in (0, 0, 1):
        vae = make()
        runs.append((vae, untimed(fit(vae, x, y, **options(seed=seed)))))
    assert same_weights(runs[0][0], runs[1][0]) and runs[0][1] == runs[1][1]
    assert not same_weights(runs[0][0], runs[2][0])


def test_hidden_labels_never_influence_training():
    """Given the split, corrupting what is hidden leaves training bit-identical."""
    x, _, y = rows()
    labelled = torch.arange(20)
    corrupted = torch.where(torch.arange(len(y)) < 20, y, (y + 1) % 5)
    first, second = make(), make()
    fit(first, x, data.hide(y, labelled), **options())
    fit(second, x, data.hide(corrupted, labelled), **options())
    assert same_weights(first, second)


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


def test_averaged_weights_are_the_moving_average_of_the_steps(monkeypatch):
    x, y, _ = rows()
    plain, averaged = make(), make()
    trail, seen = [], []

    class Recording(torch.optim.Adam):
        def step(self, closure=None):
            super().step(closure)
            trail.append([p.detach().clone() for p in plain.parameters()])

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim, "Adam", Recording)
        fit(plain, x, y, **options())

    def on_epoch(epoch, vae):
        seen.append([p.detach().clone() for p in vae.parameters()])

    start = [p.detach().clone() for p in averaged.parameters()]
    fit(averaged, x, y, **options(average=0.8), on_epoch=on_epoch)
    expected = start
    for step, weights in enumerate(trail, 1):
        decay = min(0.8, step / (step + 9))
        expected = [decay * e + (1 - decay) * w for e, w in zip(expected, weights, strict=True)]
        if step == len(trail) // 4:
            assert_close(seen[0], expected)
    assert_close([p.detach() for p in averaged.parameters()], expected)
    assert_close(seen[-1], expected)
    assert not same_weights(plain, averaged)
    with pytest.raises(ValueError, match="average: got 1; accepted is"):
        fit(make(), x, y, **options(average=1))


def test_ctrl_c_in_an_epoch_keeps_the_last_checkpoint(tmp_path):
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


def test_a_term_that_is_not_finite_stops_training_and_keeps_the_checkpoint(tmp_path):
    x, y, _ = rows()
    path, calls = tmp_path / "checkpoint.pt", 0

    def spoil(images):
        nonlocal calls
        calls += 1
        if calls == 2 * 5 + 3:
            images = images.index_fill(0, torch.tensor(4), float("nan"))
        return images

    vae = make()
    with pytest.raises(FloatingPointError, match=r"epoch 3, step 3: term p\(x\), .*site .*z_c.* at rows \[\d+\] of"):
        fit(vae, x, y, **options(), checkpoint=path, corrupt=spoil)
    assert load_checkpoint(path)["epoch"] == 2
    assert all(p.isfinite().all() for p in vae.parameters()), "the bad step was not taken"
    assert not vae.training


def test_a_parameter_that_is_not_finite_never_reaches_a_checkpoint(tmp_path):
    x, y, _ = rows()
    path = tmp_path / "checkpoint.pt"

    def spoil(epoch, vae):
        if epoch == 2:
            with torch.no_grad():
                vae.p_z_c.net[1].layers[-1].bias[0] = float("nan")

    with pytest.raises(FloatingPointError, match=r"parameters p_z_c.net.1.layers.2.bias are not finite after epoch 2"):
        fit(make(), x, y, **options(), checkpoint=path, on_epoch=spoil)
    assert load_checkpoint(path)["epoch"] == 1


def test_the_first_bad_step_is_named_when_looked_at_later():
    from pyro_semivae.train import _FiniteWatch

    watch = _FiniteWatch(every=25)
    good, bad = torch.zeros(2, 3), torch.tensor([[0.0, 0.0, 0.0], [0.0, float("nan"), 0.0]])
    index = torch.tensor([10, 11, 12])
    watch(good, index, ["p(x)", "q(y|z)"], "step 1")
    watch(bad, index + 10, ["p(x)", "q(y|z)"], "step 2")
    watch(bad.flip(0), index, ["p(x)", "q(y|z)"], "step 3")
    with pytest.raises(FloatingPointError, match=r"step 2: term q\(y\|z\) \(site y\) at rows \[21\]"):
        watch.check(["p(x)", "q(y|z)"])


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
        ({"epochs": 1}, "epochs: got 1; .* trained for 2 already"),
    ],
)
def test_a_checkpoint_of_another_setting_is_refused(tmp_path, change, message):
    x, y, _ = rows()
    path = tmp_path / "checkpoint.pt"
    fit(make(), x, y, **options(epochs=2), checkpoint=path)
    with pytest.raises(ValueError, match=message):
        fit(make(), x, y, **{**options(), **change}, checkpoint=path, resume=True)


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("image_dtype", [torch.uint8, torch.float32, torch.float64])
def test_images_take_the_models_dtype(dtype, image_dtype):
    x, y, _ = rows()
    x = x if image_dtype == torch.uint8 else x.to(image_dtype) / 255
    vae = make().to(dtype)
    assert fit(vae, x, y, **options(epochs=1))[0]["bound"] < 0
    assert tasks.classify(vae, x).dtype == tasks.reconstruct(vae, x).dtype == dtype


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs, lr: got 0"),
        ({"lr": float("nan")}, "epochs, lr: got"),
        ({"batch_size": 0}, "batch_size: got 0"),
        ({"labelled_batch_size": 0}, "labelled_batch_size: got 0"),
        ({"labelled_weight": -1.0}, "labelled_weight: got -1.0"),
        ({"checkpoint": "/proc/nowhere/c.pt"}, "checkpoint: cannot write to /proc/nowhere"),
    ],
)
def test_bad_options_are_named(change, message):
    x, y, _ = rows()
    with pytest.raises(ValueError, match=message):
        fit(make(), x, y, **{**options(), **change})
    with pytest.raises(ValueError, match="x: got 0 rows"):
        fit(make(), x[:0], **options())


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.rand(6, 1, 4, 7) + 0.5, None, r"x: got pixels from .* accepted is .*\[0, 1\]"),
        (torch.full((6, 1, 4, 7), float("nan")), None, "x: got pixels"),
        (torch.rand(6, 4, 7), None, r"x: got shape \(6, 4, 7\)"),
        (torch.rand(6, 3, 4, 7), None, r"x: got shape \(6, 3, 4, 7\)"),
        (torch.zeros(6, 1, 4, 7, dtype=torch.int64), None, "x: got dtype torch.int64"),
        (torch.rand(6, 1, 4, 7), torch.full((6,), 5), r"y: got \[5"),
        (torch.rand(6, 1, 4, 7), torch.zeros(6), "y: got dtype"),
        (torch.rand(6, 1, 4, 7), torch.zeros(5, dtype=torch.long), "x, y: got 6 images and 5 labels"),
    ],
)
def test_bad_input_is_named_before_training(x, y, message):
    with pytest.raises(ValueError, match=message):
        fit(make(), x, y, **options())


def test_pixels_outside_the_support_are_an_error_in_a_plain_model_too():
    vae = make()
    with pytest.raises(ValueError, match="support"):
        vae.elbo().loss(vae.model, vae.guide, torch.rand(6, 1, 4, 7) + 1)


def test_a_bound_that_needs_labels_says_so():
    x, y, _ = rows()
    vae = make()
    with pytest.raises(ValueError, match="no labelled row"):
        fit(vae, x, torch.full_like(y, MISSING), elbo=vae.elbo(regulariser_weight=1.0), **options())


def test_validation_is_off_in_the_loop_and_restored_after_it():
    x, y, _ = rows()
    seen = []
    fit(
        make(),
        x,
        y,
        **options(epochs=1),
        on_epoch=lambda epoch, vae: seen.append(pyro.settings.get("validate_poutine")),
    )
    assert seen == [False] and pyro.settings.get("validate_poutine")


def test_corruption_is_seen_by_the_guide_and_not_by_the_model():
    x, y, _ = rows()
    vae, seen = make(), []
    vae.q_z.register_forward_hook(lambda module, args, out: seen.append(args[0]))
    log_prob = GreyBernoulli.log_prob
    scored = []

    class Spy(GreyBernoulli):
        def log_prob(self, value):
            scored.append(value)
            return log_prob(self, value)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pyro_semivae.conditionals.GreyBernoulli", Spy)
        fit(vae, x, y, **options(epochs=1), corrupt=lambda x: torch.full_like(x, 0.5))
    assert all((images == 0.5).all() for images in seen) and len(seen) == len(scored) == 5
    clean = {tuple(image.tolist()) for image in (x.flatten(1) / 255.0)}
    assert {tuple(image.tolist()) for batch in scored for image in batch.flatten(1)} <= clean


def test_shift_moves_each_image_by_its_own_offset():
    x = torch.rand(50, 3, 6, 5)
    moved = data.shift(x, 1)
    assert moved.shape == x.shape
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1))
    offsets = set()
    for image, source in zip(moved, padded, strict=True):
        found = [(i, j) for i in range(3) for j in range(3) if torch.equal(image, source[:, i : i + 6, j : j + 5])]
        assert len(found) == 1
        offsets.add(found[0])
    assert len(offsets) == 9
