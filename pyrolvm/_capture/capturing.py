"""Recording a program: where it fails, a word on whether anything at all can be recorded in this installation."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from pyrolvm._base.errors import CaptureError
from pyrolvm._capture import selfcheck
from pyrolvm._capture.graph import Captured, Path, attempt

__all__ = ["capture", "capture_path"]


def capture(
    function: Callable[..., object], *inputs: Tensor, what: str = "the program", reads: list[Tensor] | None = None
) -> Captured:
    """Records ``function(*inputs)`` as a graph; must be called inside a session.

    Tensors are recognised as inputs by identity, so that a function may reach them by other ways than its arguments, as
    a Pyro program reaches its parameters.

    Args:
        function: takes the inputs and returns tensors in any nest of tuples, lists and dictionaries. It may be random.
        *inputs: example inputs; shapes, dtypes and devices are those of every later call.
        what: the program's name, for messages.
        reads: where given, collects what the function reads of whole numbers and truth values; see :func:`capture_path`.

    Raises:
        CaptureError: if the function reads the value of an input or of anything that follows from one. Its text names the line.
            Where nothing at all can be captured in this installation, that is said once besides.
    """
    try:
        return attempt(function, *inputs, what=what, reads=reads)
    except CaptureError:
        selfcheck.works("capture")
        raise


def capture_path(function: Callable[..., object], *inputs: Tensor, what: str = "the program") -> Path:
    """Records ``function(*inputs)`` as :func:`capture` does, along the way that it takes from these inputs.

    Raises:
        CaptureError: if the function reads a number that is not whole, or a value that follows from a random number.
    """
    noted: list[Tensor] = []
    graph = capture(lambda *given: (function(*given), list(noted)), *inputs, what=what, reads=noted)
    return Path(graph, tuple(tensor.detach() for tensor in noted))
