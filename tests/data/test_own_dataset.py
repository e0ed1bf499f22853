"""Torch data sets, read once into a file."""

import numpy as np
import pytest
import torch
from own import file_of, images, rows_of
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset
from torchvision import transforms
from torchvision.datasets import ImageFolder

from pyro_semivae import data
from pyro_semivae.errors import InputError
from pyro_semivae.spaces import Binary, Classes, Counts, Images, Vectors

pytestmark = pytest.mark.usefixtures("cache")


class Made(Dataset):
    """Items by a function; counts how often one is read."""

    def __init__(self, size, item):
        self.size, self.item, self.reads = size, item, 0

    def __len__(self):
        return self.size

    def __getitem__(self, i):
        if not 0 <= i < self.size:
            raise IndexError
        self.reads += 1
        return self.item(i)


def level(i, size=(6, 7), mode="L"):
    return Image.new(mode, size[::-1], 10 + i if mode == "L" else (10 + i, 0, 0))


@pytest.mark.parametrize(
    ("item", "space", "dtype"),
    [
        (lambda i: (level(i), i % 3), Images(1, 6, 7), torch.uint8),
        (lambda i: (level(i, mode="RGB"), i % 3), Images(3, 6, 7), torch.uint8),
        (
            lambda i: (torch.full((3, 6, 7), 10 + i, dtype=torch.uint8), torch.tensor(i % 3)),
            Images(3, 6, 7),
            torch.uint8,
        ),
        (lambda i: (np.full((6, 7, 3), 10 + i, np.uint8), np.int64(i % 3)), Images(3, 6, 7), torch.uint8),
        (lambda i: {"x": np.full((6, 7), 10 + i, np.uint8), "y": i % 3}, Images(1, 6, 7), torch.uint8),
        (lambda i: {"pic": torch.full((1, 6, 7), 10 + i, dtype=torch.uint8), "y": i % 3}, Images(1, 6, 7), torch.uint8),
        (lambda i: (torch.full((5,), 10.0 + i, dtype=torch.double), str(i % 3)), Vectors(5), torch.float32),
        (lambda i: (torch.full((5,), 10 + i), i % 3), Counts(5), torch.float64),
    ],
)
def test_items_of_a_torch_data_set(item, space, dtype, cache):
    made = Made(12, item)
    table = data.load_dataset(made, name="made")
    assert table.spaces == {"x": space, "y": Classes(3)} and table.name == "made"
    for part, number in ((table.train, 10), (table.test, 2)):
        assert part["x"].dtype == dtype and len(part["x"]) == number
        assert part["y"].tolist() == [row % 3 for row in rows_of(part["x"])]
    assert sorted(path.name for path in cache.iterdir()) == ["dataset-made.json", "dataset-made.npy"]
    assert dtype != torch.uint8 or file_of(table.train["x"], cache / "dataset-made.npy")
    assert rows_of(table.train["x"]) == sorted(rows_of(table.train["x"]))


def test_a_torch_data_set_is_read_once(capsys):
    made = Made(12, lambda i: (level(i), None if i == 5 else i % 2))
    first = data.load_dataset(made, name="made")
    assert made.reads < 12 + 10
    made.reads = 0
    again = data.load_dataset(made, name="made")
    assert made.reads < 10 and "made anew" not in capsys.readouterr().err
    for part, other in ((first.train, again.train), (first.test, again.test)):
        assert all(torch.equal(part[site].nan_to_num(-5), other[site].nan_to_num(-5)) for site in part)
    assert first.train["y"].isnan().sum() == 1
    for options in ({"seed": 1}, {"test": 5}, {"kinds": {"y": "class"}}):
        made.reads = 0
        other = data.load_dataset(made, name="made", **options)
        assert made.reads >= 12 and "NOTE: made anew" in capsys.readouterr().err
        rows = rows_of(other.train["x"])
        assert all(
            y in (-1, row % 2) for row, y in zip(rows, other.train["y"].flatten().nan_to_num(-1).tolist(), strict=True)
        )
    for other in (Made(11, made.item), Made(12, lambda i: (level(i), i % 2 if i < 11 else 0))):
        data.load_dataset(other, name="made", **options)
        assert "NOTE: made anew" in capsys.readouterr().err


def test_a_damaged_file_of_a_torch_data_set_is_made_anew(cache, capsys):
    made = Made(12, lambda i: (level(i), i % 3))
    first = data.load_dataset(made, name="made").train["x"].clone()
    for name in ("dataset-made.npy", "dataset-made.json"):
        (cache / name).write_bytes((cache / name).read_bytes()[:-20])
        assert torch.equal(data.load_dataset(made, name="made").train["x"], first)
        assert "NOTE: made anew" in capsys.readouterr().err


