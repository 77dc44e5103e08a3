"""What a program is made of: sample sites, plates and parameters, with their shapes on the full data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyro.distributions as dist
from torch.distributions import constraints

from pyrolvm._base.errors import ProblemError
from pyrolvm._compat.pyro import is_marked_deterministic, is_subsample
from pyrolvm._program.peeling import innermost, own_masks

__all__ = ["Parameter", "Plate", "Site", "is_deterministic", "is_observation", "is_random", "name_dims"]

_UNBOUNDED = type(constraints.nonnegative_integer)

_OF_A_TOTAL = ("Multinomial", "DirichletMultinomial")
_STRUCTURES = {"SpanningTree": "tree", "OneOneMatching": "matching", "OneTwoMatching": "matching"}

Kind = Literal["latent", "observed", "deterministic", "factor", "predicted"]


@dataclass(frozen=True)
class Plate:
    """A plate: ``size`` conditionally independent rows along batch dimension ``dim`` (negative; ``None``: a loop).

    ``subsampled`` says that the model itself asks for a part of the rows: ``rows`` of them, otherwise all. ``open`` says that the
    model declares it without a size, which then follows from the sites inside.
    """

    name: str
    size: int
    dim: int | None
    subsampled: bool = False
    rows: int = 0
    open: bool = False


@dataclass(frozen=True)
class Parameter:
    """A learnable parameter of a model: a value without a prior."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Site:
    """One sample, deterministic or factor statement, with its shape on the full data.

    Attributes:
        name: the site's name.
        kind: latent, observed, deterministic or factor; or predicted: a latent that no observation depends on and that cannot be
            summed out, which is drawn after inference.
        shape: batch shape followed by event shape.
        event_dim: the number of rightmost dimensions that belong to one event.
        support: the constraint that values satisfy; ``None`` for deterministic sites and factors.
        plates: the plates around it, outermost first.
        is_discrete: whether it is a latent with a discrete support.
        enumerable: whether its support is finite, so that it can be summed out.
        distribution: the name of its distribution.
        unconstrained_shape: the shape on the real line; ``None`` unless latent and continuous.
    """

    name: str
    kind: Kind
    shape: tuple[int, ...]
    event_dim: int
    support: Any
    plates: tuple[str, ...]
    is_discrete: bool
    enumerable: bool
    distribution: str
    unconstrained_shape: tuple[int, ...] | None

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The shape without that of an event."""
        return self.shape[: len(self.shape) - self.event_dim]

    @property
    def numel(self) -> int:
        """The number of values on the full data."""
        return math.prod(self.shape)

    @property
    def unconstrained_numel(self) -> int:
        """The number of unknowns on the real line; 0 unless latent and continuous."""
        return math.prod(self.unconstrained_shape) if self.unconstrained_shape is not None else 0

    @property
    def why_not_listed(self) -> str:
        """What keeps the values of a discrete latent that is not enumerable from being summed over."""
        return self._unlisted[0]

    @property
    def instead(self) -> str:
        """What can be done about a discrete latent that is not enumerable."""
        return self._unlisted[1]

    @property
    def _unlisted(self) -> tuple[str, str]:
        base = getattr(self.support, "base_constraint", self.support)
        if self.distribution in _OF_A_TOTAL:
            return (
                "counts of a total, whose ways Pyro does not list",
                "draw the members instead, each a dist.Categorical in a plate, or leave the counts out where what follows from them "
                "can be written by their probabilities (with Dirichlet ones they are a DirichletMultinomial)",
            )
        if self.distribution in _STRUCTURES:
            return (
                f"a {_STRUCTURES[self.distribution]}, of which there are too many to list and none lies between two of them",
                "observe it, sum over it in the model by pyro.factor, as log_partition_function of the distribution does, or relax it "
                "to continuous unknowns",
            )
        if base is not self.support:
            return (
                "discrete in dimensions declared by .to_event, whose values Pyro does not list (in a plate it would)",
                "put these dimensions into a plate",
            )
        if isinstance(base, _UNBOUNDED):
            return (
                "discrete with infinitely many values",
                "marginalise it in the model (Poisson with a Gamma rate is GammaPoisson), or truncate it: its values from 0 to a "
                "largest one, as a dist.Categorical whose logits are their log probabilities",
            )
        return (
            "discrete with values that Pyro does not list",
            "give all members of its plate the same values, or one dist.Categorical with the probabilities of what it can be",
        )

    def dim_names(self, plates: Mapping[str, Plate], given: Sequence[str] | None) -> list[str]:
        """Names for all dimensions of ``shape``: plates for the batch part, ``given`` or ``{site}_dim_{i}`` elsewhere.

        Raises:
            ProblemError: if ``given`` names neither all dimensions nor the event dimensions.
        """
        return name_dims(self.name, self.shape, self.event_dim, [plates[p] for p in self.plates if p in plates], given)


def name_dims(
    name: str, shape: Sequence[int], event_dim: int, plates: Sequence[Plate], given: Sequence[str] | None
) -> list[str]:
    """Names the dimensions of one array; see :meth:`Site.dim_names`."""
    by_axis = {len(shape) - event_dim + plate.dim: plate for plate in plates if plate.dim is not None}
    names = [
        by_axis[i].name if i in by_axis and by_axis[i].size == n else f"{name}_dim_{i}" for i, n in enumerate(shape)
    ]
    if given is None:
        return names
    if len(given) == len(shape):
        return list(given)
    if len(given) == event_dim:
        return names[: len(shape) - event_dim] + list(given)
    raise ProblemError(
        f"dims for {name!r} has {len(given)} names, but the site has shape {tuple(shape)} with {event_dim} event "
        f"dimensions. Fix: give {len(shape)} names, or {event_dim} for the event dimensions alone."
    )


def is_random(node: Mapping[str, object]) -> bool:
    """Whether a trace node is a sample statement proper, not a plate's subsample."""
    return node["type"] == "sample" and not is_subsample(node["fn"])


def is_deterministic(node: Mapping[str, object]) -> bool:
    """Whether a trace node records a deterministic value: what ``pyro.deterministic`` makes, and a site that is reparameterised."""
    if is_marked_deterministic(node):
        return True
    fn = node["fn"]
    masked_out = any(mask is False for mask in own_masks(fn))
    return masked_out and bool(node["is_observed"]) and isinstance(innermost(fn), dist.Delta)


def is_observation(node: Mapping[str, object]) -> bool:
    """Whether a sample site has data: neither a deterministic value nor a factor, which Pyro writes as observed too."""
    return bool(node["is_observed"]) and not is_deterministic(node) and not isinstance(node["fn"], dist.Unit)
