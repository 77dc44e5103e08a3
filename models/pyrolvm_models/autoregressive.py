r"""Autoregressive models of images: each pixel given those before it, row by row from the top left.

    x_nj ~ Categorical(softmax(net(x_n1, ..., x_n,j-1)_j))          j = 1..d pixels, n = 1..N images
    log p(x_n) = sum_j log P(x_nj | x_n1, ..., x_n,j-1)

One pass of a network with masks gives all the conditionals, so log p(x) is exact and no latent is left: ``lvm.fit`` maximises the
likelihood of the weights. A draw needs the pixels before it, and takes ``d`` passes, one for each pixel.

* ``made``: a perceptron whose weights are masked so that no path leads from a pixel to itself or to an earlier one.
* ``gated_pixel_cnn``: convolutions that see rows above (a vertical stack) and pixels to the left (a horizontal one) with gates
  :math:`\tanh(a) \odot \sigma(b)`, without the blind spot of a single masked stack.

What is lost: nothing in the density. There is no code of an image, so nothing to interpolate or to classify by; draws are slow; and the
order of the pixels is arbitrary.

Data: digits of scikit-learn with 17 grey levels, or binary, on where a level is at least 8 as in the problem ``vae``; or MNIST with
the fixed binarisation of Larochelle and Murray (:func:`pyrolvm_models.datasets.binarized_mnist`).

References:
    Germain, Gregor, Murray, Larochelle (2015). MADE: masked autoencoder for distribution estimation. ICML.
        https://arxiv.org/abs/1502.03509
    van den Oord, Kalchbrenner, Vinyals, Espeholt, Graves, Kavukcuoglu (2016). Conditional image generation with PixelCNN decoders.
        NeurIPS. https://arxiv.org/abs/1606.05328
    Larochelle, Murray (2011). The neural autoregressive distribution estimator. AISTATS.
        https://proceedings.mlr.press/v15/larochelle11a.html
"""

from __future__ import annotations

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions import constraints
from torch import Tensor, nn

import pyrolvm as lvm
from pyrolvm_models import _data, datasets
from pyrolvm_models._zuko import zuko
from pyrolvm_models.likelihoods import InOrder, density_problem, drawn

__all__ = ["GatedPixelCNN", "Made", "gated_pixel_cnn", "image_data", "made"]

THRESHOLD = 8
"""A pixel of binary digits is on where its level, 0 to 16, is at least this."""


