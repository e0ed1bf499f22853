"""Images that are taken, and those that would be taken for something else: `check_images` and `ImageData`."""

import re

import numpy as np
import pytest
import torch

from pyro_semivae import data
from pyro_semivae.errors import InputError
from pyro_semivae.spaces import Binary, Classes, check_images
from pyro_semivae.spaces import data as spaces

SHAPE = (3, 8, 6)


def bytes_of(top, n=5):
    x = torch.zeros(n, *SHAPE, dtype=torch.uint8)
    x[-1, -1, -1, -1] = top
    return x


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.uint8])
def test_images_are_returned_as_they_are(dtype):
    x = torch.rand(5, *SHAPE).round().to(dtype)
    x = x * 255 if dtype == torch.uint8 else x
    assert check_images(x) is x and check_images(x, SHAPE) is x and check_images(x[:0]).shape == (0, *SHAPE)


def test_arrays_lists_and_files_become_tensors(tmp_path):
    array = np.random.default_rng(0).random((5, *SHAPE))
    np.save(tmp_path / "x.npy", array)
    for x in (array, array.tolist(), np.load(tmp_path / "x.npy", mmap_mode="c")):
        got = check_images(x)
        np.testing.assert_array_equal(got.numpy(), array)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")  # torch warns of arrays that cannot be written to
    assert check_images(mapped).data_ptr() == mapped.__array_interface__["data"][0], "no copy"


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (None, "x: got NoneType; expected a float tensor (B, 3, 8, 6) in [0, 1], or uint8"),
        (torch.zeros(2, *SHAPE, dtype=torch.int64), "x: got dtype torch.int64; expected"),
        (torch.zeros(2, *SHAPE, dtype=torch.bool), "x: got dtype torch.bool"),
        (np.zeros((2, *SHAPE), np.uint16), "x: got dtype torch.uint16"),
        (torch.zeros(2, *SHAPE).to_sparse(), "x: got torch.sparse_coo"),
        (torch.zeros(SHAPE), "x: got shape (3, 8, 6); expected"),
        (torch.zeros(2, 3, 6, 8), "x: got shape (2, 3, 6, 8)"),
        (
            torch.zeros(2, 8, 6, 3),
            "x: got shape (2, 8, 6, 3), channels last; expected channels first, (B, 3, 8, 6)",
        ),
        (torch.tensor(0.5), "x: got shape ()"),
    ],
)
def test_what_is_no_batch_of_such_images_is_named(x, message):
    with pytest.raises(InputError, match=re.escape(message)):
        check_images(x, SHAPE)


def test_images_have_pixels():
    with pytest.raises(InputError, match=r"x: got shape \(2, 3, 0, 6\); expected a float tensor \(B, C, H, W\)"):
        check_images(torch.zeros(2, 3, 0, 6))


@pytest.mark.parametrize("block", [1, 400, 10**9])
def test_pixels_outside_are_named_with_their_rows_wherever_they_are(block, monkeypatch):
    monkeypatch.setattr(spaces, "BLOCK", block)
    x = torch.rand(9, *SHAPE)
    assert check_images(x) is x
    for value, got in (
        (-0.5, "from -0.5 to"),
        (255.0, "to 255"),
        (torch.nan, "from nan to nan"),
        (torch.inf, "to inf"),
    ):
        bad = x.clone()
        bad[:, :, 0], bad[:, :, 1] = 0, 1
        bad[7, 1, 2, 3] = value
        with pytest.raises(InputError, match=rf"images: got pixels .*{got}.* at rows \[7\]; expected .*in \[0, 1\]"):
            check_images(bad, name="images")
    x[[2, 4, 5, 6, 7, 8]] += 1
    monkeypatch.setattr(spaces, "BLOCK", 10**9)
    with pytest.raises(InputError, match=r"at rows \[2, 4, 5, 6, 7\]"):
        check_images(x)


@pytest.mark.parametrize("shape", [None, (28, 28, 3), (28, 28, 1)])
def test_channels_last_are_refused_whatever_shape_is_asked_for(shape):
    x = torch.zeros(2, *(shape or (28, 28, 1)))
    with pytest.raises(InputError, match=r"channels last; .*x\.permute\(0, 3, 1, 2\)"):
        check_images(x, shape)
    assert check_images(x.permute(0, 3, 1, 2)).shape[2:] == (28, 28)


@pytest.mark.parametrize("shape", [(4, 7, 3), (12, 1, 1), (12, 5, 2), (5, 1, 3)])
def test_few_channels_and_vectors_are_no_channels_last(shape):
    assert check_images(torch.zeros(2, *shape), shape).shape == (2, *shape)


def test_bytes_of_0_and_1_are_refused_and_what_to_pass_is_taken():
    x = bytes_of(1)
    with pytest.raises(InputError, match=r"x: got uint8 images of 0 and 1 alone; .*x \* 255 or x\.float\(\)"):
        check_images(x)
    for fine in (x * 255, x.float(), bytes_of(0), bytes_of(2), x[-1:, -1:, -7:, -1:]):
        check_images(fine)


