"""Containers of data: what they mask is never data, and what is no number is named before the first step."""

from __future__ import annotations

import decimal
import fractions
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pyarrow as pa
import pyro
import pyro.distributions as dist
import pytest
import scipy.sparse
import torch
import xarray as xr

import pyrolvm as lvm
from pyrolvm._program.data import to_tensors


def mean(y: torch.Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(mu, 1.0).expand(y.shape[1:]).to_event(y.dim() - 1), obs=y)


def _masked_tensor() -> Any:
    from torch.masked import masked_tensor

    return masked_tensor(torch.tensor([1.0, -999.0]), torch.tensor([True, False]))


MISSING = {
    "a masked matrix": (lambda: np.ma.masked_equal([[1.0, 2.0], [3.0, -99.0], [-99.0, 5.0]], -99.0), 2, [1, 1]),
    "masked rows in a list": (lambda: [np.ma.masked_less([1.0, -9.0], 0), np.ma.masked_less([2.0, 3.0], 0)], 1, [0, 1]),
    "the masked constant in a list": (lambda: [1.0, np.ma.masked], 1, [1]),
    "nullable integers": (lambda: pd.Series([3, None, 4, None], dtype="Int64"), 2, [1]),
    "nullable floats": (lambda: pd.array([0.5, None], dtype="Float64"), 1, [1]),
    "nullable booleans": (lambda: pd.Series([None, True], dtype="boolean"), 1, [0]),
    "a column of a frame": (lambda: pd.DataFrame({"a": [1.0, 2.0], "b": pd.array([1, None], dtype="Int64")}), 1, [1, 1]),
    "Arrow's dtype in pandas": (lambda: pd.Series([1.0, None, 2.0], dtype=pd.ArrowDtype(pa.float64())), 1, [1]),
    "objects with NA": (lambda: pd.Series([1.0, pd.NA], dtype=object), 1, [1]),
    "an array of Arrow": (lambda: pa.array([None, 2, 3]), 1, [0]),
    "a chunked array of Arrow": (lambda: pa.chunked_array([[1.0], [2.0, None]]), 1, [2]),
    "a table of Arrow": (lambda: pa.table({"a": [1.0, 2.0], "b": [None, 1.0]}), 1, [0, 1]),
    "a fill value that was not decoded": (
        lambda: xr.DataArray([1.0, -999.0, -999.0], attrs={"_FillValue": -999.0}), 2, [1],
    ),
    "several codes for missing": (lambda: xr.DataArray([1, -1, -2], attrs={"missing_value": [-1, -2]}), 2, [1]),
    "what netCDF leaves where nothing was written": (lambda: np.array([0.1, 9.969209968386869e36], np.float32), 1, [1]),
    "None deep in a list": (lambda: [[1.0, 2.0], [None, 4.0]], 1, [1, 0]),
    "a masked tensor": (_masked_tensor, 1, [1]),
}  # fmt: skip


@pytest.mark.parametrize("kind", MISSING)
@pytest.mark.filterwarnings("ignore:The PyTorch API of MaskedTensors")
def test_missing_values_are_counted_and_the_first_is_named(kind: str) -> None:
    make, count, first = MISSING[kind]
    with pytest.raises(lvm.DataError) as caught:
        lvm.Problem(mean, make())
    assert f"'y' has {count} missing value" in str(caught.value)
    assert f"the first at {first}" in str(caught.value)


def test_a_packed_variable_is_refused() -> None:
    with pytest.raises(lvm.DataError, match=r"'y' is packed.*scale_factor.*Fix: "):
        lvm.Problem(mean, xr.DataArray([1, 2], attrs={"scale_factor": 0.1}))


def test_a_variable_of_a_netcdf_file_with_its_fill_value(tmp_path: Any) -> None:
    import h5py

    with h5py.File(tmp_path / "a.nc", "w") as file:
        file["y"] = np.array([1.0, -5.0, 2.0])
        file["y"].attrs["_FillValue"] = -5.0
        with pytest.raises(lvm.DataError, match=r"1 missing value .*first at \[1\]"):
            lvm.Problem(mean, file["y"])
        del file["y"].attrs["_FillValue"]
        assert lvm.Problem(mean, file["y"]).args[0].tolist() == [1.0, -5.0, 2.0]


