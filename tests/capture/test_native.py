"""Potentials as C: the same values and gradients as torch, operation by operation and model by model."""

from __future__ import annotations

import ctypes
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import pyrolvm as lvm
from pyrolvm._base.errors import CaptureError, PyrolvmWarning
from pyrolvm._capture import Captured, capture
from pyrolvm._capture.native import NativeGradient, compile_gradient
from pyrolvm._capture.native.gradient import lowered_gradient
from pyrolvm._program.density.joint import Joint
from pyrolvm._program.problem import Problem

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")

SIZE = 12
GENERATOR = torch.Generator().manual_seed(0)
POINT = torch.randn(SIZE, generator=GENERATOR, dtype=torch.float64) * 0.7
DATA = torch.randn(5, 4, generator=GENERATOR, dtype=torch.float64)
GROUPS = torch.tensor([0, 2, 2, 1, 0, 3, -1])
WEIGHTS = torch.linspace(0.5, 2.0, SIZE, dtype=torch.float64)


def weighed(x: Tensor) -> Tensor:
    """A number that depends on every entry in a way of its own, so that none can be at another's place."""
    return (x.to(torch.float64) * torch.linspace(0.3, 1.7, x.numel(), dtype=torch.float64).reshape(x.shape)).sum()


def matrix(x: Tensor) -> Tensor:
    return x.reshape(3, 4)


def definite(x: Tensor) -> Tensor:
    half = x[:9].reshape(3, 3)
    return half @ half.mT + torch.eye(3, dtype=x.dtype)


def batches(x: Tensor) -> Tensor:
    half = x.reshape(3, 2, 2)
    return half @ half.mT + torch.eye(2, dtype=x.dtype)


def filled(x: Tensor) -> Tensor:
    out = torch.zeros(3, 4, dtype=x.dtype)
    out[1] = x[:4]
    out[:, 2] = x[4:7]
    out[2, 3] = x[8] * out[1, 1]
    return out


def looped(x: Tensor) -> Tensor:
    state, total = x[0], x[0] * 0
    for entry in x[1:]:
        state = 0.9 * state + torch.tanh(entry)
        total = total + state * state
    return total


