r"""Language models: each character given those before it, by a recurrent network, a WaveNet or a transformer.

    x_nt ~ Categorical(softmax(net(x_n1, ..., x_n,t-1)_t))           t = 1..T characters, n = 1..N lines
    log p(x_n) = sum_t log P(x_nt | x_n1, ..., x_n,t-1)

The likelihood is exact and no latent is left: ``lvm.fit`` maximises that of the weights. All conditionals of a line take one pass. A
draw goes one character after another; what the network has computed for the earlier ones is kept (``cached=True``), so that it takes
the work of one pass:

| problem | network | what is kept |
|---|---|---|
| ``recurrent_text`` | GRU or LSTM | its state |
| ``wavenet`` | gated causal convolutions with gaps of 1, 2, 4, ... | the last inputs of each, as far back as its gap |
| ``transformer_text`` | causal attention | keys and values of all earlier characters |

Data: the descriptions of data sets that scikit-learn ships (BSD licence) in lower-case letters and spaces, cut into lines of equal
length, which needs no network; or ``text8`` (:func:`pyrolvm_models.datasets.text8`).

References:
    Sutskever, Martens, Hinton (2011). Generating text with recurrent neural networks. ICML.
        https://icml.cc/2011/papers/524_icmlpaper.pdf
    Cho et al. (2014). Learning phrase representations using RNN encoder-decoder. EMNLP. https://arxiv.org/abs/1406.1078
    Hochreiter, Schmidhuber (1997). Long short-term memory. Neural Computation 9(8). https://doi.org/10.1162/neco.1997.9.8.1735
    van den Oord et al. (2016). WaveNet: a generative model for raw audio. https://arxiv.org/abs/1609.03499
    Vaswani et al. (2017). Attention is all you need. NeurIPS. https://arxiv.org/abs/1706.03762
    Paine et al. (2016). Fast WaveNet generation algorithm. https://arxiv.org/abs/1611.09482
"""

from __future__ import annotations

import math
import re
from importlib import resources
from typing import Any

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions import constraints
from torch import Tensor, nn

import pyrolvm as lvm
from pyrolvm_models import _data, datasets
from pyrolvm_models.likelihoods import InOrder, density_problem

__all__ = [
    "Recurrent",
    "Tokens",
    "Transformer",
    "WaveNet",
    "decode",
    "recurrent_text",
    "text_data",
    "transformer_text",
    "wavenet",
]


class Tokens(nn.Module):
    """A model of sequences of whole numbers, each given those before it.

    Args:
        levels: values of a number.
        length: numbers of a sequence that is drawn.
    """

    def __init__(self, levels: int, length: int) -> None:
        super().__init__()
        self.levels, self.length = levels, length

    def outputs(self, before: Tensor) -> Tensor:
        """Logits ``(n, t, levels)`` from what comes before each place, ``(n, t)``, where ``levels`` stands for the beginning."""
        raise NotImplementedError

    def start(self, count: int) -> Any:
        """What is kept before the first number of ``count`` sequences."""
        raise NotImplementedError

    def step(self, kept: Any, before: Tensor) -> tuple[Tensor, Any]:
        """Logits ``(count, levels)`` of the next number after ``before`` ``(count,)``, and what is kept then."""
        raise NotImplementedError

    def logits(self, x: Tensor) -> Tensor:
        """Logits of each number given those before it, ``(n, t, levels)``."""
        return self.outputs(F.pad(x.long(), (1, 0), value=self.levels)[:, :-1])

    def log_prob(self, x: Tensor) -> Tensor:
        """Log probabilities of sequences ``(n, t)``, shape ``(n,)``."""
        each = self.logits(x).log_softmax(-1).gather(-1, x.long().unsqueeze(-1))
        return each.squeeze(-1).sum(-1)

    def in_order(self, count: int) -> InOrder:
        """The distribution of each number of ``count`` sequences given those before it, which are sent."""
        before, kept = torch.full((count,), self.levels), self.start(count)
        for _ in range(self.length):
            logits, kept = self.step(kept, before)
            before = (yield dist.Categorical(logits=logits, validate_args=False)).long()

    @torch.no_grad()
    def sample(self, count: int, *, cached: bool = True, temperature: float = 1.0) -> Tensor:
        """New sequences ``(count, length)``.

        Args:
            count: how many.
            cached: whether what was computed for the earlier numbers is kept; otherwise each takes a pass over all of them.
            temperature: below 1 draws nearer to the likeliest.
        """
        device = next(self.parameters()).device
        before = torch.full((count, 1), self.levels, device=device)
        kept = self.start(count) if cached else None
        for _ in range(self.length):
            if cached:
                logits, kept = self.step(kept, before[:, -1])
            else:
                logits = self.outputs(before)[:, -1]
            drawn = torch.multinomial((logits / temperature).softmax(-1), 1)
            before = torch.cat([before, drawn], dim=1)
        return before[:, 1:]