CONVERTED = {
    "a masked array without masked values": np.ma.array([1.0, 2.0], mask=[False, False]),
    "nullable integers": pd.Series([1, 2], dtype="Int64"),
    "Arrow": pa.array([1.0, 2.0]),
    "a table of Arrow with one column": pa.table({"a": [1.0, 2.0]}),
    "JAX": jnp.array([1.0, 2.0]),
    "JAX's bfloat16": jnp.array([1.0, 2.0], jnp.bfloat16),
    "a sparse matrix": scipy.sparse.csr_matrix([[1.0], [2.0]]),
    "a sparse tensor": torch.tensor([1.0, 2.0]).to_sparse(),
    "decimals": [decimal.Decimal("1"), decimal.Decimal("2")],
    "fractions": np.array([fractions.Fraction(1), fractions.Fraction(2)], dtype=object),
    "decimals of Arrow in pandas": pd.Series(
        [decimal.Decimal("1"), decimal.Decimal("2")], dtype=pd.ArrowDtype(pa.decimal128(5, 2))
    ),
    "long doubles": np.array([1.0, 2.0], np.longdouble),
    "a tensor with a history": torch.tensor([0.5, 1.0], requires_grad=True) * 2,
}


@pytest.mark.parametrize("kind", CONVERTED)
def test_numbers_of_any_container_become_a_dense_tensor(kind: str) -> None:
    value = to_tensors({"y": CONVERTED[kind]})["y"]
    assert isinstance(value, torch.Tensor)
    assert value.layout is torch.strided
    assert not value.requires_grad
    assert value.reshape(-1).tolist() == [1.0, 2.0]


REFUSED = {
    "complex numbers": (np.array([1j]), "complex128 values"),
    "a complex tensor": (torch.tensor([1j]), "complex64 values"),
    "a complex scalar": (1j, "complex number"),
    "numbers and text": ([1.0, "a"], r"text: 'a' at \[1\]"),
    "named fields": (np.array([(1.0, 2)], dtype=[("a", float), ("b", int)]), "each field"),
    "an iterator": (iter([1.0, 2.0]), "only once"),
    "a generator": ((x for x in [1.0]), "only once"),
    "half precision": (torch.ones(2, dtype=torch.float16), "too few digits"),
    "brain floats": (torch.ones(2, dtype=torch.bfloat16), "too few digits"),
    "a nested tensor": (
        torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged),
        "differ in length",
    ),
    "the meta device": (torch.ones(2, device="meta"), "meta"),
    "integers beyond 64 bits": (np.array([2**64 - 1], np.uint64), "beyond"),
    "a data set": (xr.Dataset({"a": ("i", [1.0])}), "several variables"),
    "a loader": (torch.utils.data.DataLoader([1.0, 2.0]), "lvm.stream"),
    "NA": (pd.NA, "missing value"),
    "a huge sparse matrix": (scipy.sparse.csr_matrix((10**5, 10**5)), "sparse matrix"),
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_what_is_no_number_is_named_with_its_argument(kind: str) -> None:
    value, message = REFUSED[kind]
    with pytest.raises(lvm.DataError, match=f"argument 'y' .*{message}.*|.*{message}.*'y'.*"):
        lvm.Problem(mean, value)


def test_values_in_dictionaries_and_tuples_are_converted_moved_and_part_of_the_fingerprint() -> None:
    def model(data: dict[str, torch.Tensor], pair: tuple[torch.Tensor, int]) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", pair[1]):
            pyro.sample("y", dist.Normal(mu * data["x"] + pair[0], 1.0), obs=data["y"])

    def problem(last: float) -> lvm.Problem:
        return lvm.Problem(model, {"x": np.array([1.0, 2.0]), "y": [0.5, last]}, (np.zeros(2), 2))

    made = problem(1.0)
    assert made.args[0]["x"].dtype == torch.float32
    wide = made.to(dtype=torch.float64)
    assert wide.args[0]["y"].dtype == wide.args[1][0].dtype == torch.float64
    assert made.fingerprint == problem(1.0).fingerprint != problem(2.0).fingerprint
    with pytest.raises(lvm.DataError, match=r"data\['y'\].*1 missing value"):
        lvm.Problem(model, {"x": np.ones(2), "y": np.ma.masked_equal([1.0, 2.0], 2.0)}, (np.zeros(2), 2))


class Series(NamedTuple):
    """One of several series."""

    x: Any
    y: Any


def test_records_in_a_list_are_converted_field_by_field_and_may_differ_in_length() -> None:
    def model(series: list[Series]) -> None:
        slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
        for i, one in enumerate(series):
            with pyro.plate(f"rows_{i}", len(one.y)):
                pyro.sample(f"y_{i}", dist.Normal(slope * one.x, 1.0), obs=one.y)

    series = [Series(np.arange(3.0), torch.ones(3)), Series([0.5, 1.5], np.array([1.0, 2.0]))]
    problem = lvm.Problem(model, series)
    assert [site.shape for site in problem.observed] == [(3,), (2,)]
    assert all(
        isinstance(part, torch.Tensor) and part.dtype == torch.float32 for one in problem.args[0] for part in one
    )
