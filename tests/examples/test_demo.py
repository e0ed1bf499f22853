"""The page in a browser: what is moved, switched and uploaded is seen, and nothing is asked of any other machine.

`python tests/examples/test_demo.py RUN docs/demo.png` draws the picture of the docs, of a trained run.
"""

import importlib.util
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import zlib
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pyro_semivae.models import M2, LaRVAE
from pyro_semivae.nn import MLPs
from pyro_semivae.spaces import Classes, Real

ROOT = Path(__file__).parents[2]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WAIT = 30_000  # milliseconds, of a busy machine


def browser_path():
    return next((found for name in BROWSERS if (found := shutil.which(name))), None)


@contextmanager
def served(process):
    """The address of a demo that was started, which ends afterwards."""
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if found := re.search(r"http://\S+", line):
                break
        else:
            pytest.fail("".join(lines) + process.stderr.read())
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", found.group()), "of this machine alone"
        yield found.group()
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


@contextmanager
def opened(url, **view):
    """The page in a headless browser, when its pictures are there; and the addresses of all that it asks for."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path(), args=["--no-sandbox"])
        page, asked = browser.new_page(**view), []
        page.on("request", lambda request: asked.append(request.url))
        page.on("websocket", lambda socket: asked.append(socket.url))
        page.set_default_timeout(WAIT)
        page.goto(url)
        page.get_by_alt_text("changed").wait_for()
        yield page, asked
        browser.close()


def changes(page, act, what="changed"):
    """Acts, and waits until a picture is another one."""
    from playwright.sync_api import expect

    picture = page.get_by_alt_text(what, exact=True)
    before = picture.get_attribute("src")
    act()
    expect(picture).not_to_have_attribute("src", before, timeout=WAIT)
    return before, picture.get_attribute("src")


def drag(page, slider, to):
    """Moves a slider to a fraction of its range, with the mouse."""
    box = page.locator("input[type=range]").nth(slider).bounding_box()
    page.mouse.click(box["x"] + to * box["width"], box["y"] + box["height"] / 2)


def rush(page, slider, fractions):
    """The picture after a slider was dragged over fractions of its range, faster than pictures are drawn."""
    page.locator("input[type=range]").nth(slider).evaluate(
        """async (slider, fractions) => { for (const f of fractions) {
            slider.value = Number(slider.min) + f * (slider.max - slider.min)
            slider.dispatchEvent(new Event("input", { bubbles: true }))
            await new Promise(done => setTimeout(done, 5)) } }""",
        fractions,
    )
    page.wait_for_timeout(1500)
    return page.get_by_alt_text("changed", exact=True).get_attribute("src")


def values(page):
    """Where the sliders are."""
    sliders = page.locator("input[type=range]")
    return [float(sliders.nth(i).input_value()) for i in range(sliders.count())]


def upload(page, path, which="image"):
    """As a user does, who clicks the button: the same file may be chosen again."""
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name=f"Upload: {which}").click()
    chooser.value.set_files(path)


def says(page, text):
    from playwright.sync_api import expect

    expect(page.locator("#message")).to_contain_text(text, timeout=WAIT)


@pytest.fixture
def browser():
    """Skips without what it takes, except in CI."""
    missing = [] if browser_path() else [f"no browser: none of {', '.join(BROWSERS)} is on the path"]
    for package in ("gradio", "playwright"):
        if not importlib.util.find_spec(package):
            missing.append(f"no package {package}")
    if missing:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(", ".join(missing))


def bad_files(folder):
    """Files that are no images to take: name -> what the page says of it."""
    good = folder / "good.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)).save(good)
    (folder / "notes.txt").write_text("hello")
    (folder / "broken.png").write_bytes(good.read_bytes()[:200])
    (folder / "huge.png").write_bytes(good.read_bytes() + bytes(11 << 20))
    head = b"IHDR" + struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    (folder / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + bytes(4) + b"IDAT" + bytes(4))
    return {
        "notes.txt": "upload: notes.txt is not a JPEG or PNG image",
        "broken.png": "upload: broken.png is damaged",
        "huge.png": "upload: huge.png has 11.0 MB; expected at most 10 MB",
        "bomb.png": "upload: bomb.png has far too many pixels",
    }


def test_the_page_in_a_browser(browser, run, start, tmp_path):
    code, _, err = run("ccvae.py", "--smoke-test", "--out", "out")
    assert code == 0, err
    with (
        served(start("demo.py", "--checkpoint", "out")) as url,
        opened(url, viewport={"width": 1400, "height": 1000}) as (page, asked),
    ):
        assert "CCVAE on digits" in page.content() and page.locator("input[type=range]").count() == 10
        last = rush(page, 2, [0.1, 0.9])
        assert rush(page, 2, [i / 40 for i in range(40)] + [0.9]) == last  # the picture is that of where it stopped
        bad = bad_files(tmp_path)
        changes(page, lambda: drag(page, 0, 0.95))
        before = values(page)
        changes(page, lambda: drag(page, 3, 0.05))
        upload(page, tmp_path / "notes.txt")  # then the page is shown anew, sliders too
        says(page, bad["notes.txt"])
        assert [i for i, (now, then) in enumerate(zip(values(page), before, strict=True)) if now != then] == [3]
        _, three = changes(page, lambda: page.get_by_label("3", exact=True).check())
        _, eight = changes(page, lambda: page.get_by_label("8", exact=True).check())
        _, again = changes(page, lambda: page.get_by_role("button", name="Sample anew").click())
        assert len({three, eight, again}) == 3
        before = values(page)
        changes(page, lambda: page.get_by_label("open", exact=True).check())
        assert values(page) != before
        page.get_by_role("button", name="Swap: take its rest").click()
        says(page, "A swap needs two images")
        changes(page, lambda: page.get_by_label("Thumbnail 5 of 40").first.click(), "image")
        page.get_by_label("Thumbnail 8 of 40").nth(1).click()
        page.get_by_alt_text("second image").wait_for()
        changes(page, lambda: page.get_by_role("button", name="Swap: take its characteristics").click())
        for name, said in bad.items():
            before = page.get_by_alt_text("image", exact=True).get_attribute("src")
            upload(page, tmp_path / name)
            says(page, said)
            assert page.get_by_alt_text("image", exact=True).get_attribute("src") == before
        changes(page, lambda: upload(page, tmp_path / "good.png"), "image")
        assert page.locator("#message").inner_text().strip() == ""
        changes(page, lambda: upload(page, tmp_path / "good.png", "second image"), "second image")
        changes(page, lambda: drag(page, 1, 0.9))
        asked = [address for address in asked if not address.startswith(("data:", "blob:"))]
        assert asked and not [address for address in asked if not address.startswith(url)]


def test_a_checkpoint_that_is_none_is_one_line(run, tmp_path):
    (tmp_path / "text.pt").write_text("hello")
    for path, said in (("text.pt", "damaged"), ("nowhere", "nowhere, which is not there")):
        code, _, err = run("demo.py", "--checkpoint", path)
        assert code == 2 and err.splitlines()[-1].startswith("error: --checkpoint: ") and said in err


def test_a_model_that_cannot_be_shown_is_one_line(run, tmp_path):
    LaRVAE((1, 4, 7), Real(3), z=2, networks=MLPs((4,))).save(tmp_path / "larvae.pt")
    code, _, err = run("demo.py", "--checkpoint", "larvae.pt")
    assert code == 2 and err.startswith("error: --checkpoint: got a LaRVAE with continuous labels; ")


def test_without_gradio_it_says_what_to_install(run, tmp_path, monkeypatch):
    M2((1, 4, 7), Classes(5), networks=MLPs((4,))).save(tmp_path / "m2.pt")
    monkeypatch.setitem(sys.modules, "gradio", None)
    code, _, err = run("demo.py", "--checkpoint", "m2.pt")
    assert code == 2 and err.splitlines()[-1].endswith('the demo takes it: pip install -e ".[demo]"')


def picture(run, out):
    """The picture of the docs: a test image of a class, its label set to another class, a slider moved."""
    command = [sys.executable, ROOT / "examples" / "demo.py", "--checkpoint", run]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with served(process) as url, opened(url, viewport={"width": 1360, "height": 990}) as (page, _):
        changes(page, lambda: page.get_by_label("Thumbnail 13 of 40").first.click(), "image")
        page.get_by_label("Thumbnail 16 of 40").nth(1).click()
        page.get_by_alt_text("second image").wait_for()
        changes(page, lambda: page.locator("input[type=radio]").nth(4).check())
        page.wait_for_timeout(1000)
        page.screenshot(path=out)


if __name__ == "__main__":
    picture(*sys.argv[1:])
