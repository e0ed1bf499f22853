"""What `show` says of a model and its guide is what they do."""

import base64
import html
import re

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import CASES
from torch import nn
from torch.testing import assert_close

from pyro_semivae import CCVAE, show
from pyro_semivae.errors import InputError
from pyro_semivae.infer import ClassifierTerm, TraceLabels_ELBO, TraceReverse_ELBO
from pyro_semivae.models import M2, VAE, InvertedVAE, LaRVAE
from pyro_semivae.nn import MLPs
from pyro_semivae.spaces import Binary, Classes, Real

X = torch.rand(4, 1, 2, 3)


def ccvae(labels=None):
    return CCVAE((1, 2, 3), Classes(3) if labels is None else labels, z_c=2, z_s=3, networks=MLPs((5,)))


@pytest.mark.parametrize(
    ("y", "kind", "known"),
    [
        (torch.tensor([0, 1, 2, 0]), "observed", (4, 4)),
        (torch.tensor([0, -1, -1, 0]), "partly observed", (2, 4)),
        (torch.full((4,), -1), "marginalised", (0, 4)),
        (None, "marginalised", (0, 0)),
    ],
)
def test_each_site_says_what_happens_to_it_for_these_rows(y, kind, known):
    picture = show(ccvae(), rows={"x": X, "y": y})
    model, guide = picture.sites["model"], picture.sites["guide"]
    assert {name: site.kind for name, site in model.items()} == {
        "y": kind,
        "z_c": "sampled",
        "z_s": "sampled",
        "x": "observed",
    }
    assert {name: site.kind for name, site in guide.items()} == {
        "x": "given",
        "z_c": "sampled",
        "y": kind,
        "z_s": "sampled",
    }
    assert guide["y"].known == model["y"].known == known
    assert picture.graphs == {
        "model": {"y": (), "z_c": ("y",), "z_s": (), "x": ("z_c", "z_s")},
        "guide": {"z_c": ("x",), "y": ("z_c",), "z_s": ("x",)},
    }


def test_each_site_says_its_family_and_who_owns_its_parameters():
    sites = show(ccvae(Binary(3)), rows={"x": X}).sites
    assert {name: (site.family, site.owners) for name, site in sites["model"].items()} == {
        "y": ("Bernoulli", ()),
        "z_c": ("Normal", ("p_z_c",)),
        "z_s": ("Normal", ()),
        "x": ("GreyBernoulli", ("p_x",)),
    }
    assert {name: site.owners for name, site in sites["guide"].items()} == {
        "x": (),
        "z_c": ("q_z",),
        "y": ("q_y",),
        "z_s": ("q_z",),
    }
    assert sites["model"]["z_c"].plates == (("data", 4), ("entries of y", 3)) and sites["model"]["x"].plates[0][1] == 4


def test_parameters_of_parents_are_not_the_sites_own():
    """A classifier reads a latent's sample, whose gradient goes on into the encoder."""
    assert show(ccvae(), rows={"x": X}).sites["guide"]["y"].owners == ("q_y",)


def test_the_values_are_the_objectives():
    vae, y = ccvae(), torch.tensor([0, -1, -1, 2])
    elbo = vae.elbo(beta=2.0) + 7.0 * ClassifierTerm()
    torch.manual_seed(3)
    picture = show(vae, rows={"x": X, "y": y}, objective=elbo)
    torch.manual_seed(3)
    terms = elbo.terms(vae.model, vae.guide, *vae.inputs({"x": X, "y": y}))
    assert [*picture.values] == [*terms]
    for name, value in terms.items():
        assert_close(picture.values[name], value.mean().item())
    assert picture.weights["log q(y_o|x)"] == 8.0 and picture.weights["w log p(z_s)"] == 2.0
    text = str(picture)
    assert "model  p(y) p(z_c | y) p(z_s) p(x | z_c, z_s)" in text and "8 * log q(y_o|x) [" in text
    assert (
        r"p(y)\,p(z_{c} \mid y)" in picture.latex and r"8\,\bigl(\underbrace{\log q(y_{o} \mid x)}_{" in picture.latex
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_model_is_drawn_and_nothing_changes(case):
    torch.manual_seed(0)
    vae, elbo = case.make()
    vae.train()
    state = {name: value.clone() for name, value in vae.state_dict().items()}
    rows = dict(zip(vae.spaces, case.batch(), strict=True))
    before, store = torch.get_rng_state(), dict(pyro.get_param_store().items())
    picture = show(vae, objective=elbo, rows=rows)
    assert not picture.why_not and picture.values and set(picture.sites) == {"model", "guide"}
    assert torch.equal(torch.get_rng_state(), before) and dict(pyro.get_param_store().items()) == store
    assert vae.training and all(torch.equal(value, state[name]) for name, value in vae.state_dict().items())
    assert all(p.grad is None for p in vae.parameters())
    picture.figure.canvas.draw()  # all its mathematics is read


def model(x=None):
    pyro.module("decoder", DECODER)
    scale = pyro.param("scale", torch.tensor(1.0), constraint=dist.constraints.positive)
    with pyro.plate("rows", 4):
        z = pyro.sample("z", dist.Normal(torch.zeros(4, 2, dtype=torch.float64), scale).to_event(1))
        mean = pyro.deterministic("mean", DECODER(z))
        pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)


