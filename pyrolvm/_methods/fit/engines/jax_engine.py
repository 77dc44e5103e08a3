"""The engine ``"jax"``: the captured objective under ``jax.grad``, and many Adam steps a call inside one XLA loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import torch

from pyrolvm._base import randomness
from pyrolvm._base.errors import CaptureError, PyrolvmError
from pyrolvm._base.explain import reason
from pyrolvm._base.numerics import Array
from pyrolvm._capture import Captured
from pyrolvm._capture.jax import device_of, lower, precision, tensor
from pyrolvm._capture.jax.compiling import QUICK, compiled
from pyrolvm._methods.fit.engines.ahead import Ahead
from pyrolvm._methods.fit.engines.base import Work, write
from pyrolvm._methods.fit.engines.captured import check_first, first_step
from pyrolvm._methods.fit.optimizer import Adam
from pyrolvm._results.history import Taken

__all__ = ["JaxEngine"]

State = tuple[jax.Array, jax.Array, jax.Array, jax.Array]
"""Parameters, their first and second moments, and the steps taken."""

Vector = TypeVar("Vector", Array, jax.Array)

SMALL = 100_000
"""Numbers computed in a step up to which thousands of steps take less time than XLA's last optimisations."""


class JaxEngine:
    """Steps on JAX.

    Args:
        work: what to optimise.
        captured: its objective, with noise as inputs.
        chunk: how many steps a call may take.

    Raises:
        CaptureError: if the program has an operation without a rule or an optimiser that is not Adam, or
            if JAX's first loss or gradient is not torch's.
    """

    name = "jax"

    def __init__(self, work: Work, captured: Captured, chunk: int) -> None:
        started = time.perf_counter()
        if work.stepper.adam is None:
            raise CaptureError("engine 'jax' steps by Adam alone; the optimizer is another.")
        self.work, self.adam = work, work.stepper.adam
        self.params = work.parameters()
        if len({parameter.dtype for parameter in self.params}) > 1:
            raise CaptureError("engine 'jax' takes parameters of one dtype; the guide's have several.")
        self._ahead = Ahead(work, captured, self.params[0].detach().cpu().numpy().dtype)
        self.limit = self._ahead.limit(chunk)
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
            noise, rows = self._ahead.noise(count, self.limit, first), self._ahead.batches(count, self.limit)
            return self._call(noise, rows, first, factors)

    def publish(self) -> None:
        """Copies the parameters to torch."""
        parts = self._split(np.asarray(self._state[0]))
        write([tensor(part, like) for part, like in zip(parts, self.params, strict=True)], self.params)

    def restart(self) -> None:
        """Reads the parameters from torch."""
        flat = np.concatenate([parameter.detach().cpu().numpy().reshape(-1) for parameter in self.params])
        # NumPy's zeros, since JAX would compile a program to make its own.
        self._state: Any = (flat, np.zeros_like(flat), np.zeros_like(flat), np.zeros((), flat.dtype))

    def state(self) -> dict[str, Any]:
        """Parameters and moments, and where the random numbers are."""
        return {"parts": [np.asarray(part) for part in self._state], "streams": self._ahead.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from there."""
        self._state = tuple(np.array(part) for part in state["parts"])
        self._ahead.restore(state["streams"])

    # --- setting up ---------------------------------------------------------------------------------------------------

    def _precision(self) -> AbstractContextManager[None]:
        return precision(self.params[0].dtype, self.params[0].device)

    def _compile(self, captured: Captured) -> None:
        lowered = lower(captured)
        self.restart()
        flat = self._state[0]
        self._constants = lowered.constants
        self._key = jax.random.key(randomness.folded(self.work.seed)) if lowered.draws else None
        chunk = _stepping(lowered.function, self._split, self._ahead.split, self.adam, self.work.stepper.clip_norm)
        rates = np.zeros(self.limit, dtype=flat.dtype)
        noise, rows = self._ahead.noise(0, self.limit), self._rows(self._ahead.batches(0, self.limit))
        example = (self._state, noise, self._key, 0, rows, rates, 0, self._constants)
        quick = captured.numbers < SMALL and device_of(self.params[0].device).platform == "cpu"
        self._chunk = compiled(jax.jit(chunk).lower(*example), QUICK if quick else None)

    def _compare(self, captured: Captured) -> None:
        """Takes one step of size zero on numbers of torch's, and compares its loss and gradient with torch's."""
        first, before = first_step(self.work, captured), self._state
        noise = np.broadcast_to(self._ahead.joined(first.noise), (self.limit, self._ahead.numbers))
        rows = np.broadcast_to(first.rows[0].cpu().numpy() if first.rows else 0, (self.limit, self._ahead.rows))
        taken = self._call(noise, rows, 0, [0.0])
        gradient = tensor(np.asarray(self._state[1]) / (1 - self.adam.beta1), first.gradient)
        self._state = before
        clipped = self.work.stepper.clip_norm is not None  # the moment then holds another gradient
        check_first(self.work, first, torch.as_tensor(taken.losses), None if clipped else gradient, self.name)

    def _split(self, flat: Vector) -> list[Vector]:
        """The parameters out of the vector of all, an array of JAX's or NumPy's."""
        edges = np.cumsum([0, *(parameter.numel() for parameter in self.params)])
        return [flat[a:b].reshape(p.shape) for a, b, p in zip(edges[:-1], edges[1:], self.params, strict=True)]

    # --- steps --------------------------------------------------------------------------------------------------------

    def _rows(self, rows: Array) -> list[Array]:
        """Row numbers as the graph takes them, alone in a list; an empty list for all rows."""
        return [rows.astype(np.int32)] if self._ahead.rows else []

    def _call(self, noise: Array, rows: Array, first: int, factors: Sequence[float]) -> Taken:
        count = len(factors)
        rates = self.adam.learning_rate * np.asarray(factors)
        padded = np.zeros(self.limit, dtype=self._state[0].dtype)
        padded[:count] = rates
        self._state, table = self._chunk(
            self._state, noise, self._key, first, self._rows(rows), padded, count, self._constants
        )
        losses, errors, good = np.asarray(table)[:count].astype(float).T
        return Taken(losses, errors, rates, good != 0)


def _stepping(
    function: Callable[..., jax.Array],
    split: Callable[[jax.Array], list[jax.Array]],
    apart: Callable[[jax.Array], list[jax.Array]],
    adam: Adam,
    clip_norm: float | None,
) -> Callable[..., tuple[State, jax.Array]]:
    """The loop over steps: state and a call's inputs to the new state, and losses, errors and which steps were good."""

    def loss(
        parts: list[jax.Array],
        noise: jax.Array,
        key: jax.Array | None,
        rows: list[jax.Array],
        constants: tuple[jax.Array, ...],
    ) -> tuple[jax.Array, jax.Array]:
        values = function([*parts, *rows], apart(noise), constants, key)
        return -values.mean(), values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else jnp.nan * values[0]

    def chunk(
        state: State,
        noise: jax.Array,
        key: jax.Array | None,
        first: jax.Array,
        rows: list[jax.Array],
        rates: jax.Array,
        count: jax.Array,
        constants: tuple[jax.Array, ...],
    ) -> tuple[State, jax.Array]:
        def step(i: jax.Array, carry: tuple[State, jax.Array]) -> tuple[State, jax.Array]:
            (x, m, v, t), table = carry
            own = None if key is None else jax.random.fold_in(key, first + i)
            batch = [part[i] for part in rows]
            (value, error), parts = jax.value_and_grad(loss, has_aux=True)(split(x), noise[i], own, batch, constants)
            gradient = jnp.concatenate([part.reshape(-1) for part in parts])
            fine = jnp.isfinite(value) & jnp.isfinite(gradient).all()
            if clip_norm is not None:
                gradient = gradient * jnp.minimum(1.0, clip_norm / (jnp.linalg.norm(gradient) + 1e-6))
            new_t = t + 1
            new_m = adam.beta1 * m + (1 - adam.beta1) * gradient
            new_v = adam.beta2 * v + (1 - adam.beta2) * gradient**2
            scale = jnp.sqrt(new_v / (1 - adam.beta2**new_t)) + adam.eps
            new_x = x - rates[i] * new_m / (1 - adam.beta1**new_t) / scale
            moved = jax.tree.map(lambda new, old: jnp.where(fine, new, old), (new_x, new_m, new_v, new_t), (x, m, v, t))
            return moved, table.at[i].set(jnp.stack([value, error, fine.astype(value.dtype)]))

        return jax.lax.fori_loop(0, count, step, (state, jnp.zeros((len(rates), 3), rates.dtype)))

    return chunk
