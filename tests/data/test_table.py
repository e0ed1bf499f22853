"""Tables: several sites, one label of them, checks."""

import pytest
import torch

from pyro_semivae import data
from pyro_semivae.errors import InputError
from pyro_semivae.spaces import Binary, Classes, Images, Vectors

pytestmark = pytest.mark.usefixtures("cache")


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
    assert repr(data.Table("made", spaces, names, rows, rows)).startswith("made: 3 training rows, 3 test rows")
    for change, message in [
        ({"spaces": {"y": Classes(2), "x": Images(1, 4, 4)}}, "spaces: got y, x; expected sites of data"),
        ({"spaces": {"x": Images(1, 4, 4), "y": Classes(2), "v": Vectors(2)}}, "spaces: got x, y, v"),
        ({"spaces": {"x": 3}}, "spaces: got {'x': 3}"),
        ({"spaces": {}}, "spaces: got "),
        ({"names": {}}, r"names: got those of \[\]; expected those of the labels \['y'\]"),
        ({"names": {"y": ("a",)}}, "names.*got 1 names"),
        ({"names": {"y": ("a", "a")}}, "names.*got 2 names"),
        ({"train": {"x": x}}, r"train: got values of \['x'\]"),
        ({"test": {"x": x, "y": [0, 1]}}, "test: got rows: 3 of x, 2 of y"),
        ({"test": {"x": x[:0], "y": torch.zeros(0, dtype=torch.long)}}, "test: got rows: 0 of x, 0 of y"),
        (
            {"files": {"train": ["a", "b", "c"], "test": ["d"]}},
            "files: got 3 of train, 1 of test; expected one for each",
        ),
        ({"files": {"train": ["a", "b", "c"]}}, "files: got 3 of train; expected"),
        ({"test": {"x": x, "y": [0, 1, 2]}}, r"test\['y'\]: got \[2\] at rows \[2\]"),
    ]:
        given = {"spaces": spaces, "names": names, "train": rows, "test": rows, **change}
        with pytest.raises(InputError, match=message):
            data.Table("made", **given)
