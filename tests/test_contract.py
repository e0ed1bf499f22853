"""The contract that every model, objective and example meets; one table of cases feeds all of it."""

import gc
import inspect
from pathlib import Path

import pyro
import pytest
import torch
from cases import CASES
from pyro.infer import SVI
from pyro.optim import Adam
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx

import pyro_semivae.infer
import pyro_semivae.models
from pyro_semivae import SemiVAE
from pyro_semivae.check import check_model
from pyro_semivae.infer import Sum
from pyro_semivae.infer.base import Summand
from pyro_semivae.models import M1, M3, VAE
from pyro_semivae.spaces import is_missing
from pyro_semivae.train import fit

ROOT = Path(__file__).parents[1]
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def concrete(module, base):
    return {
        obj
        for obj in vars(module).values()
        if inspect.isclass(obj) and issubclass(obj, base) and not inspect.isabstract(obj)
    }


def test_every_model_and_objective_has_a_case_and_a_readme_row():
    made = [case.make() for case in CASES]
    readme, of_terms = (ROOT / "README.md").read_text(), (ROOT / "docs" / "objectives.md").read_text()
    for model in concrete(pyro_semivae.models, SemiVAE):
        assert model in {type(vae) for vae, _ in made}, f"{model.__name__} has no case in tests/cases.py"
        assert f"`{model.__name__}`" in readme, f"{model.__name__} has no row in README.md"
    for objective in concrete(pyro_semivae.infer, Summand) - {Sum}:
        parts = {type(elbo) for _, elbo in made} | {type(part.what) for _, elbo in made for part in elbo.parts()}
        assert objective in parts, f"{objective.__name__} has no case"
        assert f"`{objective.__name__}" in readme + of_terms, f"{objective.__name__} is not in docs/objectives.md"


def test_every_example_has_a_case_and_a_readme_row():
    readme = (ROOT / "README.md").read_text()
    for path in (ROOT / "examples").glob("*.py"):
        trains = path.name != "demo.py"  # which shows any model that is trained
        assert not trains or path.name in {case.example for case in CASES}, f"{path.name} has no case in tests/cases.py"
        assert f"examples/{path.name}" in readme, f"{path.name} is not in README.md"


@each_case
def test_check_model(case):
    vae, elbo = case.make()
    report = check_model(vae, *case.batch(), elbo)
    assert report.data == ("x",) and set(vae.characteristic) <= set(report.model)
    assert report.labels == (() if isinstance(vae, VAE | M1 | M3) else ("y",))
    assert len(pyro.get_param_store()) == 0


@each_case
def test_every_parameter_moves_in_plain_svi(case):
    vae, elbo = case.make()
    x, y = case.batch()
    before = {name: p.detach().clone() for name, p in vae.named_parameters()}
    svi = SVI(vae.model, vae.guide, Adam({"lr": 0.01}), elbo)
    losses = [svi.step(x, y) for _ in range(3)]
    assert all(isinstance(loss, float) for loss in losses)
    assert isinstance(svi.evaluate_loss(x, y), float)
    still = [name for name, p in vae.named_parameters() if torch.equal(p, before[name])]
    assert not still, f"SVI did not move {still}"


@each_case
def test_every_parameter_moves_in_fit_and_the_store_stays_empty(case):
    vae, elbo = case.make()
    x, y = case.batch()
    before = {name: p.detach().clone() for name, p in vae.named_parameters()}
    fit(vae, x, y, elbo=elbo, epochs=2, batch_size=2, progress=False)
    still = [name for name, p in vae.named_parameters() if torch.equal(p, before[name])]
    assert not still, f"fit did not move {still}"
    assert len(pyro.get_param_store()) == 0


@each_case
def test_svi_refuses_to_train_another_models_parameters(case):
    vae, elbo = case.make()
    SVI(vae.model, vae.guide, Adam({"lr": 0.01}), elbo).step(*case.batch())
    again, elbo = case.make()
    with pytest.raises(RuntimeError, match="clear_param_store"):
        SVI(again.model, again.guide, Adam({"lr": 0.01}), elbo).step(*case.batch())
    pyro.clear_param_store()
    SVI(again.model, again.guide, Adam({"lr": 0.01}), elbo).step(*case.batch())


