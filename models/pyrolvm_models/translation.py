r"""Translation with a latent: dates in digits to dates in words, of which each has several that are right.

    z_n   ~ Normal(0, I)                                                  what the source leaves open
    y_nt  ~ Categorical(softmax(net(s_n, z_n, y_n,t-1, ..., y_n,t-w, t)))     t = 1..T characters of the translation

Graph: ``(s_n, z_n) -> y_nt <- y_n,<t`` with a plate over the pairs. The source ``s`` is given, the translation is text, character by
character given the ``w`` before, the source and the code. One source has several translations, and a code says which: draws for a
source are different, and right. Without the code a decoder of so short a memory mixes ways of writing within a line.

What variational inference loses: what ``vae`` does. The decoder sees characters before, so that it could do without the code for all
but the first, and the posterior of a code that is not needed collapses onto the prior (``lvm.gaps``).

Data: made by rule, all 366 days of a leap year in five ways of writing (``march 14``, ``the 14th of march``, ...), of which every fifth
day is held out in all of them; no natural text. Pairs of your own: :func:`translator`.

References:
    Sohn, K., Lee, H., Yan, X. (2015). Learning structured output representation using deep conditional generative models. NeurIPS.
        https://proceedings.neurips.cc/paper/2015/hash/8d55a249e6baa5c06772297520da2051-Abstract.html
    Zhang, B., Xiong, D., Su, J., Duan, H., Zhang, M. (2016). Variational neural machine translation. EMNLP.
        https://arxiv.org/abs/1605.07869
    Bowman, S. R. et al. (2016). Generating sentences from a continuous space. CoNLL. https://arxiv.org/abs/1511.06349
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions import constraints
from torch import Tensor, nn

import pyrolvm as lvm
from pyrolvm_models import _data, _images
from pyrolvm_models._nets import dense, fresh
from pyrolvm_models.likelihoods import InOrder, drawn

__all__ = ["Writer", "dates", "decode", "encode", "translate", "translation", "translator"]

LETTERS = " abcdefghijklmnopqrstuvwxyz0123456789"
"""What text is made of; blanks fill a line."""

MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november", "december",
)  # fmt: skip
DAYS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
HELD = 5
"""Every so manieth day is held out."""


def ways(month: int, day: int) -> list[str]:
    """How a day of a month, both from 1, may be written."""
    name = MONTHS[month - 1]
    end = "th" if 11 <= day <= 13 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
    return [
        f"{name} {day}",
        f"{day} {name}",
        f"the {day}{end} of {name}",
        f"{name[:3]} {day}",
        f"{name} the {day}{end}",
    ]


def dates(split: str = "train") -> list[tuple[str, str]]:
    """Pairs of a date in digits, month and day, and a way to write it; each day has one for each of :func:`ways`.

    Args:
        split: ``"train"``, or ``"test"``: every fifth day.
    """
    days = [(month + 1, day + 1) for month, count in enumerate(DAYS) for day in range(count)]
    chosen = [day for i, day in enumerate(days) if (i % HELD == HELD - 1) == (split == "test")]
    return [(f"{month:02d}{day:02d}", way) for month, day in chosen for way in ways(month, day)]


def encode(lines: Sequence[str], length: int) -> Tensor:
    """Lines as codes of :data:`LETTERS` ``(n, length)``, filled up by blanks.

    Raises:
        DataError: A line is longer, or has a letter that there is not.
    """
    code = {letter: i for i, letter in enumerate(LETTERS)}
    for line in lines:
        strange = next((letter for letter in line if letter not in code), None)
        if strange is not None or len(line) > length:
            what = f"has {strange!r}" if strange is not None else f"has {len(line)} letters, more than {length}"
            raise lvm.DataError(
                f"translation: {line!r} {what}. Fix: give lines of at most {length} letters among {LETTERS!r}."
            )
    return torch.tensor([[code[letter] for letter in line.ljust(length)] for line in lines])


def decode(codes: Tensor) -> list[str]:
    """Lines of codes ``(n, length)``, without blanks at the end."""
    return ["".join(LETTERS[int(code)] for code in line).rstrip() for line in codes]


class Writer(nn.Module):
    """Logits of each letter given source, code, place, and a few letters before.

    Args:
        source: letters of a source.
        length: letters of a translation.
        latent: numbers of a code.
        memory: letters before that are seen.
        hidden: units of the hidden layers.
        generator: source of the initial weights.
    """

    def __init__(
        self, source: int, length: int, latent: int, memory: int, hidden: Sequence[int], generator: torch.Generator
    ) -> None:
        super().__init__()
        self.source, self.length, self.memory = source, length, memory
        count = len(LETTERS)
        self.net = dense(latent + length + count * (source + memory), hidden, count, generator)
        self.register_buffer("places", torch.eye(length))

    def forward(self, source: Tensor, z: Tensor, before: Tensor, places: slice) -> Tensor:
        """Logits ``(..., t, letters)`` at some places, given the letters before each, one-hot ``(..., t, memory, letters)``."""
        here: Any = self.places
        here = here[places]
        given = torch.cat([z, F.one_hot(source.long(), len(LETTERS)).to(z).flatten(-2).expand(*z.shape[:-1], -1)], -1)
        shape = (*before.shape[:-2], -1)
        known = given.unsqueeze(-2).expand(shape)
        out: Tensor = self.net(torch.cat([known, here.expand(shape), before.flatten(-2)], -1))
        return out


class Written(dist.TorchDistribution):
    """Lines of letters, each given a few before it.

    Args:
        writer: the network.
        source: of each line, ``(n, source)``.
        z: its code, ``(..., n, latent)``.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    support = constraints.independent(constraints.integer_interval(0, len(LETTERS) - 1), 1)
    has_rsample = False

    def __init__(self, writer: Any, source: Tensor, z: Tensor) -> None:
        self.writer, self.source, self.z = writer, source, z
        super().__init__(z.shape[:-1], torch.Size([writer.length]), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Written:
        """The same law for another batch."""
        return Written(self.writer, self.source, self.z.expand(*batch_shape, self.z.shape[-1]))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability of lines ``(..., length)``, shape ``(...)``."""
        letters = F.one_hot(value.long(), len(LETTERS)).to(self.z)
        memory = self.writer.memory
        padded = F.pad(letters, (0, 0, memory, 0))
        before = torch.stack([padded[..., t : t + memory, :] for t in range(self.writer.length)], -3)
        before = before.expand(*self.batch_shape, *before.shape[-3:])
        logits = self.writer(self.source, self.z, before, slice(None))
        return (logits.log_softmax(-1) * letters).sum((-1, -2))

    def in_order(self) -> InOrder:
        """The distribution of each letter given those before it, which are sent."""
        memory = self.writer.memory
        seen = self.z.new_zeros(*self.batch_shape, memory, len(LETTERS))
        for t in range(self.writer.length):
            logits = self.writer(self.source, self.z, seen[..., -memory:, :].unsqueeze(-3), slice(t, t + 1))[..., 0, :]
            letter = yield dist.Categorical(logits=logits, validate_args=False)
            seen = torch.cat([seen, F.one_hot(letter.long(), len(LETTERS)).to(seen).unsqueeze(-2)], -2)

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Lines of shape ``sample_shape + batch_shape + (length,)``."""
        return drawn(self.expand(torch.Size(sample_shape) + self.batch_shape).in_order())


class _Reader(nn.Module):
    """The guide: a Gaussian for the code of a pair."""

    def __init__(self, source: int, length: int, latent: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.net = dense(len(LETTERS) * (source + length), hidden, 2 * latent, fresh())

    def forward(self, y: Tensor, source: Tensor, writer: nn.Module) -> None:
        pair = torch.cat([F.one_hot(part.long(), len(LETTERS)).flatten(-2) for part in (source, y)], -1)
        with pyro.plate("data", len(y)):
            loc, raw = self.net(pair.to(torch.get_default_dtype())).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, F.softplus(raw) + 1e-4).to_event(1))