POSITIVE = {
    "lgamma": torch.lgamma,
    "log": torch.log,
    "log10": torch.log10,
    "log1p": torch.log1p,
    "log2": torch.log2,
    "power of a variable": lambda x: x**x,
    "reciprocal": torch.reciprocal,
    "rsqrt": torch.rsqrt,
    "sqrt": torch.sqrt,
    "xlogy": lambda x: torch.xlogy(x, x + 1),
}
REAL = {
    "abs": torch.abs,
    "asinh": torch.asinh,
    "atan": torch.atan,
    "cos": torch.cos,
    "cosh": torch.cosh,
    "elu": F.elu,
    "erf": torch.erf,
    "erfc": torch.erfc,
    "exp": torch.exp,
    "expm1": torch.expm1,
    "gelu": F.gelu,
    "leaky relu": F.leaky_relu,
    "logsigmoid": F.logsigmoid,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "sin": torch.sin,
    "sinh": torch.sinh,
    "softplus": F.softplus,
    "square": torch.square,
    "tanh": torch.tanh,
    "cube": lambda x: x**3,
    "negative power": lambda x: (x * x + 1) ** -1.5,
    "clamp": lambda x: x.clamp(-0.3, 0.4),
    "clamp below": lambda x: x.clamp(min=-0.3),
    "floor and rest": lambda x: x - x.floor() + torch.remainder(x, 0.7) + torch.trunc(x),
    "maximum": lambda x: torch.maximum(x, WEIGHTS - 1),
    "minimum": lambda x: torch.minimum(x, WEIGHTS - 1),
    "where": lambda x: torch.where(x > 0, x * 2, x.exp()),
    "masked": lambda x: x.masked_fill(x < 0, 0.5),
    "logical": lambda x: x * ((x > 0) & ~(x > 1) | (x < -1)),
    "add scaled": lambda x: torch.add(x, x * x, alpha=3) - torch.sub(x, x.exp(), alpha=2),
    "from a number": lambda x: 2 - x + 1 / (x * x + 1),
    "whole numbers": lambda x: x * torch.arange(SIZE) / (torch.arange(SIZE) + 1),
    "atan2": lambda x: torch.atan2(x, WEIGHTS),
    "logaddexp": lambda x: torch.logaddexp(x, WEIGHTS),
    "lerp": lambda x: torch.lerp(x, WEIGHTS, 0.3),
    "addcmul": lambda x: torch.addcmul(WEIGHTS, x, x, value=0.5),
    "sign": lambda x: x * torch.sign(x),
}
SHAPES = {
    "broadcast": lambda x: matrix(x) * x[:4] + matrix(x)[:, :1],
    "cat": lambda x: torch.cat([x[3:6], x * 2, x[:1]]),
    "cat columns": lambda x: torch.cat([matrix(x)[:, 1:], matrix(x).exp()], 1),
    "chunk": lambda x: x.chunk(3)[1] * x.chunk(3)[2],
    "diagonal": lambda x: matrix(x).diagonal(1).exp(),
    "diagonal below": lambda x: matrix(x).diagonal(-1).exp(),
    "diagonal matrix": lambda x: torch.diag_embed(matrix(x), offset=1),
    "expand": lambda x: x[:4].expand(5, 4) * DATA,
    "filled in place": filled,
    "flip": lambda x: matrix(x).flip(0, 1) * matrix(x),
    "movedim": lambda x: x.reshape(2, 3, 2).movedim(0, 2).exp(),
    "pad": lambda x: F.pad(matrix(x), (1, 2, 0, 1), value=3.0).exp(),
    "permute": lambda x: x.reshape(2, 3, 2).permute(2, 0, 1) * x.reshape(2, 2, 3),
    "repeat": lambda x: x[:3].repeat(2, 2) ** 2,
    "reshaped transpose": lambda x: matrix(x).mT.reshape(-1) * x,
    "roll": lambda x: x.roll(2) * x,
    "select": lambda x: matrix(x)[1] * matrix(x)[:, -1].sum(),
    "slice with steps": lambda x: x[1::3] * x[::3],
    "split": lambda x: x.split([2, 7, 3])[1].exp(),
    "stack": lambda x: torch.stack([x[:4], x[4:8].exp()], -1),
    "triangles": lambda x: matrix(x).tril(-1).exp() - matrix(x).triu(1).sin(),
    "unbind": lambda x: torch.cat([row * (i + 1) for i, row in enumerate(matrix(x).unbind(1))]),
    "unfolded columns": lambda x: matrix(x)[:, None, :].squeeze(1).unflatten(1, (2, 2)).flatten(0, 1),
    "vander": lambda x: x[:3, None] ** torch.arange(4),
}
JOINED = {
    "all dimensions": lambda x: x.sum() * x.mean(),
    "amax": lambda x: matrix(x).amax(1) * matrix(x).amin(0)[:3],
    "cumprod": lambda x: x.cumprod(0),
    "cumsum of rows": lambda x: matrix(x).exp().cumsum(1),
    "cumsum of columns": lambda x: matrix(x).exp().cumsum(0),
    "inner and outer dimension": lambda x: x.reshape(2, 3, 2).exp().sum((0, 2)),
    "logcumsumexp by hand": lambda x: (x - x.max()).exp().cumsum(0).log() + x.max(),
    "logsumexp": lambda x: matrix(x).logsumexp(0),
    "max": lambda x: matrix(x).max(1).values * matrix(x).min(0).values[:3],
    "max of all": lambda x: x.max() * x.min(),
    "argmax": lambda x: matrix(x).gather(1, matrix(x).argmax(1, keepdim=True)),
    "mean of rows": lambda x: matrix(x).mean(1, keepdim=True) - matrix(x),
    "mean of nothing": lambda x: torch.cat([matrix(x)[:, :0].mean(1), x[:1]]).nan_to_num(0.5),
    "nothing beside something": lambda x: torch.cat([(x[:0] / 0).exp(), x[3:5]]),
    "product of what is the same": lambda x: x[:4].expand(5, 4).prod(0),
    "sum of the logarithms of nothing": lambda x: (matrix(x)[:, 4:] - matrix(x)[:, :1]).log().sum(1) * 0.5 + x[:3],
    "middle dimension": lambda x: x.reshape(2, 3, 2).exp().sum(1),
    "norm": lambda x: matrix(x).norm(dim=1),
    "prod": lambda x: matrix(x).prod(1),
    "softmax": lambda x: matrix(x).softmax(1) + matrix(x).log_softmax(0),
    "sum of what is the same in all rows": lambda x: x[:4].expand(5, 4).sum(0) + x[:5, None].expand(5, 4).sum(1)[:4],
    "variance": lambda x: matrix(x).var(0) + matrix(x).std(0, unbiased=False),
}
ALGEBRA = {
    "batch of products": lambda x: x.reshape(3, 2, 2) @ x.reshape(3, 2, 2).mT,
    "cholesky": lambda x: torch.linalg.cholesky(definite(x)),
    "cholesky of a batch": lambda x: torch.linalg.cholesky(batches(x)),
    "data times vector": lambda x: DATA @ x[:4],
    "einsum": lambda x: torch.einsum("ij,ik->jk", matrix(x), matrix(x).exp()),
    "linear": lambda x: F.linear(DATA, matrix(x), x[:3]),
    "outer": lambda x: torch.outer(x[:3], x[3:]),
    "product": lambda x: matrix(x) @ DATA.mT,
    "quadratic form": lambda x: x[:4] @ DATA.mT @ DATA @ x[4:8],
    "solve lower": lambda x: torch.linalg.solve_triangular(definite(x).tril(), DATA[:3], upper=False),
    "solve upper": lambda x: torch.linalg.solve_triangular(definite(x).triu(), DATA[:3], upper=True),
    "solve from the right": lambda x: torch.linalg.solve_triangular(
        definite(x).tril(), DATA[:, :3], upper=False, left=False
    ),
    "solve with ones": lambda x: torch.linalg.solve_triangular(
        definite(x), DATA[:3, :1], upper=False, unitriangular=True
    ),
    "solve a batch": lambda x: torch.linalg.solve_triangular(batches(x).tril(), DATA[:2, :3], upper=False),
}
LOOKUPS = {
    "boolean mask of data": lambda x: x[WEIGHTS > 1] * 2,
    "embedding": lambda x: F.embedding(GROUPS[:4], matrix(x)[:, :2].contiguous().repeat(2, 1)),
    "gather": lambda x: matrix(x).gather(1, torch.tensor([[0, 3], [1, 1], [2, 0]])),
    "groups": lambda x: x[GROUPS] * torch.arange(7),
    "groups of rows": lambda x: x.reshape(4, 3)[GROUPS] * DATA[:, :3].sum(),
    "pairs": lambda x: matrix(x)[torch.tensor([0, 2, 2]), torch.tensor([3, 1, 1])],
    "columns": lambda x: matrix(x)[:, torch.tensor([3, 0, 0])] * DATA[:3, :3],
    "index add": lambda x: torch.zeros(4, dtype=x.dtype).index_add(0, GROUPS % 4, x[:7]),
    "index put": lambda x: x.index_put((torch.tensor([1, 5]),), x[:2] * 3),
    "index select": lambda x: matrix(x).index_select(1, torch.tensor([2, 2, 0])),
    "scatter": lambda x: torch.zeros(4, dtype=x.dtype).scatter(0, torch.tensor([3, 1]), x[:2]),
    "scatter add": lambda x: torch.zeros(4, dtype=x.dtype).scatter_add(0, GROUPS % 4, x[:7].exp()),
    "take along": lambda x: torch.take_along_dim(matrix(x), torch.tensor([[1], [0], [2]]), 1),
}
FUNCTIONS = {
    **{f"positive: {k}": (lambda x, f=f: f(x.exp() + 0.1)) for k, f in POSITIVE.items()},
    **REAL,
    **SHAPES,
    **JOINED,
    **ALGEBRA,
    **LOOKUPS,
    "loop": looped,
}


