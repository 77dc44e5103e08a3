"""Every transform of Pyro with arguments to test it at."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import pyro.distributions.transforms as T
import torch
from pyro.nn import AutoRegressiveNN, DenseNN
from torch import Tensor, nn
from torch.distributions.transforms import Transform

from pyrolvm._base import runtime
from pyrolvm._capture.graph import Captured
from tests.capture.agreement import agree


@dataclass(frozen=True)
class Turn:
    """A transform at given parameters.

    Attributes:
        build: from the parameters to the transform; a module may have parameters of its own, which are differentiated by as well.
        x: where it is taken; nested lists.
        parameters: nested lists.
        density: whether it has a log determinant.
        inverse: whether it is inverted in closed form.
        limit: why it cannot be captured; what is raised must contain it.
    """

    build: Callable[..., Any]
    x: Any = ((0.3, -1.2, 0.7), (0.1, 0.4, -0.6))
    parameters: Sequence[Any] = ()
    density: bool = True
    inverse: bool = True
    limit: str = ""


POSITIVE = ((0.3, 1.2, 0.7), (0.1, 0.4, 2.6))
SQUARE = ((1.3, 0.2, -0.4), (0.2, 1.1, 0.3), (-0.4, 0.3, 0.9))
IMAGE = (((0.3, -1.2), (0.7, 0.1)), ((0.4, -0.6), (0.2, 1.1)), ((0.9, -0.3), (0.5, 0.8)))
READS = "it reads the value of a tensor"


def _hyper(*outputs: int) -> Any:
    return DenseNN(1, [4], outputs)


def _made(*outputs: int) -> Any:
    return AutoRegressiveNN(3, [4], param_dims=list(outputs), permutation=torch.arange(3))


TRANSFORMS: dict[type, Turn] = {
    T.AbsTransform: Turn(T.AbsTransform, density=False, inverse=False),
    T.AffineAutoregressive: Turn(lambda: T.AffineAutoregressive(_made(1, 1)), inverse=False),
    T.AffineCoupling: Turn(lambda: T.AffineCoupling(1, _hyper(2, 2))),
    T.AffineTransform: Turn(T.AffineTransform, parameters=([0.3, 0.1, -0.4], [0.5, -1.5, 2.5])),
    T.BatchNorm: Turn(lambda: T.BatchNorm(3).eval()),
    T.BlockAutoregressive: Turn(lambda: T.BlockAutoregressive(3, [2]), inverse=False),
    T.CatTransform: Turn(
        lambda: T.CatTransform([T.ExpTransform(), T.SigmoidTransform()], dim=-1, lengths=[1, 2]),
    ),
    T.CholeskyTransform: Turn(T.CholeskyTransform, SQUARE),
    T.ComposeTransform: Turn(
        lambda a, b: T.ComposeTransform([T.AffineTransform(a, b), T.ExpTransform()]), parameters=(0.3, 1.7)
    ),
    T.ComposeTransformModule: Turn(lambda: T.ComposeTransformModule([T.Planar(3), T.Radial(3)]), inverse=False),
    T.CorrCholeskyTransform: Turn(T.CorrCholeskyTransform),
    T.CorrLCholeskyTransform: Turn(T.CorrLCholeskyTransform),
    T.CorrMatrixCholeskyTransform: Turn(
        T.CorrMatrixCholeskyTransform, ((1.0, 0.6, 0.36), (0.6, 1.0, 0.6), (0.36, 0.6, 1.0))
    ),
    T.CumulativeDistributionTransform: Turn(
        lambda m, s: T.CumulativeDistributionTransform(dist.Normal(m, s)), parameters=(0.3, 1.7)
    ),
    T.DiscreteCosineTransform: Turn(lambda: T.DiscreteCosineTransform(smooth=1.0)),
    T.ELUTransform: Turn(T.ELUTransform),
    T.ExpTransform: Turn(T.ExpTransform),
    T.GeneralizedChannelPermute: Turn(lambda: T.GeneralizedChannelPermute(3), IMAGE),
    T.HaarTransform: Turn(T.HaarTransform),
    T.Householder: Turn(lambda: T.Householder(3, 2)),
    T.IndependentTransform: Turn(lambda: T.IndependentTransform(T.ExpTransform(), 1)),
    T.LeakyReLUTransform: Turn(T.LeakyReLUTransform),
    T.LowerCholeskyAffine: Turn(lambda m, s: T.LowerCholeskyAffine(m, s.tril()), parameters=([0.3, 0.1, -0.4], SQUARE)),
    T.LowerCholeskyTransform: Turn(T.LowerCholeskyTransform, SQUARE, density=False),
    T.MatrixExponential: Turn(lambda: T.MatrixExponential(3)),
    T.NeuralAutoregressive: Turn(lambda: T.NeuralAutoregressive(_made(3, 3, 3), hidden_units=3), inverse=False),
    T.Normalize: Turn(T.Normalize, density=False, inverse=False),
    T.OrderedTransform: Turn(T.OrderedTransform),
    T.Permute: Turn(lambda: T.Permute(torch.tensor([2, 0, 1]))),
    T.Planar: Turn(lambda: T.Planar(3), inverse=False),
    T.Polynomial: Turn(lambda: T.Polynomial(_made(6), 3, 2, 2), inverse=False),
    T.PositiveDefiniteTransform: Turn(T.PositiveDefiniteTransform, SQUARE, density=False),
    T.PositivePowerTransform: Turn(T.PositivePowerTransform, parameters=(1.7,)),
    T.PowerTransform: Turn(T.PowerTransform, POSITIVE, parameters=(1.7,)),
    T.Radial: Turn(lambda: T.Radial(3), inverse=False),
    T.ReshapeTransform: Turn(lambda: T.ReshapeTransform(torch.Size([2, 3]), torch.Size([6]))),
    T.SigmoidTransform: Turn(T.SigmoidTransform),
    T.SimplexToOrderedTransform: Turn(
        lambda a: T.SimplexToOrderedTransform(a), ((0.2, 0.3, 0.5), (0.6, 0.3, 0.1)), (0.3,)
    ),
    T.SoftmaxTransform: Turn(T.SoftmaxTransform, density=False),
    T.SoftplusLowerCholeskyTransform: Turn(T.SoftplusLowerCholeskyTransform, SQUARE, density=False),
    T.SoftplusTransform: Turn(T.SoftplusTransform),
    T.Spline: Turn(lambda: T.Spline(3, count_bins=4), limit=READS),
    T.SplineAutoregressive: Turn(
        lambda: T.SplineAutoregressive(3, _made(4, 4, 3, 4), count_bins=4), inverse=False, limit=READS
    ),
    T.SplineCoupling: Turn(lambda: T.SplineCoupling(3, 1, _hyper(8, 8, 6, 8), count_bins=4), limit=READS),
    T.StackTransform: Turn(lambda: T.StackTransform([T.ExpTransform(), T.SigmoidTransform()], dim=0)),
    T.StickBreakingTransform: Turn(T.StickBreakingTransform),
    T.Sylvester: Turn(lambda: T.Sylvester(3, 2), inverse=False),
    T.TanhTransform: Turn(T.TanhTransform),
    T.UnitLowerCholeskyTransform: Turn(T.UnitLowerCholeskyTransform, SQUARE, density=False),
}


def transforms() -> dict[str, type]:
    """Every transform class that ``pyro.distributions.transforms`` exports, torch's among them, by name."""
    found = {name: getattr(T, name) for name in dir(T)}
    return {n: k for n, k in found.items() if inspect.isclass(k) and issubclass(k, Transform) and k is not Transform}


