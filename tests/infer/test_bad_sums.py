"""What is refused in a sum of terms."""

import math

import pytest
import torch
from terms import Given, Ones, Y, evaluate, make
from training import rows as data_rows

from pyro_semivae.errors import InputError
from pyro_semivae.infer import (
    ClassifierTerm,
    EntropyTerm,
    Term,
    WarmUp,
)
from pyro_semivae.models import VAE
from pyro_semivae.train import fit


def test_what_is_no_objective_is_refused():
    vae, x = make()
    for parts in (ClassifierTerm() + EntropyTerm(), 2.0 * Ones()):
        with pytest.raises(InputError, match=r"expected a sum with a bound"):
            evaluate(parts, vae, x, Y)
    for bad in ("a", None, torch.ones(2)):
        with pytest.raises(TypeError):
            bad * Ones()
    with pytest.raises(TypeError):
        vae.elbo() + 3.0
    with pytest.raises(InputError, match="weight: got nan"):
        math.nan * Ones()


def test_a_term_of_the_batch_is_refused_beside_sampled_labels():
    vae, x = make()
    with pytest.raises(InputError, match=r"missing_labels: got 'reinforce', and \['given'\], of the batch; expected"):
        evaluate(
            vae.elbo(missing_labels="reinforce") + Given(lambda run: torch.tensor(1.0), whole_batch=True), vae, x, Y
        )


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            lambda run: torch.ones(7, 1),
            r"Given: got \(7, 1\) for the term 'given'; expected a tensor of shape \(7,\)",
        ),
        (lambda run: torch.ones(5), r"got \(5,\) for the term 'given'"),
        (lambda run: torch.ones(1), r"got \(1,\) for the term 'given'"),
        (lambda run: 3.0, "got 3.0 for the term 'given'"),
        (lambda run: torch.tensor(3.0), "got a scalar for 'given'; expected one where whole_batch = True"),
    ],
)
def test_a_term_of_another_shape_is_refused(value, message):
    vae, x = make()
    with pytest.raises(InputError, match=message):
        evaluate(vae.elbo() + Given(value), vae, x, Y)


def test_what_a_term_returns_is_a_mapping():
    class Bare(Term):
        def values(self, run):
            return torch.ones(7)

    vae, x = make()
    with pytest.raises(InputError, match="Bare: values returned a Tensor; expected a mapping"):
        evaluate(vae.elbo() + Bare(), vae, x, Y)


def test_terms_that_change_between_batches_are_refused():
    x, y, _ = data_rows()

    class Changing(Term):
        calls = 0

        def values(self, run):
            self.calls += 1
            return {f"t{self.calls}": torch.zeros(run.model.nodes["x"]["value"].shape[0])}

    vae = make(VAE)[0]
    with pytest.raises(InputError, match=r"terms: got \['t1', 't2'\] in some batches and not in others"):
        fit(vae, x, y, elbo=vae.elbo() + Changing(), epochs=1, batch_size=8, progress=False)


def test_bad_schedules_are_named():
    vae, x = make()
    for schedule, message in (
        (lambda done: math.nan, "weight: the schedule returned nan at 1.0; expected finite numbers"),
        (lambda done: None, "weight: the schedule returned None"),
    ):
        with pytest.raises(InputError, match=message):
            evaluate(vae.elbo() + schedule * Ones(), vae, x, Y)
    two = evaluate(vae.elbo() + (lambda done: torch.tensor(2.0)) * Ones(), vae, x, Y)
    (value,) = [v for v in two.values if v.name == "ones"]
    assert type(value.weight) is float and value.weight == 2
    for bad in (math.nan, "a"):
        with pytest.raises(InputError, match="weight: got"):
            WarmUp(0.5, bad)
    for bad in (vae.elbo(), EntropyTerm):
        with pytest.raises(TypeError):
            bad * Ones()
