"""Files that anyone may upload: good ones become rows of data, bad ones one clear line, huge ones are not decoded."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from pyro_semivae import data
from pyro_semivae.demo import MAX_BYTES, MAX_PIXELS, read_upload
from pyro_semivae.errors import InputError

RGB = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)


def saved(path, image, **options):
    image.save(path, **options)
    return path


def png_header(width, height):
    """A PNG file that says it has so many pixels, and has none."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))


@pytest.mark.parametrize("shape", [(1, 8, 9), (3, 8, 9)])
@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_it_reads_what_the_data_reader_reads(name, shape, tmp_path, monkeypatch):
    monkeypatch.setenv("PYRO_SEMIVAE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "images").mkdir()
    image = Image.fromarray(RGB) if shape[0] == 3 else Image.fromarray(RGB[..., 0])
    for file in ("0.png", "1.png", name):
        path = saved(tmp_path / "images" / file, image)
    rows = data.load_folder(tmp_path / "images", size=shape[1:], test=1)
    x = read_upload(path, shape)
    assert x.shape == (1, *shape) and x.dtype == torch.uint8
    both = torch.cat([rows.train["x"], rows.test["x"]])
    assert any(torch.equal(x[0], row) for row in both)
    assert x.float().std() > 10


def test_colours_become_grey_and_grey_colours(tmp_path):
    path = saved(tmp_path / "a.png", Image.fromarray(RGB))
    grey = np.asarray(Image.fromarray(RGB).convert("L"))
    assert torch.equal(read_upload(path, (1, 12, 10))[0, 0], torch.tensor(grey))
    path = saved(tmp_path / "b.png", Image.fromarray(grey))
    assert torch.equal(read_upload(path, (3, 12, 10))[0], torch.tensor(grey).expand(3, 12, 10))


def test_what_is_transparent_is_black(tmp_path):
    alpha = np.full((12, 10, 1), 255, np.uint8)
    alpha[:6] = 0
    path = saved(tmp_path / "a.png", Image.fromarray(np.concatenate([RGB, alpha], 2)))
    x = read_upload(path, (3, 12, 10))[0]
    assert (x[:, :6] == 0).all() and torch.equal(x[:, 6:], torch.tensor(RGB).permute(2, 0, 1)[:, 6:])


def test_orientation_is_followed(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be rotated by 90 degrees
    path = saved(tmp_path / "a.png", Image.fromarray(RGB), exif=exif)
    assert torch.equal(read_upload(path, (3, 10, 12))[0], torch.tensor(np.rot90(RGB, -1).copy()).permute(2, 0, 1))


def test_bad_files_are_one_clear_line(tmp_path):
    file = io.BytesIO()
    Image.fromarray(RGB).save(file, format="png")
    good = file.getvalue()
    frames = [Image.fromarray(RGB), Image.fromarray(255 - RGB)]
    saved(tmp_path / "moves.png", frames[0], save_all=True, append_images=frames[1:])
    saved(tmp_path / "a.gif", frames[0])
    for name, content, message in (
        ("notes.txt", b"hello, world", "upload: notes.txt is not a JPEG or PNG image"),
        ("empty.png", b"", "upload: empty.png is not a JPEG or PNG image"),
        ("a.gif", None, "upload: a.gif is not a JPEG or PNG image"),
        ("half.png", good[: len(good) // 2], "upload: half.png is damaged: "),
        ("bent.png", good[:60] + b"\0\1\2\3" + good[64:], "upload: bent.png is damaged: "),
        ("moves.png", None, "upload: moves.png is an animation of 2 images; expected one image"),
        ("large.png", good + bytes(MAX_BYTES), "upload: large.png has 10.0 MB; expected at most 10 MB"),
        (
            "wide.png",
            png_header(MAX_PIXELS // 1000 + 1, 1000),
            "upload: wide.png has 25001 x 1000 pixels; expected at most 25 million",
        ),
        ("bomb.png", png_header(60_000, 60_000), "upload: bomb.png has far too many pixels; expected at most 25"),
    ):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError) as error:
            read_upload(tmp_path / name, (3, 12, 10))
        assert str(error.value).startswith(message) and "\n" not in str(error.value)
    with pytest.raises(InputError, match=r"upload: nowhere\.png is not a file"):
        read_upload(tmp_path / "nowhere.png", (3, 12, 10))


def test_too_many_pixels_are_not_decoded(tmp_path, monkeypatch):
    """A file of some kilobytes may have gigabytes of pixels."""
    path = saved(tmp_path / "a.png", Image.fromarray(np.zeros((5100, 5000), np.uint8)))
    assert path.stat().st_size < MAX_BYTES // 10
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    with pytest.raises(InputError, match="5000 x 5100 pixels"):
        read_upload(path, (1, 8, 8))
