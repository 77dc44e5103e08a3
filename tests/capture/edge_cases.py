"""Functions of which engines may lose the edges, and where they are tried."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["TINY", "Case", "cases"]

TINY, DENORMAL, HUGE, STEP = np.finfo(float).tiny, 5e-324, np.finfo(float).max, np.finfo(float).eps

_SIZES = [
    0.0, DENORMAL, 1e-310, TINY, 1e-300, 1e-160, 1e-30, STEP, 1e-8, 1e-4, 0.3, 0.5, 1 - STEP, 1.0, 1 + STEP, 1.5, 2.0, 2.5, 3.0,
    5.0, 9.9, 12.0, 19.999, 20.0, 20.001, 25.0, 36.0, 37.5, 40.0, 88.8, 104.0, 170.7, 709.0, 709.8, 745.0, 746.0, 1e4,
    1e8, 1e16, 1e100, 1.4e154, 1e300, HUGE, math.inf,
]  # fmt: skip
POINTS = torch.tensor([*_SIZES, *(-s for s in _SIZES), math.nan], dtype=torch.float64)
"""Where functions of one number are tried."""

_PAIRED = [
    0.0, -0.0, DENORMAL, 1e-30, 0.5, 1.0, -1.0, 2.0, -2.5, 3.0, 20.0, 750.0, -750.0, 1e200, -1e200, math.inf, -math.inf, math.nan,
]  # fmt: skip
PAIRS = torch.tensor([[a, b] for a in _PAIRED for b in _PAIRED], dtype=torch.float64)
"""Where functions of two numbers are tried."""

INF, NAN = math.inf, math.nan
ROWS = torch.tensor(
    [
        [0.0, 0.0, 0.0], [0.0, -0.0, 0.0], [1.0, 0.0, 2.0], [0.0, 0.0, 3.0], [1.0, 1.0, 2.0], [2.0, 2.0, 1.0], [-1.0, -1.0, -1.0],
        [1e4, -1e4, 0.0], [88.0, -800.0, 800.0], [1e308, 1e308, 1e308], [1e-320, 1e-310, 0.0], [-1e200, 1e200, 1e-200],
        [-INF, -INF, -INF], [-INF, 0.0, 1.0], [INF, 0.0, 1.0], [INF, INF, 0.0], [INF, -INF, 0.0], [NAN, 0.0, 1.0], [1.0, NAN, 0.0],
        [-INF, NAN, INF], [1e-9, 1.0, 1.0],
    ],
    dtype=torch.float64,
)  # fmt: skip
"""Where functions of a vector are tried, one in each row."""

MATRICES = torch.tensor(
    [
        [[1.0, 0.0], [0.0, 1.0]], [[1.0, 1.0], [1.0, 1.0]], [[1.0, 0.5], [0.5, 0.25]], [[1.0, 1 - 1e-9], [1 - 1e-9, 1.0]],
        [[1.0, 2.0], [2.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]], [[-1.0, 0.0], [0.0, 1.0]], [[1e-300, 0.0], [0.0, 1e300]],
        [[1e-310, 0.0], [0.0, 1.0]], [[1e200, 1e199], [1e199, 1e200]], [[NAN, 0.0], [0.0, 1.0]], [[1.0, NAN], [NAN, 1.0]],
        [[1.0, 0.0], [0.0, NAN]], [[INF, 0.0], [0.0, 1.0]], [[4.0, 7.0], [2.0, 5.0]],
    ],
    dtype=torch.float64,
)  # fmt: skip
"""Where functions of a matrix are tried: near singular, not definite, not finite, not symmetric."""

UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "abs": torch.abs,
    "acos": torch.acos,
    "acosh": torch.acosh,
    "asin": torch.asin,
    "asinh": torch.asinh,
    "atan": torch.atan,
    "atanh": torch.atanh,
    "ceil": torch.ceil,
    "cos": torch.cos,
    "cosh": torch.cosh,
    "digamma": torch.digamma,
    "erf": torch.erf,
    "erfc": torch.erfc,
    "erfinv": torch.erfinv,
    "exp": torch.exp,
    "exp2": torch.exp2,
    "expm1": torch.expm1,
    "floor": torch.floor,
    "lgamma": torch.lgamma,
    "log": torch.log,
    "log10": torch.log10,
    "log1p": torch.log1p,
    "log2": torch.log2,
    "logsigmoid": F.logsigmoid,
    "neg": torch.neg,
    "reciprocal": torch.reciprocal,
    "relu": torch.relu,
    "rsqrt": torch.rsqrt,
    "sigmoid": torch.sigmoid,
    "sign": torch.sign,
    "sin": torch.sin,
    "sinh": torch.sinh,
    "softplus": F.softplus,
    "softplus of another slope": lambda x: F.softplus(x, beta=3.0, threshold=10.0),
    "sqrt": torch.sqrt,
    "tan": torch.tan,
    "tanh": torch.tanh,
    "trunc": torch.trunc,
    "elu": F.elu,
    "gelu": F.gelu,
    "silu": F.silu,
    "leaky relu": F.leaky_relu,
    "hardtanh": F.hardtanh,
    "square": torch.square,
    "logit": torch.logit,
    "logit with a margin": lambda x: torch.logit(x, 1e-6),
    "ndtr": torch.special.ndtr,
    "ndtri": torch.special.ndtri,
    "log ndtr": torch.special.log_ndtr,
    "erfcx": torch.special.erfcx,
    "entr": torch.special.entr,
    "round": torch.round,
    "frac": torch.frac,
    "sinc": torch.sinc,
    "nan to num": torch.nan_to_num,
    "i0e": torch.special.i0e,
    "i1e": torch.special.i1e,
    "i0": torch.i0,
    "clamp": lambda x: x.clamp(-0.5, 1.0),
    "clamp below": lambda x: x.clamp(min=0.0),
    "clamp above": lambda x: x.clamp(max=0.5),
    "clamp of zero": lambda x: x.clamp(0.0, 0.0),
    "whole numbers": lambda x: x.isnan().to(torch.int64) * 3 + x,
    "power 0": lambda x: x**0,
    "power 0.5": lambda x: x**0.5,
    "power 1": lambda x: x**1,
    "power 1.5": lambda x: x**1.5,
    "power 2": lambda x: x**2,
    "power 3": lambda x: x**3,
    "power 4": lambda x: x**4,
    "power -1": lambda x: x**-1,
    "power -2": lambda x: x**-2,
    "power -0.5": lambda x: x**-0.5,
    "power -1.5": lambda x: x**-1.5,
    "number to a power": lambda x: 2.0**x,
    "zero to a power": lambda x: 0.0**x,
    "square root of a square": lambda x: (x * x).sqrt(),
    "infinite": torch.isinf,
    "where": lambda x: torch.where(x > 0, x.log(), x * 2),
    "masked": lambda x: x.log().masked_fill(x <= 0, 0.0),
    "safe logarithm": lambda x: torch.where(x > 0, torch.where(x > 0, x, 1.0).log(), 0.0),
    "comparisons": lambda x: (
        (x > 0) * 1.0 + (x >= 0) * 2.0 + (x < 1) * 4.0 + (x <= 1) * 8.0 + (x == 0) * 16.0 + (x != 1) * 32.0
    ),
    "logic": lambda x: ((x > 0) & ~(x > 1) | (x < -1)) * x + ((x > 0) ^ (x < 1)) * 1.0,
    "logical": lambda x: (
        (torch.logical_and(x, x > 0) | torch.logical_xor(x, x > 1) | torch.logical_not(x)) * 1.0
        + torch.logical_or(x, x > 2)
    ),
    "remainder": lambda x: torch.remainder(x, 0.7),
    "fmod": lambda x: torch.fmod(x, 0.7),
    "floor division": lambda x: torch.div(x, 0.7, rounding_mode="floor"),
    "truncated division": lambda x: torch.div(x, 0.7, rounding_mode="trunc"),
    "from a number": lambda x: 2 - x,
    "add scaled": lambda x: torch.add(x, x, alpha=3) - torch.sub(x, x, alpha=2),
    "divided number": lambda x: 1.0 / x,
    "xlogy of zero": lambda x: torch.xlogy(0.0, x),
    "xlogy of data": lambda x: torch.xlogy(2.0, x),
    "xlog1py of zero": lambda x: torch.special.xlog1py(torch.zeros((), dtype=x.dtype), x),
    "mvlgamma": lambda x: torch.mvlgamma(x.abs() + 0.6, 2),
    "threshold": lambda x: F.threshold(x, 0.5, -1.0),
    "to integers": lambda x: x.nan_to_num(0.0, 9.0, -9.0).clamp(-9, 9).to(torch.int64) * x.detach(),
}
"""Functions of one number."""

BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "pow": torch.pow,
    "atan2": torch.atan2,
    "logaddexp": torch.logaddexp,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "fmax": torch.fmax,
    "fmin": torch.fmin,
    "xlogy": torch.xlogy,
    "xlog1py": torch.special.xlog1py,
    "hypot": torch.hypot,
    "fmod": torch.fmod,
    "remainder": torch.remainder,
    "where": lambda x, y: torch.where(x > y, x, y * 2),
    "equality": lambda x, y: (x == y) * x + (x != y) * y,
    "copysign": torch.copysign,
    "addcmul": lambda x, y: torch.addcmul(x, x, y, value=0.5),
    "lerp": lambda x, y: torch.lerp(x, y, 0.3),
    "squared distance": lambda x, y: ((x - y) / y) ** 2,
    "binary cross entropy": lambda x, y: F.binary_cross_entropy_with_logits(x, y, reduction="none"),
}
"""Functions of two numbers."""


def _factor(x: Tensor) -> Tensor:
    """The Cholesky factor; not a number where there is none, where stock torch raises and a density is to be nowhere finite."""
    factor, failed = torch.linalg.cholesky_ex(x)
    return torch.where(failed[:, None, None] != 0, NAN, factor).tril()


WHOLE: dict[str, tuple[Callable[[Tensor], Tensor], Tensor]] = {
    **{
        name: (function, ROWS)
        for name, function in {
            "sum": lambda x: x.sum(1),
            "mean": lambda x: x.mean(1),
            "prod": lambda x: x.prod(1),
            "cumsum": lambda x: x.cumsum(1),
            "cumprod": lambda x: x.cumprod(1),
            "logcumsumexp": lambda x: x.logcumsumexp(1),
            "logsumexp": lambda x: x.logsumexp(1),
            "softmax": lambda x: x.softmax(1),
            "log softmax": lambda x: x.log_softmax(1),
            "amax": lambda x: x.amax(1),
            "amin": lambda x: x.amin(1),
            "max": lambda x: x.max(1).values,
            "min": lambda x: x.min(1).values,
            "argmax": lambda x: x.argmax(1) + 0 * x.detach()[:, 0].nan_to_num(0, 0, 0),
            "argmin": lambda x: x.argmin(1) + 0 * x.detach()[:, 0].nan_to_num(0, 0, 0),
            "where the max is": lambda x: x.gather(1, x.max(1, keepdim=True).indices),
            "var": lambda x: x.var(1),
            "std": lambda x: x.std(1, unbiased=False),
            "norm": lambda x: x.norm(dim=1),
            "norm 1": lambda x: x.norm(1, dim=1),
            "any and all": lambda x: (
                (x > 0).any(1) * 1.0 + (x > 0).all(1) * 2.0 + 0 * x.detach()[:, 0].nan_to_num(0, 0, 0)
            ),
            "extremes of all": lambda x: x[2].max().expand(len(x)) - x[2].min(),
            "median": lambda x: x.median(1).values,
            "sort": lambda x: x.sort(1).values,
            "stick breaking": lambda x: x.sigmoid() * F.pad((1 - x.sigmoid()).cumprod(1)[:, :-1], (1, 0), value=1.0),
            "entries": lambda x: x[:, torch.tensor([2, 0, 0])],
            "gather": lambda x: x.gather(1, torch.tensor([[0, 2]]).expand(len(x), 2)),
            "index add": lambda x: torch.zeros(len(x), 2, dtype=x.dtype).index_add(1, torch.tensor([0, 1, 1]), x),
            "index put": lambda x: x.index_put((torch.arange(len(x)), torch.tensor([1])), x[:, 0] * 3),
            "index put added": lambda x: (
                torch.zeros(2, dtype=x.dtype)
                .index_put((torch.tensor([0, 0, 1]),), x[2], accumulate=True)
                .expand(len(x), 2)
                + x[:, :2]
            ),
            "scatter": lambda x: torch.zeros_like(x).scatter(1, torch.tensor([[2, 0]]).expand(len(x), 2), x[:, :2]),
            "scatter add": lambda x: torch.zeros_like(x).scatter_add(
                1, torch.tensor([[2, 2]]).expand(len(x), 2), x[:, :2]
            ),
            "scatter a number": lambda x: x.scatter(1, torch.tensor([[1]]).expand(len(x), 1), 0.25),
            "index select": lambda x: x.index_select(1, torch.tensor([1, 1])),
            "pad": lambda x: F.pad(x, (1, 1), value=INF),
            "cat": lambda x: torch.cat([x[:, 1:], x], 1),
            "stack": lambda x: torch.stack([x, x.exp()], 2),
            "flip": lambda x: x.flip(1),
            "repeat": lambda x: x.repeat(1, 2),
            "split": lambda x: x.split([1, 2], 1)[1],
            "unbind": lambda x: x.unbind(1)[1],
            "diagonal": lambda x: torch.diag_embed(x),
            "expanded": lambda x: x[:, :1].expand(-1, 4).prod(1) + x[:, :1].expand(-1, 4).sum(1),
            "nothing to sum": lambda x: x[:, :0].log().sum(1) + x[:, 0],
            "nothing to multiply": lambda x: (1 / x[:, :0]).prod(1) * x[:, 0],
            "product with zeros": lambda x: x @ torch.zeros(3, 2, dtype=x.dtype),
            "product": lambda x: x @ torch.tensor([[1.0, 2.0], [0.5, 0.0], [-1.0, 3.0]], dtype=x.dtype),
            "vector": lambda x: x @ torch.tensor([1.0, 0.0, -2.0], dtype=x.dtype),
            "batch of products": lambda x: x[:, :, None] @ x[:, None, :],
            "addmm": lambda x: F.linear(x, torch.ones(2, 3, dtype=x.dtype), torch.tensor([INF, 0.0], dtype=x.dtype)),
            "filled in place": lambda x: torch.zeros_like(x).index_fill(1, torch.tensor([1]), 2.0) * x,
            "distances": lambda x: (x[:, :, None] - x[:, None, :]).square().sum(1).add(1e-30).sqrt(),
        }.items()
    },
    **{
        name: (function, MATRICES)
        for name, function in {
            "cholesky": _factor,
            "solve lower": lambda x: torch.linalg.solve_triangular(
                x.tril(), torch.ones(2, 1, dtype=x.dtype), upper=False
            ),
            "solve upper": lambda x: torch.linalg.solve_triangular(
                x.triu(), torch.ones(2, 3, dtype=x.dtype), upper=True
            ),
            "tril": lambda x: x.tril(-1).exp() + x.tril(),
            "triu": lambda x: x.triu(1) * 2,
            "matrix diagonal": lambda x: x.diagonal(dim1=-2, dim2=-1).log(),
            "solve unit": lambda x: torch.linalg.solve_triangular(
                x, torch.ones(2, 1, dtype=x.dtype), upper=False, unitriangular=True
            ),
            "solve from the right": lambda x: torch.linalg.solve_triangular(
                x.tril(), torch.ones(1, 2, dtype=x.dtype), upper=False, left=False
            ),
            "quadratic form": lambda x: (x.mT @ x).sum((1, 2)),
            "solve": lambda x: torch.linalg.solve_ex(x, torch.ones(2, 1, dtype=x.dtype)).result,
            "inverse": lambda x: torch.linalg.inv_ex(x).inverse,
            "determinant": lambda x: torch.linalg.det(x),
            "log determinant": lambda x: x.logdet(),
            "cholesky inverse": lambda x: (
                torch.cholesky_inverse(x[:2].tril()).expand(len(x) // 2 + 1, 2, 2, 2).flatten(0, 1)[: len(x)] * 1.0
            ),
            "cholesky solve": lambda x: torch.cholesky_solve(torch.ones(2, 1, dtype=x.dtype), x.tril()),
        }.items()
    },
}
"""Functions of a vector or a matrix, and where they are tried."""


@dataclass(frozen=True)
class Case:
    """A function and where it is tried."""

    name: str
    function: Callable[..., Tensor]
    inputs: tuple[Tensor, ...]


def cases() -> list[Case]:
    """All of them."""
    found = [Case(name, function, (POINTS,)) for name, function in UNARY.items()]
    found += [
        Case(f"two: {name}", function, (PAIRS[:, 0].clone(), PAIRS[:, 1].clone())) for name, function in BINARY.items()
    ]
    return found + [Case(f"whole: {name}", function, (points,)) for name, (function, points) in WHOLE.items()]
