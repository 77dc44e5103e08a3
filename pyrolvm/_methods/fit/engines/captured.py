"""A fit's objective as a captured program, checked against stock Pyro."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyrolvm._base import randomness
from pyrolvm._base.errors import CaptureError
from pyrolvm._capture import Captured, capture, with_step
from pyrolvm._capture.graph import widened
from pyrolvm._methods.fit.engines.base import Work
from pyrolvm._methods.fit.objectives import PureELBO
from pyrolvm._program.sites import is_random

__all__ = ["agree", "capture_objective", "check_first", "first_step"]

CHECKS = (101, 202)
"""Seeds of the two runs that a captured program must reproduce."""

DRIFT, FEW_DIGITS = 4.0, 0.1
"""How much farther from the step in double precision a compiled one may be than torch's, where that is off by less than this share."""


def capture_objective(work: Work) -> Captured:
    """The particles' ELBOs as a pure function of the parameters, in the store's order, and, with minibatches, of the rows.

    It is run twice beside stock Pyro with other random numbers than it was captured with: values and gradients must be
    the same, or the program is one whose structure changes from run to run.

    Raises:
        CaptureError: if there is no such function.
    """
    objective = work.objective
    if not isinstance(objective, PureELBO):
        raise CaptureError(f"the objective {type(objective).__name__} is a stock Pyro class, which reads values.")
    if objective.uncapturable:
        raise CaptureError(f"the objective {type(objective).__name__} cannot be captured: {objective.uncapturable}")
    params = work.parameters()
    rows = work.rows()
    problem, guide = work.problem, work.guide

    clock = [] if objective.clock is None else [torch.zeros((), dtype=problem.dtype, device=problem.device)]
    if clock:
        objective.clock = clock[0]

    def particles(*inputs: Tensor) -> Tensor:
        batch = work.batch(inputs[len(params) : len(params) + len(rows)])
        with batch.active():
            return objective.particles(problem.model, guide, *batch.args, **batch.kwargs)

    with randomness.random_state(work.seed, problem.device):
        captured = capture(particles, *params, *rows, *clock, what=f"model {problem.name!r} with its guide")
    if clock:
        captured = with_step(captured)
    if not work.steady:
        _check_structure(work)
    for seed in CHECKS:
        with randomness.random_state(seed, problem.device):
            expected = particles(*params, *rows)
        with randomness.random_state(seed, problem.device):
            observed = captured(*params, *rows)
        _compare(work, expected, observed, params)
    return captured


@dataclass(frozen=True)
class First:
    """A step by torch that a compiled one must repeat: what it took, and its loss and gradient."""

    captured: Captured
    rows: list[Tensor]
    noise: list[Tensor]
    loss: Tensor
    gradient: Tensor


def first_step(work: Work, captured: Captured) -> First:
    """A step by torch on the next rows and fresh random numbers."""
    rows, noise = work.rows(), [n.draw() for n in captured.noise]
    return First(captured, rows, noise, *_step(captured, work.parameters(), rows, noise))


