"""Data of one's own: folders of images with classes or a csv, and what becomes of columns."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pyro_semivae import CCVAE, data
from pyro_semivae.data.columns import read_columns, site_name
from pyro_semivae.errors import InputError
from pyro_semivae.nn import MLPs
from pyro_semivae.spaces import Binary, Classes, Counts, Images, Real, Vectors
from pyro_semivae.tasks import classify
from pyro_semivae.train import fit


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PYRO_SEMIVAE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


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
        with pytest.raises(InputError, match=r"cat/9\.png: got an image outside of the folders of training and test"):
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
    with pytest.raises(InputError, match=r"e\.png: cannot be read: .*accepted are JPEG and PNG"):
        data.load_folder(folder, size=16)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,a\n0.png,1\nnone.png,2\n", r"labels\.csv: line 3, file: 'none\.png' is no image"),
        ("file,a\n0.png,1\n,2\n", r"line 3, file: '' is no image"),
        ("file,a\n0.png,1\n\nimages/0,2\n", r"line 4, file: got 'images/0' again, as in line 2"),
        ("file,a\n0.png,1\n1.png\n", r"line 3: got 1 cells; the header has 2"),
        ("a,b\n1,x\n7,y\n", r"got the columns 'a', 'b'; accepted is one that names the images of .*images/0\.png"),
        ("file,a,a\n0.png,1,2\n", r"line 1: got the column names .*accepted are different"),
        ("file,a,\n0.png,1,2\n", r"line 1: got the column names .*accepted are different"),
        ("file,a b,A-B\n0.png,1,2\n", r"columns: got 'a b' and 'A-B', both of which become the site 'a_b'"),
        ("file,a\n0.png,\n1.png,NaN\n", r"a: got a column without any value"),
        ("file,a\n0.png,one\n1.png,one\n", r"a: got one class alone, 'one'"),
        ("file,a\n0.png,7\n1.png,7\n", r"a: got one class alone, 7"),
        ("file,a,split\n0.png,1,train\n1.png,0,tes\n", r"split: labels\.csv, line 3: got 'tes'"),
        ("file,a,split\n0.png,1,train\n1.png,0,train\n", r"split: got 6 train, 0 test, 0 val rows"),
        ("file,a\n0.png,0\n1.png,-1\n", r"a: got -1 and other whole numbers; accepted are empty cells"),
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
    with pytest.raises(InputError, match=r"path: .*: got none; accepted are JPEG and PNG"):
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
    with pytest.raises(InputError, match=r"b\.csv: this is no text in UTF-8"):
        data.load_folder(folder, folder / "b.csv")


@pytest.mark.parametrize("test", [0, 1.0, 4, -1, True, None, "some", 0.95])
def test_there_are_rows_of_training_and_test(folder, test):
    with_csv(folder, "file,pet\n0,cat\n1,dog\n2,cat\n3,dog\n")
    with pytest.raises(
        InputError, match=r"test: got .*of the 4 rows that have a label, or .*below 4: there is one test"
    ):
        data.load_folder(folder, test=test)


def test_what_becomes_of_columns():
    nan = torch.nan
    given = {
        "text": ["b", " a ", "NULL", "b"],
        "truth": ["true", "False", "?", "1"],
        "ones": ["1", "", "1", "NA"],
        "digit": ["10", "9", "N/A", "10.0"],
        "half": ["0.5", "1", "nan", "2"],
        "objects": [1.5, None, nan, 2],
        "flags": np.array([True, False, True, True]),
        "integers": np.array([3, -1, 0, 3]),
        "signed": np.array([-1, -2, 0, 3]),
        "bytes": np.array([b"u", b"v", b"", b"u"]),
        "many": np.array([[0, 1], [-1, 1], [1, 1], [0, 0]]),
        "tensor": torch.tensor([[0.5, 1], [nan, 1], [1, 1], [0, 0]]),
    }
    found = read_columns(given)
    expected = {
        "text": (Classes(2), ("a", "b"), [1, 0, -1, 1]),
        "truth": (Binary(1), ("truth",), [[1], [0], [nan], [1]]),
        "ones": (Binary(1), ("ones",), [[1], [nan], [1], [nan]]),
        "digit": (Classes(2), ("9", "10"), [1, 0, -1, 1]),
        "half": (Real(1), ("half",), [[0.5], [1], [nan], [2]]),
        "objects": (Real(1), ("objects",), [[1.5], [nan], [nan], [2]]),
        "flags": (Binary(1), ("flags",), [[1], [0], [1], [1]]),
        "integers": (Classes(2), ("0", "3"), [1, -1, 0, 1]),
        "signed": (Real(1), ("signed",), [[-1], [-2], [0], [3]]),
        "bytes": (Classes(2), ("u", "v"), [0, 1, -1, 0]),
        "many": (Binary(2), ("many 0", "many 1"), [[0, 1], [nan, 1], [1, 1], [0, 0]]),
        "tensor": (Real(2), ("tensor 0", "tensor 1"), [[0.5, 1], [nan, 1], [1, 1], [0, 0]]),
    }
    for site, (space, names, values) in expected.items():
        column = found[site]
        assert (column.space, column.names) == (space, names), site
        torch.testing.assert_close(column.values, torch.tensor(values).to(column.values), equal_nan=True, msg=site)
        assert column.values.dtype == (torch.int64 if isinstance(space, Classes) else torch.get_default_dtype())
    assert read_columns({"n": np.arange(20)})["n"].space == Classes(20)
    assert read_columns({"n": np.arange(21)})["n"].space == Real(1)


def test_kinds_say_otherwise():
    given = {"Digit": ["0", "1", ""], "size": [1, 2, 3], "id": ["a", "b", "c"], "age": [0.5, 1.5, 0.5]}
    found = read_columns(given, {"digit": "class", "size": "data", "id": "ignore", "age": "class"})
    assert {site: column.space for site, column in found.items()} == {
        "digit": Classes(2),
        "size": Vectors(1),
        "age": Classes(2),
    }
    assert found["age"].names == ("0.5", "1.5") and found["digit"].values.tolist() == [0, 1, -1]
    assert read_columns(given, {"size": "real"})["size"].space == Real(1)


@pytest.mark.parametrize(
    ("given", "kinds", "message"),
    [
        ({"a": ["1", "x"]}, {"a": "real"}, "a: row 1: got 'x'; accepted are numbers"),
        ({"a": ["1", "2"]}, {"a": "binary"}, "a: row 1: got 2.0; accepted are 0, 1 and missing"),
        ({"a": ["1", "2"]}, {"b": "binary"}, "kinds: got the column 'b'; accepted are 'a'"),
        ({"a": ["1", "2"]}, {"a": "vector"}, "kinds: got 'vector' for 'a'; accepted are 'class', "),
        ({"a": ["1", "2"]}, ["a"], "kinds: got .*accepted is a mapping"),
        ({"a": [str(i) + "a" for i in range(30)]}, None, "a: got 30 different texts in 30 cells, such as '0a'"),
        ({"a": np.array([1, -1, 1])}, None, "a: got -1 and 1 alone; accepted are 0 and 1"),
        ({"a": np.array([1.0, -1, 0])}, None, "a: got -1 and other whole numbers"),
        ({"a": np.array([2.0, -1, 0])}, {"a": "class"}, "a: got -1 and other whole numbers"),
        ({"a": np.zeros((3, 2, 2))}, None, r"a: got float64 of shape \(3, 2, 2\)"),
        ({"a": np.zeros((3, 2))}, {"a": "class"}, r"a: got shape \(3, 2\); accepted as classes are \(N,\)"),
        ({"a": [["u", "v"], ["u", "w"]]}, None, r"a: got texts of shape \(2, 2\)"),
        ({"a": [[1, 2], [3]]}, None, "a: got no array"),
        ({"a": [1j, 2j]}, None, "a: got complex128"),
        ({"a": ["0.5", "1e400"]}, None, "a: row 1: got inf; accepted are numbers up to 1.8e.308"),
        ({"a": np.array([[0.5, 1], [2, -np.inf]])}, None, r"a: row 1: got \[ *2. -inf\]; accepted are numbers up to"),
        ({"a": np.array([1.0, np.inf])}, {"a": "class"}, "a: row 1: got inf"),
    ],
)
def test_bad_columns_are_named(given, kinds, message):
    with pytest.raises(InputError, match=message):
        read_columns(given, kinds)


def test_a_matrix_of_one_column_is_a_column():
    (found,) = read_columns({"y": torch.tensor([[2], [0], [-1], [3]])}).values()
    assert found.space == Classes(3) and found.values.tolist() == [1, 0, -1, 2]
    (found,) = read_columns({"pet": np.array([["cat"], ["dog"], [None]], dtype=object)}).values()
    assert found.names == ("cat", "dog") and found.values.tolist() == [0, 1, -1]
    (found,) = read_columns({"tame": np.array([[1.0], [np.nan]])}).values()
    assert found.space == Binary(1) and found.names == ("tame",) and found.values.shape == (2, 1)


def test_numbers_that_a_float_cannot_tell_apart_are_noted(capsys):
    """Times of one day, in seconds since 1970, are 128 seconds apart in float32."""
    torch.set_default_dtype(torch.float32)
    read_columns({"a": [1.0e9 + 1e4 * i for i in range(9)], "c": [0.1, 0.1, 0.1], "s": [0.1, 0.2, None]}, {"a": "real"})
    assert capsys.readouterr().err == ""
    read_columns({"at": ["1764000000.5", "", "1764000100", "1764000200"]})
    assert "NOTE: at: numbers about 1.764e+09 are rounded, by up to 56, where" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"a: row 1: got 1e\+39; accepted are numbers up to 3.4e.38"):
        read_columns({"a": ["0.5", "1e39"]})


def test_names_of_sites():
    assert site_name("  Grösse ") == "grösse" and site_name("_a__b_") == "a__b" and site_name("x") == "x_"
    assert site_name("Z") == "z_"
    assert site_name("lambda") == "lambda_" and site_name("Ⅳ 2") == "iv_2" and site_name("1") == "_1"


def pets(**labels):
    x = torch.rand(4, 1, 8, 8)
    return data.load_arrays({"x": x, "x_test": x, **labels, **{f"{k}_test": v for k, v in labels.items()}})


def test_one_label_of_a_table():
    table = pets(
        **{"Pet kind": ["cat", "dog", "", "dog"], "b": [1, 0, 0, -1], "a": [0, 1, 1, 1], "age": [0.5, 1, 2, 3]}
    )
    for one in (table.labelled_by(), table.labelled_by("pet_kind"), table.labelled_by("Pet kind")):
        assert one.labels == Classes(2) and one.label_names == ("cat", "dog") and one.y.tolist() == [0, 1, -1, 1]
    assert table.labelled_by("b", "a").y[:2].tolist() == [[1, 0], [0, 1]]
    two = table.labelled_by("a", "b")
    assert two.label_names == ("a", "b") and two.labels == Binary(2) and two.y[:3].tolist() == [[0, 1], [1, 0], [1, 0]]
    assert two.y[3].isnan().tolist() == [False, True] and two.y_test.shape == (4, 2)
    assert table.labelled_by("b").labels == Binary(1)
    both = pets(a=[0, 1, 1, 1], more=[[1, 0], [0, 0], [1, 1], [0, 1]])
    assert both.labelled_by().label_names == ("a", "more 0", "more 1")
    listed = r"The labels of arrays: pet_kind \(class\), b \(binary\), a \(binary\), age \(real\)"
    for columns, got in [
        (("age",), r"'age' \(real\)"),
        (("a", "pet_kind"), r"'a' \(binary\), 'pet_kind' \(class\)"),
        (("a", "a"), r"'a' \(binary\), 'a' \(binary\)"),
        (("c",), "'c'"),
        ((3,), r"\(3,\)"),
    ]:
        with pytest.raises(InputError, match=f"labelled_by: got {got}; .*{listed}"):
            table.labelled_by(*columns)
    assert pets(a=[0, 1, 1, 1], age=[0.5, 1, 2, 3]).labelled_by().label_names == ("a",)
    with pytest.raises(InputError, match="labelled_by: got no label; "):
        pets(a=[0.5, 1.5, 1, 1], age=[0.5, 1, 2, 3]).labelled_by()
    with pytest.raises(InputError, match="labelled_by: the data are Vectors"):
        data.load_arrays({"x": torch.rand(4, 3), "a": [0, 1, 1, 1]}).labelled_by()


def test_tables_are_checked():
    x, y = torch.rand(3, 1, 4, 4), [0, 1, -1]
    spaces, names, rows = {"x": Images(1, 4, 4), "y": Classes(2)}, {"y": ("a", "b")}, {"x": x, "y": y}
    assert data.Table("made", spaces, names, rows, rows).train["y"].dtype == torch.long
    for change, message in [
        ({"spaces": {"y": Classes(2), "x": Images(1, 4, 4)}}, "spaces: got y, x; accepted are sites of data"),
        ({"spaces": {"x": Images(1, 4, 4), "y": Classes(2), "v": Vectors(2)}}, "spaces: got x, y, v"),
        ({"spaces": {"x": 3}}, "spaces: got {'x': 3}"),
        ({"spaces": {}}, "spaces: got "),
        ({"names": {}}, r"names: got those of \[\]; accepted are those of the labels \['y'\]"),
        ({"names": {"y": ("a",)}}, "names.*got 1 names"),
        ({"names": {"y": ("a", "a")}}, "names.*got 2 names"),
        ({"train": {"x": x}}, r"train: got values of \['x'\]"),
        ({"test": {"x": x, "y": [0, 1]}}, "test: got rows: 3 of x, 2 of y"),
        ({"test": {"x": x[:0], "y": torch.zeros(0, dtype=torch.long)}}, "test: got rows: 0 of x, 0 of y"),
        ({"test": {"x": x, "y": [0, 1, 2]}}, r"test\['y'\]: got \[2\] at rows \[2\]"),
    ]:
        given = {"spaces": spaces, "names": names, "train": rows, "test": rows, **change}
        with pytest.raises(InputError, match=message):
            data.Table("made", **given)


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
    accepted = r"accepted are a folder of JPEG or PNG images, and \.npz and \.npy files"
    (tmp_path / "a.zip").write_text("")
    for path, got in [(tmp_path / "none", "which is not there"), (tmp_path / "a.zip", r"a \.zip file")]:
        with pytest.raises(InputError, match=f"dataset: got .*{got}; {accepted}"):
            data.load_path(path)
    with pytest.raises(InputError, match=r"size: got 8 for .*accepted is None"):
        data.load_path(tmp_path / "counts.npz", size=8)
