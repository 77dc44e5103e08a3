"""Which engine and which kernel run the chains, and why."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from pyrolvm._base.errors import ArgumentError, CaptureError, PyrolvmWarning, unknown_name
from pyrolvm._capture import selfcheck
from pyrolvm._capture.door import xla
from pyrolvm._capture.native import NativeGradient
from pyrolvm._methods.nuts import numpyro_kernel, nutpie_kernel, pyro_kernel
from pyrolvm._methods.nuts.base import Raw, Settings
from pyrolvm._methods.nuts.potential import Disagreement, Program, check_draws, program
from pyrolvm._program.density import Joint

__all__ = ["ENGINES", "KERNELS", "Outcome", "check", "run"]

ENGINES = ("c", "jax", "pyro")
"""``"c"``: the captured gradient compiled from C, for nutpie; ``"jax"``: the same by XLA; ``"pyro"``: stock Pyro."""

KERNELS: dict[str, Callable[[Joint, Program, Tensor, Sequence[int], Settings], Raw]] = {
    "numpyro": numpyro_kernel.run,
    "nutpie": nutpie_kernel.run,
}
"""What samples a captured potential, by name: a function like :func:`pyrolvm._methods.nuts.numpyro_kernel.run`."""


@dataclass(frozen=True)
class Outcome:
    """What a run gave, what ran it, and why."""

    raw: Raw
    engine: str
    kernel: str
    reason: str


def check(engine: str, kernel: str, warmup: int) -> None:
    """Refuses what does not exist or does not go together.

    Raises:
        UnknownNameError: if there is no such engine or kernel.
        ArgumentError: if the kernel needs another engine, a longer warmup, or a library that does not work.
    """
    if engine not in ("auto", *ENGINES):
        raise unknown_name("engine", engine, ("auto", *ENGINES))
    if kernel not in ("auto", *KERNELS):
        raise unknown_name("kernel", kernel, ("auto", *KERNELS))
    if engine == "pyro" and kernel != "auto":
        raise ArgumentError(
            f'kernel {kernel!r} runs captured programs, but engine "pyro" was asked for, which has its own NUTS. '
            'Fix: use engine="jax", or leave one of the two out.'
        )
    if engine == "c" and kernel == "numpyro":
        raise ArgumentError(
            'kernel "numpyro" runs on JAX, but engine "c" was asked for. Fix: use engine="jax", or kernel="nutpie".'
        )
    if kernel == "nutpie" or engine == "c":
        nutpie_kernel.require()
        if warmup < nutpie_kernel.MIN_WARMUP:
            raise ArgumentError(
                f"warmup is {warmup}, and nutpie adapts in stages. "
                f'Fix: use {nutpie_kernel.MIN_WARMUP} or more, or kernel="numpyro".'
            )


def run(
    joint: Joint,
    starts: Tensor,
    seeds: Sequence[int],
    settings: Settings,
    *,
    engine: str,
    kernel: str,
    native: NativeGradient | None = None,
    doubt: str = "",
) -> Outcome:
    """Runs the chains; must be called inside a session.

    ``native`` is the gradient in C where it is compiled already, ``doubt`` why it is not to be trusted, if so.

    ``"auto"`` captures the model, and takes stock Pyro where that cannot be done. Draws whose density is not what Pyro
    computes, or that keep from where only the compiled density is not finite, are thrown away, with a warning, and the next
    engine runs instead; stock Pyro, whatever was asked for, if that is the last.

    Raises:
        CaptureError: if ``engine="jax"`` or a kernel was asked for and the model cannot be captured.
    """
    keeper = settings.keeper
    if engine == "pyro":
        return Outcome(pyro_kernel.run(joint, starts, seeds, settings), "pyro", "pyro", "asked for")
    if keeper is not None and keeper.kernel == "pyro":
        reason = "the chains that are gone on with began on it"
        return Outcome(pyro_kernel.run(joint, starts, seeds, settings), "pyro", "pyro", reason)
    note = f"; not compiled from C: {doubt}" if doubt else ""
    try:
        if _native(joint, engine, kernel, settings) and not (doubt and engine == "auto"):
            try:
                return _checked(joint, nutpie_kernel.run_native(joint, starts, seeds, settings, native), "c", "nutpie")
            except Disagreement as error:
                if engine == "c" or settings.keeper is not None:
                    raise
                warnings.warn(
                    f"{error} The chains run on JAX instead. Fix: report this model.", PyrolvmWarning, stacklevel=3
                )
                note = f"; not compiled from C: {error}"
            except nutpie_kernel.Stopped as error:
                if engine == "c" or kernel == "nutpie" or settings.keeper is not None:
                    raise
                note = f"; {error}"
            except CaptureError as error:
                if engine == "c":
                    raise
                note = f"; not compiled from C: {error}"
        began = time.perf_counter()
        selfcheck.require("jax")
        with xla().precision(starts.dtype, starts.device):
            captured = program(joint, starts[0])
        seconds = time.perf_counter() - began
        chosen = "numpyro" if kernel == "auto" else kernel
        selfcheck.require(chosen)
        raw = KERNELS[chosen](joint, captured, starts, seeds, settings)
        raw.seconds["compile"] = raw.seconds.get("compile", 0.0) + seconds
        raw.note += f"; {captured.note}" if captured.note else ""
        raw.note += note
        return _checked(joint, raw, "jax", chosen)
    except Disagreement as error:
        warnings.warn(
            f'{error} The chains run on stock Pyro instead. Fix: report this model, or use engine="pyro" to avoid this check.',
            PyrolvmWarning,
            stacklevel=3,
        )
        return Outcome(pyro_kernel.run(joint, starts, seeds, settings), "pyro", "pyro", str(error))
    except CaptureError as error:
        if engine != "auto" or kernel != "auto":
            asked = f'engine "{engine}"' if engine != "auto" else f"kernel {kernel!r}"
            raise CaptureError(f'{asked} was asked for, but {error} Fix: use engine="auto" or "pyro".') from error
        return Outcome(pyro_kernel.run(joint, starts, seeds, settings), "pyro", "pyro", str(error))


def _native(joint: Joint, engine: str, kernel: str, settings: Settings) -> bool:
    """Whether to try a gradient in C: it takes a tenth of XLA's time, to compile and to run, and only nutpie calls it."""
    wanted = engine == "c" or (engine == "auto" and kernel in ("auto", "nutpie"))
    able = joint.problem.device.type == "cpu" and settings.warmup >= nutpie_kernel.MIN_WARMUP
    return wanted and able and nutpie_kernel.usable()


def _checked(joint: Joint, raw: Raw, engine: str, kernel: str) -> Outcome:
    """The outcome of a run whose energies are Pyro's.

    Raises:
        Disagreement: if they are not.
    """
    if raw.potential is not None:
        check_draws(joint, raw.draws, raw.potential)
    return Outcome(raw, engine, kernel, f"the model can be captured; {raw.note}")
