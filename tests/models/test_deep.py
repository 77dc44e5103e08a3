"""Deep models are trained by ``lvm.fit`` with the guide they name, and do better than what they are built to beat."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine

import pyrolvm as lvm
from pyrolvm._capture.vmap import vmapped
from pyrolvm._results.draws import rebuild
from pyrolvm_models import ladder_vae, lda, semi_supervised_vae, topic_vae, translation, vae, world_model
from pyrolvm_models._images import values
from pyrolvm_models._likelihoods import DiscretizedLogistic, Neighbours
from pyrolvm_models.autoregressive_vae import CausalBernoulli, PixelDecoder
from pyrolvm_models.datasets import digits

NETS = {"max_steps": 1500, "tolerance": 0, "batch_size": 128, "num_particles": 1, "learning_rate": 3e-3, "draws": 20}


def fitted(problem: lvm.Problem, guide: object = "auto", **options: object) -> lvm.Fit:
    return lvm.fit(problem, guide, **{**NETS, "progress": False, **options})


def independent_pixels(train: torch.Tensor, test: torch.Tensor) -> float:
    """Nats an image of the test under one Bernoulli probability for each pixel: what no code can tell."""
    rate = (train.sum(0) + 1) / (len(train) + 2)
    return float(torch.distributions.Bernoulli(rate).log_prob(test).sum(-1).mean())


def log_p(fit: lvm.Fit, *args: Any, draws: int = 200, seed: int = 0) -> float:
    """Held-out nats a row by importance sampling, with stock Pyro; ``draws=1`` is the bound."""
    problem = fit.attached
    with problem.session(seed=seed, params=fit.params), torch.no_grad():
        guide = rebuild(problem, fit.guide)

        def rows(trace: Any) -> torch.Tensor:
            trace.compute_log_prob()
            nodes = [
                n for n in trace.nodes.values() if n["type"] == "sample" and type(n["fn"]).__name__ != "_Subsample"
            ]
            return sum(n["log_prob"] for n in nodes)

        def one(_: Any) -> torch.Tensor:
            drawn = poutine.trace(guide).get_trace(*args)
            model = poutine.trace(poutine.replay(problem.model, trace=drawn)).get_trace(*args)
            return rows(model) - rows(drawn)

        problem.model(*args)  # learnable parameters come into being in a plain run
        weights = vmapped(one)(torch.zeros(draws))
        return float((weights.logsumexp(0) - math.log(draws)).mean())


@pytest.fixture(scope="module")
def binary() -> tuple[torch.Tensor, torch.Tensor]:
    images = digits()
    return values(images.train, 17, "bernoulli"), values(images.test, 17, "bernoulli")


# --- parts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [2, 17])
def test_probabilities_of_levels_sum_to_one_and_draws_follow_them(levels: int) -> None:
    generator = torch.Generator().manual_seed(0)
    loc = torch.randn(3, 2, generator=generator, dtype=torch.float64) * levels / 2 + levels / 2
    log_scale = torch.randn(3, 2, generator=generator, dtype=torch.float64)
    law = DiscretizedLogistic(loc, log_scale, torch.tensor([0.3, 0.7], dtype=torch.float64).log(), levels)
    each = torch.stack(
        [law.log_prob(torch.full((3,), float(level), dtype=torch.float64)) for level in range(levels)]
    ).exp()
    torch.testing.assert_close(each.sum(0), torch.ones(3, dtype=torch.float64))
    torch.manual_seed(1)
    drawn = law.sample((20_000,))
    found = torch.stack([(drawn == level).double().mean(0) for level in range(levels)])
    assert ((found - each).abs() < 5 * (each * (1 - each) / 20_000).sqrt() + 1e-9).all()


@pytest.mark.parametrize("context", [None, 0, 1])
def test_causal_pixels_are_a_density_and_draws_follow_it(context: int | None) -> None:
    net = PixelDecoder(2, [4], 2, 3, 2, context, torch.Generator().manual_seed(0))
    law = net(torch.randn(2, generator=torch.Generator().manual_seed(1)))
    every = torch.tensor(list(itertools.product([0.0, 1.0], repeat=6)))
    expanded = CausalBernoulli(law.logits.expand(64, 6), law.offsets.expand(64, 12), law.inward, law.outward)
    with torch.no_grad():
        check_draws(law, every, expanded.log_prob(every).exp())


@pytest.mark.parametrize("context", [1, 2])
def test_pixels_that_see_neighbours_are_a_density_and_draws_follow_it(context: int) -> None:
    family = Neighbours(6, 3, context, torch.Generator().manual_seed(0))
    every = torch.tensor(list(itertools.product([0.0, 1.0], repeat=6)))
    with torch.no_grad():
        family.outward.normal_(generator=torch.Generator().manual_seed(1))
        law = family(torch.randn(6, generator=torch.Generator().manual_seed(2)))
        check_draws(law, every, law.expand((64,)).log_prob(every).exp())
        last = every.clone()
        last[:, 5] = 1 - last[:, 5]  # nothing before a pixel depends on it
        told = law._told(every) - law._told(last)
        assert float(told.abs().max()) == 0
        many = law.expand((7, 64)).log_prob(every)
        torch.testing.assert_close(many, law.expand((64,)).log_prob(every).expand(7, 64))


def check_draws(law: Any, every: torch.Tensor, chance: torch.Tensor) -> None:
    """Probabilities sum to one, and frequencies of draws are near them."""
    assert float(chance.sum()) == pytest.approx(1.0, abs=1e-5)
    torch.manual_seed(2)
    drawn = law.sample((20_000,))
    index = (drawn.long() * torch.tensor([32, 16, 8, 4, 2, 1])).sum(-1)
    found = torch.bincount(index, minlength=64) / len(drawn)
    assert ((found - chance).abs() < 5 * (chance * (1 - chance) / len(drawn)).sqrt() + 1e-6).all()


@pytest.mark.parametrize("prior", ["flow", "autoregressive"])
def test_learned_priors_are_normalised_and_invert(prior: str) -> None:
    problem = lvm.problem("vae", images=50, latent=2, prior=prior)
    law = problem.args[3]
    with torch.no_grad():
        for parameter in law.parameters():
            parameter.add_(0.03 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
        grid = torch.linspace(-12, 12, 481)
        points = torch.cartesian_prod(grid, grid)
        assert float(law().log_prob(points).exp().sum() * (24 / 480) ** 2) == pytest.approx(1.0, abs=1e-3)
        noise, _ = law.to_noise(points[::1000])
        torch.testing.assert_close(law.from_noise(noise), points[::1000], rtol=1e-4, atol=1e-4)


# --- posteriors of the amortized guide --------------------------------------------------------------------------------


@pytest.mark.parametrize("posterior", ["full_rank", "mixture", "iaf", "coupling", "planar"])
def test_row_flows_score_foreign_values_as_their_own(posterior: str) -> None:
    problem = lvm.problem("vae", images=10, latent=3, hidden=8).to(dtype=torch.float64)
    with problem.session(seed=0), torch.no_grad():
        guide = lvm.guide("amortized", posterior=posterior, transforms=3, hidden=(8,)).build(problem)
        for parameter in guide.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        drawn = poutine.trace(guide).get_trace(*problem.args)
        own = drawn.log_prob_sum()
        copies = {n: v["value"] + 0.0 for n, v in drawn.nodes.items() if n in ("_amortized_z", "z")}
        pyro.set_rng_seed(1)
        again = poutine.trace(poutine.condition(guide, data=copies)).get_trace(*problem.args)
        if posterior in ("full_rank", "mixture"):
            torch.testing.assert_close(again.log_prob_sum(), own)
        else:
            torch.testing.assert_close(again.nodes["_amortized_z"]["fn"].log_prob(copies["_amortized_z"]).sum(), own)


def test_a_model_names_its_guide_and_a_loaded_fit_finds_it(tmp_path) -> None:
    problem = lvm.problem("ladder_vae", images=40, hidden=8)
    fit = lvm.fit(problem, max_steps=3, draws=5, progress=False)
    fit.save(tmp_path / "fit")
    again = lvm.load(tmp_path / "fit")
    assert again.guide.name == fit.guide.name == "ladder"
    assert tuple(again.sample(3)["z1"].shape)[-2:] == (40, 8)


# --- fits -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vae", {"prior": "vamp"}),
        ("vae", {"posterior": "iaf"}),
        ("vae", {"network": "convolutional"}),
        ("vae", {"network": "gated", "posterior": "full_rank"}),
        ("vae", {"prior": "autoregressive"}),
        ("vae", {"likelihood": "neighbours"}),
        ("ladder_vae", {}),
        ("autoregressive_vae", {"context": 1}),
        ("discrete_vae", {}),
    ],
    ids=str,
)
def test_held_out_images_are_likelier_than_independent_pixels(name, options, binary) -> None:
    problem = lvm.problem(name, **options)
    fit = fitted(problem)
    found = log_p(fit, binary[1], *problem.args[1:], draws=1 if name == "discrete_vae" else 100)
    assert found > independent_pixels(*binary) + 5


@pytest.mark.slow
def test_a_learned_prior_improves_held_out_nats(binary) -> None:
    nats = {}
    for prior in ("standard", "mixture", "vamp"):
        problem = lvm.problem("vae", prior=prior, latent=4)
        nats[prior] = log_p(fitted(problem, max_steps=3000), binary[1], *problem.args[1:])
    assert nats["mixture"] > nats["standard"] and nats["vamp"] > nats["standard"]


@pytest.mark.slow
def test_a_decoder_that_sees_all_pixels_takes_nats_from_the_code() -> None:
    divergence = {}
    for context in (None, 0):
        fit = fitted(lvm.problem("autoregressive_vae", context=context, latent=4), max_steps=1000)
        log_prior = fit.data["log_prior"]["z"].sum("data").mean()
        divergence[context] = float(fit.data["sample_stats"]["log_q"].mean() - log_prior)
    assert divergence[None] < 0.95 * divergence[0]


@pytest.mark.slow
def test_summing_over_codes_gives_the_likelihood_itself(binary) -> None:
    problem = lvm.problem("discrete_vae", latent=3)
    fit = fitted(problem, max_steps=300)
    decoder = problem.args[1]
    named = {k.removeprefix("decoder$$$"): v for k, v in fit.params.items()}
    codes = torch.tensor(list(itertools.product([0, 1], repeat=3)))
    onehot = torch.nn.functional.one_hot(codes, 2).float().reshape(8, 6)
    with torch.no_grad():
        logits = torch.func.functional_call(decoder, named, (onehot,))
        each = binary[1] @ logits.mT - torch.nn.functional.softplus(logits).sum(-1)
        expected = float((each.logsumexp(-1) - math.log(8)).mean())
    assert log_p(fit, binary[1], decoder, draws=1) == pytest.approx(expected, abs=1e-3)


@pytest.mark.slow
def test_a_hundred_labels_and_the_other_images_beat_the_labels_alone(binary) -> None:
    from sklearn.linear_model import LogisticRegression

    problem = lvm.problem("semi_supervised_vae", labels=100)
    labelled, y = problem.args[:2]
    fit = fitted(problem, batch_plate="unlabelled", max_steps=4000)
    truth = digits().test_labels.numpy()
    ours = float((semi_supervised_vae.classify(fit, binary[1]).argmax(-1).numpy() == truth).mean())
    alone = LogisticRegression(max_iter=1000).fit(labelled.numpy(), y.numpy()).score(binary[1].numpy(), truth)
    assert ours > alone


@pytest.mark.slow
@pytest.mark.parametrize("mixing", ["dirichlet", "logistic_normal", "gamma"])
def test_topics_predict_words_better_than_their_frequencies(mixing: str) -> None:
    problem = lvm.problem("topic_vae", mixing=mixing)
    test = lvm.problem("topic_vae", mixing=mixing, split="test").args[0]
    fit = fitted(problem, max_steps=3000)
    with torch.no_grad():
        topics = torch.softmax(fit.params["decoder$$$weight"], -1).double()
    frequencies = (problem.args[0].sum(0) + 1).double()
    single = (frequencies / frequencies.sum())[None]
    assert lda.perplexity(test.double(), topics) < 0.9 * lda.perplexity(test.double(), single)


# --- bad input --------------------------------------------------------------------------------------------------------

GOOD = np.zeros((6, 4, 4))


@pytest.mark.parametrize(
    ("build", "kind", "words"),
    [
        (lambda: vae.autoencoder(GOOD + 0.5), lvm.DataError, "takes values that are 0 or 1"),
        (lambda: vae.autoencoder(GOOD + 16, likelihood="logistic", levels=16), lvm.DataError, "a whole level from 0 to 15"),
        (lambda: vae.autoencoder(GOOD + 0.5, likelihood="logistic_mixture"), lvm.DataError, "grey levels, not intensities"),
        (lambda: vae.autoencoder(GOOD + 2, likelihood="neighbours"), lvm.DataError, "takes values that are 0 or 1"),
        (lambda: vae.autoencoder(GOOD, likelihood="neighbours", context=0), lvm.ArgumentError, "'context'"),
        (lambda: vae.autoencoder(GOOD * np.nan, likelihood="gaussian"), lvm.DataError, "pixel 0 of image 0 is nan"),
        (lambda: vae.autoencoder(np.zeros((6, 5, 4)), network="convolutional"), lvm.ArgumentError, "height 5 is no multiple of 4"),
        (lambda: vae.autoencoder(np.zeros((6, 3, 4, 4))), lvm.DataError, "several channels"),
        (lambda: vae.autoencoder(np.zeros((6, 16)), height=3, width=4), lvm.ArgumentError, "height=3 times width=4 is 12"),
        (lambda: vae.autoencoder(GOOD, prior="vamp", posterior="iaf"), lvm.ArgumentError, "encoder's Gaussians"),
        (lambda: vae.autoencoder(GOOD, prior="flow", latent=1), lvm.ArgumentError, "latent=2 or more"),
        (lambda: vae.autoencoder(GOOD, likelihood="poisson"), lvm.ArgumentError, "'likelihood' of problem 'vae' is 'poisson'"),
        (lambda: lvm.problem("discrete_vae", latent=13), lvm.ArgumentError, "8,192 codes"),
        (lambda: lvm.problem("semi_supervised_vae", labels=95), lvm.ArgumentError, "a multiple of 10"),
        (lambda: semi_supervised_vae.semi_supervised(GOOD, [0, 1, 2, 0, 1, 3], GOOD, classes=3), lvm.DataError, "label 5 is 3"),
        (lambda: semi_supervised_vae.semi_supervised(GOOD, [0, 0, 2, 0, 2, 2], GOOD), lvm.DataError, "class 1 has no image"),
        (lambda: semi_supervised_vae.semi_supervised(GOOD, [0, 1], GOOD), lvm.DataError, r"expected \(6,\)"),
        (lambda: lvm.problem("ladder_vae", latent=(4,)), lvm.ArgumentError, "one layer"),
        (lambda: lvm.problem("topic_vae", mixing="gamma", product=True), lvm.ArgumentError, "no rates"),
        (lambda: topic_vae.topic_model(np.array([[1, 0], [0, 0]]), ["a", "b"]), lvm.DataError, "document 1 has no word"),
        (lambda: lvm.problem("autoregressive_vae", context=-1), lvm.ArgumentError, "'context'"),
    ],
)  # fmt: skip
def test_bad_input_is_named_with_a_remedy(build, kind, words: str) -> None:
    with pytest.raises(kind, match=words) as raised:
        build()
    assert "Fix: " in str(raised.value)


def test_what_is_made_of_fits_names_what_it_cannot_take() -> None:
    once = {"max_steps": 1, "tolerance": 0, "draws": 2, "engine": "pyro", "progress": False}
    other = lvm.fit(lvm.problem("vae", images=20, latent=2, hidden=4), **once)
    dates = lvm.fit(translation.translator([("1", "one"), ("2", "two")], hidden=4), **once)
    small = GOOD.astype(np.float32)
    labels = lvm.fit(semi_supervised_vae.semi_supervised(small, [0, 1, 0, 1, 0, 1], small, latent=2, hidden=4), **once)
    assert semi_supervised_vae.classify(labels, np.zeros((3, 16))).shape == (3, 2)
    assert len(translation.translate(dates, ["1", "2"], 3)[1]) == 3
    for build, kind, words in (
        (lambda: semi_supervised_vae.classify(other, np.zeros((3, 16))), lvm.UnknownNameError, "classifier"),
        (lambda: semi_supervised_vae.classify(labels, np.zeros((3, 9))), lvm.DataError, r"expected \(images, 16\)"),
        (lambda: translation.translate(other, ["1"]), lvm.UnknownNameError, "writer"),
        (lambda: translation.translate(dates, []), lvm.DataError, "sources are"),
        (lambda: translation.translate(dates, "1"), lvm.DataError, "sources are"),
        (lambda: translation.translate(dates, ["12"]), lvm.DataError, "more than 1"),
        (lambda: translation.translate(dates, ["1"], 0), lvm.ArgumentError, "'count'"),
        (lambda: world_model.control(other), lvm.UnknownNameError, "world"),
        (lambda: world_model.control(None, steps=0), lvm.ArgumentError, "'steps'"),
    ):
        with pytest.raises(kind, match=words) as raised:
            build()
        assert "Fix: " in str(raised.value)


def test_guides_refuse_rows_that_do_not_suit_them() -> None:
    problem = lvm.problem("vae", images=20, latent=1)
    with pytest.raises(lvm.GuideError, match=r"a row has 1.*Fix: "):
        lvm.guide("amortized", posterior="iaf").build(problem)
    with pytest.raises(lvm.GuideError, match=r"not 7 x 9.*Fix: "):
        lvm.guide("amortized", network="convolutional", image=(7, 9)).build(problem)
    with pytest.raises(lvm.GuideError, match=r"outside it.*Fix: "):
        lvm.guide("semi_amortized").build(lvm.problem("lda", documents=20))


def test_latent_layers_come_from_the_top() -> None:
    assert list(lvm.problem("ladder_vae", images=20, latent=(3, 2, 2)).sites) == ["z3", "z2", "z1", "x"]
    assert ladder_vae.INFERENCES == ("ladder", "bottom_up")
