"""What is reported is of the test rows, of the images' own strengths, and per row; figures show what they say."""

import json
import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from pyro_semivae import evaluators, metrics, report, tasks
from pyro_semivae.data import ImageData
from pyro_semivae.models import CCVAE, M1, M2, M3, MVAE, VAE, InvertedVAE
from pyro_semivae.nn import MLPs
from pyro_semivae.spaces import to_unit

SHAPE, NAMES, N, N_TEST = (1, 4, 4), ("a", "b", "c"), 40, 24
HISTORY = [{"epoch": 1, "objective": -2.0, "elbo": -2.0, "term/log p(x|z)": -2.0, "seconds": 1.0}]


class Judge:
    """Reads the labels off the first three pixels, light is on; its features are six pixels."""

    def __init__(self, binary):
        self.binary = binary

    def logits(self, x):
        return 20 * (to_unit(x).flatten(1)[:, :3] - 0.5)

    def classify(self, x):
        return self.logits(x).sigmoid() if self.binary else self.logits(x).softmax(-1)

    def embed(self, x):
        return to_unit(x).flatten(1)[:, :6]


class Posterior:
    """Two classifiers, with the logits of the first features and with others."""

    def sample_probs(self, features, num_samples=64, seed=0):
        return torch.stack([features[:, :3], 3 * features[:, 3:]]).softmax(-1)


@pytest.fixture
def classified(monkeypatch):
    """The evaluator is at hand, so that it depends on no row."""
    monkeypatch.setattr(evaluators, "independent_classifier", lambda data, **_: (Judge(data.y.dim() == 2), 0.5))
    monkeypatch.setattr(evaluators, "independent_posterior", lambda *_, **__: Posterior())
    monkeypatch.setattr(evaluators, "logistic_regression", lambda data: (Judge(False).classify, 0.5))


def made(binary):
    """Random images; labels are what the first three pixels show."""
    torch.manual_seed(1)
    x = torch.randint(0, 256, (N + N_TEST, *SHAPE), dtype=torch.uint8)
    first = x.flatten(1)[:, :3]
    y = (first > 127).to(torch.get_default_dtype()) if binary else first.argmax(1)
    return ImageData("made", NAMES, x[:N], y[:N], x[N:], y[N:])


MODELS = {
    "classes": lambda data: M2(SHAPE, data.labels, z=2, networks=MLPs((8,))),
    "evidence": lambda data: MVAE(SHAPE, data.labels, z=2, networks=MLPs((8,))),
    "attributes": lambda data: CCVAE(SHAPE, data.labels, z_s=2, networks=MLPs((8,))),
    "rejection": lambda data: M3(SHAPE, data.labels, z_s=2, networks=MLPs((8,))),
    "images": lambda data: VAE(SHAPE, data.labels, z=2, networks=MLPs((8,))),
    "classified": lambda data: M1(SHAPE, data.labels, networks=MLPs((8,))).fit_classifier(data.x, data.y),
    "extraction": lambda data: InvertedVAE(SHAPE, data.labels),
}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.filterwarnings("ignore:.*found no sample with q:UserWarning")
def test_what_is_reported_is_of_the_test_rows(kind, classified):
    """Given the evaluator, other training rows change nothing; other test images and labels do."""
    data = made(binary=kind in ("attributes", "rejection"))
    torch.manual_seed(0)
    vae = MODELS[kind](data)

    def measure(data):
        if kind == "extraction":
            return report.measure_extraction(vae, data, torch.arange(3), num_known=2)[0]  # canonical images' z
        return report.measure(vae, data, quick=True)

    found, kept = measure(data), torch.arange(N) < (3 if kind == "extraction" else 0)
    x = data.x.where(kept[:, None, None, None], 255 - data.x)
    y = data.y.where(kept, (data.y + 1) % 3) if data.y.dim() == 1 else 1 - data.y
    assert json.dumps(measure(replace(data, x=x, y=y))) == json.dumps(found)

    of_images = measure(replace(data, x_test=255 - data.x_test))
    measured = {"elbo_per_example", "reconstruction_error", "swap_difference", "mutual_information_real"} & set(found)
    assert measured and all(of_images[name] != found[name] for name in measured)
    turns = [(data.y_test + k) % 3 for k in (1, 2)] if data.y_test.dim() == 1 else [1 - data.y_test]
    of_labels = [measure(replace(data, y_test=y_test)) for y_test in turns]
    if kind == "extraction":
        assert all(one["cross_entropy_unseen"] != found["cross_entropy_unseen"] for one in of_labels)
        return
    for name in ("test_accuracy", "test_accuracy_clean", "test_accuracy_mean", "test_accuracy_balanced"):
        if name in found:  # an answer is right for one of the turned labels
            assert sum(one[name] for one in (found, *of_labels)) == pytest.approx(1)


