"""ArviZ takes both kinds of results as they are: statistics, model comparison and plots."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import pyrolvm as lvm


@pytest.fixture(autouse=True)
def closed_figures() -> Iterator[None]:
    """No figure outlives its test."""
    yield
    from matplotlib import pyplot

    pyplot.close("all")


def test_summary(eight: Any) -> None:
    from arviz_stats import summary

    table = summary(eight.data, var_names=["mu", "tau", "theta"])
    assert len(table) == 10
    assert "theta[A]" in table.index
    mean = float(eight.data["posterior"]["mu"].mean())
    assert float(table.loc["mu", "mean"]) == pytest.approx(mean, abs=0.1)


def test_loo(eight: Any) -> None:
    from arviz_stats import loo

    with warnings.catch_warnings():
        # Eight schools with one observation each: Pareto k above its threshold is to be expected of any method.
        warnings.filterwarnings(
            "ignore", message="Estimated shape parameter of Pareto distribution", category=UserWarning
        )
        found = loo(eight.data, pointwise=True)
    assert found.n_data_points == 8
    assert found.elpd == pytest.approx(-31, abs=2.5)
    assert list(found.elpd_i.coords["school"].values) == list("ABCDEFGH")


def test_loo_approximate_posterior_takes_log_p_and_log_q_as_they_are(eight_fit: lvm.Fit) -> None:
    from arviz_stats import loo, loo_approximate_posterior

    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="Estimated shape parameter of Pareto distribution", category=UserWarning
        )
        found = loo_approximate_posterior(eight_fit.data, eight_fit.log_p, eight_fit.log_q, pointwise=True)
        naive = loo(eight_fit.data, pointwise=True)
    assert found.n_data_points == 8
    assert found.elpd == pytest.approx(-31, abs=2.5)
    assert found.elpd != naive.elpd  # the importance weights were used


def test_rhat_and_ess_of_chains(eight_chains: lvm.Chains) -> None:
    from arviz_stats import ess, rhat

    assert float(rhat(eight_chains.data)["mu"]) < 1.2
    assert float(ess(eight_chains.data)["mu"]) > 20


PLOTS: dict[str, Callable[[Any, Any], Any]] = {
    "forest": lambda az, data: az.plot_forest(data, var_names=["mu", "theta"], backend="matplotlib"),
    "trace_dist": lambda az, data: az.plot_trace_dist(data, var_names=["mu", "tau"], backend="matplotlib"),
    "dist": lambda az, data: az.plot_dist(data, var_names=["mu", "theta"], backend="matplotlib"),
    "pair": lambda az, data: az.plot_pair(data, var_names=["mu", "tau"], backend="matplotlib"),
    "ppc_dist": lambda az, data: az.plot_ppc_dist(data, backend="matplotlib", num_samples=20),
    "rank_or_trace": lambda az, data: az.plot_trace(data, var_names=["mu"], backend="matplotlib"),
}


def works_on_a_plain_dictionary(name: str) -> bool:
    """Whether the installed ArviZ draws this plot at all: 0.8 does not draw them all with the newest xarray."""
    import arviz_plots
    import numpy as np
    from arviz_base import from_dict

    draws = np.random.default_rng(0).normal(size=(2, 50))
    plain = from_dict({"posterior": {name: draws for name in ("mu", "tau")}})
    try:
        PLOTS[name](arviz_plots, plain)
    except TypeError as error:
        return "Passing a Dataset as `data_vars`" not in str(error)
    return True


@pytest.mark.parametrize("name", PLOTS)
def test_plots(eight: Any, name: str) -> None:
    import arviz_plots
    from matplotlib import pyplot

    if name == "trace_dist" and not works_on_a_plain_dictionary(name):
        pytest.skip("arviz-plots cannot draw it with this xarray, whoever made the data")

    with warnings.catch_warnings():
        # arviz-plots 0.8 asks matplotlib for things that it deprecates; nothing of ours.
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="arviz_plots|matplotlib|xarray")
        warnings.filterwarnings("ignore", category=PendingDeprecationWarning, module="arviz_plots|matplotlib")
        warnings.filterwarnings("ignore", category=FutureWarning, module="arviz_plots|xarray|arviz_stats")
        PLOTS[name](arviz_plots, eight.data)
    figures = pyplot.get_fignums()
    assert figures
    axes = pyplot.figure(figures[0]).axes
    assert axes
    assert any(axis.lines or axis.collections or axis.patches for axis in axes)


def test_energy_plot_of_chains(eight_chains: lvm.Chains) -> None:
    import arviz_plots

    assert arviz_plots.plot_energy(eight_chains.data, backend="matplotlib") is not None


def test_the_data_become_an_ordinary_dataset(eight: Any) -> None:
    from arviz_base import extract

    drawn = extract(eight.data, num_samples=20, random_seed=0)
    assert drawn["theta"].sizes["sample"] == 20


def test_comparison_of_both_results_by_elpd(eight_fit: lvm.Fit, eight_chains: lvm.Chains) -> None:
    """ArviZ compares a fit and chains of one model side by side."""
    from arviz_stats import compare

    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="Estimated shape parameter of Pareto distribution", category=UserWarning
        )
        # arviz-stats sorts in place, which pandas 3.1 deprecates.
        warnings.filterwarnings("ignore", message="The inplace keyword", module="arviz_stats")
        warnings.filterwarnings("ignore", message="The inplace keyword", module="pandas")
        table = compare({"fit": eight_fit.data, "nuts": eight_chains.data})
    assert set(table.index) == {"fit", "nuts"}
    assert abs(float(table["elpd"].diff().iloc[-1])) < 1.5