def compiled(function: Callable[[Tensor], Tensor], point: Tensor = POINT) -> tuple[Captured, NativeGradient]:
    captured = capture(function, point)
    return captured, compile_gradient(captured)


def assert_same(captured: Captured, gradient: NativeGradient, point: Tensor) -> None:
    moving = point.clone().requires_grad_()
    value = captured(moving)
    (slope,) = torch.autograd.grad(value, moving)
    found, found_slope = gradient(point.numpy())
    assert found == pytest.approx(-value.item(), rel=1e-10, abs=1e-10)
    np.testing.assert_allclose(found_slope, -slope.numpy(), rtol=1e-10, atol=1e-10 * float(slope.abs().max()))


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_value_and_gradient_are_those_of_torch(name: str) -> None:
    captured, gradient = compiled(lambda x: weighed(FUNCTIONS[name](x)))
    for scale in (1.0, -0.4, 2.5):
        assert_same(captured, gradient, POINT * scale)


def test_digamma_and_trigamma_are_those_of_scipy() -> None:
    special = pytest.importorskip("scipy.special")
    point = torch.tensor([1e-3, 0.4, 1.0, 3.7, 9.9, 10.1, 250.0, -0.3, -2.6], dtype=torch.float64)
    _, gradient = compiled(lambda x: torch.digamma(x).sum(), point)
    value, slope = gradient(point.numpy())
    assert value == pytest.approx(-special.digamma(point.numpy()).sum(), rel=1e-12)
    np.testing.assert_allclose(slope, -special.polygamma(1, point.numpy()), rtol=1e-12)


