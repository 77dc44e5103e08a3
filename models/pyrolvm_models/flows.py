r"""Normalizing flows: exact densities of digits, by invertible maps to a standard normal.

    z_n ~ Normal(0, I),   x_n = f^{-1}(z_n)                      n = 1..N images of d pixels
    log p(x_n) = log Normal(f(x_n); 0, I) + log |det df/dx|(x_n)

There are no latents left: a code ``z_n = f(x_n)`` is a function of its image, found exactly by one pass, so inference has no gap.
``lvm.fit`` maximises the likelihood of the parameters of ``f``, an invertible network of :mod:`pyrolvm_models.invertible`:

| problem | f | log p(x) | draws |
|---|---|---|---|
| ``real_nvp`` | affine couplings of channels, two scales | one pass | one pass |
| ``glow`` | the same, with actnorm and invertible 1x1 convolutions between them | one pass | one pass |
| ``maf`` | affine autoregressive: each pixel moves by those before it | one pass | d passes |
| ``iaf`` | its inverse | d passes | one pass |
| ``neural_spline_flow`` | splines in place of affine maps, autoregressive or in couplings | one pass | d passes, or one |

Dequantisation: grey levels are whole numbers, on which a density could be as high as it likes. So data are ``(level + u) / levels``
with uniform ``u``, once for all in the problem; a fit draws them anew in each step by ``transform=dequantize(17)``. The mean log
density is then a lower bound on the log probability of the levels, plus ``d log levels``.

What is lost: affine flows have the topology of one Gaussian and leave bridges between clusters; splines bend more sharply. With 1,347
images the large flows learn them by heart: stop by ``validation=``, with dropout.

Data: digits of scikit-learn (:func:`pyrolvm_models.datasets.digits`), dequantised; or two half moons.

References:
    Papamakarios, Nalisnick, Rezende, Mohamed, Lakshminarayanan (2021). Normalizing flows for probabilistic modeling and inference.
        Journal of Machine Learning Research 22(57). https://arxiv.org/abs/1912.02762
    Dinh, Sohl-Dickstein, Bengio (2017). Density estimation using Real NVP. ICLR. https://arxiv.org/abs/1605.08803
    Kingma, Dhariwal (2018). Glow. NeurIPS. https://arxiv.org/abs/1807.03039
    Papamakarios, Pavlakou, Murray (2017). Masked autoregressive flow for density estimation. NeurIPS.
        https://arxiv.org/abs/1705.07057
    Kingma et al. (2016). Improved variational inference with inverse autoregressive flow. NeurIPS. https://arxiv.org/abs/1606.04934
    Durkan, Bekasov, Murray, Papamakarios (2019). Neural spline flows. NeurIPS. https://arxiv.org/abs/1906.04032
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

import pyrolvm as lvm
from pyrolvm_models import _data
from pyrolvm_models.invertible import (
    ActNorm,
    Affine,
    Block,
    Chain,
    ConvolutionalNetwork,
    Coupling,
    Element,
    Inverted,
    InvertibleLinear,
    MaskedAutoregressive,
    Mixture,
    MultilayerPerceptron,
    MultiScale,
    Permutation,
    Reshape,
    Spline,
    Squeeze,
    initialize,
)  # fmt: skip
from pyrolvm_models.likelihoods import density_problem

__all__ = ["Flow", "flow_data", "glow", "iaf", "maf", "neural_spline_flow", "real_nvp"]

DATA = ("digits", "moons")


class Flow(nn.Module):
    """A density by an invertible map of vectors to a standard normal.

    Args:
        block: the map, from data ``(n, d)`` to noise ``(n, d)``.
        size: the number of coordinates ``d``.
    """

    def __init__(self, block: Block, size: int) -> None:
        super().__init__()
        self.block, self.size = block, size

    def latent(self, x: Tensor) -> Tensor:
        """The codes of rows: exactly the ``z`` that they come from, ``(n, d)``."""
        return self.block(x)[0]

    def data(self, z: Tensor) -> Tensor:
        """The rows that codes ``(n, d)`` come to."""
        return self.block.inverse(z)[0]

    def log_prob(self, x: Tensor) -> Tensor:
        """Log densities of rows ``(n, d)``, shape ``(n,)``."""
        z, log_det = self.block(x)
        return -0.5 * (z.square().sum(-1) + self.size * math.log(2 * math.pi)) + log_det

    @torch.no_grad()
    def sample(self, count: int, *, temperature: float = 1.0) -> Tensor:
        """New rows, shape ``(count, d)``; below 1 the temperature draws nearer to the mode."""
        like = next(self.parameters())
        return self.data(temperature * torch.randn(count, self.size, dtype=like.dtype, device=like.device))


def flow_data(data: str, images: int | None = None, *, part: str = "train") -> Tensor:
    """Data of a flow.

    Args:
        data: ``"digits"``, dequantised as in the measured figures of the docs, in (0, 1); or ``"moons"``, two half moons.
        images: only the first so many rows; all by default.
        part: ``"train"`` or ``"test"``.

    Returns:
        Rows, ``(n, 64)`` or ``(n, 2)``, float32.

    Raises:
        ArgumentError: There are no such data, or not so many rows.
    """
    if data not in DATA:
        raise lvm.ArgumentError(f"option 'data' of a flow is {data!r}. Fix: use one of {', '.join(map(repr, DATA))}.")
    from sklearn.datasets import make_moons
    from sklearn.model_selection import train_test_split

    if data == "moons":
        x = make_moons(2000, noise=0.05, random_state=0)[0]
    else:
        levels = _data.load("digits").x
        x = (levels + np.random.default_rng(0).uniform(size=levels.shape)) / 17
    train, test = train_test_split(x, test_size=0.25, random_state=0)
    rows = torch.tensor(train if part == "train" else test, dtype=torch.float32)
    return rows[: _data.check_count("flow", "images", images, len(rows))] if images is not None else rows


def _standard(x: Tensor) -> list[Block]:
    """The map that standardises each coordinate of the data, to begin with."""
    norm = ActNorm(x.shape[-1])
    norm.start(x)
    return [norm]


def _flow(name: str, data: str, images: int | None, seed: int, blocks: Callable[[Tensor], list[Block]]) -> lvm.Problem:
    """The problem of a flow whose blocks are built with random numbers of their own."""
    x = flow_data(data, images)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        flow = Flow(Chain(blocks(x)), x.shape[-1])
    initialize(flow.block, x[:256])
    return density_problem(x, flow.train())


def _element(name: str, kind: str, bins: int) -> Element:
    kinds: dict[str, Callable[[], Element]] = {
        "affine": Affine,
        "spline": lambda: Spline(bins),
        "mixture": lambda: Mixture(max(2, bins // 2)),
    }
    if kind not in kinds:
        raise lvm.ArgumentError(
            f"option 'element' of problem {name!r} is {kind!r}. Fix: use one of {', '.join(map(repr, kinds))}."
        )
    return kinds[kind]()


def maf(
    *,
    layers: int = 4,
    hidden: int = 128,
    dropout: float = 0.2,
    data: str = "digits",
    images: int | None = None,
    seed: int = 0,
) -> lvm.Problem:
    """Masked autoregressive flow: affine, each layer in the reverse order of the last.

    Args:
        layers: autoregressive layers.
        hidden: units of each of the two hidden layers of their networks.
        dropout: share of hidden units that a training step leaves out.
        data: ``"digits"`` or ``"moons"``.
        images: only the first so many rows; all of the training part by default.
        seed: of the initial parameters.
    """
    return _autoregressive("maf", "affine", layers, hidden, 0, dropout, data, images, seed)


def iaf(
    *,
    layers: int = 2,
    hidden: int = 128,
    dropout: float = 0.0,
    data: str = "moons",
    images: int | None = None,
    seed: int = 0,
) -> lvm.Problem:
    """Inverse autoregressive flow: :func:`maf` the other way round; a density takes as many passes as there are coordinates.

    Args:
        layers: autoregressive layers.
        hidden: units of each of the two hidden layers of their networks.
        dropout: share of hidden units that a training step leaves out; an inverse that takes several passes has none.
        data: ``"digits"`` or ``"moons"``.
        images: only the first so many rows; all of the training part by default.
        seed: of the initial parameters.
    """
    if dropout:
        raise lvm.ArgumentError(
            "option 'dropout' of problem 'iaf' is above 0, but its passes have to be of one network. Fix: leave it out."
        )
    return _autoregressive("iaf", "affine", layers, hidden, 0, 0.0, data, images, seed, inverted=True)


def neural_spline_flow(
    *,
    layers: int = 2,
    hidden: int = 128,
    bins: int = 8,
    coupling: bool = False,
    element: str = "spline",
    dropout: float = 0.2,
    data: str = "digits",
    images: int | None = None,
    seed: int = 0,
) -> lvm.Problem:
    """Neural spline flow, autoregressive or with couplings.

    Args:
        layers: autoregressive layers, or pairs of couplings.
        hidden: units of each of the two hidden layers of their networks.
        bins: bins of a spline.
        coupling: whether one half of the pixels moves by the other, so that draws take one pass too.
        element: ``"spline"``; or ``"mixture"``, distribution functions of mixtures, which are inverted numerically.
        dropout: share of hidden units that a training step leaves out.
        data: ``"digits"`` or ``"moons"``.
        images: only the first so many rows; all of the training part by default.
        seed: of the initial parameters.
    """
    name = "neural_spline_flow"
    if not coupling:
        return _autoregressive(name, element, layers, hidden, bins, dropout, data, images, seed)
    _check(name, layers=layers, hidden=hidden, bins=bins)

    def blocks(x: Tensor) -> list[Block]:
        d = x.shape[-1]
        found = _standard(x)
        for layer in range(2 * layers):
            move = _element(name, element, bins)
            network = MultilayerPerceptron(d // 2, (hidden, hidden), (d - d // 2) * move.size, dropout=dropout)
            found += [
                Coupling(d, move, network),
                Permutation(torch.arange(d).flip(0) if layer % 2 else torch.randperm(d)),
            ]
        return found

    return _flow(name, data, images, seed, blocks)


def real_nvp(
    *, steps: int = 4, hidden: int = 32, dropout: float = 0.1, images: int | None = None, seed: int = 0
) -> lvm.Problem:
    """Real NVP on images of 8 x 8 pixels: two scales, at each of them ``steps`` affine couplings of channels.

    Args:
        steps: couplings at each scale.
        hidden: channels of the networks' hidden layers.
        dropout: share of hidden channels that a training step leaves out.
        images: only the first so many images; all of the training part by default.
        seed: of the initial parameters.
    """
    return _image_flow(
        "real_nvp", steps, hidden, dropout, images, seed, lambda c: Permutation(torch.arange(c).flip(0), event_dim=3)
    )


def glow(
    *, steps: int = 4, hidden: int = 32, dropout: float = 0.1, images: int | None = None, seed: int = 0
) -> lvm.Problem:
    """Glow on images of 8 x 8 pixels: :func:`real_nvp` with an invertible 1x1 convolution before each coupling.

    Args:
        steps: couplings at each scale.
        hidden: channels of the networks' hidden layers.
        dropout: share of hidden channels that a training step leaves out.
        images: only the first so many images; all of the training part by default.
        seed: of the initial parameters.
    """
    return _image_flow("glow", steps, hidden, dropout, images, seed, lambda c: InvertibleLinear(c, event_dim=3))


def _image_flow(
    name: str, steps: int, hidden: int, dropout: float, images: int | None, seed: int, mix: Callable[[int], Block]
) -> lvm.Problem:
    _check(name, steps=steps, hidden=hidden)

    def level(channels: int) -> Block:
        after = 4 * channels
        parts: list[Block] = [Squeeze()]
        for _ in range(steps):
            network = ConvolutionalNetwork(after // 2, hidden, (after - after // 2) * Affine.size, dropout=dropout)
            parts += [ActNorm(after, event_dim=3), mix(after), Coupling(after, Affine(), network, event_dim=3)]
        return Chain(parts)

    def blocks(x: Tensor) -> list[Block]:
        shape = (1, 8, 8)
        return [*_standard(x), Reshape((64,), shape), MultiScale([level(1), level(2)], shape)]

    return _flow(name, "digits", images, seed, blocks)


def _autoregressive(
    name: str, element: str, layers: int, hidden: int, bins: int, dropout: float, data: str, images: int | None, seed: int,
    *, inverted: bool = False,
) -> lvm.Problem:  # fmt: skip
    _check(name, layers=layers, hidden=hidden, bins=bins or 1)

    def blocks(x: Tensor) -> list[Block]:
        d = x.shape[-1]
        found = _standard(x)
        for layer in range(layers):
            order = torch.arange(d).flip(0) if layer % 2 else torch.arange(d)
            block = MaskedAutoregressive(
                d, _element(name, element, bins), (hidden, hidden), order=order, dropout=dropout
            )
            found.append(Inverted(block) if inverted else block)
        return found

    return _flow(name, data, images, seed, blocks)


def _check(name: str, **counts: int) -> None:
    for option, value in counts.items():
        _data.check_count(name, option, value)
