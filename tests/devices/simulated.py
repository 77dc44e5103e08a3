"""A CUDA device that is not there: tensors that say they lie on ``cuda:0`` and hold their values in the processor's memory.

Operations run on the values, so that whole fits run, reads and all; what a real device would refuse is refused: operations that mix
devices, NumPy on a tensor of the device, an index or a constant on the wrong side. ``FakeTensorMode`` has the same discipline without
values, and stops wherever a program looks at one, as every search for a start does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

__all__ = ["DEVICE", "MixedDevices", "simulated_cuda"]

DEVICE = torch.device("cuda", 0)
_CPU = torch.device("cpu")

aten = torch.ops.aten

_MOVES = {aten._to_copy.default, aten.copy_.default, aten.is_same_size.default}
"""Operations that may see both devices."""

_INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._unsafe_index.Tensor}
"""Operations whose indices may lie on the processor, as torch allows."""


class MixedDevices(RuntimeError):
    """An operation got tensors of two devices."""


class _OnDevice(Tensor):
    """A tensor of the device; its values are in ``held``."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> _OnDevice:
        made = Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            device=_CPU, requires_grad=held.requires_grad, layout=held.layout,
        )  # fmt: skip
        made.held = held
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @property
    def device(self) -> torch.device:
        return DEVICE

    @property
    def is_cuda(self) -> bool:
        return True

    @property
    def is_cpu(self) -> bool:
        return False

    def __repr__(self, **_: Any) -> str:
        return f"{self.held!r} on {DEVICE}"

    def numpy(self, **_: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")

    def __array__(self, *_: Any) -> Any:
        return self.numpy()

    def tolist(self) -> Any:
        return self.held.detach().tolist()

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if id(self) not in memo:
            copy = _OnDevice(self.held.detach().clone())
            memo[id(self)] = copy.requires_grad_(self.requires_grad)
            if getattr(self, "_is_param", False):
                copy._is_param = True
        return memo[id(self)]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Runs an operation on the values, and says where its result lies."""
    leaves = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    asked = kwargs.get("device")
    ours = [leaf for leaf in leaves if isinstance(leaf, _OnDevice)]
    if ours:
        _check(func, leaves, args)
    where = _place(func, asked, args, bool(ours))
    if asked is not None:
        kwargs = {**kwargs, "device": _CPU}
    kwargs.pop("pin_memory", None)
    plain = pytree.tree_map(lambda leaf: leaf.held if isinstance(leaf, _OnDevice) else leaf, (args, kwargs))
    result = func(*plain[0], **plain[1])
    if func is aten._to_copy.default and where == DEVICE and result is plain[0][0]:
        result = result.clone()
    if not where:
        return result
    written = {id(leaf.held): leaf for leaf in ours}

    def wrap(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        if leaf._is_zerotensor():  # has no memory, and below this place nobody asks
            leaf = torch.zeros_like(leaf, device=_CPU)
        return written.get(id(leaf)) if func._schema.is_mutable and id(leaf) in written else _OnDevice(leaf)

    made = pytree.tree_map(wrap, result)
    # Views share a storage, and in-place changes of shape are those of the tensor too: capture follows both.
    return return_and_correct_aliasing(func, args, kwargs, made) if ours else made


def _place(func: Any, asked: Any, args: Any, ours: bool) -> bool:
    """Whether the results of an operation lie on the device."""
    if asked is not None:
        # A number that a gradient's formula makes for itself may be on either side, as numbers of no dimension may.
        return torch.device(asked).type == "cuda" or (_inside() and func is not aten.scalar_tensor.default)
    if func is aten.copy_.default:
        return isinstance(args[0], _OnDevice)
    return ours


def _check(func: Any, leaves: Sequence[Tensor], args: Any) -> None:
    if func in _MOVES:
        return
    if func in _INDEXED:
        leaves = [args[0], *args[2:3]]
        if not isinstance(args[0], _OnDevice) and any(isinstance(i, _OnDevice) for i in args[1] if i is not None):
            raise MixedDevices(f"indices of {func} should be on the CPU, as the indexed tensor is")
    strangers = [t for t in leaves if isinstance(t, Tensor) and not isinstance(t, _OnDevice) and t.dim()]
    if strangers:
        shapes = ", ".join(str(tuple(t.shape)) for t in strangers)
        raise MixedDevices(f"{func} got tensors on cuda:0 and on cpu (of shape {shapes})")


class _Mode(TorchDispatchMode):
    """Makes what is asked for on ``cuda`` a tensor of the device."""

    def __init__(self) -> None:
        super().__init__()
        # torch asks this mode, and not a driver, whether a device of that kind may be used.
        self._mode_key = torch._C._TorchDispatchModeKey.FAKE

    @classmethod
    def is_infra_mode(cls) -> bool:
        return True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


_CALLED: list[bool] = []
"""Of each call of torch's functions that is running, whether it was given a tensor of the device."""


def _inside() -> bool:
    """Whether torch makes a tensor by itself, within an operation on the device: it believes that it is on the processor."""
    return bool(_CALLED and _CALLED[-1]) or torch._C._current_autograd_node() is not None


class _Numbered(TorchFunctionMode):
    """Gives the device its number, ``cuda:0`` for ``cuda``, which torch would ask a driver for."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.device:
            return func(*args, **kwargs)
        args = tuple(map(_numbered, args))
        kwargs = {name: _numbered(value) for name, value in kwargs.items()}
        if func in _SAYINGS:
            return _SAYINGS[func] if _lies_there(args[0]) else func(*args, **kwargs)
        if func in _MOVERS and any(map(_lies_there, (*args, *kwargs.values()))):
            return _moved(func, *args, **kwargs)
        if func is Tensor.new and isinstance(args[0], _OnDevice):
            return _OnDevice(args[0].held.new(*args[1:], **kwargs))
        moves = func in _MOVERS or kwargs.get("device") is not None
        _CALLED.append(not moves and any(map(_lies_there, pytree.tree_leaves((args, kwargs)))))
        try:
            return func(*args, **kwargs)
        finally:
            _CALLED.pop()


_MOVERS = {Tensor.to, Tensor.type_as, Tensor.cpu, Tensor.cuda}
_SAYINGS: dict[Any, Any] = {Tensor.device.__get__: DEVICE, Tensor.is_cuda.__get__: True, Tensor.is_cpu.__get__: False}  # type: ignore[attr-defined]


def _lies_there(value: Any) -> bool:
    """Whether a value is a tensor of the device, also within what ``vmap`` makes of it."""
    while isinstance(value, Tensor) and torch._C._functorch.is_functorch_wrapped_tensor(value):
        value = torch._C._functorch.get_unwrapped(value)
    return isinstance(value, _OnDevice)


def _place_of(tensor: Tensor) -> torch.device:
    return DEVICE if _lies_there(tensor) else tensor.device


def _moved(func: Any, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """What ``tensor.to(...)`` and its like are on the device; torch believes that its tensors are on the processor already."""
    like = [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)]
    places = [torch.device(a) for a in (*args, *kwargs.values()) if isinstance(a, str | torch.device)]
    kinds = [a for a in (*args, *kwargs.values()) if isinstance(a, torch.dtype)]
    where = _CPU if func is Tensor.cpu else _place_of(like[0]) if like else places[0] if places else _place_of(tensor)
    where = DEVICE if func is Tensor.cuda else where
    dtype = like[0].dtype if like else kinds[0] if kinds else tensor.dtype
    copy = bool(kwargs.get("copy", False))
    if where == _place_of(tensor) and dtype == tensor.dtype and not copy:
        return tensor
    return aten._to_copy.default(tensor, dtype=dtype, device=where)


def _numbered(value: Any) -> Any:
    if isinstance(value, str):
        return "cuda:0" if value == "cuda" else value
    return DEVICE if isinstance(value, torch.device) and value.type == "cuda" else value


_CALLS: dict[str, Callable[..., Any]] = {
    "is_available": lambda: True,
    "is_initialized": lambda: True,
    "_is_in_bad_fork": lambda: False,
    "device_count": lambda: 1,
    "current_device": lambda: 0,
    "synchronize": lambda *_: None,
    "empty_cache": lambda: None,
    "manual_seed": lambda seed: None,
    "manual_seed_all": lambda seed: None,
    "get_rng_state": lambda *_: torch.zeros(16, dtype=torch.uint8, device="cpu"),
    "set_rng_state": lambda *_: None,
    "get_rng_state_all": lambda: [torch.zeros(16, dtype=torch.uint8, device="cpu")],
    "set_rng_state_all": lambda _: None,
    "mem_get_info": lambda *_: (2**33, 2**34),
    "get_device_name": lambda *_: "simulated",
}


@contextlib.contextmanager
def simulated_cuda() -> Iterator[None]:
    """Gives torch a CUDA device for a block."""
    before = {name: getattr(torch.cuda, name) for name in _CALLS}
    compile_ = torch.compile
    lifts = torch._C._only_lift_cpu_tensors()
    overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
    try:
        for name, call in _CALLS.items():
            setattr(torch.cuda, name, call)
        torch.compile = lambda module, **_: module  # type: ignore[assignment]
        torch._C._ensureCUDADeviceGuardSet()
        torch._C._set_only_lift_cpu_tensors(True)
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        with _Mode(), _Numbered():
            yield
    finally:
        torch._C._set_only_lift_cpu_tensors(lifts)
        torch.__future__.set_overwrite_module_params_on_conversion(overwrites)
        torch.compile = compile_
        for name, call in before.items():
            setattr(torch.cuda, name, call)
