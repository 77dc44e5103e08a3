"""From what is written as TARGET, --data and --guide to a problem and a guide."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import pyrolvm as lvm
from pyrolvm._cli.parser import build_parser
from pyrolvm._cli.sources import checked, load_data
from pyrolvm._cli.target import load_guide, load_problem


@pytest.fixture
def problem(tmp_path, monkeypatch, model_file):
    """Builds the problem that ``pyrolvm fit`` would, in the folder of ``my_model.py``."""
    monkeypatch.chdir(tmp_path)

    def build(*words):
        return load_problem(build_parser().parse_args(["fit", *words]))

    return build


@pytest.fixture
def npz(tmp_path):
    np.savez(tmp_path / "data.npz", x=np.arange(3.0), y=np.ones(3), prior=np.array(2.0), unused=np.zeros(7))
    return "data.npz"


def test_registered_problem_with_options(problem):
    assert problem("eight_schools").name == "eight_schools"
    assert problem("eight_schools_noncentered").unconstrained_size == 10


def test_model_of_a_file_with_npz_data(problem, npz):
    built = problem("my_model.py:model", "--data", npz)
    assert built.name == "model"
    assert torch.equal(built.args[0], torch.arange(3.0))
    assert built.args[2] == 2.0 and not built.kwargs


def test_model_of_a_file_with_json_data(problem, tmp_path):
    (tmp_path / "d.json").write_text(json.dumps({"x": [[1, 2.5]] * 4, "y": [1.0, 2, 3, 4]}))
    built = problem("my_model.py:matrix_model", "--data", "d.json")
    assert built.args[0].shape == (4, 2)


def test_model_of_a_file_with_csv_data_and_a_matrix_of_columns(problem, tmp_path):
    numbers = sorted(range(1, 11), key=str)  # x.10 comes after x.1
    header = ",".join(["name", "y", *(f"x.{i}" for i in numbers)])
    rows = [
        ",".join(map(str, [name, y, *(scale * i for i in numbers)]))
        for name, y, scale in (("a", 0.5, 1.0), ("b", 0.25, 2))
    ]
    (tmp_path / "d.csv").write_text("\n".join([header, *rows]))
    built = problem("my_model.py:matrix_model", "--data", "d.csv")
    assert built.args[0].tolist() == [[1.0 * i for i in range(1, 11)], [2.0 * i for i in range(1, 11)]]


def test_options_are_plain_arguments_of_a_model(problem, npz):
    assert problem("my_model.py:model", "--data", npz, "--option", "prior=5.0").args[2] == 5.0


def test_function_that_makes_a_problem_takes_options(problem):
    assert len(problem("my_model.py:make").args[0]) == 3
    assert len(problem("my_model.py:make", "--option", "n=6").args[0]) == 6


def test_finished_problem(problem):
    assert len(problem("my_model.py:problem").args[0]) == 4


def test_dtype_is_that_of_the_data_as_they_are_read(problem, tmp_path):
    (tmp_path / "d.json").write_text('{"x": [0.1], "y": [0.3]}')
    built = problem("my_model.py:model", "--data", "d.json", "--dtype", "float64")
    assert built.dtype is torch.float64
    assert built.args[0].item() == 0.1  # not the float32 nearest to it


def test_a_file_keeps_its_module_name_to_itself(problem):
    import sys

    before = set(sys.modules)
    path = list(sys.path)
    problem("my_model.py:make")
    assert "my_model" not in sys.modules
    assert sys.path == path
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("words", "error", "says"),
    [
        (["my_model.py:modell"], lvm.UnknownNameError, "did you mean 'model'"),
        (["my_model.py"], lvm.ArgumentError, r"defines model, matrix_model, guide, make, breaks, problem: which one"),
        (["my_model.py:number"], lvm.ArgumentError, "is a int, expected a Pyro model"),
        (["my_model.py:model"], lvm.DataError, "'x' has no value: no --data was given"),
        (["my_model.py:model", "--option", "priro=3"], lvm.UnknownNameError, "did you mean 'prior'"),
        (["my_model.py:problem", "--option", "n=3"], lvm.ArgumentError, "finished Problem"),
        (["my_model.py:breaks"], lvm.DataError, "empty"),
        (["none.py:model"], lvm.ArgumentError, "no file 'none.py'"),
        (["eight_schools", "--option", "color=3"], lvm.ArgumentError, "no option 'color'"),
    ],
)
def test_targets_that_cannot_be(problem, words, error, says):
    with pytest.raises(error, match=says) as caught:
        problem(*words)
    assert "Fix: " in str(caught.value)


def test_a_file_with_one_function_needs_no_name(problem, tmp_path):
    (tmp_path / "one.py").write_text("from my_model import make as _make\ndef build():\n    return _make(2)\n")
    assert len(problem("one.py").args[0]) == 2


def test_a_file_that_does_not_import_names_the_line(problem, tmp_path):
    (tmp_path / "bad.py").write_text("x = 1\ny = x / 0\n")
    with pytest.raises(lvm.ProblemError, match=r"bad.py cannot be imported: ZeroDivisionError.*\(line 2\).*Fix: "):
        problem("bad.py:model")


def test_missing_arguments_are_named_with_what_the_file_holds(problem, tmp_path):
    (tmp_path / "d.csv").write_text("x,z\n1,2\n")
    with pytest.raises(lvm.DataError, match=r"'y' has no value: d.csv holds x, z"):
        problem("my_model.py:model", "--data", "d.csv")


def test_registered_problems_bring_their_own_data(problem, npz):
    with pytest.raises(lvm.ArgumentError, match="brings its own"):
        problem("eight_schools", "--data", npz)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("d.json", "[1, 2]", "holds a list"),
        ("d.json", '{"x": [[1], [1, 2]]}', "'x' in .* is ragged"),
        ("d.json", '{"x": ["a", 1]}', "no numbers"),
        ("d.json", "{", "cannot be read"),
        ("d.npz", "not a zip", "is no .npz"),
        ("d.csv", "", "is empty"),
        ("d.pkl", "", r"expected .npz, .json or .csv"),
    ],
)
def test_data_files_that_cannot_be(tmp_path, name, content, says):
    (tmp_path / name).write_text(content)
    with pytest.raises(lvm.DataError, match=says):
        load_data(tmp_path / name)


def test_nothing_is_unpickled(tmp_path):
    np.savez(tmp_path / "d.npz", x=np.array([{"a": 1}], dtype=object))
    found = load_data(tmp_path / "d.npz")  # other arrays of the file can be used
    with pytest.raises(lvm.DataError, match=r"'x'.*holds Python objects.*Fix:"):
        checked(found["x"])


def test_an_array_without_a_name_is_refused(tmp_path):
    np.save(tmp_path / "d.npy", np.ones(3))
    (tmp_path / "d.npy").rename(tmp_path / "d.npz")
    with pytest.raises(lvm.DataError, match="one array without a name"):
        load_data(tmp_path / "d.npz")


def test_text_columns_are_labels_and_refused_where_quantities_are_observed(problem, tmp_path):
    (tmp_path / "d.csv").write_text("x,y\n1,a\n2,b\n")
    with pytest.raises(lvm.DataError, match=r"site 'y' is Normal.*argument 'y' holds labels \('a', 'b'\)"):
        problem("my_model.py:model", "--data", "d.csv")


def test_guides(problem, tmp_path):
    assert load_guide("auto") == "auto"
    assert load_guide("full_rank").name == "full_rank"
    assert load_guide("my_model.py:guide").__name__ == "guide"


def test_unknown_guides_in_files(problem):
    with pytest.raises(lvm.UnknownNameError, match="did you mean 'guide'"):
        load_guide("my_model.py:guid")
