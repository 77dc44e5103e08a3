"""Which symmetries are found in a program, and that programs which only look alike have none."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrolvm as lvm
from pyrolvm._program.symmetry import SYMMETRY, find_symmetries, read_symmetries

FOUND = {
    "pair": [2.0],
    "rates": [24.0],
    "by_weight": [2.0],
    "in_a_loop": [6.0],
    "states": [6.0],
    "factors": [math.inf],
    "network": [48.0],
    "wave": [2.0],
    "square": [2.0],
    "groups": [2.0, 2.0],
    "some_alike": [2.0],
}
NONE = ["ordered", "known_apart", "schools", "regression"]


@pytest.mark.parametrize("name", FOUND)
def test_copies_are_counted(models, name):
    found = find_symmetries(lvm.Problem(getattr(models, name), models.DATA))
    assert [block.copies for block in found.blocks] == FOUND[name], found


@pytest.mark.parametrize("name", NONE)
def test_programs_that_only_look_alike_have_no_symmetry(models, name):
    found = find_symmetries(lvm.Problem(getattr(models, name), models.DATA))
    assert found.blocks == () and not found.reason


def test_single_precision_data_do_not_hide_a_small_difference_in_priors(models):
    assert find_symmetries(lvm.Problem(models.known_apart, models.DATA.float())).blocks == ()
    assert len(find_symmetries(lvm.Problem(models.pair, models.DATA.float())).blocks) == 1


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("rates", "components 0, 1, 2 and 3 of `share` and `rate` are exchangeable"),
        ("some_alike", "components 0 and 1 of `middle` are exchangeable"),
        ("by_weight", "`left` and `right` can change places while `share` is mirrored"),
        ("in_a_loop", "`middle_0`, `middle_1` and `middle_2` are exchangeable"),
        ("factors", "components 0 and 1 of `loading` and `score` can be rotated into each other"),
    ],
)
def test_the_words_name_sites_and_components(models, name, words):
    (block,) = find_symmetries(lvm.Problem(getattr(models, name), models.DATA)).blocks
    assert block.text == words


@pytest.mark.parametrize("name", FOUND)
def test_every_action_found_keeps_the_density_at_new_points(models, name):
    problem = lvm.Problem(getattr(models, name), models.DATA)
    found = find_symmetries(problem)
    from pyrolvm._program.density import Joint

    with problem.session(seed=3), torch.no_grad():
        joint = Joint(problem)
        values = joint.constrain(0.9 * torch.randn(problem.unconstrained_size, dtype=torch.float64))
        flat = found.layout.join({site: value.numpy() for site, value in values.items()}, lead=0)
        here = float(joint.log_p(values))
        for block in found.blocks:
            for action in block.generators:
                image = {s: torch.as_tensor(v) for s, v in found.layout.split(action(flat)).items()}
                assert float(joint.log_p(image)) == pytest.approx(here, rel=1e-9)
                assert not np.allclose(action(flat), flat)


def test_a_record_says_after_reading_what_was_written(models):
    for name in ("states", "wave", "factors"):
        found = find_symmetries(lvm.Problem(getattr(models, name), models.DATA))
        again, more = read_symmetries({SYMMETRY: found.dumps(complete=True)})
        assert more == {"complete": True}
        assert again.layout == found.layout
        for ours, theirs in zip(found.blocks, again.blocks, strict=True):
            assert (ours.text, ours.copies) == (theirs.text, theirs.copies)
            assert [a.key for a in ours.generators] == [b.key for b in theirs.generators]
            assert np.array_equal(ours.moved, theirs.moved)


def test_models_with_parameters_and_large_ones_are_left_alone(models):
    import pyro
    import pyro.distributions as dist

    def learned(y):
        scale = pyro.param("scale", lambda: torch.tensor(1.0))
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(x**2, scale.abs() + 0.1), obs=y)

    def large(y):
        x = pyro.sample("x", dist.Normal(torch.zeros(2_001), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(x.sum(), 1.0), obs=y)

    for model in (learned, large):
        found = find_symmetries(lvm.Problem(model, torch.tensor(1.0)))
        assert found.blocks == () and found.reason


def test_components_that_rounding_hides_are_not_taken_for_exchangeable():
    """Far from data a mixture's density shows its widest component alone; the numbers of the others could be anything."""
    data = torch.tensor([9.2, 9.7, 10.2, 16.1, 19.3, 19.9, 20.4, 22.3, 22.9, 23.5, 26.9, 32.1, 32.8, 34.3] * 5)

    def clusters(y):
        share = pyro.sample("share", dist.Dirichlet(torch.ones(3)))
        with pyro.plate("group", 3):
            centre = pyro.sample("centre", dist.Normal(20.0, 10.0))
            width = pyro.sample("width", dist.LogNormal(0.0, 0.7))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.MixtureSameFamily(dist.Categorical(share), dist.Normal(centre, width)), obs=y)

    (block,) = find_symmetries(lvm.Problem(clusters, data)).blocks
    assert block.text == "components 0, 1 and 2 of `share`, `centre` and `width` are exchangeable"
    assert block.copies == 6.0


def test_what_nothing_depends_on_is_told_by_its_prior_alone():
    def free(y):
        with pyro.plate("coin", 3):
            pyro.sample("x", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(pyro.sample("m", dist.Normal(1.0, 1.0)), 1.0), obs=y)

    (block,) = find_symmetries(lvm.Problem(free, torch.tensor(0.5))).blocks
    assert "`x`" in block.text and "`m`" not in block.text


@pytest.mark.parametrize("seed", range(16))
def test_mixtures_anywhere_have_the_exchange_of_whole_components_alone(seed):
    random = np.random.default_rng(seed)
    groups, place, scale = (
        int(random.integers(2, 6)),
        float(random.choice([0, 20, -300, 5000])),
        float(random.choice([1, 10, 100])),
    )
    rows = torch.tensor(place + scale * random.normal(size=int(random.integers(20, 200))))
    enumerated, diffuse = random.random() < 0.5, random.random() < 0.3

    def mixture(y):
        share = pyro.sample("share", dist.Dirichlet(torch.ones(groups)))
        with pyro.plate("group", groups):
            centre = pyro.sample("centre", dist.Normal(place, 50 * scale if diffuse else 2 * scale))
            width = pyro.sample("width", dist.HalfCauchy(scale))
        with pyro.plate("row", len(y)):
            if enumerated:
                member = pyro.sample("member", dist.Categorical(share))
                pyro.sample("y", dist.Normal(centre[member], width[member]), obs=y)
            else:
                pyro.sample("y", dist.MixtureSameFamily(dist.Categorical(share), dist.Normal(centre, width)), obs=y)

    (block,) = find_symmetries(lvm.Problem(mixture, rows)).blocks
    assert block.copies == math.factorial(groups)
    assert "`share`, `centre` and `width` are exchangeable" in block.text and ";" not in block.text
