"""Turns an exception from inside a Pyro program into one that names the model's own line."""

from __future__ import annotations

import errno
import functools
import linecache
import re
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

import pyro
import torch

from pyrolvm._base.errors import ArgumentError, FitError, GuideError, OutOfMemoryError, ProblemError, PyrolvmError
from pyrolvm._base.habits import library_in

__all__ = ["PASSES", "at_the_door", "explained", "model_line", "told"]

P = ParamSpec("P")
R = TypeVar("R")

_LIBRARY = tuple(
    str(path)
    for path in (
        Path(torch.__file__).parent,
        Path(pyro.__file__).parent,
        Path(__file__).parent.parent,
        Path(sysconfig.get_path("stdlib")),
    )
)

_INSTALLED = {"site-packages", "dist-packages"}

_ZOO = {"pyrolvm_guides", "pyrolvm_models"}
"""The packages of our own guides and models, no line of which is the user's to mend."""

PASSES = "pyrolvm_passes"
"""An attribute of exceptions that are the caller's own, such as those of callbacks: they are raised as they are."""

_PASSED_THROUGH = {"__torch_function__", "__torch_dispatch__", "decide", "hook"}
"""Functions of ours by which a program's own calls go to torch and Pyro."""

_RAN = (
    "look at what the line does at draws other than the first, since it ran when the problem was built; if it is right, please "
    "report this."
)

_SHORT = re.compile(
    r"can't allocate memory|cannot allocate memory|out of memory|failed to map segment|can't start new thread|bad_alloc",
    re.IGNORECASE,
)
"""What exceptions of other types say where memory is short."""

_BARE = (KeyError, StopIteration, AssertionError, IndexError)
"""Exceptions whose message means little without their name."""

_REMEDIES = (
    (
        re.compile(r"Shape mismatch inside plate"),
        "make the plate as long as the data in it: pyro.plate(name, len(y)). For minibatches pass all rows to "
        "lvm.Problem and use lvm.fit(..., batch_size=...), which scales the density by itself.",
    ),
    (
        re.compile(r"Multiple \w+ sites named|collide at|duplicate plate"),
        "give every site and plate in one model a name of its own.",
    ),
    (
        re.compile(r"does not support sampling"),
        "start it elsewhere, as in AutoNormal(model, init_loc_fn=pyro.infer.autoguide.init_to_value(values={...})), or use "
        'guide="mean_field", which starts without draws of the prior.',
    ),
    (
        re.compile(r"log_prob at site .* within the support"),
        "mend the data, or keep them inside the support of their law at every value of the latents, by bounding those by the data; a "
        "guide must start where the data have a density (init_loc_fn= of an AutoGuide).",
    ),
    (
        re.compile(r"within the support|found invalid values"),
        "keep the argument inside its constraint, for example by softplus or exp for a scale, or mend the data there.",
    ),
    (
        re.compile(r"invalid log_prob shape|size of tensor a|must match the size|Shape mismatch|not broadcastable"),
        "check the shapes: batch dimensions belong to plates, event dimensions are declared by .to_event(n).",
    ),
    (
        re.compile(r"positive-definite|singular"),
        "keep the matrix positive definite at every value of the latents, for example by LKJCholesky or an addition to its diagonal.",
    ),
    (
        re.compile(r"vmap|data-dependent"),
        "the program decides by the value of a tensor, which cannot be done for many draws at once: use torch.where, or pass "
        "num_particles=1.",
    ),
    (
        re.compile(r"probability tensor contains"),
        "keep probabilities between 0 and 1, for example by softmax, or pass logits.",
    ),
    (
        re.compile(r"unexpected keyword argument|required positional argument|positional arguments? but"),
        "check the arguments: a guide is called with the model's arguments, a class of guides with the model.",
    ),
    (
        re.compile(r"bool tensor is not supported"),
        "convert the true and false values to numbers, for example with y.float().",
    ),
    (
        re.compile(r"cannot handle discrete sample site|Cannot transform \w*MatchingConstraint"),
        'hide discrete sites from it, as in AutoNormal(poutine.block(model, hide=["z"])), or use guide="full_rank", which leaves '
        "them out; they are then summed out, where their values can be listed.",
    ),
    (
        re.compile(
            r"tensors used as indices must be|Expected dtype int64 for index|Expected tensor for argument #\d 'indices'"
        ),
        "give the index as integers, for example g.long().",
    ),
    (
        re.compile(
            r"out of bounds for dimension|tried to access index|index out of range|Class values must be smaller"
        ),
        "number what is indexed from 0 to its length less one, and make its plate as long as there are values, g.max() + 1.",
    ),
    (
        re.compile(r"value argument to log_prob must be a Tensor"),
        "observe a tensor: pass the data as a list of numbers, an array or a tensor, or convert them in the model.",
    ),
    (
        re.compile(r"expected scalar type|dtype|Long|Double"),
        "convert the data to one floating dtype, for example with problem.to(dtype=torch.float64) or y.float().",
    ),
)


def model_line(error: BaseException) -> str | None:
    """The deepest line of user code that an exception passed through, as ``file:line: code``.

    What lies in an installed package is taken only where there is nothing else, as for the model of a plugin.
    """
    chain: list[BaseException] = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    return _own_line(
        [frame for link in reversed(chain) for frame in reversed(traceback.extract_tb(link.__traceback__))]
    )


def current_line() -> str | None:
    """The line of user code that is being run, as ``file:line: code``."""
    return _own_line(list(reversed(traceback.extract_stack())))


