from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

import pyrolvm as lvm

Y = torch.tensor([1.0, 3.0, 2.0, 4.0])


def rate(y):
    level = pyro.sample("level", dist.Normal(0.0, 2.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Poisson(level.exp()), obs=y)
    return level.exp()


def counts(y):
    mean = rate(y)
    with pyro.plate("ahead", 2):
        pyro.sample("new", dist.Poisson(mean * torch.tensor([1.0, 10.0])))


def chain(y):
    first = pyro.sample("first", dist.Poisson(rate(y)))
    second = pyro.sample("second", dist.Poisson(1 + first))
    pyro.sample("size", dist.Normal(first, 1.0))
    pyro.deterministic("total", first + second)


def several(y):
    share = torch.sigmoid(rate(y))
    pyro.sample("votes", dist.Multinomial(5, torch.tensor([0.2, 0.8])))
    with pyro.plate("towns", 2):
        pyro.sample("yes", dist.Binomial(torch.tensor([3.0, 7.0]), share))


def imputed(y):
    level = pyro.sample("level", dist.Normal(0.0, 2.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Poisson(level.exp()), obs=y, obs_mask=torch.tensor([True, True, True, False]))


def below_a_summed_one(y):
    rate(y)
    kind = pyro.sample("kind", dist.Bernoulli(0.5))
    pyro.sample("mark", dist.Normal(kind, 0.1), obs=torch.tensor(1.0))
    pyro.sample("new", dist.Poisson(1 + 100 * kind))


def continuous(y):
    pyro.sample("new", dist.Normal(rate(y), 0.3))


def read_by_the_data(y):
    count = pyro.sample("count", dist.Poisson(rate(y)))
    pyro.sample("seen", dist.Normal(float(count), 1.0), obs=torch.tensor(2.0))


def weighed_by_a_factor(y):
    count = pyro.sample("count", dist.Poisson(rate(y)))
    pyro.factor("weight", -((count - 2.0) ** 2))


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (counts, ["new"]),
        (chain, ["first", "second", "size"]),
        (several, ["votes", "yes"]),
        (imputed, ["y_unobserved"]),
        (below_a_summed_one, ["new"]),
        (continuous, []),
        (read_by_the_data, []),
        (weighed_by_a_factor, []),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_predicted_are_discrete_sites_that_no_density_depends_on_and_what_follows_from_them(model, names):
    assert [site.name for site in lvm.Problem(model, Y).predicted] == names


def test_predictions_are_drawn_from_their_conditional():
    problem = lvm.Problem(chain, Y)
    fit = lvm.fit(problem, max_steps=300, draws=2000, progress=False)
    drawn = fit.data["posterior"].to_dataset()
    assert fit.engine == "c"
    assert float(drawn["first"].mean()) == pytest.approx(float(Y.mean()), abs=0.5)
    assert float((drawn["second"] - drawn["first"]).mean()) == pytest.approx(1.0, abs=0.2)
    assert bool((drawn["total"] == drawn["first"] + drawn["second"]).all())
    assert {"first", "second", "size", "total"} <= set(fit.data["prior"].data_vars)
    assert "first" in fit.sample(3)


def test_their_density_is_none_of_the_posterior_s():
    fit = lvm.fit(lvm.Problem(counts, Y), "mean_field", max_steps=20, draws=2, progress=False)
    level = torch.as_tensor(fit.data["posterior"]["level"].values[0, 0])
    stock = poutine.trace(poutine.condition(rate, {"level": level})).get_trace(Y).log_prob_sum()
    assert stock.item() == pytest.approx(float(fit.log_p[0, 0]), abs=1e-4)


def test_a_guide_may_have_them_and_nuts_samples_the_rest():
    def guide(y):
        spread = pyro.param("spread", torch.tensor(0.3), constraint=dist.constraints.positive)
        pyro.sample("level", dist.Normal(pyro.param("mean", torch.tensor(0.5)), spread))
        with pyro.plate("ahead", 2):
            pyro.sample("new", dist.Poisson(pyro.param("rate", torch.tensor(100.0))))

    problem = lvm.Problem(counts, Y)
    fit = lvm.fit(problem, guide, max_steps=20, draws=200, progress=False)
    assert float(fit.data["posterior"]["new"].mean()) < 50
    chains = lvm.nuts(problem, chains=2, warmup=50, draws=50, progress=False)
    assert chains.data["posterior"]["new"].dims == ("chain", "draw", "ahead")


def test_a_count_that_data_depend_on_is_refused_by_name():
    with pytest.raises(lvm.GuideError, match="count"):
        lvm.fit(lvm.Problem(weighed_by_a_factor, Y), "mean_field", max_steps=5, progress=False)
