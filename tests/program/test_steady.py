from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints

import pyrolvm as lvm

Y = torch.tensor([1.2, 0.4, 0.9, 1.7, 0.1])


def mean(y):
    level = pyro.sample("level", dist.Normal(0.0, 2.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(level, 1.0), obs=y)


def steady(y):
    scale = pyro.param("scale", torch.tensor(0.5), constraint=constraints.positive)
    pyro.sample("level", dist.Normal(pyro.param("at", torch.tensor(0.0)), scale))


def every(period: int) -> Callable[[], bool]:
    calls = itertools.count(1)
    return lambda: next(calls) % period == 0


def leaves_out(period: int) -> Callable[..., Any]:
    odd = every(period)

    def guide(y):
        if not odd():
            steady(y)

    return guide


def adds(period: int) -> Callable[..., Any]:
    odd = every(period)

    def guide(y):
        steady(y)
        if odd():
            pyro.sample("more", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})

    return guide


def fewer_rows(period: int) -> Callable[..., Any]:
    odd = every(period)

    def model(y):
        mean(y[:-1] if odd() else y)

    return model


def shifted(period: int) -> Callable[..., Any]:
    odd = every(period)

    def model(y):
        mean(y + 0.5 if odd() else y)

    return model


def noisy(period: int) -> Callable[..., Any]:
    def model(y):
        mean(y)
        pyro.factor("noise", torch.randn(()))

    return model


def fit(model: Any, guide: Any, **options: Any) -> lvm.Fit:
    return lvm.fit(
        lvm.Problem(model, Y), guide, **{"max_steps": 120, "draws": 100, "engine": "pyro", "progress": False, **options}
    )


@pytest.mark.parametrize("make", [leaves_out, adds], ids=lambda make: make.__name__)
@pytest.mark.parametrize("engine", ["c", "pyro"])
def test_a_guide_that_changes_within_a_few_runs_is_refused_before_the_first_step(make, engine):
    steps: list[Any] = []
    with pytest.raises(
        lvm.GuideError, match=r"not the same in every run: site '(level|more)' is there in \d of 8 runs"
    ):
        fit(mean, make(6), engine=engine, callbacks=[steps.append])
    assert not steps


@pytest.mark.parametrize("make", [fewer_rows, shifted, noisy], ids=lambda make: make.__name__)
@pytest.mark.parametrize(
    "run", [lambda problem: lvm.fit(problem, steady, progress=False), lvm.nuts], ids=["fit", "nuts"]
)
def test_a_model_that_changes_is_refused_by_what_changes(make, run):
    told = {"fewer_rows": "plate 'rows' is of", "shifted": "site 'y' observes other", "noisy": "log density is"}[
        make.__name__
    ]
    with pytest.raises(lvm.ProblemError, match=told):
        run(lvm.Problem(make(5), Y))


def test_a_model_that_changes_is_refused_by_a_few_of_its_rows():
    with pytest.raises(lvm.ProblemError, match="site 'y' observes other"):
        lvm.fit(lvm.Problem(shifted(5), Y.repeat(40)), steady, batch_size=16, progress=False)


def test_a_fit_by_batches_is_compared_with_itself_on_batches():
    rows: list[int] = []

    def model(y):
        rows.append(len(y))
        mean(y)

    def runs(**options: Any) -> int:
        rows.clear()
        lvm.fit(
            lvm.Problem(model, Y.repeat(40)), steady, max_steps=20, draws=2, engine="pyro", progress=False, **options
        )
        return rows.count(200)

    assert (
        runs(batch_size=16) < runs() - 20 - 2 * 8
    )  # steps, and comparisons before and after them, are on all rows there


@pytest.mark.parametrize("make", [leaves_out, adds], ids=lambda make: make.__name__)
def test_a_guide_that_changes_rarely_is_found_over_its_own_steps(make):
    found = fit(mean, make(50))
    assert found.verdict.status == "failed"
    assert any("came or went from step to step" in reason.text for reason in found.verdict.reasons)


@pytest.mark.parametrize("make", [fewer_rows, shifted], ids=lambda make: make.__name__)
def test_observations_that_change_rarely_are_found_over_the_steps(make):
    found = fit(make(45), steady)
    assert found.verdict.status == "failed"
    assert any("observed other values: `y`" in reason.text for reason in found.verdict.reasons)


def test_a_guide_that_changes_at_what_it_reached_fails():
    def guide(y):
        at = pyro.param("at", torch.tensor(0.0))
        pyro.sample("level", dist.Normal(at, 0.4))
        if at > 0.5 and random.random() < 0.5:
            pyro.sample("more", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})

    found = fit(mean, guide, max_steps=200)
    assert found.verdict.status == "failed"


def test_what_is_the_same_in_every_run_passes():
    found = fit(mean, steady)
    assert "program_changes" not in found.data["posterior"].attrs
    assert found.data["sample_stats"].attrs["afresh_draws"] == 3


def test_an_observation_made_of_latents_is_no_change():
    def model(y):
        level = pyro.sample("level", dist.Normal(0.0, 2.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("rest", dist.Normal(0.0, 1.0), obs=y - level)

    found = fit(model, steady)
    assert found.verdict.status != "failed"


def wide(y):
    pyro.sample("mu", dist.Normal(pyro.param("m", torch.tensor(1.0)), 0.2))
    pyro.sample("sigma", dist.Normal(pyro.param("s", torch.tensor(1.0), constraint=constraints.positive), WIDTH))


WIDTH = 0.05


def uniform(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    sigma = pyro.sample("sigma", dist.Uniform(0.0, 10.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(mu, sigma), obs=y)


@pytest.mark.parametrize("engine", ["c", "pyro"])
def test_a_support_that_is_wider_without_mass_outside_is_a_warning(engine):
    with pytest.warns(lvm.PyrolvmWarning, match="wider than the model's support.*none of its draws lies outside"):
        found = fit(uniform, wide, engine=engine)
    assert found.verdict.status == "doubtful"
    assert "outside_support" not in found.data["posterior"].attrs


def test_mass_that_does_lie_outside_is_refused_with_its_share(monkeypatch):
    monkeypatch.setitem(globals(), "WIDTH", 1.0)
    with pytest.raises(lvm.GuideError, match=r"1\d\.\d% of its draws lie outside"):
        fit(uniform, wide)


def test_draws_that_fell_out_have_no_weight_and_are_named_by_their_share():
    def model(y):
        rate = pyro.sample("rate", dist.Exponential(1.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(rate, 1.0), obs=y)

    def guide(y):
        pyro.sample("rate", dist.Normal(pyro.param("m", torch.tensor(2.0)), 0.4))

    data = torch.full((5,), -0.3)
    with pytest.warns(lvm.PyrolvmWarning, match="wider than"):
        found = lvm.fit(lvm.Problem(model, data), guide, max_steps=400, draws=400, progress=False)
    outside = found.data["posterior"]["rate"].values < 0
    assert outside.mean() > 0.1
    assert (found.log_p[outside] == -float("inf")).all()
    assert found.verdict.status == "failed"
    assert found.verdict.reasons[0].text.startswith(f"{outside.mean():.2%} of the draws lie outside")