@functools.cache
def turn(kind: type) -> Captured:
    """Checks that value, log determinant, inverse and gradients of a transform agree between the engines."""
    case = TRANSFORMS[kind]
    with runtime.session(seed=5, dtype=torch.float64):
        x = torch.tensor(case.x)
        given = [torch.as_tensor(p, dtype=x.dtype) for p in case.parameters]
        module = case.build(*given) if not given else None
        own = dict(module.named_parameters()) if isinstance(module, nn.Module) else {}

    def run(x: Tensor, *parameters: Tensor) -> list[Tensor]:
        if own:
            _put(module, dict(zip(own, parameters, strict=True)))
        made = case.build(*parameters) if given else module
        return results(made, x, case.density, case.inverse)

    return agree(run, [x, *given, *own.values()])


def results(transform: Any, x: Tensor, density: bool = True, inverse: bool = True) -> list[Tensor]:
    """The value, the log determinant and the way back, as far as there are such."""
    y = transform(x)
    found = [y]
    if density:
        found.append(transform.log_abs_det_jacobian(x, y))
    if inverse:
        found.append(transform.inv(1 * y))
    return found


def _put(module: nn.Module, values: dict[str, Tensor]) -> None:
    """Sets plain tensors in the place of parameters."""
    for name, value in values.items():
        *path, leaf = name.split(".")
        owner = module.get_submodule(".".join(path))
        owner._parameters.pop(leaf, None)
        setattr(owner, leaf, value)
