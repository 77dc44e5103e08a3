"""Whether each engine works in this installation at all, whatever the model is.

Engines fall back on one another, and a model that one of them has no rule for is an ordinary thing. That an engine can run
nothing here is not: a release of a library that nobody tried, a compiler that is missing or broken. After a failure, the
engine is therefore tried on a trivial program; if that fails too, the cause is said once, and ``pyrolvm doctor`` shows it.
"""

from __future__ import annotations

import inspect
import os
import shlex
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from pyrolvm._base.errors import CaptureError, PyrolvmWarning
from pyrolvm._base.forks import jax_is_lost
from pyrolvm._base.importing import uncollected
from pyrolvm._capture.door import xla
from pyrolvm._capture.graph import attempt
from pyrolvm._capture.native.build import trial
from pyrolvm._compat import nutpie
from pyrolvm._compat import torch as private

__all__ = ["PARTS", "fault", "forget", "require", "warning", "works"]


def _trivial(point: Tensor) -> Tensor:
    """The potential of two independent normal variables, by a distribution, with something written in place."""
    scale = torch.zeros_like(point)
    scale.fill_(2.0)  # `scale[:] = 2.0` would have torch import SymPy, half a second
    normal = torch.distributions.Normal(torch.ones_like(point), scale, validate_args=False)
    return -normal.log_prob(point).sum()


def _captured() -> None:
    with private.without_modes():
        point = torch.tensor([0.5, -1.0], dtype=torch.float64, device="cpu")
        captured = attempt(_trivial, point)
        _compare(float(captured(point)), float(_trivial(point)), "the recorded graph")


def _compiled_from_c() -> None:
    _compare(trial(), 3.0, "the compiled function")


@cache
def _compiled_by_xla() -> None:
    import jax

    with xla().precision(torch.float32):  # whatever the user has switched on
        value, slope = jax.jit(jax.value_and_grad(lambda x: (x * x).sum()))(jax.numpy.ones(2))
        found = float(value) + float(slope[0])
    _compare(found, 4.0, "the compiled function")


def _samples_by_nutpie() -> None:
    with uncollected():  # ArviZ and pyplot come with it
        cause = nutpie.fault()
    if cause is not None:
        raise CaptureError(cause)


def _samples_by_numpyro() -> None:
    from numpyro.infer.hmc import hmc
    from numpyro.infer.util import ParamInfo

    if not callable(hmc) or not callable(ParamInfo):
        raise CaptureError("numpyro.infer has no hmc or ParamInfo")


def _compiled_by_torch() -> None:
    compiler = shlex.split(os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++"))
    command = [*compiler, "-x", "c++", "-fsyntax-only", "-"]
    done = subprocess.run(command, input="#include <cmath>\n", capture_output=True, text=True, check=False)
    if done.returncode:
        raise CaptureError(f"{shlex.join(compiler)} fails: {(done.stderr.splitlines() or ['no message'])[0]}")


def _compare(found: float, expected: float, what: str) -> None:
    """Raises RuntimeError where a trivial program gave something else."""
    if not abs(found - expected) <= 1e-5:
        raise RuntimeError(f"{what} gave {found:g}, expected {expected:g}")


@dataclass(frozen=True)
class Part:
    """A part of this installation that all models need or none.

    Attributes:
        name: what ``pyrolvm doctor`` calls it.
        title: what it does, as the beginning of a sentence that ends in "in this installation".
        tried: what was tried, where it works.
        instead: what happens without it, as a sentence.
        fix: the remedy.
        trial: raises whatever goes wrong.
        quick: whether the trial takes no more than a second of imports.
    """

    name: str
    title: str
    tried: str
    instead: str
    fix: str
    trial: Callable[[], None]
    quick: bool = True


PARTS: dict[str, Part] = {
    "capture": Part(
        "capture",
        "No model can be captured",
        "a trivial program is recorded, and its graph gives the same",
        "Everything runs on stock Pyro, often a hundred times slower, and lvm.exact refuses.",
        f"pip install '{private.WANTED}', or run pyrolvm doctor",
        _captured,
    ),
    "c": Part(
        "engine c",
        "Engine 'c', the fastest for small models, cannot compile anything",
        "a trivial program is compiled and gives what it should",
        "Other engines run instead, and take longer.",
        "install gcc, or set CC to a C compiler that works",
        _compiled_from_c,
    ),
    "jax": Part(
        "engine jax",
        "Engine 'jax' cannot run anything",
        "a trivial program is compiled by XLA and gives what it should",
        "Other engines run instead, and take longer.",
        "pip install --force-reinstall jax jaxlib",
        _compiled_by_xla,
    ),
    "torch": Part(
        "engine torch",
        "Engine 'torch' cannot compile anything for the processor",
        "the C++ compiler works",
        "It runs operation by operation, and takes longer.",
        "install g++, or set CXX to a C++ compiler that works",
        _compiled_by_torch,
    ),
    "nutpie": Part(
        "kernel nutpie",
        "NUTS cannot run on nutpie, which is the fastest here,",
        "it can be imported, and its samplers take what pyrolvm gives them",
        "It runs on NumPyro, which takes longer to start.",
        f"pip install '{nutpie.WANTED}'",
        _samples_by_nutpie,
        quick=False,
    ),
    "numpyro": Part(
        "kernel numpyro",
        "NUTS cannot run on NumPyro",
        "it can be imported",
        "NUTS runs on nutpie where it can, and on stock Pyro elsewhere.",
        "pip install --force-reinstall numpyro",
        _samples_by_numpyro,
        quick=False,
    ),
}
"""What is tried, by name."""


def fault(part: str) -> str | None:
    """Why a part of this installation cannot work; ``None`` if it does.

    Args:
        part: a name in :data:`PARTS`.
    """
    try:
        PARTS[part].trial()
    except Exception as error:  # the finding, whatever it is
        text = str(error).strip().split("\n")[0].rstrip(".")
        return text if isinstance(error, CaptureError) else f"{type(error).__name__}: {text}"
    return None


def works(part: str) -> bool:
    """Whether a part of this installation works; where it does not, that is said once.

    Costs a few milliseconds, and is asked after a failure, or before what cannot be undone.
    """
    cause = fault(part)
    if cause is not None:
        _say(part)
    return cause is None


def require(part: str) -> None:
    """Makes sure that a part of this installation works.

    Raises:
        CaptureError: if it does not; that is said once besides.
    """
    if part == "jax" and jax_is_lost():
        return  # no fault of the installation: it is told where JAX is used
    cause = fault(part)
    if cause is not None:
        _say(part)
        raise CaptureError(f"{PARTS[part].title} in this installation: {cause}.")


def warning(part: str, cause: str) -> str:
    """What a user is told."""
    told = PARTS[part]
    return f"{told.title} in this installation: {cause}. {told.instead} Fix: {told.fix}."


def forget() -> None:
    """Lets everything be tried and said again."""
    _say.cache_clear()
    _compiled_by_xla.cache_clear()
    nutpie.fault.cache_clear()


@cache
def _say(part: str) -> None:
    # The cause may name a file that is another one each time: it is asked for here, so that one part is told of once.
    cause = fault(part)
    if cause is not None:
        warnings.warn(warning(part, cause), PyrolvmWarning, stacklevel=_outside())


_OWN = {"pyrolvm", "pyrolvm_guides", "pyrolvm_models", "contextlib", "pyro", "torch"}


def _outside() -> int:
    """How many frames above :func:`_say` the caller's own line is."""
    level, frame = 0, inspect.currentframe()
    while frame and frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in _OWN:
        level, frame = level + 1, frame.f_back
    return level
