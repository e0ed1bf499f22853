"""Checkpoints that cannot be resumed are refused before anything changes."""

import copy
import random
import re
from functools import partial

import pytest
import torch
from lightning_fabric import Fabric
from training import make, options, rows

from pyro_semivae import data
from pyro_semivae.checkpoints import Checkpoint, load_weights, replace_weights
from pyro_semivae.conditionals import LaplaceLikelihood
from pyro_semivae.data.batches import Batches
from pyro_semivae.digests import digest
from pyro_semivae.errors import InputError
from pyro_semivae.files import load_checkpoint, save_checkpoint
from pyro_semivae.nn import MLPs
from pyro_semivae.spaces import MISSING
from pyro_semivae.train import cosine, fit
from pyro_semivae.trainer import Trainer


@pytest.fixture
def trained(tmp_path):
    """A checkpoint with averages, and what resumes it; `resume` changes the state in the file first."""
    x, y, _ = rows()
    path = tmp_path / "checkpoint.pt"
    fit(make(), x, y, **options(epochs=2, ema_decay=0.9), checkpoint=path)
    state = load_checkpoint(path)

    def resume(change=None, vae=None, **more):
        if change is not None:
            save_checkpoint(path, change(copy.deepcopy(state)))
        vae = make(seed=8) if vae is None else vae
        return fit(vae, x, y, **{**options(ema_decay=0.9), **more}, checkpoint=path, resume=True)

    return path, state, resume


def changed(*keys, value=None, delete=False):
    """Sets or deletes an entry of a nested state."""

    def change(state):
        part = state
        for key in keys[:-1]:
            part = part[key]
        if delete:
            del part[keys[-1]]
        else:
            part[keys[-1]] = value(part[keys[-1]]) if callable(value) else value
        return state

    return change


FIRST = "p_z_c.net.layers.0.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *(
            (changed(key, delete=True), f"has no '{key}': it was written by another version")
            for key in (*("in_training", "steps", "optimiser", "random", "epoch", "labelled", "history", "setting"),)
        ),
        (changed("optimiser"), "'optimiser' is of type NoneType; expected dict"),
        (changed("epoch", value="2"), "'epoch' is of type str; expected int"),
        (changed("epoch", value=True), "'epoch' is of type bool; expected int"),
        (changed("epoch", value=1), "'history' has 2 epochs, not 1"),
        (changed("labelled", value=[1]), "'labelled' is of type list; expected Tensor"),
        (changed("random", "cpu", delete=True), r"has no random\['cpu'\]"),
        (changed("random", "cpu", value=lambda state: state[:-1]), r"random\['cpu'\] is no state of a generator"),
        (changed("random", "cpu", value=lambda state: state.float()), r"random\['cpu'\] is no state of a generator"),
        (changed("history", 1), r"history\[1\] is of type NoneType; expected dict"),
        (changed("weights", FIRST, delete=True), rf"does not fit this CCVAE: no {FIRST}$"),
        (changed("weights", "more", value=torch.ones(2)), "does not fit this CCVAE: unknown more$"),
        (
            changed("weights", FIRST, value=torch.ones(2)),
            rf"size mismatch for {FIRST}: \(2,\), the model's is \(6, 5\)",
        ),
        (changed("in_training", FIRST, delete=True), rf"has no in_training\['{FIRST}'\]"),
        (
            changed("in_training", FIRST, value=torch.ones(2)),
            rf"in_training\['{FIRST}'\] has shape \(2,\), expected: of",
        ),
        (changed("in_training", "more", value=torch.ones(2)), r"in_training\['more'\] has shape .*: not there"),
        (changed("optimiser", "state", delete=True), r"has no optimiser\['state'\]"),
        (changed("optimiser", "state", 0), r"optimiser\['state'\]\[0\] is of type NoneType"),
        (changed("optimiser", "state", 999, value={}), r"optimiser\['state'\]\[999\] belongs to no parameter"),
        (changed("optimiser", "state", 0, "exp_avg", delete=True), r"has no optimiser\['state'\]\[0\]\['exp_avg'\]"),
        (changed("optimiser", "state", 0, "exp_avg", value=torch.ones(2)), r"\[0\]\['exp_avg'\] has shape \(2,\)"),
        (changed("optimiser", "param_groups", value=[]), r"optimiser\['param_groups'\] has another length"),
        (changed("optimiser", "param_groups", 0), r"optimiser\['param_groups'\]\[0\] is of type NoneType"),
        (changed("optimiser", "param_groups", 0, "betas"), r"\['param_groups'\]\[0\]\['betas'\] is of type NoneType"),
        (changed("optimiser", "param_groups", 0, "params", value=[0]), r"\['params'\] are other parameters"),
        (changed("setting", "code", "Python", delete=True), None),
        (changed("setting", "code", value=3), None),
        (changed("setting", "data", delete=True), "trained with other data: None, now"),
        (changed("weights", FIRST, value=lambda w: w / 0), rf"weights {FIRST} not finite"),
        (changed("in_training", FIRST, value=lambda w: w * torch.nan), rf"weights in training {FIRST} not finite"),
        (
            changed("optimiser", "state", 1, "exp_avg_sq", value=lambda w: w + torch.inf),
            "optimiser's state of .* exp_avg_sq",
        ),
    ],
)
def test_a_refused_resume_names_what_is_wrong_and_changes_nothing(trained, change, message):
    path, _, resume = trained
    vae = make(seed=8)
    before = copy.deepcopy(vae.state_dict())
    if message is None:  # no code is compared
        assert len(resume(change, vae)) == 4
        return
    with pytest.raises(InputError, match=message) as caught:
        resume(change, vae)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert vae.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())


