"""Steps on the gradients of a graph: what parameters get, and what optimisers have on a GPU and in a checkpoint."""

import pytest
import torch
from torch import nn

from pyro_semivae.files import load_checkpoint
from pyro_semivae.infer.traced import Gradients, NotTraceable
from pyro_semivae.models import VAE
from pyro_semivae.nn import MLPs
from pyro_semivae.spaces import Classes
from pyro_semivae.train import fit
from pyro_semivae.trainer import Trainer
from pyro_semivae.updates import Update, make_capturable, plain_state, undo_capturable


def test_gradients_are_laid_out_as_parameters_each_in_its_own_memory():
    """As autograd leaves them: a step in place, such as clipping, changes each of them once."""
    line = nn.Linear(3, 3)
    shared, turned = torch.rand(3), torch.rand(3, 3).T
    other = nn.ParameterList([nn.Parameter(torch.rand(3)), nn.Parameter(torch.rand(2))])
    of = {"line": [turned, shared], "other": [shared, None]}

    def take():
        for parameter in (*line.parameters(), *other.parameters()):
            if parameter.grad is not None:
                parameter.grad *= 2

    other[1].grad = torch.ones(2)  # of an earlier step
    expected = 2 * turned, 2 * shared
    Update({"line": line, "other": other}, take, [])(Gradients({}, of, None, None))
    assert line.weight.grad.stride() == line.weight.stride()
    torch.testing.assert_close(line.weight.grad, expected[0])
    for parameter in (line.bias, other[0]):
        torch.testing.assert_close(parameter.grad, expected[1])
    assert other[1].grad is None


def test_a_frozen_parameter_has_no_gradient_in_the_list():
    line = nn.Linear(2, 1)
    line.weight.requires_grad_(False)
    Update({"line": line}, lambda: None, [])(Gradients({}, {"line": [torch.ones(1)]}, None, None))
    assert line.weight.grad is None and torch.equal(line.bias.grad, torch.ones(1))


def small():
    vae = VAE((1, 2, 3), Classes(2), z=2, networks=MLPs((4,)))
    return vae, torch.rand(12, 1, 2, 3), {"epochs": 4, "batch_size": 4, "progress": False, "corrupt": None}


@pytest.mark.parametrize("compile", ["off", "on"])
def test_a_parameter_that_is_frozen_while_training_stays(compile, graphs):
    """Its last gradient is not used again."""
    vae, x, how = small()
    (frozen, *_) = vae.p_x.parameters()
    before = {}

    def freeze(epoch, vae):
        if epoch == 2:
            frozen.requires_grad_(False)
            before["value"] = frozen.clone()

    fit(vae, x, compile=compile, on_epoch=freeze, ema_decay=0.0, **how)
    assert torch.equal(frozen, before["value"])


@pytest.mark.parametrize("compile", ["off", "on"])
def test_a_learning_rate_that_is_a_tensor_is_resumed(compile, graphs, tmp_path):
    """And the schedule starts from it."""
    found = []
    for parts in ([4], [2, 4]):
        torch.manual_seed(0)
        for epochs in parts:
            vae, x, how = small()
            x = torch.linspace(0, 1, x.numel()).reshape(x.shape)

            def adam(parameters, lr):
                return torch.optim.Adam(parameters, lr=torch.tensor(lr), foreach=False)

            fit(
                vae,
                x,
                compile=compile,
                optimiser=adam,
                schedule=lambda done: 0.5,
                checkpoint=tmp_path / f"{len(parts)}.pt",
                resume=True,
                **{**how, "epochs": epochs},
            )
        state = load_checkpoint(tmp_path / f"{len(parts)}.pt")["optimiser"]
        assert isinstance(state["param_groups"][0]["lr"], torch.Tensor)
        found.append([value["exp_avg"] for value in state["state"].values()])
    assert float(state["param_groups"][0]["lr"]) == pytest.approx(0.5 * state["param_groups"][0]["initial_lr"])
    assert state["param_groups"][0]["initial_lr"] == pytest.approx(1e-3)


@pytest.mark.parametrize("of", ["parameter", "optimiser"])
def test_hooks_are_called_without_a_graph(of, monkeypatch):
    """By auto, with a note; `on` refuses them."""
    monkeypatch.setattr("pyro_semivae.train.pays", lambda *_: True)
    for compile in ("auto", "on"):
        vae, x, how = small()
        called, optimisers = [], []

        def adam(parameters, lr, optimisers=optimisers):
            optimisers.append(torch.optim.Adam(parameters, lr=lr))
            return optimisers[0]

        (first, *_) = vae.parameters()
        if of == "parameter":
            first.register_post_accumulate_grad_hook(lambda parameter, called=called: called.append(1))
        start = Trainer.start

        def hooked(self, *args, called=called, start=start):
            self.optimiser.register_step_pre_hook(lambda *_: called.append(1))
            start(self, *args)

        if of == "optimiser":
            monkeypatch.setattr(Trainer, "start", hooked)
        if compile == "on":
            with pytest.raises(NotTraceable, match="with hooks, which a graph does not call; compile='off'"):
                fit(vae, x, compile=compile, optimiser=adam, **how)
        else:
            history = fit(vae, x, compile=compile, optimiser=adam, **how)
            assert len(called) == 12 and not history.compiled
            assert len(history.notes) == 1 and "with hooks" in history.notes[0]
        monkeypatch.setattr(Trainer, "start", start)


def test_an_empty_group_and_a_group_with_its_own_rate():
    """They are left as they are; `undo_capturable` leaves the values of a schedule."""
    line = nn.Linear(2, 1)
    groups = [{"params": []}, {"params": [*line.parameters()], "lr": torch.tensor(0.5)}]
    optimiser = torch.optim.NAdam(groups, lr=0.1, capturable=False)
    line(torch.ones(2)).sum().backward()
    optimiser.step()
    make_capturable(optimiser)
    empty, group = optimiser.param_groups
    assert empty["lr"] == 0.1 and not empty["capturable"] and group["capturable"]
    group["lr"].fill_(0.25)
    assert [g["capturable"] for g in plain_state(optimiser)["param_groups"]] == [False, False]
    undo_capturable(optimiser)
    fresh = torch.optim.Adam(line.parameters())
    make_capturable(fresh)
    undo_capturable(fresh)
    assert not fresh.state
    assert not group["capturable"] and torch.equal(group["lr"], torch.tensor(0.25))
    assert str(plain_state(optimiser)) == str(optimiser.state_dict())


def test_an_optimiser_that_is_capturable_is_saved_as_any_other():
    """A learning rate is a tensor that a schedule fills, in float32, which fused steps read; a number in the file."""
    line = nn.Linear(2, 1)
    optimiser = torch.optim.Adam(line.parameters(), lr=0.25)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 / (1 + step))
    line(torch.ones(2)).sum().backward()
    optimiser.step()
    before = plain_state(optimiser)
    make_capturable(optimiser)
    (group,) = optimiser.param_groups
    assert group["capturable"] and group["lr"].dtype == torch.float32
    assert all(state["step"].device == p.device for p, state in optimiser.state.items())
    assert str(plain_state(optimiser)) == str(before)
    schedule.step()
    assert float(group["lr"]) == 0.125 and plain_state(optimiser)["param_groups"][0]["lr"] == 0.125