def guide(x=None):
    net = pyro.module("encoder", ENCODER)
    with pyro.plate("rows", 4):
        pyro.sample("z", dist.Normal(net(x), 1.0).to_event(1))


DATA = torch.rand(4, 5, dtype=torch.float64)
DECODER, ENCODER = nn.Linear(2, 5, dtype=torch.float64), nn.Linear(5, 2, dtype=torch.float64)


@pytest.mark.parametrize(
    "rows",
    [
        {"x": DATA},
        (DATA,),
        DATA,
    ],
)
def test_functions_of_ones_own(rows):
    pyro.clear_param_store()
    picture = show(model, guide, rows, TraceLabels_ELBO())
    sites = picture.sites
    assert picture.graphs == {"model": {"z": (), "x": ("z",)}, "guide": {"z": ("x",)}}
    assert sites["model"]["x"].owners == ("decoder",) and sites["guide"]["z"].owners == ("encoder",)
    assert sites["model"]["z"].owners == ("scale",) and sites["model"]["z"].plates == (("rows", 4),)
    assert set(picture.values) == {"log p(x|z)", "log p(z)", "-log q(z|x)"}
    assert [*show(model).sites] == ["model"] and not show(model).values
    assert len(pyro.get_param_store()) == 0
    pyro.param("scale", torch.tensor(2.0, dtype=torch.float64), constraint=dist.constraints.positive)
    before = pyro.get_param_store()["scale"].unconstrained()
    show(model, guide, rows, TraceLabels_ELBO())
    assert pyro.get_param_store()["scale"].unconstrained() is before and len(pyro.get_param_store()) == 1
    pyro.clear_param_store()


def test_the_model_runs_on_what_the_guide_sampled():
    """Of another size it does not fit, which is told also without an objective."""

    def larger(x=None):
        with pyro.plate("rows", 4):
            pyro.sample("z", dist.Normal(torch.zeros(4, 3, dtype=torch.float64), 1.0).to_event(1))

    picture = show(model, larger, (DATA,))
    assert picture.why_not.startswith("model: ") and [*picture.graphs["model"]] == ["z", "x"]
    assert not show(model, guide, (DATA,)).why_not


def test_arguments_that_are_left_out_keep_their_defaults():
    def scaled(x=None, scale=2.0):
        pyro.sample("x", dist.Normal(0.0, scale).expand([4, 5]).to_event(2), obs=x)

    for rows in ({"x": DATA}, (DATA,), None):
        assert show(scaled, rows=rows).graphs == {"model": {"x": ()}}


def test_a_guide_that_does_not_go_with_the_model_is_drawn_all_the_same():
    def other(x=None):
        with pyro.plate("rows", 4):
            pyro.sample("w", dist.Normal(x.sum(-1), 1.0))

    picture = show(model, other, (DATA,), TraceLabels_ELBO())
    assert "site 'w' is sampled in the guide but never in the model" in picture.why_not and not picture.values
    assert [*picture.graphs["guide"]] == ["w"] and [*picture.graphs["model"]] == ["z", "x"]

    def fails(x=None):
        raise KeyError("nothing there")

    picture = show(model, fails, (DATA,), TraceLabels_ELBO())
    assert "guide: 'nothing there'" in picture.why_not and [*picture.sites] == ["model"]
    picture = show(fails, guide, (DATA,), TraceLabels_ELBO())
    assert "model: 'nothing there'" in picture.why_not and [*picture.sites] == ["guide"]
    with pytest.raises(KeyError, match="nothing there"):
        show(fails)


def test_a_bound_that_needs_what_is_not_there_says_so():
    vae = M2((1, 2, 3), Classes(3), z=2, networks=MLPs((5,)))
    picture = show(vae, rows={"x": X}, objective=ClassifierTerm() + ClassifierTerm())
    assert "expected a sum with a bound" in picture.why_not and picture.sites["guide"]


def test_in_reverse():
    vae = InvertedVAE((1, 2, 3), Classes(3), z=2)
    y = torch.tensor([2, 1])
    picture = show(vae, rows={"y": y}, objective=TraceReverse_ELBO(max_plate_nesting=vae.max_plate_nesting))
    assert not picture.why_not and picture.values and picture.sites["model"]["y"].kind == "observed"


def test_a_continuous_label_is_sampled_where_it_is_missing():
    vae = LaRVAE((1, 2, 3), Real(2), z=2, networks=MLPs((5,)))
    y = torch.tensor([[0.1, torch.nan], [torch.nan, torch.nan]])
    sites = show(vae, rows={"x": X[:2], "y": y}).sites
    assert (sites["guide"]["y"].kind, sites["guide"]["y"].known) == ("partly observed", (1, 4))
    assert show(vae).sites["guide"]["y"].kind == "sampled"


