"""The one room that touches Pyro's globals.

Pyro keeps its parameter store, its random state, its validation flag and its handler stack in module globals. Every
run of a Pyro program in pyrolvm happens inside :func:`session`, which takes those globals, puts fresh ones in their
place, and gives back exactly what it found. Two fits in one process therefore cannot influence each other, and neither
disturbs a stock Pyro program around them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from torch import Tensor

from pyrolvm._base.bijections import bijections_known
from pyrolvm._base.errors import StoreError
from pyrolvm._base.forks import check_whole, inside_session
from pyrolvm._base.randomness import random_state
from pyrolvm._compat.distributions import one_switch
from pyrolvm._compat.functorch import quiet_fallbacks
from pyrolvm._compat.pyro import PlateRows, lent_store, open_handlers, plates_decided_by, stored
from pyrolvm._compat.torch import buffers_of, memory_key

__all__ = [
    "BUFFER",
    "Held",
    "PlateCall",
    "Subsample",
    "among_handlers",
    "apart_from_parameters",
    "batchable_enumeration",
    "buffers",
    "default_dtype",
    "evaluating",
    "fill_buffers",
    "parameters",
    "plates",
    "record_plates",
    "session",
    "set_aside_gradients",
    "undisturbed",
    "validation",
]

_LOCK = threading.RLock()

BUFFER = "buffer:"
"""Begins the names of buffers among the values of parameters."""


class _Lender(dict[str, Tensor]):
    """The parameter store's dictionary, remembering what every tensor held before it was lent to a run.

    Pyro's store keeps the very tensors that a module or a closure owns, and an optimiser changes them in place. On
    registration this dictionary notes the value, and writes the wanted one if the run continues from known values; at
    the end :meth:`give_back` restores what the owner had.
    """

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.values_wanted = values
        self._lent: dict[int, tuple[Tensor, Tensor, Tensor | None]] = {}
        self._aside: list[tuple[Tensor, Tensor | None]] = []
        self._bare: list[Tensor] = []  # without the reference that Pyro attaches, which cannot be pickled

    def __setitem__(self, name: str, tensor: Tensor) -> None:
        if id(tensor) not in self._lent:
            self._lent[id(tensor)] = (tensor, tensor.detach().clone(), tensor.grad)
            tensor.grad = None
            if not hasattr(tensor, "unconstrained"):
                self._bare.append(tensor)
            if name in self.values_wanted:
                wanted = self.values_wanted[name]
                if wanted.shape != tensor.shape:
                    raise StoreError(
                        f"parameter {name!r} has shape {tuple(tensor.shape)} in this model and guide, "
                        f"{tuple(wanted.shape)} in the fitted ones. Fix: use the model, guide and data of the fit."
                    )
                with torch.no_grad():
                    tensor.copy_(wanted)
        super().__setitem__(name, tensor)

    def set_aside(self, tensor: Tensor) -> None:
        """Keeps the gradient of a tensor that is no parameter for its owner."""
        self._aside.append((tensor, tensor.grad))
        tensor.grad = None

    def give_back(self) -> None:
        for tensor, gradient in reversed(self._aside):
            tensor.grad = gradient
        with torch.no_grad():
            for tensor, value, gradient in self._lent.values():
                tensor.copy_(value)
                tensor.grad = gradient
        for tensor in self._bare:
            tensor.__dict__.pop("unconstrained", None)


@contextmanager
def session(
    *,
    seed: int | None = None,
    params: Mapping[str, Tensor] | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
    validate: bool = False,
    modules: Mapping[str, torch.nn.Module] | None = None,
    training: bool = True,
    sizes: Mapping[str, int] | None = None,
    bystanders: Iterable[Tensor] = (),
) -> Iterator[None]:
    """Runs Pyro programs with globals of their own, and restores every one of them afterwards.

    Args:
        seed: seeds torch, NumPy and Python's ``random`` inside; outside, all three go on as if nothing had happened.
            ``None`` leaves the random state shared with the caller.
        params: unconstrained values, by store name, that parameters take when the program first asks for them.
        dtype: the default floating dtype inside.
        device: where tensors are made inside.
        validate: whether Pyro and torch check distribution arguments and supports.
        modules: modules by name, whose buffers, such as running means, take the values of ``params`` too, under names that
            :func:`buffers` gives, and get their old values back as parameters do.
        training: whether these modules stay in the modes that they are in; otherwise they are in evaluation mode inside.
        sizes: the sizes of plates that programs declare without one, by name.
        bystanders: tensors with a gradient of the caller's own, which they have back afterwards.

    Contexts that are open around it, such as inference mode, autocast or another default device, do not reach inside.
    Sessions nest. Threads take turns: Pyro's globals leave no other way.
    """
    check_whole()
    with _LOCK, inside_session(), ExitStack() as stack:
        stack.enter_context(undisturbed(torch.is_grad_enabled() or torch.is_inference_mode_enabled(), device))
        if seed is not None:
            stack.enter_context(random_state(seed, device))
        stack.enter_context(default_dtype(dtype))
        if device is not None and device.type != "cpu":
            stack.enter_context(device)
        stack.enter_context(one_switch())
        stack.enter_context(bijections_known())
        stack.enter_context(pyro.validation_enabled(validate))
        stack.enter_context(_no_handlers())
        if sizes:
            stack.enter_context(_sized(sizes))
        stack.enter_context(quiet_fallbacks())
        modules = modules or {}
        stack.enter_context(_buffers(modules.values()))
        if not training:
            stack.enter_context(evaluating(modules.values()))
        lender = _Lender(params or {})
        stack.callback(lender.give_back)
        for tensor in bystanders:
            lender.set_aside(tensor)
        for name, module in modules.items():
            _fill(name, module, lender.values_wanted)
        stack.enter_context(lent_store(lender))
        yield


class Held(dict[str, Tensor]):
    """The parameter store's dictionary at values that are known; tensors that are registered under their names are left alone."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.values_known = values

    def __setitem__(self, name: str, tensor: Tensor) -> None:
        super().__setitem__(name, self.values_known.get(name, tensor))


