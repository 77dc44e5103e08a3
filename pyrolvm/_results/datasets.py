"""Groups of a result as datasets: their names, dimensions, labels and attributes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pyrolvm._base.numerics import Array
from pyrolvm._program.data import named_leaves
from pyrolvm._program.density import Joint
from pyrolvm._program.labels import Code, Levels
from pyrolvm._program.names import Dimensions, variable
from pyrolvm._program.problem import Problem
from pyrolvm._program.sites import name_dims
from pyrolvm._results.draws import numpy
from pyrolvm._results.history import History

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "data_groups",
    "described",
    "named_dims",
    "optimization_dataset",
    "ordered",
    "quantity_dims",
    "site_dataset",
    "storable",
    "unconstrained_dims",
]

_ORDER = (
    "posterior", "quantities", "unconstrained_posterior", "sample_stats", "log_likelihood", "log_prior",
    "posterior_predictive", "prior", "prior_predictive", "observed_data", "constant_data", "optimization",
    "uncorrected_posterior", "proposal_stats", "marginals",
)  # fmt: skip


def ordered(groups: Mapping[str, object]) -> dict[str, object]:
    """Groups in the order of the schema."""
    return {name: groups[name] for name in _ORDER if name in groups}


def site_dataset(
    values: Mapping[str, Any],
    dims: Mapping[str, list[str]],
    *,
    attrs: Mapping[str, Any],
    coords: Mapping[str, Any] | None = None,
    draws: Array | None = None,
    sample_dims: tuple[str, ...] = ("chain", "draw"),
    given_away: bool = False,
) -> xr.Dataset:
    """A dataset by arviz-base, which adds its own attributes.

    Values are copied, since they may be views of parameters that are put back, or of the user's own tensors, but for those that are
    ``given_away``.
    """
    from arviz_base import dict_to_dataset

    values = {variable(name): np.asarray(value) if given_away else np.array(value) for name, value in values.items()}
    dims = {variable(name): names for name, names in dims.items()}
    named = _fitting(values, dims, len(sample_dims))
    sizes = {
        dim: size
        for name, fit in named.items()
        for dim, size in zip(fit, values[name].shape[len(sample_dims) :], strict=False)
    }
    labels = {dim: label for dim, label in (coords or {}).items() if sizes.get(dim) == len(label)}
    if draws is not None:
        labels = labels | {"draw": draws}
    bare = [name for name in values if name in dims and name not in named]
    return dict_to_dataset(
        dict(values),
        attrs={"inference_library": "pyrolvm", **storable(attrs), **({"unlabelled": ", ".join(bare)} if bare else {})},
        dims={name: list(fit) for name, fit in named.items()},
        coords=labels,
        sample_dims=list(sample_dims),
        check_conventions=False,  # it warns of more chains than draws, which an interrupted run may well have
    )


def _fitting(values: Mapping[str, Array], dims: Mapping[str, list[str]], leading: int) -> dict[str, list[str]]:
    """The names of dimensions that values have: those of a value with another number of them, or another length, are left out."""
    sizes: dict[str, int] = {}
    named = {}
    for name, value in values.items():
        names, shape = dims.get(name), value.shape[leading:]
        if names is None or len(names) > len(shape) or len(set(names)) != len(names):
            continue
        if all(sizes.get(dim, size) == size for dim, size in zip(names, shape, strict=False)):
            sizes |= dict(zip(names, shape, strict=False))
            named[name] = list(names)
    return named


def storable(attrs: Mapping[str, object]) -> dict[str, object]:
    """Attributes as a file takes them: an integer beyond 63 bits, such as a seed may be, as text."""
    return {key: str(value) if type(value) is int and value >= 2**63 else value for key, value in attrs.items()}


def data_groups(problem: Problem, dims: Mapping[str, list[str]], attrs: Mapping[str, Any]) -> dict[str, Any]:
    """The observed values, and the arguments of the model that are not observed themselves."""
    with problem.session(seed=0), torch.no_grad():
        observed = numpy(Joint(problem).observations())
    for one in problem.absent.values():
        observed[one.site] = np.where(one.mask.cpu().numpy(), np.nan, observed[one.site])
    values = {n: v.detach().cpu().numpy() for n, v in problem.columns.items()}
    constant = {n: v for n, v in values.items() if not any(v is o or _same(v, o) for o in observed.values())}
    named = {n: _argument_dims(problem, n, v.shape) for n, v in constant.items()}
    groups = {}
    coords = Dimensions(problem).coords()
    if observed:
        groups["observed_data"] = site_dataset(observed, dims, attrs=attrs, coords=coords, sample_dims=())
    if constant:
        groups["constant_data"] = site_dataset(constant, named, attrs=attrs, coords=coords, sample_dims=())
    return {name: described(group, problem, problem.codes) for name, group in groups.items()}


def described(dataset: xr.Dataset, problem: Problem, codes: Mapping[str, Code]) -> xr.Dataset:
    """A dataset whose variables say in their attributes which labels or dates their numbers stand for.

    Args:
        dataset: variables by argument, by column of a table that is one argument, or by observed site.
        problem: the problem.
        codes: what numbers stand for, by argument or place in it.
    """
    if not codes:
        return dataset
    named = dict(named_leaves(problem.arguments))
    observed: dict[str, Tensor] = {}
    if any(isinstance(code, Levels) for code in codes.values()):
        with problem.session(seed=0), torch.no_grad():
            observed = Joint(problem).observations()
    for place, code in codes.items():
        leaf = named.get(place)
        sites = [name for name, value in observed.items() if value is leaf]
        for name in (*(n for n, v in problem.columns.items() if v is leaf), *sites):
            if leaf is not None and variable(name) in dataset:
                dataset[variable(name)].attrs.update(code.attrs())
    return dataset


def _same(a: Array, b: Array) -> bool:
    return a.shape == b.shape and bool(np.array_equal(a, b, equal_nan=a.dtype.kind == "f" and b.dtype.kind == "f"))


def optimization_dataset(history: History, num_particles: int, batch_size: int | None) -> Any:
    """The course of the optimisation: group ``optimization``."""
    import xarray as xr

    loss = np.asarray(history.losses, dtype=float)
    variables = {"loss": loss, "elbo": -loss, "learning_rate": np.asarray(history.rates, dtype=float)}
    errors = np.asarray(history.errors, dtype=float)
    looks = np.asarray(history.validation, dtype=float).reshape(-1, 2)
    if len(errors) and np.isfinite(errors).any():
        variables["elbo_mcse"] = errors
    attrs = {
        "converged": int(history.converged),
        "interrupted": int(history.interrupted),
        "stop_reason": history.reason,
        "num_particles": num_particles,
        "batch_size": batch_size or 0,
        "skipped_steps": history.skipped,
    }
    columns: dict[str, object] = {n: ("step", v) for n, v in variables.items()}
    coords: dict[str, Any] = {"step": np.arange(len(loss))}
    if len(looks):
        columns["validation_loss"], coords["validation_step"] = (
            ("validation_step", looks[:, 1]),
            looks[:, 0].astype(int),
        )
    return xr.Dataset(columns, coords=coords, attrs=attrs | history.attrs)


def named_dims(problem: Problem) -> dict[str, list[str]]:
    """Dimension names by site; a plate called like a variable is renamed, since xarray has one name space for both."""
    shown = Dimensions(problem)
    return {site: [shown(dim) for dim in names] for site, names in problem.dims.items()}


def quantity_dims(problem: Problem, name: str, values: Tensor) -> list[str]:
    """The names of a quantity's dimensions: those that the model gives, else its own."""
    shape = tuple(values.shape[1:])
    return [*map(Dimensions(problem), name_dims(name, shape, len(shape), [], problem.info.dims.get(name)))]


def unconstrained_dims(problem: Problem, dims: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """A site's own names where unconstraining keeps its shape, and names of its own where it does not."""
    named, shown = {}, Dimensions(problem)
    for site in problem.continuous:
        shape = site.unconstrained_shape or ()
        if shape == site.shape:
            named[site.name] = dims[site.name]
        else:
            kept = [d for d, a, b in zip(dims[site.name], site.shape, shape, strict=False) if a == b]
            lost = len(shape) - len(kept)
            named[site.name] = kept[: len(shape)] + [
                shown(f"{site.name}_unconstrained_dim_{i}") for i in range(max(lost, 0))
            ]
    return named


def _argument_dims(problem: Problem, name: str, shape: tuple[int, ...]) -> list[str]:
    """Names a data argument's rows by the one plate of that length."""
    given, shown = problem.info.dims.get(name), Dimensions(problem)
    if given is not None and len(given) == len(shape):
        return [*map(shown, given)]
    plates = [plate.name for plate in problem.plates.values() if shape and plate.size == shape[0]]
    names = [f"{name}_dim_{i}" for i in range(len(shape))]
    return [*map(shown, plates + names[1:] if len(plates) == 1 else names)]