@pytest.mark.parametrize(("top", "at", "blocks"), [(255, 0, 1), (255, 3, 4), (1, 4, 5)])
def test_a_set_of_bytes_is_read_once_at_most(top, at, blocks, monkeypatch):
    read, split = [], spaces._blocks
    monkeypatch.setattr(spaces, "BLOCK", 1)
    monkeypatch.setattr(spaces, "_blocks", lambda x: (read.append(len(part)) or part for part in split(x)))
    x = torch.zeros(5, *SHAPE, dtype=torch.uint8)
    x[at, 0, 0, 0] = top
    if top == 1:
        with pytest.raises(InputError, match="0 and 1 alone"):
            check_images(x)
    else:
        check_images(x)
    assert read == [1] * blocks


def made(n=6, n_test=4, binary=False, **changes):
    """The fields of a small set of three classes, or of three binary labels."""
    x, y = torch.randint(0, 256, (n + n_test, *SHAPE), dtype=torch.uint8), torch.arange(n + n_test) % 3
    y = torch.stack([y == 0, y == 1, y == 2], 1).float() if binary else y
    fields = {"x": x[:n], "y": y[:n], "x_test": x[n:], "y_test": y[n:]}
    return {"name": "made", "label_names": ("a", "b", "c"), **fields, **changes}


@pytest.mark.parametrize("binary", [False, True])
def test_labels_may_be_unknown_in_either_part_of_a_set(binary):
    fields = made(binary=binary)
    for name in ("y", "y_test"):
        fields[name] = fields[name].clone()
        fields[name][1:3] = torch.nan if binary else -1
    loaded = data.ImageData(**fields)
    assert loaded.labels == (Binary(3) if binary else Classes(3)) and loaded.x_shape == SHAPE
    for name in ("y", "y_test"):
        torch.testing.assert_close(getattr(loaded, name), fields[name], equal_nan=True, check_dtype=False)
    torch.testing.assert_close(loaded.hold_out(4).y_test, loaded.y[2:], equal_nan=True)
    nothing = torch.full_like(fields["y"], torch.nan if binary else -1)
    assert len(data.ImageData(**{**fields, "y": nothing}).y) == 6


def test_a_set_of_arrays_and_lists_is_one_of_tensors():
    fields = made()
    arrays = {name: v.numpy() for name, v in fields.items() if isinstance(v, torch.Tensor)}
    loaded = data.ImageData("made", ["a", "b", "c"], **{**arrays, "y": arrays["y"].astype(np.uint8)})
    assert loaded.label_names == ("a", "b", "c") and loaded.y.dtype == torch.int64
    for name in arrays:
        assert torch.equal(getattr(loaded, name), fields[name])
    assert data.ImageData(**{**fields, "y_test": fields["y_test"].tolist()}).y_test.tolist() == [0, 1, 2, 0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": None}, "x: got NoneType"),
        ({"x": torch.zeros(6, 3, 8, 7).byte()}, r"x_test: got shape \(4, 3, 8, 6\); expected .*\(B, 3, 8, 7\)"),
        ({"x_test": torch.zeros(4, 3, 8, 7).byte()}, r"x_test: got shape \(4, 3, 8, 7\); expected .*\(B, 3, 8, 6\)"),
        ({"x_test": torch.full((4, *SHAPE), 2.0)}, "x_test: got pixels from 2 to 2"),
        ({"x_test": bytes_of(1, 4)}, "x_test: got uint8 images of 0 and 1"),
        ({"y": torch.arange(5) % 3}, "x, y: got 6 images and 5 labels"),
        ({"y_test": torch.arange(5) % 3}, "x_test, y_test: got 4 images and 5 labels"),
        ({"y": torch.arange(6)}, r"y: got \[3, 4, 5\] at rows \[3, 4, 5\]; expected .* 0 to 2"),
        ({"y_test": torch.tensor([0, 1, -2, 2])}, r"y_test: got \[-2\]"),
        ({"y_test": torch.zeros(4, 3)}, "y_test: got dtype torch.float32"),
        ({"y": torch.zeros(6, 2)}, r"y: got shape \(6, 2\); expected a float tensor \(B, 3\)"),
        ({"y": torch.tensor([True] * 6)}, "y: got dtype torch.bool"),
        ({"x_test": torch.zeros(0, *SHAPE), "y_test": torch.arange(0)}, "x_test, y_test: got 0 images"),
        ({"label_names": ("a", "b", "a")}, "label_names: got .*different names"),
        ({"label_names": "abc"}, "label_names: got 'abc'"),
        ({"label_names": (0, 1, 2)}, "label_names: got"),
        ({"strengths": torch.zeros(6, 3)}, r"strengths: got shape \(6, 3\); expected the labels', \(6,\)"),
        ({"strengths_test": torch.zeros(3)}, "strengths_test: got shape"),
    ],
)
def test_a_set_that_does_not_fit_together_is_refused_before_anything_is_trained(changes, message):
    with pytest.raises(InputError, match=message):
        data.ImageData(**made(**changes))


@pytest.mark.parametrize("num_rows", [0, 6, 2.5, True])
def test_rows_held_out_are_counted(num_rows):
    with pytest.raises(InputError, match=f"num_rows: got {num_rows}; expected"):
        data.ImageData(**made()).hold_out(num_rows)
