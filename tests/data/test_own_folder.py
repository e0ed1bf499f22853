"""Folders of images: classes by folders, a csv of labels, the split."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pyro_semivae import CCVAE, data
from pyro_semivae.errors import InputError
from pyro_semivae.nn import MLPs
from pyro_semivae.spaces import Binary, Classes, Counts, Images, Real
from pyro_semivae.tasks import classify
from pyro_semivae.train import fit

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "pets"


def picture(path, level, size=(32, 32), mode="RGB"):
    """An image of (H, W) whose pixels are all of one level: which one it is can be told from a row of the data."""
    path.parent.mkdir(parents=True, exist_ok=True)
    colours = (level,) * 3 if mode == "RGB" else level
    Image.new(mode, size[::-1], colours).save(path)


def levels(x):
    return x[:, 0, 0, 0].tolist()


def with_csv(folder, text, count=6):
    for i in range(count):
        picture(folder / "images" / f"{i}.png", 6 * i)
    (folder / "labels.csv").write_text(text)


PETS = """file,Haarfarbe (Stufe),age,paws,sleeps,split
images/0.png,sehr größer Kater,1.5,4,true,train
images/1.png,dark,NA,3,,train
images/2.png, sehr größer Kater ,-2,3,FALSE,train
images/3.png,,31,n/a,true,test
images/4.png,dark,?,4,false,train
"""


def test_a_folder_with_a_csv(folder):
    with_csv(folder, PETS)
    table = data.load_folder(folder)
    assert table.name == "pets"
    sites = {"haarfarbe_stufe": Classes(2), "age": Real(1, (-0.25,), (1.75,)), "paws": Classes(2), "sleeps": Binary(1)}
    assert table.spaces == {"x": Images(3, 32, 32), **sites} and [*table.spaces] == ["x", *sites]
    names = {
        "haarfarbe_stufe": ("dark", "sehr größer Kater"),
        "age": ("age",),
        "paws": ("3", "4"),
        "sleeps": ("sleeps",),
    }
    assert table.names == names
    assert levels(table.train["x"]) == [0, 6, 12, 24, 30] and levels(table.test["x"]) == [18]
    nan = torch.nan
    rows = {"haarfarbe_stufe": [1, 0, 1, 0, -1], "paws": [1, 0, 0, 1, -1]}
    assert {site: table.train[site].tolist() for site in rows} == rows
    expected = {"age": [1.5, nan, -2, nan, nan], "sleeps": [1, nan, 0, 0, nan]}
    for site, values in expected.items():
        torch.testing.assert_close(table.train[site], torch.tensor(values)[:, None], equal_nan=True)
    assert table.test["haarfarbe_stufe"].tolist() == [-1] and table.test["age"].tolist() == [[31]]
    assert "haarfarbe_stufe  class: dark, sehr größer Kater; known in 4 of 5 training rows, 0 of 1 test" in str(table)
    assert table.train["x"].dtype == torch.uint8


def test_files_may_be_named_by_their_names_alone_in_a_column_of_any_name(folder):
    lines = ["name;Bild;nr", "Ann;2;7", "Bob;./images/4;8.5", "Ann;0.png;-1"]
    with_csv(folder, "\ufeff" + "\n\n".join(lines) + "\n")
    table = data.load_folder(folder, test=1)
    assert table.names == {"name": ("Ann", "Bob"), "nr": ("nr",)}
    x = torch.cat([table.train["x"], table.test["x"]])
    y, nr = (torch.cat([part[site] for part in (table.train, table.test)]) for site in ("name", "nr"))
    found = {level: (label, number) for level, label, number in zip(levels(x), y.tolist(), nr.tolist(), strict=True)}
    assert found[12] == (0, [7.0]) and found[24] == (1, [8.5]) and found[0] == (0, [-1.0]) and found[6][0] == -1


def test_a_column_that_looks_like_files_is_none(folder):
    with_csv(folder, "digit,Bild\n" + "".join(f"{i % 3},{i}\n" for i in range(6)))
    table = data.load_folder(folder)
    assert table.names == {"digit": ("0", "1", "2")}
    with_csv(folder, "Bild,age\n1,0.5\n,\n2,1.5\n,\n")
    assert data.load_folder(folder, test=1).spaces["age"].size == 1, "lines of empty cells alone are none"
    with_csv(folder, "Bild,age\n1,0.5\n1,1.5\n")
    with pytest.raises(InputError, match=r"line 3, Bild: got '1' again, as in line 2"):
        data.load_folder(folder)


def test_the_drawn_test_rows_have_labels_and_the_seed_draws_them(folder):
    text = "file,pet\n" + "".join(f"{i},{'cat' if i % 4 else 'dog'}\n" for i in range(20))
    with_csv(folder, text, 40)
    table = data.load_folder(folder, test=0.4)
    assert len(table.test["x"]) == 8 and table.test["pet"].bincount().tolist() == [6, 2], "as among the labelled rows"
    assert len(table.train["x"]) == 32 and table.train["pet"].eq(-1).sum() == 20
    rows = [level // 6 for level in levels(table.train["x"])]
    assert table.files["train"] == tuple(f"images/{row}.png" for row in rows)
    assert [f"images/{level // 6}.png" for level in levels(table.test["x"])] == [*table.files["test"]]
    assert rows == sorted(rows, key=str), "the training rows keep the order of the files"
    assert all(y in (-1, int(row % 4 == 0)) for row, y in zip(rows, table.train["pet"].tolist(), strict=True))
    again, other = data.load_folder(folder, test=0.4), data.load_folder(folder, test=0.4, seed=1)
    assert levels(again.test["x"]) == levels(table.test["x"]) != levels(other.test["x"])
    for seed in range(5):
        table = data.load_folder(folder, test=4, seed=seed)
        assert table.test["pet"].tolist().count(0) == 3 and table.test["pet"].tolist().count(1) == 1


def test_training_and_test_images_are_parts_of_one_memory_mapped_file(folder, cache):
    with_csv(folder, PETS)
    table = data.load_folder(folder)
    x, x_test = table.train["x"], table.test["x"]
    assert x.untyped_storage().data_ptr() == x_test.untyped_storage().data_ptr()
    (path,) = cache.iterdir()
    assert str(path) in Path("/proc/self/maps").read_text()
    data.load_folder(folder)
    assert len([*cache.iterdir()]) == 1, "found again"
    middle = folder / "images" / "1.png"
    picture(middle, 99)
    os.utime(middle, (1, 1))
    assert levels(data.load_folder(folder).train["x"])[1] == 99, "a file that is neither first nor last has changed"


def test_folders_of_classes(folder):
    for i, name in enumerate(["süße Katze", "alter Hund", "süße Katze", "alter Hund", "alter Hund"]):
        picture(folder / name / "deeper" / f"{i}.JPG", 20 * i, (6, 9), "L")
    picture(folder / "unknown.jpeg", 200, (6, 9), "L")
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "a.png").write_text("no image")
    table = data.load_folder(folder, test=2)
    assert table.spaces == {"x": Images(1, 6, 9), "y": Classes(2)}
    assert table.names == {"y": ("alter Hund", "süße Katze")}
    assert sorted(table.test["y"].tolist()) == [0, 1]
    x, y = (torch.cat([table.train[site], table.test[site]]) for site in ("x", "y"))
    found = dict(zip(levels(x), y.tolist(), strict=True))
    assert {round(level / 20): label for level, label in found.items()} == {0: 1, 1: 0, 2: 1, 3: 0, 4: 0, 10: -1}


@pytest.mark.parametrize("held_out", ["test", "val", "Valid", "validation"])
def test_folders_of_training_and_test(folder, held_out, capsys):
    for i, place in enumerate(["train/cat", "train/dog", "train", f"{held_out}/dog", f"{held_out}/cat"]):
        picture(folder / place / f"{i}.png", 9 * i)
    table = data.load_folder(folder)
    assert levels(table.train["x"]) == [18, 0, 9] and table.train["y"].tolist() == [-1, 0, 1]
    assert levels(table.test["x"]) == [36, 27] and table.test["y"].tolist() == [0, 1]
    assert "left out" not in capsys.readouterr().err
    if held_out == "test":
        picture(folder / "val" / "cat" / "9.png", 9)
        assert levels(data.load_folder(folder).train["x"]) == [18, 0, 9]
        assert "NOTE: 1 rows of validation are left out" in capsys.readouterr().err
        picture(folder / "cat" / "9.png", 9)
        with pytest.raises(InputError, match=r"cat/9\.png: got an image outside the training and test folders"):
            data.load_folder(folder)


def test_images_alone(folder):
    for i in range(5):
        picture(folder / f"{i}.png", 9 * i, (7, 5))
    (folder / "other.gif").write_text("")
    table = data.load_folder(folder, size=(4, 6))
    assert table.spaces == {"x": Images(3, 4, 6)} and table.names == {}
    assert len(table.train["x"]) == 4 and len(table.test["x"]) == 1
    with pytest.raises(InputError, match=r"labelled_by: got no label; .*The labels of pets: none"):
        table.labelled_by()


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_images_that_are_not_square_are_as_they_were(folder, mode):
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (3, 5, 9, 3), np.uint8)
    pixels = pixels if mode == "RGB" else pixels[..., 0]
    for i in range(3):
        Image.fromarray(pixels[i]).save(folder / f"{i}.png")
    table = data.load_folder(folder, test=1)
    x = sorted([*table.train["x"].tolist(), *table.test["x"].tolist()])
    assert x == sorted((pixels.transpose(0, 3, 1, 2) if mode == "RGB" else pixels[:, None]).tolist())


def test_sizes_and_colours_are_read_from_the_headers(folder):
    picture(folder / "a.png", 10, (7, 5), "L")
    picture(folder / "b.png", 20, (7, 5), "L")
    assert data.load_folder(folder, test=1).spaces["x"] == Images(1, 7, 5)
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.new("RGB", (7, 5), (30, 30, 30)).save(folder / "c.jpg", exif=exif)
    assert data.load_folder(folder, test=1).spaces["x"] == Images(3, 7, 5)
    picture(folder / "d.png", 30, (8, 5))
    sizes = r"size: got [abc]\.\w+ of 7 x 5 and d\.png of 8 x 5 \(H x W\)|size: got d\.png of 8 x 5 and [abc]"
    with pytest.raises(InputError, match=sizes):
        data.load_folder(folder)
    assert data.load_folder(folder, size=16).spaces["x"] == Images(3, 16, 16)
    (folder / "e.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"e\.png: cannot be read: .*expected JPEG and PNG"):
        data.load_folder(folder, size=16)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,a\n0.png,1\nnone.png,2\n", r"labels\.csv: line 3, file: 'none\.png' is no image"),
        ("file,a\n0.png,1\n,2\n", r"line 3, file: '' is no image"),
        ("file,a\n0.png,1\n\nimages/0,2\n", r"line 4, file: got 'images/0' again, as in line 2"),
        ("file,a\n0.png,1\n1.png\n", r"line 3: got 1 cells; the header has 2"),
        ("a,b\n1,x\n7,y\n", r"got the columns 'a', 'b'; expected one that names the images of .*images/0\.png"),
        ("file,a,a\n0.png,1,2\n", r"line 1: got the column names .*expected different"),
        ("file,a,\n0.png,1,2\n", r"line 1: got the column names .*expected different"),
        ("file,a b,A-B\n0.png,1,2\n", r"columns: got 'a b' and 'A-B', both of which become the site 'a_b'"),
        ("file,a\n0.png,\n1.png,NaN\n", r"a: got a column without any value"),
        ("file,a\n0.png,one\n1.png,one\n", r"a: got one class alone, 'one'"),
        ("file,a\n0.png,7\n1.png,7\n", r"a: got one class alone, 7"),
        ("file,a,split\n0.png,1,train\n1.png,0,tes\n", r"split: labels\.csv, line 3: got 'tes'"),
        ("file,a,split\n0.png,1,train\n1.png,0,train\n", r"split: got 6 train, 0 test, 0 val rows"),
        ("file,a\n0.png,0\n1.png,-1\n", r"a: got -1 and other whole numbers; expected empty cells"),
        ("file;a\n0.png;0,5\n1.png;1,25\n", r"a: got numbers with a decimal comma, such as '0,5'"),
        ("file,€\n0.png,1\n1.png,2\n", r"columns: got the name '€'"),
        ("", r"got no rows"),
        ("file,a\n", r"got no rows"),
    ],
)
def test_a_bad_csv_is_named(folder, text, message):
    with_csv(folder, text)
    with pytest.raises(InputError, match=message):
        data.load_folder(folder)


def test_bad_folders_are_named(folder, tmp_path):
    with pytest.raises(InputError, match="path: no folder"):
        data.load_folder(folder)
    folder.mkdir()
    with pytest.raises(InputError, match=r"path: .*: got none; expected JPEG and PNG"):
        data.load_folder(folder)
    (folder / "a.gif").write_text("")
    with pytest.raises(InputError, match=r"got 1 images of other formats, such as a\.gif"):
        data.load_folder(folder)
    picture(folder / "one" / "0.png", 1)
    with pytest.raises(InputError, match="y: got one class alone, 'one'"):
        data.load_folder(folder)
    picture(folder / "two" / "0.png", 1)
    for name in ("a.csv", "b.csv"):
        (folder / name).write_text("file,pet\n0,cat\none/0,dog\n")
    with pytest.raises(InputError, match=r"labels: got several csv files in .*: a\.csv, b\.csv"):
        data.load_folder(folder)
    with pytest.raises(InputError, match=r"a\.csv: line 2, file: '0' names 2 images: one/0\.png, two/0\.png"):
        data.load_folder(folder, folder / "a.csv")
    with pytest.raises(InputError, match=r"labels: no file .*c\.csv"):
        data.load_folder(folder, folder / "c.csv")
    (folder / "b.csv").write_bytes(b"\xff\xfe1")
    with pytest.raises(InputError, match=r"b\.csv: cannot be read .*; expected text in UTF-8"):
        data.load_folder(folder, folder / "b.csv")


@pytest.mark.parametrize("test", [0, 1.0, 4, -1, True, None, "some", 0.95])
def test_there_are_rows_of_training_and_test(folder, test):
    with_csv(folder, "file,pet\n0,cat\n1,dog\n2,cat\n3,dog\n")
    with pytest.raises(
        InputError,
        match=r"test: got .*of the 4 rows that have a label, or .*below 4, so that there",
    ):
        data.load_folder(folder, test=test)


def test_a_folder_trains_a_model_that_classifies(folder):
    for i in range(24):
        picture(folder / ("dark" if i % 2 else "bright") / f"{i}.png", 30 if i % 2 else 220)
    pictures = data.load_folder(folder, test=6).labelled_by()
    torch.manual_seed(0)
    vae = CCVAE(pictures.x_shape, pictures.labels, networks=MLPs((8,)))
    history = fit(vae, pictures.x, pictures.y, epochs=1, batch_size=6, progress=False)
    assert len(history) == 1
    probs = classify(vae, pictures.x_test)
    assert probs.shape == (6, 2) and torch.allclose(probs.sum(1), torch.ones(6))


def test_load_path(folder, tmp_path):
    picture(folder / "a" / "0.png", 10)
    picture(folder / "b" / "0.png", 20)
    assert data.load_path(folder, size=8, test=1).spaces["x"] == Images(3, 8, 8)
    np.savez(tmp_path / "counts.npz", x=np.arange(12).reshape(4, 3), y=["a", "b", "b", "a"])
    table = data.load_path(str(tmp_path / "counts.npz"), test=1)
    assert table.spaces == {"x": Counts(3), "y": Classes(2)} and table.name == "counts"
    accepted = r"expected a folder of JPEG or PNG images, and \.npz and \.npy files"
    (tmp_path / "a.zip").write_text("")
    for path, got in [(tmp_path / "none", "which is not there"), (tmp_path / "a.zip", r"a \.zip file")]:
        with pytest.raises(InputError, match=f"dataset: got .*{got}; {accepted}"):
            data.load_path(path)
    with pytest.raises(InputError, match=r"size: got 8 for .*expected None"):
        data.load_path(tmp_path / "counts.npz", size=8)
