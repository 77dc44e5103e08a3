"""Converters from Pyro to DataTree, for arviz-base: ``from_pyro`` for MCMC, ``from_pyro_svi`` for a fitted guide.

It needs arviz-base, Pyro, torch and NumPy, and nothing of pyrolvm: meant to be offered as ``arviz_base/io_pyro.py``, with the tests
that lie beside it. Names of arguments and groups are those of ``from_numpyro``. Dimensions come from the model's plates, by name, where
the model is given; arguments ``dims`` and ``coords`` come before them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from arviz_base import from_dict

if TYPE_CHECKING:
    from xarray import DataTree

__all__ = ["from_pyro", "from_pyro_svi"]

Model = Callable[..., Any]
Arrays = dict[str, np.ndarray]


def from_pyro(
    posterior: Any,
    *,
    model: Model | None = None,
    model_args: Sequence[Any] = (),
    model_kwargs: Mapping[str, Any] | None = None,
    prior: Mapping[str, Any] | None = None,
    posterior_predictive: Mapping[str, Any] | None = None,
    predictions: Mapping[str, Any] | None = None,
    log_likelihood: bool = True,
    coords: Mapping[str, Any] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
) -> DataTree:
    """Convert what Pyro's MCMC sampled.

    Args:
        posterior: a ``pyro.infer.MCMC`` that was run, or samples by site, shape ``(chain, draw, *shape)``.
        model: the model, for observed data, log likelihoods and the names of plates.
        model_args: its positional arguments.
        model_kwargs: its keyword arguments.
        prior: samples of the prior and its predictions, shape ``(draw, *shape)``, as ``pyro.infer.Predictive`` gives them.
        posterior_predictive: samples of observed sites, shape ``(chain * draw, *shape)``.
        predictions: samples at new arguments, likewise.
        log_likelihood: whether to compute log likelihoods by element; it runs the model once for each draw.
        coords: labels along dimensions.
        dims: names of the dimensions of a site but for chain and draw.

    Returns:
        A DataTree with groups ``posterior``, ``sample_stats`` (divergences), ``log_likelihood``, ``observed_data`` and those given.
    """
    samples = posterior if isinstance(posterior, Mapping) else posterior.get_samples(group_by_chain=True)
    draws = {name: _array(value) for name, value in samples.items()}
    groups: dict[str, Any] = {"posterior": draws}
    stats = {} if isinstance(posterior, Mapping) else _divergences(posterior, draws)
    if stats:
        groups["sample_stats"] = stats
    return _tree(
        groups, "mcmc", model, model_args, model_kwargs, prior, posterior_predictive, predictions, log_likelihood, coords, dims
    )  # fmt: skip


def from_pyro_svi(
    guide: Model,
    *,
    model: Model | None = None,
    model_args: Sequence[Any] = (),
    model_kwargs: Mapping[str, Any] | None = None,
    num_samples: int = 1000,
    losses: Sequence[float] | None = None,
    prior: Mapping[str, Any] | None = None,
    posterior_predictive: Mapping[str, Any] | None = None,
    predictions: Mapping[str, Any] | None = None,
    log_likelihood: bool = True,
    coords: Mapping[str, Any] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
) -> DataTree:
    """Convert a guide that was fitted by SVI: draws of it are independent, one chain, and have no R-hat.

    Args:
        guide: the guide, as it is after the fit.
        model: as in :func:`from_pyro`; with it ``sample_stats`` has the log densities of model and guide, ``lp`` and ``log_q``, whose
            difference is the log importance weight.
        model_args: arguments of model and guide.
        model_kwargs: their keyword arguments.
        num_samples: draws to take.
        losses: the loss at each step, for group ``optimization``.
        prior: as in :func:`from_pyro`.
        posterior_predictive: samples of observed sites, shape ``(num_samples, *shape)``.
        predictions: samples at new arguments, likewise.
        log_likelihood: whether to compute log likelihoods by element.
        coords: labels along dimensions.
        dims: names of the dimensions of a site but for chain and draw.

    Returns:
        A DataTree with groups ``posterior``, ``sample_stats``, ``log_likelihood``, ``observed_data``, ``optimization`` and those given.
    """
    draws, stats = _of_guide(guide, model, model_args, dict(model_kwargs or {}), num_samples)
    groups: dict[str, Any] = {"posterior": draws, **({"sample_stats": stats} if stats else {})}
    tree = _tree(
        groups, "svi", model, model_args, model_kwargs, prior, posterior_predictive, predictions, log_likelihood, coords, dims
    )  # fmt: skip
    if losses is not None:
        import xarray as xr

        values = np.asarray(losses, dtype=float)
        tree["optimization"] = xr.DataTree(
            xr.Dataset({"loss": ("step", values)}, coords={"step": np.arange(len(values))})
        )
    return tree


def _tree(
    groups: dict[str, Any],
    method: str,
    model: Model | None,
    model_args: Sequence[Any],
    model_kwargs: Mapping[str, Any] | None,
    prior: Mapping[str, Any] | None,
    posterior_predictive: Mapping[str, Any] | None,
    predictions: Mapping[str, Any] | None,
    log_likelihood: bool,
    coords: Mapping[str, Any] | None,
    dims: Mapping[str, Sequence[str]] | None,
) -> DataTree:
    """Add what follows from the model and what is given, with names of dimensions."""
    named: dict[str, list[str]] = {}
    draws = groups["posterior"]
    chains, count = next(iter(draws.values())).shape[:2]
    if model is not None:
        kwargs = dict(model_kwargs or {})
        sites = _sites(model, model_args, kwargs)
        named = {name: _plates(site) for name, site in sites.items()}
        observed = {name: _array(site["value"]) for name, site in sites.items() if _is_data(site)}
        if log_likelihood and observed:
            groups["log_likelihood"] = _log_likelihood(model, model_args, kwargs, draws, list(observed))
        if observed:
            groups["observed_data"] = observed
    if posterior_predictive is not None:
        groups["posterior_predictive"] = _by_chain(posterior_predictive, chains, count)
    if predictions is not None:
        groups["predictions"] = _by_chain(predictions, chains, count)
    if prior is not None:
        known = groups.get("observed_data", {})
        arrays = {name: _array(value)[None] for name, value in prior.items()}
        groups["prior"] = {name: value for name, value in arrays.items() if name not in known}
        predictive = {name: value for name, value in arrays.items() if name in known}
        if predictive:
            groups["prior_predictive"] = predictive
    shapes = {name: value.shape[2:] for name, value in draws.items()}
    shapes |= {name: value.shape for name, value in groups.get("observed_data", {}).items()}
    full = {name: _full(name, named[name], shape) for name, shape in shapes.items() if name in named}
    full |= {name: list(value) for name, value in (dims or {}).items()}
    tree = from_dict(groups, coords=dict(coords or {}), dims=full)
    for group in tree.children.values():
        group.attrs |= {"inference_library": "pyro", "inference_method": method}
    return tree


def _is_data(site: Mapping[str, Any]) -> bool:
    """Whether a site is observed, as deterministic ones are in name only."""
    return bool(site["is_observed"]) and not site["infer"].get("_deterministic", False)


def _array(value: Any) -> np.ndarray:
    return value.detach().cpu().numpy() if hasattr(value, "detach") else np.asarray(value)


def _by_chain(samples: Mapping[str, Any], chains: int, count: int) -> Arrays:
    arrays = {name: _array(value) for name, value in samples.items()}
    return {name: value.reshape(chains, count, *value.shape[1:]) for name, value in arrays.items()}


def _divergences(mcmc: Any, draws: Arrays) -> Arrays:
    """Which draws diverged, as Pyro's diagnostics list them by chain."""
    found = mcmc.diagnostics().get("divergences")
    if found is None:
        return {}
    diverging = np.zeros(next(iter(draws.values())).shape[:2], dtype=bool)
    for chain, places in enumerate(found.values()):
        diverging[chain, list(places)] = True
    return {"diverging": diverging}


