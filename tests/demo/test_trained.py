"""A run's folder as a demo takes it: the model, and the data it was trained on, or why they are not there."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from pyro_semivae import CCVAE, data
from pyro_semivae.data import ImageData
from pyro_semivae.demo import Page, open_run, some_rows
from pyro_semivae.errors import InputError
from pyro_semivae.files import save_checkpoint
from pyro_semivae.nn import MLPs
from pyro_semivae.spaces import Classes

CONFIG = {"dataset": "auto", "dataset_used": "digits", "data_dir": None, "smoke_test": False, "hold_out": 0, "seed": 0}
CONFIG |= {"csv": None, "kinds": None, "size": None, "label": None}


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    monkeypatch.setenv("PYRO_SEMIVAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PYRO_SEMIVAE_DATA", raising=False)
    monkeypatch.setattr("pyro_semivae.data.sets._download", lambda *_: pytest.fail("nothing is downloaded"))


def run(tmp_path, shape=(1, 8, 8), classes=10, **config):
    vae = CCVAE(shape, Classes(classes), z_c=2, z_s=3, networks=MLPs((4,)))
    vae.save(tmp_path / "checkpoint.pt")
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, **config}))
    return vae


def test_it_has_the_model_and_the_data_of_the_run(tmp_path):
    vae = run(tmp_path)
    digits = data.load("digits")
    for path in (tmp_path, tmp_path / "checkpoint.pt", str(tmp_path)):
        found = open_run(path)
        saved, loaded = vae.state_dict(), found.vae.state_dict()
        assert saved.keys() == loaded.keys() and all(torch.equal(saved[key], loaded[key]) for key in saved)
        assert found.name == "CCVAE on digits" and found.why_not is None
        assert torch.equal(found.data.x_test, digits.x_test)
    run(tmp_path, hold_out=100, dataset_used="digits-held-out")
    assert torch.equal(open_run(tmp_path).data.x_test, digits.x[-100:])


def test_data_of_ones_own_are_read_as_the_run_did(tmp_path):
    folder = tmp_path / "pets"
    for k, kind in enumerate(("cat", "dog")):
        (folder / kind).mkdir(parents=True)
        for i in range(6):
            Image.fromarray(np.full((9, 9), 20 * i + 100 * k, np.uint8)).save(folder / kind / f"{i}.png")
    out = tmp_path / "out"
    out.mkdir()
    run(out, classes=2, dataset=str(folder), dataset_used="pets", size=8, seed=3, label="y")
    found = open_run(out)
    wanted = data.load_folder(folder, size=8, seed=3)
    assert found.data.label_names == ("cat", "dog") and torch.equal(found.data.x_test, wanted.test["x"])


def test_where_the_data_are_not_there_it_says_why_and_uploads_work(tmp_path):
    for config, why in (
        ({"dataset_used": "mnist"}, "dataset mnist: no file "),
        ({"dataset": str(tmp_path / "gone"), "dataset_used": "gone"}, f"dataset: got {tmp_path / 'gone'}, "),
        ({"dataset_used": "marbles"}, "dataset: got 'marbles'"),
    ):
        run(tmp_path, **config)
        found = open_run(tmp_path)
        assert found.data is None and found.why_not.startswith(why) and "\n" not in found.why_not
    run(tmp_path, shape=(1, 9, 9))
    assert "their shape is (1, 8, 8), that of the model's images (1, 9, 9)" in open_run(tmp_path).why_not
    (tmp_path / "config.json").unlink()
    found = open_run(tmp_path)
    assert (
        found.name == "CCVAE"
        and found.why_not == "the run's configuration does not name them (KeyError('dataset_used'))"
    )
    page = Page(found)
    session, pictures, message, *others = page.begin()
    assert session.state is None and "upload one" in pictures and message == ""
    Image.fromarray(np.full((20, 30), 99, np.uint8)).save(tmp_path / "a.png")
    session, pictures, message, *others = page.upload(session, tmp_path / "a.png")
    assert 'alt="changed"' in pictures and message == "" and len(others) == 1 + 2


@pytest.mark.parametrize(
    ("written", "names"),
    [
        ('{"assigned": [0, 1, 2, 3, 4, 7, 5, 9, 6, 8]}', "0123475968"),
        ('{"assigned": [0, 1]}', "0123456789"),
        ('{"assigned": null}', "0123456789"),
        ("[3]", "0123456789"),
        ("not JSON", "0123456789"),
    ],
)
def test_classes_that_were_found_without_labels_have_the_names_that_they_are_taken_for(written, names, tmp_path):
    run(tmp_path)
    (tmp_path / "metrics.json").write_text(written)
    assert open_run(tmp_path).label_names == tuple(names)
    assert Page(open_run(tmp_path)).explorer.choices[0].values == tuple(names)


def test_a_run_that_has_not_ended_has_its_configuration_in_the_checkpoint(tmp_path):
    run(tmp_path)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    del state["sha256"]
    save_checkpoint(tmp_path / "checkpoint.pt", {**state, "config": CONFIG})
    (tmp_path / "config.json").unlink()
    assert open_run(tmp_path / "checkpoint.pt").data.name == "digits"


def test_no_checkpoint_is_one_clear_line(tmp_path):
    (tmp_path / "text.pt").write_text("hello")
    torch.save({"weights": 1}, tmp_path / "foreign.pt")
    (tmp_path / "empty").mkdir()
    run(tmp_path)
    content = bytearray((tmp_path / "checkpoint.pt").read_bytes())
    content[len(content) // 2] ^= 255
    (tmp_path / "bent.pt").write_bytes(content)
    for name, message in (
        ("nowhere", "which is not there; expected the folder of a run, or a checkpoint"),
        ("empty", "a folder without checkpoint.pt; expected"),
        ("text.pt", "cannot be read: damaged, or no checkpoint"),
        ("bent.pt", " damaged"),
        ("foreign.pt", "is not a checkpoint of pyro_semivae"),
    ):
        with pytest.raises(InputError, match=r"^checkpoint: ") as error:
            open_run(tmp_path / name)
        assert message in str(error.value) and str(tmp_path / name) in str(error.value)


def test_some_rows_show_all_classes():
    y = torch.tensor([0, 0, 0, -1, 2, 1, 1, 2, 0])
    x = torch.rand(9, 1, 2, 2)
    assert some_rows(ImageData("a", tuple("abc"), x, y, x, y), 5).tolist() == [0, 5, 4, 1, 6]
    y = torch.tensor([[0.0], [1.0], [0.0]])
    assert some_rows(ImageData("a", ("on",), x[:3], y, x[:3], y), 2).tolist() == [0, 1]
