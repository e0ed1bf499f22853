"""What a run was told is compared by what it does: code, defaults, closures, objects; the same in another process."""

import argparse
import importlib.util
import json
import operator
import os
import random
import subprocess
import sys
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import pytest
import torch
from torch import nn
from training import make, options, rows

from pyro_semivae import data, tasks
from pyro_semivae.files import load_checkpoint, save_checkpoint
from pyro_semivae.models import M2
from pyro_semivae.nn import MLPs, Noisy
from pyro_semivae.settings import Description, described, difference
from pyro_semivae.spaces import Classes
from pyro_semivae.train import cosine, fit

SCALE = 2.0


def told(value, model=None):
    """All that is compared of a value."""
    description = Description(model)
    return description(value), description.codes


def scaling(scale):
    def scaled(x):
        return scale * x

    return scaled


def outer(inner):
    def one(x):
        return [inner(part) for part in x]

    return one


class Scale:
    offset = 0.0

    def __init__(self, scale):
        self.scale = scale

    def __call__(self, x):
        return self.scale * x + self.offset

    def method(self, x):
        return x


class Slotted:
    __slots__ = ("scale",)

    def __init__(self, scale):
        self.scale = scale


@dataclass(frozen=True)
class Options:
    scale: float
    more: object = None


def with_method(body):
    """A class of one name, made anew."""
    return type("Local", (), {"__call__": body, "__module__": __name__})()


