"""Several labels, continuous ones among them, and several sites of data: evidence, tasks, fit."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from graphs import DIGIT, NAN, OTHER, B, build
from torch.testing import assert_close

from pyro_semivae import SemiVAE, data, tasks
from pyro_semivae.check import check_model
from pyro_semivae.conditionals import Gaussian, Label, LabelPrior, PerLabelAndRestGaussian
from pyro_semivae.infer import ClassifierTerm, TraceLabels_ELBO
from pyro_semivae.nn import MLP, Entries
from pyro_semivae.spaces import MISSING, Binary, Classes, Real, Vectors
from pyro_semivae.train import fit


def test_known_labels_are_evidence_on_the_others():
    """q(colour | x, digit) where the digit is known, and the mean over q(digit | x) where it is not."""
    vae, rows = build("two_labels")
    with torch.no_grad():
        for parameter in vae.q_colour.parameters():
            parameter.mul_(3)
        x = vae.images(rows["x"])
        each = vae.q_colour(x, torch.arange(3)[:, None].expand(3, B)).probs  # (digits, B, colours)
        weights = vae.q_digit(x).probs
    expected = (weights.T.unsqueeze(-1) * each).sum(0)
    assert_close(tasks.classify(vae, {"x": rows["x"]})["colour"], expected)
    known = (DIGIT >= 0)[:, None]
    told = each[DIGIT.clamp(min=0), torch.arange(B)]
    given = tasks.classify(vae, {"x": rows["x"], "digit": DIGIT})
    assert_close(given["colour"], torch.where(known, told, expected))
    assert_close(given["digit"][DIGIT >= 0], torch.eye(3)[DIGIT[DIGIT >= 0]])


def test_the_mean_of_a_continuous_label_is_over_the_classes():
    vae, rows = build("rotation")
    with torch.no_grad():
        x = vae.images(rows["x"]).unsqueeze(1)
        means = torch.stack([vae.q_angle(x, torch.full((B, 1), c)).mean for c in range(3)])  # (digits, B, 1)
        weights = vae.q_digit(x).probs  # (B, 1, digits)
    expected = (weights.movedim(-1, 0) * means).sum(0)
    assert_close(tasks.classify(vae, {"x": rows["x"]})["angle"], expected)
    given = tasks.classify(vae, {"x": rows["x"], "angle": rows["angle"]})["angle"]
    assert_close(given, torch.where(rows["angle"].isnan(), expected, rows["angle"].double()))


def test_setting_one_label_keeps_the_others_and_the_latents():
    vae, rows = build("two_labels")
    seen = []
    vae.p_x.register_forward_hook(lambda module, args, out: seen.append(args))
    latents, labels = tasks.infer_latents(vae, {"x": rows["x"]})
    tasks.intervene(vae, {"x": rows["x"]}, {"colour": torch.where(DIGIT > 0, 1, MISSING)})
    digit, colour, z = seen[-1]
    assert torch.equal(digit, labels["digit"]) and torch.equal(z, latents["z"])
    assert torch.equal(colour, torch.where(DIGIT > 0, 1, labels["colour"]))


def test_wrong_rows_are_named():
    vae, rows = build("two_labels")
    for wrong, message in (
        ({"x": rows["x"], "shade": OTHER}, r"x: got values of \['shade'\]; expected those of x, digit, colour"),
        ({"x": rows["x"], "digit": DIGIT[:5]}, "x, digit: got 13 rows of x and 5 rows of digit"),
        ({"x": rows["x"], "colour": DIGIT}, r"colour: got \[2, 2"),
        ({"digit": DIGIT}, "x: got nothing"),
    ):
        with pytest.raises(ValueError, match=message):
            fit(vae, wrong, epochs=1, progress=False)
    with pytest.raises(ValueError, match="has 2 sites of labels, digit, colour; expected one"):
        fit(vae, rows["x"], DIGIT, epochs=1, progress=False)
    with pytest.raises(ValueError, match=r"y_new: got \['shade'\]; expected digit, colour"):
        tasks.intervene(vae, {"x": rows["x"]}, {"shade": 1})


def test_a_view_that_is_missing_is_not_scored_and_says_nothing():
    """By hand: the prior times the experts of the views that are there, and their densities alone."""
    vae, rows = build("two_views")
    terms = vae.elbo().weighted_terms(vae.model, vae.guide, *vae.inputs(rows))
    there = {name: ~x.flatten(1)[:, 0].isnan() for name, x in rows.items()}
    for name, mask in there.items():
        assert (terms[f"log p({name})"] != 0).equal(mask)
    q = vae.q_z(*rows.values())
    raw = [net(x.nan_to_num()).chunk(2, -1) for net, x in zip(vae.q_z.nets, rows.values(), strict=True)]
    precision, weighted = torch.ones(B, 6), torch.zeros(B, 6)
    for (loc, scale), mask in zip(raw, there.values(), strict=True):
        of_view = mask[:, None] / (torch.nn.functional.softplus(scale) + 1e-3) ** 2
        precision, weighted = precision + of_view, weighted + of_view * loc
    assert_close(q.mean, weighted / precision)
    assert_close(q.stddev, precision**-0.5)
    total = sum(terms.values()).sum()
    assert all(g.isfinite().all() for g in torch.autograd.grad(total, [*vae.parameters()]))


def test_a_missing_view_is_guessed_from_the_other_one():
    vae, rows = build("two_views")
    guessed = tasks.reconstruct(vae, {"upper": rows["upper"][3:5]})
    z = vae.q_z(rows["upper"][3:5], None).mean
    assert_close(guessed["lower"], vae.p_lower(z).mean.detach())
    assert guessed["upper"].shape == (2, 2, 3, 4)


class Attributes(SemiVAE):
    """A class above attributes, in the guide and in the model.

    ::

        p(c) p(a | c) p(z_a | a, r) p(r) p(x | z_a, c)
        q(c | x) q(r | x) q(a | x, c, r) q(z_a | x)
    """

    characteristic = ("c", "a", "r")
    L = 4

    def __init__(self):
        super().__init__(x=Vectors(6), c=Classes(3), a=Binary(self.L), r=Real(2))
        self.p_c, self.p_r = LabelPrior(Classes(3)), LabelPrior(Real(2))
        self.p_a, self.w = Label(Binary(self.L), MLP([Classes(3)], [], (self.L,))), torch.nn.Parameter(torch.randn(2))
        self.p_x = Gaussian(MLP([Entries(self.L), Classes(3)], [5], (12,)))
        self.q_c, self.q_r = Label(Classes(3), MLP([6], [], (3,))), Label(Real(2), MLP([6], [], (4,)))
        self.q_a = Label(Binary(self.L), MLP([6, Classes(3), Real(2)], [], (self.L,)))
        self.q_z = PerLabelAndRestGaussian(MLP([6], [], (2 * self.L,)), self.L, 0)

    def model(self, x=None, c=None, a=None, r=None):
        self.register()
        with self.rows(x, c, a, r) as (x, c, a, r):
            c = pyro.sample("c", self.p_c(), obs=c, infer={"enumerate": "parallel"})
            with self.entries("a"):
                a = pyro.sample("a", self.p_a(c), obs=a, infer={"enumerate": "parallel"})
            with self.entries("r"):
                r = pyro.sample("r", self.p_r(), obs=r)
            with self.entries("a"):
                z_a = pyro.sample("z_a", dist.Normal(a + (r @ self.w).unsqueeze(-1), 1.0))
            pyro.sample("x", self.p_x(z_a, c), obs=x)

    def guide(self, x=None, c=None, a=None, r=None):
        with self.rows(x, c, a, r) as (x, c, a, r):
            c = pyro.sample("c", self.q_c(x), obs=c, infer={"enumerate": "parallel"})
            with self.entries("r"):
                r = pyro.sample("r", self.q_r(x), obs=r)
            with self.entries("a"):
                pyro.sample("a", self.q_a(x, c, r), obs=a, infer={"enumerate": "parallel"})
                pyro.sample("z_a", self.q_z(x)[0])

    def elbo(self, **options):
        return TraceLabels_ELBO(max_plate_nesting=2, **options) + ClassifierTerm()


def attributes():
    torch.manual_seed(0)
    vae = Attributes()
    a = (torch.rand(B, vae.L) > 0.5).double().where(torch.rand(B, vae.L) > 0.4, NAN)
    a[3] = NAN
    r = torch.randn(B, 2).where(torch.rand(B, 2) > 0.4, NAN)
    return vae, {"x": torch.randn(B, 6), "c": DIGIT, "a": a, "r": r}


def test_probabilities_are_those_given_all_that_is_known():
    """Against the sum over classes of the joint probability, entry by entry, with r known."""
    vae, rows = attributes()
    x, r = rows["x"].unsqueeze(1), torch.randn(B, 2)
    log_c = vae.q_c(x).logits.log_softmax(-1)[:, 0]  # (B, C)
    on = torch.stack([vae.q_a(x, torch.full((B, 1), c), r).probs for c in range(3)], 1).detach()  # (B, C, L)
    for a in (None, rows["a"]):
        joint = log_c.exp().clone()
        if a is not None:
            known = torch.where(a[:, None] == 1, on, 1 - on)
            joint = joint * torch.where(a.isnan()[:, None], 1.0, known).prod(-1)
        posterior = joint / joint.sum(1, keepdim=True)
        found = tasks.classify(vae, {"x": rows["x"], "r": r} | ({} if a is None else {"a": a}))
        assert_close(found["c"], posterior.detach())
        expected = (posterior.unsqueeze(-1) * on).sum(1).detach()
        assert_close(found["a"], expected if a is None else torch.where(a.isnan(), expected, a))
        assert_close(found["r"], r)


def test_missing_entries_of_continuous_labels_are_taken_as_if_left_out():
    vae, rows = attributes()
    once, again = (tasks.classify(vae, {"x": rows["x"], "r": rows["r"]}, mean=True) for _ in range(2))
    assert all(torch.equal(once[name], again[name]) for name in once)
    nothing = tasks.classify(vae, {"x": rows["x"], "r": torch.full((B, 2), NAN)}, mean=True)
    left_out = tasks.classify(vae, {"x": rows["x"]}, mean=True)
    assert all(torch.equal(nothing[name], left_out[name]) for name in nothing)


def test_latents_of_entries_are_redrawn_below_their_own_entry_or_below_any_of_another_label():
    vae, rows = attributes()
    check_model(vae, rows)
    seen = []
    vae.p_x.register_forward_hook(lambda module, args, out: seen.append(args[0]))
    data = {"x": rows["x"]}
    before = tasks.infer_latents(vae, data)[0]["z_a"]
    some = torch.full((B, vae.L), NAN)
    some[:, 1] = 1.0
    tasks.intervene(vae, data, {"a": some})
    assert (seen[-1] != before).all(0).tolist() == [False, True, False, False]
    angles = torch.full((B, 2), NAN)
    angles[4, 0] = 0.5
    tasks.intervene(vae, data, {"r": angles})
    assert (seen[-1] != before).all(1).tolist() == [i == 4 for i in range(B)]
    tasks.intervene(vae, data, {"c": 1})  # a is kept, and with it what descends from c through a alone
    assert_close(seen[-1], before)


@pytest.mark.parametrize(
    ("name", "call", "message"),
    [
        (
            "two_labels",
            lambda v, r: tasks.intervene(v, {"x": r["x"]}, {"colour": 1.7}),
            r"y_new\['colour'\]: got dtype",
        ),
        (
            "two_labels",
            lambda v, r: tasks.intervene(v, {"x": r["x"]}, {"colour": True}),
            r"y_new\['colour'\]: got dtype",
        ),
        ("two_labels", lambda v, r: tasks.intervene(v, {}, {"colour": 1}), "x: got nothing"),
        ("two_labels", lambda v, r: tasks.generate(v, DIGIT), "has 2 sites of labels"),
        ("two_labels", lambda v, r: tasks.decode(v, {"z": torch.zeros(B, 5)}, DIGIT), "has 2 sites of labels"),
        ("two_labels", lambda v, r: tasks.generate(v, r), "x: got values of data that the model generates"),
        ("two_labels", lambda v, r: check_model(v, {"x": r["x"]}), "digit: got nothing"),
        ("counts", lambda v, r: tasks.generate(v, {"y": DIGIT}), "size: got nothing; expected Vectors"),
        ("two_views", lambda v, r: tasks.classify(v, r), "classify: Views does not have it, for it has no labels"),
        (
            "two_labels",
            lambda v, r: fit(v, r, elbo=v.elbo(split_labelled=True), progress=False),
            "split_labelled: got True",
        ),
    ],
)
def test_calls_that_make_no_sense_are_named(name, call, message):
    with pytest.raises(ValueError, match=message):
        call(*build(name))


def test_noise_on_what_a_classifier_sees_is_a_callable_or_one_for_each_site():
    vae, rows = build("two_labels")
    plain = tasks.classify(vae, {"x": rows["x"]}, mean=True)
    for corrupt in (lambda x: x, {"x": lambda x: x}):
        found = tasks.classify(vae, rows["x"], mean=True, corrupt=corrupt)
        assert all(torch.allclose(found[name], plain[name]) for name in plain)


def test_a_known_continuous_label_is_evidence_on_the_class_that_it_depends_on():
    vae, rows = build("rotation")
    with torch.no_grad():
        for parameter in vae.q_angle.parameters():
            parameter.mul_(3)
        x, angle = vae.images(rows["x"]).unsqueeze(1), torch.linspace(-1, 1, B)[:, None]
        log_q = torch.stack([vae.q_angle(x, torch.full((B, 1), c)).log_prob(angle)[:, 0] for c in range(3)], 1)
        expected = (vae.q_digit(x).logits.log_softmax(-1)[:, 0] + log_q).softmax(1)
    found = tasks.classify(vae, {"x": rows["x"], "angle": angle})
    assert_close(found["digit"], expected)


def test_a_row_with_any_label_is_a_labelled_one():
    _, rows = build("two_labels")
    labels = {"digit": DIGIT, "colour": OTHER}
    batches = data.Batches({"x": rows["x"]}, labels, batch_size=4)
    assert batches.labelled.tolist() == [i for i in range(B) if DIGIT[i] >= 0 or OTHER[i] >= 0]
    batch = next(iter(batches.epoch(0)))
    for name, y in labels.items():
        assert torch.equal(batch.values[name], y[batch.rows])


def test_a_resumed_run_has_the_same_labels_of_every_site(tmp_path):
    vae, rows = build("two_labels")
    how = {"checkpoint": tmp_path / "checkpoint.pt", "progress": False, "batch_size": 4}
    fit(vae, rows, epochs=1, **how)
    for name in ("digit", "colour"):
        other = {**rows, name: torch.where(rows[name] >= 0, 1 - rows[name].clamp(max=1), MISSING)}
        with pytest.raises(ValueError, match="labels"):
            fit(vae, other, epochs=2, resume=True, **how)


def test_noise_on_one_of_several_views_reaches_the_guide_alone():
    weights = []
    for corrupt in (None, {"upper": torch.zeros_like}, {"lower": torch.zeros_like}):
        vae, rows = build("two_views")
        seen = []
        hook = lambda module, args, out, seen=seen: seen.append(args) if module.training else None  # noqa: E731
        vae.q_z.register_forward_hook(hook)
        fit(vae, rows, epochs=1, batch_size=20, progress=False, corrupt=corrupt)
        upper, lower = (view.nan_to_num().abs().sum() > 0 for view in seen[0])
        assert (upper, lower) == (corrupt is None or "lower" in corrupt, corrupt is None or "upper" in corrupt)
        weights.append(vae.p_upper.net.layers[0].weight)
    assert not torch.equal(weights[0], weights[1])
    vae, rows = build("two_views")
    with pytest.raises(ValueError, match="corrupt: got one noise for several sites of data"):
        fit(vae, rows, epochs=1, progress=False, corrupt=torch.zeros_like)


def test_the_values_that_labels_are_set_to():
    (two, second) = Classes(2).settings(torch.tensor([0]))
    assert (two[0], int(two[1]), int(second[1])) == ("0", 0, 1)
    names, values = zip(*Binary(2).settings(torch.zeros(1, 2)), strict=True)
    assert names == ("0 off", "0 on", "1 off", "1 on")
    assert_close(torch.stack(values), torch.tensor([[0, NAN], [1, NAN], [NAN, 0], [NAN, 1]]), equal_nan=True)
    y = torch.tensor([[0.0, NAN], [100.0, NAN], [NAN, NAN]])
    names, values = zip(*Real(2).settings(y), strict=True)
    assert_close(torch.stack(values)[:, 0], torch.tensor([5.0, 27.5, 50.0, 72.5, 95.0]))
    assert torch.stack(values)[:, 1].isnan().all() and names[0] == "0: 5"
    assert Real(1).score(torch.tensor([[1.0], [5.0], [2.0]]), torch.tensor([[2.0], [NAN], [0.0]])) == {
        "mean_absolute_error": 1.5
    }


def test_an_objective_that_names_a_continuous_label_trains_to_the_end(monkeypatch, capsys):
    """What is said at the end looks at the bound alone, on data without labels."""
    vae, rows = build("rotation")
    objective = TraceLabels_ELBO(max_plate_nesting=2) + ClassifierTerm("digit", "angle")
    monkeypatch.setattr(type(vae), "elbo", lambda self, **options: objective)
    assert len(fit(vae, rows, epochs=1)) == 1
    with pytest.raises(
        ValueError, match=r"got \['angle'\]; expected all or none of \['digit', 'angle'\], which depend"
    ):
        fit(vae, rows, elbo=objective.bound + ClassifierTerm("angle"), epochs=1)