@pytest.mark.parametrize("more", [{"lr": 0.5}, {"epochs": 1}, {"seed": 4}, {"ema_decay": 0.8}, {"ema_decay": 0.0}])
def test_a_resume_of_another_setting_changes_nothing(trained, more):
    vae = make(seed=8)
    before = copy.deepcopy(vae.state_dict())
    with pytest.raises(InputError):
        trained[2](vae=vae, **more)
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())


def trainer_of(vae):
    adam = partial(torch.optim.Adam, fused=True)
    how = {"optimiser": adam, "lr": 1e-2, "corrupt": None, "clip": None, "ema_decay": 0.9}
    return Trainer(vae, vae.elbo(), Fabric(accelerator="cpu", devices=1), **how)


def test_restoring_compares_before_it_changes_anything(trained):
    """Model, averages and optimiser are as they were after an error, and what was saved after none."""
    path, state, _ = trained
    x, y, _ = rows()
    vae = make(seed=8)
    trainer = trainer_of(vae)
    averaged, optimiser = trainer.averaged, trainer.optimiser
    batches = Batches(x, y, batch_size=8, labelled_batch_size=5)
    checkpoint = Checkpoint(trainer, batches, state["setting"], {})
    parts = [vae.state_dict(), averaged.values, optimiser.state_dict()]
    before = digest([*parts, averaged.steps])
    save_checkpoint(path, changed("optimiser", "state", 3, "step", delete=True)(copy.deepcopy(state)))
    with pytest.raises(InputError, match=r"has no optimiser\['state'\]\[3\]\['step'\]"):
        checkpoint.restore(path, 4)
    assert digest([vae.state_dict(), averaged.values, optimiser.state_dict(), averaged.steps]) == before
    save_checkpoint(path, state)
    history, random, weights = checkpoint.restore(path, 4)
    assert digest([history, random, weights]) == digest([state["history"], [state["random"]], state["weights"]])
    assert digest([dict(vae.state_dict()), averaged.values]) == digest([state["in_training"], state["averages"]])
    assert digest(optimiser.state_dict()) == digest(state["optimiser"]) and averaged.steps == state["steps"] == 10
    checkpoint.save(path, history, random=[{"cpu": torch.ones(3), "more": [torch.zeros(2)]}])
    assert digest(load_checkpoint(path)["random"]) == digest({"cpu": torch.ones(3), "more": [torch.zeros(2)]})


