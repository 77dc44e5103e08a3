"""Latent Dirichlet allocation: densities by SciPy, mixtures and held-out words beside scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.decomposition import LatentDirichletAllocation

import pyrolvm as lvm
from pyrolvm_models import _topics
from pyrolvm_models.lda import WordCounts, corpus, perplexity, variational_bayes

pytestmark = pytest.mark.usefixtures("double")


@pytest.fixture(scope="module")
def texts():
    """Counts of 150 words in paragraphs, three quarters and one."""
    counts = corpus(150).counts
    order = torch.tensor(np.random.default_rng(0).permutation(len(counts)))
    cut = len(counts) * 3 // 4
    train = counts[order[:cut]]
    used = train.sum(0) > 0
    return train[:, used], counts[order[cut:]][:, used]


@pytest.mark.parametrize("seed", range(2))
def test_the_density_is_that_of_multinomials(seed, prior_draw, log_joint):
    problem = lvm.problem("lda", words=10, documents=12).to(dtype=torch.float64)
    draw = prior_draw(problem, seed)
    topic, mixture = draw["topic"].clamp(min=1e-30).numpy(), draw["mixture"].numpy()
    topic, mixture = topic / topic.sum(1, keepdims=True), mixture / mixture.sum(1, keepdims=True)
    draw = {"topic": torch.tensor(topic), "mixture": torch.tensor(mixture)}
    expected = sum(stats.dirichlet(np.full(10, 0.1)).logpdf(row) for row in topic)
    expected += sum(stats.dirichlet(np.full(3, 0.5)).logpdf(row) for row in mixture)
    counts = problem.args[0].numpy()
    expected += stats.multinomial(counts.sum(1).astype(int), mixture @ topic).logpmf(counts).sum()
    assert float(log_joint(problem, draw)) == pytest.approx(expected, rel=1e-8)


def test_topics_of_words_are_summed_out():
    """Three words of one document, every assignment of topics counted."""
    topic, mixture = torch.tensor([[0.2, 0.5, 0.3], [0.7, 0.1, 0.2]]), torch.tensor([0.4, 0.6])
    words = [0, 2, 2]
    total = sum(
        np.prod([float(mixture[k] * topic[k, word]) for k, word in zip(assigned, words, strict=True)])
        for assigned in np.ndindex(2, 2, 2)
    )
    ours = WordCounts(mixture @ topic, torch.tensor(3.0)).log_prob(torch.tensor([1.0, 0.0, 2.0]))
    assert float(ours) == pytest.approx(np.log(3 * total))  # 3 orders of these words


def test_neither_density_nor_quantities_see_names(prior_draw, log_joint):
    problem = lvm.problem("lda").to(dtype=torch.float64)
    draw = prior_draw(problem)
    draw = {name: (value + 1e-4) / (value + 1e-4).sum(-1, keepdim=True) for name, value in draw.items()}
    order = torch.tensor([2, 0, 1])
    renamed = {"topic": draw["topic"][order], "mixture": draw["mixture"][:, order]}
    torch.testing.assert_close(log_joint(problem, renamed), log_joint(problem, draw))
    for name, function in problem.quantities.items():
        torch.testing.assert_close(function(renamed), function(draw), msg=lambda text, name=name: f"{name}: {text}")


def test_draws_have_their_totals_and_rates():
    probs = torch.tensor([[0.2, 0.5, 0.3], [0.9, 0.05, 0.05]])
    torch.manual_seed(0)
    drawn = WordCounts(probs, torch.tensor([4.0, 11.0])).sample(torch.Size([20_000]))
    assert drawn.shape == (20_000, 2, 3)
    assert (drawn.sum(-1) == torch.tensor([4.0, 11.0])).all()
    np.testing.assert_allclose(drawn.mean(0), probs * torch.tensor([[4.0], [11.0]]), atol=0.05)


def _scikit_learn(train, seed, **options):
    made = LatentDirichletAllocation(
        5, doc_topic_prior=0.5, topic_word_prior=0.1, max_iter=60, evaluate_every=-1, random_state=seed, **options
    )
    return made.fit(train.numpy())


@pytest.fixture(scope="module")
def theirs(texts):
    """Three seeds of scikit-learn."""
    return [_scikit_learn(texts[0], seed) for seed in range(3)]


def test_mixtures_of_new_documents_are_scikit_learns(texts):
    """The same topics, concentrations of Dirichlet distributions; the best mixtures are unique."""
    train, test = texts
    found = variational_bayes(train, 5, max_steps=20)
    theirs = _scikit_learn(train[:10], 0, mean_change_tol=1e-12, max_doc_update_iter=100_000)
    theirs.components_ = found.topic.numpy()
    mean_log = torch.digamma(found.topic) - torch.digamma(found.topic.sum(1, keepdim=True))
    theirs.exp_dirichlet_component_ = mean_log.exp().numpy()
    mine = found.mixtures(test)
    np.testing.assert_allclose(mine / mine.sum(1, keepdim=True), theirs.transform(test.numpy()), rtol=0, atol=1e-6)


def test_the_bound_rises_to_where_scikit_learns_is(texts, theirs):
    train, _ = texts
    found = variational_bayes(train, 5, starts=8)
    assert found.converged
    assert (np.diff(found.bounds) > -1e-6).all()
    best = max(-np.log(their.perplexity(train.numpy())) for their in theirs)
    assert found.bounds[-1] / float(train.sum()) >= best - 0.02  # nats a word: both have local maxima


def test_the_bound_at_scikit_learns_concentrations_is_its_own(texts, theirs):
    train, _ = texts
    topic = torch.tensor(theirs[0].components_)
    mean_log = torch.digamma(topic) - torch.digamma(topic.sum(1, keepdim=True))
    mixture = torch.tensor(theirs[0]._e_step(train.numpy(), cal_sstats=False, random_init=False)[0])
    ours = _topics._bound(_topics._weights(train, mean_log, mixture), train, topic, mixture, 0.5, 0.1)
    assert ours == pytest.approx(theirs[0]._approx_bound(train.numpy(), mixture.numpy(), sub_sampling=False), rel=1e-9)


def test_the_bound_is_below_the_evidence():
    """One topic: its posterior is a Dirichlet distribution, so that the bound is the evidence."""
    counts = torch.tensor([[3.0, 1.0, 0.0, 2.0], [0.0, 4.0, 1.0, 1.0]])
    found = variational_bayes(counts, 1, sparsity=0.3)
    a = torch.full((4,), 0.3)
    exact = (
        (a + counts.sum(0)).lgamma().sum() - (a + counts.sum(0)).sum().lgamma() + a.sum().lgamma() - a.lgamma().sum()
    )
    assert found.bounds[-1] == pytest.approx(float(exact), abs=1e-9)


def test_held_out_words_are_predicted_as_well_as_by_scikit_learn(texts, theirs):
    train, test = texts
    ours = perplexity(test, variational_bayes(train, 5, starts=3).topics)
    reached = [perplexity(test, their.components_ / their.components_.sum(1, keepdims=True)) for their in theirs]
    frequencies = (train.sum(0) + 0.1) / (train.sum() + 0.1 * train.shape[1])
    assert ours < perplexity(test, frequencies.unsqueeze(0))
    assert ours < 1.03 * np.median(reached)


def test_perplexity_of_known_topics_is_its_formula():
    """One topic: the mixture is 1, whatever half was seen."""
    probs = torch.tensor([[0.1, 0.2, 0.7]])
    assert perplexity([[2, 2, 2]], torch.full((1, 3), 1 / 3)) == pytest.approx(3)
    one = perplexity([[0, 0, 8]], probs)
    assert one == pytest.approx(1 / 0.7)


X = np.array([[1.0, 2.0, 0.0], [0.0, 1.0, 3.0]])


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: variational_bayes(X - 1, 2), lvm.DataError, r"counts\[0, 2\] is -1"),
        (lambda: variational_bayes(X + 0.5, 2), lvm.DataError, r"counts\[0, 0\] is 1.5"),
        (lambda: variational_bayes(X * [[1], [0]], 2), lvm.DataError, "row 1 of counts is all 0"),
        (lambda: variational_bayes(np.where(X == 2, np.nan, X), 2), lvm.DataError, r"x\[0, 1\] is nan"),
        (lambda: variational_bayes(X, 0), lvm.ArgumentError, "'topics'"),
        (lambda: variational_bayes(X, 2, sparsity=0), lvm.ArgumentError, "sparsity is 0"),
        (lambda: variational_bayes(X, 2).mixtures(X[:, :2]), lvm.DataError, "2 columns, the topics 3 words"),
        (lambda: perplexity(X, X), lvm.DataError, "not probabilities"),
        (lambda: perplexity(np.eye(3), np.full((1, 3), 1 / 3)), lvm.DataError, "two words"),
        (lambda: lvm.problem("lda", topics=0), lvm.ArgumentError, "'topics'"),
        (lambda: lvm.problem("lda", words=3), lvm.ArgumentError, "words is 3"),
        (lambda: lvm.problem("lda", documents=7), lvm.ArgumentError, "documents is 7"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=f"(?s){message}.*Fix: "):
        call()
