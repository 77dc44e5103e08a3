"""The engine ``"jax"``: the captured objective under ``jax.grad``, and many Adam steps a call inside one XLA loop."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from pyrolvm.capture import Captured, with_noise
from pyrolvm.capture.jax import lower, precision, tensor
from pyrolvm.capture.jax.compiling import compiled
from pyrolvm.errors import CaptureError, PyrolvmError
from pyrolvm.program.explain import reason
from pyrolvm.vi.engines.base import Taken, Work, write
from pyrolvm.vi.engines.captured import agree, capture_objective
from pyrolvm.vi.optimizer import Adam

__all__ = ["JaxEngine"]

NOISE_AT_ONCE = 10_000_000
"""The most random numbers that are drawn ahead of a call."""

SMALL = 2_000
"""Parameters and random numbers of a step up to which thousands of steps take less time than XLA's last optimisations."""


class JaxEngine:
    """Steps on JAX.

    The normal and uniform random numbers of a call's steps are drawn ahead, by NumPy: that needs no compilation, costs a few
    nanoseconds a number, and gives the same stream however many steps a call takes.

    Args:
        work: what to optimise.
        chunk: how many steps a call may take.

    Raises:
        CaptureError: if the program cannot be captured, has an operation without a rule or an optimiser that is not Adam, or
            if JAX's first loss or gradient is not torch's.
    """

    name = "jax"

    def __init__(self, work: Work, chunk: int) -> None:
        started = time.perf_counter()
        if work.stepper.adam is None:
            raise CaptureError("engine 'jax' steps by Adam alone; the optimizer is another.")
        self.work, self.adam = work, work.stepper.adam
        self.params = work.parameters()
        if len({parameter.dtype for parameter in self.params}) > 1:
            raise CaptureError("engine 'jax' takes parameters of one dtype; the guide's have several.")
        captured = with_noise(capture_objective(work))
        self.limit = max(1, min(chunk, NOISE_AT_ONCE // max(1, _numbers(captured))))
        with self._precision():
            try:
                self._compile(captured)
            except PyrolvmError:
                raise
            except Exception as error:  # whatever JAX refuses, torch may take
                raise CaptureError(
                    f"JAX cannot run the graph of model {work.problem.name!r}: {reason(error)}"
                ) from error
            if not captured.random:
                self._compare(captured)
        self.compile_seconds = time.perf_counter() - started

    def advance(self, first: int, factors: Sequence[float]) -> Taken:
        """Takes the steps in one call."""
        with self._precision():
            count = len(factors)
            return self._call(self._noise(count), self._keys(first), self._rows(count), factors)

    def publish(self) -> None:
        """Copies the parameters to torch."""
        parts = self._split(np.asarray(self._state[0]))
        write([tensor(part, like) for part, like in zip(parts, self.params, strict=True)], self.params)

    # --- setting up ---------------------------------------------------------------------------------------------------

    def _precision(self) -> Any:
        return precision(self.params[0].dtype)

    def _compile(self, captured: Captured) -> None:
        lowered = lower(captured)
        flat = np.concatenate([parameter.detach().cpu().numpy().reshape(-1) for parameter in self.params])
        # NumPy's zeros, since JAX would compile a program to make its own.
        self._state: Any = (flat, np.zeros_like(flat), np.zeros_like(flat), np.zeros((), flat.dtype))
        self._constants = lowered.constants
        self._numbers = captured.noise
        self._generator = np.random.default_rng(self.work.seed)
        self._key = jax.random.key(self.work.seed) if lowered.draws else None
        chunk = _stepping(lowered.function, self._split, self.adam, self.work.stepper.clip_norm)
        rates = np.zeros(self.limit, dtype=flat.dtype)
        example = (self._state, self._noise(0), self._keys(0), self._rows(0), rates, 0, self._constants)
        quick = flat.size + _numbers(captured) < SMALL and jax.default_backend() == "cpu"
        self._chunk = compiled(jax.jit(chunk).lower(*example), quick=quick)

    def _compare(self, captured: Captured) -> None:
        """Takes one step of size zero on numbers of torch's, and compares its loss and gradient with torch's."""
        rows = self.work.rows()
        numbers = [n.draw() for n in captured.noise]
        values = captured(*self.params, *rows, noise=numbers)
        gradients = torch.autograd.grad(-values.mean(), self.params, allow_unused=True)
        expected = torch.cat(
            [
                torch.zeros(p.numel()) if g is None else g.reshape(-1)
                for g, p in zip(gradients, self.params, strict=True)
            ]
        )
        before = self._state
        noise = [np.broadcast_to(n.cpu().numpy(), (self.limit, *n.shape)) for n in numbers]
        batch = [np.broadcast_to(r.cpu().numpy().astype(np.int32), (self.limit, len(r))) for r in rows]
        taken = self._call(noise, None, batch, [0.0])
        observed = tensor(np.asarray(self._state[1]) / (1 - self.adam.beta1), expected)
        self._state = before
        loss = torch.as_tensor(taken.losses, dtype=expected.dtype)
        if self.work.stepper.clip_norm is not None or not bool(torch.isfinite(expected).all()):
            observed = expected  # the moment holds the clipped gradient, or nothing after a step that was skipped
        for stock, ours in ((-values.detach().mean().reshape(1), loss), (expected, observed)):
            if not agree(stock.cpu(), ours.cpu(), 1e-3 if stock.dtype == torch.float32 else 1e-8):
                raise CaptureError(
                    f"JAX's loss or gradient of model {self.work.problem.name!r} is not torch's: "
                    f"{float(ours.sum()):.6g} for {float(stock.sum()):.6g}."
                )

    def _split(self, flat: Any) -> list[Any]:
        """The parameters out of the vector of all, an array of JAX's or NumPy's."""
        edges = np.cumsum([0, *(parameter.numel() for parameter in self.params)])
        return [flat[a:b].reshape(p.shape) for a, b, p in zip(edges[:-1], edges[1:], self.params, strict=True)]

    # --- steps --------------------------------------------------------------------------------------------------------

    def _noise(self, count: int) -> list[Any]:
        """Random numbers for ``count`` steps, filled up to the size that was compiled for."""
        dtype = self._state[0].dtype
        room = [np.zeros((self.limit, *noise.shape), dtype=dtype) for noise in self._numbers]
        for i in range(count):
            for noise, numbers in zip(self._numbers, room, strict=True):
                draw = self._generator.standard_normal if noise.kind == "normal" else self._generator.random
                numbers[i] = draw(noise.shape, dtype=dtype)
        return room

    def _keys(self, first: int) -> Any:
        """A key a step, for the distributions that draw inside the graph; ``None`` where there are none."""
        return None if self._key is None else jax.random.split(jax.random.fold_in(self._key, first), self.limit)

    def _rows(self, count: int) -> list[Any]:
        """The next ``count`` batches' rows, filled up to the size that was compiled for, alone in a list."""
        if self.work.minibatches is None:
            return []
        room = np.zeros((self.limit, self.work.minibatches.size), dtype=np.int32)
        for i in range(count):
            room[i] = self.work.rows()[0].cpu().numpy()
        return [room]

    def _call(self, noise: Any, keys: Any, rows: Any, factors: Sequence[float]) -> Taken:
        count = len(factors)
        rates = self.adam.learning_rate * np.asarray(factors)
        padded = np.zeros(self.limit, dtype=self._state[0].dtype)
        padded[:count] = rates
        state, losses, errors, good = self._chunk(self._state, noise, keys, rows, padded, count, self._constants)
        losses, errors, good = (np.asarray(column)[:count] for column in (losses, errors, good))
        self._state = state
        return Taken(losses.astype(float), errors.astype(float), rates, good)


def _numbers(captured: Captured) -> int:
    return sum(int(np.prod(noise.shape)) for noise in captured.noise)


def _stepping(function: Any, split: Any, adam: Adam, clip_norm: float | None) -> Any:
    """The loop over steps: state and a call's inputs to the new state, losses, errors, and which steps were good."""

    def loss(flat: Any, noise: Any, key: Any, rows: Any, constants: Any) -> tuple[Any, Any]:
        values = function([*split(flat), *rows], noise, constants, key)
        return -values.mean(), values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else jnp.nan * values[0]

    def chunk(state: Any, noise: Any, keys: Any, rows: Any, rates: Any, count: Any, constants: Any) -> Any:
        def step(i: Any, carry: Any) -> Any:
            (x, m, v, t), losses, errors, good = carry
            here = jax.tree.map(lambda leaf: leaf[i], (noise, keys, rows))
            (value, error), gradient = jax.value_and_grad(loss, has_aux=True)(x, *here, constants)
            fine = jnp.isfinite(value) & jnp.isfinite(gradient).all()
            if clip_norm is not None:
                gradient = gradient * jnp.minimum(1.0, clip_norm / (jnp.linalg.norm(gradient) + 1e-6))
            new_t = t + 1
            new_m = adam.beta1 * m + (1 - adam.beta1) * gradient
            new_v = adam.beta2 * v + (1 - adam.beta2) * gradient**2
            scale = jnp.sqrt(new_v / (1 - adam.beta2**new_t)) + adam.eps
            new_x = x - rates[i] * new_m / (1 - adam.beta1**new_t) / scale
            moved = jax.tree.map(lambda new, old: jnp.where(fine, new, old), (new_x, new_m, new_v, new_t), (x, m, v, t))
            return moved, losses.at[i].set(value), errors.at[i].set(error), good.at[i].set(fine)

        blank = jnp.zeros_like(rates)
        return jax.lax.fori_loop(0, count, step, (state, blank, blank, blank.astype(bool)))

    return chunk