def test_a_test_set_and_a_split(capsys):
    item = lambda i: {"x": level(i), "pet": "cat" if i % 2 else "dog", "split": "val" if i < 3 else "train"}  # noqa: E731
    table = data.load_dataset(Made(9, item), name="made")
    assert rows_of(table.test["x"]) == [0, 1, 2] and rows_of(table.train["x"]) == [3, 4, 5, 6, 7, 8]
    pair = lambda i: (level(i), 0.5 * i)  # noqa: E731
    table = data.load_dataset(Made(4, pair), Made(2, pair), name="other")
    assert rows_of(table.train["x"]) == [0, 1, 2, 3] and table.test["y"].tolist() == [[0], [0.5]]
    with pytest.raises(InputError, match=r"test_set: got items of shape and labels \(1, 9, 9\) and \['y'\]; expected"):
        data.load_dataset(Made(4, pair), Made(2, lambda i: (level(i, (9, 9)), 0.5)), name="other")


def test_torchvisions_sets_with_a_transform(tmp_path):
    for i in range(10):
        path = tmp_path / "pets" / ("süße Katze" if i % 2 else "alter Hund") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        level(i, (12, 9)).save(path)
    steps = [transforms.Resize((6, 7)), transforms.Grayscale(), transforms.ToTensor()]
    pets = ImageFolder(tmp_path / "pets", transforms.Compose(steps))
    table = data.load_dataset(pets, name="pets")
    assert table.spaces == {"x": Images(1, 6, 7), "y": Classes(2)} and table.names == {
        "y": ("alter Hund", "süße Katze")
    }
    assert table.train["x"].dtype == torch.float32
    for value, y in zip(table.train["x"].mul(255).round()[:, 0, 0, 0].tolist(), table.train["y"].tolist(), strict=True):
        assert int(value) % 2 == y
    some = data.load_dataset(Subset(pets, [0, 1, 2]), Subset(pets, [5, 6]), name="some")
    assert some.names["y"] == ("alter Hund", "süße Katze") and some.train["y"].tolist() == [0, 0, 0]
    assert data.load_dataset(pets, name="pets", kinds={"y": "binary"}).spaces["y"] == Binary(1)


def test_data_loaders():
    x = torch.from_numpy(images(11))
    y = torch.arange(11) % 3
    both, alone = TensorDataset(x, y), TensorDataset(x)
    loaders = [DataLoader(both, 4), DataLoader(both, batch_size=None)]
    loaders.append(DataLoader(Made(11, lambda i: {"x": x[i], "y": y[i]}), 4))
    for loader in loaders:
        table = data.load_dataset(loader, name="made")
        assert table.train["y"].tolist() == [row % 3 for row in rows_of(table.train["x"])] and len(table.test["x"]) == 2
    assert data.load_dataset(DataLoader(alone, 3), name="alone").names == {}
    assert data.load_dataset(DataLoader(Made(11, lambda i: x[i]), 3), name="alone").names == {}
    for loader in (DataLoader(both, 4, shuffle=True), DataLoader(both, 4, drop_last=True)):
        with pytest.raises(InputError, match="dataset: got a DataLoader that shuffles or drops items"):
            data.load_dataset(loader, name="made")


class Stream(IterableDataset):
    def __iter__(self):
        yield from range(3)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (Stream(), "dataset: got Stream; expected a map-style Dataset"),
        (DataLoader(Stream()), "dataset: got Stream"),
        ({"x": 1}, "dataset: got one without items|dataset: got dict"),
        (Made(0, None), "dataset: got one without items"),
        (Made(4, lambda i: (level(i), 1, 2)), r"dataset\[0\]: got 3 values; expected \(image, label\)"),
        (
            Made(4, lambda i: (level(i, (6, 6 + i // 2)), i)),
            r"dataset\[3\], x: got uint8 of shape \(1, 6, 7\); the first",
        ),
        (Made(4, lambda i: {"x": level(i), str(i // 3): 1}), r"dataset\[3\]: got \['1', 'x'\]; the first item has"),
        (Made(4, lambda i: (level(i), {i})), r"dataset\[0\], y: got set; expected a number, a text"),
        (Made(4, lambda i: ("a.png", i)), "x: got <U5 of shape"),
        (Made(4, lambda i: torch.zeros(1, 6, 7).long()), r"dataset\[0\], x: got int64 of shape \(1, 6, 7\)"),
        (Made(4, lambda i: {"a": level(i), "b": level(i)}), "data: got a of 3 dimensions, b of 3 dimensions"),
        (Made(4, lambda i: (level(i), "ab"[i > 4])), "y: got one class alone, 'a'"),
        (Made(4, lambda i: (torch.full((1, 6, 7), 2.0), i)), r"train\['x'\]: got pixels from 2 to 2"),
    ],
)
def test_bad_torch_data_sets_are_named(dataset, message, cache):
    with pytest.raises(InputError, match=message):
        data.load_dataset(dataset, name="made")
    assert not cache.exists() or not [path for path in cache.iterdir() if path.is_dir()], "nothing half is left"


def test_the_name_of_a_torch_data_set_is_one_of_a_file():
    for name in ("", "a/b", "../a", ".a", None):
        with pytest.raises(InputError, match="name: got"):
            data.load_dataset(Made(4, lambda i: (level(i), i)), name=name)
