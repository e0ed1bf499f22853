"""Where batches, objective and optimiser meet in `fit`: its weights are those of a plain loop with Adam."""

import copy
import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.testing import assert_close

from pyro_semivae.infer import ClassifierTerm, Mean, TraceInverted_ELBO, TraceLabels_ELBO
from pyro_semivae.models import DIVA, InvertedVAE
from pyro_semivae.nn import MLPs
from pyro_semivae.spaces import MISSING, Binary, Classes
from pyro_semivae.train import fit

SHAPE, LR, EPS = (1, 2, 3), 0.05, 0.1
N_L, N_U, B_L, B_U = 6, 8, 2, 4  # labelled and unlabelled rows, and how many of them a step has: three steps an epoch
SOME = {"classes": torch.tensor([2, MISSING]), "partly": torch.tensor([[1.0, torch.nan, 0.0], [torch.nan] * 3])}


class AtMean(TraceLabels_ELBO):
    """Without noise: the guide's latents are their means."""

    def runs(self, step):
        return super().runs(step.another("at the mean", guide=Mean()(step.guide)))


def world(kind):
    """All labelled rows are alike and all others are, so that the rows' order does not matter."""
    torch.manual_seed(0)
    which = torch.tensor([0] * N_L + [1] * N_U)
    vae = DIVA(SHAPE, Classes(4) if kind == "classes" else Binary(3), z_c=2, z_s=2, networks=MLPs((5,)))
    x = torch.rand(2, *SHAPE)
    return vae, x, SOME[kind], x[which], SOME[kind][which]


def by_hand(vae, losses, rates, epochs):
    """Adam on the losses of the steps of an epoch; returns minus the mean loss of each epoch."""
    optimiser, bounds = torch.optim.Adam(vae.parameters(), eps=EPS), []
    for epoch in range(epochs):
        values = []
        for step, loss in enumerate(losses):
            optimiser.param_groups[0]["lr"] = rates[epoch * len(losses) + step]
            optimiser.zero_grad()
            value = loss()
            value.backward()
            optimiser.step()
            values.append(-value.item())
        bounds.append(sum(values) / len(values))
    return bounds


def same(vae, other):
    for (name, ours), theirs in zip(vae.named_parameters(), other.parameters(), strict=True):
        assert_close(ours, theirs, msg=lambda m, name=name: f"{name}: {m}")


def options(**more):
    fixed = {
        "lr": LR,
        "optimiser": partial(torch.optim.Adam, eps=EPS),
        "batch_size": B_U,
        "labelled_batch_size": B_L,
        "progress": False,
        "seed": 3,
    }
    return {**fixed, "schedule": "constant", "ema_decay": 0.0, **more}


@pytest.mark.parametrize("weight", [1.0, 3.0])
@pytest.mark.parametrize("kind", SOME)
def test_labelled_rows_count_for_their_number_and_weight(kind, weight):
    """A step's loss is -(w N_l / B_l sum of the labelled rows + N_u / B_u sum of the others) / N; some labels do."""
    vae, x, y, many, labels = world(kind)
    plain, elbo = copy.deepcopy(vae), AtMean(max_plate_nesting=vae.max_plate_nesting) + 5.0 * ClassifierTerm()
    rows = [0] * B_L + [1] * B_U

    def loss():
        bound = sum(elbo.weighted_terms(plain.model, plain.guide, x[rows], y[rows]).values())
        return -(weight * N_L / B_L * bound[:B_L].sum() + N_U / B_U * bound[B_L:].sum()) / (N_L + N_U)

    history = fit(vae, many, labels, elbo=elbo, labelled_weight=weight, **options(epochs=2))
    bounds = by_hand(plain, [loss] * 3, [LR] * 6, epochs=2)
    assert_close([record["objective"] for record in history], bounds)
    same(vae, plain)


def test_the_learning_rate_follows_the_schedule():
    """It is lr times the schedule of the fraction of training done, before each step."""
    vae, x, _, many, _ = world("classes")
    plain, elbo = copy.deepcopy(vae), AtMean()

    def loss():
        return -sum(elbo.weighted_terms(plain.model, plain.guide, x[1:], None).values()).sum()

    fit(vae, many[N_L:], None, elbo=elbo, **options(epochs=3, schedule=math.cos))
    by_hand(plain, [loss] * 2, [LR * math.cos(step / 6) for step in range(6)], epochs=3)
    same(vae, plain)


class InvertedAtMean(TraceInverted_ELBO):
    """Without noise: z is its mean, in both directions, and so are imagined images."""

    def evaluate(self, step):
        model = Mean()(step.model) if step.without_data else step.model
        return super().evaluate(replace(step, model=model, guide=Mean()(step.guide), names=("x", "y")))


@pytest.mark.parametrize("number", [4, 12])
def test_labels_without_images_count_for_their_number(number):
    """N_a of them, all alike, add N_a / N times the reverse bound of one to each step's loss."""
    torch.manual_seed(0)
    hidden = {"classifier_hidden": (5,), "encoder_hidden": (4,), "decoder_hidden": (6,)}
    vae, x = InvertedVAE(SHAPE, Classes(4), **hidden), torch.rand(1, *SHAPE)
    plain, elbo = copy.deepcopy(vae), InvertedAtMean(gradient="mean")
    alone = torch.tensor([3])

    def loss():
        rows, reverse = (
            sum(elbo.weighted_terms(plain.model, plain.guide, *args).values()).sum()
            for args in ((x, None), (None, alone))
        )
        return -(rows + number / N_U * reverse)

    many = x.expand(N_U, *SHAPE).clone()
    history = fit(vae, many, None, elbo=elbo, unpaired_labels=alone.repeat(number), **options(epochs=1))
    assert_close([history[0]["objective"]], by_hand(plain, [loss] * 2, [LR] * 2, epochs=1))
    same(vae, plain)
