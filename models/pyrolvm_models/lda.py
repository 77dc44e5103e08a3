r"""Latent Dirichlet allocation: what paragraphs of documentation are about, from which words they have.

    topic_k   ~ Dirichlet(0.1, ..., 0.1)             k = 1..K topics, each a distribution over V words
    mixture_d ~ Dirichlet(0.5, ..., 0.5)             d = 1..D documents (local), each a distribution over topics
    x_d       ~ Multinomial(n_d, mixture_d topic)    how often document d has each word

Graph: ``mixture_d -> x_d <- topic_k, n_d`` with a plate over the documents. The topic of each single word is summed out: a word of
document ``d`` is ``v`` with probability ``sum_k mixture_dk topic_kv``, so the cost does not grow with the words, and no site is
discrete. Documents can be taken in minibatches.

What variational inference loses: topics have no names, ``K!`` copies of each mode, and documents are short, so there are minor modes
as well. Gaussians live in stick-breaking coordinates, where a probability that may be 0 has a long tail to one side; the Dirichlet
of :func:`variational_bayes`, which has topics and mixtures independent, follows that tail but is narrow for the same reason as
mean-field: a topic's words and the documents that have it move together. Compare ``quantities``, which do not see names.
``guide="amortized"`` reads a document and gives its mixture, also for new ones.

Data: the descriptions of data sets that scikit-learn ships (BSD licence), by paragraph, with the words of at least three letters that
most paragraphs have, without stop words. They change a little with its version.

References:
    Blei, D. M., Ng, A. Y., Jordan, M. I. (2003). Latent Dirichlet allocation. Journal of Machine Learning Research 3, 993-1022.
        https://www.jmlr.org/papers/v3/blei03a.html
    Srivastava, A., Sutton, C. (2017). Autoencoding variational inference for topic models. ICLR.
        https://arxiv.org/abs/1703.01488
    Wallach, H. M., Murray, I., Salakhutdinov, R., Mimno, D. (2009). Evaluation methods for topic models. ICML.
        https://doi.org/10.1145/1553374.1553515
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import resources
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

import pyrolvm as lvm
from pyrolvm_models import _data
from pyrolvm_models._topics import Topics, perplexity, variational_bayes

__all__ = ["TEXTS", "Corpus", "Topics", "WordCounts", "corpus", "lda", "perplexity", "variational_bayes"]

Draw = Mapping[str, Tensor]

MIXING, SPARSITY = 0.5, 0.1
"""Concentrations of the Dirichlet priors of mixtures and of topics."""

FEWEST = 4
"""Words of the vocabulary that a paragraph has to have."""

PAIRS = 4
"""Pairs of documents of the quantity ``same_topic``: the first ones and their neighbours."""


@dataclass(frozen=True)
class Corpus:
    """Documents as counts of words.

    Attributes:
        counts: How often each document has each word, shape ``(documents, words)``, double precision.
        words: The vocabulary, most widespread first.
        titles: Where each document is from.
    """

    counts: Tensor
    words: tuple[str, ...]
    titles: tuple[str, ...]


TEXTS = ("sklearn", "python")
"""Texts that ship with packages: scikit-learn's descriptions of data sets, and Python's reference."""


def corpus(words: int, text: str = "sklearn") -> Corpus:
    """Paragraphs of a text that ships with a package.

    Args:
        words: Size of the vocabulary, positive.
        text: ``"sklearn"``, scikit-learn's descriptions of data sets, some hundred paragraphs; or ``"python"``, the language
            reference that ``help()`` shows, some two thousand.

    Returns:
        Those of at least four words of the vocabulary.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    try:
        from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS as stop
    except ImportError as error:
        raise ImportError("the texts come with scikit-learn. Fix: pip install scikit-learn.") from error
    paragraphs = []
    for title, content in _pages(text):
        for number, part in enumerate(re.split(r"\n\s*\n", content.lower())):
            found = [word for word in re.findall(r"[a-z]{3,}", part) if word not in stop]
            paragraphs.append((f"{title} {number}", Counter(found)))
    spread = Counter(word for _, counted in paragraphs for word in counted)
    kept = sorted(spread, key=lambda word: (-spread[word], word))[:words]
    rows = [(title, [counted[word] for word in kept]) for title, counted in paragraphs]
    rows = [(title, row) for title, row in rows if sum(row) >= FEWEST]
    counts = torch.tensor([row for _, row in rows], dtype=torch.float64)
    return Corpus(counts, tuple(kept), tuple(title for title, _ in rows))


def _pages(text: str) -> list[tuple[str, str]]:
    """Titles and contents, in the order of the titles; of pages that repeat each other, the first."""
    if text == "python":
        from pydoc_data.topics import topics

        pages = {content: title for title, content in sorted(topics.items(), reverse=True)}
        return sorted((title, content) for content, title in pages.items())
    files = (file for file in resources.files("sklearn.datasets.descr").iterdir() if file.name.endswith(".rst"))
    return [
        (file.name.removesuffix(".rst"), file.read_text(encoding="utf-8"))
        for file in sorted(files, key=lambda file: file.name)
    ]


