"""JAX as our programs need it, whatever the user's session has switched on, and given back as it was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import jax
import torch

from pyrolvm._base.errors import CaptureError
from pyrolvm._base.forks import jax_is_lost

__all__ = ["device_of", "precision"]

_OWN: Mapping[str, Any] = {
    "array_garbage_collection_guard": None,
    "check_tracer_leaks": False,
    "debug_infs": False,
    "debug_key_reuse": False,
    "debug_nans": False,
    "default_matmul_precision": None,
    "default_prng_impl": "threefry2x32",
    "disable_jit": False,
    "enable_custom_prng": False,
    "legacy_prng_key": "allow",
    "no_execution": False,
    "no_tracing": False,
    "numpy_dtype_promotion": "standard",
    "numpy_rank_promotion": "allow",
    "softmax_custom_jvp": False,
    "thread_guard": False,
    "threefry_partitionable": True,
}
"""Switches of JAX and what they are in our programs; those that a version of JAX does not have are left alone."""

_GUARDS = ("transfer_guard_host_to_device", "transfer_guard_device_to_host", "transfer_guard_device_to_device")


@contextmanager
def precision(of: torch.dtype, device: torch.device | None = None) -> Iterator[None]:
    """Runs JAX in a block at the precision of a dtype, on a device, with all other switches as our programs need them.

    The user's own switches (``numpyro.enable_x64()``, ``jax.config``, ``JAX_ENABLE_X64``) do not count inside, hold for all other
    threads meanwhile, and are as they were afterwards.

    Args:
        of: torch's dtype; 64 bits are on for ``torch.float64`` and off for all others.
        device: torch's device, for which JAX's own is taken; its processor by default.

    Raises:
        CaptureError: if JAX does not start here, or this process was forked from one that had used it.
    """
    if jax_is_lost():
        raise CaptureError(
            "JAX does not work in this process, which was forked from one that had used it and has none of its threads; "
            "one that multiprocessing's 'spawn' starts has its own."
        )
    with ExitStack() as stack:
        _set(stack, "enable_x64", of == torch.float64)
        for name, value in _OWN.items():
            _set(stack, name, value)
        for name in _GUARDS:
            if _read(name) not in (None, "allow"):
                stack.enter_context(getattr(jax, name)("allow"))
        stack.enter_context(jax.default_device(device_of(device)))
        yield


def _set(stack: ExitStack, name: str, value: Any) -> None:
    """Sets a switch until the stack is closed; nothing where it is so already, since setting takes ten times as long as a look."""
    if _read(name, value) != value:
        stack.enter_context(getattr(jax, name)(value))


def _read(name: str, missing: Any = None) -> Any:
    return getattr(jax.config, f"jax_{name}", missing) if hasattr(jax, name) else missing


def device_of(device: torch.device | None) -> Any:
    """JAX's device for torch's; its processor where it has no such device.

    Raises:
        CaptureError: if JAX does not start.
    """
    try:
        if device is not None and device.type == "cuda":
            found = [one for one in jax.devices() if one.platform == "gpu"]
            if found:
                return found[min(device.index or 0, len(found) - 1)]
        return jax.devices("cpu")[0]
    except RuntimeError as error:  # such as JAX_PLATFORMS=tpu on a machine without one
        raise CaptureError(f"JAX does not start here: {' '.join(str(error).split())}") from error