@each_case
def test_a_step_traces_to_one_graph_that_holds_for_other_batches(case):
    """make_fx refuses .item(), branches on tensors and data-dependent shapes; the graph must not depend on data."""
    vae, elbo = case.make()
    module = elbo(vae.model, vae.guide)
    parameters = dict(module.named_parameters())
    if elbo.modules():  # a term's own module has its sizes from the first batch, and is no input of the graph
        module(*case.batch())
        elbo.modules().requires_grad_(False)

    def step(parameters, x, y):
        loss = functional_call(module, parameters, (x, y))
        return loss, torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)

    x, y = case.batch()
    with pyro.validation_enabled(False):
        graph = make_fx(step)(parameters, x, y)
        for seed, labels in ((2, y.roll(1, 0)), (3, vae.labels.missing(len(y))), (4, torch.where(is_missing(y), 1, y))):
            other = case.batch(seed)[0]
            torch.manual_seed(seed)
            expected = step(parameters, other, labels)
            torch.manual_seed(seed)
            got = graph(parameters, other, labels)
            torch.testing.assert_close(got[0], expected[0])
            for a, b in zip(got[1], expected[1], strict=True):
                torch.testing.assert_close(a, b)


@each_case
def test_a_step_leaves_no_cycle_of_references(case):
    """What is in one stays in memory, with its graph, until Python looks for cycles, which is after many steps."""
    vae, elbo = case.make()
    module, batch = elbo(vae.model, vae.guide), case.batch()

    def step():
        module(*batch).backward()
        elbo.weighted_terms(vae.model, vae.guide, *batch)

    with pyro.validation_enabled(False):
        step()  # what is kept for good, and lazy imports
        gc.collect()
        gc.disable()
        try:
            gc.set_debug(gc.DEBUG_SAVEALL)
            step()
            gc.collect()
            left = {type(part).__name__ for part in gc.garbage}
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
    # A transform of torch and its inverse hold each other.
    of_torch = {"Tensor"} if any("Inverse" in name for name in left) else set()
    assert not left & {"Tensor", "Trace", "Step", "Run"} - of_torch, left


@each_case
def test_under_autocast_only_layers_are_rounded(case):
    vae, elbo = case.make()
    vae.float()
    x, y = (t.float() if t.is_floating_point() else t for t in case.batch())
    totals = {}
    for rounded in (False, True):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=rounded):
            terms = elbo.weighted_terms(vae.model, vae.guide, x, y)
        assert {term.dtype for term in terms.values()} == {torch.float32}
        totals[rounded] = sum(term.sum() for term in terms.values()).item()
    assert totals[True] == pytest.approx(totals[False], rel=0.01) and totals[True] != totals[False]


@each_case
def test_module_form_owns_the_parameters_once(case):
    vae, elbo = case.make()
    module = elbo(vae.model, vae.guide)
    assert [p.data_ptr() for p in module.parameters()] == [p.data_ptr() for p in vae.parameters()]


def test_an_objective_without_parameters_is_refused():
    elbo = CASES[0].make()[1]
    with pytest.raises(ValueError, match="model, guide"):
        elbo(lambda x: x, lambda x: x)


@each_case
def test_two_models_in_one_process_do_not_collide(case):
    x, y = case.batch()
    for seed in (0, 1):
        vae, elbo = case.make(seed)
        elbo(vae.model, vae.guide)(x, y).backward()
        elbo.weighted_terms(vae.model, vae.guide, x, y)
    assert len(pyro.get_param_store()) == 0


@pytest.mark.cuda
@each_case
def test_check_model_on_cuda(case, device):
    vae, elbo = case.make()
    x, y = (t.to(device) for t in case.batch())
    check_model(vae.to(device), x, y, elbo)
    fit(vae, x, y, elbo=elbo, epochs=2, batch_size=2, progress=False)  # where the model is
    assert {value.device.type for value in vae.state_dict().values()} == {device}