def translator(
    pairs: Sequence[tuple[str, str]],
    *,
    length: int | None = None,
    latent: int = 2,
    memory: int = 3,
    hidden: int | Sequence[int] = (64, 64),
    seed: int = 0,
) -> lvm.Problem:
    """Pairs of your own, sources of one length and their translations; for the options see :func:`translation`.

    Args:
        pairs: Source and translation, in :data:`LETTERS`.
        length: Letters of a translation at most; of the longest one by default.
        latent: Numbers of a code.
        memory: Letters before that a letter sees.
        hidden: Units of the hidden layers of writer and, in reverse, reader.
        seed: Seed of the initial weights.

    Returns:
        The problem.

    Raises:
        ArgumentError: An option is out of range.
        DataError: There are no pairs, or a line is longer or has a letter that there is not.
    """
    owner = "translation"
    for option, count in (("latent", latent), ("memory", memory)):
        _data.check_count(owner, option, count)
    sizes = _images.sizes(owner, "hidden", hidden)
    if not pairs or any(isinstance(pair, str) or len(pair) != 2 or not all(pair) for pair in pairs):
        raise lvm.DataError(
            "translation: pairs must be some of a source and its translation, neither of them empty. Fix: give for example "
            "[('0704', 'jul 4')]."
        )
    width = max(len(first) for first, _ in pairs)
    length = max(len(second) for _, second in pairs) if length is None else _data.check_count(owner, "length", length)
    source, y = encode([first for first, _ in pairs], width), encode([second for _, second in pairs], length)
    writer = Writer(width, length, latent, memory, sizes, torch.Generator().manual_seed(seed))

    def reader(problem: lvm.Problem) -> nn.Module:
        """An encoder of pairs."""
        return _Reader(width, length, latent, sizes[::-1])

    @lvm.model(
        dims={"z": ["data", "latent"], "y": ["data", "place"]},
        coords={"latent": list(range(latent)), "place": list(range(length))},
        guide=lvm.Guide("reader", reader),
    )
    def translation(y: Tensor, source: Tensor, writer: nn.Module) -> None:
        """Lines ``y`` ``(n, length)`` that ``source`` ``(n, letters)`` is translated to."""
        pyro.module("writer", writer)
        with pyro.plate("data", len(source)):
            z = pyro.sample("z", dist.Normal(torch.zeros(latent), 1.0).to_event(1))
            pyro.sample("y", Written(writer, source, z), obs=y)

    return lvm.Problem(translation, y, source, writer)