class WordCounts(dist.TorchDistribution):
    """Multinomial counts, of a total of its own for each document.

    Args:
        probs: Probability of each word, shape ``(..., v)``.
        total: Number of words, shape ``(...)``.
    """

    arg_constraints = {"probs": constraints.simplex, "total": constraints.nonnegative_integer}  # noqa: RUF012
    support = constraints.independent(constraints.nonnegative_integer, 1)
    has_rsample = False

    def __init__(self, probs: Tensor, total: Tensor, *, validate_args: bool | None = None) -> None:
        self.probs, self.total = probs, total
        batch = torch.broadcast_shapes(probs.shape[:-1], total.shape)
        super().__init__(batch, probs.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> WordCounts:
        """The same distribution for each element of a batch."""
        batch = torch.Size(batch_shape)
        return WordCounts(self.probs.expand(batch + self.event_shape), self.total.expand(batch), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability of counts ``(..., v)``, shape ``(...)``."""
        ways = torch.lgamma(self.total + 1) - torch.lgamma(value + 1).sum(-1)
        return ways + (value * self.probs.log()).sum(-1)

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Counts of shape ``sample_shape + batch_shape + (v,)``."""
        shape = torch.Size(sample_shape) + self.batch_shape
        probs, total = self.probs.expand(shape + self.event_shape), self.total.expand(shape)
        most = int(total.max()) if total.numel() else 0
        drawn = dist.Categorical(probs).sample(torch.Size([most])).movedim(0, -1)
        real = (torch.arange(most, device=total.device) < total.unsqueeze(-1)).to(probs)
        return torch.zeros_like(probs).scatter_add(-1, drawn, real)


def same_topic(draw: Draw) -> Tensor:
    """Probability that a word of one document and one of the next have the same topic, for the first pairs, ``(pairs,)``."""
    mixture = draw["mixture"]
    return (mixture[: 2 * PAIRS : 2] * mixture[1 : 2 * PAIRS : 2]).sum(-1)


def log_likelihood(counts: Tensor, draw: Draw) -> Tensor:
    """Log probability of all words in their order, ``()``."""
    return (counts.to(draw["topic"]) * (draw["mixture"] @ draw["topic"]).log()).sum()


def word_rates(columns: Tensor, draw: Draw) -> Tensor:
    """Probability of a few words in the first documents, shape ``(pairs, words)``."""
    return (draw["mixture"][:PAIRS] @ draw["topic"]).index_select(-1, columns.to(draw["topic"].device))


def lda(*, topics: int = 3, words: int = 40, documents: int | None = None) -> lvm.Problem:
    """Paragraphs of scikit-learn's documentation as mixtures of topics.

    Args:
        topics: Number of topics ``K``, from 1 to 20.
        words: Size of the vocabulary ``V``, from 4 to 1,000.
        documents: Use only the first so many paragraphs, at least 8; all by default.

    Returns:
        The problem; its ``quantities`` are ``same_topic``, the probability ``word_rate`` of a few words in a few documents, and
        ``log_lik``.

    Raises:
        ArgumentError: An option is out of range.
        ImportError: scikit-learn is not installed.
    """
    k = _data.check_count("lda", "topics", topics, 20)
    v = _data.check_count("lda", "words", words, 1000)
    if v < PAIRS:
        raise lvm.ArgumentError(f"problem 'lda': words is {words!r}. Fix: give at least {PAIRS}.")
    texts = corpus(v)
    v = len(texts.words)
    n = len(texts.counts) if documents is None else _data.check_count("lda", "documents", documents, len(texts.counts))
    if n < 2 * PAIRS:
        raise lvm.ArgumentError(f"problem 'lda': documents is {documents!r}. Fix: give at least {2 * PAIRS}.")
    counts = texts.counts[:n]
    columns = torch.arange(PAIRS)
    quantities: dict[str, Callable[[Draw], Tensor]] = {
        "same_topic": same_topic,
        "word_rate": partial(word_rates, columns),
        "log_lik": partial(log_likelihood, counts),
    }

    @lvm.model(
        dims={
            "topic": ["component", "word"],
            "mixture": ["document", "component"],
            "x": ["document", "word"],
            "same_topic": ["pair"],
            "word_rate": ["some", "common"],
        },
        coords={
            "word": list(texts.words),
            "component": list(range(k)),
            "pair": [f"{2 * i}-{2 * i + 1}" for i in range(PAIRS)],
            "some": list(range(PAIRS)),
            "common": list(texts.words[:PAIRS]),
        },
        quantities=quantities,
    )
    def allocation(x: Tensor) -> None:
        """Counts ``x`` ``(documents, words)`` of words whose topics are summed out."""
        topic = pyro.sample("topic", dist.Dirichlet(x.new_full((v,), SPARSITY)).expand([k]).to_event(1))
        with pyro.plate("document", len(x)):
            mixture = pyro.sample("mixture", dist.Dirichlet(x.new_full((k,), MIXING)))
            probs = (mixture.unsqueeze(-2) @ topic).squeeze(-2)
            pyro.sample("x", WordCounts(probs, x.sum(-1)), obs=x)

    return lvm.Problem(allocation, counts)
