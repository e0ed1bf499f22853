"""The independent probe reads what is in an image, and learns nothing of rows of which nothing is known."""

import math
from dataclasses import replace

import pytest
import torch

from pyro_semivae import probes
from pyro_semivae.data.reference import ReferenceData, Shown


@pytest.fixture(autouse=True)
def single():
    torch.set_default_dtype(torch.float32)


def shown(number, seed):
    """The factor is the level of the red channel, the class which half of the green one is bright, the attribute which
    half of the blue one."""
    generator = torch.Generator().manual_seed(seed)
    factors = torch.rand(number, 1, generator=generator)
    classes, attributes = torch.randint(2, (2, number), generator=generator)
    x = torch.zeros(number, 3, 16, 16)
    x[:, 0] = factors.unsqueeze(2)
    for channel, values in ((1, classes), (2, attributes)):
        x[:, channel] = torch.where((torch.arange(16) // 8) == values.reshape(-1, 1, 1), 1.0, 0.0).expand(-1, 16, -1)
    return Shown(x, factors, classes, attributes)


def data(pool):
    x, y = pool.x, torch.zeros(len(pool.x), dtype=torch.long)
    test = shown(100, 1)
    return ReferenceData("made", ("red",), ("left", "right"), x, y, pool, test, test, ("a", "b"))


def probe_of(sets, tmp_path, steps=150):
    return probes.independent_probe(sets, steps=steps, cache=tmp_path, progress=False)


def test_it_reads_the_factor_the_class_and_the_attribute(tmp_path):
    sets = data(shown(400, 0))
    probe = probe_of(sets, tmp_path)
    assert min(probe.accuracies) > 0.95 and probe.errors.shape == (1,) and probe.errors.item() < 0.1
    test = sets.test
    assert (probe.classes(test.x) == test.classes).double().mean().item() == pytest.approx(probe.accuracies[0])
    assert (probe.attributes(test.x) == test.attributes).double().mean().item() == pytest.approx(probe.accuracies[1])
    assert (probe.factors(test.x) - test.factors).abs().mean().item() == pytest.approx(probe.errors.item(), abs=1e-5)


def test_what_is_not_known_teaches_nothing(tmp_path):
    """Of most rows the attribute is -1: the others are enough. Without names there is nothing to read."""
    pool = shown(400, 0)
    attributes = torch.where(torch.arange(400) % 4 == 0, pool.attributes, -1)
    sets = data(replace(pool, attributes=attributes))
    assert probe_of(sets, tmp_path).accuracies[1] > 0.95
    bare = replace(sets, factor_names=(), class_names=())
    parts = {
        name: replace(getattr(bare, name), factors=torch.zeros(len(getattr(bare, name)), 0))
        for name in ("pool", "test")
    }
    found = probe_of(replace(bare, **parts), tmp_path)
    assert math.isnan(found.accuracies[0]) and found.accuracies[1] > 0.95 and found.errors.shape == (0,)