def hierarchical() -> Problem:
    groups, x = torch.arange(600) % 50, torch.randn(600, 3, generator=GENERATOR, dtype=torch.float64)

    def model(x: Tensor, groups: Tensor, y: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(x.new_zeros(()), 10.0))
        spread = pyro.sample("spread", dist.HalfCauchy(x.new_ones(())))
        slope = pyro.sample("slope", dist.Normal(x.new_zeros(3), 1.0).to_event(1))
        with pyro.plate("groups", 50):
            level = pyro.sample("level", dist.Normal(mean, spread))
        with pyro.plate("rows", 600):
            pyro.sample("y", dist.StudentT(4.0, level[groups] + x @ slope, 0.5), obs=y)

    return Problem(model, x, groups, x.sum(1))


def gaussian_process() -> Problem:
    def model(x: Tensor, y: Tensor) -> None:
        length = pyro.sample("length", dist.LogNormal(x.new_zeros(()), 1.0))
        noise = pyro.sample("noise", dist.HalfNormal(x.new_ones(())))
        kernel = torch.exp(-0.5 * ((x[:, None] - x) / length) ** 2) + (noise**2 + 1e-6) * torch.eye(20, dtype=x.dtype)
        pyro.sample("y", dist.MultivariateNormal(torch.zeros_like(x), kernel), obs=y)

    x = torch.linspace(0, 1, 20, dtype=torch.float64)
    return Problem(model, x, (6 * x).sin())


def correlated() -> Problem:
    def model(y: Tensor) -> None:
        scale = pyro.sample("scale", dist.Gamma(y.new_full((3,), 2.0), 1.5).to_event(1))
        factor = pyro.sample("factor", dist.LKJCholesky(3, y.new_tensor(2.0)))
        shares = pyro.sample("shares", dist.Dirichlet(y.new_full((3,), 1.5)))
        share = pyro.sample("share", dist.Beta(y.new_tensor(2.0), 3.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.MultivariateNormal(shares * share, scale_tril=scale[:, None] * factor), obs=y)

    return Problem(model, torch.randn(7, 3, generator=GENERATOR, dtype=torch.float64))


def slopes() -> Problem:
    """A correlation matrix of two rows, whose factor has a part of no entries."""

    def model(x: Tensor, groups: Tensor, y: Tensor) -> None:
        scale = pyro.sample("scale", dist.HalfNormal(y.new_ones(2)).to_event(1))
        factor = pyro.sample("factor", dist.LKJCholesky(2, y.new_tensor(1.5)))
        with pyro.plate("groups", 6):
            level = pyro.sample("level", dist.MultivariateNormal(y.new_zeros(2), scale_tril=scale[:, None] * factor))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(level[groups, 0] + level[groups, 1] * x, 0.5), obs=y)

    x = torch.randn(18, generator=GENERATOR, dtype=torch.float64)
    return Problem(model, x, torch.arange(18) % 6, x.sin())


