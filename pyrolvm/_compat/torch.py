"""Private parts of torch. All were checked with torch 2.13.0 and 2.15.0."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from inspect import getattr_static
from typing import Any, Final, Literal, TypeGuard

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

__all__ = [
    "GAMMA_DRAW",
    "INDEX_PUT_IMPL",
    "ITEM",
    "TO_COPY",
    "UNSAFE_VIEW",
    "WANTED",
    "DispatchMode",
    "argument_names",
    "buffers_of",
    "core_decompositions",
    "decompositions",
    "forked_after_cuda",
    "function_applied_by",
    "gamma_slope",
    "is_operation",
    "is_registered",
    "keeps_address",
    "memory_key",
    "pytree",
    "share_at_tie",
    "shares_memory",
    "storage_key",
    "transforms_active",
    "without_compiler",
    "without_modes",
    "writes",
    "writes_into",
    "written_arguments",
]


WANTED = "torch>=2.13,<2.16"
"""The releases that were tried, as pip wants them."""


# --- modes ------------------------------------------------------------------------------------------------------------


class DispatchMode(TorchDispatchMode):
    """The base of modes that see every ATen operation; it keeps torch's compiler out (torch 2.13.0 to 2.15.0)."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # torch would import its whole compiler, a second, only to switch it off here


def without_modes() -> AbstractContextManager[object]:
    """Switches every dispatch mode off for a block (torch 2.13.0 to 2.15.0)."""
    return _disable_current_modes()


def transforms_active() -> bool:
    """Whether the caller is inside ``vmap``, ``vjp`` or their like (torch 2.13.0 to 2.15.0)."""
    return bool(torch._C._are_functorch_transforms_active())


# --- autograd functions -----------------------------------------------------------------------------------------------


@contextmanager
def function_applied_by(apply: Callable[..., object]) -> Iterator[None]:
    """Has every ``torch.autograd.Function`` applied by another function, for a block.

    ``Function.apply`` is a class method in Python up to torch 2.13, and one in C from 2.14 on; both are descriptors
    (torch 2.13.0 to 2.15.0).

    Args:
        apply: called as ``apply(stock, cls, *args, **kwargs)``, where ``stock(*args, **kwargs)`` is what torch would do.
    """
    function = torch.autograd.Function
    own = function.__dict__.get("apply")
    inherited = getattr_static(function, "apply")

    def replaced(cls: object, *args: Any, **kwargs: Any) -> object:
        return apply(inherited.__get__(None, cls), cls, *args, **kwargs)

    function.apply = classmethod(replaced)  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        if own is None:
            del function.apply
        else:
            function.apply = own  # type: ignore[method-assign]


def is_registered(function: object) -> bool:
    """Whether a ``Function`` is the gradient of an operation that a library registered (torch 2.13.0 to 2.15.0)."""
    return str(function.__module__).startswith("torch._library")


@cache
def share_at_tie(choice: Literal["clamp", "clamp by a tensor", "fmax"]) -> float:
    """How much of the gradient goes to the first of two equal numbers where one is chosen: that of this release.

    All of it in torch 2.13; none, half and half in torch 2.15 (torch 2.13.0 to 2.15.0).

    Args:
        choice: ``x.clamp(number)``, ``x.clamp(tensor)`` or ``torch.fmax(x, tensor)``; those with the smaller number are alike.
    """
    with without_modes(), torch.inference_mode(False), torch.enable_grad():
        x, y = (torch.zeros((), dtype=torch.float64, device="cpu", requires_grad=True) for _ in range(2))
        chosen = torch.fmax(x, y) if choice == "fmax" else x.clamp(y if choice == "clamp by a tensor" else 0.0)
        (share,) = torch.autograd.grad(chosen, x)
    return float(share)


# --- operations -------------------------------------------------------------------------------------------------------

GAMMA_DRAW: Final = torch.ops.aten._standard_gamma.default
"""What draws from Gamma distributions of rate 1 (torch 2.13.0 to 2.15.0)."""
TO_COPY: Final = torch.ops.aten._to_copy.default
"""What ``.to`` is recorded as where it copies (torch 2.13.0 to 2.15.0)."""
UNSAFE_VIEW: Final = torch.ops.aten._unsafe_view.default
"""What ``.reshape`` and ``matmul`` are recorded as where they return memory that is nobody else's (torch 2.13.0 to 2.15.0)."""
ITEM: Final = torch.ops.aten._local_scalar_dense.default
"""What ``.item()`` is recorded as (torch 2.13.0 to 2.15.0)."""
INDEX_PUT_IMPL: Final = torch.ops.aten._index_put_impl_
"""What derivatives of an index are recorded as, in all its forms (torch 2.13.0 to 2.15.0)."""


