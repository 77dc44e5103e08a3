"""Operations with a gradient of their own (``torch.autograd.Function``), as a graph of plain operations.

A graph holds what a function computed, and its gradient is that of the operations in it. A ``Function`` has another:
:class:`torch.distributions.Dirichlet` differentiates its draws implicitly, straight-through estimators pretend that
rounding is the identity. While a program is recorded, each such function f is therefore replaced by

``stop(f(x)) + J (x - stop(x))``

which has the value of f and, by any engine's rules, the gradient that f says it has. Its ``backward`` computes
g -> J'g, which is linear in g; the product with J is the derivative of that, transposed once more. Second derivatives
are those of a straight line.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from pyrolvm._compat.torch import function_applied_by, is_registered, transforms_active, without_modes

__all__ = ["own_gradients"]


@contextmanager
def own_gradients() -> Iterator[None]:
    """Has every ``autograd.Function`` that this thread applies recorded with its own gradient.

    Raises:
        RuntimeError: if the ``backward`` of one that is applied inside cannot be differentiated itself.
    """
    thread = threading.get_ident()

    def apply(stock: Any, function: object, *args: Any, **kwargs: Any) -> object:
        # What a library registered as an operation is recorded as that operation.
        if threading.get_ident() != thread or kwargs or is_registered(function):
            return stock(*args, **kwargs)
        return _linearised(function, args)

    with function_applied_by(apply):
        yield


class _Context:
    """What a ``Function`` keeps between its forward and its backward."""

    def __init__(self, needs: tuple[bool, ...]) -> None:
        self.needs_input_grad = needs
        self.saved_tensors: tuple[object, ...] = ()

    def save_for_backward(self, *tensors: Any) -> None:
        # The slope is taken where the program is, and does not bend: some backwards have no derivative.
        self.saved_tensors = tuple(t.detach() if isinstance(t, Tensor) else t for t in tensors)

    def mark_non_differentiable(self, *_: Any) -> None: ...

    def mark_dirty(self, *_: Any) -> None: ...

    def set_materialize_grads(self, *_: Any) -> None: ...


def _linearised(function: Any, args: tuple[Any, ...]) -> Any:
    moving = [i for i, a in enumerate(args) if isinstance(a, Tensor) and a.is_floating_point()]
    context = _Context(tuple(i in moving for i in range(len(args))))
    with torch.no_grad():
        if function.setup_context is torch.autograd.Function.setup_context:
            result = function.forward(context, *args)
        else:
            result = function.forward(*args)
            function.setup_context(context, args, result)
    outputs = result if isinstance(result, tuple) else (result,)
    smooth = [i for i, out in enumerate(outputs) if isinstance(out, Tensor) and out.is_floating_point()]
    if not moving or not smooth:
        return result
    backward = getattr(function.backward, "__wrapped__", function.backward)

    def pulled(*gradients: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(smooth, gradients, strict=True))
        back = backward(context, *(given.get(i) for i in range(len(outputs))))
        back = back if isinstance(back, tuple) else (back,)
        # A gradient that is not there is zero, and must still follow from what it is differentiated by.
        zero = sum(gradient.sum() * 0 for gradient in gradients)
        return tuple(zero * args[i] if back[i] is None else back[i] for i in moving)

    _check_linear(function, pulled, [torch.ones_like(outputs[i]) for i in smooth])
    try:
        with torch.enable_grad():
            push = torch.func.vjp(pulled, *(torch.zeros_like(outputs[i]) for i in smooth))[1]
            steps = push(tuple(args[i] - args[i].detach() for i in moving))
    except Exception as error:
        raise RuntimeError(
            f"{_name(function)} has a gradient of its own that cannot be written as a graph: {error}"
        ) from error
    moved = list(outputs)
    for i, step in zip(smooth, steps, strict=True):
        moved[i] = outputs[i].detach() + step
        moved[i].__dict__.update(outputs[i].__dict__)
    return tuple(moved) if isinstance(result, tuple) else moved[0]


def _check_linear(function: Any, pulled: Any, gradients: list[Tensor]) -> None:
    """A backward that is not linear in the gradient it is given computes something else than a gradient.

    Raises:
        RuntimeError: if the function's is such a one.
    """
    if transforms_active():
        return
    with without_modes(), torch.no_grad():
        once = pulled(*(gradient.detach() for gradient in gradients))
        twice = pulled(*(2 * gradient.detach() for gradient in gradients))
        linear = all(torch.allclose(2 * a, b, rtol=1e-3, equal_nan=True) for a, b in zip(once, twice, strict=True))
    if not linear:
        raise RuntimeError(f"the backward of {_name(function)} is not linear in the gradient it is given.")


def _name(function: Any) -> str:
    return f"{function.__module__}.{function.__qualname__}"
