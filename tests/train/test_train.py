from functools import partial

import pyro
import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.testing import assert_close
from training import make, options, rows, same_weights, untimed

from pyro_semivae import data, tasks
from pyro_semivae.checkpoints import Average
from pyro_semivae.distributions import GreyBernoulli
from pyro_semivae.files import load_checkpoint
from pyro_semivae.infer import BalanceTerm, NearestLabelTerm
from pyro_semivae.spaces import MISSING
from pyro_semivae.train import fit
from pyro_semivae.watch import FiniteWatch


def weighted(record):
    """The sum of an epoch's terms, each times its weight."""
    terms = {name.removeprefix("term/"): value for name, value in record.items() if name.startswith("term/")}
    return sum(value * record.get(f"weight/{name}", 1.0) for name, value in terms.items())


def test_training_raises_the_bound_and_reports_its_terms():
    x, y, _ = rows()
    x[:] = x[:1]  # one image, so that there is much to learn
    history = fit(make(), x, y, **options(epochs=25))
    assert [record["epoch"] for record in history] == list(range(1, 26))
    assert history[-1]["objective"] > history[0]["objective"] + 1
    assert_close(weighted(history[-1]), history[-1]["objective"])
    bound = [v for k, v in history[-1].items() if k.startswith("term/")]
    assert_close(sum(bound), history[-1]["elbo"])  # what is added is another weight of one of its terms
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
    fit(averaged, x, y, **options(ema_decay=0.8), on_epoch=on_epoch)
    expected = start
    for step, weights in enumerate(trail, 1):
        decay = min(0.8, step / (step + 9))
        expected = [decay * e + (1 - decay) * w for e, w in zip(expected, weights, strict=True)]
        if step == len(trail) // 4:
            assert_close(seen[0], expected)
    assert_close([p.detach() for p in averaged.parameters()], expected)
    assert_close(seen[-1], expected)
    assert not same_weights(plain, averaged)
    with pytest.raises(ValueError, match="ema_decay: got 1; expected"):
        fit(make(), x, y, **options(ema_decay=1))


def test_averages_are_those_of_torch_to_the_bit():
    net = torch.nn.Linear(3, 2, dtype=torch.float32)
    own, of_torch = Average(net, 0.8), AveragedModel(net)
    of_torch.update_parameters(net)  # starts with the current weights
    for step in range(1, 60):
        with torch.no_grad():
            net.weight.normal_()
        own.update()
        of_torch.multi_avg_fn = get_ema_multi_avg_fn(min(0.8, step / (step + 9)))
        of_torch.update_parameters(net)
    expected = dict(of_torch.module.named_parameters())
    assert own.steps == 59 and all(torch.equal(value, expected[name]) for name, value in own.values.items())
    assert not Average(net, 0.0).values


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
    with pytest.raises(
        FloatingPointError, match=r"epoch 3, step 3: term w log p\(x\), .*site .*z_c.* at rows \[\d+\] of"
    ):
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
                vae.p_z_c.net.layers[-1].bias[0] = float("nan")

    with pytest.raises(FloatingPointError, match=r"parameter p_z_c.net.layers.2.bias: not finite after epoch 2"):
        fit(make(), x, y, **options(), checkpoint=path, on_epoch=spoil)
    assert load_checkpoint(path)["epoch"] == 1


def test_the_first_bad_step_is_named_when_looked_at_later():
    watch = FiniteWatch(every=25)
    good, bad = torch.zeros(2, 3), torch.tensor([[0.0, 0.0, 0.0], [0.0, float("nan"), 0.0]])
    index = torch.tensor([10, 11, 12])
    names, loss = ["log p(x)", "-log q(y_o)"], torch.tensor(0.0)
    watch(good, index, names, "step 1", loss)
    watch(bad, index + 10, names, "step 2", loss)
    watch(bad.flip(0), index, names, "step 3", loss)
    with pytest.raises(FloatingPointError, match=r"step 2: term -log q\(y_o\) \(site y_o\) at rows \[21\]"):
        watch.check()


def test_a_bound_that_is_not_finite_though_its_terms_are_is_named():
    watch = FiniteWatch(every=25)
    names, index, terms = ["log p(x)"], torch.tensor([3, 4]), torch.full((1, 2), -1e300)
    for step, loss in enumerate((1.0, float("inf"), 2.0), 1):
        watch(terms, index, names, f"step {step}", torch.tensor(loss))
    with pytest.raises(FloatingPointError, match="not finite at step 2, though its terms are"):
        watch.check()
    x, y, _ = rows()
    with pytest.raises(FloatingPointError, match="epoch 1, step 1, though its terms are"):
        fit(make(), x, y, **options(labelled_weight=1e308))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("image_dtype", [torch.uint8, torch.float32, torch.float64])
