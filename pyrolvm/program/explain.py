"""Turns an exception from inside a Pyro program into one that names the model's own line."""

from __future__ import annotations

import linecache
import re
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyro
import torch

from pyrolvm.errors import ArgumentError, GuideError, ProblemError, PyrolvmError

__all__ = ["explained", "model_line"]

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
        re.compile(r"within the support|found invalid values"),
        "keep the argument inside its constraint, for example by softplus or exp for a scale, or mend the data there.",
    ),
    (
        re.compile(r"invalid log_prob shape|size of tensor a|must match the size|Shape mismatch|not broadcastable"),
        "check the shapes: batch dimensions belong to plates, event dimensions are declared by .to_event(n).",
    ),
    (
        re.compile(r"bool tensor is not supported"),
        "convert the true and false values to numbers, for example with y.float().",
    ),
    (
        re.compile(r"cannot handle discrete sample site"),
        'hide discrete sites from it, as in AutoNormal(poutine.block(model, hide=["z"])), or use guide="full_rank", which leaves '
        "them out; they are then summed out.",
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
    frames = [frame for link in reversed(chain) for frame in reversed(traceback.extract_tb(link.__traceback__))]
    frames = [frame for frame in frames if not frame.filename.startswith((*_LIBRARY, "<"))]
    own = [frame for frame in frames if not _INSTALLED & set(Path(frame.filename).parts)]
    for frame in own or frames:
        code = (frame.line or linecache.getline(frame.filename, frame.lineno or 0)).strip()
        return f"{Path(frame.filename).name}:{frame.lineno}: `{code}`"
    return None


def reason(error: BaseException) -> str:
    """The message of an exception without the tables that Pyro appends to it."""
    text = str(error).split("Trace Shapes:")[0].strip()
    text = re.sub(r"\s+", " ", text)
    text = text if len(text) <= 400 else text[:400] + "..."
    return text if text.endswith((".", "!", "?")) else text + "."


def remedy(text: str) -> str:
    """What to do about a message of Pyro's or torch's."""
    return next(
        (fix for pattern, fix in _REMEDIES if pattern.search(text)), "mend that line and build the problem again."
    )


@contextmanager
def explained(what: str, kind: type[ProblemError | GuideError | ArgumentError] = ProblemError) -> Iterator[None]:
    """Translates whatever goes wrong inside a program named ``what`` to an error with its line and a remedy."""
    try:
        yield
    except PyrolvmError:
        raise
    except Exception as error:
        line, text = model_line(error), reason(error)
        where = f" at {line}" if line else ""
        raise kind(
            f"{what} fails{where}: {text} Fix: {_guide_remedy(text) if kind is GuideError else remedy(text)}"
        ) from error


def _guide_remedy(text: str) -> str:
    if "Shape mismatch inside plate" in text:
        return (
            "hold local parameters for all rows, pyro.param(name, torch.zeros(n), event_dim=0), inside pyro.plate of the model's "
            'name, which then takes the rows of a minibatch; or use guide="mean_field". A guide over all latents at once cannot '
            "take minibatches of local ones."
        )
    return remedy(text)