class Recurrent(Tokens):
    """A recurrent network.

    Args:
        levels: values of a number.
        length: numbers of a sequence that is drawn.
        hidden: units of its state.
        layers: layers.
        cell: ``"gru"`` or ``"lstm"``.
        dropout: the share of units that a training step leaves out between layers and at the end.
    """

    def __init__(self, levels: int, length: int, *, hidden: int, layers: int, cell: str, dropout: float = 0.0) -> None:
        super().__init__(levels, length)
        self.embedding = nn.Embedding(levels + 1, hidden)
        kind: Any = nn.GRU if cell == "gru" else nn.LSTM
        self.network = kind(hidden, hidden, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(hidden, levels))

    def outputs(self, before: Tensor) -> Tensor:
        """See :class:`Tokens`."""
        return self.head(self.network(self.embedding(before))[0])

    def start(self, count: int) -> Any:
        """See :class:`Tokens`."""
        return None  # zeros, by torch's convention

    def step(self, kept: Any, before: Tensor) -> tuple[Tensor, Any]:
        """See :class:`Tokens`."""
        out, kept = self.network(self.embedding(before[:, None]), kept)
        return self.head(out[:, 0]), kept


class WaveNet(Tokens):
    """Gated causal convolutions of two places each, with gaps that double from layer to layer.

    Args:
        levels: values of a number.
        length: numbers of a sequence that is drawn.
        channels: channels of the residual stream.
        layers: layers; together they see ``2**layers`` places.
        dropout: the share of channels that a training step leaves out.
    """

    def __init__(self, levels: int, length: int, *, channels: int, layers: int, dropout: float = 0.0) -> None:
        super().__init__(levels, length)
        self.embedding = nn.Embedding(levels + 1, channels)
        self.gaps = [2**i for i in range(layers)]
        self.convolutions = nn.ModuleList([nn.Conv1d(channels, 2 * channels, 2, dilation=gap) for gap in self.gaps])
        self.residuals = nn.ModuleList([nn.Conv1d(channels, channels, 1) for _ in self.gaps])
        self.skips = nn.ModuleList([nn.Conv1d(channels, channels, 1) for _ in self.gaps])
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Sequential(
            nn.ReLU(), nn.Conv1d(channels, channels, 1), nn.ReLU(), nn.Conv1d(channels, levels, 1)
        )

    def _layer(self, i: int, padded: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """The residual stream after layer ``i``, and what it adds to the output."""
        a, b = self.convolutions[i](padded).chunk(2, dim=1)
        gated = self.dropout(torch.tanh(a) * torch.sigmoid(b))
        return x + self.residuals[i](gated), self.skips[i](gated)

    def outputs(self, before: Tensor) -> Tensor:
        """See :class:`Tokens`."""
        x = self.embedding(before).mT
        total: Tensor | float = 0.0
        for i, gap in enumerate(self.gaps):
            x, skip = self._layer(i, F.pad(x, (gap, 0)), x)
            total = total + skip
        return self.head(total).mT

    def start(self, count: int) -> list[Tensor]:
        """See :class:`Tokens`: a queue for each layer, as long as its gap."""
        like = self.embedding.weight
        return [like.new_zeros(count, like.shape[1], gap) for gap in self.gaps]

    def step(self, kept: list[Tensor], before: Tensor) -> tuple[Tensor, list[Tensor]]:
        """See :class:`Tokens`."""
        x = self.embedding(before).unsqueeze(-1)
        total: Tensor | float = 0.0
        queues = []
        for i, queue in enumerate(kept):
            line = torch.cat([queue, x], dim=-1)
            queues.append(line[..., 1:])
            x, skip = self._layer(i, line, x)
            total = total + skip
        return self.head(total)[..., 0], queues


class Transformer(Tokens):
    """A transformer decoder with normalisation before each part.

    Args:
        levels: values of a number.
        length: numbers of a sequence at most, which have learned positions.
        width: width of the residual stream.
        heads: attention heads, of which ``width`` is a multiple.
        layers: layers.
        dropout: the share of units that a training step leaves out.
    """

    def __init__(self, levels: int, length: int, *, width: int, heads: int, layers: int, dropout: float = 0.0) -> None:
        super().__init__(levels, length)
        self.embedding, self.position = nn.Embedding(levels + 1, width), nn.Embedding(length, width)
        self.layers = nn.ModuleList([_Attending(width, heads, dropout) for _ in range(layers)])
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, levels))
        for weight in (self.embedding.weight, self.position.weight):
            nn.init.normal_(weight, std=1 / math.sqrt(width))

    def outputs(self, before: Tensor) -> Tensor:
        """See :class:`Tokens`."""
        x = self.embedding(before) + self.position.weight[: before.shape[1]]
        for layer in self.layers:
            x, _ = layer(x, None)
        return self.head(x)

    def start(self, count: int) -> list[tuple[Tensor, Tensor]]:
        """See :class:`Tokens`: keys and values of no character yet, for each layer."""
        empty = [layer.empty(count) for layer in self.layers]  # type: ignore[operator]
        return empty

    def step(self, kept: list[tuple[Tensor, Tensor]], before: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """See :class:`Tokens`."""
        x = (self.embedding(before) + self.position.weight[kept[0][0].shape[2]]).unsqueeze(1)
        after = []
        for layer, pair in zip(self.layers, kept, strict=True):
            x, pair = layer(x, pair)
            after.append(pair)
        return self.head(x)[:, 0], after


class _Attending(nn.Module):
    """Causal attention and a perceptron, each added to what comes in."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, nn.Dropout(dropout)
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.perceptron = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def empty(self, count: int) -> tuple[Tensor, Tensor]:
        """Keys and values of nothing."""
        none = self.out.weight.new_zeros(count, self.heads, 0, self.out.in_features // self.heads)
        return none, none

    def forward(self, x: Tensor, kept: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The stream ``(n, t, width)`` after the layer, and keys and values so far."""
        parts = self.project(self.first(x)).unflatten(-1, (3, self.heads, -1)).movedim((2, 3), (0, 2))
        query, key, value = parts.unbind(0)  # each (n, heads, t, width / heads)
        if kept is not None:
            key, value = torch.cat([kept[0], key], dim=2), torch.cat([kept[1], value], dim=2)
        heard = F.scaled_dot_product_attention(query, key, value, is_causal=kept is None)
        x = x + self.dropout(self.out(heard.transpose(1, 2).flatten(2)))
        return x + self.dropout(self.perceptron(self.second(x))), (key, value)


# --- data and problems ------------------------------------------------------------------------------------------------


def text_data(text: str, length: int, lines: int | None = None, *, part: str = "train") -> Tensor:
    """Lines of text as codes of :data:`pyrolvm_models.datasets.ALPHABET`, a space and 26 letters.

    Args:
        text: ``"descriptions"``, those of scikit-learn's data sets; or ``"text8"``, the beginning of Wikipedia of 2006.
        length: characters of a line.
        lines: only the first so many; all by default.
        part: ``"train"``, or ``"test"``: of the descriptions every tenth line.

    Returns:
        Codes, shape ``(n, length)``, int64.

    Raises:
        ArgumentError: There is no such text, or it has not so many lines.
    """
    if text not in ("descriptions", "text8"):
        raise lvm.ArgumentError(f"option 'text' of a language model is {text!r}. Fix: use 'descriptions' or 'text8'.")
    length = _data.check_count("text", "length", length)
    if text == "text8":
        codes = getattr(datasets.text8(), part)
        rows = codes[: len(codes) // length * length].reshape(-1, length)
    else:
        folder = resources.files("sklearn.datasets.descr")
        files = sorted((file for file in folder.iterdir() if file.name.endswith(".rst")), key=lambda file: file.name)
        letters = " ".join(re.sub("[^a-z]+", " ", file.read_text(encoding="utf-8").lower()).strip() for file in files)
        code = {letter: i for i, letter in enumerate(datasets.ALPHABET)}
        codes = torch.tensor([code[letter] for letter in letters])
        all_rows = codes[: len(codes) // length * length].reshape(-1, length)
        held = torch.arange(len(all_rows)) % 10 == 9
        rows = all_rows[held if part == "test" else ~held]
    return rows[: _data.check_count("text", "lines", lines, len(rows)) if lines is not None else None].long()


def decode(codes: Tensor) -> list[str]:
    """Lines ``(n, length)`` of codes as text."""
    return ["".join(datasets.ALPHABET[int(code)] for code in line) for line in codes]


def _text_problem(
    network: type[Tokens], text: str, length: int, lines: int | None, seed: int, **options: Any
) -> lvm.Problem:
    x = text_data(text, length, lines)
    levels = len(datasets.ALPHABET)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        module = network(levels, length, **options)
    return density_problem(x, module, support=constraints.integer_interval(0, levels - 1))


def recurrent_text(
    *,
    cell: str = "gru",
    hidden: int = 64,
    layers: int = 1,
    dropout: float = 0.0,
    text: str = "descriptions",
    length: int = 32,
    lines: int | None = None,
    seed: int = 0,
) -> lvm.Problem:
    """A recurrent language model.

    Args:
        cell: ``"gru"`` or ``"lstm"``.
        hidden: units of the state.
        layers: layers.
        dropout: the share of units that a training step leaves out.
        text: ``"descriptions"`` or ``"text8"``.
        length: characters of a line.
        lines: only the first so many lines; all of the training part by default.
        seed: of the initial weights.
    """
    if cell not in ("gru", "lstm"):
        raise lvm.ArgumentError(f"option 'cell' of problem 'recurrent_text' is {cell!r}. Fix: use 'gru' or 'lstm'.")
    _data.check_count("recurrent_text", "hidden", hidden)
    _data.check_count("recurrent_text", "layers", layers)
    return _text_problem(Recurrent, text, length, lines, seed, cell=cell, hidden=hidden, layers=layers, dropout=dropout)


def wavenet(
    *,
    channels: int = 48,
    layers: int = 5,
    dropout: float = 0.0,
    text: str = "descriptions",
    length: int = 32,
    lines: int | None = None,
    seed: int = 0,
) -> lvm.Problem:
    """A WaveNet of characters.

    Args:
        channels: channels of the residual stream.
        layers: layers; they see ``2**layers`` characters.
        dropout: the share of channels that a training step leaves out.
        text: ``"descriptions"`` or ``"text8"``.
        length: characters of a line.
        lines: only the first so many lines; all of the training part by default.
        seed: of the initial weights.
    """
    _data.check_count("wavenet", "channels", channels)
    _data.check_count("wavenet", "layers", layers)
    return _text_problem(WaveNet, text, length, lines, seed, channels=channels, layers=layers, dropout=dropout)


def transformer_text(
    *,
    width: int = 64,
    heads: int = 4,
    layers: int = 2,
    dropout: float = 0.1,
    text: str = "descriptions",
    length: int = 32,
    lines: int | None = None,
    seed: int = 0,
) -> lvm.Problem:
    """A transformer language model.

    Args:
        width: width of the residual stream.
        heads: attention heads, of which ``width`` is a multiple.
        layers: layers.
        dropout: the share of units that a training step leaves out.
        text: ``"descriptions"`` or ``"text8"``.
        length: characters of a line.
        lines: only the first so many lines; all of the training part by default.
        seed: of the initial weights.
    """
    for option, value in (("width", width), ("heads", heads), ("layers", layers)):
        _data.check_count("transformer_text", option, value)
    if width % heads:
        raise lvm.ArgumentError(
            f"option 'width' of problem 'transformer_text' is {width}, no multiple of heads={heads}. Fix: give a multiple."
        )
    return _text_problem(
        Transformer, text, length, lines, seed, width=width, heads=heads, layers=layers, dropout=dropout
    )