def volatility() -> Problem:
    def model(y: Tensor) -> None:
        scale = pyro.sample("scale", dist.Exponential(y.new_tensor(50.0)))
        tail = pyro.sample("tail", dist.Exponential(y.new_tensor(0.1)))
        steps = pyro.sample("steps", dist.Normal(torch.zeros_like(y), 1.0).to_event(1))
        level = torch.cumsum(scale * steps, -1)
        pyro.sample("y", dist.StudentT(tail, y.new_zeros(()), level.exp()).to_event(1), obs=y)

    return Problem(model, torch.randn(200, generator=GENERATOR, dtype=torch.float64) * 0.1)


def counts() -> Problem:
    def model(x: Tensor, y: Tensor) -> None:
        rate = pyro.sample("rate", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        size = pyro.sample("size", dist.LogNormal(x.new_zeros(()), 1.0))
        gate = pyro.sample("gate", dist.Beta(x.new_tensor(1.0), 1.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.ZeroInflatedNegativeBinomial(size, logits=x @ rate, gate=gate), obs=y)

    x = torch.randn(30, 2, generator=GENERATOR, dtype=torch.float64)
    return Problem(model, x, torch.arange(30).to(torch.float64) % 4)


MODELS: dict[str, Callable[[], Problem]] = {
    **{
        name: (lambda name=name: lvm.problem(name))
        for name in (
            "eight_schools",
            "eight_schools_centered",
            "eight_schools_noncentered",
            "gaussian_mixture",
            "logistic_regression",
            "ppca",
        )
    },
    "correlated": correlated,
    "counts": counts,
    "gaussian process": gaussian_process,
    "hierarchical": hierarchical,
    "slopes": slopes,
    "volatility": volatility,
}


@pytest.mark.parametrize("name", sorted(MODELS))
def test_the_potential_of_a_model_is_that_of_torch(name: str) -> None:
    problem = MODELS[name]().to(dtype=torch.float64)
    point = torch.randn(problem.unconstrained_size, generator=GENERATOR, dtype=torch.float64) * 0.5
    with problem.session(seed=0):
        potential = Joint(problem).potential
        gradient = compile_gradient(capture(potential, point))
        for scale in (1.0, -0.6):
            moving = (scale * point).requires_grad_()
            value = potential(moving)
            (slope,) = torch.autograd.grad(value, moving)
            found, found_slope = gradient((scale * point).numpy())
            assert found == pytest.approx(-value.item(), rel=1e-10)
            np.testing.assert_allclose(found_slope, -slope.numpy(), rtol=1e-9, atol=1e-10 * float(slope.abs().max()))


# --- the C function -----------------------------------------------------------------------------------------------------


def call(gradient: NativeGradient, point: np.ndarray, size: int | None = None) -> int:
    kind = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_uint64, *[ctypes.c_void_p] * 4)
    out, value = np.empty(gradient.size), np.empty(1)
    return kind(gradient.address)(
        size or gradient.size, point.ctypes.data, out.ctypes.data, value.ctypes.data, gradient.data
    )


def test_what_is_not_finite_has_a_positive_code_and_a_wrong_size_a_negative_one() -> None:
    _, gradient = compiled(lambda x: x.log().sum(), torch.ones(2, dtype=torch.float64))
    assert call(gradient, np.array([1.0, 2.0])) == 0
    assert call(gradient, np.array([0.0, 2.0])) > 0
    assert call(gradient, np.array([-1.0, 2.0])) > 0
    assert call(gradient, np.array([1.0, 2.0]), size=3) < 0
    _, root = compiled(lambda x: x.sqrt().sum(), torch.ones(2, dtype=torch.float64))
    assert call(root, np.array([0.0, 2.0])) > 0  # finite, but not its gradient


def test_a_matrix_without_a_factor_gives_a_density_that_is_not_a_number() -> None:
    _, gradient = compiled(lambda x: torch.linalg.cholesky(x.reshape(2, 2)).sum(), torch.eye(2).double().reshape(4))
    assert np.isfinite(gradient(np.array([2.0, 0.5, 0.5, 1.0]))[0])
    assert np.isnan(gradient(np.array([1.0, 2.0, 2.0, 1.0]))[0])


def test_expansion_copies_the_point_and_counts() -> None:
    _, gradient = compiled(lambda x: x.sum())
    kind = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_uint64, ctypes.c_uint64, *[ctypes.c_void_p] * 3)
    point, copy, calls = POINT.numpy(), np.zeros(SIZE), np.zeros(1, np.int64)
    for counter in (calls.ctypes.data, None, calls.ctypes.data):
        assert kind(gradient.identity)(SIZE, SIZE, point.ctypes.data, copy.ctypes.data, counter) == 0
    np.testing.assert_array_equal(copy, point)
    assert calls == 2