def test_rows_that_are_none_of_the_models():
    with pytest.raises(InputError, match=r"y: got dtype torch.float64"):
        show(ccvae(), rows={"x": X, "y": torch.rand(4)})
    with pytest.raises(InputError, match="rows: got w; expected arguments of the model: x"):
        show(model, guide, {"w": X})
    with pytest.raises(InputError, match="rows: got 2 values; expected those of x"):
        show(model, guide, (X, X))


def test_in_a_notebook_it_is_a_figure_and_its_mathematics(tmp_path):
    picture = show(VAE((1, 2, 3), Classes(3), z=2, networks=MLPs((5,))), rows={"x": X}, path=tmp_path / "a.png")
    page = picture._repr_html_()
    png = base64.b64decode(re.search(r'base64,([^"]+)"', page).group(1))
    assert png.startswith(b"\x89PNG") and picture.latex in html.unescape(page) and "p(z) p(x | z)" in page
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match=r"expected a name that ends in \.png"):
        picture.save(tmp_path / "a.svg")


@pytest.mark.parametrize("name", ["a$b", "50%", "x#y", "a{b", "a\\b", "a^b", "a&b", "a~b", "<b>", "a b/c", "long_" * 9])
def test_any_name_can_be_drawn(name):
    def named(x=None):
        with pyro.plate(f"of {name}", 4):
            pyro.sample(name, dist.Normal(x[:, 0], 1.0))

    picture = show(named, rows=(DATA,))
    picture.figure.canvas.draw()
    assert "<b>" not in picture._repr_html_() and name in picture.graphs["model"]
    assert any(text.get_text() == f"of {name}: 4" for axis in picture.figure.axes for text in axis.texts)


def test_arguments_of_the_wrong_kind_are_told():
    vae = ccvae()
    with pytest.raises(InputError, match="guide: got dict; expected a function, or rows="):
        show(vae, {"x": X})
    with pytest.raises(InputError, match="guide: got TraceCCVAE_ELBO; expected a function"):
        show(vae, vae.elbo())
    with pytest.raises(InputError, match="objective: got Trace_ELBO; expected this library's objectives"):
        show(model, guide, (DATA,), pyro.infer.Trace_ELBO())
    with pytest.raises(InputError, match=r"model: got a function without a pyro.sample site"):
        show(lambda: pyro.deterministic("w", torch.ones(3)))


def test_arguments_in_the_middle_keep_their_defaults():
    def scaled(x=None, scale=2.0, flag=True):
        assert scale == 2.0 and flag is False
        pyro.sample("x", dist.Normal(0.0, scale).expand([4, 5]).to_event(2), obs=x)

    assert show(scaled, rows={"x": DATA, "flag": False}).graphs == {"model": {"x": ()}}


def test_what_no_objective_scores_is_told():
    """An autoguide's sites are made of auxiliary ones."""

    def auxiliary(x=None):
        with pyro.plate("rows", 4):
            pyro.sample("a", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Normal(torch.zeros(4, 2, dtype=torch.float64), 1.0).to_event(1))

    picture = show(model, auxiliary, (DATA,), TraceLabels_ELBO())
    assert picture.sites["guide"]["a"].kind == "auxiliary" and not picture.values
    assert picture.why_not == "no objective in this library scores the guide's auxiliary sites ['a']"


def test_buffers_of_a_model_in_training_stay_as_they_are():
    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(5, dtype=torch.float64)

        def model(self, x=None):
            model(x)

        def guide(self, x=None):
            guide(self.norm(x))

    normed = Normed().train()
    assert show(normed.model, normed.guide, (DATA,), TraceLabels_ELBO()).values
    assert normed.norm.training and normed.norm.num_batches_tracked == 0


def test_plates_that_cross_are_each_around_their_own_sites():
    def crossed():
        rows, columns = pyro.plate("rows", 6, subsample_size=2, dim=-2), pyro.plate("columns", 3, dim=-1)
        with rows:
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
        with columns:
            b = pyro.sample("b", dist.Normal(0.0, 1.0))
        with rows, columns:
            pyro.sample("c", dist.Normal(a + b, 1.0))

    text = str(show(crossed))
    assert "in rows: 6: a, c" in text and "in columns: 3: b, c" in text


def test_text_and_picture_have_the_weighted_values_and_their_sum():
    """What is written is what is added up: the objective's mean per example is the total."""
    vae, y = ccvae(), torch.tensor([0, 1, 2, 0])
    picture = show(vae, rows={"x": X, "y": y}, objective=vae.elbo() + 3.0 * ClassifierTerm())
    said = str(picture)
    values = [float(value) for value in re.findall(r"\[(-?[\d.]+)\]", said.split("bound")[1])]
    total = sum(picture.weights[name] * value for name, value in picture.values.items())
    assert sum(values) == pytest.approx(total, abs=0.05) and f"= {total:.2f} nats per example" in said
    assert any(weight != 1 for weight in picture.weights.values())
    drawn = [text.get_text() for axis in picture.figure.axes for text in axis.texts] + [
        text.get_text() for text in picture.figure.texts
    ]
    assert f"{total:.2f}" in drawn
    for name, value in picture.values.items():
        assert f"{picture.weights[name] * value:.2f}" in drawn
