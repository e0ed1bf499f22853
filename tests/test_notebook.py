"""What a notebook shows is what there is."""

import base64
import re
import subprocess
import sys

import torch

from pyro_semivae import CCVAE
from pyro_semivae.check import check_model
from pyro_semivae.checkpoints import History
from pyro_semivae.data import ImageData, Table
from pyro_semivae.infer import BatchTotalCorrelation, ClassifierTerm, EntropyTerm, Hidden, TraceCCVAE_ELBO
from pyro_semivae.models import M2, LaRVAE
from pyro_semivae.nn import MLPs
from pyro_semivae.notebook import SHOWN, attach, stated
from pyro_semivae.plot import image_grid
from pyro_semivae.spaces import Classes, Images, Real
from pyro_semivae.train import fit

attach()


def pictures(page):
    return [base64.b64decode(found) for found in re.findall(r'base64,([^"]+)"', page)]


def rows_of(page):
    return [re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>.*?</tr>", page)]


def test_a_model_is_its_graphs_its_bound_and_its_parts():
    page = CCVAE((1, 2, 3), Classes(3), z_c=2, z_s=3, networks=MLPs((5,)))._repr_html_()
    (png,) = pictures(page)
    assert png.startswith(b"\x89PNG") and r"p(z_{c} \mid y)" in page
    # 6 x 5 + 5 into the hidden layer, 5 x 2 (2 + 3) + 10 out of it
    assert ("q_z", "95") in [(row[0], row[-1]) for row in rows_of(page)]


def test_an_objective_is_its_sum_and_its_mathematics():
    elbo = TraceCCVAE_ELBO(beta=2.0) + 7.0 * ClassifierTerm()
    page = elbo._repr_html_()
    assert repr(elbo) == "TraceCCVAE_ELBO(beta=2.0) + 7.0 * ClassifierTerm()" and repr(elbo) in page
    assert r"\log p(x, y_o) \ge E_{q(z|x)}\Big[ w" in page and page.count("$$") == 4
    assert stated(TraceCCVAE_ELBO).count(r" \\ ") == 1 and stated(int) == ""
    changed = elbo.weighted({"log p(z_s)": 0.5}).weighted({"log p(x)": 2.0}).without("log p(y)") + 3.0 * EntropyTerm()
    assert repr(changed) == (
        "(TraceCCVAE_ELBO(beta=2.0) + 7.0 * ClassifierTerm()).weighted({'log p(z_s)': 0.5, 'log p(x)': 2.0})"
        ".without('log p(y)') + 3.0 * EntropyTerm()"
    )


def test_what_an_objective_holds_has_its_mathematics_too():
    elbo = LaRVAE((1, 4, 4), Real(2), z=2, networks=MLPs((5,))).elbo()
    page = elbo._repr_html_()
    assert "<b>TraceLabels_ELBO</b>" in page and "<b>RegressionTerm</b>" in page
    assert repr(Hidden(TraceCCVAE_ELBO(), "y")).startswith("Hidden(TraceCCVAE_ELBO(), 'y'")
    assert repr(BatchTotalCorrelation(99, "z")) == "BatchTotalCorrelation(99, 'z')"


def test_a_report_a_data_set_and_a_history(tmp_path):
    torch.manual_seed(0)
    y = torch.arange(12) % 3
    data = ImageData("stripes", ("a", "b", "c"), torch.rand(12, 1, 2, 3), y, torch.rand(3, 1, 2, 3), y[:3])
    rows = {"x": data.x, "kind": y}
    table = Table("stripes", {"x": Images(1, 2, 3), "kind": Classes(3)}, {"kind": ("a", "b", "c")}, rows, rows)
    page = table._repr_html_()
    assert ["stripes", "12 training rows, 12 test rows"] in rows_of(page) and len(pictures(page)) == 1
    assert ["kind", "class: a, b, c; known in 12 of 12 training rows, 12 of 12 test rows"] in rows_of(page)
    page = data._repr_html_()
    assert ["images", "12 to train on, 3 to test"] in rows_of(page) and len(pictures(page)) == 1
    assert "a, b, c" in page
    vae, hidden = M2(data.x_shape, data.labels, z=2, networks=MLPs((5,))), y.clone()
    hidden[6:] = -1
    page = check_model(vae, data.x, hidden)._repr_html_()
    assert r"p(x \mid y, z)" in page and ["labels", "y"] in rows_of(page) and ["latents", "z"] in rows_of(page)
    how = {"epochs": 24, "progress": False, "checkpoint": tmp_path / "checkpoint.pt"}
    for resume in (False, True):
        history = fit(vae, data.x, hidden, resume=resume, **how)
        assert isinstance(history, History) and len(history) == 24
    page = history._repr_html_()
    found = rows_of(page)
    assert found[0][:3] == ["epoch", "objective", "elbo"] and len(pictures(page)) == 1
    assert [row[0] for row in found[1:]] == ["3", "6", "9", "12", "15", "18", "21", "24"]
    assert found[-1][2] == f"{history[-1]['elbo']:.4g}"
    assert History()._repr_html_() == "no epochs"


def test_figures_are_shown_without_a_setting():
    assert image_grid(torch.rand(1, 2, 1, 4, 4))._repr_png_().startswith(b"\x89PNG")


def test_it_is_there_in_a_notebook_and_a_script_does_not_pay_for_it():
    """The package looks whether IPython is there; what notebooks show takes seconds to import."""
    told = (
        "import importlib, sys, pyro_semivae; there = lambda: print('pyro_semivae.notebook' in sys.modules); there(); "
    )
    told += "sys.modules['IPython'] = sys; importlib.reload(pyro_semivae); there()"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
    assert all(hasattr(kind, "_repr_html_") for kind in SHOWN)
