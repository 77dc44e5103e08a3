"""The engine ``"torch"``: loss, gradient and Adam's step as one graph that torch compiles, on CPU or GPU."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pyrolvm._base.errors import CaptureError
from pyrolvm._capture import Captured, selfcheck
from pyrolvm._capture.recorder import Reading, record
from pyrolvm._compat.torch import keeps_address
from pyrolvm._methods.fit.engines.base import Work, columns, write
from pyrolvm._methods.fit.optimizer import Adam
from pyrolvm._results.history import Taken

__all__ = ["TorchEngine"]

Step = Callable[..., Sequence[Tensor]]


class TorchEngine:
    """Steps on a graph compiled by torch; on CUDA, replayed as a CUDA graph.

    With an optimiser other than Adam the graph ends at the gradient, and the optimiser steps by itself.

    Args:
        work: what to optimise.
        captured: its objective, with noise as inputs.
        chunk: how many steps a call may take.

    Raises:
        CaptureError: if the program cannot be captured.
    """

    name = "torch"
    moves = True
    """Whether the graph itself moves the parameters, where the optimiser is Adam."""

    def __init__(self, work: Work, captured: Captured, chunk: int) -> None:
        started = time.perf_counter()
        self.work, self.limit = work, chunk
        self.params = work.parameters()
        self._captured = captured
        self._adam = work.stepper.adam if self.moves else None
        # The graph writes into plain tensors that share memory with the parameters, outside of autograd's sight. Those without a
        # dimension have one there: what inductor compiles for a processor takes them as numbers, and writes into none.
        self._values = [parameter.detach().reshape(parameter.shape or (1,)) for parameter in self.params]
        self._moments = [torch.zeros_like(value) for value in (*self._values, *self._values)] if self._adam else []
        self._count = 0
        self.note = ""
        self._step = self._build()
        self.compile_seconds = time.perf_counter() - started

    def advance(self, first: int, factors: Sequence[float]) -> Taken:
        """Takes the steps; what they report is read once, at the end."""
        work, reports, rates = self.work, [], []
        for step, factor in enumerate(factors, first):
            if self._adam is None:
                report, *gradients = self.evaluated(step)
                if bool(report[2]):
                    for parameter, gradient in zip(self.params, gradients, strict=True):
                        parameter.grad = gradient.reshape(parameter.shape)
                    work.stepper.step(self.params, factor)
                rates.append(work.stepper.learning_rate)
            else:
                self._count += 1
                rates.append(self._adam.learning_rate * factor)
                settings = _settings(self._adam, rates[-1], self._count, self._values[0])
                (report,) = self._run(*self._inputs(step), *self._moments, settings)
            reports.append(report)
        table = torch.stack(reports).cpu().double().numpy()
        return columns([(row[0], row[1], rate, bool(row[2])) for row, rate in zip(table, rates, strict=True)])

    def evaluated(self, step: int) -> list[Tensor]:
        """What a step reports, and its gradients, where the graph ends at these."""
        return self._run(*self._inputs(step))

    def publish(self) -> None:
        """Nothing to do: the parameters in the store are the ones that move."""

    def restart(self) -> None:
        """Forgets the moments; the parameters in the store are the ones that move."""
        self._count = 0
        for moment in self._moments:
            moment.zero_()
        self.work.stepper.restart()

    def state(self) -> dict[str, Any]:
        """The moments of its own Adam; the rest is the session's."""
        return {"moments": list(self._moments), "count": self._count}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from there."""
        self._count = state["count"]
        write(state["moments"], self._moments)

    def _run(self, *inputs: Tensor) -> list[Tensor]:
        # Without gradients, as it was compiled; the results are copied, since a CUDA graph writes the next ones over them.
        with torch.no_grad():
            return [result.clone() for result in self._step(*inputs)]

    def _inputs(self, step: int = 0) -> list[Tensor]:
        """What a step takes but for what its optimiser knows."""
        noise = (n.draw(step) for n in self._captured.noise)
        return [*self._values, *self.work.rows(), *noise, *self._captured.constants]

    def _build(self) -> Step:
        """Records the step on the memory it will run on, compiles it, and runs it once for nothing."""
        inputs = self._inputs()
        if self._adam is not None:
            inputs += [*self._moments, _settings(self._adam, 0.0, 1, self._values[0])]
        held = [tensor.clone() for tensor in (*self._values, *self._moments)]
        shapes = [parameter.shape for parameter in self.params]
        program = _program(self._captured, shapes, self._adam, self.work.stepper.clip_norm)
        try:
            plain = record(program, inputs)
        except Reading as error:  # in the backward pass, which the captured objective did not run
            raise CaptureError(f"engine 'torch' cannot record a step: {error}.") from error
        step = self._compiled(plain, inputs)
        for tensor, value in zip((*self._values, *self._moments), held, strict=True):
            tensor.copy_(value)
        return step

    def _compiled(self, plain: torch.fx.GraphModule, inputs: Sequence[Tensor]) -> Step:
        cuda = self._values[0].is_cuda
        if cuda:
            for tensor in (*self._values, *self._moments, *self._captured.constants):
                keeps_address(tensor)
        step: Step = torch.compile(plain, fullgraph=True, dynamic=False, mode="reduce-overhead" if cuda else None)
        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore", FutureWarning
                )  # inductor of torch 2.13 calls what torch 2.13 deprecates
                step(*inputs)
        except Exception as error:  # no C++ compiler, most of all; the graph itself still runs, without fusion
            if not cuda:
                selfcheck.works("torch")
            self.note = (
                f"; torch could not compile the graph ({type(error).__name__}), so that it runs operation by operation"
            )
            return plain
        return step


def _settings(adam: Adam, rate: float, count: int, like: Tensor) -> Tensor:
    """What changes from one Adam step to the next: the rate and the two bias corrections."""
    numbers = [rate, 1 - adam.beta1**count, 1 - adam.beta2**count]
    return torch.tensor(numbers, dtype=like.dtype).to(like.device, non_blocking=True)


def _program(
    captured: Captured, shapes: Sequence[torch.Size], adam: Adam | None, clip_norm: float | None
) -> Callable[[list[Tensor]], list[Tensor]]:
    """A function of all the step's inputs that reports loss, error and whether both and the gradient are finite.

    With Adam it moves the parameters and moments in place; without, it returns the gradients too.
    """
    width, count = captured.inputs + len(captured.noise) + len(captured.constants), len(shapes)

    def program(inputs: list[Tensor]) -> list[Tensor]:
        values, rest = inputs[:count], inputs[count:width]
        leaves = [value.detach().requires_grad_(True) for value in values]
        with torch.enable_grad():
            shaped = [leaf.reshape(shape) for leaf, shape in zip(leaves, shapes, strict=True)]
            elbos = captured.unflatten(captured.module(*shaped, *rest))
            found = torch.autograd.grad(-elbos.mean(), leaves, allow_unused=True)
        gradients = [torch.zeros_like(v) if g is None else g for g, v in zip(found, values, strict=True)]
        elbos = elbos.detach()
        error = elbos.std() / len(elbos) ** 0.5 if len(elbos) > 1 else elbos.sum() * torch.nan
        fine = torch.isfinite(elbos.mean())
        for gradient in gradients:
            fine = fine & torch.isfinite(gradient).all()
        report = torch.stack([-elbos.mean(), error, fine.to(elbos.dtype)])
        if adam is None:
            return [report, *gradients]
        if clip_norm is not None:
            norm = torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()
            gradients = [gradient * (clip_norm / (norm + 1e-6)).clamp(max=1.0) for gradient in gradients]
        first, second, (rate, debias1, debias2) = (
            inputs[width : width + count],
            inputs[width + count : -1],
            inputs[-1].unbind(),
        )
        for value, gradient, m, v in zip(values, gradients, first, second, strict=True):
            new_m = adam.beta1 * m + (1 - adam.beta1) * gradient
            new_v = adam.beta2 * v + (1 - adam.beta2) * gradient * gradient
            moved = value - rate * (new_m / debias1) / ((new_v / debias2).sqrt() + adam.eps)
            for old, new in ((m, new_m), (v, new_v), (value, moved)):
                old.copy_(torch.where(fine, new, old))
        return [report]

    def without_autograd(inputs: list[Tensor]) -> list[Tensor]:
        with torch.no_grad():
            return program(inputs)

    return without_autograd
