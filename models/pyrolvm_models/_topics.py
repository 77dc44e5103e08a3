"""Variational Bayes of latent Dirichlet allocation by coordinate ascent, and what topics are worth on new documents."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import pyrolvm as lvm
from pyrolvm_models import _arrays, _data


@dataclass(frozen=True)
class Topics:
    """Independent Dirichlet distributions of all topics and mixtures, as near to the posterior as such can be.

    Attributes:
        topic: Concentrations of the topics, shape ``(k, v)``.
        mixture: Concentrations of the documents' mixtures, shape ``(d, k)``.
        bounds: Lower bound of the log evidence of the words in their order after each step; it never falls.
        converged: Whether the ascent stopped by itself.
        mixing: Concentration of the prior of a mixture.
    """

    topic: Tensor
    mixture: Tensor
    bounds: list[float]
    converged: bool
    mixing: float

    @property
    def topics(self) -> Tensor:
        """The mean of each topic, shape ``(k, v)``; rows sum to 1."""
        return self.topic / self.topic.sum(-1, keepdim=True)

    def mixtures(self, counts: Any) -> Tensor:
        """Concentrations of the mixtures of new documents, the topics as they are.

        Args:
            counts: How often each document has each word, shape ``(n, v)``.

        Returns:
            Shape ``(n, k)``.

        Raises:
            DataError: ``counts`` are not counts of ``v`` words.
        """
        x = _counts("mixtures", counts, self.topic.shape[1])
        return _documents(x, _mean_log(self.topic), self.mixing)


def variational_bayes(
    counts: Any,
    topics: int,
    *,
    mixing: float = 0.5,
    sparsity: float = 0.1,
    starts: int = 1,
    tolerance: float = 1e-6,
    max_steps: int = 500,
    seed: int = 0,
) -> Topics:
    """Mean-field variational Bayes in closed-form steps (Blei et al. 2003, with topics that are random as well).

    Args:
        counts: How often each document has each word, shape ``(d, v)``, whole numbers.
        topics: Number of topics, positive.
        mixing: Concentration of the Dirichlet prior of a document's mixture.
        sparsity: Concentration of the Dirichlet prior of a topic.
        starts: Number of random starts; the best is returned.
        tolerance: The ascent stops where a step gains less than this, in nats a word.
        max_steps: Largest number of steps of each start.
        seed: Seed of the starts.

    Returns:
        The approximation of the highest bound.

    Raises:
        ArgumentError: An option is out of range.
        DataError: ``counts`` is not a matrix of counts, or a document has no word.
    """
    caller = "variational_bayes"
    x = _counts(caller, counts)
    k = _data.check_count(caller, "topics", topics, kind="function")
    for option, count in (("starts", starts), ("max_steps", max_steps)):
        _data.check_count(caller, option, count, kind="function")
    for option, number in (("mixing", mixing), ("sparsity", sparsity), ("tolerance", tolerance)):
        if isinstance(number, bool) or not isinstance(number, int | float) or not 0 < number < math.inf:
            raise lvm.ArgumentError(f"{caller}: {option} is {number!r}. Fix: give a positive number.")
    empty = torch.nonzero(x.sum(1) == 0).flatten().tolist()
    if empty:
        raise lvm.DataError(f"{caller}: row {empty[0]} of counts is all 0. Fix: drop documents without words.")
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(starts):
        noise = 1 + 0.1 * torch.randn(k, x.shape[1], generator=generator, dtype=x.dtype)
        topic = sparsity + x.sum(0) / k * noise.clamp(
            min=0.1
        )  # nearly all alike: what tells them apart grows by itself
        found.append(_ascend(x, topic, mixing, sparsity, tolerance, max_steps))
    return max(found, key=lambda topics: topics.bounds[-1])


def _ascend(x: Tensor, topic: Tensor, mixing: float, sparsity: float, tolerance: float, max_steps: int) -> Topics:
    bounds: list[float] = []
    mixture = torch.full((len(x), len(topic)), mixing, dtype=x.dtype) + x.sum(-1, keepdim=True) / len(topic)
    converged = False
    while not converged and len(bounds) < max_steps:
        log_topic = _mean_log(topic)
        mixture = _documents(x, log_topic, mixing, mixture, max_steps=10)
        weighted = _weights(x, log_topic, mixture)
        bounds.append(_bound(weighted, x, topic, mixture, mixing, sparsity))
        converged = len(bounds) > 1 and bounds[-1] - bounds[-2] < tolerance * float(x.sum())
        if not converged:
            share, log_mixture = x / weighted, _mean_log(mixture)
            topic = sparsity + log_topic.exp() * (log_mixture.exp().mT @ share)
    return Topics(topic, mixture, bounds, converged, mixing)


def _mean_log(concentration: Tensor) -> Tensor:
    """``E log p`` under a Dirichlet distribution, last axis."""
    return torch.digamma(concentration) - torch.digamma(concentration.sum(-1, keepdim=True))


def _weights(x: Tensor, log_topic: Tensor, mixture: Tensor) -> Tensor:
    """``sum_k exp(E log mixture_dk + E log topic_kv)``, shape ``(d, v)``, by which the topics of words are normalised."""
    return _mean_log(mixture).exp() @ log_topic.exp()


def _documents(
    x: Tensor, log_topic: Tensor, mixing: float, mixture: Tensor | None = None, *, max_steps: int = 10_000
) -> Tensor:
    """Concentrations of the mixtures given the topics, shape ``(d, k)``: the best ones, as far as the steps go."""
    topic = log_topic.exp()
    mixture = mixing + x.sum(-1, keepdim=True).expand(-1, len(topic)) / len(topic) if mixture is None else mixture
    for _ in range(max_steps):
        weight = _mean_log(mixture).exp()
        moved = mixing + weight * ((x / (weight @ topic)) @ topic.mT)
        if float((moved - mixture).abs().max()) < 1e-9:
            return moved
        mixture = moved
    return mixture


def _bound(weighted: Tensor, x: Tensor, topic: Tensor, mixture: Tensor, mixing: float, sparsity: float) -> float:
    """The evidence lower bound, the topics of words at their best."""
    divergence = sum(
        torch.distributions.kl_divergence(
            torch.distributions.Dirichlet(found), torch.distributions.Dirichlet(torch.full_like(found, prior))
        ).sum()
        for found, prior in ((topic, sparsity), (mixture, mixing))
    )
    return float((x * weighted.log()).sum() - divergence)


def perplexity(counts: Any, topics: Any, *, mixing: float = 0.5, seed: int = 0) -> float:
    """How many words it is as hard to choose among as among the held-out ones: by document completion, lower is better.

    Half of the words of each document, drawn without replacement, are seen: of them the mixture is found, as the mean of the best
    Dirichlet distribution given the topics. The other half is predicted. (The bound of a model's own approximation would
    flatter the model.)

    Args:
        counts: How often each new document has each word, shape ``(d, v)``, whole numbers.
        topics: Probability of each word in each topic, shape ``(k, v)``; rows sum to 1.
        mixing: Concentration of the Dirichlet prior of a document's mixture.
        seed: Seed of the halves.

    Returns:
        ``exp(- mean log probability of a held-out word)``.

    Raises:
        DataError: The arguments are no such matrices, or no document has two words.
    """
    probs = _arrays.matrix("perplexity", topics, rows=1)
    if not torch.allclose(probs.sum(-1), torch.ones(len(probs), dtype=probs.dtype)) or float(probs.min()) < 0:
        raise lvm.DataError("perplexity: rows of topics are not probabilities. Fix: divide each row by its sum.")
    x = _counts("perplexity", counts, probs.shape[1])
    generator = torch.Generator().manual_seed(seed)
    seen = torch.zeros_like(x)
    for row, counted in enumerate(x.long()):
        words = torch.arange(len(counted)).repeat_interleave(counted)
        half = words[torch.randperm(len(words), generator=generator)[: (len(words) + 1) // 2]]
        seen[row] = torch.bincount(half, minlength=len(counted)).to(x)
    hidden = x - seen
    if not float(hidden.sum()):
        raise lvm.DataError("perplexity: no document has two words. Fix: give longer documents.")
    tiny = torch.finfo(probs.dtype).tiny
    mixture = _documents(seen, probs.clamp(min=tiny).log(), mixing)
    predicted = mixture / mixture.sum(-1, keepdim=True) @ probs
    return float((-(hidden * predicted.clamp(min=tiny).log()).sum() / hidden.sum()).exp())


def _counts(caller: str, counts: Any, words: int | None = None) -> Tensor:
    """A checked matrix of counts.

    Raises:
        DataError: It is not a matrix of whole numbers of at least 0, or of another number of words.
    """
    x = _arrays.matrix(caller, counts, rows=1)
    bad = torch.nonzero((x < 0) | (x != x.round()))
    if len(bad):
        row, column = bad[0].tolist()
        raise lvm.DataError(
            f"{caller}: counts[{row}, {column}] is {x[row, column].item()}. Fix: give whole numbers of at least 0."
        )
    if words is not None and x.shape[1] != words:
        raise lvm.DataError(
            f"{caller}: counts have {x.shape[1]} columns, the topics {words} words. Fix: use one vocabulary."
        )
    return x
