"""Engines of ``fit``: the same optimisation, whoever takes the steps."""

from __future__ import annotations

import itertools
import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDelta
from torch import Tensor

import pyrolvm as lvm
from pyrolvm._base.errors import CaptureError, PyrolvmWarning
from pyrolvm._capture.recorder import Reading
from pyrolvm._methods.fit.engines import ENGINES, c_engine

Short = Callable[..., lvm.Fit]
COMPILED = ("torch", "jax", "c")


def point(problem: lvm.Problem, engine: str, guide: Any = AutoDelta, **options: Any) -> lvm.Fit:
    """A fit without randomness, so that engines must agree step by step."""
    options = {"max_steps": 60, "tolerance": 0, "draws": 10, "progress": False, "num_particles": 1, **options}
    return lvm.fit(problem, guide, engine=engine, **options)


# --- the same steps ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_large_and_small_parameters_take_the_steps_of_stock_pyro(clip_norm: float | None) -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(20, 90, generator=generator), torch.randint(2, (20, 50), generator=generator).float()

    def classes(x: Tensor, y: Tensor, net: torch.nn.Module) -> None:
        pyro.module("net", net)
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Bernoulli(logits=net(x)).to_event(1), obs=y)

    net = torch.nn.Sequential(torch.nn.Linear(90, 50), torch.nn.Tanh(), torch.nn.Linear(50, 50))
    fits = [
        lvm.fit(
            lvm.Problem(classes, x, y, net),
            engine=engine,
            max_steps=20,
            clip_norm=clip_norm,
            learning_rate=0.01,
            progress=False,
        )
        for engine in ("pyro", "jax")
    ]
    assert fits[1].engine == "jax" and {p.numel() for p in net.parameters()} == {4500, 50, 2500}
    np.testing.assert_allclose(fits[1].losses, fits[0].losses, rtol=1e-4)
    for name, value in fits[0].params.items():
        torch.testing.assert_close(fits[1].params[name], value, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("engine", COMPILED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_engines_take_the_same_steps(make_data: Any, engine: str, dtype: torch.dtype) -> None:
    problem = lvm.Problem(normal, make_data(dtype))
    stock, compiled = point(problem, "pyro"), point(problem, engine)
    assert compiled.engine == engine
    tolerance = 1e-4 if dtype == torch.float32 else 1e-9
    np.testing.assert_allclose(compiled.losses, stock.losses, rtol=tolerance)
    for name, value in stock.params.items():
        assert compiled.params[name].dtype == dtype
        torch.testing.assert_close(compiled.params[name], value, rtol=tolerance, atol=tolerance)


@pytest.mark.slow
def test_parameters_without_a_dimension_move_as_others_do() -> None:
    def model(x: torch.Tensor) -> None:
        scale = pyro.param("scale", lambda: torch.tensor(0.5, dtype=x.dtype), constraint=dist.constraints.positive)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_tensor(0.0), 1.0))
            pyro.sample("x", dist.Normal(z, scale), obs=x)

    problem = lvm.Problem(model, torch.linspace(-3.0, 3.0, 12, dtype=torch.float64))
    stock, compiled = point(problem, "pyro"), point(problem, "torch")
    assert compiled.engine == "torch"
    assert stock.params["scale"].shape == ()
    for name, value in stock.params.items():
        torch.testing.assert_close(compiled.params[name], value, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("engine", COMPILED)
def test_engines_clip_and_schedule_alike(normal_problem: lvm.Problem, engine: str) -> None:
    options = {"clip_norm": 0.5, "schedule": lambda step: 1 / (1 + step), "learning_rate": 0.3}
    stock, compiled = (point(normal_problem, name, **options) for name in ("pyro", engine))
    np.testing.assert_allclose(compiled.losses, stock.losses, rtol=1e-4)
    np.testing.assert_allclose(
        compiled.data["optimization"].dataset.learning_rate, stock.data["optimization"].dataset.learning_rate, rtol=1e-6
    )


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, pyro.optim.Adam({"lr": 0.05, "betas": (0.8, 0.95)}), None])
@pytest.mark.parametrize(
    "engine", [pytest.param(engine, marks=[] if engine == "c" else [pytest.mark.slow]) for engine in COMPILED]
)
def test_adam_is_adam_however_it_is_given(normal_problem: lvm.Problem, engine: str, optimizer: Any) -> None:
    stock, compiled = (point(normal_problem, name, optimizer=optimizer) for name in ("pyro", engine))
    assert compiled.engine == engine
    np.testing.assert_allclose(compiled.losses, stock.losses, rtol=1e-4)


