"""The usual mistakes in a graph of one's own: check_model, fit and show say the same, with the site and the mend."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_semivae import SemiVAE, show
from pyro_semivae.check import check_model
from pyro_semivae.conditionals import Gaussian, Label, LabelPrior, StandardNormal
from pyro_semivae.contract import ContractError
from pyro_semivae.errors import InputError
from pyro_semivae.infer import ClassifierTerm, TraceLabels_ELBO
from pyro_semivae.models import VAE
from pyro_semivae.nn import MLP, MLPs
from pyro_semivae.spaces import Binary, Classes, Real, Vectors
from pyro_semivae.train import fit

SUM, NAN = {"enumerate": "parallel"}, float("nan")
Y = {"classes": torch.tensor([0, -1, 2, 1, -1, 0, -1]), "binary": torch.tensor([[0.0, 1.0, NAN]] * 7)}


class Own(SemiVAE):
    """M2.

    ::

        p(y) p(z) p(x | y, z)
        q(y | x) q(z | x, y)
    """

    characteristic = ("y",)

    def __init__(self, y):
        super().__init__(x=Vectors(6), y=y)
        self.p_y, self.p_z, self.p_x = LabelPrior(y), StandardNormal(4), Gaussian(MLP([y, 4], [8], (12,)))
        self.q_y = Label(y, MLP([(6,)], [8], (y.raw_size,)))
        self.q_z = Gaussian(MLP([(6,), y], [8], (8,)))

    def model(self, x=None, y=None):
        self.register()
        with self.rows(x, y) as (x, y):
            with self.entries("y"):
                y = pyro.sample("y", self.p_y(), obs=y, infer=SUM)
            pyro.sample("x", self.p_x(y, pyro.sample("z", self.p_z())), obs=x)

    def guide(self, x=None, y=None):
        with self.rows(x, y) as (x, y):
            with self.entries("y"):
                y = pyro.sample("y", self.q_y(x), obs=y, infer=SUM)
            pyro.sample("z", self.q_z(x, y))

    def elbo(self, **options):
        options = {"missing_labels": "gumbel" if self.max_plate_nesting == 2 else "enumerate", **options}
        return TraceLabels_ELBO(max_plate_nesting=self.max_plate_nesting, **options) + ClassifierTerm()


class PlateAtAnotherDim(Own):
    def model(self, x=None, y=None):
        self.register()
        with pyro.plate("data", len(y if x is None else x), dim=-2):
            y = pyro.sample("y", self.p_y(), obs=y, infer=SUM)
            pyro.sample("x", self.p_x(y, pyro.sample("z", self.p_z())), obs=x)

    def guide(self, x=None, y=None):
        with pyro.plate("data", len(x), dim=-2):
            y = pyro.sample("y", self.q_y(x), obs=y, infer=SUM)
            pyro.sample("z", self.q_z(x, y))


class LabelAsOneEvent(Own):
    def guide(self, x=None, y=None):
        with self.rows(x, y) as (x, y):
            y = pyro.sample("y", self.q_y(x).to_event(1), obs=y, infer=SUM)
            pyro.sample("z", self.q_z(x, y))


class TwoRowDimensions(Own):
    def model(self, x=None, y=None):
        self.register()
        with self.rows(x, y) as (x, y):
            y = pyro.sample("y", self.p_y(), obs=y, infer=SUM)
            mean = self.p_x(y, pyro.sample("z", self.p_z())).mean
            pyro.sample("x", dist.Normal(mean.unsqueeze(-2), 1.0).to_event(1), obs=x)


class LabelInTheGuideAlone(Own):
    def model(self, x=None, y=None):
        self.register()
        with self.rows(x, y) as (x, y):
            z = pyro.sample("z", self.p_z())
            pyro.sample("x", self.p_x(torch.zeros(z.shape[:-1]).long(), z), obs=x)


class NotEnumerated(Own):
    def guide(self, x=None, y=None):
        with self.rows(x, y) as (x, y):
            y = pyro.sample("y", self.q_y(x), obs=y)
            pyro.sample("z", self.q_z(x, y))


class NotEnumeratedInTheModel(Own):
    def model(self, x=None, y=None):
        self.register()
        with self.rows(x, y) as (x, y):
            y = pyro.sample("y", self.p_y(), obs=y)
            pyro.sample("x", self.p_x(y, pyro.sample("z", self.p_z())), obs=x)


class MarkerIntoANetwork(Own):
    def __init__(self, y):
        super().__init__(y)
        self.embedding = nn.Embedding(3, 6)

    def guide(self, x=None, y=None):
        with self.rows(x, y) as (x, y):
            h = x + self.embedding(y)
            y = pyro.sample("y", self.q_y(x), obs=y, infer=SUM)
            pyro.sample("z", self.q_z(h, y))


class NaNIntoANetwork(Own):
    def guide(self, x=None, y=None):
        with self.rows(x, y) as (x, y):
            h = x + y.sum(-1)[:, None, None]
            with self.entries("y"):
                y = pyro.sample("y", self.q_y(x), obs=y, infer=SUM)
            pyro.sample("z", self.q_z(h, y))


class NoEvent(Own):
    def guide(self, x=None, y=None):
        with self.rows(x, y) as (x, y):
            y = pyro.sample("y", self.q_y(x), obs=y, infer=SUM)
            pyro.sample("z", self.q_z(x, y).base_dist)


class OtherSizes(Own):
    def __init__(self, y):
        super().__init__(y)
        self.p_z = StandardNormal(5)

    def model(self, x=None, y=None):
        self.register()
        with self.rows(x, y) as (x, y):
            y = pyro.sample("y", self.p_y(), obs=y, infer=SUM)
            pyro.sample("x", self.p_x(y, pyro.sample("z", self.p_z())[..., :4]), obs=x)


class OtherSizesInNetworks(Own):
    """The decoder is made for what the model samples, and would fail at what the guide does."""

    def __init__(self, y):
        super().__init__(y)
        self.p_z, self.p_x = StandardNormal(5), Gaussian(MLP([y, 5], [8], (12,)))


class RowsOfWhatIsNone(Own):
    def model(self, x=None, y=None):
        self.register()
        with pyro.plate("data", len(x), dim=-1):
            y = pyro.sample("y", self.p_y(), obs=y, infer=SUM)
            pyro.sample("x", self.p_x(y, pyro.sample("z", self.p_z())), obs=x)


class OutsideOfThePlate(Own):
    def guide(self, x=None, y=None):
        pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
        with self.rows(x, y) as (x, y):
            pyro.sample("y", self.q_y(x), obs=y, infer=SUM)


class Rounded(dist.Normal):
    has_rsample = False


class NoGradient(Own):
    def guide(self, x=None, y=None):
        with self.rows(x, y) as (x, y):
            y = pyro.sample("y", self.q_y(x), obs=y, infer=SUM)
            z = self.q_z(x, y).base_dist
            pyro.sample("z", Rounded(z.loc, z.scale).to_event(1))


MISTAKES = [
    (
        PlateAtAnotherDim,
        "classes",
        r"site 'y' is outside of the plate of rows, .* \(it is in 'data' at dim -2, of size",
    ),
    (
        LabelAsOneEvent,
        "classes",
        r"guide: label 'y' has the event .*leave .to_event out, so that it can be marginalised$",
    ),
    (
        LabelAsOneEvent,
        "binary",
        r"guide: label 'y' has the event shape \(3,\).*leave .to_event out.*self.entries\('y'\)",
    ),
    (TwoRowDimensions, "classes", r"site 'x' has the batch shape \((\d), \1\), its plates say .*; rows are in two dim"),
    (LabelInTheGuideAlone, "classes", r"characteristic: \['y'\] are no sites of the model, which has \['z', 'x'\]"),
    (
        NotEnumerated,
        "classes",
        r"guide: label 'y', .*, is not enumerated: pyro.sample\('y', .., obs=y, infer=\{'enumer",
    ),
    (NotEnumeratedInTheModel, "classes", "model: label 'y', .*, is not enumerated"),
    (MarkerIntoANetwork, "classes", r"guide: fails where labels are missing: index out of range.* networks take what"),
    (NaNIntoANetwork, "binary", "guide: site 'z' is NaN where labels are missing; .* networks take what pyro.sample"),
    (
        NoEvent,
        "classes",
        r"site 'z' has 4 at dim -1 of its batch shape, where the plate 'data' has \d: .*to_event\(1\)",
    ),
    (OtherSizes, "classes", r"site 'z' has the event shape \(5,\) in the model and \(4,\) in the guide"),
    (OtherSizesInNetworks, "classes", r"site 'z' has the event shape \(5,\) in the model and \(4,\) in the guide"),
    (RowsOfWhatIsNone, "classes", r"model: fails where it has to generate, x being None: .*with self.rows\(x, y\) as"),
    (NoGradient, "classes", r"guide: site 'z' is sampled without a gradient \(\w+ has no rsample\), so that its par"),
    (OutsideOfThePlate, "classes", r"guide: site 'z' is outside of the plate of rows, .*\(it is in no plate\)"),
]


def draw(vae, x, y):
    """`show`, whose picture says what is wrong and is drawn all the same."""
    picture = show(vae, rows=dict(zip(vae.spaces, (x, y), strict=True)))
    if picture.why_not:
        assert f"no bound: {picture.why_not}" in str(picture) and not picture.values and picture.sites
        said = " ".join(text.get_text() for text in picture.figure.texts)
        assert " ".join(picture.why_not.split()) in " ".join(said.split()), "lines of the figure"
        raise ContractError(picture.why_not)


@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("ask", [check_model, fit, draw])
@pytest.mark.parametrize(("model", "kind", "message"), MISTAKES, ids=lambda v: getattr(v, "__name__", None))
def test_every_mistake_has_its_message(model, kind, message, ask, labels, capsys):
    """Also in `fit` on rows that happen to have no label, or all labels."""
    vae, x = model(Classes(3) if kind == "classes" else Binary(3)), torch.randn(7, 6)
    y = Y[kind]
    if not labels:
        if ask is not fit:
            pytest.skip("only fit takes rows of which none, or all, has a label")
        y = torch.ones_like(y)
        if "missing" in message:  # where no label is missing, nothing is wrong
            assert len(fit(vae, x, y, epochs=1, progress=False)) == 1
            return
    how = {"epochs": 1, "progress": False} if ask is fit else {}
    before, state = torch.get_rng_state(), {name: value.clone() for name, value in vae.state_dict().items()}
    with pytest.raises(ContractError, match=message) as error:
        ask(vae, x, y, **how)
    assert "\n" not in str(error.value) and isinstance(error.value, InputError)
    assert torch.equal(torch.get_rng_state(), before), "what looks at sites draws nothing"
    assert all(torch.equal(value, state[name]) for name, value in vae.state_dict().items())


def test_a_plate_of_another_size_is_named():
    """It generates five rows, whatever it is asked for."""

    class Five(VAE):
        def model(self, x=None, y=None):
            self.register()
            with pyro.plate("data", 5 if x is None else len(x)):
                return pyro.sample("x", self.p_x(pyro.sample("z", self.p_z())), obs=x)

    for ask in (check_model, fit, draw):
        with pytest.raises(
            ContractError, match=r"model: site 'z' is outside of the plate of rows, the one of size [37] "
        ):
            ask(Five((1, 2, 3), Classes(3), z=2, networks=MLPs((5,))), torch.rand(7, 1, 2, 3), Y["classes"])


@pytest.mark.parametrize("kind", Y)
def test_a_right_graph_passes(kind):
    vae, x = Own(Classes(3) if kind == "classes" else Binary(3)), torch.randn(7, 6)
    check_model(vae, x, Y[kind])
    draw(vae, x, Y[kind])
    fit(vae, x, Y[kind], epochs=1, progress=False)
    assert "p(y) p(z) p(x | y, z)" in str(show(vae, rows={"x": x, "y": Y[kind]}))


def test_class_labels_that_are_floats_are_named():
    vae, x = Own(Classes(3)), torch.randn(7, 6)
    for ask in (check_model, fit, draw):
        with pytest.raises(InputError, match=r"y: got dtype torch.float32; expected a 1-d integer tensor.*-1 for mi"):
            ask(vae, x, Y["binary"][:, 0])


def test_a_continuous_label_is_in_the_guide_as_well():
    """A `Real` label that only the model has: its missing entries would have no density."""

    class InTheModelAlone(SemiVAE):
        states_graph = False

        def __init__(self):
            super().__init__(x=Vectors(6), a=Real(2))
            self.p_x, self.q_z = Gaussian(MLP([4, Real(2)], [8], (12,))), Gaussian(MLP([(6,)], [8], (8,)))
            self.p_z = StandardNormal(4)

        def model(self, x=None, a=None):
            self.register()
            with self.rows(x, a) as (x, a):
                with self.entries("a"):
                    a = pyro.sample("a", dist.Normal(0.0, 1.0), obs=a)
                pyro.sample("x", self.p_x(pyro.sample("z", self.p_z()), a), obs=x)

        def guide(self, x=None, a=None):
            with self.rows(x, a) as (x, a):
                pyro.sample("z", self.q_z(x))

        def elbo(self, **options):
            return TraceLabels_ELBO(max_plate_nesting=2, **options)

    a = torch.randn(7, 2)
    a[2, 1] = NAN
    for ask in (check_model, fit, draw):
        with pytest.raises(
            ContractError, match=r"label 'a' is in the model and not in the guide, which samples its mis"
        ):
            ask(InTheModelAlone(), torch.randn(7, 6), a)


class ManyValues(SemiVAE):
    """p(a) p(b) p(c) p(z) p(x | a, b, c, z), q(a | x) q(b | x) q(c | x) q(z | x)."""

    states_graph = False

    def __init__(self, sizes):
        super().__init__(x=Vectors(6), **{name: Classes(size) for name, size in zip("abc", sizes, strict=True)})
        self.p, self.q = nn.ModuleDict(), nn.ModuleDict()
        for name in self.label_sites:
            space = self.spaces[name]
            self.p[name], self.q[name] = LabelPrior(space), Label(space, MLP([6], [], (space.raw_size,)))
        self.p_z, self.q_z = StandardNormal(4), Gaussian(MLP([6], [], (8,)))
        self.p_x, self.seen = Gaussian(MLP([*map(self.spaces.get, "abc"), 4], [], (12,))), []

    def model(self, x=None, a=None, b=None, c=None):
        self.register()
        with self.rows(x, a, b, c) as (x, *labels):
            labels = [pyro.sample(n, self.p[n](), obs=y, infer=SUM) for n, y in zip("abc", labels, strict=True)]
            p_x = self.p_x(*labels, pyro.sample("z", self.p_z()))
            self.seen.append(p_x.batch_shape.numel())
            pyro.sample("x", p_x, obs=x)

    def guide(self, x=None, a=None, b=None, c=None):
        with self.rows(x, a, b, c) as (x, *labels):
            for n, y in zip("abc", labels, strict=True):
                pyro.sample(n, self.q[n](x), obs=y, infer=SUM)
            pyro.sample("z", self.q_z(x))

    def elbo(self, **options):
        return TraceLabels_ELBO(**options) + ClassifierTerm()


def test_too_many_joint_values_are_told_before_anything_is_computed_for_them():
    vae, x = ManyValues((12, 11, 13)), torch.randn(7, 6)
    rows = {"x": x, **{name: torch.tensor([0, -1, 2, 1, -1, 0, -1]) for name in "abc"}}
    message = r"model: site 'x' would be computed for the 1716 values of the labels \['a', 'b', 'c'\]; .*max_terms=1000"
    for run in (lambda: fit(vae, rows, epochs=1, progress=False), lambda: check_model(vae, rows)):
        with pytest.raises(ContractError, match=message):
            run()
    assert max(vae.seen) <= 7, "no joint value was computed"
    assert len(fit(vae, rows, elbo=vae.elbo(max_terms=1716), epochs=1, progress=False)) == 1
    assert max(vae.seen) >= 1716
