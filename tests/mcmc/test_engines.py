"""What runs the chains: the same posterior from every engine and kernel, honest reasons, fallbacks, checks against Pyro."""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.stats import norm
from torch import Tensor

import pyrolvm as lvm
from pyrolvm._base.errors import CaptureError
from pyrolvm._base.progress import Progress
from pyrolvm._methods.nuts import engines, numpyro_kernel, nutpie_kernel, potential
from pyrolvm._program.density import Joint

KERNELS = ["numpyro", "nutpie"]
"""Of engine "jax"."""
WAYS = [
    pytest.param(engine, kernel, id=f"{engine}-{kernel}")
    for engine, kernel in (("jax", "numpyro"), ("jax", "nutpie"), ("c", "nutpie"))
]

Y = torch.tensor([0.2, 1.0, 1.9, 2.4])
PRECISION = np.array([[5.0, 4.0], [4.0, 5.0]])


def gaussian(y: Tensor) -> None:
    """Two correlated unknowns: precision [[1 + 4, 4], [4, 1 + 4]] with one observation of their sum at noise 1/2."""
    a = pyro.sample("a", dist.Normal(y.new_tensor(0.0), 1.0))
    b = pyro.sample("b", dist.Normal(y.new_tensor(0.0), 1.0))
    pyro.sample("y", dist.Normal(a + b, 0.5), obs=y)


def bounded(y: Tensor) -> None:
    share = pyro.sample("share", dist.Beta(y.new_tensor(2.0), 3.0))
    parts = pyro.sample("parts", dist.Dirichlet(y.new_ones(3)))
    width = pyro.sample("width", dist.HalfNormal(y.new_tensor(1.0)))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(share + parts[0], 0.5 + width), obs=y)


def mixture(y: Tensor) -> None:
    centre = pyro.sample("centre", dist.Normal(y.new_tensor(2.0), 0.5))
    with pyro.plate("row", len(y)):
        on = pyro.sample("on", dist.Bernoulli(y.new_tensor(0.3)))
        pyro.sample("y", dist.Normal(on * centre, 0.7), obs=y)


def reading(y: Tensor) -> None:
    scale = pyro.sample("scale", dist.HalfNormal(y.new_tensor(1.0)))
    width = 1.0 if scale > 0.5 else 2.0
    pyro.sample("y", dist.Normal(scale, width), obs=y)


def run(problem: lvm.Problem, **options: Any) -> lvm.Chains:
    return lvm.nuts(problem, **{"chains": 2, "warmup": 150, "draws": 300, "seed": 0, "progress": False, **options})


@pytest.fixture(scope="module")
def gaussian_problem() -> lvm.Problem:
    return lvm.Problem(gaussian, torch.tensor(1.0))


