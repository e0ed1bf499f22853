"""Steps on the gradients of a graph: what parameters get, and what optimisers have on a GPU and in a checkpoint."""

import torch
from torch import nn

from pyro_semivae.infer.traced import Gradients
from pyro_semivae.updates import Update, make_capturable, plain_state


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
