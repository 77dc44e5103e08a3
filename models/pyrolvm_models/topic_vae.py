r"""Neural topic models: what documents are about, read by an encoder, with mixtures that are Dirichlet, logistic normal or Gamma.

    theta_d ~ prior                                  k topics
    x_d     ~ Multinomial(n_d, words(theta_d))       how often document d has each of v words

with ``mixing="dirichlet"``: ``theta ~ Dirichlet(0.1, ..., 0.1)``, and the guide a Dirichlet whose concentrations a network reads from
the document; ``"logistic_normal"``: ``theta = softmax(h)``, ``h ~ Normal(0, s^2 I)`` with the variance of the softmax basis of that
Dirichlet, and the guide a Gaussian; ``"gamma"``: ``theta_k ~ Gamma(0.3, 0.3)`` and ``x_dv ~ Poisson(rate_d sum_k theta_k topic_kv)``,
of which the rate is the document's length, and the guide independent Gammas. ``words(theta)`` is ``theta @ softmax(B)``, a mixture of
topics as in latent Dirichlet allocation; or, with ``product=True``, ``softmax(theta @ B)``, a product of experts (ProdLDA).

Graph: ``theta_d -> x_d <- n_d`` with a plate over the documents. Topics ``B`` are learnable parameters.

What variational inference loses: one encoder for all documents, and, in a Gaussian guide, the corners of the simplex. Gamma and
Dirichlet draws are differentiated implicitly. Topics can collapse: components that no document has early on are never learned, and
get fewer as the concentration gets smaller. ``guide="auto"`` is the family of the prior.

Data: Python's language reference, which the standard library ships for ``help()`` (PSF licence), by paragraph, with words of at least
three letters, without stop words; or scikit-learn's descriptions of data sets, as in :mod:`pyrolvm_models.lda`. One paragraph
in five is the test. They change a little with the versions.

References:
    Srivastava, A., Sutton, C. (2017). Autoencoding variational inference for topic models. ICLR. https://arxiv.org/abs/1703.01488
    Burkhardt, S., Kramer, S. (2019). Decoupling sparsity and smoothness in the Dirichlet variational autoencoder topic model.
        Journal of Machine Learning Research 20(131), 1-27. https://www.jmlr.org/papers/v20/18-569.html
    Figurnov, M., Mohamed, S., Mnih, A. (2018). Implicit reparameterization gradients. NeurIPS. https://arxiv.org/abs/1805.08498
    Ranganath, R. et al. (2015). Deep exponential families. AISTATS. https://arxiv.org/abs/1411.2581
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pyrolvm as lvm
from pyrolvm_models import _arrays, _data, _images
from pyrolvm_models._nets import dense, fresh
from pyrolvm_models.lda import TEXTS, WordCounts, corpus

__all__ = ["TopicWords", "document_topics", "topic_vae"]

MIXINGS = ("dirichlet", "logistic_normal", "gamma")

CONCENTRATION, SHAPE = 0.1, 0.3
"""Of the Dirichlet prior, and shape and rate of the Gamma prior."""

TEST_EVERY = 5
"""One paragraph in so many is held out."""


class TopicWords(nn.Module):
    """Words of topics.

    Args:
        topics: Number of topics.
        words: Size of the vocabulary.
        product: Whether the words of a mixture are the product of experts.
        start: The log frequencies of words, shape ``(words,)``, which a product of experts starts from.
        generator: Source of the initial weights.
    """

    def __init__(self, topics: int, words: int, product: bool, start: Tensor, generator: torch.Generator) -> None:
        super().__init__()
        self.product = product
        noise = torch.randn(topics, words, generator=generator)
        if product:
            self.weight = nn.Parameter(noise)
            self.bias = nn.Parameter(start.clone())
        else:
            self.weight = nn.Parameter(start + noise)

    def forward(self, theta: Tensor) -> Tensor:
        """Probability, or rate for each unit of length, of each word, ``(..., words)``, of mixtures ``(..., topics)``."""
        if self.product:
            return torch.softmax(theta @ self.weight + self.bias, -1)
        return theta @ torch.softmax(self.weight, -1)


class _Reader(nn.Module):
    """The guide: from the counts of a document to the family of its mixture."""

    def __init__(self, words: int, hidden: Sequence[int], topics: int, mixing: str) -> None:
        super().__init__()
        self.mixing = mixing
        self.net = dense(words, hidden, topics if mixing == "dirichlet" else 2 * topics, fresh(), gain=0.1)

    def forward(self, x: Tensor, decoder: nn.Module) -> None:
        share = x / x.sum(-1, keepdim=True).clamp(min=1)
        out = self.net(share * x.shape[-1] ** 0.5)
        with pyro.plate("document", len(x)):
            if self.mixing == "dirichlet":
                pyro.sample("theta", dist.Dirichlet(1e-2 + F.softplus(out)))
                return
            first, second = out.chunk(2, -1)
            if self.mixing == "gamma":
                shape = 1e-2 + F.softplus(first)
                pyro.sample("theta", dist.Gamma(shape, 1e-2 + F.softplus(second)).to_event(1))
            else:
                pyro.sample("h", dist.Normal(first, F.softplus(second + 1) + 1e-3).to_event(1))


def document_topics(theta: Tensor) -> Tensor:
    """Shares of topics in documents, of whatever the latent is scaled to: ``(..., topics)``, each row of sum 1."""
    return theta / theta.sum(-1, keepdim=True)


def topic_vae(
    *,
    text: str = "python",
    split: str = "train",
    documents: int | None = None,
    words: int = 200,
    topics: int = 10,
    mixing: str = "dirichlet",
    product: bool = False,
    hidden: int | Sequence[int] = 64,
    seed: int = 0,
) -> lvm.Problem:
    """Paragraphs of Python's reference under a neural topic model.

    Args:
        text: ``"python"`` or ``"sklearn"``.
        split: ``"train"`` or ``"test"``, every fifth paragraph.
        documents: Use only the first so many paragraphs; all by default.
        words: Size of the vocabulary.
        topics: Number of topics, at least 2.
        mixing: ``"dirichlet"``, ``"logistic_normal"`` or ``"gamma"``.
        product: Whether the words of a mixture are a product of experts (ProdLDA).
        hidden: Units of the encoder's hidden layers.
        seed: Seed of the initial weights.

    Returns:
        The problem.

    Raises:
        ArgumentError: An option is out of range.
        ImportError: scikit-learn, whose stop words are used, is not installed.
    """
    owner = "topic_vae"
    _images.choose(owner, "text", text, TEXTS)
    _images.choose(owner, "split", split, ("train", "test"))
    _images.choose(owner, "mixing", mixing, MIXINGS)
    sizes = _images.sizes(owner, "hidden", hidden)
    vocabulary = _data.check_count(owner, "words", words, 5000)
    if product and mixing == "gamma":
        raise lvm.ArgumentError(
            f"problem {owner!r}: a product of experts has no rates for Poisson counts. Fix: leave product out, or take another mixing."
        )
    texts = corpus(vocabulary, text)
    held_out = torch.arange(len(texts.counts)) % TEST_EVERY == TEST_EVERY - 1
    counts = texts.counts[held_out if split == "test" else ~held_out]
    if documents is not None:
        counts = counts[: _data.check_count(owner, "documents", documents, len(counts))]
    # Word frequencies are those of the training part whichever part is asked for, so that both start from the same topics.
    start = (texts.counts[~held_out].sum(0) + 1).log()
    return topic_model(
        counts,
        list(texts.words),
        topics=topics,
        mixing=mixing,
        product=product,
        hidden=sizes,
        seed=seed,
        frequencies=start,
    )


def topic_model(
    counts: Any,
    words: Sequence[str],
    *,
    topics: int = 10,
    mixing: str = "dirichlet",
    product: bool = False,
    hidden: Sequence[int] = (64,),
    seed: int = 0,
    frequencies: Tensor | None = None,
) -> lvm.Problem:
    """Documents of your own under a neural topic model; for the options see :func:`topic_vae`.

    Args:
        counts: How often each document has each word, shape ``(documents, words)``, whole numbers.
        words: The vocabulary.
        topics: Number of topics.
        mixing: The prior of a document's mixture.
        product: Whether the words of a mixture are a product of experts.
        hidden: Units of the encoder's hidden layers.
        seed: Seed of the initial weights.
        frequencies: Log frequencies that topics start from, shape ``(words,)``; by default those of the documents.

    Returns:
        The problem.

    Raises:
        ArgumentError: An option is out of range.
        DataError: Counts are not whole, or a document is empty.
    """
    owner = "topic_vae"
    k = _data.check_count(owner, "topics", topics, 500)
    if k < 2:
        raise lvm.ArgumentError(f"option 'topics' of problem {owner!r} is 1: nothing to mix. Fix: give 2 or more.")
    x = _arrays.matrix(owner, counts, rows=1)
    bad = ((x < 0) | (x != x.round())).nonzero()
    if len(bad):
        row, column = bad[0].tolist()
        raise lvm.DataError(
            f"{owner}: counts[{row}, {column}] is {x[row, column].item():g}. Fix: give whole numbers of at least 0."
        )
    empty = (x.sum(-1) == 0).nonzero().flatten()
    if len(empty):
        raise lvm.DataError(f"{owner}: document {int(empty[0])} has no word of the vocabulary. Fix: leave it out.")
    x = x.to(torch.get_default_dtype())
    begin = (x.sum(0) + 1).log() if frequencies is None else frequencies.to(x)
    decoder = TopicWords(k, x.shape[1], product, begin - begin.logsumexp(0), torch.Generator().manual_seed(seed))
    # The variance of log(theta) - mean(log(theta)) under the Dirichlet, by Laplace's method (Srivastava and Sutton, section 3.2).
    spread = ((1 - 1 / k) / CONCENTRATION) ** 0.5
    latent = "h" if mixing == "logistic_normal" else "theta"

    def guide(problem: lvm.Problem) -> nn.Module:
        """Reads the mixture of a document from its words."""
        return _Reader(x.shape[1], hidden, k, mixing)

    @lvm.model(
        dims={latent: ["document", "topic"], "x": ["document", "word"]},
        coords={"word": list(words), "topic": list(range(k))},
        guide=lvm.Guide(mixing, guide),
    )
    def topic(x: Tensor, decoder: nn.Module) -> None:
        """Counts ``x`` ``(documents, words)`` of a few topics each."""
        pyro.module("decoder", decoder)
        total = x.sum(-1)
        with pyro.plate("document", len(x)):
            if mixing == "gamma":
                prior = dist.Gamma(x.new_full((k,), SHAPE), x.new_full((k,), SHAPE))
                theta = pyro.sample("theta", prior.to_event(1))
                rate = decoder(theta) * (total / k).unsqueeze(-1)
                pyro.sample("x", dist.Poisson(rate.clamp(min=torch.finfo(x.dtype).tiny)).to_event(1), obs=x)
                return
            if mixing == "dirichlet":
                theta = pyro.sample("theta", dist.Dirichlet(x.new_full((k,), CONCENTRATION)))
            else:
                h = pyro.sample("h", dist.Normal(x.new_zeros(k), spread).to_event(1))
                theta = torch.softmax(h, -1)
            pyro.sample("x", WordCounts(decoder(theta), total), obs=x)

    return lvm.Problem(topic, x, decoder)