FIRST, SECOND = (lambda x: x), (lambda x: -x)
PAIRS = {
    "lambdas": (lambda x: x, lambda x: 0 * x),
    "constants": (lambda x: 1 * x, lambda x: 1.0 * x),
    "names": (lambda x: x.sin(), lambda x: x.cos()),
    "closures": (scaling(1), scaling(2)),
    "closures of tensors": (scaling(torch.ones(2)), scaling(torch.zeros(2))),
    "closures of arrays": (scaling(np.ones(2)), scaling(np.ones(2, np.float32))),
    "closures of functions": (outer(lambda x: x), outer(lambda x: -x)),
    "nested functions": (lambda x: (lambda y: y)(x), lambda x: (lambda y: y + 1)(x)),
    "defaults": (lambda x, a=1: a * x, lambda x, a=2: a * x),
    "keyword defaults": (lambda x, *, a=1: a * x, lambda x, *, a=2: a * x),
    "objects": (Scale(1), Scale(2)),
    "objects with slots": (Slotted(1), Slotted(2)),
    "methods of objects": (Scale(1).method, Scale(2).method),
    "other methods": (Scale(1).method, Scale(1).__call__),
    "dataclasses": (Options(1.0, [1, {2}]), Options(1.0, [1, {3}])),
    "classes": (with_method(lambda self, x: x), with_method(lambda self, x: -x)),
    "partials": (partial(data.shift, pixels=1), partial(data.shift, pixels=2)),
    "partials of lambdas": (partial(lambda x, a: x, a=1), partial(lambda x, a: a, a=1)),
    "an order": ([lambda x: x, lambda x: -x], [lambda x: -x, lambda x: x][:2]),
    "how often": ([FIRST, FIRST, SECOND], [FIRST, SECOND, SECOND]),
    "structures": ([1, [2]], [[1], 2]),
    "texts": (["a, b"], ["a", "b"]),
    "numbers as text": ({"a": 1}, {"a": "1"}),
    "library functions": (torch.relu, torch.sin),
    "methods of C": ([1].__contains__, [2].__contains__),
    "getters": (operator.itemgetter(1), operator.itemgetter(2)),
    "cached functions": (lru_cache(lambda x: x), lru_cache(lambda x: -x)),
    "modules": (nn.Dropout(0.1), nn.Dropout(0.2)),
    "noise in modules": (Noisy(nn.Identity(), lambda x: x), Noisy(nn.Identity(), lambda x: -x)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_what_does_something_else_is_told_apart(name):
    first, second = PAIRS[name]
    assert told(first) == told(first)
    assert told(first) != told(second)
    assert told({"in": [first]}) != told({"in": [second]})


def test_weights_of_other_modules_count_and_those_of_the_model_do_not():
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    assert told(first) != told(second)
    assert told(first, nn.Sequential(first)) == told(second, nn.Sequential(second)) == ("the model's 0", {})
    vae = make()
    against = partial(data.adversarial, log_probs=partial(tasks.log_classify, vae, mean=True))
    assert told(against, vae)[0] == "adversarial(log_probs log_classify(the model, mean True))"


def test_the_same_thing_twice_is_the_same():
    def again():
        scale = {"a": torch.ones(2), "b": [1.5, None, b"x"]}

        def of_itself(x):
            return of_itself(x) if scale else len({"some", "words", "in", "a", "set"} & x)

        def with_default(x, inner=outer(lambda x: x)):  # noqa: B008
            return inner(x)

        return [of_itself, Scale(3), partial(scaling(2), 1), with_default]

    assert told(again()) == told(again())


def test_globals_that_a_function_reads_count(monkeypatch):
    def scaled(x):
        return SCALE * data.shift(x) * torch.pi

    before = told(scaled)
    assert before[0].startswith("test_globals_that_a_function_reads_count.<locals>.scaled(SCALE 2.0, data.shift shift")
    monkeypatch.setitem(globals(), "SCALE", 3.0)
    assert told(scaled)[0] == before[0].replace("SCALE 2.0", "SCALE 3.0")


def test_of_flags_those_that_are_read_count():
    def noise(args):
        return lambda x: (lambda y: y * args.zoom)(args.shift + x)

    def flags(**more):
        return argparse.Namespace(**{"shift": 1, "zoom": 2, "resume": False, **more})

    assert described(noise(flags())).endswith("<lambda>(args.shift 1, args.zoom 2)")
    assert told(noise(flags())) == told(noise(flags(resume=True)))
    assert told(noise(flags())) != told(noise(flags(zoom=3)))
    assert "resume" in described(partial(max, flags()))  # who gets all of them may read each


def test_what_a_function_counts_is_no_setting():
    def counter():
        count = 0

        def counted(x):
            nonlocal count
            count += 1
            return x

        return counted

    counted = counter()
    description = Description()
    before = description(counted)
    counted(1)
    assert described(counted) == before and description.unknown == [f"count of {counted.__qualname__}"]


@pytest.mark.parametrize("value", [torch.Generator(), random.Random(1), np.random.default_rng(1), (i for i in [1])])
def test_what_cannot_be_compared_is_named(value):
    description = Description()
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    assert description(lambda x: (x, value)) and description.unknown == [kind]
    deep = []
    for _ in range(3000):
        deep = [deep]
    assert description(deep) == "<list>"


def test_readable():
    noise = partial(data.jitter, degrees=10.0, each_axis=True)
    assert described(partial(data.alternate, noises=[noise, cosine])) == (
        "alternate(noises [jitter(degrees 10.0, each_axis True), cosine])"
    )
    assert described({"a": None, "b": "x", 3: 1e-3}) == "(3 0.001, a None, b 'x')"


MINE = """
import torch

def made(scale):
    class Noise:
        offset = 1.5

        def __call__(self, x, among=("a", 2)):
            return scale * x + self.offset if x in {"some", "words", "or", "others", 3} else [y for y in x]

    return [Noise(), lambda x, *, a=torch.ones(2): (x, a, scale), lambda x: x.sin() if x else torch.zeros(1)]
"""
PRINT = """
import json, sys
from mine import made
from pyro_semivae.settings import Description
told = Description()
print(json.dumps([told(made(2)), told.codes]))
"""


def test_the_same_code_in_another_process_is_the_same(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}", "PYTHONHASHSEED": "7"}
    run = [sys.executable, "-c", PRINT]
    there = subprocess.run(run, env=environment, check=True, capture_output=True, text=True).stdout
    for text, same in ((MINE, True), ("\n\n# moved\n" + MINE, True), (MINE.replace("1.5", "1.25"), False)):
        path.write_text(text)
        spec = importlib.util.spec_from_file_location("mine", path)
        module = importlib.util.module_from_spec(spec)
        exec(compile(text, "another/place.py", "exec"), vars(module))
        torch.set_default_dtype(torch.float32)
        assert ([*told(module.made(2))] == json.loads(there)) == same
        assert told(module.made(3)) != told(module.made(2))


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ({"corrupt": lambda x: x}, {"corrupt": lambda x: 0 * x}, "other code of test_settings.<lambda>"),
        ({"corrupt": scaling(1)}, {"corrupt": scaling(0.5)}, "other optimiser: scale 1, now scale 0.5"),
        ({"corrupt": Scale(1)}, {"corrupt": Scale(0.5)}, "other optimiser: scale 1, now scale 0.5"),
        ({"clip": lambda p: None}, {"clip": lambda p: print}, "other code of test_settings.<lambda>"),
        ({"schedule": lambda t: 1.0}, {"schedule": lambda t: 0.5}, "other code of test_settings.<lambda>"),
    ],
)
def test_a_run_of_another_function_is_not_resumed(tmp_path, first, second, message):
    x, y, _ = rows()
    path = tmp_path / "checkpoint.pt"
    fit(make(), x, y, **options(epochs=1, **first), checkpoint=path)
    with pytest.raises(ValueError, match=f"was trained with {message}$"):
        fit(make(), x, y, **options(epochs=2, **second), checkpoint=path, resume=True)
    fit(make(), x, y, **options(epochs=2, **first), checkpoint=path, resume=True)


