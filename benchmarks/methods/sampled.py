"""Ways to make images of digits, judged by the likelihood of others and by the images themselves."""

from __future__ import annotations

import argparse
import math
from typing import Any

import common
import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

import pyrolvm as lvm
from pyrolvm_models import datasets
from pyrolvm_models.gan import class_coverage, train_gan

__all__ = ["samples"]

NEAREST = 3
"""An image is near others if it is nearer to one of them than that one is to the third nearest of its own."""
SHARE = 0.01
"""Of good samples among noise."""


def generated(x: Tensor, generator: nn.Module, sd: Tensor) -> None:
    """Images ``x`` of a fixed generator, with noise of which the sd is learned."""
    noise = pyro.param("sd", sd, constraint=dist.constraints.positive)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(UNITS), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(generator(z), noise).to_event(1), obs=x)


UNITS = 16
"""Of the code, and of the generator's noise."""


def samples(args: argparse.Namespace, how: dict[str, Any]) -> list[common.Row]:
    """Log p of test images, and samples, of each way to make images of digits.

    Args:
        args: the benchmark's.
        how: options of fits.
    """
    train, test = (lvm.problem("vae", likelihood="gaussian", split=part).arguments["x"] for part in ("train", "test"))
    count, steps = (40, 60) if args.quick else (len(test), 1_500)
    test = test[:count]
    generator = torch.Generator().manual_seed(args.seed)
    again = train[torch.randperm(len(train), generator=generator)[:count]]

    problem = lvm.problem("vae", likelihood="gaussian", latent=UNITS, hidden=(128, 128), seed=args.seed)
    fit, vae_cpu = common.timed(lvm.fit, problem, max_steps=steps, seed=args.seed, **how)
    made = lvm.generate(fit, count, seed=args.seed)
    means, noisy = (torch.tensor(made[group]["x"].values) for group in ("likelihood_mean", "prior_predictive"))
    vae = rows_log_p(fit, test, args)

    gan, gan_cpu = common.timed(train_gan, train, latent=UNITS, hidden=128, steps=2 * steps, seed=args.seed)
    drawn = gan.sample(count, seed=args.seed)
    fixed = lvm.Problem(generated, train, gan.generator.requires_grad_(False), torch.tensor(0.3))
    inverse = lvm.guide("amortized", hidden=(128, 128))
    found, inverse_cpu = common.timed(lvm.fit, fixed, inverse, max_steps=steps, seed=args.seed, **how)

    log_kernels, width = kernels(train, test)

    middle, spread = train.mean(0), train.std(0).clamp(min=0.05)
    poor = middle + spread * torch.randn(count, len(middle), generator=generator)
    log_poor = dist.Normal(middle, spread).to_event(1).log_prob(test)
    mostly = torch.logaddexp(vae + math.log(SHARE), log_poor + math.log1p(-SHARE))
    good = torch.rand(count, 1, generator=generator) < SHARE

    def with_noise(images: Tensor, sd: float) -> Tensor:
        return images + sd * torch.randn(images.shape, generator=generator)

    ways: dict[str, tuple[Tensor, Tensor, Tensor | None, float | None]] = {
        "real images": (again, again, None, None),
        "autoencoder": (means, noisy, vae, vae_cpu),
        "GAN": (
            drawn, with_noise(drawn, float(found.params["sd"])), rows_log_p(found, test, args), gan_cpu + inverse_cpu,
        ),
        "training images": (again, with_noise(again, width), log_kernels, None),
        f"noise, {SHARE:.0%} autoencoder": (torch.where(good, means, poor), torch.where(good, noisy, poor), mostly, vae_cpu),
    }  # fmt: skip
    labels = datasets.digits().train_labels
    rows: list[common.Row] = []
    for name, (images, other, nats, cpu) in ways.items():
        seen = class_coverage(images, train, labels)
        row: common.Row = {
            "way": name, "precision": near(images, test), "recall": near(test, images), "sure": seen.good,
            "covered": f"{seen.covered} of {len(seen.counts)}", "noisy": near(other, test), "cpu": cpu,
        }  # fmt: skip
        if nats is not None:
            row |= {"log_p": float(nats.mean()), "row_error": float(nats.std()) / math.sqrt(len(nats))}
        rows.append(row)
    return rows


def rows_log_p(fit: lvm.Fit, test: Tensor, args: argparse.Namespace) -> Tensor:
    """Log p of each test image by importance sampling with the fit's guide."""
    draws = 50 if args.quick else 5_000
    found = lvm.evaluate(fit, {"x": test}, draws=draws, train_rows=2, pictures=False, seed=0, progress=False)
    return torch.tensor(found.rows["log_p"].to_numpy())


def kernels(train: Tensor, test: Tensor) -> tuple[Tensor, float]:
    """Log p of test images under a Gaussian about each training image, and its sd, the best one for every fifth of these."""

    def log_p(centres: Tensor, x: Tensor, sd: float) -> Tensor:
        size = x.shape[1]
        kernel = -0.5 * (torch.cdist(x, centres) / sd) ** 2 - size * math.log(sd * math.sqrt(2 * math.pi))
        return kernel.logsumexp(1) - math.log(len(centres))

    fifth = torch.arange(len(train)) % 5 == 4
    sds = np.geomspace(0.03, 0.5, 30)
    best = max(sds, key=lambda sd: float(log_p(train[~fifth], train[fifth], sd).mean()))
    return log_p(train, test, float(best)), float(best)


def near(images: Tensor, others: Tensor) -> float:
    """The share of images that are near some others: of samples near real ones precision, of real ones near samples recall."""
    reach = torch.cdist(others, others).sort(1).values[:, NEAREST]
    return float((torch.cdist(images, others) <= reach).any(1).double().mean())
