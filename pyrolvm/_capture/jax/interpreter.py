"""Runs a captured graph in ``jax.numpy``, node by node, so that JAX can trace, differentiate and compile it."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import Tensor, fx

from pyrolvm._base.errors import CaptureError
from pyrolvm._capture.graph import Captured
from pyrolvm._capture.jax.rules import DRAWS, RULES
from pyrolvm._capture.recorder import operation
from pyrolvm._compat.torch import pytree

__all__ = ["Lowered", "array", "lower", "missing", "tensor"]

Array = jax.Array


@dataclass(frozen=True)
class Lowered:
    """A captured function on JAX: ``function(inputs, noise, constants, key)`` returns its result, a nest of arrays.

    Attributes:
        function: pure and traceable; ``key`` is for the nodes that draw by themselves and may be ``None`` without such.
        constants: the graph's constants as arrays. Passed in, they are not baked into the compiled program.
        draws: how many nodes need the key.
    """

    function: Callable[[Sequence[Array], Sequence[Array], Sequence[Array], Array | None], Any]
    constants: tuple[Array, ...]
    draws: int


def lower(captured: Captured) -> Lowered:
    """A captured function as a JAX function; must be called inside :func:`~pyrolvm._capture.jax.precision` of its dtype.

    Raises:
        CaptureError: if an operation has no rule; it is named.
    """
    absent = missing(captured)
    if absent:
        raise CaptureError(f"engine 'jax' has no rule for {', '.join(absent)}.")
    nodes = list(captured.module.graph.nodes)
    sources = {node: i for i, node in enumerate(captured.random)}
    placeholders = [node for node in nodes if node.op == "placeholder"]

    def function(inputs: Sequence[Array], noise: Sequence[Array], constants: Sequence[Array], key: Array | None) -> Any:
        values: dict[fx.Node, Any] = dict(zip(placeholders, (*inputs, *noise, *constants), strict=True))
        keys = jax.random.split(key, len(sources)) if sources and key is not None else None
        for node in nodes:
            if node.op == "output":
                leaves = fx.map_arg(node.args[0], values.__getitem__)
                return pytree.tree_unflatten(list(leaves), captured.structure)
            if node.op == "call_function":
                args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), values.__getitem__)
                if node in sources:
                    if keys is None:
                        raise CaptureError(f"{operation(node)} draws random numbers, but no key was given.")
                    result = _rule(DRAWS, node)(keys[sources[node]], *args, **kwargs)
                else:
                    result = _rule(RULES, node)(*args, **kwargs)
                values[node] = _as_recorded(node, result)
        raise CaptureError("a graph without an output cannot be run.")

    return Lowered(function, tuple(array(value) for value in captured.constants), len(sources))


def missing(captured: Captured) -> list[str]:
    """The operations of a graph that have no rule."""
    random = set(captured.random)
    return sorted(
        {
            operation(node)
            for node in captured.module.graph.nodes
            if node.op == "call_function" and _rule(DRAWS if node in random else RULES, node) is None
        }
    )


def _rule(table: dict[str, Callable[..., Any]], node: fx.Node) -> Any:
    """The rule for an operation: for its overload (``add.Tensor``) if there is one, else for its name (``add``)."""
    if node.target is operator.getitem:
        return operator.getitem
    name = operation(node)
    return table.get(name) or table.get(name.split(".")[0])


def _as_recorded(node: fx.Node, result: Any) -> Any:
    """The result in the dtype that torch computed, whose promotion differs from JAX's.

    Raises:
        CaptureError: if it has not the shape that torch computed.
    """
    recorded = node.meta.get("val")
    if isinstance(recorded, Tensor):
        if not isinstance(result, Array | np.ndarray) or result.shape != tuple(recorded.shape):
            raise CaptureError(
                f"{operation(node)} gave shape {getattr(result, 'shape', type(result).__name__)} on JAX, "
                f"{tuple(recorded.shape)} on torch."
            )
        return result.astype(dtype(recorded.dtype))
    if isinstance(recorded, list | tuple):
        return tuple(
            part if whole is None or not isinstance(whole, Tensor) else part.astype(dtype(whole.dtype))
            for part, whole in zip(result, recorded, strict=True)
        )
    return result


# --- tensors and arrays -----------------------------------------------------------------------------------------------


def dtype(of: torch.dtype) -> Any:
    """JAX's dtype for torch's, at the precision that is switched on."""
    return jax.dtypes.canonicalize_dtype(np.dtype(str(of).removeprefix("torch.")))


def array(value: Tensor) -> Array:
    """A tensor's values as a JAX array."""
    values = value.detach().cpu().numpy()
    return jnp.asarray(values.astype(jax.dtypes.canonicalize_dtype(values.dtype)))


def tensor(value: Any, like: Tensor) -> Tensor:
    """A JAX array's values as a tensor of the dtype and on the device of ``like``."""
    return torch.from_numpy(np.array(value)).to(like)
