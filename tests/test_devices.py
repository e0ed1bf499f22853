"""Bounds and tasks on a device without values: a constant made on the CPU, or a value that is read, fails there."""

from contextlib import nullcontext

import pyro
import pytest
import torch
from cases import CASES

from pyro_semivae import tasks
from pyro_semivae.models import M3
from pyro_semivae.spaces import Binary, Classes, Groups, Images, Real, is_missing

META = torch.device("meta")
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@pytest.fixture(autouse=True)
def without_values(monkeypatch):
    """What reads values, and is known to be right on any device, lets these pass."""

    def unread(validate):
        def checked(self, values, *name):
            return values if getattr(values, "is_meta", False) else validate(self, values, *name)

        return checked

    for kind in (Classes, Groups, Binary, Real, Images):
        monkeypatch.setattr(kind, "validate", unread(kind.validate))
    monkeypatch.setattr("pyro_semivae.infer.graph.as_it_is", lambda owner: nullcontext())  # it compares buffers
    monkeypatch.setattr(torch, "autocast", lambda *args, **how: nullcontext())  # which has no such device
    with pyro.validation_enabled(False):
        yield


@each_case
def test_a_bound_and_its_gradient(case):
    vae, elbo = case.make()
    values = vae.by_site(vae.inputs(*case.batch()))
    if elbo.modules():  # which have their sizes from the first batch
        elbo.weighted_terms(vae.model, vae.guide, *values.values())
        elbo.modules().to(META)
    vae.to(META)
    values = {name: None if value is None else value.to(META) for name, value in values.items()}
    terms = elbo.weighted_terms(vae.model, vae.guide, *values.values())
    assert {term.device for term in terms.values()} == {META}
    sum(term.sum() for term in terms.values()).backward()


TASKS = {
    "classify": lambda vae, x, y: tasks.classify(vae, x),
    "reconstruct": lambda vae, x, y: tasks.reconstruct(vae, x),
    "generate": lambda vae, x, y: tasks.generate(vae, y, 2),
    "intervene": lambda vae, x, y: tasks.intervene(vae, x, y, 2),
    "swap": lambda vae, x, y: tasks.swap(vae, x, x.flip(0)),
}


@each_case
def test_a_task_takes_what_is_on_the_cpu_and_answers_on_the_models_device(case):
    vae, _ = case.make()
    x, y = case.batch()
    y = torch.where(is_missing(y), torch.zeros_like(y), y)
    vae.to(META)
    can = {name: run for name, run in TASKS.items() if tasks.available(vae).get(name) is None}
    if isinstance(vae, M3):  # which draws until its classifier says the label
        del can["generate"], can["intervene"]
    assert "reconstruct" in can
    for name, run in can.items():
        found = run(vae, x, y)
        for part in found.values() if isinstance(found, dict) else [found]:  # of continuous labels: by label
            assert part.device == META, name