def test_another_optimizer_steps_on_the_compiled_gradient(normal_problem: lvm.Problem) -> None:
    options = {"optimizer": lambda params: torch.optim.SGD(params, lr=0.01, momentum=0.5), "max_steps": 400}
    stock, compiled = point(normal_problem, "pyro", **options), point(normal_problem, "auto", **options)
    assert compiled.engine == "torch"
    assert "optimizer" in compiled.engine_reason
    np.testing.assert_allclose(compiled.losses, stock.losses, rtol=1e-4)


@pytest.mark.parametrize("engine", COMPILED)
def test_engines_sum_out_discrete_latents(mixture_problem: lvm.Problem, engine: str) -> None:
    guide = AutoDelta(pyro.poutine.block(mixture_problem.model, hide=["on"]))
    stock, compiled = (point(mixture_problem, name, guide) for name in ("pyro", engine))
    assert compiled.engine == engine
    np.testing.assert_allclose(compiled.losses, stock.losses, rtol=1e-4)


# --- the same posterior -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_engines_reach_the_same_posterior(normal_problem: lvm.Problem) -> None:
    fits = {e: lvm.fit(normal_problem, "full_rank", engine=e, max_steps=1500, progress=False, seed=1) for e in ENGINES}
    elbos = {engine: (fit.elbo, fit.elbo_error) for engine, fit in fits.items()}
    for value, error in elbos.values():
        stock, noise = elbos["pyro"]
        assert abs(value - stock) < 5 * np.hypot(error, noise) + 0.01, elbos