def moments(chains: lvm.Chains) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Means and second moments of the unconstrained draws with their errors, by site."""
    from arviz_stats import mcse

    draws = chains.data["unconstrained_posterior"].to_dataset()
    both = draws.merge((draws**2).rename({name: f"{name}_squared" for name in draws}))
    errors = mcse(both)
    return {str(name): (both[name].mean(("chain", "draw")).values, errors[name].values) for name in both}


@functools.cache
def weighted(model: Callable[..., None]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The same by draws of the prior, each weighted by its likelihood, written down here once more and without the engines."""
    count, prior, y = 200_000, np.random.default_rng(0), Y.double().numpy()
    found: dict[str, np.ndarray] = {}
    if model is mixture:
        centre = prior.normal(2.0, 0.5, count)
        means = np.stack([norm.logpdf(y, on * centre[:, None], 0.7) for on in (0.0, 1.0)])
        log_weights = np.logaddexp(math.log(0.7) + means[0], math.log(0.3) + means[1]).sum(-1)
        found["centre"] = centre
    else:
        share, parts = prior.beta(2.0, 3.0, count), prior.dirichlet(np.ones(3), count)
        width = np.abs(prior.normal(size=count))
        log_weights = norm.logpdf(y, (share + parts[:, 0])[:, None], (0.5 + width)[:, None]).sum(-1)
        simplex = dist.transforms.StickBreakingTransform().inv(torch.from_numpy(parts)).numpy()
        found |= {"share": np.log(share / (1 - share)), "parts": simplex, "width": np.log(width)}
    weights = np.exp(log_weights - log_weights.max())
    weights /= weights.sum()

    def mean(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        by = weights.reshape(-1, *(1 for _ in values.shape[1:]))
        middle = (by * values).sum(0)
        return middle, np.sqrt((by**2 * (values - middle) ** 2).sum(0))

    return {name: mean(x) for name, x in found.items()} | {f"{name}_squared": mean(x**2) for name, x in found.items()}


Moments = dict[str, tuple[np.ndarray, np.ndarray]]


def worst_z(ours: Moments, theirs: Moments) -> float:
    assert ours.keys() == theirs.keys()
    z = [np.abs(ours[n][0] - theirs[n][0]) / np.sqrt(ours[n][1] ** 2 + theirs[n][1] ** 2) for n in ours]
    return float(max(np.max(values) for values in z))


# --- the same posterior -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("engine", "kernel"), WAYS)
@pytest.mark.parametrize("dense_mass", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_every_kernel_gives_the_moments_of_a_gaussian(
    gaussian_problem: lvm.Problem, engine: str, kernel: str, dense_mass: bool
) -> None:
    chains = run(gaussian_problem, engine=engine, kernel=kernel, dense_mass=dense_mass, draws=600)
    covariance = np.linalg.inv(PRECISION)
    mean = covariance @ np.array([4.0, 4.0])
    found = moments(chains)
    for i, name in enumerate(("a", "b")):
        value, error = found[name]
        assert abs(value - mean[i]) < 4.5 * error
        value, error = found[f"{name}_squared"]
        assert abs(value - covariance[i, i] - mean[i] ** 2) < 4.5 * error
    assert chains.engine == engine
    assert chains.data["sample_stats"].attrs["kernel"] == kernel


@pytest.mark.parametrize(
    ("model", "engine", "kernel"),
    [
        (bounded, "jax", "numpyro"),
        (bounded, "jax", "nutpie"),
        (bounded, "c", "nutpie"),
        pytest.param(mixture, "jax", "numpyro", marks=pytest.mark.slow),
        pytest.param(mixture, "jax", "nutpie", marks=pytest.mark.slow),
        (mixture, "c", "nutpie"),
        pytest.param(bounded, "pyro", None, marks=pytest.mark.slow),
        pytest.param(mixture, "pyro", None, marks=pytest.mark.slow),
    ],
)
def test_chains_have_the_moments_of_weighted_prior_draws(
    model: Callable[..., None], engine: str, kernel: str | None
) -> None:
    chains = run(lvm.Problem(model, Y), engine=engine, **({} if kernel is None else {"kernel": kernel}), draws=500)
    assert chains.engine == engine
    assert worst_z(moments(chains), weighted(model)) < 4.5


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_potential_and_gradient_are_pyros(dtype: torch.dtype, tolerance: float) -> None:
    import jax

    from pyrolvm._capture.jax import precision

    for model in (gaussian, bounded, mixture):
        problem = lvm.Problem(model, torch.tensor(1.0) if model is gaussian else Y).to(dtype=dtype)
        with problem.session(seed=0), precision(dtype):
            joint = Joint(problem)
            point = torch.randn(problem.unconstrained_size, dtype=dtype).requires_grad_(True)
            captured = potential.program(joint, point.detach())
            both = jax.jit(jax.value_and_grad(captured.function))
            value, gradient = both(point.detach().numpy(), *captured.constants)
            wanted = joint.potential(point)
            (slope,) = torch.autograd.grad(wanted, point)
        assert captured.note == ""
        assert float(value) == pytest.approx(wanted.item(), rel=tolerance)
        np.testing.assert_allclose(np.asarray(gradient), slope.numpy(), rtol=10 * tolerance, atol=10 * tolerance)


def test_chains_side_by_side_are_those_in_threads(
    gaussian_problem: lvm.Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an accelerator runs, on the processor: the same transitions up to rounding, which grows from draw to draw."""
    options: dict[str, Any] = {"engine": "jax", "chains": 3, "warmup": 0, "draws": 5}
    apart = run(gaussian_problem, **options)
    monkeypatch.setattr(numpyro_kernel, "workers", lambda chains: 0)
    together = run(gaussian_problem, **options)
    assert "3 chains side by side" in together.engine_reason
    assert "3 chains in" in apart.engine_reason
    for name in ("a", "b"):
        np.testing.assert_allclose(
            together.data["posterior"][name].values, apart.data["posterior"][name].values, rtol=1e-3, atol=1e-4
        )


@pytest.mark.parametrize("engine", ["c", "jax"])
def test_nutpie_chains_depend_on_their_own_seed_alone(gaussian_problem: lvm.Problem, engine: str) -> None:
    options = {"engine": engine, "kernel": "nutpie", "warmup": 20, "draws": 10}
    one, two = (run(gaussian_problem, chains=n, **options) for n in (1, 2))
    values = [chains.data["posterior"]["a"].values for chains in (one, two)]
    np.testing.assert_array_equal(values[0][0], values[1][0])
    assert not np.isin(values[1][0], values[1][1]).all()


@pytest.mark.parametrize(("engine", "kernel"), WAYS)
def test_statistics_of_every_kernel_mean_the_same(gaussian_problem: lvm.Problem, engine: str, kernel: str) -> None:
    stats = run(gaussian_problem, engine=engine, kernel=kernel, draws=500).data["sample_stats"]
    kinds = {
        "lp": "f", "diverging": "b", "acceptance_rate": "f", "step_size": "f", "tree_depth": "i", "n_steps": "i",
        "energy": "f", "reached_max_treedepth": "b",
    }  # fmt: skip
    assert {str(name): stats[name].dtype.kind for name in stats.data_vars} == kinds
    assert stats["acceptance_rate"].values.mean() == pytest.approx(0.85, abs=0.12)
    # H = -log p + kinetic energy of two momenta, whose expectation is one.
    assert (stats["energy"].values + stats["lp"].values).mean() == pytest.approx(1.0, abs=0.25)
    steps, depth = stats["n_steps"].values, stats["tree_depth"].values
    assert ((steps >= 1) & (steps <= 2**depth - 1)).all()
    assert stats.attrs["warmup_steps"] > 150


# --- which engine, and why --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_nutpie", [True, False])
def test_auto_compiles_what_can_be_captured(
    gaussian_problem: lvm.Problem, with_nutpie: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nutpie_kernel, "usable", lambda: with_nutpie)
    chains = run(gaussian_problem, warmup=20, draws=5)
    assert chains.engine == ("c" if with_nutpie else "jax")
    assert "can be captured" in chains.engine_reason
    assert chains.data["sample_stats"].attrs["kernel"] == ("nutpie" if with_nutpie else "numpyro")
    assert 0 < chains.seconds["compile"]
    assert 0 < chains.seconds["run"]


def test_what_cannot_be_compiled_from_c_runs_on_jax_and_says_why(
    gaussian_problem: lvm.Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_compiler(*_: Any) -> Any:
        raise CaptureError("no C compiler was found (cc, gcc or clang).")

    monkeypatch.setattr(nutpie_kernel, "compile_gradient", no_compiler)
    chains = run(gaussian_problem, warmup=20, draws=5, precondition="none")
    assert chains.engine == "jax"
    assert "not compiled from C: no C compiler" in chains.engine_reason
    with pytest.raises(CaptureError, match=r'engine "c" was asked for.*no C compiler.*Fix:'):
        run(gaussian_problem, warmup=20, draws=5, precondition="none", engine="c")


def test_too_short_a_warmup_for_nutpie_is_refused_or_left_to_numpyro(gaussian_problem: lvm.Problem) -> None:
    assert run(gaussian_problem, warmup=0, draws=5).engine == "jax"
    for options in ({"engine": "c"}, {"kernel": "nutpie"}, {"engine": "jax", "kernel": "nutpie"}):
        with pytest.raises(lvm.ArgumentError, match=r"warmup is 0.*Fix:"):
            run(gaussian_problem, warmup=0, draws=5, **options)


def test_a_model_that_reads_a_draw_runs_on_pyro_and_names_the_line() -> None:
    chains = run(lvm.Problem(reading, torch.tensor(1.0)), warmup=10, draws=5)
    assert chains.engine == "pyro"
    line = reading.__code__.co_firstlineno + 2
    assert f"test_engines.py:{line}" in chains.engine_reason
    assert "reads" in chains.engine_reason


@pytest.mark.parametrize("options", [{"engine": "jax"}, {"kernel": "numpyro"}])
def test_an_engine_that_was_asked_for_is_not_replaced(options: dict[str, str]) -> None:
    with pytest.raises(CaptureError, match=r"was asked for.*test_engines\.py.*Fix: use engine"):
        run(lvm.Problem(reading, torch.tensor(1.0)), **options)


def test_a_model_that_draws_by_itself_is_refused() -> None:
    def noisy(y: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(y.new_tensor(0.0), 1.0))
        pyro.sample("y", dist.Normal(mean + 0.01 * torch.randn(()), 1.0), obs=y)

    with pytest.raises(lvm.ProblemError, match="not the same in every run: at the same values its log density is"):
        run(lvm.Problem(noisy, torch.tensor(1.0)), warmup=5, draws=5)


def test_the_pyro_engine_on_request(gaussian_problem: lvm.Problem) -> None:
    chains = run(gaussian_problem, engine="pyro", warmup=5, draws=5)
    assert (chains.engine, chains.engine_reason) == ("pyro", "asked for")


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"kernel": "warp"}, lvm.UnknownNameError, "kernel"),
        ({"engine": "pyro", "kernel": "numpyro"}, lvm.ArgumentError, r"own NUTS.*Fix:"),
        ({"engine": "c", "kernel": "numpyro"}, lvm.ArgumentError, r"runs on JAX.*Fix:"),
        ({"dense_mass": "full"}, lvm.ArgumentError, r"dense_mass.*Fix:"),
        ({"dense_mass": 1}, lvm.ArgumentError, r"dense_mass.*Fix:"),
    ],
)
def test_what_does_not_go_together_is_refused(
    gaussian_problem: lvm.Problem, options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        run(gaussian_problem, **options)


def test_nutpie_that_is_missing_is_asked_for_by_name(
    gaussian_problem: lvm.Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "nutpie", None)
    with pytest.raises(lvm.ArgumentError, match=r"nutpie cannot be imported.*Fix: pip install 'nutpie>="):
        run(gaussian_problem, kernel="nutpie")


# --- rules that are missing or wrong ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["numpyro", "nutpie"])
def test_an_operation_without_a_rule_goes_through_torch_and_is_named(
    monkeypatch: pytest.MonkeyPatch, kernel: str
) -> None:
    from pyrolvm._capture.jax.rules import RULES

    removed = [name for name in RULES if name.split(".")[0] == "log"]
    assert removed
    for name in removed:
        monkeypatch.delitem(RULES, name)
    chains = run(lvm.Problem(bounded, Y), warmup=60, draws=100, engine="jax", kernel=kernel)
    assert chains.engine == "jax"
    assert "no rule for log" in chains.engine_reason
    assert worst_z(moments(chains), weighted(bounded)) < 4.5


def test_a_rule_that_fails_goes_through_torch(monkeypatch: pytest.MonkeyPatch, gaussian_problem: lvm.Problem) -> None:
    from pyrolvm._capture.jax.rules import RULES

    def broken(*_: Any, **__: Any) -> Any:
        raise TypeError("unexpected keyword")

    monkeypatch.setitem(RULES, "sub", broken)
    chains = run(gaussian_problem, warmup=20, draws=20, engine="jax")
    assert chains.engine == "jax"
    assert "unexpected keyword" in chains.engine_reason


def _warped(change: Callable[[Any], Any]) -> Callable[..., potential.Program]:
    def program(joint: Joint, example: Tensor) -> potential.Program:
        import dataclasses

        right = potential.program(joint, example)
        return dataclasses.replace(right, function=lambda z, *data: right.function(z, *data) + change(z))

    return program


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_wrong_density_is_found_before_the_run(
    gaussian_problem: lvm.Problem, monkeypatch: pytest.MonkeyPatch, kernel: str
) -> None:
    monkeypatch.setattr(engines, "program", _warped(lambda z: 0.01 * z[0] ** 2))
    with pytest.warns(lvm.PyrolvmWarning, match=r"where Pyro gives.*stock Pyro instead.*Fix:"):
        chains = run(gaussian_problem, warmup=20, draws=5, engine="jax", kernel=kernel)
    assert chains.engine == "pyro"
    assert "captured density" in chains.engine_reason


@pytest.mark.parametrize(("value", "slope", "text"), [(1.01, 1.0, "where Pyro gives"), (1.0, 0.9, "another gradient")])
def test_wrong_c_is_found_before_the_run(
    gaussian_problem: lvm.Problem, monkeypatch: pytest.MonkeyPatch, value: float, slope: float, text: str
) -> None:
    from pyrolvm._capture.native import NativeGradient

    right = NativeGradient.many

    def wrong(self: Any, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        densities, gradients = right(self, points)
        return value * densities, slope * gradients

    monkeypatch.setattr(NativeGradient, "many", wrong)
    with pytest.warns(lvm.PyrolvmWarning, match=rf"{text}.*on JAX instead.*Fix:"):
        chains = run(gaussian_problem, warmup=20, draws=5, precondition="none")
    assert chains.engine == "jax"
    assert "not compiled from C: the captured density" in chains.engine_reason


def test_a_wrong_gradient_is_found_before_the_run(
    gaussian_problem: lvm.Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    import jax

    def twisted(joint: Joint, example: Tensor) -> potential.Program:
        import dataclasses

        right = potential.program(joint, example)
        return dataclasses.replace(
            right, function=lambda z, *data: right.function(jax.lax.stop_gradient(z), *data) + 0 * z[0]
        )

    monkeypatch.setattr(engines, "program", twisted)
    with pytest.warns(lvm.PyrolvmWarning, match="another gradient"):
        assert run(gaussian_problem, warmup=5, draws=5, engine="jax").engine == "pyro"


def test_a_density_that_is_wrong_elsewhere_is_found_after_the_run(
    gaussian_problem: lvm.Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right at the starts, at a = 3, and wrong by a constant in the bulk."""
    import jax.numpy as jnp

    monkeypatch.setattr(engines, "program", _warped(lambda z: jnp.where(z[0] < 2.5, 0.5, 0.0)))
    with pytest.warns(lvm.PyrolvmWarning, match=r"values differ.*stock Pyro"):
        chains = run(gaussian_problem, warmup=50, draws=50, engine="jax", init={"a": 3.0, "b": -2.0})
    assert chains.engine == "pyro"


def test_agreement_allows_for_rounding_and_for_infinities() -> None:
    compare = potential._compare
    ok = np.array([1.0, np.inf, np.nan, 1e6])
    compare("x", ok + np.array([1e-5, 0, 0, 10.0]), ok, torch.float32)
    for wrong in (np.array([1.0, 2.0, np.nan, 1e6]), np.array([1.0, np.nan, np.nan, 1e6]), ok * 1.01):
        with pytest.raises(CaptureError, match="differ"):
            compare("x", wrong, ok, torch.float32)
    with pytest.raises(CaptureError):
        compare("x", ok + np.array([1e-4, 0, 0, 0]), ok, torch.float64)


# --- interrupts, state ------------------------------------------------------------------------------------------------


class Interrupt:
    """Progress that presses Ctrl-C once so many transitions are done and all chains are sampling."""

    def __init__(self, after: int) -> None:
        self.after = after

    def __call__(self, done: int, total: int, text: str) -> None:
        if done >= self.after and text.startswith("sampling"):
            raise KeyboardInterrupt


@pytest.mark.parametrize(("engine", "kernel"), WAYS)
def test_an_interrupt_keeps_the_draws_that_all_chains_have(
    gaussian_problem: lvm.Problem, monkeypatch: pytest.MonkeyPatch, engine: str, kernel: str
) -> None:
    monkeypatch.setattr(Progress.__init__, "__kwdefaults__", {"every": 0.0})
    draws = 30_000 if engine == "jax" else 1_000_000
    options: dict[str, Any] = {
        "engine": engine,
        "kernel": kernel,
        "chains": 3,
        "warmup": 20,
        "draws": draws,
        "target_accept": 0.8,
    }
    cut = run(gaussian_problem, progress=Interrupt(200), **options)
    kept = cut.data["posterior"].sizes["draw"]
    assert 0 < kept < draws
    assert cut.data["sample_stats"].attrs["interrupted"] == 1
    again = run(gaussian_problem, **{**options, "draws": kept}) if kernel == "numpyro" else cut
    np.testing.assert_array_equal(again.data["posterior"]["a"].values, cut.data["posterior"]["a"].values)


@pytest.mark.usefixtures("untouched_rng")
def test_a_run_leaves_the_settings_of_jax_as_they_were(gaussian_problem: lvm.Problem) -> None:
    import jax

    before = jax.config.jax_enable_x64
    run(gaussian_problem, warmup=5, draws=5, dtype=torch.float64, engine="jax")
    assert jax.config.jax_enable_x64 == before
    assert jax.numpy.zeros(1).dtype == (np.float64 if before else np.float32)


@pytest.mark.parametrize("engine", ["c", "jax", "pyro"])
def test_float64_draws_carry_double_precision(gaussian_problem: lvm.Problem, engine: str) -> None:
    draws = run(gaussian_problem, warmup=20, draws=5, dtype=torch.float64, engine=engine).data["posterior"]["a"].values
    assert draws.dtype == np.float64
    assert (draws != draws.astype(np.float32)).any()
