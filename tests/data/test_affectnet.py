"""AffectNet from tiny made files in the layout of either release, well-formed and not; the alignment's arithmetic."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image

from pyro_semivae import data
from pyro_semivae.data import affectnet
from pyro_semivae.defaults import by_label, by_networks, for_data


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PYRO_SEMIVAE_CACHE", str(tmp_path / "cache"))


def picture(path, seed, size=(40, 50)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path, quality=95)


@pytest.fixture
def current(tmp_path):
    """Images 0 to 5 for training with the expressions 0 to 5, 6 and 7 for validation; 8 has no face."""
    for split, numbers in (("train_set", (0, 1, 2, 3, 4, 5, 10)), ("val_set", (6, 7))):
        (tmp_path / "AffectNet" / split / "annotations").mkdir(parents=True)
        for i in numbers:
            picture(tmp_path / "AffectNet" / split / "images" / f"{i}.jpg", i)
            np.save(tmp_path / "AffectNet" / split / "annotations" / f"{i}_exp.npy", str(i) if i % 2 else i)
    return tmp_path


def test_the_current_release(current):
    faces = data.load("affectnet", current, size=32)
    assert faces.label_names == affectnet.EXPRESSIONS and faces.x.shape == (6, 3, 32, 32)
    assert faces.y.tolist() == [0, 1, 2, 3, 4, 5] and faces.y_test.tolist() == [6, 7]
    with Image.open(current / "AffectNet/val_set/images/7.jpg") as image:
        pixels = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    np.testing.assert_array_equal(faces.x_test[1].numpy(), pixels)


def test_copies_with_a_folder_for_each_expression(current):
    folder = current / "AffectNet/train_set/images"
    for i in range(6):
        (folder / str(i)).mkdir()
        (folder / f"{i}.jpg").rename(folder / str(i) / f"{i}.jpg")
    assert sorted(data.load("affectnet", current, size=16).y.tolist()) == [0, 1, 2, 3, 4, 5]


def shape_of(seed, noise=0.0):
    """A face of 68 points, seen by another camera for each seed."""
    face = np.random.default_rng(0).normal(size=(68, 2))
    rng = np.random.default_rng(seed)
    angle, scale, centre = rng.uniform(-0.5, 0.5), rng.uniform(5, 9), rng.uniform(15, 30, 2)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return face @ turn * scale + centre + noise * rng.normal(size=face.shape)


def line(i, expression, **more):
    landmarks = ";".join(f"{value:.4f}" for value in shape_of(i, 0.2).ravel())
    row = [f"dir/{i}.jpg", "NULL", "1", "20", "20", landmarks, str(expression), "0.1", "-0.2"]
    return [more.get(name, value) for name, value in zip(affectnet.COLUMNS, row, strict=True)]


@pytest.fixture
def old(tmp_path):
    folder = tmp_path / "AffectNet"
    (folder / "Manually_Annotated_file_lists").mkdir(parents=True)
    for i in range(7):
        picture(folder / "Manually_Annotated_Images" / "dir" / f"{i}.jpg", i)
    for name, header, rows in (
        ("training", True, [(0, 0), (1, 3), (2, 7), (3, 9)]),
        ("validation", False, [(4, 1), (5, 2)]),
    ):
        with open(folder / "Manually_Annotated_file_lists" / f"{name}.csv", "w", newline="") as file:
            csv.writer(file).writerows([affectnet.COLUMNS] * header + [line(*row) for row in rows])
    return tmp_path


def test_the_old_release_is_aligned(old):
    """The image that a face is cut out of, sampled by scipy at the places where the similarity says."""
    from scipy import ndimage

    faces = data.load("affectnet", old, size=24)
    assert faces.y.tolist() == [0, 3, 7] and faces.y_test.tolist() == [1, 2] and faces.x.shape == (3, 3, 24, 24)
    folder = old / "AffectNet"
    mean = affectnet.mean_shape(affectnet.read_list(folder / "Manually_Annotated_file_lists/training.csv").landmarks)
    a, b, c, d, e, f = affectnet.alignment(np.round(shape_of(5, 0.2), 4), mean, 24)
    with Image.open(folder / "Manually_Annotated_Images/dir/5.jpg") as image:
        pixels = np.asarray(image).astype(float)
    v, u = np.mgrid[:24, :24] + 0.5
    places = [d * u + e * v + f - 0.5, a * u + b * v + c - 0.5]
    for channel in range(3):
        expected = ndimage.map_coordinates(pixels[..., channel], places, order=1, mode="nearest")
        inside = (places[0] > 1) & (places[0] < 48) & (places[1] > 1) & (places[1] < 38)
        assert inside.sum() > 100
        assert abs(faces.x_test[1, channel].numpy() - expected)[inside].max() < 1.5


def test_the_alignment_takes_position_size_and_rotation_out():
    shapes = np.stack([shape_of(i) for i in range(9)])
    mean = affectnet.mean_shape(shapes)
    assert np.allclose(mean.mean(0), 0) and np.isclose(np.linalg.norm(mean), 1)
    wide = affectnet.FACE * 50 / np.ptp(mean[:, 0])
    for shape in shapes:
        a, b, c, d, e, f = affectnet.alignment(shape, mean, 50)
        new = mean * wide + 25  # where the landmarks are to be
        back = np.stack([a * new[:, 0] + b * new[:, 1] + c, d * new[:, 0] + e * new[:, 1] + f], 1)
        assert np.allclose(back, shape)
    mirrored = shapes[0] * [-1, 1]
    a, b, _, d, e, _ = affectnet.alignment(mirrored, mean, 50)
    assert a * e - b * d > 0, "no reflection"


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        ("training", [["a", "b"]], "line 1: got 2 fields; expected 9"),
        ("training", [affectnet.COLUMNS, line(0, "x")], "line 2, expression: got 'x'"),
        ("training", [affectnet.COLUMNS, line(0, 11)], "line 2, expression: got '11'"),
        ("validation", [line(4, 1), line(4, 2)], "line 2: got dir/4.jpg again"),
        (
            "validation",
            [line(4, 1, facial_landmarks="1;2;3")],
            "line 1, facial_landmarks: got '1;2;3'; expected 68 pairs",
        ),
        ("validation", [line(4, 1, facial_landmarks=";".join(["3"] * 136))], "got 68 times the same point"),
        ("validation", [line(4, 1, facial_landmarks=";".join(["nan"] * 136))], "expected 68 pairs"),
        ("validation", [line(4, 9)], "got no image with an expression"),
        ("training", [("subDirectory_filePath", *affectnet.COLUMNS[2:], "x"), line(0, 1)], "line 1: got the columns"),
    ],
)
def test_malformed_lists_are_named(old, name, rows, message):
    path = old / "AffectNet" / "Manually_Annotated_file_lists" / f"{name}.csv"
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(rows)
    with pytest.raises(ValueError, match=message):
        data.load("affectnet", old)


@pytest.mark.parametrize(("value", "message"), [("x", "cannot be read"), (11, "got 11; expected an expression")])
def test_malformed_annotations_are_named(current, value, message):
    np.save(current / "AffectNet/train_set/annotations/3_exp.npy", value)
    with pytest.raises(ValueError, match=message):
        data.load("affectnet", current)


def test_what_is_not_there_is_said(current, tmp_path):
    (current / "AffectNet/train_set/annotations/3_exp.npy").write_bytes(b"")
    with pytest.raises(ValueError, match=r"3_exp\.npy: cannot be read"):
        data.load("affectnet", current)
    (current / "AffectNet/train_set/annotations/3_exp.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"no .*3_exp.npy for 3.jpg. AffectNet is given to members"):
        data.load("affectnet", current)
    with pytest.raises(FileNotFoundError, match=r"dataset affectnet: no .*train_set"):
        data.load("affectnet", tmp_path / "elsewhere")


def test_defaults_are_those_of_large_images_with_classes():
    assert for_data(by_label(1, 2), "affectnet") == 1 and for_data(by_networks(1, 2), "affectnet") == 2
    assert torch.tensor(0).dtype == torch.long
