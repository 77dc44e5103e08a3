"""Codes that are not differentiable: their laws, and what they are for."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F

import pyrolvm as lvm
from pyrolvm_models.quantized_vae import CausalChoices

QUICK = {"batch_size": 128, "num_particles": 1, "learning_rate": 3e-3, "tolerance": 0, "draws": 4, "progress": False}


def test_choices_given_those_before_sum_to_one_and_draws_follow_them() -> None:
    generator = torch.Generator().manual_seed(0)
    law = CausalChoices(torch.randn(3, 2, generator=generator), 2 * torch.randn(6, 6, generator=generator))
    every = torch.tensor(list(itertools.product(range(2), repeat=3)))
    p = law.log_prob(F.one_hot(every, 2).float()).exp()
    assert float(p.sum()) == pytest.approx(1.0, abs=1e-5)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        drawn = law.sample((20_000,))
    assert bool((drawn.sum(-1) == 1).all())
    place = (drawn.argmax(-1) * torch.tensor([4, 2, 1])).sum(-1)
    share = torch.bincount(place, minlength=8) / 20_000
    assert float(((share - p) / (p * (1 - p) / 20_000).sqrt()).abs().max()) < 4.5


@pytest.mark.slow
def test_codes_are_used_where_gradients_have_no_bias() -> None:
    problem, test = lvm.problem("quantized_vae"), lvm.problem("quantized_vae", split="test")
    scored = lvm.fit(
        problem, objective=lvm.ImportanceWeighted_ELBO(8, gradient="score"), max_steps=2000, **QUICK | {"draws": 20}
    )
    used = (scored.data["posterior"]["code"].values[0].mean((0, 1)) > 0.01).sum(-1)
    assert used.mean() > 5  # of 8 embeddings
    assert lvm.evaluate(scored, test, draws=200, pictures=False, progress=False).log_p > -19


@pytest.mark.slow
def test_wake_sleep_learns_digits() -> None:
    asleep = lvm.ImportanceWeighted_ELBO(1, gradient="sleep")
    fit = lvm.fit(lvm.problem("helmholtz"), objective=asleep, max_steps=3000, **QUICK)
    found = lvm.evaluate(fit, lvm.problem("helmholtz", split="test"), draws=200, pictures=False, progress=False)
    assert found.log_p > -21  # independent pixels: -25.3