def translation(
    *,
    split: str = "train",
    pairs: int | None = None,
    latent: int = 2,
    memory: int = 3,
    hidden: int | Sequence[int] = (64, 64),
    seed: int = 0,
) -> lvm.Problem:
    """Dates in digits and in words, in five ways, under a translator with a code.

    Args:
        split: ``"train"``, or ``"test"``: every fifth day.
        pairs: Use only the first so many pairs; all by default.
        latent: Numbers of a code.
        memory: Letters before that a letter sees.
        hidden: Units of the hidden layers of writer and, in reverse, reader.
        seed: Seed of the initial weights.

    Returns:
        The problem.

    Raises:
        ArgumentError: An option is out of range.
    """
    _images.choose("translation", "split", split, ("train", "test"))
    found = dates(split)
    if pairs is not None:
        found = found[: _data.check_count("translation", "pairs", pairs, len(found))]
    longest = max(len(way) for _, way in dates())
    return translator(found, length=longest, latent=latent, memory=memory, hidden=hidden, seed=seed)


def translate(fit: lvm.Fit, sources: Sequence[str], count: int = 1, *, seed: int = 0) -> list[list[str]]:
    """Translations of sources, drawn from the fitted model: the code from its prior, then letter after letter.

    Args:
        fit: A fit of :func:`translation` or :func:`translator`.
        sources: What to translate.
        count: Translations of each.
        seed: Makes the draws repeatable.

    Returns:
        For each source its translations.

    Raises:
        UnknownNameError: ``fit`` is of another model.
        ArgumentError: ``count`` is out of range.
        DataError: There is no source, or one is longer than those of the fit or has a letter that there is not.
    """
    writer, problem = fit.module("writer"), fit.attached
    _data.check_count("translate", "count", count, kind="function")
    if isinstance(sources, str) or not len(sources):
        raise lvm.DataError(f"translate: sources are {sources!r}. Fix: give a list of lines, for example ['0704'].")
    given = encode(sources, problem.arguments["source"].shape[1]).repeat_interleave(count, 0)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        z = torch.randn(len(given), problem.sites["z"].shape[-1])
        lines = decode(Written(writer, given, z).sample())
    return [lines[i : i + count] for i in range(0, len(lines), count)]