def is_operation(target: object) -> TypeGuard[torch._ops.OpOverload]:
    """Whether the target of a node is an operation of ATen or of a library (torch 2.13.0 to 2.15.0)."""
    return isinstance(target, torch._ops.OpOverload)


def writes(operation: Any) -> bool:
    """Whether an operation writes into one of its arguments (torch 2.13.0 to 2.15.0)."""
    return bool(operation._schema.is_mutable)


@cache
def argument_names(operation: Any) -> tuple[str, ...]:
    """The names of an operation's arguments, in their order (torch 2.13.0 to 2.15.0)."""
    return tuple(argument.name for argument in operation._schema.arguments)


@cache
def written_arguments(operation: Any) -> tuple[str, ...]:
    """The names of the arguments that an operation writes into (torch 2.13.0 to 2.15.0)."""
    arguments = operation._schema.arguments
    return tuple(a.name for a in arguments if a.alias_info is not None and a.alias_info.is_write)


def shares_memory(operation: Any) -> bool:
    """Whether an operation returns memory of its arguments (torch 2.13.0 to 2.15.0)."""
    return any(result.alias_info is not None for result in operation._schema.returns)


def storage_key(tensor: Tensor) -> int:
    """A number that tensors share which share their memory (torch 2.13.0 to 2.15.0)."""
    return int(tensor.untyped_storage()._cdata)


def memory_key(tensor: Tensor) -> int:
    """Where a tensor's values lie; its own number where that has no place, as inside ``torch.func.grad`` (torch 2.13.0 to 2.15.0)."""
    try:
        return tensor.untyped_storage().data_ptr() or id(tensor)
    except (NotImplementedError, RuntimeError):  # of tensors without memory, such as fake ones
        return id(tensor)


def writes_into(tensor: Tensor) -> int:
    """How often something was written into a tensor or a view of it (torch 2.13.0 to 2.15.0)."""
    return int(tensor._version)


def buffers_of(module: torch.nn.Module) -> dict[str, Tensor | None]:
    """The very dictionary in which a module keeps its own buffers (torch 2.13.0 to 2.15.0)."""
    return module._buffers


# --- decompositions ---------------------------------------------------------------------------------------------------


@cache
def core_decompositions() -> Mapping[object, Callable[..., object]]:
    """What operations consist of, down to the core of torch's operations (torch 2.13.0 to 2.15.0).

    To import them takes a tenth of a second.
    """
    from torch._decomp import core_aten_decompositions

    return dict(core_aten_decompositions().items())


def decompositions() -> Mapping[Any, Callable[..., Any]]:
    """What operations consist of, by torch's whole account (torch 2.13.0 to 2.15.0)."""
    from torch._decomp import decomposition_table

    return decomposition_table


@contextmanager
def without_compiler(function: Any) -> Iterator[None]:
    """Calls a decomposition as it is (torch 2.13.0 to 2.15.0).

    Torch would import its whole compiler, a second, only to keep it off this function. A function that is not wrapped for
    that is left alone.
    """
    wrapped = []
    while "torch._dynamo" not in sys.modules and hasattr(function, "__wrapped__"):
        function = function.__wrapped__
        if not hasattr(function, "__dynamo_disable"):
            function.__dynamo_disable = function
            wrapped.append(function)
    try:
        yield
    finally:
        for inner in wrapped:
            del inner.__dynamo_disable


def gamma_slope(concentration: Tensor, draw: Tensor) -> Tensor:
    """How a draw of a Gamma distribution moves with its concentration (torch 2.13.0 to 2.15.0)."""
    return torch._standard_gamma_grad(concentration, draw)


# --- devices ----------------------------------------------------------------------------------------------------------


def keeps_address(tensor: Tensor) -> None:
    """Tells torch's compiler that a tensor stays where it is (torch 2.13.0 to 2.15.0)."""
    torch._dynamo.mark_static_address(tensor)


def forked_after_cuda() -> bool:
    """Whether this process was forked from one that used CUDA, and so cannot use it (torch 2.13.0 to 2.15.0)."""
    return bool(torch.cuda._is_in_bad_fork())
