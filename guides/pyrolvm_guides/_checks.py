"""Checks of options and calls that every family shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from pyrolvm import ArgumentError, GuideError
from pyrolvm.family import require_memory
from pyrolvm_guides._layout import Latent, Layout, argument_shapes

__all__ = [
    "at_least",
    "choice",
    "degrees",
    "hidden_sizes",
    "positive",
    "refuse_other_sizes",
    "refuse_subsampling",
    "require_room",
]

MOST_DEGREES = 30
"""Student t noise of more degrees of freedom is normal for most purposes."""

COPIES = 7.0
"""Of the weights of masked networks while they are trained: values, masks, products, gradients of both, and two moments."""

_REMEDY = 'Fix: guide="mean_field" or "amortized" work with minibatches; or fit all rows at once.'


def positive(name: str, value: float) -> float:
    """Returns ``value`` if it is a finite number above zero.

    Raises:
        ArgumentError: otherwise.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ArgumentError(
            f"{name} must be a positive finite number, got {value!r}. Fix: pass for example {name}=0.1."
        )
    return float(value)


def at_least(name: str, value: int, minimum: int = 1) -> int:
    """Returns ``value`` if it is an integer of at least ``minimum``.

    Raises:
        ArgumentError: otherwise.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ArgumentError(
            f"{name} must be an integer of at least {minimum}, got {value!r}. Fix: pass for example {name}={minimum}."
        )
    return value


def degrees(tails: int | None) -> int | None:
    """Returns the degrees of freedom of Student t noise, or ``None`` for normal noise.

    Raises:
        ArgumentError: if they are not whole, or out of range.
    """
    if tails is not None and (at_least("tails", tails) > MOST_DEGREES):
        raise ArgumentError(
            f"tails must be at most {MOST_DEGREES} degrees of freedom, got {tails}. Fix: leave it out for normal noise."
        )
    return tails


def choice(name: str, value: str, options: Sequence[str]) -> str:
    """Returns ``value`` if it is one of ``options``.

    Raises:
        ArgumentError: otherwise.
    """
    if value not in options:
        listing = ", ".join(repr(option) for option in options)
        raise ArgumentError(f"{name} must be one of {listing}, got {value!r}. Fix: pass {name}={options[0]!r}.")
    return value


def hidden_sizes(name: str, value: Sequence[int]) -> tuple[int, ...]:
    """Returns the layer sizes as a tuple of positive integers.

    Raises:
        ArgumentError: if there is none, or one is not a positive integer.
    """
    sizes = tuple(value) if isinstance(value, list | tuple) else ()
    if not sizes or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in sizes):
        raise ArgumentError(
            f"{name} must be positive layer sizes, got {value!r}. Fix: pass for example {name}=(64, 64)."
        )
    return sizes


def refuse_subsampling(family: str, layout: Layout) -> None:
    """Raises a :class:`GuideError` if a latent site lies in a plate that the model subsamples."""
    for latent in layout.latents:
        for plate in (layout.plates[name] for name in latent.plates):
            if plate.subsample_size != plate.size:
                _refuse(family, latent, f"plate {plate.name!r} shows {plate.subsample_size} of its {plate.size} rows")


def refuse_other_sizes(family: str, layout: Layout, sizes: Mapping[str, int], args: Any, kwargs: Any) -> None:
    """Raises a :class:`GuideError` if a call brings other rows of local latent sites than the guide was built for.

    Args:
        family: the guide's name.
        layout: the layout it was built with.
        sizes: how many rows every opened plate shows in this call.
        args: positional arguments of the call.
        kwargs: keyword arguments of the call.
    """
    now = argument_shapes(args, kwargs)
    for latent in layout.latents:
        for plate in latent.plates:
            size = layout.plates[plate].size
            if sizes[plate] != size:
                _refuse(family, latent, f"plate {plate!r} now shows {sizes[plate]} of its {size} rows")
            for key, before in layout.rows_of(plate).items():
                after = now.get(key, (before,))
                if not after or after[0] != before:
                    shown = f"has shape {after}" if after else "is a scalar"
                    _refuse(
                        family, latent, f"argument {key!r} {shown}, expected {before} rows, one for each of {plate!r}"
                    )


def _refuse(family: str, latent: Latent, why: str) -> None:
    raise GuideError(
        f"guide {family!r} holds site {latent.name!r} with all its values at once, shape {latent.shape}, but {why}. "
        f"{_REMEDY}"
    )


def require_room(family: str, dim: int, hidden: Sequence[int], outputs: int, networks: int, itemsize: int) -> None:
    """Refuses networks over so many unknowns that this machine has no room to train them.

    Args:
        family: the guide's name.
        dim: how many unknowns a network reads and writes of.
        hidden: units of its layers.
        outputs: what it writes of each unknown.
        networks: how many of them there are.
        itemsize: bytes of a number.

    Raises:
        ArgumentError: if more memory is needed than is free.
    """
    weights = networks * sum(one * other for one, other in pairwise((dim, *hidden, dim * outputs)))
    require_memory(
        f"{family} over {dim:,} unknowns has {weights:,} weights, which take, with what trains them",
        COPIES * weights * itemsize,
        'use guide="structured", "low_rank" or "mean_field", or fewer hidden units.',
    )
