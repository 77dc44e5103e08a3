from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import Distribution, biject_to, constraints

from pyrolvm._compat.distributions import Bijective, gaussian, one_switch, registered


def test_torch_keeps_the_switch_of_a_distribution_in_it_which_is_why_this_is_here():
    kept = dist.Normal(0.0, 1.0, validate_args=True).expand([2])
    with pyro.validation_enabled(False), pytest.raises(ValueError, match="support"):
        kept.log_prob(torch.tensor([float("nan"), 0.0]))


@pytest.mark.parametrize("event_dim", [0, 1])
def test_switched_off_for_all_is_switched_off_for_those_that_asked_themselves(event_dim):
    kept = dist.Normal(torch.zeros(2), torch.ones(2), validate_args=True).expand([2]).to_event(event_dim)
    with one_switch(), pyro.validation_enabled(False):
        assert torch.isnan(kept.log_prob(torch.full((2,), torch.nan))).all()
        dist.Normal(0.0, torch.tensor(-1.0), validate_args=True)


def test_switched_on_it_checks_what_torch_checks():
    with one_switch(), pyro.validation_enabled(True):
        with pytest.raises(ValueError, match="scale"):
            dist.Normal(0.0, torch.tensor(-1.0))
        with pytest.raises(ValueError, match="support"):
            dist.Normal(0.0, 1.0).log_prob(torch.tensor(torch.nan))
        dist.Normal(0.0, torch.tensor(-1.0), validate_args=False)


def test_torch_is_as_it_was_afterwards():
    before = Distribution.__init__, Distribution._validate_sample
    with one_switch(), one_switch():
        pass
    assert (Distribution.__init__, Distribution._validate_sample) == before


def test_shapes_that_nobody_gives_are_torchs():
    with one_switch():
        for made in (dist.Normal(0, 1), dist.Normal(torch.zeros(2), 1.0), dist.Poisson(torch.tensor(1.0))):
            assert made.event_shape.numel() == 1
            assert made.batch_shape.numel() in (1, 2)


def test_what_a_registry_lacks_is_there_inside_alone_and_the_rest_stays():
    with registered(
        biject_to, [(type(constraints.positive), lambda _: None), (type(constraints.square), lambda _: "own")]
    ):
        assert biject_to(constraints.positive) is not None and biject_to(constraints.square) == "own"
    with pytest.raises(NotImplementedError):
        biject_to(constraints.square)


class Twice(Bijective):
    codomain = constraints.real_vector

    def forward(self, x):
        return 2 * x

    def backward(self, y):
        return y / 2


def test_torch_calls_what_bijections_define_and_remembers_values():
    transform = Twice().with_cache(1)
    x = torch.randn(3)
    y = transform(x)
    assert torch.equal(y, 2 * x) and transform.inv(y) is x
    assert torch.equal(Twice().inv(y), x)


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_a_gaussian_is_that_of_torch(batch):
    loc = torch.randn(*batch, 4).requires_grad_()
    tril = torch.tril(torch.randn(*batch, 4, 4), -1) + torch.eye(4)
    ours, theirs = gaussian(loc, tril), dist.MultivariateNormal(loc, scale_tril=tril)
    assert type(ours) is type(theirs) and vars(ours).keys() == vars(theirs).keys()
    assert ours.batch_shape == theirs.batch_shape and ours.event_shape == theirs.event_shape
    drawn = []
    for one in (ours, theirs):
        torch.manual_seed(0)
        x = one.rsample((5,))
        drawn.append(
            [
                x,
                one.log_prob(x),
                one.entropy(),
                one.variance,
                one.covariance_matrix,
                one.expand((6, *batch)).log_prob(x[0]),
            ]
        )
    assert all(torch.equal(a, b) for a, b in zip(*drawn, strict=True))
    assert torch.distributions.kl_divergence(ours, theirs).abs().max() < 1e-6


def test_a_gaussian_is_checked_where_checks_are_on():
    with pyro.validation_enabled(True), pytest.raises(ValueError, match="scale_tril"):
        gaussian(torch.zeros(2), -torch.eye(2))
    assert gaussian(torch.zeros(2), torch.eye(2).expand(3, 2, 2)).batch_shape == (3,)
