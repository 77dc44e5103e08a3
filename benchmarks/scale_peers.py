"""Problems of ``scale.py`` as programs in NumPyro, and its NUTS on them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import common
import numpy as np

import pyrolvm as lvm

NATIVE = "numpyro"
"""The method that is a peer: a program in its own language."""


def native_contraception(laws: Any, numpyro: Any, district: Any, urban: Any, x: Any, y: Any) -> Callable[..., None]:
    """The program of :func:`contraception` in NumPyro."""

    def model() -> None:
        a = numpyro.sample("a", laws.Normal(0.0, 2.0))
        b = numpyro.sample("b", laws.Normal(0.0, 1.0).expand([4]).to_event(1))
        sd = numpyro.sample("sd", laws.HalfNormal(1.0).expand([2]).to_event(1))
        factor = numpyro.sample("factor", laws.LKJCholesky(2, 2.0))
        with numpyro.plate("districts", int(district.max()) + 1):
            z = numpyro.sample("z", laws.Normal(0.0, 1.0).expand([2]).to_event(1))
        line = z @ (sd[:, None] * factor).T
        logits = a + x @ b + line[district, 0] + line[district, 1] * urban
        numpyro.sample("y", laws.Bernoulli(logits=logits), obs=y)

    return model


def native_verb_agg(laws: Any, numpyro: Any, person: Any, item: Any, x: Any, y: Any) -> Callable[..., None]:
    """The program of :func:`verb_agg` in NumPyro."""

    def model() -> None:
        a = numpyro.sample("a", laws.Normal(0.0, 2.0))
        b = numpyro.sample("b", laws.Normal(0.0, 1.0).expand([2]).to_event(1))
        tau = numpyro.sample("tau", laws.HalfNormal(1.5).expand([2]).to_event(1))
        with numpyro.plate("persons", int(person.max()) + 1):
            able = numpyro.sample("able", laws.Normal(0.0, tau[0]))
        with numpyro.plate("items", int(item.max()) + 1):
            easy = numpyro.sample("easy", laws.Normal(0.0, tau[1]))
        numpyro.sample("y", laws.Bernoulli(logits=a + x @ b + able[person] + easy[item]), obs=y)

    return model


def native_gu_immun(laws: Any, numpyro: Any, home: Any, mother: Any, x: Any, y: Any) -> Callable[..., None]:
    """The program of :func:`gu_immun` in NumPyro, non-centred: one or two answers say little of a mother."""

    def model() -> None:
        a = numpyro.sample("a", laws.Normal(0.0, 2.0))
        b = numpyro.sample("b", laws.Normal(0.0, 2.0).expand([3]).to_event(1))
        tau = numpyro.sample("tau", laws.HalfNormal(2.0).expand([2]).to_event(1))
        with numpyro.plate("places", int(home.max()) + 1):
            of_place = numpyro.sample("of_place", laws.Normal(0.0, 1.0))
        with numpyro.plate("mothers", len(home)):
            of_mother = numpyro.sample("of_mother", laws.Normal(0.0, 1.0))
        at_mother = tau[0] * of_place[home] + tau[1] * of_mother
        numpyro.sample("y", laws.Bernoulli(logits=a + x @ b + at_mother[mother]), obs=y)

    return model


def native_chem97(laws: Any, numpyro: Any, home: Any, school: Any, x: Any, y: Any) -> Callable[..., None]:
    """The program of :func:`chem97` in NumPyro: non-centred areas, which hardly differ, and centred schools of thirteen pupils."""

    def model() -> None:
        a, b = numpyro.sample("a", laws.Normal(0.0, 2.0)), numpyro.sample("b", laws.Normal(0.0, 2.0))
        tau = numpyro.sample("tau", laws.HalfNormal(1.0).expand([2]).to_event(1))
        sigma = numpyro.sample("sigma", laws.HalfNormal(1.0))
        with numpyro.plate("areas", int(home.max()) + 1):
            of_area = numpyro.sample("of_area", laws.Normal(0.0, 1.0))
        with numpyro.plate("schools", len(home)):
            at_school = numpyro.sample("at_school", laws.Normal(tau[0] * of_area[home], tau[1]))
        numpyro.sample("y", laws.Normal(a + b * x + at_school[school], sigma), obs=y)

    return model


def native_slopes(laws: Any, numpyro: Any, group: Any, x: Any, y: Any) -> Callable[..., None]:
    """The program of :func:`slopes` in NumPyro, non-centred."""

    def model() -> None:
        b = numpyro.sample("b", laws.Normal(0.0, 2.0).expand([2]).to_event(1))
        sd = numpyro.sample("sd", laws.HalfNormal(1.0).expand([2]).to_event(1))
        factor = numpyro.sample("factor", laws.LKJCholesky(2, 2.0))
        with numpyro.plate("groups", int(group.max()) + 1):
            z = numpyro.sample("z", laws.Normal(0.0, 1.0).expand([2]).to_event(1))
        line = z @ (sd[:, None] * factor).T
        numpyro.sample("y", laws.Bernoulli(logits=b[0] + line[group, 0] + (b[1] + line[group, 1]) * x), obs=y)

    return model


def native_mixed(laws: Any, numpyro: Any, x: Any, group: Any, y: Any) -> Callable[..., None]:
    """The program of :func:`mixed` in NumPyro: centred groups, each of which has a hundred rows."""

    def model() -> None:
        a = numpyro.sample("a", laws.Normal(0.0, 2.0))
        b = numpyro.sample("b", laws.Normal(0.0, 1.0).expand([20]).to_event(1))
        tau = numpyro.sample("tau", laws.HalfNormal(1.0))
        with numpyro.plate("groups", int(group.max()) + 1):
            effect = numpyro.sample("effect", laws.Normal(0.0, tau))
        numpyro.sample("y", laws.Bernoulli(logits=a + x @ b + effect[group]), obs=y)

    return model


def native_questions(laws: Any, numpyro: Any, y: Any) -> Callable[..., None]:
    """The program of :func:`questions` in NumPyro."""

    def model() -> None:
        with numpyro.plate("items", y.shape[1]):
            hard = numpyro.sample("hard", laws.Normal(0.0, 2.0))
            steep = numpyro.sample("steep", laws.LogNormal(0.0, 0.5))
        with numpyro.plate("persons", len(y)):
            able = numpyro.sample("able", laws.Normal(0.0, 1.0))
        numpyro.sample("y", laws.Bernoulli(logits=steep * (able[:, None] - hard)), obs=y)

    return model


def native_volatility(laws: Any, numpyro: Any, y: Any) -> Callable[..., None]:
    """The program of :func:`volatility` in NumPyro, in its shocks, which mix better than the path does."""
    import jax
    import jax.numpy as jnp

    def model() -> None:
        mean = numpyro.sample("mean", laws.Normal(0.0, 2.0))
        stays = numpyro.sample("stays", laws.Beta(20.0, 1.5))
        shock = numpyro.sample("shock", laws.HalfNormal(0.5))
        with numpyro.plate("days", len(y)):
            z = numpyro.sample("z", laws.Normal(0.0, 1.0))
        first = z[0] * shock / jnp.sqrt(1 - stays**2)

        def step(away: Any, one: Any) -> tuple[Any, Any]:
            away = stays * away + shock * one
            return away, away

        _, path = jax.lax.scan(step, first, z[1:])
        log_vol = mean + jnp.concatenate([first[None], path])
        numpyro.sample("y", laws.Normal(0.0, jnp.exp(log_vol / 2)), obs=y)

    return model


def native_walk(laws: Any, numpyro: Any, y: Any, seen: Any) -> Callable[..., None]:
    """The program of :func:`walk` in NumPyro, by its levels, of which counts say more than their neighbours do."""
    import jax.numpy as jnp

    def model() -> None:
        start = numpyro.sample("start", laws.Normal(3.0, 1.0))
        scale = numpyro.sample("scale", laws.HalfNormal(0.2))
        away = numpyro.sample("away", laws.GaussianRandomWalk(scale, num_steps=len(y)))
        with numpyro.handlers.mask(mask=seen):
            numpyro.sample("y", laws.Poisson(jnp.exp(start + away)), obs=y)

    return model


def native_grid(laws: Any, numpyro: Any, one: Any, other: Any, people: Any, y: Any) -> Callable[..., None]:
    """The program of :func:`grid` in NumPyro."""
    import jax.numpy as jnp

    def model() -> None:
        precision = numpyro.sample("precision", laws.Gamma(1.0, 0.05))
        risk = numpyro.sample("risk", laws.ImproperUniform(laws.constraints.real, (), (len(y),)))
        numpyro.factor("rank", 0.5 * (len(y) - 1) * jnp.log(precision))
        numpyro.factor("alike", -0.5 * precision * jnp.sum((risk[one] - risk[other]) ** 2))
        numpyro.sample("y", laws.Poisson(people * jnp.exp(risk)), obs=y)

    return model


NATIVES: dict[str, Callable[..., Callable[..., None]]] = {
    "contraception": native_contraception, "verb_agg": native_verb_agg, "gu_immun": native_gu_immun, "chem97": native_chem97,
    "slopes": native_slopes, "mixed": native_mixed, "questions": native_questions, "volatility": native_volatility,
    "walk": native_walk, "grid": native_grid,
}  # fmt: skip

CHAINS = {"mixed": (1, 300), "questions": (1, 500), "volatility": (2, 500), "walk": (2, 500), "grid": (2, 500)}
"""Chains, and transitions of each before and after adaptation ends, where four of a thousand take hours: an effective draw takes
about the same."""


def by_numpyro(name: str, problem: lvm.Problem, shared: list[str], seed: int) -> tuple[common.Row, dict[str, Any]]:
    """Chains of NumPyro's NUTS on its own program, four of a thousand as a rule, and the moments of its globals."""
    import jax
    import numpyro
    from numpyro.infer import MCMC, NUTS

    row: common.Row = {"problem": name, "method": NATIVE, "unknowns": problem.unconstrained_size}
    wall, cpu = time.perf_counter(), time.process_time()
    with jax.enable_x64(True):
        data = [np.asarray(value) for value in problem.args]
        kernel = NUTS(NATIVES[name](numpyro.distributions, numpyro, *data))
        count, draws = CHAINS.get(name, (4, 1_000))
        chains = MCMC(
            kernel, num_warmup=draws, num_samples=draws, num_chains=count, chain_method="sequential", progress_bar=False
        )
        chains.run(jax.random.PRNGKey(seed))
        every = {key: np.asarray(value) for key, value in chains.get_samples(group_by_chain=True).items()}
        drawn = {
            key: value for key, value in every.items() if key in shared
        } or every  # where all unknowns are in plates
    summary = numpyro.diagnostics.summary(drawn)
    worst = {key: np.concatenate([np.ravel(one[key]) for one in summary.values()]) for key in ("n_eff", "r_hat")}
    row |= {
        "rows": max(site.numel for site in problem.observed), "seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu, "ess": float(np.nanmin(worst["n_eff"])), "answer": "NUTS", "chains": count,
        "draws": draws,
        "status": f"R-hat {np.nanmax(worst['r_hat']):.3f}",
    }  # fmt: skip
    return row, {key: (value.mean((0, 1)), value.std((0, 1))) for key, value in drawn.items()}