def test_the_seed_is_of_the_draws_and_the_callers_stream_goes_on(classified):
    data = made(binary=False)
    torch.manual_seed(0)
    vae = MODELS["classes"](data)
    torch.manual_seed(5)
    one, again, other = (report.measure(vae, data, quick=True, seed=seed) for seed in (1, 1, 2))
    drawn = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(3))
    assert one == again and one["elbo_per_example"] != other["elbo_per_example"]


def test_each_number_is_what_its_name_says(classified):
    """A world where the first pixels are the class: a quarter of the test labels are of the next class."""
    y = torch.arange(N) % 3
    x = torch.zeros(N, *SHAPE, dtype=torch.uint8)
    x.flatten(1)[torch.arange(N), y] = 255
    wrong = torch.arange(N) % 4 == 0
    data = ImageData("made", NAMES, x, (y + 2) % 3, x, torch.where(wrong, (y + 1) % 3, y))
    vae = M2(SHAPE, data.labels, z=1, networks=MLPs(()))
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.zero_()
        vae.q_y.net.layers[0].weight[:, :3] = 20 * torch.eye(3)
        vae.p_x.net.layers[0].weight[:3, :3] = 40 * torch.eye(3)
        vae.p_x.net.layers[0].bias.fill_(-20)

    def turned(x):  # the next class's image
        return torch.cat([x.flatten(1)[:, :3].roll(1, 1), x.flatten(1)[:, 3:]], 1).view_as(x)

    found = report.measure(vae, data, corrupt=turned, quick=True)
    assert found["test_accuracy"] == 0.25 and found["evaluator_accuracy"] == 0.5
    assert found["test_accuracy_clean"] == found["test_accuracy_mean"] == 0.75
    assert found["generation_accuracy"] == found["intervention_accuracy"] == 1
    assert found["swap_difference"] < 1e-6
    with torch.no_grad():
        vae.p_x.net.layers[0].weight[:3, :3] = 40 * torch.eye(3).roll(1, 0)  # draws the next class
    found = report.measure(vae, data, quick=True)
    assert found["test_accuracy"] == 0.75 and found["generation_accuracy"] == found["intervention_accuracy"] == 0
    assert found["swap_difference"] == pytest.approx(20, rel=1e-6)


