r"""Bijections between the real line and the supports of latents, with those that torch and Pyro leave out.

Torch and Pyro map vectors onto positive definite matrices, their Cholesky factors and spheres by transforms that are not one to one,
which is enough to initialise a parameter and no density can be had through. Here are bijections: the entries of a triangle, and the
stereographic projection, which leaves out one point of a sphere. A mixture of one family has the support of its components.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from pyro.distributions import constraints
from pyro.distributions.transforms import CholeskyTransform
from torch import Tensor
from torch.distributions import ComposeTransform, IndependentTransform, Transform, biject_to, transform_to
from torch.distributions.constraints import Constraint, MixtureSameFamilyConstraint

from pyrolvm._compat.distributions import Bijective, registered

__all__ = [
    "Image", "Stereographic", "Triangle", "bijection", "bijections_known", "of_components", "one_interval",
    "shape_before", "shown",
]  # fmt: skip

Diagonal = Literal["positive", "one", "free"]


class Triangle(Bijective):
    """Vectors as lower triangular matrices: first the diagonal, where it has numbers of its own, then the rows below it.

    Args:
        diagonal: ``"positive"``, by its logarithms; ``"one"``; or ``"free"``.
    """

    codomain: Any = constraints.lower_cholesky

    def __init__(self, diagonal: Diagonal = "positive") -> None:
        super().__init__()
        self.diagonal = diagonal
        if diagonal != "positive":
            self.codomain = constraints.unit_lower_cholesky if diagonal == "one" else constraints.lower_triangular

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Triangle) and other.diagonal == self.diagonal

    def _size(self, numbers: int) -> int:
        root = (math.isqrt(8 * numbers + 1) - 1) // 2
        return root + 1 if self.diagonal == "one" else root

    def forward(self, x: Tensor) -> Tensor:
        """The matrix."""
        n = self._size(x.shape[-1])
        own = 0 if self.diagonal == "one" else n
        below = x[..., own:]
        ends = {
            "positive": lambda: x[..., :n].exp(),
            "one": lambda: x.new_ones((*x.shape[:-1], n)),
            "free": lambda: x[..., :n],
        }
        parts = torch.cat([ends[self.diagonal](), below, x.new_zeros((*x.shape[:-1], 1))], -1)
        place = torch.full((n, n), n + below.shape[-1], device=x.device)
        place[range(n), range(n)] = torch.arange(n, device=x.device)
        rows, columns = torch.tril_indices(n, n, -1, device=x.device)
        place[rows, columns] = n + torch.arange(len(rows), device=x.device)
        return parts[..., place.reshape(-1)].reshape(*x.shape[:-1], n, n)

    def backward(self, y: Tensor) -> Tensor:
        """The vector."""
        rows, columns = torch.tril_indices(y.shape[-1], y.shape[-1], -1, device=y.device)
        below = y[..., rows, columns]
        if self.diagonal == "one":
            return below
        ends = y.diagonal(dim1=-2, dim2=-1)
        return torch.cat([ends.log() if self.diagonal == "positive" else ends, below], -1)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """The sum of the logarithms that the diagonal has, shape ``x.shape[:-1]``."""
        return x[..., : y.shape[-1]].sum(-1) if self.diagonal == "positive" else x.new_zeros(x.shape[:-1])

    def forward_shape(self, shape: Sequence[int]) -> torch.Size:
        """Of the matrix."""
        n = self._size(shape[-1])
        return torch.Size((*shape[:-1], n, n))

    def inverse_shape(self, shape: Sequence[int]) -> torch.Size:
        """Of the vector."""
        n = shape[-1]
        return torch.Size((*shape[:-2], n * (n - 1) // 2 + (0 if self.diagonal == "one" else n)))


class Stereographic(Bijective):
    r"""The sphere in d dimensions by d - 1 numbers: projected from the point opposite to :math:`(1, \dots, 1) / \sqrt d`.

    Its density is that per area of the sphere. What lies around the point that it is projected from is far out in all directions: a
    posterior that has mass there, such as a uniform one, has the tails of a Cauchy.
    """

    codomain = constraints.sphere

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stereographic)

    def forward(self, x: Tensor) -> Tensor:
        """The direction."""
        square = x.square().sum(-1, keepdim=True)
        return _turned(torch.cat([2 * x, 1 - square], -1) / (1 + square))

    def backward(self, y: Tensor) -> Tensor:
        """Its numbers."""
        turned = _turned(y)
        return turned[..., :-1] / (1 + turned[..., -1:])

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Of the area, shape ``x.shape[:-1]``."""
        return x.shape[-1] * (math.log(2) - torch.log1p(x.square().sum(-1)))

    def forward_shape(self, shape: Sequence[int]) -> torch.Size:
        """Of the direction."""
        return torch.Size((*shape[:-1], shape[-1] + 1))

    def inverse_shape(self, shape: Sequence[int]) -> torch.Size:
        """Of its numbers."""
        return torch.Size((*shape[:-1], shape[-1] - 1))


