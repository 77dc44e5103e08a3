"""Capturing: what becomes a graph, and what is refused."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyrolvm as lvm
from pyrolvm._base import runtime
from pyrolvm._base.errors import CaptureError
from pyrolvm._capture import capture, with_noise
from pyrolvm._capture.graph import Captured, operations
from pyrolvm._methods.fit.engines import choice
from pyrolvm._program.density import Joint


@pytest.fixture(autouse=True)
def globals_of_our_own() -> Iterator[None]:
    with runtime.session(seed=0):
        yield


def graph(function: Callable[..., Any], *inputs: Tensor) -> Captured:
    captured = capture(function, *inputs)
    assert not any("_" == name.split(".")[0][-1] for name in operations(captured)), "an operation in place is left"
    return captured


X = torch.tensor([0.5, -1.0, 2.0])


# --- what is captured -------------------------------------------------------------------------------------------------


def test_the_graph_computes_the_function_at_other_inputs() -> None:
    captured = graph(lambda x: {"a": x.exp().sum(), "b": (x * 2, x - 1)}, X)
    other = torch.tensor([3.0, 0.0, -2.0])
    result = captured(other)
    torch.testing.assert_close(result["a"], other.exp().sum())
    torch.testing.assert_close(result["b"], (other * 2, other - 1))


def test_data_are_inputs_of_the_graph_each_once() -> None:
    data = torch.arange(3.0)
    captured = graph(lambda x: (x * data).sum() + (x + data).prod(), X)
    assert len(captured.constants) == 1
    assert captured.constants[0].data_ptr() == data.data_ptr()


def test_what_follows_from_data_alone_is_computed_once() -> None:
    data = torch.arange(3.0)
    captured = graph(lambda x: x * (data.exp() + 1).log(), X)
    assert operations(captured) == {"mul.Tensor"}


def test_a_read_of_data_is_an_ordinary_read() -> None:
    group = torch.tensor([0, 2, 1])
    captured = graph(lambda x: x.new_zeros(int(group.max()) + 1).sum() + x[group].sum(), X)
    torch.testing.assert_close(captured(2 * X), 2 * X.sum())


def test_a_tensor_that_is_filled_in_place_is_followed() -> None:
    def fill(x: Tensor) -> Tensor:
        loc = torch.zeros(4)
        loc[:2] = x[0]
        view = loc[2:]
        view += x[1]
        return loc.clamp_(min=-0.7)

    captured = graph(fill, X)
    torch.testing.assert_close(captured(X), torch.tensor([0.5, 0.5, -0.7, -0.7]))
    torch.testing.assert_close(captured(X + 1), torch.tensor([1.5, 1.5, 0.0, 0.0]))


def test_data_are_not_written_into() -> None:
    data = torch.zeros(3)

    def write(x: Tensor) -> Tensor:
        own = data.clone()
        own[0] = x[0]
        return own

    captured = graph(write, X)
    torch.testing.assert_close(captured(X), torch.tensor([0.5, 0.0, 0.0]))
    assert data.eq(0).all()


def test_a_mask_of_data_becomes_positions() -> None:
    mask = torch.tensor([True, False, True])
    captured = graph(lambda x: x[mask].sum(), X)
    torch.testing.assert_close(captured(X + 1), (X + 1)[mask].sum())
    assert all(constant.dtype != torch.bool for constant in captured.constants)


def test_the_default_dtype_of_the_moment_does_not_matter_later() -> None:
    captured = graph(lambda x: x + torch.ones(3), X.double())
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        assert captured(X)[0].dtype == torch.float32
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_dtype_is_kept(dtype: torch.dtype) -> None:
    assert graph(lambda x: (x * 2.5).logsumexp(0), X.to(dtype))(X.to(dtype)).dtype == dtype


def test_gradients_go_through_the_graph_and_stop_where_they_stopped() -> None:
    def function(x: Tensor) -> Tensor:
        return (x**2 * x.detach()).sum()

    captured, x = graph(function, X), (X + 1).requires_grad_(True)
    (expected,) = torch.autograd.grad(function(x), x)
    (observed,) = torch.autograd.grad(captured(x), x)
    torch.testing.assert_close(observed, expected)


def test_parameters_are_inputs_by_identity() -> None:
    weight = torch.tensor([1.0, 2.0], requires_grad=True)
    captured = graph(lambda *_: (weight * 3).sum(), weight)
    torch.testing.assert_close(captured(torch.tensor([5.0, 6.0])), torch.tensor(33.0))


def test_random_numbers_stay_random_and_follow_the_seed() -> None:
    captured = graph(lambda x: x + torch.randn(3), X)
    torch.manual_seed(5)
    first, second = captured(X), captured(X)
    torch.manual_seed(5)
    torch.testing.assert_close(captured(X), first)
    assert not torch.equal(first, second)


def test_capturing_leaves_the_random_state_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    graph(lambda x: x + torch.randn(3), X)
    assert torch.equal(torch.get_rng_state(), before)


def test_noise_becomes_an_input() -> None:
    captured = with_noise(graph(lambda x: (x + torch.randn(3)) * torch.rand(3), X))
    assert [(noise.kind, noise.shape) for noise in captured.noise] == [("normal", (3,)), ("uniform", (3,))]
    assert not captured.random
    normal, uniform = torch.tensor([1.0, 0.0, -1.0]), torch.tensor([0.5, 0.25, 0.0])
    torch.testing.assert_close(captured(X, noise=[normal, uniform]), (X + normal) * uniform)
    torch.manual_seed(0)
    drawn = captured(X)
    torch.manual_seed(0)
    torch.testing.assert_close(drawn, (X + torch.randn(3)) * torch.rand(3))


def test_noise_with_parameters_of_its_own_stays_in_the_graph() -> None:
    captured = with_noise(graph(lambda x: torch._standard_gamma(x.exp()) + torch.randn(3), X))
    assert len(captured.noise) == 1
    assert len(captured.random) == 1


def test_vmap_is_seen_through() -> None:
    def function(x: Tensor) -> Tensor:
        return torch.func.vmap(lambda row: (row * torch.arange(3.0)).sum())(x.expand(4, 3))

    torch.testing.assert_close(graph(function, X)(X + 1), function(X + 1))


# --- what is refused --------------------------------------------------------------------------------------------------


def _branch(y: Tensor) -> None:
    tau = pyro.sample("tau", dist.HalfCauchy(1.0))
    scale = tau if tau > 1 else tau**2  # a branch on a draw
    pyro.sample("y", dist.Normal(0.0, scale).expand([len(y)]).to_event(1), obs=y)


def _item(y: Tensor) -> None:
    tau = pyro.sample("tau", dist.HalfCauchy(1.0))
    scale = tau.detach().item()  # a read of a draw
    pyro.sample("y", dist.Normal(0.0, scale).expand([len(y)]).to_event(1), obs=y)


def _numpy(y: Tensor) -> None:
    tau = pyro.sample("tau", dist.HalfCauchy(1.0))
    scale = torch.as_tensor(tau.detach().numpy() + 1.0)  # a way around torch
    pyro.sample("y", dist.Normal(0.0, scale).expand([len(y)]).to_event(1), obs=y)


def _loop(y: Tensor) -> None:
    rate = pyro.sample("rate", dist.HalfCauchy(1.0))
    total, n = torch.zeros(()), 0
    while total < 3:  # as many rounds as a draw asks for
        total, n = total + rate, n + 1
    pyro.sample("y", dist.Normal(total, 1.0).expand([len(y)]).to_event(1), obs=y)


def _length(y: Tensor) -> None:
    z = pyro.sample("z", dist.Normal(torch.zeros(5), 1.0).to_event(1))
    kept = z[z > 0]  # a shape that depends on a draw
    pyro.sample("y", dist.Normal(kept.sum(), 1.0).expand([len(y)]).to_event(1), obs=y)


REFUSED = {
    _branch: "a branch on a draw",
    _item: "a read of a draw",
    _numpy: "a way around torch",
    _loop: "as many rounds",
    _length: "depends on a draw",
}


@pytest.mark.parametrize("model", REFUSED, ids=lambda model: model.__name__)
def test_a_program_that_reads_a_draw_is_refused_with_its_line(model: Callable[..., None]) -> None:
    problem = lvm.Problem(model, X)
    with problem.session(seed=0), pytest.raises(CaptureError) as caught:
        capture(Joint(problem).potential, torch.full((problem.unconstrained_size,), 0.3))
    assert "reads the value" in str(caught.value)
    assert REFUSED[model] in str(caught.value)
    assert "test_graph.py:" in str(caught.value)


@pytest.mark.parametrize("model", REFUSED, ids=lambda model: model.__name__)
def test_a_fit_of_such_a_program_runs_on_stock_pyro_and_says_why(
    model: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "FEW_STEPS", 10)
    fit = lvm.fit(
        lvm.Problem(model, X), "mean_field", max_steps=20, tolerance=0, draws=50, num_particles=1, progress=False
    )
    assert fit.engine == "pyro"
    assert REFUSED[model] in fit.engine_reason


def test_randomness_that_torch_does_not_see_is_refused() -> None:
    def fickle(y: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        if random.random() < 0.5:
            pyro.sample("more", dist.Normal(mean, 1.0), obs=y[0])
        pyro.sample("y", dist.Normal(mean, 1.0).expand([len(y)]).to_event(1), obs=y)

    with pytest.raises(lvm.ProblemError, match=r"site 'more' is there in \d of 8 runs"):
        lvm.fit(lvm.Problem(fickle, X), "mean_field", max_steps=400, tolerance=0, draws=50, progress=False)


def test_random_numbers_of_another_thread_are_none_of_the_program_s() -> None:
    """As those of an event loop, which draws when it waits: here while the first recording runs, and not again."""
    begun, drawn = threading.Event(), threading.Event()

    def other() -> None:
        begun.wait(10.0)
        random.random()
        drawn.set()
        threading.Event().wait(2.0)

    def program(x: Tensor) -> Tensor:
        begun.set()
        drawn.wait(10.0)
        return x.exp()

    thread = threading.Thread(target=other, daemon=True)
    thread.start()
    torch.testing.assert_close(graph(program, X)(X), X.exp())


def test_a_program_that_draws_by_python_is_refused_beside_other_threads() -> None:
    def program(x: Tensor) -> Tensor:
        return x * random.random()

    thread = threading.Thread(target=threading.Event().wait, args=(2.0,), daemon=True)
    thread.start()
    with pytest.raises(CaptureError, match="random numbers by Python or NumPy"):
        capture(program, X)


def test_sites_that_come_and_go_are_refused_by_name() -> None:
    runs = itertools.count()

    def moody(y: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        if next(runs) % 2:
            pyro.sample("more", dist.Normal(mean, 1.0), obs=y[0])
        pyro.sample("y", dist.Normal(mean, 1.0).expand([len(y)]).to_event(1), obs=y)

    with pytest.raises(lvm.ProblemError, match=r"site 'more' is there in 4 of 8 runs"):
        lvm.fit(lvm.Problem(moody, X), "mean_field", max_steps=400, tolerance=0, draws=50, progress=False)


def test_a_value_that_python_keeps_is_refused() -> None:
    runs = itertools.count()

    def drifting(y: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(float(next(runs)), 1.0))
        pyro.sample("y", dist.Normal(mean, 1.0).expand([len(y)]).to_event(1), obs=y)

    with pytest.raises(lvm.ProblemError, match=r"at the same values its log density is"):
        lvm.fit(lvm.Problem(drifting, X), "mean_field", max_steps=400, tolerance=0, draws=50, progress=False)


def test_a_check_without_a_result_is_no_operation() -> None:
    matrix = torch.eye(3) + 0.5
    captured = graph(lambda x: torch.linalg.cholesky(matrix + torch.diag(x**2)).diagonal().log().sum(), X)
    expected = torch.linalg.cholesky(matrix + torch.diag(torch.ones(3))).diagonal().log().sum()
    torch.testing.assert_close(captured(torch.ones(3)), expected)
