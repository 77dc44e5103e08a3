"""Whether a function means the same to stock torch, to its captured graph and to JAX: in value, and in gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from pyrolvm._base import runtime
from pyrolvm._capture.capturing import capture
from pyrolvm._capture.graph import Captured, with_noise
from pyrolvm._capture.jax import precision
from pyrolvm._capture.jax.interpreter import array, lower
from pyrolvm._capture.recorder import operation
from pyrolvm._capture.vmap import VmapFriendly

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-6}
"""Relative to the largest number on the way. In float32 the rounding of the program itself, in another order, comes on top."""
ROUNDINGS, MARGIN = 3, 10.0
"""How often a program is rounded at random to learn what rounding does to it, and how many times as much is allowed."""
# torch's own derivative of a Gamma draw is an approximation to about four digits, and JAX's is not.
GAMMA_TOLERANCE = 2e-3
# Compiled once and run once: what the compiler would gain it takes.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


class Disagreement(AssertionError):
    """Two engines differ."""


def agree(
    function: Callable[..., Any],
    inputs: Sequence[Tensor],
    *,
    dtype: torch.dtype = torch.float64,
    gradient: bool = True,
    seed: int = 3,
) -> Captured:
    """Checks that the three engines agree at ``inputs``, given the same random numbers; returns what was captured.

    Differences are relative to the largest element; in float32, to the largest number on the way to it, and besides as large as
    roundings at random make them: see :class:`Rounded`. What JAX draws from
    a distribution with parameters of its own (a Gamma) is given to torch, with torch's own derivative of it.

    Raises:
        Disagreement: if they do not agree in value or gradient.
        CaptureError: if the function cannot be captured, or JAX has no rule for it.
    """
    with runtime.session(seed=seed, dtype=dtype), precision(dtype):
        xs = [x.detach().to(dtype).requires_grad_() if x.is_floating_point() else x for x in inputs]
        captured = capture(function, *xs)
        torch.manual_seed(seed)
        with VmapFriendly():
            stock = flat(function(*xs))
        torch.manual_seed(seed)
        recorded = flat(captured(*xs))
        slack = TOLERANCE[dtype]
        close("torch's graph: value", stock, recorded, slack)
        if gradient:
            close("torch's graph: gradient", gradients(stock, xs), gradients(recorded, xs), slack)
        free = with_noise(captured)
        noise = [n.draw() for n in free.noise]
        values, draws, slopes = on_jax(free, xs, noise, stock if gradient else None)
        given = Given(free.module, draws)
        expected = flat(given.run(*xs, *noise, *free.constants))
        size, rounded = 1.0, None
        more: Sequence[float] | None = None
        if dtype == torch.float32:
            size = given.largest
            rounded, more = rounding(free, xs, noise, draws, gradient=gradient)
        close("JAX: value", expected, values, slack, size, rounded)
        if gradient:
            implicit = any(operation(node) == "_standard_gamma.default" for node in draws)
            close(
                "JAX: gradient", gradients(expected, xs), slopes, GAMMA_TOLERANCE if implicit else slack, rounded=more
            )
    return captured


def flat(result: Any) -> list[Tensor]:
    return list(pytree.tree_leaves(result))


def _weights(values: Sequence[Any]) -> list[np.ndarray]:
    """Different for every element, so that no two errors cancel."""
    return [1 + 0.5 * np.sin(1 + np.arange(v.numel())).reshape(tuple(v.shape)) for v in values]


def _is_smooth(value: Tensor) -> bool:
    return value.is_floating_point() and value.requires_grad


def gradients(values: Sequence[Tensor], xs: Sequence[Tensor]) -> list[Tensor]:
    """The gradient of a weighted sum of all values by each floating input; zero where there is none."""
    smooth = [(v, torch.as_tensor(w, dtype=v.dtype)) for v, w in zip(values, _weights(values), strict=True)]
    total = [(v * w).sum() for v, w in smooth if _is_smooth(v)]
    moving = [x for x in xs if x.is_floating_point()]
    if not total:
        return [torch.zeros_like(x) for x in moving]
    found = torch.autograd.grad(torch.stack(total).sum(), moving, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(moving, found, strict=True)]


def close(
    what: str,
    expected: Sequence[Any],
    got: Sequence[Any],
    slack: float,
    size: float = 1.0,
    rounded: Sequence[float] | None = None,
) -> None:
    """Checks pairs of arrays: relative to the largest element, or to ``size`` if that is more, and up to what ``rounded`` adds.

    Raises:
        Disagreement: if a pair differs.
    """
    for one, other, more in zip(expected, got, rounded or [0.0] * len(expected), strict=True):
        a, b = (np.asarray(v.detach() if isinstance(v, Tensor) else v) for v in (one, other))
        if a.shape != b.shape:
            raise Disagreement(f"{what} has shape {b.shape}, expected {a.shape}")
        largest = float(np.max(np.abs(a), where=np.isfinite(a), initial=size)) if a.dtype.kind == "f" else 0.0
        with np.errstate(invalid="ignore"):
            off = np.where((a == b) | (a != a) & (b != b), 0.0, np.abs(np.subtract(a, b, dtype=float)))
        if not (off <= slack * largest + more).all():
            raise Disagreement(f"{what} is off by {np.nanmax(off):.3g} ({b.ravel()[:4]}, expected {a.ravel()[:4]})")


# --- draws that JAX makes ---------------------------------------------------------------------------------------------


class _GammaDraw(torch.autograd.Function):
    """A given draw with torch's derivative of it by the concentration."""

    @staticmethod
    def forward(ctx: Any, alpha: Tensor, draw: Tensor) -> Tensor:
        ctx.save_for_backward(alpha, draw)
        return draw.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return gradient * torch._standard_gamma_grad(*ctx.saved_tensors), None