@pytest.mark.parametrize("rows", [10, 20_000], ids=["on the stack", "on the heap"])
def test_threads_do_not_disturb_each_other(rows: int) -> None:
    x = torch.randn(rows, 3, generator=GENERATOR, dtype=torch.float64)
    _, gradient = compiled(lambda b: (x @ b).exp().log1p().cumsum(0).tanh().sum(), torch.zeros(3, dtype=torch.float64))
    points = [np.full(3, 0.1 * k) for k in range(8)]
    alone = [gradient(point) for point in points]
    with ThreadPoolExecutor(4) as pool:
        for (value, slope), (other, other_slope) in zip(alone * 10, pool.map(gradient, points * 10), strict=True):
            assert value == other
            np.testing.assert_array_equal(slope, other_slope)


@pytest.mark.parametrize("count", [1, 1_999, 2_000, 5_003])
def test_many_points_are_the_same_whatever_number_of_threads_takes_them(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    captured = capture(lambda u: (u.cos() * u.exp()).sum() - u.prod(), torch.zeros(3, dtype=torch.float64))
    gradient = compile_gradient(captured)
    points = np.random.default_rng(0).normal(size=(count, 3))
    found = []
    for processors in (1, 3):
        monkeypatch.setattr("pyrolvm._capture.native.gradient.available", lambda n=processors: n)
        found.append(gradient.many(points))
    for alone, shared in zip(*found, strict=True):
        assert np.array_equal(alone, shared)
    value, slope = gradient(points[-1])
    assert found[0][0][-1] == value and np.array_equal(found[0][1][-1], slope)


def test_a_potential_in_single_precision_is_computed_in_double() -> None:
    point = torch.full((3,), 0.1)
    _, gradient = compiled(lambda x: (x * 1e-9 + 1.0).sum(), point)
    assert gradient(point.double().numpy())[0] == pytest.approx(-(3 + 3 * 0.1e-9), abs=1e-14)


def test_the_wrong_shape_is_refused() -> None:
    _, gradient = compiled(lambda x: x.sum())
    with pytest.raises(CaptureError, match=r"shape \(3,\), expected \(12,\)"):
        gradient(np.zeros(3))


def test_data_stay_out_of_the_text() -> None:
    def text(data: Tensor) -> str:
        return lowered_gradient(capture(lambda x: (x * data).sum(), POINT))[1].text

    assert text(torch.arange(12.0)) == text(torch.arange(12.0) + 1)


def test_what_is_the_same_for_all_rows_is_computed_once() -> None:
    x = torch.randn(1000, generator=GENERATOR, dtype=torch.float64)
    text = lowered_gradient(capture(lambda z: (z[0].exp().expand(1000) * x).sum(), POINT))[1].text
    loop = text[text.index("for (integer i0 = 0; i0 < 1000") :]
    assert "exp(" in text
    assert "exp(" not in loop[: loop.index("}")]


# --- what cannot be done ------------------------------------------------------------------------------------------------


def test_an_operation_without_a_rule_is_named() -> None:
    with pytest.raises(CaptureError, match=r"no rule for .*sort"):
        compiled(lambda x: weighed(x.sort().values))


def test_a_random_potential_is_refused() -> None:
    with pytest.raises(CaptureError, match="no rule for randn"):
        compiled(lambda x: (x + torch.randn(SIZE)).sum())


def test_a_machine_without_a_compiler_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with (
        pytest.warns(PyrolvmWarning, match="'cc' is not there"),
        pytest.raises(CaptureError, match="needs a C compiler"),
    ):
        compiled(lambda x: x.sum())
