"""Every transform of Pyro and torch, and those of every constraint: values, log determinants and gradients agree."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import biject_to, transform_to

from tests.capture.agreement import agree
from tests.capture.transforms import TRANSFORMS, results, transforms, turn


def test_every_transform_has_a_case() -> None:
    absent = [name for name, kind in transforms().items() if kind not in TRANSFORMS]
    assert not absent, f"no case for {', '.join(absent)}"
    assert set(TRANSFORMS) == set(transforms().values())


RARE = ("BlockAutoregressive", "ComposeTransformModule", "CorrLCholeskyTransform", "MatrixExponential", "Sylvester")
"""Seldom used, and made of operations that the others have too: among the slow tests."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in RARE or number % 2 else [])
        for number, name in enumerate(transforms())
    ],
)
def test_engines_agree_about_a_transform(name: str) -> None:
    kind = transforms()[name]
    if TRANSFORMS[kind].limit:
        with pytest.raises(Exception, match=TRANSFORMS[kind].limit):
            turn(kind)
    else:
        assert turn(kind).size > 0


CONSTRAINTS: dict[str, Any] = {
    "real": constraints.real,
    "real_vector": constraints.real_vector,
    "positive": constraints.positive,
    "nonnegative": constraints.nonnegative,
    "greater_than": constraints.greater_than(1.5),
    "greater_than_eq": constraints.greater_than_eq(-0.5),
    "less_than": constraints.less_than(0.5),
    "unit_interval": constraints.unit_interval,
    "interval": constraints.interval(-1.0, 2.0),
    "half_open_interval": constraints.half_open_interval(-1.0, 2.0),
    "simplex": constraints.simplex,
    "ordered_vector": constraints.ordered_vector,
    "positive_ordered_vector": constraints.positive_ordered_vector,
    "softplus_positive": constraints.softplus_positive,
    "corr_cholesky": constraints.corr_cholesky,
    "corr_matrix": constraints.corr_matrix,
    "sphere": constraints.sphere,
    "lower_cholesky": constraints.lower_cholesky,
    "softplus_lower_cholesky": constraints.softplus_lower_cholesky,
    "unit_lower_cholesky": constraints.unit_lower_cholesky,
    "positive_definite": constraints.positive_definite,
    "positive_semidefinite": constraints.positive_semidefinite,
    "independent": constraints.independent(constraints.positive, 1),
    "cat": constraints.cat([constraints.positive, constraints.unit_interval], dim=-1, lengths=[1, 2]),
    "stack": constraints.stack([constraints.positive, constraints.unit_interval], dim=0),
}
MATRICES = {
    "lower_cholesky",
    "softplus_lower_cholesky",
    "unit_lower_cholesky",
    "positive_definite",
    "positive_semidefinite",
}
REGISTRIES = {"biject_to": biject_to, "transform_to": transform_to}
VECTOR, MATRIX = [[0.3, -1.2, 0.7], [0.1, 0.4, -0.6]], [[1.3, 0.2, -0.4], [0.2, 1.1, 0.3], [-0.4, 0.3, 0.9]]


def _registered(registry: Any) -> set[type]:
    return set(registry._registry)


@pytest.mark.parametrize("registry", REGISTRIES)
def test_every_constraint_with_a_transform_is_tested(registry: str) -> None:
    tested = {type(constraint) for constraint in CONSTRAINTS.values()}
    # `_IndependentConstraint` is what `constraints.independent` makes; the rest must be met as they are.
    assert _registered(REGISTRIES[registry]) <= tested | {k for t in tested for k in t.__mro__}


def _registers(registry: str, constraint: Any) -> bool:
    return any(kind in _registered(REGISTRIES[registry]) for kind in type(constraint).__mro__)


def _both_give_it(constraint: Any) -> bool:
    """Whether the registries give one transform, which then is tried as the first one's, with its density and its inverse."""
    return all(_registers(one, constraint) for one in REGISTRIES) and biject_to(constraint) == transform_to(constraint)


PAIRS = [
    (name, registry)
    for name, constraint in CONSTRAINTS.items()
    for registry in REGISTRIES
    if registry == "biject_to" or not _both_give_it(constraint)
]


@pytest.mark.parametrize(
    ("name", "registry"),
    [pytest.param(*pair, marks=[pytest.mark.slow] if number % 2 else []) for number, pair in enumerate(PAIRS)],
)
def test_engines_agree_about_the_transform_of_a_constraint(name: str, registry: str) -> None:
    constraint = CONSTRAINTS[name]
    if not _registers(registry, constraint):
        with pytest.raises(NotImplementedError):
            REGISTRIES[registry](constraint)
        return
    transform = REGISTRIES[registry](constraint)
    x = torch.tensor(MATRIX if name in MATRICES else VECTOR, dtype=torch.float64)
    density = registry == "biject_to"

    def run(x: Tensor) -> list[Tensor]:
        return results(transform, x, density=density, inverse=density)

    assert agree(run, [x]).inputs == 1
