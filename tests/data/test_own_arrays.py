"""Arrays of one's own, in memory and on disk."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from own import file_of, images, rows_of

from pyro_semivae import data
from pyro_semivae.errors import InputError
from pyro_semivae.spaces import Binary, Classes, Counts, Images, Real, Vectors

pytestmark = pytest.mark.usefixtures("cache")


def test_an_npz_with_several_labels(tmp_path):
    path = tmp_path / "made.npz"
    attributes = np.array([[0, 1], [1, np.nan]] * 5)
    names = np.array(["großer Hund", "cat", "?", "cat", "großer Hund"] * 2)
    angle = np.arange(30).reshape(10, 3) / 7
    np.savez(path, pictures=images(10), names=names, attributes=attributes, angle=angle, count=np.arange(10) % 3)
    table = data.load_arrays(path, kinds=None)
    known = table.train["angle"]
    units = Real(3, tuple(known.mean(0).tolist()), tuple(known.std(0, correction=0).tolist()))
    spaces = {"names": Classes(2), "attributes": Binary(2), "angle": units, "count": Classes(3)}
    assert table.spaces == {"x": Images(1, 6, 7), **spaces} and table.name == "made"
    assert table.names["attributes"] == ("attributes 0", "attributes 1") and table.names["names"][1] == "großer Hund"
    for part, number in ((table.train, 8), (table.test, 2)):
        rows = rows_of(part["x"])
        assert len(rows) == number and rows == sorted(rows)
        assert part["count"].tolist() == [row % 3 for row in rows]
        assert part["names"].tolist() == [[1, 0, -1, 0, 1][row % 5] for row in rows]
        torch.testing.assert_close(part["attributes"], torch.tensor(attributes[rows]), equal_nan=True)
        torch.testing.assert_close(part["angle"], torch.tensor(angle[rows]))


@pytest.mark.parametrize(
    ("x", "space"),
    [
        (np.zeros((5, 3, 8, 9), np.float32), Images(3, 8, 9)),
        (np.zeros((5, 8, 9, 3), np.uint8), Images(3, 8, 9)),
        (np.zeros((5, 8, 9, 4)), Images(4, 8, 9)),
        (torch.zeros(5, 8, 9), Images(1, 8, 9)),
        (np.arange(20).reshape(5, 4), Counts(4)),
        (np.arange(20).reshape(5, 4) - 3, Vectors(4)),
        ([[0.5, 1.5]] * 5, Vectors(2)),
    ],
)
def test_what_data_are(x, space):
    table = data.load_arrays({"x": x, "y": [0, 1, 0, 1, 1]}, test=1)
    assert table.spaces == {"x": space, "y": Binary(1)}
    assert table.train["x"].shape == (4, *space.shape)


def test_arrays_of_training_and_test():
    given = {"x_train": images(4), "x_test": images(2), "y_train": ["a", "b", "", "b"], "y_test": ["c", None]}
    table = data.load_arrays(given, name="made")
    assert table.names == {"y": ("a", "b", "c")} and rows_of(table.test["x"]) == [0, 1]
    assert table.train["y"].tolist() == [0, 1, -1, 1] and table.test["y"].tolist() == [2, -1]
    table = data.load_arrays({"x": images(4), "x_test": images(2)}, {"t": torch.arange(4) / 2, "t_test": torch.ones(2)})
    assert table.train["t"][:, 0].tolist() == [0, 0.5, 1, 1.5] and table.test["t"].tolist() == [[1], [1]]


def test_a_csv_of_the_rows_in_their_order(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("\tpet\tSplit\n0\tcat\ttest\n1\tdog\ttrain\n2\tNA\tval\n3\tcat\ttrain\n4\tcat\ttest\n")
    table = data.load_arrays({"x": images(5)}, path)
    assert rows_of(table.train["x"]) == [1, 3] and table.train["pet"].tolist() == [1, 0]
    assert rows_of(table.test["x"]) == [0, 4] and table.test["pet"].tolist() == [0, 0]
    path.write_text("pet\na\nb\na\nb\na\na\n")
    table = data.load_arrays({"x": images(4), "x_test": images(2)}, path)
    assert table.train["pet"].tolist() == [0, 1, 0, 1] and table.test["pet"].tolist() == [0, 0]
    with pytest.raises(InputError, match=r"labels\.csv: got 6 rows; expected the data's, 5"):
        data.load_arrays({"x": images(5)}, path)
    path.write_text("pet\ncat\n\ndog\n\ncat\n\n\n")
    table = data.load_arrays({"x": images(5)}, path, test=1)
    assert [*table.train["pet"].tolist(), *table.test["pet"].tolist()].count(-1) == 2, "empty lines of one column"
    path.write_text("pet,size\ncat,1.5\n\n,\ndog,\n")
    table = data.load_arrays({"x": images(3)}, path, test=1)
    assert table.train["pet"].eq(-1).sum() == 1, "a line of missing cells is a row, an empty one is none"
    path.write_text("pet,size\na,1\nb,one\n")
    with pytest.raises(InputError, match=r"size: line 3: got 'one'"):
        data.load_arrays({"x": images(2)}, path, kinds={"size": "real"})
    path.write_text("pet,x\na,1\nb,one\n")
    with pytest.raises(InputError, match=r"labels\.csv: got 'x' again"):
        data.load_arrays({"x": images(2)}, path)


def test_several_sites_of_data():
    given = {"a": images(6), "m": images(6, (6, 7)), "age": np.arange(6) / 4, "y": [0, 1, 0, 1, 0, 1]}
    table = data.load_arrays(given, kinds={"m": "data", "a": "data", "age": "data"})
    assert [*table.spaces] == ["x", "a", "age", "y"] and table.spaces["x"] == Images(1, 6, 7)
    assert table.train["age"].shape == (5, 1) and rows_of(table.train["a"]) == rows_of(table.train["x"])


def on_disk(path, count=10, shape=(3, 6, 7), dtype=np.uint8):
    array = np.lib.format.open_memmap(path, "w+", dtype, (count, *shape))
    array[:] = (np.arange(count) + 10).reshape(-1, 1, 1, 1) / (1 if dtype == np.uint8 else 100)
    array.flush()
    return path


@pytest.mark.parametrize("shape", [(3, 6, 7), (6, 7, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_an_array_on_disk_is_not_copied(tmp_path, shape, dtype):
    path = on_disk(tmp_path / "made.npy", shape=shape, dtype=dtype)
    before = path.read_bytes()
    labels = {"y": [0, 1, 2] * 3 + [-1]}
    for table in (data.load_arrays(path, labels), data.load_arrays({"x": np.load(path, mmap_mode="r")}, labels)):
        assert table.spaces["x"] == Images(3, 6, 7)
        assert file_of(table.train["x"], path) and file_of(table.test["x"], path)
        assert len(table.train["x"]) == 7 and len(table.test["x"]) == 3
        assert table.test["y"].tolist() == [1, 2, -1], "the last rows, as many as have a fifth of the labels"
    assert path.read_bytes() == before


def test_the_split_of_an_array_on_disk(tmp_path):
    path = on_disk(tmp_path / "made.npy")
    labels = {"y": [0, 1] * 5, "split": ["test"] * 3 + ["train"] * 7}
    table = data.load_arrays(path, labels)
    assert rows_of(table.test["x"]) == [0, 1, 2] and file_of(table.train["x"], path)
    with pytest.raises(InputError, match="split: got interleaved training and test rows for a memory-mapped array"):
        data.load_arrays(path, {"y": [0, 1] * 5, "split": ["train", "test"] * 5})
    assert len(data.load_arrays(path, test=0.3).test["x"]) == 3, "no labels: a part of all rows"
    few = {"y": [0, 1, 1, 0] + [-1] * 6}
    with pytest.raises(
        InputError, match=r"test: got 2, 2 rows with labels, which counted from the end reach back to row 2 of 10"
    ):
        data.load_arrays(path, few, test=2)
    table = data.load_arrays(
        {"x": np.load(path, mmap_mode="c"), "x_test": images(2, (3, 6, 7)), "y": few["y"], "y_test": [0, 1]}
    )
    assert file_of(table.train["x"], path) and len(table.train["x"]) == 10


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "source: got the names"),
        ({"a": np.zeros((4, 2)), "b": np.zeros((4, 3))}, "data: got a of 2 dimensions, b of 2 dimensions; expected"),
        ({"a": [1, 2]}, "data: got a of 1 dimensions"),
        ({"x": np.zeros(4)}, r"x: got shape \(4,\); expected data"),
        ({"x": np.zeros((4, 2)), "y": [0, 1]}, "y: got 2 rows; expected 4, as the data have"),
        ({"x": np.zeros((4, 2)), "y": np.array(3)}, "y: got 0 rows"),
        ({"x": np.zeros((4, 2)), "y": 3}, "y: got 0 rows"),
        (
            {"x": np.zeros((4, 2)), "x_test": np.zeros((4, 3))},
            r"x, x_test: got Vectors\(size=2\) and Vectors\(size=3\)",
        ),
        (
            {"x": np.zeros((4, 2)), "x_test": np.zeros((4, 2)), "y": [0] * 4},
            r"got only one of a and a_test for \['y'\]",
        ),
        ({"x": np.zeros((2, 2)), "x_test": np.zeros((1, 2)), "y": [0, 1], "y_test": [[1]]}, "y, y_test: got shapes"),
        ({"x": np.zeros((2, 2)), "x_test": np.zeros((1, 2)), "y": [0, 1], "y_test": [1, 0]}, "y: got 4 rows"),
        ({"x": np.full((4, 1, 8, 8), 255.0)}, r"train\['x'\]: got pixels from 255 to 255"),
        ({"x": np.zeros((4, 1, 8, 8), np.int16)}, r"train\['x'\]: got dtype torch.int16"),
        (
            {"x": np.zeros((1, 2))},
            "test: got 0.2; expected a fraction between 0 and 1 of the 1 rows of the data set",
        ),
        ({"x": np.zeros((4, 2)), "X": [0, 1, 0, 1], "x_": [0, 1, 0, 1]}, "'X' and 'x_', both of which become"),
    ],
)
def test_bad_arrays_are_named(given, message):
    with pytest.raises(InputError, match=message):
        data.load_arrays(given)


def test_bad_arguments_are_named(tmp_path):
    x = np.zeros((4, 2))
    with pytest.raises(InputError, match="labels: got 'y' again"):
        data.load_arrays({"x": x, "y": [0, 1, 0, 1]}, {"y": [0, 1, 0, 1]})
    with pytest.raises(InputError, match="kinds: got 'class' for 'x'; expected 'data'"):
        data.load_arrays({"x": x}, kinds={"x": "class"})
    with pytest.raises(InputError, match="columns: got 'm', sites of data already"):
        data.load_arrays({"x": x, "m": x, "M": [0, 1, 0, 1]}, kinds={"m": "data"})


def test_bad_files_are_named(tmp_path):
    files = {"text.npz": b"no zip", "text.npy": b"no array", "empty.npy": b""}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    np.save(tmp_path / "objects.npy", np.array([{}, 1]), allow_pickle=True)
    np.savez(tmp_path / "objects.npz", x=np.array([{}, 1]))
    np.save(tmp_path / "one.npz.npy", np.zeros(3))
    (tmp_path / "one.npz.npy").rename(tmp_path / "one.npz")
    np.savez(tmp_path / "cut.npz", x=np.zeros((100, 100)))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "cut.npz").read_bytes()[:1000])
    for name in (*files, "objects.npy", "objects.npz", "one.npz", "cut.npz"):
        with pytest.raises(InputError, match=rf"{name}: cannot be read \(.*; expected \.npz and \.npy files of numb"):
            data.load_arrays(tmp_path / name)
    with pytest.raises(InputError, match=r"source: no file .*none\.npz"):
        data.load_arrays(tmp_path / "none.npz")


SCRIPT = """
import sys, threading, time
import numpy as np, torch
from pyro_semivae import CCVAE, data
from pyro_semivae.nn import MLPs
from pyro_semivae.train import fit

