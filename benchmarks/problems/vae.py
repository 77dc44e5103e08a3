"""A variational autoencoder, 784-200-200-50: its data, its networks' first weights, and the ELBO of given weights.

It is a speed benchmark: unless a file of images is given, the pixels are random, drawn from a random network with ten
hidden causes, so that there is something to learn. Weights go by the names that ``torch.nn.Sequential`` gives them.
"""

from __future__ import annotations

import numpy as np

Arrays = dict[str, np.ndarray]

PIXELS, HIDDEN, LATENT = 784, 200, 50
ENCODER = ((PIXELS, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, 2 * LATENT))
"""Layers with ReLU between; the last gives 50 locations, then 50 log standard deviations."""
DECODER = ((LATENT, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, PIXELS))
"""Layers with ReLU between; the last gives logits."""


def images(rng: np.random.Generator, rows: int) -> np.ndarray:
    """Binary images ``(rows, 784)``, uint8."""
    causes = rng.standard_normal((rows, 10))
    hidden = np.tanh(causes @ rng.standard_normal((10, 64)))
    logits = hidden @ rng.standard_normal((64, PIXELS)) * 0.5 - 1.0
    return (rng.random((rows, PIXELS)) < 1 / (1 + np.exp(-logits))).astype(np.uint8)


def weights(rng: np.random.Generator) -> Arrays:
    """First weights, uniform in +-1/sqrt(fan in), as torch's."""
    found: Arrays = {}
    for network, layers in (("encoder", ENCODER), ("decoder", DECODER)):
        for i, (fan_in, fan_out) in enumerate(layers):
            bound = 1 / np.sqrt(fan_in)
            found[f"{network}.{2 * i}.weight"] = rng.uniform(-bound, bound, (fan_out, fan_in)).astype(np.float32)
            found[f"{network}.{2 * i}.bias"] = rng.uniform(-bound, bound, fan_out).astype(np.float32)
    return found


def order(rng: np.random.Generator, rows: int, size: int, steps: int) -> np.ndarray:
    """Which rows each step takes, ``(steps, size)``: shuffled anew for each pass."""
    passes = -(-steps * size // (rows - rows % size))
    shuffled = np.concatenate([rng.permutation(rows)[: rows - rows % size] for _ in range(passes)])
    return shuffled[: steps * size].reshape(steps, size)


def elbo(found: Arrays, x: np.ndarray, draws: int = 4, seed: int = 0) -> tuple[float, float]:
    """The mean ELBO of an image, in nats, and its standard error, for given weights, whoever trained them.

    Args:
        found: weights by name.
        x: images ``(n, 784)``.
        draws: codes drawn for each image, the same for all weights.
        seed: their seed.
    """
    rng = np.random.default_rng(seed)
    x = x.astype(float)
    loc, log_scale = np.split(_network(found, "encoder", x), 2, axis=-1)
    kl = 0.5 * (np.exp(2 * log_scale) + loc**2 - 1 - 2 * log_scale).sum(-1)
    likelihood = np.zeros(len(x))
    for _ in range(draws):
        logits = _network(found, "decoder", loc + np.exp(log_scale) * rng.standard_normal(loc.shape))
        likelihood += (x * logits - np.logaddexp(0, logits)).sum(-1) / draws
    values = likelihood - kl
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def _network(found: Arrays, name: str, value: np.ndarray) -> np.ndarray:
    for i in (0, 2, 4):
        value = value @ found[f"{name}.{i}.weight"].T.astype(float) + found[f"{name}.{i}.bias"]
        value = np.maximum(value, 0) if i < 4 else value
    return value
