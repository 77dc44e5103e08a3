"""Private parts of SciPy: the attributes of what its reader of netCDF returns. Checked with SciPy 1.17 and 1.18."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["netcdf_attributes"]


def netcdf_attributes(variable: object) -> Mapping[str, object]:
    """The attributes of a ``scipy.io.netcdf_variable``; empty for anything else. Seen in SciPy 1.17 and 1.18."""
    found = getattr(variable, "_attributes", None)
    return found if isinstance(found, Mapping) else {}
