"""Data files: nothing in them is dropped, joined or renamed in silence."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyrolvm._base.errors import DataError
from pyrolvm._cli import main
from pyrolvm._cli.sources import checked, load_data


def _file(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "x,y,x\n1,2,3\n", "column 'x' twice"),
        ("a.csv", "x, x\n1,2\n", "column 'x' twice"),
        ("a.json", '{"y": [1], "n": 2, "y": [2]}', "name 'y' twice"),
        ("a.json", '{"y": {"a": 1, "a": 2}}', "name 'a' twice"),
        ("a.csv", "x,y\n1,2,3\n4,5,6\n", "more values in a row"),
        ("a.json", "[" * 100_000 + "]" * 100_000, "cannot be read"),
    ],
)
def test_a_file_that_says_two_things_is_refused(name: str, text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"{message}(.|\n)*Fix: "):
        load_data(_file(tmp_path, name, text))


@pytest.mark.parametrize("header", ["x.0,x.2", "x.1,x.2,x.4", "x.3,x.4", "x.7"])
def test_a_matrix_with_a_gap_is_refused_where_it_is_asked_for(header: str, tmp_path: Path) -> None:
    width = len(header.split(","))
    found = load_data(_file(tmp_path, "a.csv", f"y,{header}\n{','.join('1' * (width + 1))}\n"))
    assert checked(found["y"]).tolist() == [1]
    with pytest.raises(DataError, match="the matrix 'x' has a gap"):
        checked(found["x"])


def test_columns_of_a_matrix_are_in_the_order_of_their_numbers_and_names_without_spaces(tmp_path: Path) -> None:
    found = load_data(_file(tmp_path, "a.csv", "\ufeff x.2 , x.1,y\n2,1,5\n4,3,6\n"))
    assert checked(found["x"]).tolist() == [[1, 2], [3, 4]]
    assert checked(found["y"]).tolist() == [5, 6]


def test_a_missing_category_in_a_data_file_is_no_group(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = _file(
        tmp_path,
        "model.py",
        "import pyro, torch\nimport pyro.distributions as dist\n\n"
        "def groups(g, y):\n"
        "    with pyro.plate('groups', 2):\n        a = pyro.sample('a', dist.Normal(0.0, 1.0))\n"
        "    with pyro.plate('rows', len(y)):\n        pyro.sample('y', dist.Normal(a[g], 1.0), obs=y)\n",
    )
    data = _file(tmp_path, "a.csv", "g,y\n0,0.5\n-1,0.1\n1,0.2\n")
    assert main(["fit", f"{model}:groups", "--data", str(data)]) != 0
    assert "'g' has 1 negative value, the first (-1) at [1]" in capsys.readouterr().err


def test_a_table_in_another_encoding_says_how_to_save_it(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("hours,Größe\n1,2\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"line 1 holds the byte 0xf6. Fix: save it as UTF-8"):
        load_data(path)
    path.write_bytes("\ufeffx,place\r\n1,Köln\r\n2,".encode() + "Mölln\r\n".encode("latin-1"))
    with pytest.raises(DataError, match="line 3 holds the byte 0xf6"):
        load_data(path)
    path.write_text("\ufeffx,place\n1,Köln\n", encoding="utf-8")
    assert list(load_data(path)) == ["x", "place"]