class Given(fx.Interpreter):
    """Runs a graph with given results in place of what its random nodes would draw."""

    def __init__(self, module: fx.GraphModule, drawn: dict[fx.Node, Tensor]) -> None:
        super().__init__(module)
        self.drawn = {node.name: value for node, value in drawn.items()}
        self.largest = 1.0

    def run_node(self, n: fx.Node) -> Any:
        if n.name not in self.drawn:
            result = super().run_node(n)
            if isinstance(result, Tensor) and result.is_floating_point() and result.numel():
                sizes = result.detach().abs()
                self.largest = max(self.largest, float(sizes.where(sizes < 1e6, 0.0).max()))
            return result
        value = self.drawn[n.name]
        if operation(n) == "_standard_gamma.default":
            return _GammaDraw.apply(self.fetch_args_kwargs_from_env(n)[0][0], value)
        return value


class Rounded(Given):
    """Runs a graph of float32 in float64, with every result off by up to half a unit of float32, at random.

    A processor sums in an order of its own, and its compiler contracts operations as it likes. What they may differ by is in
    proportion to what such errors do here: it grows with the length of the sums and with the condition of the program.
    """

    def __init__(self, module: fx.GraphModule, drawn: dict[fx.Node, Tensor], seed: int) -> None:
        super().__init__(module, {node: _double(value) for node, value in drawn.items()})
        self.generator = torch.Generator().manual_seed(seed)
        self.unit = torch.finfo(torch.float32).eps if seed else 0.0

    def fetch_args_kwargs_from_env(self, n: fx.Node) -> Any:
        return pytree.tree_map(
            lambda leaf: torch.float64 if leaf is torch.float32 else leaf, super().fetch_args_kwargs_from_env(n)
        )

    def run_node(self, n: fx.Node) -> Any:
        return pytree.tree_map(self._off, super().run_node(n)) if n.op == "call_function" else super().run_node(n)

    def _off(self, value: Any) -> Any:
        if not self.unit or not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        noise = torch.rand(value.shape, generator=self.generator, dtype=value.dtype) - 0.5
        return value * (1 + self.unit * noise)


