from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from pyro.distributions import transforms as T
from torch.distributions import biject_to

import pyrolvm as lvm
from pyrolvm._base.bijections import bijection
from pyrolvm._program.starting import support_of

Y = torch.tensor([0.3, -0.2, 0.8, 0.1])
SUPPORTS = {
    "lower_cholesky": (3, 3), "positive_definite": (3, 3), "unit_lower_cholesky": (3, 3), "lower_triangular": (3, 3), "sphere": (4,),
}  # fmt: skip


def with_latent(make):
    def model(y):
        z = pyro.sample("z", make())
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(z.sum().tanh(), 0.7), obs=y)

    return model


@pytest.mark.parametrize("name", SUPPORTS)
def test_a_bijection_that_torch_leaves_out_is_one_and_states_its_volume(name):
    torch.manual_seed(0)
    support, shape = getattr(constraints, name), SUPPORTS[name]
    transform = bijection(support)
    point = torch.randn(transform.inverse_shape(torch.Size(shape)), dtype=torch.float64)
    value = transform(point)
    assert value.shape == shape and bool(support.check(value).all())
    torch.testing.assert_close(transform.inv(value), point)
    jacobian = torch.autograd.functional.jacobian(transform, point).reshape(*shape, -1)
    rows, columns = torch.tril_indices(3, 3)
    apart = jacobian[rows, columns] if name == "positive_definite" else jacobian.reshape(-1, len(point))
    volume = 0.5 * torch.logdet(apart.mT @ apart)
    torch.testing.assert_close(transform.log_abs_det_jacobian(point, value), volume)


def shifted():
    return dist.TransformedDistribution(dist.Gamma(2.0, 1.0), [T.AffineTransform(1.0, -2.0)])


LAWS = {
    "mixture": lambda: dist.MixtureSameFamily(dist.Categorical(torch.tensor([0.3, 0.7])), dist.Gamma(torch.tensor([2.0, 5.0]), 4.0)),
    "mixture of vectors": lambda: dist.MixtureSameFamily(
        dist.Categorical(torch.tensor([0.3, 0.7])), dist.Normal(torch.tensor([[-1.0, 1.0], [0.0, 1.0]]), 0.5).to_event(1)
    ),
    "wishart": lambda: dist.Wishart(torch.tensor(4.0), covariance_matrix=torch.eye(2)),
    "direction": lambda: dist.ProjectedNormal(torch.tensor([1.0, 0.5, 0.2])),
    "shifted": shifted,
    "angle": lambda: dist.VonMises(0.4, 1.5),
    "permuted": lambda: dist.TransformedDistribution(
        dist.Gamma(torch.ones(3), 1.0).to_event(1), [T.Permute(torch.tensor([2, 0, 1]))]
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Singular sample:UserWarning")
@pytest.mark.parametrize(
    "law", [pytest.param(law, marks=[pytest.mark.slow] if law in ("wishart", "angle") else []) for law in LAWS]
)
def test_a_latent_of_that_law_has_the_moments_of_its_prior_where_data_say_nothing(law):
    def model():
        pyro.sample("z", LAWS[law]())

    result = lvm.smc(lvm.Problem(model), particles=1_024, seed=0, progress=False)
    found = result.data["posterior"]["z"].values
    found = found.reshape(-1, *found.shape[2:])
    torch.manual_seed(1)
    prior = LAWS[law]().sample((20_000,)).numpy()
    error = prior.std(0) / np.sqrt(1_024) * 5
    assert (np.abs(found.mean(0) - prior.mean(0)) < error + 1e-3).all()


@pytest.mark.filterwarnings("ignore:Singular sample:UserWarning")
@pytest.mark.parametrize("law", ["mixture", "wishart", "shifted", "angle"])
def test_guides_draw_such_latents_and_state_their_density(law):
    problem = lvm.Problem(with_latent(LAWS[law]), Y)
    for guide in (
        "mean_field",
        pyro.infer.autoguide.AutoNormal,
        pyro.infer.autoguide.AutoMultivariateNormal(problem.model),
    ):
        fit = lvm.fit(problem, guide, engine="pyro", max_steps=3, draws=4, progress=False)
        value = torch.as_tensor(fit.data["posterior"]["z"].values[0])
        support = support_of(LAWS[law]())
        assert bool(support.check(value).all())


def test_torch_is_as_it_was_after_a_session():
    with pytest.raises(NotImplementedError):
        biject_to(constraints.sphere)
    lvm.Problem(with_latent(LAWS["direction"]), Y)
    with pytest.raises(NotImplementedError):
        biject_to(constraints.sphere)


def uneven():
    return dist.MixtureSameFamily(
        dist.Categorical(torch.tensor([0.3, 0.7])), dist.Uniform(torch.tensor([-1.0, 0.0]), torch.tensor([0.0, 1.0]))
    )


class Disc(constraints.Constraint):
    """A support that is the user's own."""

    event_dim = 1

    def check(self, value):
        return value.norm(dim=-1) < 1


class OnADisc(dist.Normal):
    """A law on it."""

    support = Disc()


REFUSED = {
    "different bounds": uneven,
    "no log density: TransformedDistribution, whose AbsTransform": lambda: dist.TransformedDistribution(
        dist.Normal(0.0, 1.0), [T.AbsTransform()]
    ),
    "torch's own Normal": lambda: torch.distributions.Normal(0.0, 1.0),
    "no bijection maps.*draw the waiting times": lambda: dist.CoalescentTimes(torch.zeros(3)),
    "support Disc, which no bijection maps": lambda: OnADisc(torch.zeros(2), 1.0).to_event(1),
}


@pytest.mark.parametrize("words", REFUSED)
def test_a_latent_that_cannot_be_taken_is_refused_with_what_to_do(words):
    with pytest.raises(lvm.ProblemError, match=words) as refused:
        lvm.Problem(with_latent(REFUSED[words]), Y)
    assert "Fix:" in str(refused.value) and "report" not in str(refused.value)


def test_infer_takes_a_model_whose_latents_are_all_summed_out():
    def model(y):
        z = pyro.sample("z", dist.Binomial(5, torch.tensor(0.4)))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(z.sqrt().tanh(), 0.7), obs=y)

    result = lvm.infer(lvm.Problem(model, Y), seed=0, progress=False)
    assert result.verdict.trusted
