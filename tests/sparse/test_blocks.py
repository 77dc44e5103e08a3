"""Which unknowns are found to be independent given the rest."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import sparse_models as models
import torch

import pyrolvm as lvm
from pyrolvm._methods.sparse.blocks import Blocks, find_blocks, moved_elsewhere
from pyrolvm._methods.sparse.split import Split
from pyrolvm._program.density import Joint


def found(problem: lvm.Problem, short: bool = False) -> tuple[Blocks, Split]:
    """Blocks and the density in them."""
    joint = Joint(problem)

    def parts(point: np.ndarray) -> dict[str, np.ndarray]:
        with torch.no_grad():
            return {name: part.numpy() for name, part in joint.elements(torch.as_tensor(point)).items()}

    with problem.session(seed=0):
        blocks = find_blocks(problem, parts, short=short)
        return blocks, Split.of(joint, blocks)


@pytest.mark.parametrize(
    ("make", "layers", "shared", "short"),
    [
        (models.few_areas, [(("s",), 9, 1), (("a",), 3, 1)], 4, True),
        (models.arms, [(("g",), 12, 1), (("t",), 1, 3)], 3, True),
        (models.arms, [(("g",), 12, 1)], 6, False),
        (models.normals, [(("theta",), 40, 1)], 1, True),
        (models.normals, [(("theta",), 40, 1)], 1, False),
        (models.counts, [(("effect",), 60, 1)], 2, False),
        (models.nested, [(("s",), 40, 1), (("a",), 10, 1)], 1, False),
        (models.in_regions, [(("s",), 72, 1), (("a",), 24, 1), (("r",), 8, 1)], 1, False),
        (models.crossed, [(("able",), 30, 1)], 9, False),
        (models.slopes, [(("line",), 25, 2)], 5, False),
        (models.walk, [((), 0, 0)], 30, False),
        (models.regression, [((), 0, 0)], 5, False),
    ],
)
def test_blocks_are_those_of_the_program(make, layers, shared, short) -> None:
    blocks, split = found(make(), short)
    assert [(layer.sites, layer.count, layer.width) for layer in blocks.layers] == layers
    assert len(blocks.layers[-1].shared) == shared
    places = np.concatenate([layer.places.reshape(-1) for layer in blocks.layers] + [blocks.layers[-1].shared])
    assert sorted(places[places < blocks.size]) == list(range(blocks.size))
    point = np.random.default_rng(0).normal(size=blocks.size) * 0.3
    assert moved_elsewhere(blocks, lambda there: split.at(there[None]).totals[0], point, 1) == 0.0


def test_rows_in_any_order_and_sites_that_share_them_are_one_block() -> None:
    order = torch.randperm(24, generator=torch.Generator().manual_seed(3)) % 12
    y = torch.linspace(-1, 1, 24, dtype=torch.float64)

    def model(group: torch.Tensor, y: torch.Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("groups", 12):
            level = pyro.sample("level", dist.Normal(mean, 1.0))
            scale = pyro.sample("scale", dist.LogNormal(0.0, 0.5))
        with pyro.plate("rows", 24):
            pyro.sample("y", dist.Normal(level[group], scale[group]), obs=y)

    blocks, _ = found(lvm.Problem(model, order, y))
    assert blocks.sites == ("level", "scale")
    assert blocks.places.tolist() == [[1 + k, 13 + k] for k in range(12)]
    assert blocks.parts["density/y"].tolist() == order.tolist()


def test_a_wrong_pattern_shows_when_others_are_moved() -> None:
    problem = models.walk()
    _, split = found(problem)
    places = np.arange(30).reshape(30, 1)
    parts = {name: np.arange(30) if block.size == 30 else np.array(30) for name, block in split.blocks.parts.items()}
    wrong = Blocks(30, np.zeros(0, dtype=np.int64), places, parts, ("x",), np.zeros(30, dtype=np.int64))
    with problem.session(seed=0):
        split = Split.of(Joint(problem), wrong)
        point = np.random.default_rng(0).normal(size=30)
        assert moved_elsewhere(wrong, lambda there: split.at(there[None]).totals[0], point, 1) > 1e-3


def test_a_part_that_depends_on_one_row_here_and_on_another_there_is_of_several() -> None:
    y = torch.zeros(9, dtype=torch.float64)

    def model(y: torch.Tensor) -> None:
        switch = pyro.sample("switch", dist.Normal(0.0, 1.0))
        with pyro.plate("groups", 9):
            level = pyro.sample("level", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", 9):
            pyro.sample("y", dist.Normal(torch.where(switch > 0, level, level.flip(0)), 1.0), obs=y)

    random = np.random.default_rng([0, 71])
    assert np.prod([random.normal(size=10)[0] for _ in range(2)]) < 0, "the two points are on either side of the switch"
    blocks, _ = found(lvm.Problem(model, y))
    assert blocks.count == 0