def test_noise_on_a_network_and_a_model_of_ones_own_count(tmp_path):
    x, y, _ = rows()
    path = tmp_path / "checkpoint.pt"

    def noisy(noise):
        vae = make()
        vae.q_z.net = Noisy(vae.q_z.net, noise)
        return vae

    fit(noisy(lambda x: x), x, y, **options(epochs=1), checkpoint=path)
    with pytest.raises(ValueError, match=r"was trained with other code of test_settings\.test_noise.*lambda"):
        fit(noisy(lambda x: 0 * x), x, y, **options(epochs=2), checkpoint=path, resume=True)

    class Net(nn.Sequential):
        scale = 1.0

    def own(**more):
        vae = make()
        vae.q_z.net = Net(vae.q_z.net)
        vars(vae.q_z.net).update(more)
        return vae

    fit(own(), x, y, **options(epochs=1), checkpoint=path)
    with pytest.raises(ValueError, match=r"was trained with other model: less, now q_z\.net\.scale 2\.0"):
        fit(own(scale=2.0), x, y, **options(epochs=2), checkpoint=path, resume=True)
    Net.scale = 3.0
    with pytest.raises(ValueError, match=r"was trained with other code of test_settings.*\.Net"):
        fit(own(), x, y, **options(epochs=2), checkpoint=path, resume=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.flip(0),
        lambda x: torch.cat([x[1:2], x[:1], x[2:]]),
        lambda x: x.flip(-1),
        lambda x: x[..., torch.randperm(7)],
        lambda x: x.float() / 255,
    ],
    ids=["reversed", "two swapped", "mirrored", "permuted", "floats"],
)
def test_other_images_of_the_same_sum_are_other_images(tmp_path, change):
    x, y, _ = rows()
    path = tmp_path / "checkpoint.pt"
    fit(make(), x, y, **options(epochs=1), checkpoint=path)
    with pytest.raises(ValueError, match=r"was trained with other data: .*SHA-256"):
        fit(make(), change(x), y, **options(epochs=2), checkpoint=path, resume=True)


def test_what_is_not_compared_is_said_once_where_there_is_a_checkpoint(tmp_path, capsys):
    x, y, _ = rows()
    generator = torch.Generator()
    noise = lambda x: x + torch.rand(x.shape, generator=generator)  # noqa: E731
    fit(make(), x, y, **options(epochs=1), corrupt=noise)
    assert "NOTE" not in capsys.readouterr().err
    fit(make(), x, y, **options(epochs=1), corrupt=noise, checkpoint=tmp_path / "checkpoint.pt")
    said = "NOTE: checkpoint: resuming will not notice other values of torch._C.Generator: they cannot be compared\n"
    assert capsys.readouterr().err == said


def test_code_of_another_python_is_said_not_to_be_compared(tmp_path, capsys):
    x, y, _ = rows()
    path = tmp_path / "checkpoint.pt"
    fit(make(), x, y, **options(epochs=1), checkpoint=path, corrupt=lambda x: x)
    state = load_checkpoint(path)
    code = {"Python": "3.1", **{name: ["other"] for name in state["setting"]["code"] if name != "Python"}}
    save_checkpoint(path, {**state, "setting": {**state["setting"], "code": code}})
    fit(make(), x, y, **options(epochs=2), checkpoint=path, resume=True, corrupt=lambda x: x)
    assert "NOTE: checkpoint: code of Python 3.1 cannot be compared with 3." in capsys.readouterr().err


def test_differences_are_short():
    was = {"a": "f(x 1, y 2)", "code": {"Python": "0"}}
    assert difference(was, {"a": "f(y 2, x 1)"}) == "a: in another order"
    assert difference({}, {"a": "1"}) == "a: None, now 1" and difference(was, was) is None


def test_a_dropout_of_the_networks_counts():
    assert described(MLPs((3,), 0.1)) != described(MLPs((3,), 0.2))


def test_models_are_compared_by_what_they_are_and_not_by_their_repr():
    class Quiet(M2):
        def __repr__(self):
            return "M2"

    def said(z, num_classes=3):
        return Description().module(Quiet((1, 2, 2), Classes(num_classes), z=z, networks=MLPs((5,))))

    assert said(2) == said(2) and said(2) != said(3) and said(2) != said(2, 4)