@pytest.mark.parametrize("engine", ["c", "jax", pytest.param("torch", marks=pytest.mark.slow)])
def test_the_seed_repeats_a_compiled_fit(normal_problem: lvm.Problem, short: Short, engine: str) -> None:
    first, again, other = (short(normal_problem, engine=engine, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.losses, again.losses)
    assert not np.array_equal(first.losses, other.losses)
    for name, value in first.params.items():
        assert torch.equal(value, again.params[name])


@pytest.mark.parametrize("engine", ["c", pytest.param("jax", marks=pytest.mark.slow)])
def test_the_length_of_a_call_does_not_change_the_random_numbers(mixed_noise: lvm.Problem, engine: str) -> None:
    """A callback makes each call one step long; the guide draws normal and uniform numbers, and a Gamma."""

    def guide(y: Tensor) -> None:
        loc = pyro.param("loc", torch.tensor(0.0))
        pyro.sample("mean", dist.Normal(loc, 0.5))
        pyro.sample("scale", dist.Exponential(pyro.param("pace", torch.tensor(1.0))))
        shape = pyro.param("shape", torch.tensor(2.0))
        pyro.sample("rate", dist.Gamma(shape, 1.0))

    seen: list[int] = []
    options = {"engine": engine, "max_steps": 70, "tolerance": 0, "draws": 10, "progress": False}
    plain = lvm.fit(mixed_noise, guide, **options)
    watched = lvm.fit(mixed_noise, guide, callbacks=[lambda step: seen.append(step.step)], **options)
    assert plain.engine == engine
    np.testing.assert_allclose(plain.losses, watched.losses, rtol=1e-5)
    assert seen == list(range(70))


@pytest.fixture
def mixed_noise(make_data: Any) -> lvm.Problem:
    def model(y: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(0.0, 3.0))
        scale = pyro.sample("scale", dist.Exponential(1.0))
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        pyro.sample("y", dist.Normal(mean, scale + rate).expand([len(y)]).to_event(1), obs=y)

    return lvm.Problem(model, make_data(torch.float32))


def test_a_callback_sees_the_parameters_of_its_step(normal_problem: lvm.Problem, short: Short) -> None:
    seen: list[Tensor] = []

    def look(step: lvm.Step) -> None:
        seen.append(torch.cat([value.detach().reshape(-1).clone() for value in step.parameters().values()]))

    short(normal_problem, engine="jax", max_steps=5, callbacks=[look])
    assert all(not torch.equal(a, b) for a, b in itertools.pairwise(seen))


# --- minibatches ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", COMPILED)
def test_minibatches_pass_through_a_compiled_step(engine: str) -> None:
    generator = torch.Generator().manual_seed(0)
    y = 1.0 + torch.randn(400, generator=generator)
    problem = lvm.Problem(known_scale, y)
    precision = 1 / 9 + len(y)
    fit = lvm.fit(problem, "mean_field", engine=engine, batch_size=40, max_steps=3000, progress=False)
    assert fit.engine == engine
    mean = fit.data["posterior"].dataset["mean"]
    assert abs(float(mean.mean()) - float(y.sum()) / precision) < 0.2 / precision**0.5
    assert float(mean.std()) == pytest.approx(precision**-0.5, rel=0.1)


# --- steps that go wrong ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", COMPILED)
def test_a_step_that_is_not_finite_is_skipped(make_data: Any, engine: str) -> None:
    def sometimes(y: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(y.new_tensor(0.0), 3.0))
        pyro.factor("trap", 0.0 * (1.4 - mean).log())  # NaN beyond 1.4, and so is its gradient
        pyro.sample("y", dist.Normal(mean, 1.0).expand([len(y)]).to_event(1), obs=y)

    fit = lvm.fit(
        lvm.Problem(sometimes, make_data()), "mean_field", engine=engine, num_particles=1, max_steps=300, tolerance=0,
        draws=50, progress=False,
    )  # fmt: skip
    skipped = fit.data["optimization"].attrs["skipped_steps"]
    assert skipped > 0
    assert len(fit.losses) == 300 - skipped
    assert np.isfinite(fit.losses).all()
    assert all(torch.isfinite(value).all() for value in fit.params.values())


# --- falling back -----------------------------------------------------------------------------------------------------


def test_an_operation_without_a_rule_is_named_and_torch_steps(
    normal_problem: lvm.Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyrolvm._capture.jax import rules
    from pyrolvm._capture.native import rules as native
    from pyrolvm._capture.native.rules import elements

    monkeypatch.delitem(rules.RULES, "exp")
    monkeypatch.delitem(native.RULES, "exp")
    monkeypatch.delitem(elements.POINTWISE, "exp")  # what its decomposition is taken for
    fit = lvm.fit(normal_problem, "mean_field", max_steps=400, tolerance=0, draws=50, progress=False)
    assert fit.engine == "torch"
    for engine in ("jax", "c"):
        assert re.search(f"engine '{engine}' has no rule for [a-z_., ]*exp.default", fit.engine_reason)


def test_an_engine_that_was_asked_for_and_cannot_is_replaced_with_a_warning(make_data: Any) -> None:
    def reads(y: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(y.new_tensor(0.0), 3.0))
        width = 2.0 if float(mean.detach()) > 100 else 1.0
        pyro.sample("y", dist.Normal(mean, width).expand([len(y)]).to_event(1), obs=y)

    with pytest.warns(PyrolvmWarning, match="engine 'jax' cannot run this fit, so engine 'pyro' does.*Fix:"):
        fit = lvm.fit(
            lvm.Problem(reads, make_data()), "mean_field", engine="jax", max_steps=30, draws=50, progress=False
        )
    assert fit.engine == "pyro"


def test_a_backward_pass_that_reads_values_is_another_engines(
    normal_problem: lvm.Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reads(*_: Any) -> Any:
        raise Reading("it reads the value of a tensor that changes from run to run")

    monkeypatch.setattr("pyrolvm._methods.fit.engines.torch_engine.record", reads)
    with pytest.warns(PyrolvmWarning, match="engine 'torch' cannot run this fit.*cannot record a step: it reads.*Fix:"):
        fit = lvm.fit(normal_problem, "mean_field", engine="torch", max_steps=30, draws=50, progress=False)
    assert fit.engine in ("c", "jax")


def test_stock_pyro_objectives_stay_on_stock_pyro(normal_problem: lvm.Problem) -> None:
    objective = pyro.infer.RenyiELBO(alpha=0.5, num_particles=2, vectorize_particles=False)
    fit = lvm.fit(
        normal_problem, "mean_field", objective=objective, max_steps=310, tolerance=0, draws=50, progress=False
    )
    assert fit.engine == "pyro"
    assert "RenyiELBO" in fit.engine_reason


def test_torch_runs_the_graph_where_it_cannot_compile(
    normal_problem: lvm.Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any, **kwargs: Any) -> Any:
        def call(*inputs: Tensor) -> Any:
            raise RuntimeError("no compiler")

        return call

    stock = point(normal_problem, "pyro")
    monkeypatch.setattr(torch, "compile", broken)
    fit = point(normal_problem, "torch")
    assert "could not compile" in fit.engine_reason
    np.testing.assert_allclose(fit.losses, stock.losses, rtol=1e-4)


def test_a_stock_program_around_a_compiled_fit_is_left_alone(normal_problem: lvm.Problem, short: Short) -> None:
    import jax

    pyro.param("mine", torch.tensor(1.0))
    before = torch.get_rng_state(), jax.config.jax_enable_x64
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            short(normal_problem.to(dtype=torch.float64), engine="jax")
        assert list(pyro.get_param_store().keys()) == ["mine"]
        assert torch.equal(torch.get_rng_state(), before[0])
        assert jax.config.jax_enable_x64 == before[1]
    finally:
        pyro.clear_param_store()


def known_scale(y: Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(y.new_tensor(0.0), 3.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def normal(y: Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(y.new_tensor(0.0), 3.0))
    scale = pyro.sample("scale", dist.LogNormal(y.new_tensor(0.0), 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mean, scale), obs=y)


# --- on a GPU ---------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("batch_size", [None, 40])
def test_cuda_graphs_reach_the_posterior(batch_size: int | None) -> None:
    y = 1.0 + torch.randn(400, generator=torch.Generator().manual_seed(0))
    precision = 1 / 9 + len(y)
    fit = lvm.fit(
        lvm.Problem(known_scale, y), "mean_field", device="cuda", batch_size=batch_size, max_steps=3000, progress=False
    )
    assert fit.engine == "torch"
    assert "cuda" in fit.engine_reason
    mean = fit.data["posterior"].dataset["mean"]
    assert abs(float(mean.mean()) - float(y.sum()) / precision) < 0.2 / precision**0.5
    assert float(mean.std()) == pytest.approx(precision**-0.5, rel=0.1)


@pytest.mark.gpu
def test_cuda_takes_the_steps_of_the_cpu(make_data: Any) -> None:
    problem = lvm.Problem(normal, make_data(torch.float64))
    here, there = point(problem, "pyro"), point(problem, "torch", device="cuda")
    np.testing.assert_allclose(there.losses, here.losses, rtol=1e-8)


@pytest.mark.parametrize("engine", ["c", "jax", pytest.param("torch", marks=pytest.mark.slow)])
def test_a_parameter_with_two_names_is_moved_once(engine: str) -> None:
    """AutoIAFNormal registers the weights of its network under two names; every engine must step as stock Pyro does."""
    from pyro.infer import autoguide

    def model(y: torch.Tensor) -> None:
        a = pyro.sample("a", dist.Normal(y.new_zeros(3), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(a.sum(), 0.5), obs=y)

    problem = lvm.Problem(model, torch.tensor(1.0, dtype=torch.float64))
    options: dict[str, Any] = {
        "objective": "Trace_ELBO",
        "num_particles": 1,
        "max_steps": 3,
        "tolerance": 0,
        "draws": 10,
    }
    fit = lvm.fit(problem, autoguide.AutoIAFNormal(model), engine=engine, seed=3, progress=False, **options)
    assert fit.engine == engine
    values = list(fit.params.values())
    twice = [
        a
        for a, b in itertools.combinations(values, 2)
        if a.shape == b.shape and torch.equal(a, b) and a.abs().sum() > 0
    ]
    assert twice
    assert all(torch.isfinite(value).all() for value in values)


# --- rounding that is torch's own -------------------------------------------------------------------------------------


def dispersed(y: Tensor) -> None:
    size, rate = pyro.sample("size", dist.LogNormal(13.0, 0.5)), pyro.sample("rate", dist.Gamma(2.0, 1.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.GammaPoisson(size, size / rate), obs=y)


def concentrated(y: Tensor) -> None:
    size, mean = pyro.sample("size", dist.LogNormal(12.0, 0.5)), pyro.sample("mean", dist.Beta(2.0, 2.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.BetaBinomial(mean * size, (1 - mean) * size, 20), obs=y)


def nearly_normal(y: Tensor) -> None:
    freedom = pyro.sample("freedom", dist.LogNormal(13.0, 0.5))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.StudentT(freedom, 4.0, 1.0), obs=y)


@pytest.mark.parametrize("model", [dispersed, concentrated, nearly_normal])
def test_c_keeps_what_torch_rounds_away_in_single_precision(model: Callable[[Tensor], None], short: Short) -> None:
    problem = lvm.Problem(model, torch.tensor([3.0, 5.0, 2.0, 8.0, 4.0]))
    assert short(problem, "mean_field", engine="c").engine == "c"


@pytest.mark.parametrize("spoilt", ["loss", "gradient"])
def test_a_step_that_is_off_in_double_precision_too_is_refused(
    spoilt: str, short: Short, monkeypatch: pytest.MonkeyPatch
) -> None:
    check, refused = c_engine.check_first, []

    def off(work: Any, first: Any, loss: Tensor, gradient: Tensor, engine: str) -> None:
        wrong = (1.2 * loss, gradient) if spoilt == "loss" else (loss, 1.2 * gradient)
        with pytest.raises(CaptureError, match="by engine 'c' is not torch's"):
            check(work, first, *wrong, engine)
        refused.append(engine)

    monkeypatch.setattr(c_engine, "check_first", off)
    short(lvm.Problem(concentrated, torch.tensor([3.0, 5.0, 2.0, 8.0, 4.0])), "mean_field", engine="c")
    assert refused == ["c"]


# --- draws that nothing depends on ------------------------------------------------------------------------------------


def waves(y: Tensor) -> None:
    level, spread = pyro.sample("level", dist.Normal(0.0, 1.0)), pyro.sample("spread", dist.HalfNormal(1.0))
    state = torch.zeros(())
    for t in pyro.markov(range(3)):
        step = pyro.sample(f"step_{t}", dist.Normal(level, spread))
        state = pyro.sample(f"state_{t}", dist.Bernoulli(torch.sigmoid(step + state)), infer={"enumerate": "parallel"})
        pyro.sample(f"y_{t}", dist.Normal(state, 1.0), obs=y[t])


def idle(y: Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    dist.Poisson(mean.exp()).sample()
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def simulating(y: Tensor) -> Tensor:
    mean, shape = pyro.sample("mean", dist.Normal(0.0, 1.0)), pyro.sample("shape", dist.LogNormal(0.0, 1.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(mean, shape), obs=y)
    return dist.Gamma(shape, 1.0).sample() + torch.bernoulli(torch.sigmoid(mean))


@pytest.mark.parametrize("model", [waves, idle, simulating])
def test_draws_that_nothing_depends_on_do_not_keep_c_away(model: Callable[[Tensor], Any], short: Short) -> None:
    assert short(lvm.Problem(model, torch.tensor([0.3, 1.2, -0.4])), "full_rank", engine="c").engine == "c"
