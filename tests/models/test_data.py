"""The zoo's data are the data it names, bit by bit, and its options say what they take."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

import pyrolvm as lvm
from pyrolvm_models import _data, datasets

# sha256 of the float64 features and of the int64 labels.
FINGERPRINTS = {
    "breast_cancer": (
        "6b202a2072f9a0385f405a8f8605b1b06f6f36ae6d23d9cd6cbbc0974a416bc7",
        "1763c0f8cd3f454b9eda72031113884593bb382411c0cd511e3ec6e7ac85cddb",
    ),
    "digits": (
        "20def7f70a702f0af9732fbba4375e147a7d54fe70d8c45569b8e7c1c7010c10",
        "a3c91c262eddcf7ba8f0e37507c30284493c9b20412ffe4af30d536401f7ba21",
    ),
    "iris": (
        "012f498fe9c8b3b34212c3c5d98e1f03f2f79931cd49349beb1bad64dcf164a7",
        "734737f11162991213afc3a96aa5e8823b2d9cdcfb8992df1e85a0bae44b2395",
    ),
    "wine": (
        "8edcf3903afd97c64d51e0212eb10b213f7943da650574d1c055b836c5c35d37",
        "b6514e07a6d27854e0da000ca82d8d8cc3d0cb904c51600344ca34f1ee04884b",
    ),
}


@pytest.mark.parametrize("name", FINGERPRINTS)
def test_bundled_tables_are_unchanged(name):
    table = _data.load(name)
    found = tuple(hashlib.sha256(array.tobytes()).hexdigest() for array in (table.x, table.target))
    assert found == FINGERPRINTS[name]
    assert len(table.columns) == table.x.shape[1]


@pytest.mark.parametrize("name", ["factor_analysis", "logistic_regression", "gaussian_mixture", "ppca"])
def test_features_are_standardized(name):
    x = lvm.problem(name).arguments["x"].double()
    torch.testing.assert_close(x.mean(0), torch.zeros(x.shape[1], dtype=x.dtype), rtol=0, atol=1e-6)
    torch.testing.assert_close(x.std(0, correction=0), torch.ones(x.shape[1], dtype=x.dtype), rtol=0, atol=1e-6)


def test_digits_are_binarized_at_half():
    x = lvm.problem("vae").arguments["x"]
    assert x.unique().tolist() == [0.0, 1.0]
    np.testing.assert_array_equal(x.numpy() == 1.0, datasets.digits().train.numpy() >= 8)


def test_benign_is_one():
    y = lvm.problem("logistic_regression").arguments["y"]
    assert (int(y.sum()), len(y)) == (357, 569)


@pytest.mark.parametrize(
    "name, option, value",
    [
        ("gaussian_mixture", "components", 0),
        ("gaussian_mixture", "components", True),
        ("gaussian_mixture", "components", 2.0),
        ("hidden_markov", "states", 11),
        ("hidden_markov", "years", 108),
        ("logistic_regression", "predictors", 31),
        ("ppca", "q", 13),
        ("factor_analysis", "q", 13),
        ("vae", "images", 1348),
        ("vae", "latent", -1),
        ("vae", "hidden", "128"),
    ],
)
def test_options_out_of_range_are_named(name, option, value):
    with pytest.raises(lvm.ArgumentError, match=rf"option '{option}' of problem '{name}' is {value!r}.*Fix: "):
        lvm.problem(name, **{option: value})


def test_options_of_one_problem_do_not_reach_another():
    few = lvm.problem("logistic_regression", predictors=3)
    lvm.problem("logistic_regression")
    again = few.to(dtype=torch.float64)
    assert again.sites["beta"].shape == (3,)
    assert again.coords["predictor"] == ["mean radius", "mean texture", "mean perimeter"]