def test_images_take_the_models_dtype(dtype, image_dtype):
    x, y, _ = rows()
    x = x if image_dtype == torch.uint8 else x.to(image_dtype) / 255
    vae = make().to(dtype)
    assert fit(vae, x, y, **options(epochs=1))[0]["objective"] < 0
    assert tasks.classify(vae, x).dtype == tasks.reconstruct(vae, x).dtype == dtype


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs: got 0; expected a positive integer"),
        ({"lr": float("nan")}, "lr: got nan"),
        ({"batch_size": 0}, "batch_size: got 0"),
        ({"labelled_batch_size": 0}, "labelled_batch_size: got 0"),
        ({"labelled_weight": -1.0}, "labelled_weight: got -1.0"),
        ({"seed": 2**60}, "seed: got"),
        ({"elbo": pyro.infer.Trace_ELBO()}, "elbo: got Trace_ELBO; expected this library's"),
        ({"checkpoint": "/tmp"}, "checkpoint: got the folder /tmp"),
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
        (torch.rand(6, 1, 4, 7) + 0.5, None, r"x: got pixels from .* expected .*\[0, 1\]"),
        (torch.full((6, 1, 4, 7), float("nan")), None, r"x: got NaN in rows \[0, 1, 2, 3, 4\]"),
        (torch.rand(6, 4, 7), None, r"x: got shape \(6, 4, 7\)"),
        (torch.rand(6, 3, 4, 7), None, r"x: got shape \(6, 3, 4, 7\)"),
        (torch.zeros(6, 1, 4, 7, dtype=torch.int64), None, "x: got dtype torch.int64"),
        (torch.rand(6, 1, 4, 7), torch.full((6,), 5), r"y: got \[5"),
        (torch.rand(6, 1, 4, 7), torch.zeros(6), "y: got dtype"),
        (torch.rand(6, 1, 4, 7), torch.zeros(5, dtype=torch.long), "x, y: got 6 rows of x and 5 rows of y"),
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
        fit(vae, x, torch.full_like(y, MISSING), elbo=vae.elbo() + NearestLabelTerm(), **options())


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
    vae.q_z.register_forward_hook(lambda module, args, _: seen.append(args[0]) if module.training else None)
    log_prob = GreyBernoulli.log_prob
    scored = []

    class Spy(GreyBernoulli):
        def log_prob(self, value):
            if vae.training:  # not where its graph is looked at
                scored.append(value)
            return log_prob(self, value)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pyro_semivae.conditionals.likelihoods.GreyBernoulli", Spy)
        fit(vae, x, y, **options(epochs=1), corrupt=lambda x: torch.full_like(x, 0.5))
    assert all((images == 0.5).all() for images in seen) and len(seen) == len(scored) == 5
    clean = {tuple(image.tolist()) for image in (x.flatten(1) / 255.0)}
    assert {tuple(image.tolist()) for batch in scored for image in batch.flatten(1)} <= clean


def test_a_term_of_the_batch_counts_in_the_bound_and_is_watched():
    x, y, _ = rows()
    vae, calls = make(), 0
    elbo = vae.elbo() + 3.0 * BalanceTerm()
    history = fit(vae, x, y, elbo=elbo, **options(epochs=2))
    assert history[-1]["term/-KL(q(y_m) || p(y))"] < 0 and history[-1]["weight/-KL(q(y_m) || p(y))"] == 3
    assert_close(weighted(history[-1]), history[-1]["objective"])
    own = history[-1]["objective"] - 3 * history[-1]["term/-KL(q(y_m) || p(y))"]
    assert_close(own, history[-1]["elbo"])
    torch.manual_seed(0)
    batch = x[:9].double() / 255, y[:9]
    with torch.random.fork_rng():
        loss = elbo.loss(vae.model, vae.guide, *batch)
    assert_close(-loss, sum(term.sum() for term in elbo.weighted_terms(vae.model, vae.guide, *batch).values()))

    class Infinite(BalanceTerm):
        def values(self, run):
            nonlocal calls
            calls += 1
            return {"infinite": torch.tensor(float("inf") if calls == 3 else 0.5)}

    with pytest.raises(FloatingPointError, match=r"epoch 1, step 3: term infinite"):
        fit(make(), x, y, elbo=vae.elbo() + 3.0 * Infinite(), **options())


def test_beta_warms_up():
    x, y, _ = rows()
    vae, seen = make(), []

    def beta(done):
        seen.append(done)
        return 4.0

    history = fit(vae, x, y, elbo=vae.elbo(beta=beta), warm_up=0.5, **options())
    assert_close(seen, [step / len(seen) for step in range(len(seen))])
    last = [((epoch + 1) * 5 - 1) / 20 for epoch in range(4)]
    assert_close(
        [record.get("weight/w log p(z_s)", 1.0) for record in history], [4.0 * min(1.0, d / 0.5) for d in last]
    )
    for value, message in ((1.5, "warm_up: got 1.5"), (float("nan"), "warm_up: got nan")):
        with pytest.raises(ValueError, match=message):
            fit(vae, x, y, warm_up=value, **options())


def test_reported_terms_are_scaled_as_in_the_loss():
    x, y, _ = rows()
    vae = make()
    history = fit(vae, x, y, elbo=vae.elbo(), **options(epochs=1, labelled_weight=0.0))
    assert history[0]["term/log q(y_o|x)"] == 0 and history[0]["term/w log p(x|z_c,z_s)"] < 0


def test_gradients_are_clipped_before_a_step():
    """One step of Adam with a large epsilon is lr * g / (|g| + eps), g being clipped."""
    x, y, _ = rows()
    before, after = make(), make()
    seen = []

    def clip(parameters):
        parameters = list(parameters)
        torch.nn.utils.clip_grad_value_(parameters, 1e-3)
        seen.extend(p.grad.clone() for p in parameters)

    one = {"epochs": 1, "batch_size": len(x), "labelled_batch_size": len(x), "lr": 1e-2}
    fit(after, x, y, **{**options(), **one}, clip=clip, optimiser=partial(torch.optim.Adam, eps=10.0))
    assert len(seen) == len([*after.parameters()]) and max(g.abs().max() for g in seen) == 1e-3
    for old, new, g in zip(before.parameters(), after.parameters(), seen, strict=True):
        torch.testing.assert_close(new, old - 1e-2 * g / (g.abs() + 10.0))
    with pytest.raises(ValueError, match="optimiser: got 3; expected a function"):
        fit(before, x, y, **options(), optimiser=3)
    with pytest.raises(ValueError, match="optimiser: returned NoneType; expected a function of parameters and lr="):
        fit(before, x, y, **options(), optimiser=lambda parameters, lr: None)
