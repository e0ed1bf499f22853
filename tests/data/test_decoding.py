"""Image files of every mode become 8 bits, upright and without holes; the others are refused by their name."""

import io
import random
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from pyro_semivae.data import folders
from pyro_semivae.errors import InputError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PYRO_SEMIVAE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def decoded(path, channels, size):
    return folders.image_array([path], "made", channels=channels, size=size)[0].numpy()


def grey(*levels, dtype=np.uint8):
    """A square image of these levels."""
    side = round(len(levels) ** 0.5)
    return Image.fromarray(np.array(levels, dtype).reshape(side, side))


def colours(mode, *pixels):
    image = Image.new(mode, (2, 2))
    image.putdata(pixels)
    return image


def palette(*indices):
    image = colours("P", *indices)
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    return image


DEEP = grey(0, 128, 129, 40_000, 65_535, 257, 256, 65_406, 65_407, dtype=np.uint16)
SCALED = [0, 0, 1, 156, 255, 1, 1, 254, 255]  # v / 65535 * 255, rounded
COLOURS = (10, 20, 30), (40, 50, 60), (70, 80, 90), (40, 50, 60)


@pytest.mark.parametrize(
    ("image", "options", "expected"),
    [
        (DEEP, {}, SCALED),
        (DEEP, {"transparency": 40_000}, [0 if v == 156 else v for v in SCALED]),
        (grey(1, 2, 3, 250), {}, [1, 2, 3, 250]),
        (grey(1, 2, 3, 250), {"transparency": 3}, [1, 2, 0, 250]),
        (grey(0, 1, 1, 0, dtype=bool), {}, [0, 255, 255, 0]),
        (colours("LA", (200, 255), (200, 0), (200, 51), (0, 9)), {}, [200, 0, 40, 0]),
        (colours("RGB", *COLOURS), {}, COLOURS),
        (colours("RGB", *COLOURS), {"transparency": (40, 50, 60)}, [COLOURS[0], (0,) * 3, COLOURS[2], (0,) * 3]),
        (
            colours("RGBA", (200, 100, 50, 255), (200, 100, 50, 0), (200, 100, 50, 51), (255, 255, 255, 102)),
            {},
            [(200, 100, 50), (0, 0, 0), (40, 20, 10), (102, 102, 102)],
        ),
        (palette(0, 1, 2, 1), {}, COLOURS),
        (palette(0, 1, 2, 1), {"transparency": 1}, [COLOURS[0], (0,) * 3, COLOURS[2], (0,) * 3]),
        (palette(0, 1, 2, 1), {"transparency": b"\x33\xff\x00"}, [(2, 4, 6), COLOURS[1], (0,) * 3, COLOURS[3]]),
    ],
)
def test_a_png_of_any_mode_becomes_eight_bits_on_black(image, options, expected, tmp_path):
    image.save(tmp_path / "made.png", **options)
    expected = np.array(expected, float).reshape(len(expected), -1)
    rgb = np.broadcast_to(expected, (len(expected), 3)).T.reshape(3, *image.size)
    np.testing.assert_array_equal(decoded(tmp_path / "made.png", 3, image.width), rgb)
    luma = np.tensordot([0.299, 0.587, 0.114], rgb, 1)
    np.testing.assert_allclose(decoded(tmp_path / "made.png", 1, image.width)[0], luma, atol=0.51)


def test_a_jpeg_of_print_colours_is_one_of_light(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "made.jpg")
    rgb = decoded(tmp_path / "made.jpg", 3, 8).astype(int)
    assert abs(rgb - np.array([255, 0, 0])[:, None, None]).max() <= 3
    assert abs(decoded(tmp_path / "made.jpg", 1, 8).astype(int) - 76).max() <= 3


UPRIGHT = {
    1: lambda stored: stored,
    2: np.fliplr,
    3: lambda stored: np.rot90(stored, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda stored: np.rot90(stored, -1),  # by 90 degrees, clockwise
    7: lambda stored: np.rot90(stored, 2).T,
    8: lambda stored: np.rot90(stored),
    9: lambda stored: stored,  # there is none
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_the_camera_was_held_upright_or_says_how(orientation, kind, tmp_path):
    stored = np.kron(np.arange(0, 250, 28).reshape(3, 3), np.ones((8, 8))).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / f"made.{kind}", exif=exif)
    got = decoded(tmp_path / f"made.{kind}", 1, 24)[0]
    np.testing.assert_allclose(got.astype(int), UPRIGHT[orientation](stored), atol=0 if kind == "png" else 3)


def test_transparent_and_deep_pixels_are_made_eight_bits_before_they_are_resized(tmp_path):
    deep = np.zeros((4, 4), np.uint16)
    deep[:, :2] = 40_000
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert decoded(tmp_path / "deep.png", 1, 1)[0, 0, 0] == 78
    colours("RGBA", *[(255, 255, 255, 255), (255, 255, 255, 0)] * 2).save(tmp_path / "half.png")
    assert decoded(tmp_path / "half.png", 1, 1)[0, 0, 0] in (127, 128)


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width, height, *chunks):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + b"".join([header, *chunks, chunk(b"IEND", b"")])


