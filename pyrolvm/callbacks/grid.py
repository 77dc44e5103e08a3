"""Samples of a model while it is fitted, as pictures."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from pyrolvm._base import randomness, runtime
from pyrolvm._base.errors import ArgumentError, checked_seed, positive_int
from pyrolvm._base.numerics import Array
from pyrolvm._methods.fit.loop import Step
from pyrolvm._program.density import Joint
from pyrolvm._program.problem import Problem
from pyrolvm._results.likelihood import generated

__all__ = ["SampleGrid", "tiles"]


class SampleGrid:
    """Writes a grid of new observations every so many steps, latents drawn from the prior, as ``step-000500.png``.

    The random numbers are the same every time, so that the pictures show how the model changes; the fit's own go on as if nothing
    had been drawn.

    Args:
        folder: where to write.
        every: steps between two pictures.
        count: observations in a picture.
        site: the observed site; may be left out if there is one.
        shape: height and width of an image, where the site has its pixels in a row; a square by default.
        seed: of the draws.

    Raises:
        ArgumentError: if an argument is out of range; at the first call, if the site has no images.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        every: int = 500,
        count: int = 64,
        site: str | None = None,
        shape: tuple[int, int] | None = None,
        seed: int = 0,
    ) -> None:
        self.every = positive_int("every", every)
        self.count = positive_int("count", count)
        self.seed = checked_seed(seed)
        self.folder, self.site, self.shape = Path(folder), site, shape

    def __call__(self, step: Step) -> None:
        """Draws and writes a picture."""
        if step.problem is None:
            return
        images = self._draw(step.problem)
        from matplotlib.image import imsave

        self.folder.mkdir(parents=True, exist_ok=True)
        imsave(self.folder / f"step-{step.step + 1:06d}.png", tiles(images), cmap="gray", vmin=0.0, vmax=1.0)

    def _draw(self, problem: Problem) -> Array:
        """Images in [0, 1], shape ``(count, height, width)``."""
        names = [site.name for site in problem.observed]
        if self.site is None and len(names) != 1:
            raise ArgumentError(
                f"{problem.name} has the observed sites {', '.join(names)}. Fix: name one, site={names[0]!r}."
            )
        name = self.site or names[0]
        if name not in names:
            raise ArgumentError(
                f"SampleGrid: {problem.name} has no observed site {name!r}. Fix: use one of {', '.join(names)}."
            )
        with randomness.random_state(self.seed, problem.device), runtime.evaluating(problem.modules.values()):
            values = generated(problem, self.count)[name].detach().cpu().double().numpy()
        return _scaled(values.reshape(self.count, *self._image(values.shape[1:])), problem, name)

    def _image(self, shape: tuple[int, ...]) -> tuple[int, int]:
        size = math.prod(shape)
        if self.shape is not None:
            wanted = self.shape
        elif len(shape) >= 2:
            wanted = (size // shape[-1], shape[-1])
        else:
            wanted = (math.isqrt(size), math.isqrt(size))
        if math.prod(wanted) != size or size < 2:
            raise ArgumentError(
                f"an observation of shape {shape} is no image of {wanted[0]} x {wanted[1]}. Fix: pass shape=(height, width) with "
                f"{size} pixels."
            )
        return wanted


def tiles(images: Array, *, gap: int = 1) -> Array:
    """Images beside and below each other.

    Args:
        images: values in [0, 1], shape ``(n, height, width)``.
        gap: pixels between them.

    Returns:
        One image, as square as can be.
    """
    n, height, width = images.shape
    across = math.ceil(math.sqrt(n))
    down = math.ceil(n / across)
    sheet = np.full((down * (height + gap) - gap, across * (width + gap) - gap), 0.5)
    for i, image in enumerate(images):
        top, left = (i // across) * (height + gap), (i % across) * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet


def _scaled(values: Array, problem: Problem, name: str) -> Array:
    """Values between the least and the greatest observation as 0 and 1."""
    observed = Joint(problem).observations()[name]
    low, high = float(observed.min()), float(observed.max())
    return np.clip((values - low) / (high - low if high > low else 1.0), 0.0, 1.0)
