"""What a page shows next: pictures, messages, and where switches and sliders are."""

import base64
import io
import re
import time
from statistics import median

import numpy as np
import pytest
import torch
from PIL import Image

from pyro_semivae import CCVAE
from pyro_semivae.data import ImageData
from pyro_semivae.demo import OPEN, Page, Session, Trained, figures, picture, probabilities
from pyro_semivae.nn import MLPs
from pyro_semivae.spaces import Binary, Classes

NAMES = ("<owl>", "cat")


def page(hidden=(6,), shape=(1, 8, 8), names=NAMES, z_c=3):
    torch.manual_seed(0)
    vae = CCVAE(shape, Classes(len(names)), z_c=z_c, networks=MLPs(hidden))
    x, y = torch.rand(20, *shape), torch.arange(20) % len(names)
    return Page(Trained(vae, "CCVAE", ImageData("pets", names, x, y, x, y), None))


def shown(html):
    """The pictures of a page by their names, as arrays."""
    found = re.findall(r'<img alt="([^"]*)" src="data:image/png;base64,([^"]*)"', html)
    return {name: np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) for name, data in found}


def test_a_session_from_its_first_image_to_a_swap():
    one = page()
    session, html, message, *values = one.begin()
    x = (one.images[0] * 255).round().byte()
    assert np.array_equal(shown(html)["image"], x[0]) and message == "" and values[0] == OPEN
    assert values[1:] == [round(z, 2) for z in one.explorer.positions(session.state)]
    assert np.array_equal(shown(html)["changed"], picture(one.explorer.image(session.state)))
    assert "q(y | image): " in html and "q(y | changed): " in html and "&lt;owl&gt;" in html and "<owl>" not in html

    session, moved, *_ = one.move(session, 1, 1.5)
    assert not np.array_equal(shown(moved)["changed"], shown(html)["changed"])
    assert np.array_equal(shown(moved)["image"], x[0]) and one.shown(session)[3:][2] == 1.5

    session, switched, message, *values = one.switch(session, 0, 1)
    assert values[0] == 1 and not np.array_equal(shown(switched)["changed"], shown(moved)["changed"])
    session, again, _, *values = one.redraw(session)
    assert values[0] == 1 and not np.array_equal(shown(again)["changed"], shown(switched)["changed"])
    session, html_open, _, *values = one.switch(session, 0, OPEN)
    assert values[0] == OPEN and html_open == html
    session, back, *_ = one.back(one.move(session, 0, -1.0)[0])
    assert back == html

    session, _, message, *_ = one.swap(session, "rest")
    assert message == "A swap needs two images: choose or upload both."
    session, html, message, *_ = one.choose(session, 3, second=True)
    assert message == "" and np.array_equal(shown(html)["second image"], (one.images[3, 0] * 255).round().byte())
    for take in ("characteristics", "rest"):
        wanted = one.explorer.image(one.explorer.swap(session.state, one.images[3:4], take))
        assert np.array_equal(shown(one.swap(session, take)[1])["changed"], picture(wanted))


def test_the_images_are_those_of_the_test_set():
    torch.manual_seed(0)
    x, y = torch.rand(6, 1, 8, 8), torch.arange(3) % 2
    vae = CCVAE((1, 8, 8), Classes(2), networks=MLPs((6,)))
    one = Page(Trained(vae, "CCVAE", ImageData("pets", NAMES, x[:3], y, x[3:], y), None))
    assert torch.equal(one.images, x[3:])


def test_a_dark_image_of_the_test_set_is_taken():
    x = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    x[0], x[2], x[1, 0, 3] = 200, 90, 1
    vae = CCVAE((1, 8, 8), Classes(2), z_c=3, networks=MLPs((6,)))
    one = Page(Trained(vae, "CCVAE", ImageData("pets", NAMES, x, torch.arange(4) % 2, x, torch.arange(4) % 2), None))
    for i in range(4):
        _, html, message, *_ = one.choose(Session(), i)
        assert message == "" and shown(html)["image"].max() == one.images[i].mul(255).round().max()
    assert {round(image.max().item() * 255) for image in one.images} == {0, 1, 90, 200}


def test_messages_where_nothing_can_be_done():
    one = page()
    for found in (one.move(Session(), 0, 1.0), one.switch(Session(), 0, 1), one.redraw(Session()), one.back(Session())):
        assert found[2] == "Choose an image, or upload one."
    assert one.redraw(one.begin()[0])[2] == "All labels are open: there is nothing to sample. Set one first."


def test_an_upload_is_taken_or_told_off_and_removed(tmp_path):
    one = page()
    session, before, *_ = one.begin()
    path = tmp_path / "notes.txt"
    path.write_text("hello")
    session, html, message, *_ = one.upload(session, path)
    assert message == "upload: notes.txt is not a JPEG or PNG image" and html == before and not path.exists()
    path = tmp_path / "dots.png"
    Image.fromarray(np.ones((8, 8), np.uint8)).save(path)
    assert "got uint8 images of 0 and 1 alone" in one.upload(session, path)[2], "the checks of data"
    path = tmp_path / "a.png"
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    Image.fromarray(pixels).save(path)
    session, html, message, *_ = one.upload(session, path)
    assert np.array_equal(shown(html)["image"], pixels) and message == "" and not path.exists()
    Image.fromarray(255 - pixels).save(path)
    session, html, *_ = one.upload(session, path, second=True)
    assert np.array_equal(shown(html)["image"], pixels) and np.array_equal(shown(html)["second image"], 255 - pixels)


def test_pictures_are_in_the_page_itself():
    html = figures({"a & b": torch.ones(3, 2, 5), "none": None}, 40)
    assert (
        shown(html)["a &amp; b"].shape == (2, 5, 3) and "http" not in html and "<figcaption>none</figcaption>" in html
    )
    assert probabilities([("a", 0.5), ("b", 0.25), ("c", 0.25)], most=2) == "a 0.50, b 0.25"


def test_of_binary_labels_it_says_which_are_on(monkeypatch):
    torch.manual_seed(0)
    vae = CCVAE((1, 8, 8), Binary(3), networks=MLPs((6,)))
    x, y = torch.rand(4, 1, 8, 8), torch.zeros(4, 3)
    one = Page(Trained(vae, "CCVAE", ImageData("faces", ("Hat", "Smile", "Beard"), x, y, x, y), None))
    for probs, said in (((0.9, 0.2, 0.7), "Hat 0.90, Beard 0.70"), ((0.1, 0.2, 0.3), "none above 0.50")):
        found = [*zip(("Hat", "Smile", "Beard"), probs, strict=True)]
        monkeypatch.setattr(one.explorer, "read", lambda x, found=found: found)
        assert f"q(y | image): {said}<br/>" in one.begin()[1]
    session, _, _, *values = one.switch(one.begin()[0], 1, 0)
    assert values[:3] == [OPEN, 0, OPEN] and values[3:] == [round(z, 2) for z in one.explorer.positions(session.state)]


@pytest.mark.slow
def test_a_change_takes_less_than_a_tenth_of_a_second():
    """The networks of the README's run; the median, for other processes take time too."""
    torch.set_default_dtype(torch.float32)
    one = page((600, 600), (1, 28, 28), tuple("0123456789"), 10)
    session, seconds = one.begin()[0], []
    for i in range(20):
        for change in (lambda i=i: one.move(session, i % 10, 0.1 * i), lambda i=i: one.switch(session, 0, i % 10)):
            start = time.perf_counter()
            change()
            seconds.append(time.perf_counter() - start)
    print(f"median of a change: {1000 * median(seconds):.0f} ms")
    assert median(seconds) < 0.1