def test_each_number_of_attributes_is_what_its_name_says(classified):
    """A world where the first pixels are the labels; a test label is wrong in places, and one is drawn inverted."""
    torch.manual_seed(0)
    on = (torch.rand(N, 3) < torch.tensor([0.5, 0.3, 0.8])).double()
    x = torch.zeros(N, *SHAPE, dtype=torch.uint8)
    x.flatten(1)[:, :3] = (255 * on).byte()
    x.flatten(1)[:, 3:6] = torch.randint(0, 256, (N, 3))
    y_test = on.clone()
    y_test[::4, 1] = 1 - y_test[::4, 1]
    data = ImageData("made", NAMES, x, on, x, y_test)
    vae = M2(SHAPE, data.labels, z=1, networks=MLPs(()))
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.zero_()
        vae.q_y.net.layers[0].weight[:, :3], vae.q_y.net.layers[0].bias[:] = 40 * torch.eye(3), -20
        vae.p_x.net.layers[0].weight[:3, :3] = torch.diag(torch.tensor([40.0, 40, -40]))
        vae.p_x.net.layers[0].bias.copy_(torch.tensor([-20.0, -20, 20, *13 * [-20.0]]))
    found, right = report.measure(vae, data, quick=True), torch.tensor([1, 0.75, 1])
    assert list(found["test_accuracy_per_label"].values()) == pytest.approx(right.tolist())
    for name in ("test_accuracy", "test_accuracy_clean", "test_accuracy_mean"):
        assert found[name] == pytest.approx(right.mean())
    sides = torch.stack([(on == y_test)[y_test[:, 1] == value, 1].double().mean() for value in (0, 1)])
    assert found["test_accuracy_balanced"] == pytest.approx((2 + sides.mean()) / 3)
    assert list(found["generation_accuracy_per_label"].values()) == [1, 1, 0]
    assert found["generation_accuracy"] == found["generation_accuracy_balanced"] == pytest.approx(2 / 3)
    assert found["majority_accuracy"] == pytest.approx(torch.maximum(y_test.mean(0), 1 - y_test.mean(0)).mean())
    drawn = torch.zeros(N, *SHAPE)
    drawn.flatten(1)[:, :3] = torch.where(torch.tensor([True, True, False]), y_test, 1 - y_test)
    evaluator = Judge(binary=True)
    for name, images in (("mutual_information", drawn), ("mutual_information_real", x)):
        expected = metrics.image_mutual_information(images, evaluator.embed, Posterior())
        assert found[name] == pytest.approx(expected, abs=1e-6)
    assert found["frechet_distance"] == pytest.approx(metrics.frechet_distance(*map(evaluator.embed, (drawn, x))))
    # Where a label is wrong, its switch asks for what is there.
    assert_close(
        torch.tensor(found["intervention_matrix"]), torch.diag(10 * torch.tensor([1, 0.75, -1])), atol=0.1, rtol=0
    )


@pytest.mark.parametrize("number", [7, 1203])
def test_the_bound_is_per_row(number, classified):
    """Of a decoder that knows no z and a posterior that is the prior it is log p(x), whatever is drawn."""
    data = made(binary=False)
    rows = torch.arange(number) % N_TEST
    data = replace(data, x_test=data.x_test[rows], y_test=data.y_test[rows])
    vae = VAE(SHAPE, data.labels, z=2, networks=MLPs(()))
    with torch.no_grad():
        for layer in (vae.q_z.net.layers[0], vae.p_x.net.layers[0]):
            layer.weight.zero_()
        vae.q_z.net.layers[0].bias.copy_(torch.tensor([0.0, 0.0, *2 * [math.log(math.expm1(0.999))]]))
    x, logits = data.x_test.flatten(1) / 255.0, vae.p_x.net.layers[0].bias.detach()
    expected = (x * logits - torch.nn.functional.softplus(logits)).sum(1).mean().item()
    assert report.measure(vae, data)["elbo_per_example"] == pytest.approx(expected)


def test_strengths_are_those_of_the_images_that_are_encoded(classified):
    """Latent i is pixel i, which is as light as label i is strong; the rest of z knows nothing."""
    torch.manual_seed(0)
    n = 600
    x = torch.rand(n, *SHAPE)
    strengths = x.flatten(1)[:, :3].where(torch.rand(n, 3) < 0.7, torch.nan)
    x, y = (x * 255).round().to(torch.uint8), (~strengths.isnan()).to(x)
    data = ImageData("made", NAMES, x, y, x[:50], y[:50], strengths, strengths[:50].flip(0))
    vae = CCVAE(SHAPE, data.labels, z_s=2, networks=MLPs(()))
    layer = vae.q_z.net.layers[0]
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[:5, :5] = torch.eye(5)
    capture = report.measure(vae, data, quick=True)["characteristic_capture"]
    assert capture["own_linear"] > 0.99 and capture["own_nonlinear"] > 0.9
    assert capture["others_linear"] < 0.1 and capture["others_nonlinear"] < 0.1


