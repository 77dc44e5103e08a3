r"""Generative adversarial network: samples without a density, as the contrast to everything else here.

    z ~ Normal(0, I),   x = G(z)
    D:  max  E_data log sigmoid D(x) + E_z log sigmoid(-D(G(z)))  - (gamma / 2) E_data |grad_x D(x)|^2
    G:  max  E_z log sigmoid D(G(z))

A generator ``G`` maps noise to data, and a discriminator ``D`` learns to tell the two apart; each is trained against the other.
Nothing in it is a likelihood: where ``z`` has fewer dimensions than ``x``, all samples lie on a surface of volume zero, and there is no
density to ask for (:meth:`GAN.log_prob` says so). So there is no ``lvm.Problem`` of it and no :func:`pyrolvm.fit`, which minimises one
loss: two players have two, and no loss says that they have converged. :func:`train_gan` is its own small trainer.

What it loses: modes. A generator that draws one sharp digit forever deceives the discriminator as well as one that draws all ten.
As no likelihood shows it, it is measured on samples: :func:`mode_coverage` on a ring of Gaussians, whose modes are known, and
:func:`class_coverage` on digits, by a classifier.

References:
    Goodfellow et al. (2014). Generative adversarial nets. NeurIPS. https://arxiv.org/abs/1406.2661
    Mescheder, Geiger, Nowozin (2018). Which training methods for GANs do actually converge? ICML. https://arxiv.org/abs/1801.04406
    Metz, Poole, Pfau, Sohl-Dickstein (2017). Unrolled generative adversarial networks. ICLR. https://arxiv.org/abs/1611.02163
    Srivastava et al. (2017). VEEGAN: reducing mode collapse in GANs using implicit variational learning. NeurIPS.
        https://arxiv.org/abs/1705.07761
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

import pyrolvm as lvm
from pyrolvm_models import _data
from pyrolvm_models._arrays import matrix

__all__ = ["GAN", "Coverage", "class_coverage", "mode_coverage", "ring", "train_gan"]


@dataclass(frozen=True)
class GAN:
    """A trained generator, with the course of its training.

    Attributes:
        generator: from noise ``(n, latent)`` to data ``(n, d)``.
        discriminator: from data to logits ``(n,)`` of being real.
        latent: dimensions of the noise.
        generator_losses: the generator's loss at each step.
        discriminator_losses: the discriminator's; ``2 log 2`` where it can tell nothing.
    """

    generator: nn.Module
    discriminator: nn.Module
    latent: int
    generator_losses: NDArray[np.float64]
    discriminator_losses: NDArray[np.float64]

    @torch.no_grad()
    def sample(self, count: int, *, seed: int = 0) -> Tensor:
        """New data, shape ``(count, d)``."""
        _data.check_count("GAN.sample", "count", count, kind="function")
        like = next(self.generator.parameters())
        z = torch.randn(count, self.latent, generator=torch.Generator().manual_seed(seed))
        found: Tensor = self.generator(z.to(like))
        return found

    def log_prob(self, x: Any) -> NoReturn:
        """There is none.

        Raises:
            ProblemError: Always: a generator defines samples, and no density.
        """
        raise lvm.ProblemError(
            f"a GAN has no log p(x): it maps noise of {self.latent} dimensions to data and is trained by a discriminator, so it "
            "defines samples and no density; where the noise has fewer dimensions than the data, their distribution has none at all. "
            "Fix: judge samples by pyrolvm_models.gan.mode_coverage or class_coverage, or take a model with a density, such as "
            'lvm.problem("neural_spline_flow") (exact) or lvm.problem("vae") (bounded).'
        )


def train_gan(
    x: Any,
    *,
    latent: int = 16,
    hidden: int = 128,
    steps: int = 3000,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    penalty: float = 0.1,
    average: float = 0.995,
    seed: int = 0,
    callback: Callable[[int, GAN], Any] | None = None,
    every: int = 500,
) -> GAN:
    r"""Trains generator and discriminator in turn, a step of Adam each.

    The discriminator's gradient at the data is penalised (:math:`R_1`), without which the two circle around each other. The
    generator that is returned is the running average of its parameters.

    Args:
        x: data, shape ``(n, d)``.
        latent: dimensions of the noise.
        hidden: units of each of the two hidden layers of both networks.
        steps: steps of each.
        batch_size: rows of a step.
        learning_rate: of both.
        penalty: the weight :math:`\gamma` of the squared gradient.
        average: the share of the running average that a step keeps.
        seed: of parameters, noise and order; the global random state is not touched.
        callback: called with the step and the GAN so far.
        every: steps between two calls.

    Raises:
        ArgumentError: An option is out of range.
        DataError: ``x`` is no matrix of finite numbers.
        FitError: The losses are not finite.
    """
    rows = matrix("train_gan", x).float()
    n = len(rows)
    for option, value in (
        ("latent", latent),
        ("hidden", hidden),
        ("steps", steps),
        ("batch_size", batch_size),
        ("every", every),
    ):
        _data.check_count("train_gan", option, value, kind="function")
    if not (learning_rate > 0 and penalty >= 0 and 0 <= average < 1):
        raise lvm.ArgumentError(
            f"train_gan: learning_rate={learning_rate}, penalty={penalty}, average={average}. "
            "Fix: give a positive rate, a penalty of at least 0, and an average of at least 0 and below 1."
        )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        mean, sd = rows.mean(0), rows.std(0).clamp(min=1e-3)
        generator, shown = _Generator(latent, hidden, mean, sd), _Generator(latent, hidden, mean, sd)
        shown.load_state_dict(generator.state_dict())
        discriminator = _Discriminator(hidden, mean, sd)
        first = torch.optim.Adam(generator.parameters(), lr=learning_rate, betas=(0.5, 0.99))
        second = torch.optim.Adam(discriminator.parameters(), lr=learning_rate, betas=(0.5, 0.99))
        losses = np.zeros((steps, 2))
        for step in range(steps):
            real = rows[torch.randint(n, (batch_size,))].requires_grad_(penalty > 0)
            score = discriminator(real)
            fake = generator(torch.randn(batch_size, latent))
            loss = F.softplus(-score).mean() + F.softplus(discriminator(fake.detach())).mean()
            total = loss
            if penalty:
                slope = torch.autograd.grad(score.sum(), real, create_graph=True)[0]
                # In units of the data's standard deviations, so that no coordinate's scale counts.
                total = loss + 0.5 * penalty * (slope * sd).square().sum(-1).mean()
            second.zero_grad()
            total.backward()
            second.step()
            deceit = F.softplus(-discriminator(generator(torch.randn(batch_size, latent)))).mean()
            first.zero_grad()
            deceit.backward()
            first.step()
            losses[step] = float(deceit.detach()), float(loss.detach())
            if not math.isfinite(losses[step].sum()):
                raise lvm.FitError(
                    f"train_gan: the losses are {losses[step, 0]} (generator) and {losses[step, 1]} at step {step}. "
                    "Fix: lower learning_rate or raise penalty."
                )
            with torch.no_grad():
                for kept, new in zip(shown.parameters(), generator.parameters(), strict=True):
                    kept.lerp_(new, 1 - average)
            if callback is not None and (step + 1) % every == 0:
                callback(step + 1, GAN(shown, discriminator, latent, losses[: step + 1, 0], losses[: step + 1, 1]))
    return GAN(shown.eval(), discriminator.eval(), latent, losses[:, 0], losses[:, 1])


class _Generator(nn.Module):
    mean: Tensor
    sd: Tensor

    def __init__(self, latent: int, hidden: int, mean: Tensor, sd: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("sd", sd)
        self.network = nn.Sequential(
            nn.Linear(latent, hidden),
            nn.LeakyReLU(0.2),
            nn.Linear(hidden, hidden),
            nn.LeakyReLU(0.2),
            nn.Linear(hidden, len(mean)),
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.mean + self.sd * self.network(z)


class _Discriminator(nn.Module):
    mean: Tensor
    sd: Tensor

    def __init__(self, hidden: int, mean: Tensor, sd: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("sd", sd)
        self.network = nn.Sequential(
            nn.Linear(len(mean), hidden),
            nn.LeakyReLU(0.2),
            nn.Linear(hidden, hidden),
            nn.LeakyReLU(0.2),
            nn.Linear(hidden, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.network((x - self.mean) / self.sd)[..., 0]


# --- which modes are there --------------------------------------------------------------------------------------------


def ring(
    count: int, *, modes: int = 8, radius: float = 2.0, scale: float = 0.05, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Data from Gaussians on a ring.

    Args:
        count: how many.
        modes: number of Gaussians.
        radius: of the ring.
        scale: standard deviation of each.
        seed: of the draws.

    Returns:
        Data ``(count, 2)`` and the Gaussians' means ``(modes, 2)``.
    """
    generator = torch.Generator().manual_seed(seed)
    angle = torch.arange(modes) * (2 * math.pi / modes)
    centres = radius * torch.stack([angle.cos(), angle.sin()], dim=-1)
    chosen = torch.randint(modes, (count,), generator=generator)
    return centres[chosen] + scale * torch.randn(count, 2, generator=generator), centres


