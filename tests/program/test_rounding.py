"""Floats of 64 bits are rounded only where that is harmless, and nothing is lost on the way back."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrolvm as lvm
from pyrolvm._program.rounding import loss

RNG = np.random.default_rng(0)
EPOCH = 1.7e9 + np.sort(RNG.uniform(0, 600, 200))


def line(x: torch.Tensor, y: torch.Tensor) -> None:
    b = pyro.sample("b", dist.Normal(0.0, 10.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(b * (x - x.mean()), 1.0), obs=y)


HARMED = {
    "epoch seconds": (EPOCH, "200 distinct values|of its sd"),
    "Julian days": (2460000.5 + np.arange(100) / 1440, "of its sd"),
    "identifiers that meet": (np.array([2.0**24, 2.0**24 + 1, 0.0, 5.0e6]), "4 distinct values, of which 3 remain"),
    "dollars with cents": (1e8 + np.round(RNG.normal(size=50), 2), "of its sd"),
    "one column of several": (np.c_[RNG.normal(size=50), 1e9 + RNG.normal(size=50)], r"\(column 1\)"),
    "numbers too large": (np.array([1e300, 1.0, 2.0]), "cannot hold"),
    "numbers too small": (np.array([1e-60, 2e-60, 3e-60]), "of its sd"),
    "two values that meet": (np.array([0.5, 0.5 + 1e-12, 3.0, 4.0]), "4 distinct values, of which 3 remain"),
}
HARMLESS = {
    "measurements": RNG.normal(size=2000),
    "many measurements, two of which may meet": RNG.normal(size=20_000),
    "a constant": np.full(10, 0.1),
    "one number": np.array(3.14159265358979),
    "pixels": np.arange(256.0) / 255,
    "counts": np.arange(1000.0),
    "missing values": np.array([np.nan, 0.1, 0.2, np.inf]),
    "nothing but missing values": np.array([np.nan, np.nan]),
    "single precision": np.array([0.1], np.float32),
}


@pytest.mark.parametrize("kind", HARMED)
def test_a_harmful_rounding_is_found(kind: str) -> None:
    array, message = HARMED[kind]
    found = loss(array)
    assert found is not None
    assert re.search(message, found), found


@pytest.mark.parametrize("kind", HARMLESS)
def test_a_harmless_rounding_is_allowed(kind: str) -> None:
    assert loss(HARMLESS[kind]) is None


FORMS = {
    "NumPy": EPOCH,
    "pandas": pd.Series(EPOCH),
    "a list": EPOCH.tolist(),
    "a column": pd.DataFrame({"t": EPOCH})["t"],
}


@pytest.mark.parametrize("form", FORMS)
def test_data_that_rounding_harms_stay_in_64_bits_whatever_they_come_in(form: str) -> None:
    problem = lvm.Problem(line, FORMS[form], RNG.normal(size=200))
    assert problem.dtype == problem.args[0].dtype == problem.args[1].dtype == torch.float64
    assert len(problem.args[0].unique()) == 200


def test_data_that_rounding_does_not_harm_take_the_default_dtype() -> None:
    assert lvm.Problem(line, RNG.normal(size=20), RNG.normal(size=20)).dtype == torch.float32


def test_single_precision_tensors_beside_data_that_need_more_are_widened() -> None:
    y = torch.randn(200)
    problem = lvm.Problem(line, EPOCH, y)
    assert problem.dtype == torch.float64
    assert torch.equal(problem.args[1], y.double())


def test_to_converts_from_what_was_given_and_not_from_what_was_rounded() -> None:
    x = RNG.normal(size=20)
    narrow = lvm.Problem(line, x, RNG.normal(size=20))
    assert narrow.to(dtype=torch.float64).args[0].tolist() == x.tolist()
    there_and_back = lvm.Problem(line, EPOCH, RNG.normal(size=200)).to(dtype=torch.float32).to(dtype=torch.float64)
    assert there_and_back.args[0].tolist() == EPOCH.tolist()
    tensor = torch.tensor(EPOCH)
    again = (
        lvm.Problem(line, tensor, torch.zeros(200, dtype=torch.float64)).to(dtype=torch.float32).to(dtype=torch.float64)
    )
    assert torch.equal(again.args[0], tensor)


def test_a_module_in_single_precision_beside_data_that_need_more_is_refused() -> None:
    def model(net: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
        s = pyro.sample("s", dist.LogNormal(0.0, 1.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(net(x[:, None]).squeeze(-1), s), obs=y)

    with pytest.raises(lvm.DataError, match=r"argument 'x' .*'net' takes float32.*Fix: subtract an origin"):
        lvm.Problem(model, torch.nn.Linear(1, 1), EPOCH, torch.randn(200))
    assert lvm.Problem(model, torch.nn.Linear(1, 1).double(), EPOCH, RNG.normal(size=200)).dtype == torch.float64


ORIGIN = 1_700_000_000


def test_integers_whose_use_loses_digits_are_named_and_the_problem_is_wider() -> None:
    t = np.arange(ORIGIN, ORIGIN + 60)
    with pytest.warns(
        lvm.PyrolvmWarning, match=r"integers of argument 'x' as float32 at .*60 distinct values|of its sd"
    ):
        problem = lvm.Problem(line_of_integers, t, np.zeros(60))
    assert problem.dtype == torch.float64


def line_of_integers(x: torch.Tensor, y: torch.Tensor) -> None:
    b = pyro.sample("b", dist.Normal(0.0, 10.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(b * (x - float(ORIGIN)), 1.0), obs=y)


def test_integers_that_the_model_itself_makes_single_are_refused() -> None:
    def model(ids: torch.Tensor, y: torch.Tensor) -> None:
        b = pyro.sample("b", dist.Normal(0.0, 10.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(b * ids.float(), 1.0), obs=y)

    with pytest.raises(lvm.DataError, match=r"'ids' as float32 at .*ids.float.*Fix: "):
        lvm.Problem(model, torch.tensor([2**24, 2**24 + 1, 5]), torch.zeros(3))


def test_integers_that_are_indices_alone_lose_nothing() -> None:
    def model(g: torch.Tensor, y: torch.Tensor) -> None:
        with pyro.plate("groups", 2):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(a[g % 2], 1.0), obs=y)

    assert lvm.Problem(model, np.array([2**24, 2**24 + 1, 7]), np.zeros(3)).dtype == torch.float32