def _sites(model: Model, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The model's sample and deterministic sites but for subsamples of plates."""
    import torch
    from pyro import poutine

    with torch.no_grad(), poutine.block():
        trace = poutine.trace(model).get_trace(*args, **kwargs)
    nodes = trace.nodes.items()
    return {
        name: node for name, node in nodes if node["type"] == "sample" and type(node["fn"]).__name__ != "_Subsample"
    }


def _plates(site: Mapping[str, Any]) -> list[str]:
    """Names of the plates around a site, from the left."""
    stack = sorted((frame for frame in site["cond_indep_stack"] if frame.vectorized), key=lambda frame: frame.dim)
    return [frame.name for frame in stack]


def _full(name: str, plates: Sequence[str], shape: Sequence[int]) -> list[str]:
    """A name for each dimension: plates first, then those of the event."""
    named = [f"{plate}_dim" if plate == name else plate for plate in plates[: len(shape)]]
    return named + [f"{name}_dim_{i}" for i in range(len(shape) - len(named))]


def _log_likelihood(
    model: Model, args: Sequence[Any], kwargs: Mapping[str, Any], draws: Arrays, observed: Sequence[str]
) -> Arrays:
    """The log density of each observed element, shape ``(chain, draw, *batch)``."""
    import torch
    from pyro import poutine

    chains, count = next(iter(draws.values())).shape[:2]
    found: dict[str, list[np.ndarray]] = {name: [] for name in observed}
    for chain, draw in np.ndindex(chains, count):
        values = {name: torch.as_tensor(array[chain, draw]) for name, array in draws.items()}
        with torch.no_grad(), poutine.block():
            trace = poutine.trace(poutine.condition(model, data=values)).get_trace(*args, **kwargs)
            for name in observed:
                node = trace.nodes[name]
                found[name].append(_array(node["fn"].log_prob(node["value"])))
    return {name: np.stack(parts).reshape(chains, count, *parts[0].shape) for name, parts in found.items()}


def _of_guide(
    guide: Model, model: Model | None, args: Sequence[Any], kwargs: dict[str, Any], count: int
) -> tuple[Arrays, Arrays]:
    """Draws of a guide, and the log densities of guide and model at them."""
    import torch
    from pyro import poutine

    values: dict[str, list[np.ndarray]] = {}
    stats: dict[str, list[float]] = {"log_q": [], "lp": []}
    for _ in range(count):
        with torch.no_grad(), poutine.block():
            trace = poutine.trace(guide).get_trace(*args, **kwargs)
            nodes = {name: node for name, node in trace.nodes.items() if node["type"] == "sample"}
            if model is not None:
                both = poutine.trace(poutine.replay(model, trace=trace)).get_trace(*args, **kwargs)
                stats["log_q"].append(float(trace.log_prob_sum()))
                stats["lp"].append(float(both.log_prob_sum()))
                wanted = {n: one for n, one in both.nodes.items() if one["type"] == "sample" and not _is_data(one)}
                nodes = {n: one for n, one in wanted.items() if type(one["fn"]).__name__ != "_Subsample"}
        for name, node in nodes.items():
            if not node.get("infer", {}).get("is_auxiliary", False):
                values.setdefault(name, []).append(_array(node["value"]))
    draws = {name: np.stack(parts)[None] for name, parts in values.items()}
    return draws, {name: np.asarray(parts)[None] for name, parts in stats.items() if parts}