@contextmanager
def among_handlers(
    values: Mapping[str, Tensor],
    *,
    dtype: torch.dtype,
    device: torch.device | None = None,
    sizes: Mapping[str, int] | None = None,
) -> Iterator[None]:
    """Runs a Pyro program at given values of its parameters among the caller's handlers, with the caller's random numbers and modes.

    Args:
        values: unconstrained values of parameters by store name.
        dtype: the default floating dtype inside.
        device: where tensors are made inside.
        sizes: the sizes of plates that the program declares without one, by name.

    The caller's parameter store neither reaches inside nor learns of what is registered there.
    """
    check_whole()
    with _LOCK, inside_session(), default_dtype(dtype), ExitStack() as stack:
        if device is not None and device.type != "cpu":
            stack.enter_context(device)
        if sizes:
            stack.enter_context(_sized(sizes))
        stack.enter_context(lent_store(Held(values)))
        yield


@contextmanager
def undisturbed(gradients: bool = True, device: torch.device | None = None) -> Iterator[None]:
    """Keeps contexts that are open around a call out of it: inference mode, autocast, a default device, and ``no_grad``.

    Args:
        gradients: whether gradients are recorded inside.
        device: where tensors are made inside, if not on the CPU.
    """
    wanted = device or torch.device("cpu")
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        if torch.is_grad_enabled() != gradients:
            stack.enter_context(torch.set_grad_enabled(gradients))
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != wanted.type:
            stack.enter_context(wanted)
        yield


