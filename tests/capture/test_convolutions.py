"""Convolutions on JAX, written as products of matrices, against torch's."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pyrolvm._capture import capture
from pyrolvm._capture.jax import array, lower, precision

CASES = {
    "plain": (F.conv2d, (2, 3, 6, 5), (4, 3, 3, 3), {"padding": 1}),
    "strided": (F.conv2d, (2, 3, 7, 8), (4, 3, 3, 2), {"stride": (2, 3), "padding": (1, 0)}),
    "dilated, in groups": (F.conv2d, (2, 4, 9, 9), (6, 2, 3, 3), {"dilation": 2, "groups": 2, "padding": 2}),
    "one dimension": (F.conv1d, (3, 2, 10), (5, 2, 4), {"stride": 2, "dilation": 2, "padding": 3}),
    "three dimensions": (F.conv3d, (1, 2, 4, 5, 4), (3, 2, 2, 2, 3), {}),
    "transposed": (F.conv_transpose2d, (2, 3, 4, 5), (3, 4, 4, 3), {"stride": 2, "padding": 1, "output_padding": 1}),
    "transposed, in groups": (F.conv_transpose2d, (2, 4, 3, 3), (4, 3, 3, 3), {"stride": 2, "groups": 2, "padding": 1}),
    "transposed, padded beyond its reach": (F.conv_transpose1d, (2, 3, 6), (3, 2, 2), {"padding": 2}),
}


SLOW = ("strided", "dilated, in groups", "three dimensions", "transposed", "transposed, in groups")
"""Which put together what the others have each."""


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=name, marks=[pytest.mark.slow] if name in SLOW else []) for name, case in CASES.items()],
)
def test_convolutions_and_their_gradients_agree(case):
    function, shape, kernel, options = case
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(size, generator=generator, dtype=torch.float64) for size in (shape, kernel))

    def loss(x, weight):
        out = function(x, weight, **options)
        return (torch.sin(torch.arange(out.numel(), dtype=x.dtype).reshape(out.shape)) * out).sum() + (out**2).sum()

    with precision(torch.float64):
        lowered = lower(capture(loss, x, weight))
        graded = jax.value_and_grad(lambda *given: lowered.function(given, (), lowered.constants, None), (0, 1))
        value, gradients = graded(array(x), array(weight))
        found = [torch.from_numpy(np.array(one)) for one in (value, *gradients)]
    x.requires_grad_()
    weight.requires_grad_()
    expected = loss(x, weight)
    for ours, theirs in zip(found, (expected, *torch.autograd.grad(expected, [x, weight])), strict=True):
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-10, atol=1e-10)
