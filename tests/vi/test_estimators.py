"""The report on gradient estimators, and discrete sites made continuous."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.distributions import constraints

import pyrolvm as lvm

Y = torch.tensor([0.3, 1.2, -0.4, 2.0], dtype=torch.float64)


def model(y: Tensor) -> None:
    weight = pyro.param("weight", y.new_tensor(1.3))
    with pyro.plate("row", len(y)):
        z = pyro.sample("z", dist.Normal(y.new_tensor(0.0), 1.0))
        pyro.sample("y", dist.Normal(weight * z, 0.5), obs=y)


def guide(y: Tensor) -> None:
    slope = pyro.param("slope", y.new_tensor(0.55))
    sd = pyro.param("sd", y.new_tensor(0.5), constraint=constraints.positive)
    with pyro.plate("row", len(y)):
        pyro.sample("z", dist.Normal(slope * y, sd))


def switch(y: Tensor) -> None:
    logit = pyro.param("prior", y.new_tensor(0.2))
    with pyro.plate("row", len(y)):
        on = pyro.sample("on", dist.Bernoulli(logits=logit))
        pyro.sample("y", dist.Normal(1.5 * on, 0.8), obs=y)


def switch_guide(y: Tensor) -> None:
    logits = pyro.param("logits", y.new_tensor([0.5, -0.3, 0.1, 1.0]))
    with pyro.plate("row", len(y)):
        pyro.sample("on", dist.Bernoulli(logits=logits))


def rates(y: Tensor) -> None:
    with pyro.plate("row", len(y)):
        rate = pyro.sample("rate", dist.Gamma(y.new_tensor(2.0), 1.0))
        pyro.sample("y", dist.Normal(rate, 1.0), obs=y)


def rates_guide(y: Tensor) -> None:
    shape = pyro.param("shape", y.new_tensor(3.0), constraint=constraints.positive)
    with pyro.plate("row", len(y)):
        pyro.sample("rate", dist.Gamma(shape, 2.0))


@pytest.fixture(scope="module")
def report() -> lvm.Estimators:
    return lvm.estimators(lvm.Problem(model, Y), guide, particles=(1, 8, 64), draws=2000)


@pytest.mark.slow
def test_estimators_without_bias_show_none_and_the_others_show_theirs(report: lvm.Estimators) -> None:
    biased = report.table["estimator"].isin(["weighted, sticking the landing", "weighted, wake"])
    assert float(report.table.loc[~biased, "z"].max()) < 3.5
    assert float(report.table.loc["weighted, wake, K=8", "z"]) > 10


def test_the_signal_of_the_guide_falls_with_draws_unless_doubly_reparameterised(report: lvm.Estimators) -> None:
    """Rainforth et al. (2018) for the plain gradient; Tucker et al. (2018) for the other."""
    snr = report.table["snr_guide"]
    assert snr["weighted, reparameterised, K=64"] < 0.7 * snr["weighted, reparameterised, K=8"]
    assert snr["weighted, doubly reparameterised, K=64"] > snr["weighted, doubly reparameterised, K=8"]
    model_side = report.table["snr_model"]
    assert model_side["weighted, reparameterised, K=64"] > model_side["weighted, reparameterised, K=8"]


def test_the_report_is_a_table_and_a_plot_and_repeats(report: lvm.Estimators) -> None:
    import matplotlib.pyplot as plt

    figure = report.plot()
    assert len(figure.axes) == 3
    plt.close(figure)
    assert "leave-one-out" in repr(report)
    assert (report.table[["variance", "seconds"]] > 0).all().all()
    one, other = (lvm.estimators(lvm.Problem(model, Y), guide, particles=[2], draws=50, seed=3) for _ in range(2))
    assert one.table.drop(columns="seconds").equals(other.table.drop(columns="seconds"))


def test_discrete_sites_are_scored_or_relaxed() -> None:
    table = lvm.estimators(lvm.Problem(switch, Y), switch_guide, particles=[4], draws=4000).table
    scored = table.loc[["ELBO, score function, K=4", "weighted, score function, K=4", "weighted, leave-one-out, K=4"]]
    assert float(scored["z"].max()) < 3.5
    assert (
        table.loc["weighted, leave-one-out, K=4", "variance"] < table.loc["weighted, score function, K=4", "variance"]
    )
    assert table.loc["ELBO, relaxed at 0.5, K=4", "z"] > 5  # of another model


def test_implicit_gradients_have_no_bias() -> None:
    table = lvm.estimators(lvm.Problem(rates, Y.abs()), rates_guide, particles=[2], draws=2000).table
    assert table.loc["ELBO, implicitly reparameterised, K=2", "z"] < 4
    assert table.loc["weighted, leave-one-out, K=2", "z"] < 4
    assert table.loc["weighted, doubly reparameterised, K=2", "z"] < 4


def test_a_fit_is_looked_at_where_it_is() -> None:
    fit = lvm.fit(lvm.Problem(model, Y), guide, max_steps=400, tolerance=0, draws=20, progress=False, engine="c")
    at_fit = lvm.estimators(fit, particles=[1], draws=500).gradients["ELBO, sticking the landing, K=1"]
    at_start = lvm.estimators(fit.attached, guide, particles=[1], draws=500).gradients[
        "ELBO, sticking the landing, K=1"
    ]
    assert float(at_fit.mean.norm()) < 0.3 * float(at_start.mean.norm())


def test_relaxed_values_lie_between_and_sharpen() -> None:
    def hot(y: Tensor) -> Tensor:
        return pyro.sample("which", dist.OneHotCategorical(logits=y).expand([200]).to_event(1))

    y = torch.tensor([0.2, 0.5, -0.3])
    torch.manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        warm, cold = lvm.relax(hot, 1.0)(y), lvm.relax(hot, 0.05)(y)
    assert torch.allclose(warm.sum(-1), torch.ones(200))
    assert float(cold.max(-1).values.mean()) > 0.95 > float(warm.max(-1).values.mean())
    assert torch.allclose(cold.mean(0), y.softmax(-1), atol=0.12)


def test_what_cannot_be_relaxed_is_refused() -> None:
    def integers(y: Tensor) -> None:
        pyro.sample("which", dist.Categorical(logits=y))

    with pytest.raises(lvm.GuideError, match=r"'which' is Categorical.*Fix"):
        lvm.relax(integers)(Y)
    with pytest.raises(lvm.ArgumentError, match="temperature"):
        lvm.relax(integers, 0.0)
    with pytest.raises(lvm.ArgumentError, match="particles"):
        lvm.estimators(lvm.Problem(model, Y), guide, particles=())