class Made(nn.Module):
    """Masked autoencoder: images of ``pixels`` whole numbers from 0 to ``levels - 1``.

    Args:
        pixels: numbers of an image.
        levels: values of a number.
        hidden: units of each hidden layer.
        layers: hidden layers.
        dropout: the share of hidden units that a training step leaves out.
    """

    def __init__(self, pixels: int, levels: int, *, hidden: int, layers: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.pixels, self.levels = pixels, levels
        self.outputs = 1 if levels == 2 else levels
        before = torch.arange(pixels)[:, None] > torch.arange(pixels)[None, :]
        adjacency = before.repeat_interleave(self.outputs, dim=0)
        parts: list[nn.Module] = []
        for layer in zuko.nn.MaskedMLP(adjacency, hidden_features=[hidden] * layers, activation=nn.ReLU):
            parts += [layer] if isinstance(layer, nn.Linear) or not dropout else [layer, nn.Dropout(dropout)]
        self.network = nn.Sequential(*parts)

    def logits(self, x: Tensor) -> Tensor:
        """Logits of each pixel given those before it, ``(n, pixels, levels)``; of binary images, of 1 alone, ``(n, pixels, 1)``."""
        raw: Tensor = self.network(2 * x / (self.levels - 1) - 1)
        return raw.unflatten(-1, (self.pixels, self.outputs))

    def log_prob(self, x: Tensor) -> Tensor:
        """Log probabilities of images ``(n, pixels)``, shape ``(n,)``."""
        return _log_prob(self.logits(x), x)

    @torch.no_grad()
    def sample(self, count: int) -> Tensor:
        """New images ``(count, pixels)``, a pass of the network for each pixel."""
        return drawn(self.in_order(count))

    def in_order(self, count: int) -> InOrder:
        """The distribution of each pixel of ``count`` images given those before it, which are sent."""
        x = next(self.parameters()).new_zeros(count, self.pixels)
        for j in range(self.pixels):
            x[:, j] = yield _levels(self.logits(x)[:, j])


class GatedPixelCNN(nn.Module):
    """Gated PixelCNN: images of whole numbers from 0 to ``levels - 1``, row by row.

    Args:
        height: rows of an image.
        width: pixels of a row.
        levels: values of a pixel.
        channels: channels of each stack.
        layers: gated layers.
        reach: rows above and pixels to each side that a layer sees; the first one sees twice as far.
        dropout: the share of channels that a training step leaves out.
    """

    def __init__(
        self, height: int, width: int, levels: int, *, channels: int, layers: int, reach: int = 1, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.height, self.width, self.levels = height, width, levels
        self.outputs = 1 if levels == 2 else levels
        reaches = [2 * reach] + [reach] * (layers - 1)
        self.layers = nn.ModuleList(
            [
                _Gated(1 if i == 0 else channels, channels, r, first=i == 0, dropout=dropout)
                for i, r in enumerate(reaches)
            ]
        )
        self.head = nn.Sequential(
            nn.ReLU(), nn.Conv2d(channels, channels, 1), nn.ReLU(), nn.Conv2d(channels, self.outputs, 1)
        )
        self.rows_seen = sum(reaches) + 1

    def logits(self, x: Tensor) -> Tensor:
        """Logits of each pixel given those before it, ``(n, pixels, levels)``; of binary images, of 1 alone, ``(n, pixels, 1)``."""
        image = (2 * x / (self.levels - 1) - 1).reshape(len(x), 1, -1, self.width)
        vertical = horizontal = image
        for layer in self.layers:
            vertical, horizontal = layer(vertical, horizontal)
        return self.head(horizontal).flatten(2).mT

    def log_prob(self, x: Tensor) -> Tensor:
        """Log probabilities of images ``(n, pixels)``, shape ``(n,)``."""
        return _log_prob(self.logits(x), x)

    @torch.no_grad()
    def sample(self, count: int, *, cached: bool = True) -> Tensor:
        """New images ``(count, pixels)``, a pass of the network for each pixel.

        Args:
            count: how many.
            cached: whether a pass computes only the rows that the pixel depends on, in place of the whole image.
        """
        return drawn(self.in_order(count, cached=cached))

    def in_order(self, count: int, *, cached: bool = True) -> InOrder:
        """The distribution of each pixel of ``count`` images given those before it, which are sent."""
        x = next(self.parameters()).new_zeros(count, self.height, self.width)
        for i in range(self.height):
            top, bottom = (max(0, i - self.rows_seen), i + 1) if cached else (0, self.height)
            for j in range(self.width):
                logits = self.logits(x[:, top:bottom].flatten(1))
                x[:, i, j] = yield _levels(logits[:, (i - top) * self.width + j])


class _Gated(nn.Module):
    """A gated layer: the vertical stack sees the rows above and its own, the horizontal one pixels to the left, and the former."""

    def __init__(self, inputs: int, channels: int, reach: int, *, first: bool, dropout: float) -> None:
        super().__init__()
        self.reach, self.first = reach, first
        self.vertical = nn.Conv2d(inputs, 2 * channels, (reach + 1, 2 * reach + 1))
        self.horizontal = nn.Conv2d(inputs, 2 * channels, (1, reach + 1))
        self.link = nn.Conv2d(2 * channels, 2 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, vertical: Tensor, horizontal: Tensor) -> tuple[Tensor, Tensor]:
        """Both stacks after the layer, each ``(n, channels, height, width)``."""
        r = self.reach
        above = self.vertical(F.pad(vertical, (r, r, r, 0)))
        # What a pixel learns from above is of the rows before its own, so the stack moves down by one.
        from_above = self.link(F.pad(above, (0, 0, 1, 0))[..., :-1, :])
        # The first layer must not see the pixel itself, so its input moves to the right by one.
        left = F.pad(horizontal, (r + 1, 0))[..., :-1] if self.first else F.pad(horizontal, (r, 0))
        side = self.out(self.dropout(_gate(self.horizontal(left) + from_above)))
        return _gate(above), side if self.first else side + horizontal


def _gate(x: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=1)
    return torch.tanh(a) * torch.sigmoid(b)


def _log_prob(logits: Tensor, x: Tensor) -> Tensor:
    """The log probability of each row of ``x`` ``(n, d)`` under logits ``(n, d, levels)``, or ``(n, d, 1)`` of binary values."""
    if logits.shape[-1] == 1:
        each = x * F.logsigmoid(logits[..., 0]) + (1 - x) * F.logsigmoid(-logits[..., 0])
    else:
        each = logits.log_softmax(-1).gather(-1, x.long().unsqueeze(-1)).squeeze(-1)
    return each.sum(-1)


def _levels(logits: Tensor) -> dist.TorchDistribution:
    """The distribution of a value for each row of logits ``(n, levels)``, or ``(n, 1)`` of binary values."""
    if logits.shape[-1] == 1:
        return dist.Bernoulli(logits=logits[..., 0], validate_args=False)
    return dist.Categorical(logits=logits, validate_args=False)


def image_data(data: str, images: int | None = None, *, part: str = "train") -> tuple[Tensor, int, int, int]:
    """Images as whole numbers.

    Args:
        data: ``"digits"`` (8 x 8, 17 levels), ``"binary_digits"``, or ``"binarized_mnist"`` (28 x 28).
        images: only the first so many; all by default.
        part: ``"train"``, ``"valid"`` (MNIST alone) or ``"test"``.

    Returns:
        Levels ``(n, height * width)``, float32; height, width, and the number of levels.

    Raises:
        ArgumentError: There are no such data, or not so many.
    """
    if data not in ("digits", "binary_digits", "binarized_mnist"):
        raise lvm.ArgumentError(f"option 'data' is {data!r}. Fix: use 'digits', 'binary_digits' or 'binarized_mnist'.")
    found = datasets.binarized_mnist() if data == "binarized_mnist" else datasets.digits()
    x = found.part(part)
    x = x[: _data.check_count(data, "images", images, len(x))] if images is not None else x
    if data == "binary_digits":
        return (x >= THRESHOLD).float(), found.height, found.width, 2
    return x.float(), found.height, found.width, found.levels


def made(
    *,
    hidden: int = 256,
    layers: int = 1,
    dropout: float = 0.0,
    data: str = "binary_digits",
    images: int | None = None,
    seed: int = 0,
) -> lvm.Problem:
    """MADE.

    Args:
        hidden: units of each hidden layer.
        layers: hidden layers.
        dropout: the share of hidden units that a training step leaves out.
        data: ``"digits"``, ``"binary_digits"`` or ``"binarized_mnist"``.
        images: only the first so many; all of the training part by default.
        seed: of the initial weights.
    """
    _data.check_count("made", "hidden", hidden)
    _data.check_count("made", "layers", layers)
    x, _, _, levels = image_data(data, images)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = Made(x.shape[-1], levels, hidden=hidden, layers=layers, dropout=dropout)
    return density_problem(x, network, support=constraints.integer_interval(0, levels - 1))


def gated_pixel_cnn(
    *,
    channels: int = 16,
    layers: int = 4,
    dropout: float = 0.0,
    data: str = "binary_digits",
    images: int | None = None,
    seed: int = 0,
) -> lvm.Problem:
    """Gated PixelCNN. For many large images take a :func:`pyrolvm.stream`: a pass over all of them at once fills the memory.

    Args:
        channels: channels of each stack.
        layers: gated layers.
        dropout: the share of channels that a training step leaves out.
        data: ``"digits"``, ``"binary_digits"`` or ``"binarized_mnist"``.
        images: only the first so many; all of the training part by default.
        seed: of the initial weights.
    """
    _data.check_count("gated_pixel_cnn", "channels", channels)
    _data.check_count("gated_pixel_cnn", "layers", layers)
    x, height, width, levels = image_data(data, images)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = GatedPixelCNN(height, width, levels, channels=channels, layers=layers, dropout=dropout)
    return density_problem(x, network, support=constraints.integer_interval(0, levels - 1))