def file_of(image, kind):
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


PIXELS = chunk(b"IDAT", zlib.compress(b"\0" * 6))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (file_of(Image.fromarray(np.full((2, 2), 0.8, np.float32)), "TIFF"), "expected JPEG and PNG files"),
        (file_of(Image.fromarray(np.full((2, 2), 2**30, np.int32)), "TIFF"), "expected JPEG and PNG files"),
        (file_of(Image.new("RGB", (2, 2)), "BMP"), "expected JPEG and PNG files"),
        (file_of(Image.new("RGB", (2, 2)), "GIF"), "expected JPEG and PNG files"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 2 2\n%%EndComments\n", "expected JPEG and PNG files"),
        (b"", "expected JPEG and PNG files"),
        (png(60_000, 60_000, PIXELS), "exceeds limit of 178956970 pixels, could be decompression bomb"),
        (png(10_000, 10_000, PIXELS), "pixels"),
        (png(2, 2, chunk(b"zTXt", b"k\0\0" + zlib.compress(b"a" * (2 << 20))), PIXELS), "Decompressed data too large"),
        (png(2, 2, chunk(b"IHDR", b"\0")), "Truncated IHDR chunk"),
        (png(0, 2, PIXELS), ""),
        (png(2, 2), ""),
    ],
)
def test_other_files_damaged_ones_and_bombs_are_named(content, message, tmp_path, cache):
    path = tmp_path / "made.png"  # whatever is in it
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"dataset made: {re.escape(str(path))} cannot be decoded: .*{message}"):
        decoded(path, 1, 2)
    assert not list(cache.iterdir()), "nothing half is left"


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bomb_that_is_only_warned_of_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    grey(*range(100)).save(tmp_path / "ten.png")
    grey(*range(121)).save(tmp_path / "eleven.png")
    assert decoded(tmp_path / "ten.png", 1, 10)[0, -1, -1] == 99
    with pytest.raises(InputError, match=r"eleven\.png cannot be decoded: 11 x 11 pixels are more than .*, 100;"):
        decoded(tmp_path / "eleven.png", 1, 10)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert decoded(tmp_path / "eleven.png", 1, 11)[0, -1, -1] == 120


def test_whatever_byte_is_damaged_there_is_a_picture_or_one_error(tmp_path):
    rng, path = random.Random(0), tmp_path / "made"
    exif = Image.Exif()
    exif[0x0112] = 6
    palette(0, 1, 2, 1).save(tmp_path / "palette.png", transparency=b"\x33\xff")
    DEEP.save(tmp_path / "deep.png")
    Image.new("CMYK", (8, 8), (1, 2, 3, 4)).save(tmp_path / "print.jpg", exif=exif)
    kinds = set()
    for source in ("palette.png", "deep.png", "print.jpg"):
        content = (tmp_path / source).read_bytes()
        for _ in range(100):
            damaged = bytearray(content[: rng.choice([len(content), rng.randrange(len(content))])])
            for _ in range(rng.randint(0, 3) if damaged else 0):
                damaged[rng.randrange(len(damaged))] = rng.randrange(256)
            path.write_bytes(damaged)
            try:
                kinds.add(folders._decode(path, "made", 1, (3, 3), "").shape)
            except InputError as error:
                assert str(path) in str(error)
                kinds.add(InputError)
    assert kinds == {(1, 3, 3), InputError}


def test_what_another_version_decoded_is_decoded_again(tmp_path, monkeypatch, cache):
    grey(1, 2, 3, 4).save(tmp_path / "made.png")
    decoded(tmp_path / "made.png", 1, 2)
    decoded(tmp_path / "made.png", 1, 2)
    assert len(list(cache.glob("*.npy"))) == 1
    monkeypatch.setattr(folders, "DECODING", folders.DECODING + 1)
    decoded(tmp_path / "made.png", 1, 2)
    assert len(list(cache.glob("*.npy"))) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 10**20}, f"size: got {10**20}; expected an integer from 1 to 4096"),
        ({"size": True}, "size: got True"),
        ({"size": 2.0}, "size: got 2.0"),
        ({"threads": 0}, "threads: got 0"),
    ],
)
def test_sizes_are_counted(options, message, tmp_path):
    with pytest.raises(InputError, match=message):
        folders.image_array([tmp_path / "made.png"], "made", channels=1, **options)
