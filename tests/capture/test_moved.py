"""A compiled density as a function of other coordinates, of which nothing is compiled again."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from pyrolvm._base.errors import CaptureError
from pyrolvm._capture import capture
from pyrolvm._capture.native import NativeGradient, compile_gradient

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")


def compiled(size: int) -> NativeGradient:
    """Minus a potential of so many unknowns, each with a scale of its own."""
    scales = torch.arange(1.0, size + 1.0, dtype=torch.float64)
    return compile_gradient(capture(lambda x: (x * scales).sin().sum() + x.pow(4).sum(), torch.zeros_like(scales)))


@pytest.mark.parametrize("whole", [False, True])
def test_a_density_of_moved_coordinates_is_that_of_the_point(whole: bool) -> None:
    gradient = compiled(3)
    random = np.random.default_rng(0)
    mean, x = random.normal(size=3), random.normal(size=(5, 3))
    root = np.tril(random.normal(size=(3, 3))) if whole else random.normal(size=3)
    moved = gradient.moved(mean, root)
    matrix = root if whole else np.diag(root)
    values, slopes = gradient.many(mean + x @ matrix.T)
    found, by_x = moved.many(x)
    np.testing.assert_allclose(found, values, rtol=1e-13)
    np.testing.assert_allclose(by_x, slopes @ matrix, rtol=1e-12)
    np.testing.assert_allclose(moved(x[0])[1], by_x[0], rtol=1e-14)
    with pytest.raises(CaptureError, match="mean, root and directions"):
        gradient.moved(mean, np.eye(4))


def test_a_density_of_stretched_directions_is_that_of_the_point() -> None:
    gradient = compiled(11)
    random = np.random.default_rng(0)
    mean, root, x = random.normal(size=11), random.normal(size=11), random.normal(size=(5, 11))
    basis, stretch = np.linalg.qr(random.normal(size=(11, 3)))[0], np.array([0.1, 2.0, 9.0])
    moved = gradient.moved(mean, root, (basis, stretch))
    matrix = root[:, None] * (np.eye(11) + (basis * (stretch - 1)) @ basis.T)
    values, slopes = gradient.many(mean + x @ matrix.T)
    found, by_x = moved.many(x)
    np.testing.assert_allclose(found, values, rtol=1e-12)
    np.testing.assert_allclose(by_x, slopes @ matrix, rtol=1e-11)
    with pytest.raises(CaptureError, match="directions have shapes"):
        gradient.moved(mean, root, (basis[:5], stretch))
