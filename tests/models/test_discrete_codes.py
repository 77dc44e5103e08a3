"""Codes that are not differentiable, and text given text: their laws, and what they are for."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F

import pyrolvm as lvm
from pyrolvm_models import translation
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


def test_lines_are_scored_letter_by_letter_as_they_are_drawn() -> None:
    problem = lvm.problem("translation", pairs=10, hidden=8, memory=2)
    y, source, writer = problem.args
    z = torch.randn(10, 2, generator=torch.Generator().manual_seed(0))
    law = translation.Written(writer, source, z)
    steps = law.in_order()
    total, step = torch.zeros(10), next(steps)
    for t in range(y.shape[1]):
        total = total + step.log_prob(y[:, t])
        try:
            step = steps.send(y[:, t])
        except StopIteration:
            break
    torch.testing.assert_close(total, law.log_prob(y), rtol=1e-4, atol=1e-4)
    assert law.sample((3,)).shape == (3, 10, y.shape[1])


def test_days_are_written_in_five_ways_and_those_held_out_in_none() -> None:
    assert translation.ways(3, 22) == ["march 22", "22 march", "the 22nd of march", "mar 22", "march the 22nd"]
    assert translation.ways(1, 11)[2] == "the 11th of january"
    train, test = ({source for source, _ in translation.dates(part)} for part in ("train", "test"))
    assert not train & test and len(train | test) == 366
    lines = [line for _, line in translation.dates()]
    assert translation.decode(translation.encode(lines, 21)) == lines
    with pytest.raises(lvm.DataError, match=r"'é'.*Fix"):
        translation.translator([("1", "février")])
    with pytest.raises(lvm.DataError, match=r"7 letters, more than 4.*Fix"):
        translation.translator([("1", "january")], length=4)
    for pairs in ([], ["ab"], [("1", "one", "uno")], [("", "nothing")]):
        with pytest.raises(lvm.DataError, match=r"pairs must be.*Fix"):
            translation.translator(pairs)  # type: ignore[arg-type]


@pytest.mark.slow
def test_dates_not_seen_are_translated_rightly_and_in_several_ways() -> None:
    fit = lvm.fit(lvm.problem("translation"), max_steps=2000, **QUICK)
    sources = sorted({source for source, _ in translation.dates("test")})
    found = translation.translate(fit, sources, 10)
    assert found == translation.translate(fit, sources, 10) != translation.translate(fit, sources, 10, seed=1)
    right = [
        [line for line in lines if line in translation.ways(int(day[:2]), int(day[2:]))]
        for day, lines in zip(sources, found, strict=True)
    ]
    assert sum(map(len, right)) > 0.8 * 10 * len(sources)
    assert sum(len(set(lines)) for lines in right) > 3 * len(sources)


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
