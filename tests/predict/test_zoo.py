"""Problems of the zoo predict: rows that they have not seen, the next steps of a series, and what they were fitted to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyrolvm as lvm
from pyrolvm_models.hidden_markov import PoissonChain

CHAIN = torch.tensor([0.6, 0.4]), torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.tensor([2.0, 12.0])
SHORT: dict[str, Any] = {"max_steps": 8, "engine": "pyro", "draws": 20, "progress": False, "seed": 0}


def test_counts_out_of_fewer_than_in_the_fit_are_predicted() -> None:
    """What stands for counts that are left out may be more than there can be of a new row."""

    def rates(n: Tensor, y: Tensor) -> None:
        with pyro.plate("rows", len(n)):
            own = pyro.sample("own", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Binomial(n, logits=own), obs=y)

    n = torch.full((12,), 30.0)
    fit = lvm.fit(lvm.Problem(rates, n, torch.arange(12.0) + 8), "mean_field", **SHORT)
    found = lvm.predict(fit, torch.tensor([1.0, 2.0, 40.0]))["predictions"]["y"]
    assert found.shape[-1] == 3 and bool((found.max(("chain", "draw")) <= np.array([1, 2, 40])).all())


def test_what_reads_its_own_data_predicts_them_and_no_others() -> None:
    def documents(x: Tensor) -> None:
        share = pyro.sample("share", dist.Dirichlet(torch.ones(3)))
        with pyro.plate("documents", len(x)):
            pyro.sample("x", dist.Multinomial(probs=share, total_count=5), obs=x, obs_mask=None)
            pyro.deterministic("words", x.sum(-1))

    x = torch.tensor([[1.0, 2.0, 2.0], [5.0, 0.0, 0.0], [0.0, 1.0, 4.0]])
    fit = lvm.fit(lvm.Problem(documents, x), "mean_field", **SHORT)
    assert lvm.predict(fit)["predictions"]["x"].shape == (1, 20, 3, 3)
    assert lvm.predict(fit, x[:2])["log_score"]["x"].shape == (1, 20, 2)


def test_a_model_of_as_many_rows_as_it_was_written_for_says_so() -> None:
    def walk(y: Tensor) -> None:
        steps = pyro.sample("steps", dist.Normal(torch.zeros(6), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(steps.cumsum(0), 1.0).to_event(1), obs=y)

    fit = lvm.fit(lvm.Problem(walk, torch.arange(6.0)), "mean_field", **SHORT)
    with pytest.raises(lvm.ProblemError, match=r"behind the fit's 6.*len\(y\)"):
        lvm.predict(fit, rows=2)


def test_a_law_that_says_itself_how_it_goes_on_is_asked() -> None:
    one, other = PoissonChain(*CHAIN, 5), PoissonChain(*CHAIN, 40)
    known = torch.tensor([3.0, 1.0, 14.0, 12.0, 11.0])
    whole, before = other.onward(known)
    assert torch.equal(whole[:5], known) and torch.allclose(before, one.log_prob(known))
    torch.manual_seed(0)
    next_one = PoissonChain(*CHAIN, 6).expand([2_000])
    drawn = next_one.onward(known.expand(2_000, 5))[0][:, -1]
    twelve = torch.cat([known, torch.tensor([12.0])])
    chance = float((PoissonChain(*CHAIN, 6).log_prob(twelve) - before).exp())
    assert abs(float((drawn == 12).float().mean()) - chance) < 4 * (chance / 2_000) ** 0.5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ladder_vae", "topic_vae", "lda", "semi_supervised_vae"])
def test_rows_of_deep_models_are_scored_and_their_own_data_predicted(name: str) -> None:
    whole = lvm.problem(name)
    long = max(plate.size for plate in whole.plates.values())

    def part(value: Any, rows: slice) -> Any:
        return value[rows] if isinstance(value, Tensor) and value.dim() and len(value) == long else value

    fit = lvm.fit(lvm.Problem(whole.program, *(part(one, slice(60)) for one in whole.args)), "auto", **SHORT)
    assert bool(np.isfinite(next(iter(lvm.predict(fit)["predictions"].data_vars.values()))).all())
    if name != "semi_supervised_vae":
        found = lvm.predict(fit, *(part(one, slice(60, 64)) for one in whole.args))
        assert bool(np.isfinite(found["scores"]["x_lpd"]).all())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("hidden_markov", {"years": 20}),
        ("linear_dynamical_system", {"years": 40}),
        ("linear_dynamical_system", {"years": 40, "marginal": False}),
        ("stochastic_volatility", {"days": 40}),
        ("gaussian_process", {"every": 4}),
        ("gaussian_process", {"every": 4, "marginal": False}),
    ],
)
def test_series_of_the_zoo_go_on(name: str, options: dict[str, Any]) -> None:
    fit = lvm.fit(lvm.problem(name, **options), "mean_field", **SHORT)
    new: dict[str, Any] = {"times": torch.tensor([60.0, 61.0])} if name == "gaussian_process" else {"rows": 2}
    found = lvm.predict(fit, **new)["predictions"]["y"]
    assert found.shape[-1] == 2 and bool(np.isfinite(found).all())
