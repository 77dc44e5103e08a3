"""Optimisers: whatever Pyro and torch users bring, each stepping as it does at home."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.optim
import pytest
import torch

import pyrolvm as lvm
from pyrolvm._methods.fit.optimizer import DEFAULT_LEARNING_RATE, Stepper

OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "torch class": lambda: torch.optim.Adam,
    "torch class without momentum": lambda: torch.optim.RMSprop,
    "function": lambda: lambda params: torch.optim.SGD(params, lr=0.003),
    "PyroOptim": lambda: pyro.optim.Adam({"lr": 0.05}),
    "ClippedAdam": lambda: pyro.optim.ClippedAdam({"lr": 0.05, "lrd": 0.999, "clip_norm": 10.0}),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_kind_of_optimizer_raises_the_elbo(normal_problem: lvm.Problem, name: str) -> None:
    far = lvm.guide("mean_field", precondition="none")  # in a frame it would start at the top
    fit = lvm.fit(
        normal_problem, far, optimizer=OPTIMIZERS[name](), max_steps=150, tolerance=0, draws=50, progress=False
    )
    assert len(fit.losses) == 150
    assert fit.losses[-20:].mean() < fit.losses[:5].mean() - 0.3
    rates = fit.data["optimization"]["learning_rate"].values
    assert np.isnan(rates).all() if name in ("PyroOptim", "ClippedAdam") else np.isfinite(rates).all()


def test_a_pyro_optimizer_is_copied(normal_problem: lvm.Problem, short: Callable[..., lvm.Fit]) -> None:
    """Its state stays with the fit: a second fit with the same object starts afresh."""
    optimizer = pyro.optim.Adam({"lr": 0.05})
    first = short(normal_problem, optimizer=optimizer, seed=3)
    second = short(normal_problem, optimizer=optimizer, seed=3)
    assert first.losses.tolist() == second.losses.tolist()
    assert optimizer.optim_objs == {}


def test_an_optimizer_that_has_parameters_is_refused(
    normal_problem: lvm.Problem, short: Callable[..., lvm.Fit]
) -> None:
    with pytest.raises(lvm.ArgumentError, match="already has parameters"):
        short(normal_problem, optimizer=torch.optim.Adam([torch.zeros(1, requires_grad=True)]))


@pytest.mark.parametrize("optimizer", ["adam", 0.1])
def test_what_is_no_optimizer_is_refused(
    normal_problem: lvm.Problem, short: Callable[..., lvm.Fit], optimizer: Any
) -> None:
    with pytest.raises(lvm.ArgumentError, match="optimizer must be"):
        short(normal_problem, optimizer=optimizer)


def test_a_function_that_returns_no_optimizer_is_refused(
    normal_problem: lvm.Problem, short: Callable[..., lvm.Fit]
) -> None:
    with pytest.raises(lvm.ArgumentError, match="returned a"):
        short(normal_problem, optimizer=lambda params: 3)


@pytest.mark.parametrize("optimizer", [pyro.optim.Adam({"lr": 0.1}), lambda params: torch.optim.SGD(params, lr=0.1)])
def test_two_learning_rates_are_refused(
    normal_problem: lvm.Problem, short: Callable[..., lvm.Fit], optimizer: Any
) -> None:
    with pytest.raises(lvm.ArgumentError, match="learning_rate is given beside"):
        short(normal_problem, optimizer=optimizer, learning_rate=0.1)


@pytest.mark.parametrize("name", ["learning_rate", "clip_norm"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf"), True, "0.1"])
def test_rates_out_of_range_are_refused(
    normal_problem: lvm.Problem, short: Callable[..., lvm.Fit], name: str, value: Any
) -> None:
    with pytest.raises(lvm.ArgumentError, match=name):
        short(normal_problem, **{name: value})


def test_default_and_given_learning_rates_are_recorded(
    normal_problem: lvm.Problem, short: Callable[..., lvm.Fit]
) -> None:
    rates = short(normal_problem, max_steps=10).data["optimization"]["learning_rate"].values
    assert rates[0] == pytest.approx(DEFAULT_LEARNING_RATE)
    rates = short(normal_problem, learning_rate=0.003, max_steps=10).data["optimization"]["learning_rate"].values
    assert rates[0] == pytest.approx(0.003)


def test_learning_rate_decays_to_a_hundredth_and_never_rises(
    normal_problem: lvm.Problem, short: Callable[..., lvm.Fit]
) -> None:
    rates = short(normal_problem, max_steps=200, tolerance=0).data["optimization"]["learning_rate"].values
    assert rates[0] == rates[100] == pytest.approx(DEFAULT_LEARNING_RATE)
    assert (np.diff(rates) <= 1e-12).all()
    assert rates[-1] == pytest.approx(0.01 * DEFAULT_LEARNING_RATE, rel=0.1)


# --- the stepper itself -----------------------------------------------------------------------------------------------


def stepped(stepper: Stepper, gradient: list[float], factor: float = 1.0) -> list[float]:
    p = torch.zeros(len(gradient), requires_grad=True)
    p.grad = torch.tensor(gradient)
    stepper.step([p], factor)
    assert p.grad is None
    return p.detach().tolist()


def sgd(params: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=1.0)


def test_clip_norm_bounds_the_step_and_keeps_its_direction() -> None:
    assert stepped(Stepper(sgd, None, 1.0), [3.0, 4.0]) == pytest.approx([-0.6, -0.8], rel=1e-4)
    assert stepped(Stepper(sgd, None, 10.0), [3.0, 4.0]) == pytest.approx([-3.0, -4.0])
    assert stepped(Stepper(sgd, None, None), [3.0, 4.0]) == pytest.approx([-3.0, -4.0])


def test_the_factor_scales_the_base_rate_and_does_not_accumulate() -> None:
    stepper = Stepper(sgd, None, None)
    p = torch.zeros(1, requires_grad=True)
    for factor, wanted in ((0.5, -0.5), (0.5, -1.0), (1.0, -2.0)):
        p.grad = torch.ones(1)
        stepper.step([p], factor)
        assert p.item() == pytest.approx(wanted)


def test_parameters_that_appear_later_are_trained_too() -> None:
    stepper = Stepper(sgd, None, None)
    first, second = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    first.grad = torch.ones(1)
    stepper.step([first], 1.0)
    first.grad, second.grad = torch.ones(1), torch.ones(1)
    stepper.step([first, second], 1.0)
    assert (first.item(), second.item()) == (-2.0, -1.0)


def test_parameters_that_appear_later_leave_the_base_rate_alone() -> None:
    stepper = Stepper(sgd, None, None)
    first, second = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    first.grad = torch.ones(1)
    stepper.step([first], 0.5)
    first.grad, second.grad = torch.ones(1), torch.ones(1)
    stepper.step([first, second], 0.5)
    assert first.item() == pytest.approx(-1.0)
    assert second.item() == pytest.approx(-0.5)


def test_clip_norm_reaches_the_fit(normal_problem: lvm.Problem, short: Callable[..., lvm.Fit]) -> None:
    """Plain gradient descent with a bound of 1e-6 cannot move."""
    options = {"optimizer": lambda params: torch.optim.SGD(params, lr=0.01), "tolerance": 0, "seed": 2}
    far = lvm.guide("mean_field", precondition="none")
    still = short(normal_problem, far, clip_norm=1e-6, **options)
    moved = short(normal_problem, far, **options)
    drop = [float(fit.losses[:5].mean() - fit.losses[-5:].mean()) for fit in (still, moved)]
    assert drop[1] > 1 > abs(drop[0])


@pytest.mark.parametrize("scheduler", ["ExponentialLR", "StepLR"])
def test_a_pyro_scheduler_is_accepted_or_refused_in_words(
    normal_problem: lvm.Problem, short: Callable[..., lvm.Fit], scheduler: str
) -> None:
    """A scheduler of Pyro decays only when it is stepped; what must not happen is that it is taken and silently constant."""
    options = {"optimizer": torch.optim.SGD, "optim_args": {"lr": 0.003}, "gamma": 1e-9}
    extra = {"step_size": 1} if scheduler == "StepLR" else {}
    made = getattr(pyro.optim, scheduler)(options | extra)
    try:
        fit = short(normal_problem, optimizer=made, tolerance=0, max_steps=60)
    except lvm.ArgumentError as error:
        assert "Fix:" in str(error)
        return
    # Gamma of 1e-9: after the first step or epoch nothing moves any more.
    late = fit.losses[20:]
    assert abs(late[:20].mean() - late[-20:].mean()) < 1.0