@pytest.fixture
def grids(monkeypatch):
    """Figures are recorded and not drawn: file's name -> images and title."""
    seen = {}

    def record(images, *, path, title="", rows=(), columns=()):
        seen[path.stem] = images, title, list(rows), list(columns)

    for module in ("attributes", "classes"):
        monkeypatch.setattr(f"pyro_semivae.report.{module}.image_grid", record)
        monkeypatch.setattr(f"pyro_semivae.report.{module}.training_curves", lambda *_, **__: None)
    return seen


def test_walks_go_from_one_deviation_below_off_to_one_above_on(grids, monkeypatch, tmp_path):
    data, walk, seen = made(binary=True), tasks.walk, []

    def spy(vae, x, site, indices, values):
        seen.append((site, tuple(indices), values))
        return walk(vae, x, site, indices, values)

    monkeypatch.setattr(tasks, "walk", spy)
    vae = MODELS["attributes"](data)
    with torch.no_grad():
        vae.p_z_c.loc.copy_(torch.tensor([[-1.0, -2, -3], [1, 2, 4]]))
        vae.p_z_c.raw.copy_(torch.tensor([[0.5, 2, 1], [3.0, 0.25, 1]]).sub(1e-3).expm1().log())
    mean, scale = tasks.prior_of_characteristics(vae, torch.tensor([[0.0, 1, 0]]))
    assert_close((mean, scale), (torch.tensor([[-1.0, 2, -3]]), torch.tensor([[0.5, 0.25, 1.0]])))
    report.draw_attributes(vae, data, HISTORY, tmp_path)
    ((site, indices, values),) = seen
    assert (site, indices) == ("z_c", (0, 1))
    first, second = torch.linspace(-1.5, 4.0, 6), torch.linspace(-4.0, 2.25, 6)
    assert_close(values, torch.cartesian_prod(first, second))


def test_figures_show_what_their_titles_say(grids, monkeypatch, tmp_path):
    data, generate, asked = made(binary=True), tasks.generate, []
    monkeypatch.setattr(tasks, "generate", lambda vae, y, *args: (asked.append(y), generate(vae, y, *args))[1])
    torch.manual_seed(0)
    vae = MODELS["attributes"](data)
    with torch.no_grad():  # what is drawn are the prior's means, far from what is inferred
        vae.p_z_c.raw.fill_(-50.0)
        vae.p_x.net.layers[0].weight.mul_(5)
    report.draw_attributes(vae, data, HISTORY, tmp_path)
    x, y = vae.images(data.x_test[:8]), data.y_test[:8]
    latents, loc = tasks.infer(vae, x), vae.p_z_c.loc.detach()

    images, _, _, columns = grids["interventions"]
    assert columns == ["x", "reconstruction", *NAMES]
    assert_close(images[:, 0], x)
    assert_close(images[:, 1], tasks.decode(vae, latents))
    for c in range(3):
        z_c = latents["z_c"].clone()
        z_c[:, c] = torch.where(y[:, c] == 1, loc[0, c], loc[1, c])  # switched
        expected = tasks.decode(vae, {**latents, "z_c": z_c})
        assert_close(images[:, 2 + c], expected, atol=0.02, rtol=0)

    images, *_ = grids["generations"]
    assert images.shape == (8, 8, *SHAPE) and len(asked) == 1
    assert_close(images[:, 0], x)
    assert_close(asked[0], y)

    images, *_ = grids["swaps"]
    assert_close(images[0, 1:], x)
    assert_close(images[1:, 0], x)
    for row in range(8):
        expected = tasks.decode(vae, {"z_c": latents["z_c"][row].expand(8, 3), "z_s": latents["z_s"]})
        assert_close(images[1 + row, 1:], expected)

    images, _, rows, columns = grids["diversity"]
    assert rows == list(NAMES) and columns[0] == "reconstruction" and columns[-1] == "deviation"
    for i in range(3):
        z_c = latents["z_c"][i].clone()
        z_c[i] = loc[1, i]
        expected = tasks.decode(vae, {"z_c": z_c[None], "z_s": latents["z_s"][i : i + 1]})
        assert_close(images[i, 1:-1], expected.expand(6, 3, 4, 4), atol=0.02, rtol=0)
        assert_close(images[i, 0], tasks.decode(vae, latents)[i].expand(3, 4, 4))