def _turned(y: Tensor) -> Tensor:
    """The reflection that takes the last axis to the diagonal of all axes, and back."""
    d = y.shape[-1]
    if d == 1:
        return y
    last = torch.nn.functional.one_hot(torch.tensor(d - 1, device=y.device), d).to(y)
    apart = last - 1 / math.sqrt(d)
    return y - (2 / apart.square().sum()) * (y * apart).sum(-1, keepdim=True) * apart


class Image(Constraint):
    """What transforms make of a support.

    Args:
        support: of the values that are transformed.
        transforms: bijections, in order.
    """

    def __init__(self, support: Constraint, transforms: Sequence[Transform]) -> None:
        self.support, self.transform = support, ComposeTransform(list(transforms))
        self.event_dim = self.transform.codomain.event_dim + max(support.event_dim - self.transform.domain.event_dim, 0)
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        """Whether values come from within."""
        inside: Tensor = self.support.check(self.transform.inv(value))
        return inside

    def __repr__(self) -> str:
        return f"{self.support} by {', '.join(type(part).__name__ for part in self.transform.parts)}"


def _of_image(support: Image) -> Transform:
    return ComposeTransform([bijection(support.support), *support.transform.parts])


def _of_mixture(support: MixtureSameFamilyConstraint) -> Transform:
    return bijection(of_components(support))


_MISSING: tuple[tuple[Any, Callable[[Any], Transform]], ...] = (
    (type(constraints.lower_cholesky), lambda _: Triangle()),
    (type(constraints.softplus_lower_cholesky), lambda _: Triangle()),
    (type(constraints.unit_lower_cholesky), lambda _: Triangle("one")),
    (type(constraints.lower_triangular), lambda _: Triangle("free")),
    (type(constraints.positive_definite), lambda _: ComposeTransform([Triangle(), CholeskyTransform().inv])),
    (type(constraints.positive_semidefinite), lambda _: ComposeTransform([Triangle(), CholeskyTransform().inv])),
    (type(constraints.sphere), lambda _: Stereographic()),
    (MixtureSameFamilyConstraint, _of_mixture),
    (Image, _of_image),
)
"""What is added to ``biject_to``, by the type of the constraint."""


def bijection(support: Constraint) -> Transform:
    """``biject_to(support)``, for the supports above too.

    Raises:
        NotImplementedError: if no bijection is known.
    """
    if isinstance(support, constraints.independent):
        return IndependentTransform(bijection(support.base_constraint), support.reinterpreted_batch_ndims)
    try:
        return biject_to(support)
    except NotImplementedError:
        for kind, factory in _MISSING:
            if type(support) is kind:
                return factory(support)
        raise


def shape_before(transform: Transform, shape: Sequence[int]) -> torch.Size:
    """The shape of what a bijection takes to a given shape; the same where it acts on each element.

    ``transform.inverse_shape(shape)`` is that too, but torch imports SymPy, half a second, to broadcast shapes.
    """
    each = transform.domain.event_dim == transform.codomain.event_dim == 0
    return torch.Size(shape if each else transform.inverse_shape(torch.Size(shape)))


@contextmanager
def bijections_known() -> Iterator[None]:
    """Lets torch know them inside, for guides of Pyro's own; what it knows, or others have registered, stays as it is."""
    with registered(biject_to, _MISSING), registered(transform_to, _MISSING):
        yield


def of_components(support: object) -> Any:
    """A support in which that of a mixture of one family is that of its components, of which the first stands for all."""
    if isinstance(support, constraints.independent):
        base = of_components(support.base_constraint)
        changed = base is not support.base_constraint
        return constraints.independent(base, support.reinterpreted_batch_ndims) if changed else support
    if not isinstance(support, MixtureSameFamilyConstraint):
        return support
    return _first(of_components(support.base_constraint), support.event_dim)


def _first(support: Constraint, event_dim: int) -> Constraint:
    """A support without the components' dimension, which lies before those of an event."""
    if isinstance(support, constraints.independent):
        return constraints.independent(_first(support.base_constraint, event_dim), support.reinterpreted_batch_ndims)
    ends = [getattr(support, name) for name in ("lower_bound", "upper_bound") if hasattr(support, name)]
    if not any(isinstance(end, Tensor) and end.dim() > event_dim for end in ends):
        return support
    return type(support)(
        *(e.select(-1 - event_dim, 0) if isinstance(e, Tensor) and e.dim() > event_dim else e for e in ends)
    )


def shown(support: Constraint) -> str:
    """A support's name: torch takes it that the first letter is an underscore, and leaves it out."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    kind = type(support)
    return kind.__name__ if kind.__repr__ is Constraint.__repr__ and not kind.__name__.startswith("_") else str(support)


def one_interval(support: object) -> bool:
    """Whether the components of a mixture, where the support is of one, all have the same."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if not isinstance(support, MixtureSameFamilyConstraint):
        return True
    event_dim, base = support.event_dim, support.base_constraint
    while isinstance(base, constraints.independent):
        base = base.base_constraint
    ends = [getattr(base, name, None) for name in ("lower_bound", "upper_bound")]
    return all(
        bool((end == end.select(-1 - event_dim, 0).unsqueeze(-1 - event_dim)).all())
        for end in ends
        if isinstance(end, Tensor) and end.dim() > event_dim
    )
