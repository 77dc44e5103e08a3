"""Variational autoencoders of 28 x 28 pixels and 50 latents: data, networks with their first weights, and the ELBO of given weights.

It is a speed benchmark: unless a file of images is given, the pixels are random, drawn from a random network with ten
hidden causes, so that there is something to learn. Weights go by the names that ``torch.nn.Sequential`` gives them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]

PIXELS, HIDDEN, LATENT = 784, 200, 50
NETWORKS = ("dense", "convolutional")
"""784-200-200-50 with ReLU between; and 28 x 28 - 16 x 14 x 14 - 32 x 7 x 7 - 50 by strided convolutions of width 4."""


def images(rng: np.random.Generator, rows: int) -> np.ndarray:
    """Binary images ``(rows, 784)``, uint8."""
    causes = rng.standard_normal((rows, 10))
    hidden = np.tanh(causes @ rng.standard_normal((10, 64)))
    logits = hidden @ rng.standard_normal((64, PIXELS)) * 0.5 - 1.0
    return (rng.random((rows, PIXELS)) < 1 / (1 + np.exp(-logits))).astype(np.uint8)


def networks(kind: str) -> tuple[Any, Any]:
    """An encoder, which gives 50 locations, then 50 log standard deviations, and a decoder, which gives logits."""
    from torch import nn

    if kind == "dense":
        encoder = nn.Sequential(
            nn.Linear(PIXELS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2 * LATENT)
        )
        decoder = nn.Sequential(
            nn.Linear(LATENT, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, PIXELS)
        )
        return encoder, decoder
    encoder = nn.Sequential(
        nn.Unflatten(-1, (1, 28, 28)), nn.Conv2d(1, 16, 4, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(16, 32, 4, stride=2, padding=1), nn.ReLU(), nn.Flatten(-3), nn.Linear(32 * 49, 2 * LATENT),
    )  # fmt: skip
    decoder = nn.Sequential(
        nn.Linear(LATENT, 32 * 49), nn.ReLU(), nn.Unflatten(-1, (32, 7, 7)),
        nn.ConvTranspose2d(32, 16, 4, stride=2, padding=1), nn.ReLU(),
        nn.ConvTranspose2d(16, 1, 4, stride=2, padding=1), nn.Flatten(-3),
    )  # fmt: skip
    return encoder, decoder


def loaded(kind: str, found: Arrays) -> tuple[Any, Any]:
    """The networks with given weights."""
    import torch

    made = networks(kind)
    for name, network in zip(("encoder", "decoder"), made, strict=True):
        network.load_state_dict({key: torch.as_tensor(found[f"{name}.{key}"]) for key in network.state_dict()})
    return made


def exported(encoder: Any, decoder: Any) -> Arrays:
    """The weights by name."""
    found = {}
    for name, network in (("encoder", encoder), ("decoder", decoder)):
        found |= {f"{name}.{key}": value.detach().cpu().numpy() for key, value in network.state_dict().items()}
    return found


def weights(kind: str, seed: int) -> Arrays:
    """First weights, as torch draws them: uniform in +-1/sqrt(fan in)."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return exported(*networks(kind))


def order(rng: np.random.Generator, rows: int, size: int, steps: int) -> np.ndarray:
    """Which rows each step takes, ``(steps, size)``: shuffled anew for each pass."""
    passes = -(-steps * size // (rows - rows % size))
    shuffled = np.concatenate([rng.permutation(rows)[: rows - rows % size] for _ in range(passes)])
    return shuffled[: steps * size].reshape(steps, size)


def elbo(kind: str, found: Arrays, x: np.ndarray, draws: int = 4, seed: int = 0) -> tuple[float, float]:
    """The mean ELBO of an image, in nats, and its standard error, for given weights, whoever trained them.

    Args:
        kind: of the networks.
        found: weights by name.
        x: images ``(n, 784)``.
        draws: codes drawn for each image, the same for all weights.
        seed: their seed.
    """
    import torch

    rng = np.random.default_rng(seed)
    encoder, decoder = (network.double() for network in loaded(kind, found))
    with torch.no_grad():
        rows = torch.as_tensor(x).double()
        loc, log_scale = encoder(rows).chunk(2, dim=-1)
        values = -0.5 * ((2 * log_scale).exp() + loc**2 - 1 - 2 * log_scale).sum(-1)
        for _ in range(draws):
            logits = decoder(loc + log_scale.exp() * torch.as_tensor(rng.standard_normal(loc.shape)))
            values += (rows * logits - torch.nn.functional.softplus(logits)).sum(-1) / draws
    return float(values.mean()), float(values.std() / len(values) ** 0.5)