@dataclass(frozen=True)
class Coverage:
    """Which modes samples cover.

    Attributes:
        counts: samples of each mode, shape ``(modes,)``.
        good: the share of samples that belong to a mode.
        least: the share of the samples that a mode needs to count as covered.
    """

    counts: NDArray[np.int64]
    good: float
    least: float

    @property
    def covered(self) -> int:
        """How many modes are covered."""
        return int((self.counts >= self.least * max(self.counts.sum(), 1)).sum())

    @property
    def divergence(self) -> float:
        """KL divergence of the samples' modes from equal shares, in nats; 0 where all modes come equally often."""
        share = self.counts / max(self.counts.sum(), 1)
        return float(sum(p * math.log(p * len(share)) for p in share if p > 0))

    def __str__(self) -> str:
        inside = f"{self.good:.0%} of the samples in one"
        return f"{self.covered} of {len(self.counts)} modes, {inside}, {self.divergence:.2f} nats from equal shares"


def mode_coverage(samples: Tensor, centres: Tensor, *, scale: float, within: float = 3.0) -> Coverage:
    """Which of some Gaussians samples are of: a sample is of the nearest one, if no further than ``within`` sds from it.

    Args:
        samples: shape ``(n, d)``.
        centres: means of the Gaussians, shape ``(modes, d)``.
        scale: their standard deviation.
        within: sds.

    Returns:
        A mode is covered by a tenth of its equal share.
    """
    distance, nearest = torch.cdist(samples.double(), centres.double()).min(-1)
    good = distance <= within * scale
    counts = torch.bincount(nearest[good], minlength=len(centres)).numpy()
    return Coverage(counts, float(good.double().mean()), 0.1 / len(centres))


def class_coverage(samples: Any, x: Any, labels: Any, *, sure: float = 0.9) -> Coverage:
    """Which classes samples are of, as a classifier sees them that is trained on labelled data: a logistic regression.

    Args:
        samples: shape ``(n, d)``.
        x: labelled data, shape ``(m, d)``.
        labels: their classes, integers from 0, shape ``(m,)``.
        sure: the probability from which on a sample counts as of a class.

    Returns:
        A class is covered by a tenth of an equal share. ``good`` is the share of samples that the classifier is sure of.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    rows, drawn = matrix("class_coverage", x).numpy(), matrix("class_coverage", samples).numpy()
    scaler = StandardScaler().fit(rows)
    classes = np.asarray(labels)
    classifier = LogisticRegression(max_iter=1000, C=0.1).fit(scaler.transform(rows), classes)
    probability = classifier.predict_proba(scaler.transform(drawn))
    good = probability.max(1) >= sure
    counts = np.bincount(probability.argmax(1)[good], minlength=int(classes.max()) + 1)
    return Coverage(counts, float(good.mean()), 0.1 / len(counts))
