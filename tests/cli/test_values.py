"""Options as they are written on the command line."""

from __future__ import annotations

import pytest

from pyrolvm._cli.values import key_value, split_options


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("k=3", ("k", 3)),
        ("scale=0.5", ("scale", 0.5)),
        ("kind=spline", ("kind", "spline")),
        ("hidden=[32, 32]", ("hidden", [32, 32])),
        ("on=true", ("on", True)),
        ("on=False", ("on", False)),
        ("start=None", ("start", None)),
        ("name=a=b", ("name", "a=b")),
        ('text="3"', ("text", "3")),
        ("empty=", ("empty", "")),
    ],
)
def test_values_are_json_where_they_are_json(text, expected):
    assert key_value(text) == expected


@pytest.mark.parametrize("text", ["", "k", "=3", "2k=3", "a b=1"])
def test_a_key_must_be_a_name(text):
    with pytest.raises(ValueError, match=r"KEY=VALUE.*Fix: "):
        key_value(text)


def test_commas_in_brackets_and_quotes_do_not_separate():
    options = split_options('hidden=[64,64],name="a,b",transforms=4,map={"a": [1, 2]}')
    assert options == {"hidden": [64, 64], "name": "a,b", "transforms": 4, "map": {"a": [1, 2]}}


def test_no_options():
    assert split_options("") == {}