def _double(value: Tensor) -> Tensor:
    return value.double() if value.dtype == torch.float32 else value


def rounding(
    captured: Captured, xs: Sequence[Tensor], noise: Sequence[Tensor], drawn: dict[fx.Node, Tensor], *, gradient: bool
) -> tuple[list[float], list[float]]:
    """What the roundings of float32 may do to each value of a graph, and to its gradient by each floating input."""
    held = [_double(tensor) for tensor in (*noise, *captured.constants)]

    def run(seed: int) -> tuple[list[Tensor], list[Tensor]]:
        moving = [_double(x.detach()).requires_grad_(x.is_floating_point()) for x in xs]
        with torch.enable_grad():
            values = flat(Rounded(captured.module, drawn, seed).run(*moving, *held))
        slopes = gradients(values, moving) if gradient else []
        return [value.detach() for value in values], slopes

    exact, *others = map(run, range(ROUNDINGS + 1))
    values, slopes = (
        [MARGIN * max(_apart(whole, part) for part in parts) for whole, *parts in zip(*column, strict=True)]
        for column in zip(exact, *others, strict=True)
    )
    return values, slopes


def _apart(one: Tensor, other: Tensor) -> float:
    off = (one.double() - other.double()).abs()
    return float(off.where(off.isfinite(), 0.0).max()) if off.numel() else 0.0


def with_outputs(captured: Captured, nodes: Sequence[fx.Node]) -> Captured:
    """The same graph, which returns the values at some of its nodes after its own."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    leaves = graph.graph_copy(captured.module.graph, copies)
    graph.output([*leaves, *(copies[node] for node in nodes)])
    structure = pytree.tree_flatten([0] * (len(leaves) + len(nodes)))[1]
    return Captured(
        fx.GraphModule({}, graph), captured.inputs, captured.noise, captured.constants, structure, captured.seconds
    )


def on_jax(
    captured: Captured, xs: Sequence[Tensor], noise: Sequence[Tensor], smooth: Sequence[Tensor] | None
) -> tuple[list[Any], dict[fx.Node, Tensor], list[Any]]:
    """The values on JAX, what its random nodes drew, and the gradient of the values' weighted sum.

    Args:
        smooth: the values by torch, which tell what has a gradient; ``None`` for no gradients.
    """
    nodes = captured.random
    lowered = lower(with_outputs(captured, nodes))
    key = jax.random.key(11) if nodes else None
    moving = [i for i, x in enumerate(xs) if x.is_floating_point()]
    fixed, given = [array(x) for x in xs], [array(n) for n in noise]
    weights = _weights(smooth or [])

    def weighted(values: Sequence[Any], fixed: Sequence[Any], given: Sequence[Any], constants: Sequence[Any]) -> Any:
        inputs = list(fixed)
        for i, value in zip(moving, values, strict=True):
            inputs[i] = value
        leaves = lowered.function(inputs, given, constants, key)
        parts = [(v * w).sum() for v, w, by in zip(leaves, weights, smooth or [], strict=False) if _is_smooth(by)]
        return (sum(parts) if parts else jnp.zeros(())), leaves

    args = ([fixed[i] for i in moving], fixed, given, lowered.constants)
    function = weighted if smooth is None else jax.value_and_grad(weighted, has_aux=True)
    result = jax.jit(function).lower(*args).compile(compiler_options=QUICK)(*args)
    (_, leaves), slopes = (result, []) if smooth is None else result
    count = len(leaves) - len(nodes)
    draws = {
        node: torch.as_tensor(np.array(value)).to(node.meta["val"].dtype)
        for node, value in zip(nodes, leaves[count:], strict=True)
    }
    return leaves[:count], draws, slopes
