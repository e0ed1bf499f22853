"""check_model finds what breaks the contract, and says what and where."""

import pyro
import pytest
import torch
from torch import nn

from pyro_semivae import CCVAE
from pyro_semivae.check import ContractError, check_model, documented_graph, factorisation
from pyro_semivae.distributions import GreyBernoulli
from pyro_semivae.nn import MLPs
from pyro_semivae.spaces import MISSING, Classes


class Sound(CCVAE):
    """A model that keeps the contract.

    ::

        p(y) p(z_c | y) p(z_s) p(x | z_c, z_s)
        q(z_c, z_s | x) q(y | z_c)
    """

    def __init__(self):
        super().__init__((1, 4, 7), Classes(5), z_c=2, z_s=3, networks=MLPs((11,)), label_hidden=(6,))


def batch():
    y = torch.tensor([2, MISSING, 0, 4, MISSING, 2, 1, 3, MISSING])
    return torch.rand(len(y), 1, 4, 7), y


def test_the_report_is_the_graph():
    report = check_model(Sound(), *batch())
    assert report.model == {"y": (), "z_c": ("y",), "z_s": (), "x": ("z_c", "z_s")}
    assert report.guide == {"z_c": ("x",), "z_s": ("x",), "y": ("z_c",)}
    assert (report.data, report.labels, report.latents) == (("x",), ("y",), ("z_c", "z_s"))
    assert "q(y | z_c)" in str(report) and factorisation(report.model, "p") in str(report)


def test_the_docstrings_factorisation_is_read():
    assert documented_graph(Sound(), "q") == {"z_c": ("x",), "z_s": ("x",), "y": ("z_c",)}


def broken(name, doc=None, **members):
    return type(name, (Sound,), {"__doc__": doc or Sound.__doc__, **members})()


def test_a_docstring_that_differs_from_the_code():
    wrong = Sound.__doc__.replace("p(z_c | y)", "p(z_c)")
    with pytest.raises(
        ContractError, match=r"model: the docstring says that 'z_c' depends on \[\], the code on \['y'\]"
    ):
        check_model(broken("Wrong", wrong), *batch())
    with pytest.raises(ContractError, match="guide: site 'y' is sampled but not in the docstring"):
        check_model(broken("Short", Sound.__doc__.replace("q(y | z_c)", "")), *batch())
    with pytest.raises(ContractError, match="has 'w', which is never sampled"):
        check_model(broken("Long", Sound.__doc__.replace("p(z_s)", "p(z_s) p(w)")), *batch())
    with pytest.raises(ContractError, match="states no factorisation"):
        check_model(broken("Silent", "Nothing."), *batch())


def test_a_renamed_latent():
    def guide(self, x=None, y=None):
        with self.rows(x, y):
            q_z_c, q_z_s = self.q_z(x)
            z_c = pyro.sample("z_c", q_z_c)
            pyro.sample("z_r", q_z_s)
            pyro.sample("y", self.q_y(z_c), obs=y, infer={"enumerate": "parallel"})

    with pytest.raises(ContractError, match=r"site 'z_r' is sampled in the guide but never in the model: did you mean"):
        check_model(broken("Renamed", guide=guide), *batch())


def test_a_batch_by_batch_site():
    """With "data" at dim -2, a site of batch (B,) silently becomes (B, B)."""

    def guide(self, x=None, y=None):
        with self.rows(x, None):
            q_z_c, q_z_s = self.q_z(x)
            pyro.sample("z_c", q_z_c)
            pyro.sample("z_s", q_z_s)

    def model(self, x=None, y=None):
        with self.rows(x, y):
            z_c = pyro.sample("z_c", self.p_z_c(torch.zeros((), dtype=torch.long)))
            z_s = pyro.sample("z_s", self.p_z_s())
            return pyro.sample("x", self.p_x(z_c, z_s), obs=x)

    doc = "A model in dim -2.\n\n::\n\n    p(z_c) p(z_s) p(x | z_c, z_s)\n    q(z_c, z_s | x)\n"
    vae = broken("Wide", doc, model=model, guide=guide, max_plate_nesting=2)
    with pytest.raises(ContractError, match=r"batch shape \(9, 9\), its plates say \(9, 1\).*needs the batch shape"):
        check_model(vae, *batch())


def test_parameters_without_gradient_need_a_reason():
    vae = Sound()
    vae.idle = nn.Linear(2, 2)
    with pytest.raises(ContractError, match=r"\['idle.weight', 'idle.bias'\] get no gradient"):
        check_model(vae, *batch())
    vae.without_gradient = {"idle.weight": "kept for later", "idle.bias": "kept for later"}
    assert check_model(vae, *batch()).without_gradient == ("idle.weight", "idle.bias")


def test_state_outside_of_the_state_dict():
    class Remembers(nn.Module):
        """A decoder that adds the largest weight it ever saw, which no state dict holds."""

        def __init__(self, inner):
            super().__init__()
            self.inner, self.largest = inner, 0.0

        def forward(self, *parents):
            weight = self.inner.net.layers[-1].weight.detach().abs().max().item()
            self.largest = max(self.largest, weight)
            base = self.inner(*parents).base_dist
            return GreyBernoulli(logits=base.logits + self.largest).to_event(3)

    vae = Sound()
    vae.p_x = Remembers(vae.p_x)
    hidden = vae.state_dict

    def grow(*args, **kwargs):  # the weights are read while they are larger, as a look at another checkpoint would
        state = hidden(*args, **kwargs)
        vae.p_x.largest += 1.0
        return state

    vae.state_dict = grow
    with pytest.raises(ContractError, match="after the state dict was saved and loaded"):
        check_model(vae, *batch())