@contextmanager
def default_dtype(dtype: torch.dtype | None) -> Iterator[None]:
    """Sets torch's default dtype for a block, where one is given; it is the whole process's, so that other threads' sessions wait."""
    if dtype is None:
        yield
        return
    with _LOCK:
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            yield
        finally:
            torch.set_default_dtype(before)


def set_aside_gradients(tensors: Iterable[Tensor]) -> None:
    """Gives tensors that are no parameters their gradients back at the end of the session, whatever is added to them until then."""
    store = stored()
    if isinstance(store, _Lender):
        for tensor in apart_from_parameters(tensors):
            store.set_aside(tensor)


def apart_from_parameters(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Those tensors that are not the session's parameters, nor share memory with one."""
    held = {memory_key(value) for value in parameters().values()}
    return [tensor for tensor in tensors if memory_key(tensor) not in held]


@contextmanager
def _buffers(modules: Iterable[torch.nn.Module]) -> Iterator[None]:
    """Gives buffers their old values back."""
    parts = [part for module in modules for part in module.modules()]
    kept = [
        (home, name, buffer, buffer.detach().clone())
        for home in map(buffers_of, parts)
        for name, buffer in home.items()
        if buffer is not None
    ]
    try:
        yield
    finally:
        for home, name, buffer, value in kept:
            with torch.no_grad():
                home[name] = buffer.copy_(value)


def buffers(modules: Mapping[str, torch.nn.Module]) -> dict[str, Tensor]:
    """Copies of the buffers of modules, under the names by which a session fills them again."""
    return {
        f"{BUFFER}{name}.{key}": value.detach().clone()
        for name, module in modules.items()
        for key, value in module.named_buffers()
    }


def fill_buffers(name: str, module: torch.nn.Module) -> None:
    """Gives the buffers of a module that was made inside a session the values that the session was opened with."""
    store = stored()
    _fill(name, module, store.values_wanted if isinstance(store, _Lender) else {})


def _fill(name: str, module: torch.nn.Module, values: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for key, buffer in module.named_buffers():
            wanted = values.get(f"{BUFFER}{name}.{key}")
            if wanted is None:
                continue
            if wanted.shape != buffer.shape:
                raise StoreError(
                    f"buffer {key!r} of module {name!r} has shape {tuple(buffer.shape)} here, {tuple(wanted.shape)} in the fitted "
                    "one. Fix: use the model, guide and data of the fit."
                )
            buffer.copy_(wanted)


@contextmanager
def evaluating(modules: Iterable[torch.nn.Module]) -> Iterator[None]:
    """Puts modules into evaluation mode, without dropout, for a block."""
    modes = [(part, part.training) for module in modules for part in module.modules()]
    try:
        for part, _ in modes:
            part.training = False
        yield
    finally:
        for part, mode in modes:
            part.training = mode


@contextmanager
def _no_handlers() -> Iterator[None]:
    """Keeps handlers and plates that are open around a session out of it."""
    lists = open_handlers()
    outer = [list(entries) for entries in lists]
    for entries in lists:
        entries.clear()
    try:
        yield
    finally:
        for entries, saved in zip(lists, outer, strict=True):
            entries[:] = saved


def parameters() -> dict[str, Tensor]:
    """The session's learnable parameters: unconstrained leaf tensors by store name."""
    return dict(pyro.get_param_store().named_parameters())


@contextmanager
def validation(enabled: bool) -> Iterator[None]:
    """Switches Pyro's and torch's checks on or off for a part of a session."""
    with pyro.validation_enabled(enabled):
        yield


# --- plates -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Subsample:
    """What a plate of one name stands for during a run: ``indices`` out of ``size`` rows."""

    size: int
    indices: Tensor


@dataclass(frozen=True)
class PlateCall:
    """How the program itself declared a plate: its size (``None`` if it leaves it open), and the subsample it asked for, if any."""

    name: str
    size: int | None
    subsample_size: int | None
    indices: Tensor | None

    @property
    def subsampled(self) -> bool:
        """Whether the program asks for a part of the rows."""
        if self.size is None:
            return False
        return self.indices is not None or (self.subsample_size is not None and self.subsample_size < self.size)

    @property
    def rows(self) -> int:
        """How many rows a run takes."""
        return len(self.indices) if self.indices is not None else int(self.subsample_size or self.size or 0)


_Hook = Callable[[PlateRows, PlateCall, dict[str, Any]], tuple[int, int, Tensor | None]]


@contextmanager
def _plate_hook(hook: _Hook) -> Iterator[None]:
    """Puts ``hook`` where a plate decides on its size and indices.

    Pyro lets a handler set a plate's indices but not its full size, and refuses indices whose number differs from the
    declared ``subsample_size``. Both must change for one model function to serve full data and minibatches alike, so
    the decision itself is replaced while the context lasts.
    """

    def decide(
        inner: PlateRows, name: str, size: Any, subsample_size: int | None, subsample: Tensor | None, **rest: Any
    ) -> tuple[int, int, Tensor | None]:
        return hook(inner, PlateCall(name, None if size is None else int(size), subsample_size, subsample), rest)

    with _LOCK, plates_decided_by(decide):
        yield


@contextmanager
def plates(policy: Mapping[str, Subsample]) -> Iterator[None]:
    """Makes every plate named in ``policy`` mean that subsample, in model and guide alike.

    A plate that was sized by a slice of the data (``pyro.plate("data", len(x))``) gets the size of the whole, so that
    its sites are scaled by ``size / len(indices)``; one that subsamples by itself gets the policy's indices.
    """

    def hook(inner: PlateRows, call: PlateCall, rest: dict[str, object]) -> tuple[int, int, Tensor | None]:
        wanted = policy.get(call.name)
        if wanted is None:
            return inner(call.name, call.size, call.subsample_size, call.indices, **rest)
        # Registering the indices as Pyro does keeps them visible in traces.
        return inner(call.name, wanted.size, len(wanted.indices), wanted.indices, **rest)

    with _plate_hook(hook):
        yield


@contextmanager
def _sized(sizes: Mapping[str, int]) -> Iterator[None]:
    """Gives plates that are declared without a size, ``pyro.plate("data")``, the sizes that they are known to have."""

    def hook(inner: PlateRows, call: PlateCall, rest: dict[str, object]) -> tuple[int, int, Tensor | None]:
        size = sizes.get(call.name) if call.size is None else call.size
        return inner(call.name, size, call.subsample_size, call.indices, **rest)

    with _plate_hook(hook):
        yield


@contextmanager
def record_plates() -> Iterator[dict[str, PlateCall]]:
    """Yields a dictionary that fills with every plate the program declares."""
    calls: dict[str, PlateCall] = {}

    def hook(inner: PlateRows, call: PlateCall, rest: dict[str, object]) -> tuple[int, int, Tensor | None]:
        calls.setdefault(call.name, call)
        return inner(call.name, call.size, call.subsample_size, call.indices, **rest)

    with _plate_hook(hook):
        yield calls


# --- enumeration under vmap -------------------------------------------------------------------------------------------


def _safe_log(x: Tensor) -> Tensor:
    """Takes log x with a finite gradient at zero, as Pyro's, but made of operations that ``vmap`` can batch."""
    tiny = torch.finfo(x.dtype).tiny
    return torch.where(x > 0, x.clamp(min=tiny).log(), x.new_tensor(-float("inf")))


@contextmanager
def batchable_enumeration() -> Iterator[None]:
    """Lets ``vmap`` pass through the sums over discrete latents: Pyro's own logarithm there is a custom autograd function."""
    from pyro.ops.einsum import torch_log as backend

    torch_log: Any = backend

    with _LOCK:
        inner = torch_log.safe_log
        torch_log.safe_log = _safe_log
        try:
            yield
        finally:
            torch_log.safe_log = inner
