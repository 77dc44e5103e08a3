"""What a guide may have besides being called, and what is known of a family besides its density: data, in place of its name.

A guide is anything that is called as ``guide(*args, **kwargs)`` with the model's arguments and samples its latent sites. All of
:class:`Hooks` is optional. What holds for every guide of a family, such as how many modes it has, is said once by :func:`traits` at the
function that makes it; a fit keeps it in the attributes of its tree, where verdicts and comparisons read it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

__all__ = ["FAMILY", "Hooks", "Traits", "traits", "traits_of", "traits_said"]

_Make = TypeVar("_Make", bound=Callable[..., Any])

_ATTRIBUTE = "__pyrolvm_traits__"

FAMILY = "family_"
"""How the attributes begin in which a result keeps the traits of its guide."""


@dataclass(frozen=True)
class Traits:
    """What is known of a family of guides.

    Attributes:
        one_mode: whether each of its guides has one mode, so that it misses the others of a posterior that has several.
        richer: the name of the guide to try where this one is too poor; empty where its weights judge all rows at once and say
            little about any one of them, as an encoder's do.
    """

    one_mode: bool = False
    richer: str = "flow"

    def attrs(self) -> dict[str, Any]:
        """As attributes of a group."""
        return {f"{FAMILY}one_mode": int(self.one_mode), f"{FAMILY}richer": self.richer}


def traits(*, one_mode: bool = False, richer: str = "flow") -> Callable[[_Make], _Make]:
    """Says what is known of the family that a function makes guides of. The function stays what it was.

    Args:
        one_mode: as in :class:`Traits`.
        richer: as in :class:`Traits`.

    Example:
        >>> @traits(one_mode=True, richer="full_rank")
        ... def my_guide(problem): ...
    """

    def decorate(function: _Make) -> _Make:
        setattr(function, _ATTRIBUTE, Traits(one_mode, richer))
        return function

    return decorate


def traits_of(construct: Callable[..., Any]) -> Traits:
    """What a function that makes guides says of them; the traits of no family in particular where it says nothing."""
    found = getattr(construct, _ATTRIBUTE, None)
    return found if isinstance(found, Traits) else Traits()


def traits_said(attrs: Mapping[Any, Any]) -> Traits:
    """The traits that the attributes of a result's group ``posterior`` keep."""
    plain = Traits()
    return Traits(bool(attrs.get(f"{FAMILY}one_mode", plain.one_mode)), str(attrs.get(f"{FAMILY}richer", plain.richer)))


class Hooks:
    """What a guide has besides being called, each ``None`` or empty where it has not.

    Args:
        guide: the guide.
    """

    def __init__(self, guide: object) -> None:
        self._guide = guide

    @property
    def prepare(self) -> Callable[..., None] | None:
        """``prepare(problem, *, seed)``: called once in the fit's session before the first step, such as to find a frame."""
        return getattr(self._guide, "prepare", None)

    @property
    def solve(self) -> Callable[..., Any] | None:
        """``solve(problem, *, seed)``: an algorithm of its own in place of steps, which returns a :class:`~pyrolvm.family.Solution`."""
        return getattr(self._guide, "solve", None)

    @property
    def finalize(self) -> Callable[..., Callable[..., Any]] | None:
        """``finalize(*args, **kwargs)``: called once after the optimisation, and returns the guide to draw from."""
        return getattr(self._guide, "finalize", None)

    @property
    def weighed(self) -> Callable[..., Any] | None:
        """``weighed(problem, count, *, seed)``: draws with both log densities, faster than by running guide and model."""
        return getattr(self._guide, "weighed", None)

    @property
    def law(self) -> Callable[[], Any] | None:
        """``law()``: the distribution of all unknowns together on the unconstrained scale, in coordinates of :attr:`centring`."""
        return getattr(self._guide, "law", None)

    @property
    def centring(self) -> Callable[[], Mapping[str, Any]] | None:
        """``centring()``: for sites that others scale, how far their coordinates are centred."""
        return getattr(self._guide, "centring", None)

    @property
    def held(self) -> tuple[str, ...]:
        """Names of parameters that the optimisation leaves alone."""
        return tuple(getattr(self._guide, "held", ()))

    @property
    def modes(self) -> int:
        """How many modes of the posterior were found apart before the fit; 0 where nobody looked."""
        return int(getattr(self._guide, "modes", 0))

    @property
    def scores_cheaply(self) -> bool:
        """Whether the density of a value that the guide did not draw costs no more than that of its own draws."""
        return bool(getattr(self._guide, "scores_cheaply", False))

    @property
    def strata(self) -> int:
        """Of how many kinds a guide's draws are where several at once take one kind after the other; 0 where there are none.

        A distribution of such a guide has a method ``in_lane(index, shift)``: the same law for the draw of that number, given a number
        between 0 and 1, uniform, that all draws share. Each draw by itself must have the law, whatever its number.
        """
        return int(getattr(self._guide, "strata", 0))