def _own_line(frames: list[traceback.FrameSummary]) -> str | None:
    """The first of some frames that is of user code."""
    frames = [frame for frame in frames if not frame.filename.startswith((*_LIBRARY, "<"))]
    frames = [frame for frame in frames if not _ZOO & set(Path(frame.filename).parts)]
    own = [frame for frame in frames if not _INSTALLED & set(Path(frame.filename).parts)]
    for frame in own or frames:
        code = (frame.line or linecache.getline(frame.filename, frame.lineno or 0)).strip()
        return f"{Path(frame.filename).name}:{frame.lineno}: `{code}`"
    return None


def _is_ours(error: BaseException) -> bool:
    """Whether a line of ours called what failed, and not the program, so that no line of the user's is to blame."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename.startswith(_LIBRARY[2]) or _ZOO & set(Path(frame.filename).parts):
            if frame.name not in _PASSED_THROUGH:
                return True
        elif not frame.filename.startswith((*_LIBRARY, "<")):
            return False
    return False


def told(error: BaseException) -> str:
    """An exception in one sentence: its message, or its name where that says nothing, and the line of the program it came from."""
    line = model_line(error)
    return f"{reason(error)[:-1]} (at {line})." if line else reason(error)


def reason(error: BaseException) -> str:
    """The message of an exception without the tables that Pyro appends to it."""
    text = str(error).split("Trace Shapes:")[0].strip()
    if not text and isinstance(error, AssertionError) and error.__traceback__ is not None:
        text = traceback.extract_tb(error.__traceback__)[-1].line or ""  # what it asserts says more than nothing
    if not text or isinstance(error, _BARE):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    text = re.sub(r"\s+", " ", text)
    text = text if len(text) <= 400 else text[:400] + "..."
    return text if text.endswith((".", "!", "?")) else text + "."


def remedy(text: str, line: str | None = "") -> str:
    """What to do about a message of Pyro's or torch's; ``line`` is ``None`` where no line of the user's was passed."""
    known = next((fix for pattern, fix in _REMEDIES if pattern.search(text)), None)
    if known is not None:
        return known
    if line is None:
        return "run the model by itself, as in pyro.poutine.trace(model).get_trace(*args); if that works, please report this."
    return "mend that line and build the problem again."


@contextmanager
def explained(
    what: str, kind: type[ProblemError | GuideError | ArgumentError | FitError] = ProblemError
) -> Iterator[None]:
    """Translates whatever goes wrong inside a program named ``what`` to an error with its line and a remedy."""
    try:
        yield
    except PyrolvmError:
        raise
    except Exception as error:
        line, text = model_line(error), reason(error)
        where = f" at {line}" if line else ""
        other = library_in([frame.filename for frame in traceback.extract_tb(error.__traceback__)])
        blamed = None if _is_ours(error) else line
        fix = other or (_guide_remedy(text, blamed) if kind is GuideError else remedy(text, blamed))
        raise kind(f"{what} fails{where}: {text} Fix: {fix}") from error


def at_the_door(function: Callable[P, R]) -> Callable[P, R]:
    """Translates what goes wrong in the caller's program during a run, wherever in it, to an error that names the program's line.

    What a program raises at some draws only, long after it was read, comes out as a ``ProblemError`` and not as a bare ``KeyError``.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except PyrolvmError:
            raise
        except Exception as error:
            if _lacks_memory(error):
                raise OutOfMemoryError(
                    f"{function.__name__} stopped, since the process got no more memory: {reason(error)} Fix: allow it more "
                    "(`ulimit -v` shows a limit), or use fewer draws, fewer chains or smaller batches."
                ) from error
            if isinstance(error, OSError):
                raise
            if getattr(error, PASSES, False):
                raise
            line, text = _raised_in_a_program(error), reason(error)
            if line is not None:
                fix = next((fix for pattern, fix in _REMEDIES if pattern.search(text)), _RAN)
                raise ProblemError(
                    f"the program fails during {function.__name__} at {line}: {text} Fix: {fix}"
                ) from error
            if _last_file(error).startswith(_LIBRARY[2]) and not isinstance(error, _BARE):
                raise
            raise ProblemError(f"{function.__name__} stopped: {text} Fix: {remedy(text, None)}") from error

    return call


def _lacks_memory(error: Exception) -> bool:
    """Whether an exception says that memory is short, as allocators, threads and the loader of libraries say it."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM or _SHORT.search(str(error)) is not None
    return isinstance(error, MemoryError) or (
        isinstance(error, ImportError | RuntimeError) and _SHORT.search(str(error)) is not None
    )


def _last_file(error: BaseException) -> str:
    """The file that an exception was raised in."""
    frames = traceback.extract_tb(error.__traceback__)
    return frames[-1].filename if frames else ""


def _raised_in_a_program(error: BaseException) -> str | None:
    """The line of the caller's program that an exception came from: below a frame of ours, not only above all of them."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [i for i, frame in enumerate(frames) if frame.filename.startswith(_LIBRARY[2])]
    below = [f for f in frames[max(ours, default=-1) + 1 :] if not f.filename.startswith((*_LIBRARY, "<"))]
    below = [frame for frame in below if not _ZOO & set(Path(frame.filename).parts)]
    own = [frame for frame in below if not _INSTALLED & set(Path(frame.filename).parts)]
    for frame in reversed(own):  # of installed packages nobody can tell whether the program called them, or we did
        code = (frame.line or linecache.getline(frame.filename, frame.lineno or 0)).strip()
        return f"{Path(frame.filename).name}:{frame.lineno}: `{code}`"
    return None


def _guide_remedy(text: str, line: str | None) -> str:
    if "Shape mismatch inside plate" in text:
        return (
            "hold local parameters for all rows, pyro.param(name, torch.zeros(n), event_dim=0), inside pyro.plate of the model's "
            'name, which then takes the rows of a minibatch; or use guide="mean_field". A guide over all latents at once cannot '
            "take minibatches of local ones."
        )
    return remedy(text, line)