def test_weights_that_do_not_fit_or_are_not_finite_leave_the_model_as_it_was(trained):
    path, state, _ = trained
    for weights, message in (
        ({**state["weights"], FIRST: torch.ones(2)}, "size mismatch for"),
        ({**state["weights"], FIRST: state["weights"][FIRST] / 0}, f"checkpoint.pt: {FIRST} not finite"),
        ({name: value for name, value in state["weights"].items() if name != FIRST}, f"no {FIRST}"),
    ):
        vae = make(seed=8)
        before = copy.deepcopy(vae.state_dict())
        with pytest.raises(InputError, match=message):
            load_weights(vae, {"weights": weights}, path)
        assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())
    broken = make(seed=8)
    with torch.no_grad():
        dict(broken.named_parameters())[FIRST].fill_(torch.nan)
    before = path.read_bytes()
    with pytest.raises(FloatingPointError, match=f"{FIRST} not finite; .*checkpoint.pt is left as it was"):
        replace_weights(path, broken)
    assert path.read_bytes() == before
    load_weights(broken, state, path)  # mends it
    replace_weights(path, broken)
    assert digest(load_checkpoint(path)) == digest({**state, "weights": broken.state_dict()})


def test_flipped_bits_of_a_run_are_one_error_or_nothing(trained):
    path, state, _ = trained
    content, expected, same = path.read_bytes(), digest(state), 0
    generator = random.Random(0)
    for bit in generator.sample(range(8 * len(content)), 100):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            assert digest(load_checkpoint(path)) == expected
            same += 1
        except InputError as error:
            assert re.match(rf"checkpoint: {re.escape(str(path))} (cannot be read|is damaged|is not a)", str(error))
            assert "\n" not in str(error)
    assert same < 50
    path.write_bytes(content[:-1000])
    with pytest.raises(InputError, match="cannot be read: damaged"):
        load_checkpoint(path)


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
        ({"likelihood": LaplaceLikelihood}, "other model"),
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
    fit(vae, x, y, elbo=vae.elbo(), **options(epochs=2), checkpoint=path)
    again = {**options(), "checkpoint": path, "resume": True}
    with pytest.raises(ValueError, match="other data"):
        fit(make(), 255 - x, y, elbo=vae.elbo(), **again)
    swapped, j = y.clone(), (y[:20] != y[0]).nonzero()[0, 0]
    swapped[0], swapped[j] = y[j], y[0]
    with pytest.raises(ValueError, match="other labels"):
        fit(make(), x, swapped, elbo=vae.elbo(), **again)
    with pytest.raises(ValueError, match="other labels"):
        fit(make(), x, torch.where(y == MISSING, y, 4 - y), elbo=vae.elbo(), **again)
    with pytest.raises(ValueError, match=r"other objective: .*beta 1\.0.*, now .*beta 2\.0"):
        fit(make(), x, y, elbo=vae.elbo(beta=2.0), **again)


@pytest.mark.parametrize("what", ["weight", "ema_decay", "optimiser", "buffer"])
def test_what_is_not_finite_is_not_saved(trained, what):
    path, state, _ = trained
    x, y, _ = rows()
    vae = make(seed=8)
    vae.register_buffer("free", torch.tensor(torch.inf))
    vae.register_buffer("mean", torch.tensor(1.0))
    trainer = trainer_of(vae)
    averaged, optimiser = trainer.averaged, trainer.optimiser
    checkpoint = Checkpoint(trainer, Batches(x, y), state["setting"], {})
    sum(p.sum() for p in vae.parameters()).backward()
    optimiser.step()
    checkpoint.save(path, [{}, {}, {}], random=[{}])
    before = path.read_bytes()
    named = dict(vae.named_parameters())
    with torch.no_grad():
        if what == "weight":
            named[FIRST][0, 0] = torch.nan
        elif what == "ema_decay":
            averaged.values[FIRST][0, 0] = torch.nan
        elif what == "buffer":
            vae.mean.fill_(torch.inf)
        else:
            optimiser.state[named[FIRST]]["exp_avg"][0, 0] = torch.inf
    of = {
        "weight": f"weights in training {FIRST}",
        "ema_decay": f"weights {FIRST}, averages {FIRST}",
        "buffer": "weights mean, weights in training mean",
        "optimiser": f"the optimiser's state of {FIRST}: exp_avg",
    }
    with pytest.raises(
        FloatingPointError, match=f"^{of[what]} not finite after epoch 3; .*checkpoint.pt is left as it was"
    ):
        checkpoint.save(path, [{}, {}, {}], random=[{}])
    assert path.read_bytes() == before