def anonymous():
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(status["RssAnon"].split()[0])

torch.manual_seed(0)
path, count = sys.argv[1] + "/large.npy", 5 * 2**30 // (3 * 32 * 32)
array = np.lib.format.open_memmap(path, "w+", np.uint8, (count, 3, 32, 32))  # sparse: all zero but for the first rows
array[:5000] = np.random.default_rng(0).integers(0, 256, (5000, 3, 32, 32), np.uint8)
array.flush()
del array
with open(sys.argv[1] + "/large.csv", "w") as file:
    file.write("pet,age,sleeps\\n")
    file.writelines(("cat,1.5,1\\n", ",,\\n", "dog,,0\\n", ",NA,\\n")[i % 4] for i in range(count))
peak = start = anonymous()

def watch():
    global peak
    while True:
        peak = max(peak, anonymous())
        time.sleep(0.02)

threading.Thread(target=watch, daemon=True).start()
table = data.load_path(path, sys.argv[1] + "/large.csv", test=0.001)
print(table)
pictures = table.labelled_by("pet")
loaded, steps = peak, 0

def count_steps(x):
    global steps
    steps += 1
    if steps > 100:
        raise KeyboardInterrupt
    return x

vae = CCVAE(pictures.x_shape, pictures.labels, networks=MLPs((8,)))
try:
    fit(vae, pictures.x, pictures.y, epochs=1, batch_size=500, corrupt=count_steps, progress=False)
except KeyboardInterrupt:
    pass
assert steps == 101
time.sleep(0.1)
print(start, loaded, peak)
"""


@pytest.mark.slow
def test_a_set_of_5_gb_leaves_the_disk_by_batches_alone(tmp_path):
    run = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    lines = subprocess.run(run, check=True, capture_output=True, text=True).stdout.splitlines()
    start, loaded, peak = (int(part) / 2**20 for part in lines[-1].split())
    print(f"{start:.2f} GiB before, {loaded:.2f} GiB loaded, {peak:.2f} GiB in training")
    assert peak - start < 1, f"{peak - start:.2f} GiB of anonymous memory"