def test_parameters_are_the_modules_and_registered():
    def without(self, x=None, y=None):
        self.register = lambda: None
        return CCVAE.model(self, x, y)

    with pytest.raises(ContractError, match=r"not registered with Pyro: plain SVI would not train them; call self.reg"):
        check_model(broken("Unregistered", model=without), *batch())

    def extra(self, x=None, y=None):
        pyro.param("own", torch.tensor(1.0))
        return CCVAE.model(self, x, y)

    with pytest.raises(ContractError, match=r"pyro.param \['own'\]: fit trains the module's parameters only"):
        check_model(broken("Extra", model=extra), *batch())


@pytest.mark.parametrize("method", ["model", "guide"])
def test_labels_must_be_observed(method):
    def forgets(self, x=None, y=None):
        return getattr(CCVAE, method)(self, x, torch.full_like(y, MISSING) if y is not None else None)

    with pytest.raises(ContractError, match=f"{method}: site 'y' does not have the labels that it is given"):
        check_model(broken("Forgets", **{method: forgets}), *batch())


def test_labels_must_be_marked():
    def plain(self, x=None, y=None):
        with self.rows(x, y):
            for name, q in zip(("z_c", "z_s"), self.q_z(x), strict=True):
                z = pyro.sample(name, q)
                if name == "z_c":
                    pyro.sample("y", self.q_y(z), obs=y)

    with pytest.raises(ContractError, match=r"guide: label 'y', .*, is not enumerated"):
        check_model(broken("Plain", guide=plain, model=lambda self, x=None, y=None: _plain_model(self, x, y)), *batch())


def _plain_model(self, x, y):
    self.register()
    with self.rows(x, y):
        y = pyro.sample("y", self.p_y(), obs=y)
        z_c, z_s = pyro.sample("z_c", self.p_z_c(y)), pyro.sample("z_s", self.p_z_s())
        return pyro.sample("x", self.p_x(z_c, z_s), obs=x)


def test_deterministic_sites_are_no_sites():
    def noted(self, x=None, y=None):
        x = CCVAE.model(self, x, y)
        pyro.deterministic("mean", x.mean())
        return x

    check_model(broken("Noted", model=noted), *batch())


def test_a_classifier_that_reads_no_draw_is_named():
    def of_mean(self, x=None, y=None):
        with self.rows(x, y):
            q_z_c, q_z_s = self.q_z(x)
            pyro.sample("z_c", q_z_c)
            pyro.sample("y", self.q_y(q_z_c.mean), obs=y, infer={"enumerate": "parallel"})
            pyro.sample("z_s", q_z_s)

    vae = broken("OfMean", guide=of_mean)
    with pytest.raises(ValueError, match=r"label 'y': the guide's q\(y\|..\) must depend on a sampled latent"):
        vae.elbo().weighted_terms(vae.model, vae.guide, *batch())


def test_characteristics_must_be_sites():
    with pytest.raises(ContractError, match=r"characteristic: \['z_y'\] are no sites"):
        check_model(broken("Named", characteristic=("z_y",)), *batch())


def test_labels_that_only_the_guide_observes():
    """Replayed against the guide the model would have its labels; by itself it has others."""

    def model(self, x=None, y=None):
        self.register()
        with self.rows(x, y):
            y = pyro.sample("y", self.p_y(), infer={"enumerate": "parallel"})
            z_c = pyro.sample("z_c", self.p_z_c(y))
            z_s = pyro.sample("z_s", self.p_z_s())
            return pyro.sample("x", self.p_x(z_c, z_s), obs=x)

    with pytest.raises(ContractError, match=r"model: site 'y' does not have the labels that it is given \(obs=y\?\)"):
        check_model(broken("Forgetful", model=model), *batch())


@pytest.mark.parametrize("kind", [list, dict])
def test_a_network_that_belongs_to_nobody(kind):
    def model(self, x=None, y=None):
        self.register()
        with self.rows(x, y):
            y = pyro.sample("y", self.p_y(), obs=y, infer={"enumerate": "parallel"})
            z_c = pyro.sample("z_c", self.p_z_c(y))
            z_s = pyro.sample("z_s", self.p_z_s())
            logits = self.p_x.net(z_c, z_s) + self.more[0](z_s).unsqueeze(-2).unsqueeze(-2)
            return pyro.sample("x", GreyBernoulli(logits=logits).to_event(3), obs=x)

    vae, net = broken("Lost", model=model), nn.Linear(3, 7)
    vae.more = [net] if kind is list else {0: net}
    with pytest.raises(ContractError, match=r"parameters of shapes \[\(7.*\)\] that are not the model's"):
        check_model(vae, *batch())
    vae.more = nn.ModuleList([net])
    check_model(vae, *batch())


@pytest.mark.parametrize("cut", [torch.Tensor.detach, torch.round])
def test_a_latent_that_is_cut_off_from_the_image(cut):
    """Its other terms still give every parameter a gradient."""

    def model(self, x=None, y=None):
        self.register()
        with self.rows(x, y):
            y = pyro.sample("y", self.p_y(), obs=y, infer={"enumerate": "parallel"})
            z_c = pyro.sample("z_c", self.p_z_c(y))
            z_s = pyro.sample("z_s", self.p_z_s())
            return pyro.sample("x", self.p_x(z_c, cut(z_s)), obs=x)

    with pytest.raises(ContractError, match=r"no gradient goes from p\(x \| ..\) to 'z_s', on which it depends"):
        check_model(broken("Cut", model=model), *batch())
