"""Which engine ``engine="auto"`` takes, and what it says of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyrolvm as lvm
from pyrolvm._base.errors import CaptureError
from pyrolvm._methods.fit.engines import choice

Short = Callable[..., lvm.Fit]


def test_auto_compiles_and_says_so(normal_problem: lvm.Problem) -> None:
    fit = lvm.fit(normal_problem, "mean_field", max_steps=1000, tolerance=0, draws=50, progress=False)
    assert fit.engine == "c"
    assert "compiled from C" in fit.engine_reason
    assert fit.seconds["compile"] > 0
    assert fit.data["posterior"].attrs["engine"] == "c"


@pytest.mark.parametrize("kind", ["product", pytest.param("factor", marks=pytest.mark.slow)])
def test_auto_leaves_large_matrices_to_xla(kind: str) -> None:
    x = torch.randn(60, 3000, generator=torch.Generator().manual_seed(0))

    def product(x: Tensor) -> None:
        weights = pyro.sample("weights", dist.Normal(x.new_zeros(60), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(weights @ x, 1.0).to_event(1), obs=x.new_zeros(3000))

    def factor(x: Tensor) -> None:
        scale = pyro.sample("scale", dist.Gamma(x.new_tensor(3.0), 3.0))
        pyro.sample("y", dist.MultivariateNormal(x.new_zeros(60), scale * torch.eye(60)), obs=x[:, 0])

    model = {"product": product, "factor": factor}[kind]
    fit = lvm.fit(lvm.Problem(model, x), "mean_field", max_steps=400, tolerance=0, draws=20, progress=False)
    assert fit.engine == "jax"
    assert ("multiplications" if kind == "product" else "60 rows") in fit.engine_reason


def test_without_a_c_compiler_auto_takes_xla(normal_problem: lvm.Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.warns(lvm.PyrolvmWarning, match=r"Engine 'c'.*'no-such-compiler' is not there.*Fix: install gcc"):
        fit = lvm.fit(normal_problem, "mean_field", max_steps=400, tolerance=0, draws=20, progress=False)
    assert fit.engine == "jax"
    assert "'no-such-compiler' is not there" in fit.engine_reason


def test_auto_does_not_compile_for_a_few_steps(normal_problem: lvm.Problem, short: Short) -> None:
    assert short(normal_problem).engine == "pyro"


@pytest.mark.parametrize(("steps", "taken"), [(600, "pyro"), (10_000, "torch")])
def test_convolutions_are_compiled_by_torch_where_the_steps_are_many(
    monkeypatch: pytest.MonkeyPatch, steps: int, taken: str
) -> None:
    """XLA convolves slowly on a processor, and torch's compiler takes twenty seconds: an engine in its place says that it was asked."""
    asked: list[str] = []

    def refused(*_: Any) -> Any:
        asked.append("torch")
        raise CaptureError("not compiled here.")

    monkeypatch.setitem(choice.COMPILED, "torch", refused)
    whole = lvm.problem("vae", network="convolutional")
    problem = lvm.Problem(whole.model, *{**whole.arguments, "x": whole.arguments["x"][:64]}.values())
    two = {"batch_size": 64, "draws": 2, "callbacks": [lambda step: step.step >= 1], "progress": False}
    fit = lvm.fit(problem, max_steps=steps, **two)
    assert fit.engine == "pyro"
    assert asked == (["torch"] if taken == "torch" else [])
    wanted = "not compiled here" if taken == "torch" else "not compiled by it for at most 600 steps"
    assert wanted in fit.engine_reason