def _step(captured: Captured, params: list[Tensor], rows: list[Tensor], noise: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Loss and gradient of a step by torch."""
    values = captured(*params, *rows, noise=noise)
    gradients = [gradient.reshape(-1) for gradient in _gradient(-values, params)]
    return -values.detach().mean().reshape(1).cpu(), torch.cat(gradients).cpu()


def _unrounded(work: Work, first: First) -> tuple[Tensor, Tensor]:
    """Loss and gradient of the same step in double precision."""
    params = [p.detach().double().requires_grad_() for p in work.parameters()]
    noise = [n.double() if n.is_floating_point() else n for n in first.noise]
    return _step(widened(first.captured), params, first.rows, noise)


def check_first(work: Work, first: First, loss: Tensor, gradient: Tensor | None, engine: str) -> None:
    """Compares a compiled step with torch's; without gradient, the loss alone.

    In single precision a difference may be torch's own rounding, as where terms of a large concentration cancel: then the step in
    double precision decides.

    Raises:
        CaptureError: if they differ by more than rounding.
    """
    pairs = [(first.loss, loss)]
    if gradient is not None and bool(torch.isfinite(first.gradient).all()):
        pairs.append((first.gradient, gradient))
    exact: tuple[Tensor, ...] = ()
    for i, (stock, ours) in enumerate(pairs):
        single = stock.dtype == torch.float32
        if agree(stock, ours.to(stock), 1e-3 if single else 1e-8):
            continue
        exact = exact or (_unrounded(work, first) if single else ())
        if not single or not _as_good(exact[i], stock, ours):
            raise CaptureError(
                f"the loss or gradient of model {work.problem.name!r} by engine {engine!r} is not torch's: "
                f"{float(ours.sum()):.6g} for {float(stock.sum()):.6g}."
            )


def _compare(work: Work, expected: Tensor, observed: Tensor, params: list[Tensor]) -> None:
    pairs = [(expected.detach(), observed.detach())]
    if expected.requires_grad != observed.requires_grad:
        raise CaptureError(f"the gradient of model {work.problem.name!r} with its guide is lost in its graph.")
    if expected.requires_grad:
        pairs += list(zip(_gradient(expected, params), _gradient(observed, params), strict=True))
    for stock, graph in pairs:
        if not agree(stock, graph, 1e-4 if stock.dtype == torch.float32 else 1e-9):
            raise CaptureError(
                f"model {work.problem.name!r} with its guide is not the same program in every run: with the same random numbers "
                f"Pyro gives {float(stock.sum()):.6g} and the graph of an earlier run {float(graph.sum()):.6g}."
            )


def agree(expected: Tensor, observed: Tensor, tolerance: float) -> bool:
    """Whether two tensors are equal to within ``tolerance`` of the largest finite element; NaN equals NaN.

    What is zero but for the rounding of terms that cancel, as a loss is where the guide is the posterior, agrees with zero.
    """
    finite = expected[torch.isfinite(expected)]
    scale = float(finite.abs().max()) if finite.numel() else 1.0
    rounding = 1e3 * torch.finfo(expected.dtype).eps
    return torch.allclose(expected, observed, rtol=tolerance, atol=tolerance * scale + rounding, equal_nan=True)


def _as_good(exact: Tensor, stock: Tensor, ours: Tensor) -> bool:
    """Whether a compiled result is that in double precision, or about as near to it as torch's in single is, if that has digits."""
    if not torch.isfinite(exact).all():
        return False
    if agree(exact, ours.to(exact), 1e-3):
        return True
    scale = float(exact.abs().max())
    rounding = float((stock.double() - exact).abs().max())
    return rounding <= FEW_DIGITS * scale and float((ours.to(exact) - exact).abs().max()) <= DRIFT * rounding


def _gradient(values: Tensor, params: list[Tensor]) -> list[Tensor]:
    found = torch.autograd.grad(values.mean(), params, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for g, p in zip(found, params, strict=True)]


def _check_structure(work: Work) -> None:
    """Refuses programs whose sites come and go.

    Raises:
        CaptureError: with the name of a site that is there in one run and not in another, or has another shape.
    """
    first, second = (_sites(work, seed) for seed in CHECKS)
    for name in first.keys() | second.keys():
        if first.get(name) != second.get(name):
            raise CaptureError(
                f"model {work.problem.name!r} with its guide changes from run to run: site {name!r} is "
                f"{first.get(name, 'absent')} in one and {second.get(name, 'absent')} in another."
            )


def _sites(work: Work, seed: int) -> dict[str, str]:
    with randomness.random_state(seed, work.problem.device), torch.no_grad():
        batch = work.batch(work.rows())
        with batch.active():
            guide: Any = poutine.trace(work.guide).get_trace(*batch.args, **batch.kwargs)
            model: Any = poutine.trace(poutine.replay(work.problem.model, trace=guide)).get_trace(
                *batch.args, **batch.kwargs
            )
    return {
        f"{name}": f"{type(node['fn']).__name__} of shape {tuple(node['value'].shape)}"
        for trace in (guide, model)
        for name, node in trace.nodes.items()
        if is_random(node)
    }