def test_the_diversity_of_draws_is_their_standard_deviation(grids, monkeypatch, tmp_path):
    """In green, relative to the largest, which the title gives."""
    data = made(binary=True)
    vae = MODELS["attributes"](data)

    def intervene(vae, x, y_new, num_samples=1):
        drawn = torch.full((num_samples, len(x), *SHAPE), 0.5)
        if num_samples > 1:
            drawn[::2, :, 0, 0, :2] += torch.tensor([0.2, 0.1])
            drawn[1::2, :, 0, 0, :2] -= torch.tensor([0.2, 0.1])
        return drawn

    monkeypatch.setattr(tasks, "intervene", intervene)
    monkeypatch.setattr(tasks, "reconstruct", lambda vae, x: torch.zeros_like(x))
    report.draw_attributes(vae, data, HISTORY, tmp_path)
    images, title, *_ = grids["diversity"]
    assert title.endswith("a pixel's standard deviation, up to 0.2")
    green = torch.zeros(3, *SHAPE[1:])
    green[:, 0, :2] = torch.tensor([1.0, 0.5])
    assert_close(images[:, -1], torch.stack([0 * green, green, 0 * green], 1))


def test_figures_of_classes_show_what_their_titles_say(grids, tmp_path):
    """A row for each class that the test set has; interventions keep z_s, and generations have one z_s."""
    data = made(binary=False)
    names, present = ("o", "p", "q", "r"), [0, 1, 3]
    data = replace(data, label_names=names, y_test=torch.tensor(present)[data.y_test])
    torch.manual_seed(0)
    vae = CCVAE(SHAPE, data.labels, z_c=2, z_s=2, networks=MLPs((8,)))
    with torch.no_grad():
        last = vae.p_z_c.net.layers[-1]
        last.weight[2:], last.bias[2:] = 0.0, -50.0  # draws are the means
        vae.p_x.net.layers[0].weight.mul_(5)
    first = torch.tensor([(data.y_test == c).nonzero()[0, 0] for c in present])
    x, means = vae.images(data.x_test[first]), vae.p_z_c(torch.arange(4)).mean.detach()
    report.draw_classes(vae, data, HISTORY, tmp_path)
    latents = tasks.infer(vae, x)
    images, _, _, columns = grids["reconstructions"]
    assert columns == ["o", "p", "r"]
    assert_close(images, torch.stack([x, tasks.decode(vae, latents)]))
    images, _, rows, columns = grids["interventions"]
    assert rows == ["o", "p", "r"] and columns == ["x", *names]
    for c in range(4):
        expected = tasks.decode(vae, {**latents, "z_c": means[c].expand(3, 2)})
        assert_close(images[:, 1 + c], expected, atol=0.02, rtol=0)
    images, *_ = grids["generations"]
    expected = tasks.decode(vae, {"z_c": means, "z_s": latents["z_s"][:1].expand(4, 2)})
    beside = torch.ones(4, *SHAPE).index_copy(0, torch.tensor(present), x)  # white where there is no test image
    assert_close(images[:, 0], beside)
    assert_close(images[:, 1:], expected.unsqueeze(1).expand(4, 8, *SHAPE), atol=0.02, rtol=0)
    images, title, *_ = grids["interpolation"]
    assert title == "between the prior means of o, p, q, r"
    corners = torch.stack([images[0, 0], images[0, -1], images[-1, 0], images[-1, -1]])
    assert_close(corners, tasks.decode(vae, {"z_c": means, "z_s": torch.zeros(4, 2)}))
