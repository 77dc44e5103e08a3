"""What pyrolvm takes from SciPy and xarray that they do not promise is as it expects."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xarray as xr
from scipy.io import netcdf_file

from pyrolvm._compat.notebooks import html
from pyrolvm._compat.scipy import netcdf_attributes


def test_a_variable_of_scipys_reader_of_netcdf_has_its_attributes(tmp_path: Path) -> None:
    with netcdf_file(tmp_path / "a.nc", "w") as file:
        file.createDimension("row", 2)
        variable = file.createVariable("x", "d", ("row",))
        variable[:] = [1.0, -9.0]
        variable.missing_value = -9.0
    with netcdf_file(tmp_path / "a.nc", mmap=False) as file:
        assert netcdf_attributes(file.variables["x"]) == {"missing_value": -9.0}
    assert netcdf_attributes(np.zeros(2)) == {}


def test_a_tree_and_what_is_ours_are_shown_as_html() -> None:
    class Ours:
        def _repr_html_(self) -> str:
            return "<p>ours</p>"

    tree = xr.DataTree.from_dict({"posterior": xr.Dataset({"theta": ("draw", [1.0, 2.0])})})
    assert "theta" in html(tree) and "<div" in html(tree) and html(Ours()) == "<p>ours</p>"
