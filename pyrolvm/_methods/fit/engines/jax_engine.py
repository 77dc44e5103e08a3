"""The engine ``"jax"``: the captured objective under ``jax.grad``, and many Adam steps a call inside one XLA loop."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
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

Groups = list[jax.Array]
"""A vector for each group of parameters."""

State = tuple[Groups, Groups, Groups, jax.Array]
"""Parameters, their first and second moments, and the steps taken."""

Vector = TypeVar("Vector", Array, jax.Array)

LARGE = 4_000
"""Numbers of a parameter from which on it is a vector by itself, since to cut it out of a longer one, and to put its gradient back,
copies it in every step. Small ones are one vector together, since each operation costs more than its numbers do."""

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
        self._cut = Cut([tuple(parameter.shape) for parameter in self.params])
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
        parts = self._cut.apart([np.asarray(group) for group in self._state[0]])
        write([tensor(part, like) for part, like in zip(parts, self.params, strict=True)], self.params)

    def restart(self) -> None:
        """Reads the parameters from torch."""
        copies = [np.array(parameter.detach().cpu().numpy()) for parameter in self.params]  # JAX may share their memory
        groups = self._cut.together(copies, np.concatenate)
        # NumPy's zeros, since JAX would compile a program to make its own.
        zeros = [np.zeros_like(group) for group in groups], [np.zeros_like(group) for group in groups]
        self._state: Any = (groups, *zeros, np.zeros((), groups[0].dtype))

    def state(self) -> dict[str, Any]:
        """Parameters and moments, and where the random numbers are."""
        *parts, steps = self._state
        return {"parts": [*(self._flat(part) for part in parts), np.asarray(steps)], "streams": self._ahead.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from there."""
        *parts, steps = (np.array(part) for part in state["parts"])
        self._state = (*(self._cut.grouped(part) for part in parts), steps)
        self._ahead.restore(state["streams"])

    def _flat(self, groups: Sequence[jax.Array]) -> Array:
        """One vector of all, in the parameters' order."""
        return np.concatenate([part.reshape(-1) for part in self._cut.apart([np.asarray(group) for group in groups])])

    # --- setting up ---------------------------------------------------------------------------------------------------

    def _precision(self) -> AbstractContextManager[None]:
        return precision(self.params[0].dtype, self.params[0].device)

    def _compile(self, captured: Captured) -> None:
        lowered = lower(captured)
        self.restart()
        self._constants = lowered.constants
        self._key = jax.random.key(randomness.folded(self.work.seed)) if lowered.draws else None
        chunk = _stepping(lowered.function, self._cut, self._ahead.split, self.adam, self.work.stepper.clip_norm)
        rates = np.zeros(self.limit, dtype=self._state[3].dtype)
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
        gradient = tensor(self._flat(self._state[1]) / (1 - self.adam.beta1), first.gradient)
        self._state = before
        clipped = self.work.stepper.clip_norm is not None  # the moment then holds another gradient
        check_first(self.work, first, torch.as_tensor(taken.losses), None if clipped else gradient, self.name)

    # --- steps --------------------------------------------------------------------------------------------------------

    def _rows(self, rows: Array) -> list[Array]:
        """Row numbers as the graph takes them, alone in a list; an empty list for all rows."""
        return [rows.astype(np.int32)] if self._ahead.rows else []

    def _call(self, noise: Array, rows: Array, first: int, factors: Sequence[float]) -> Taken:
        count = len(factors)
        rates = self.adam.learning_rate * np.asarray(factors)
        padded = np.zeros(self.limit, dtype=self._state[3].dtype)
        padded[:count] = rates
        self._state, table = self._chunk(
            self._state, noise, self._key, first, self._rows(rows), padded, count, self._constants
        )
        losses, errors, good = np.asarray(table)[:count].astype(float).T
        return Taken(losses, errors, rates, good != 0)


@dataclass(frozen=True)
class Cut:
    """Parameters as vectors: each large one is one, and all small ones are one together, the first where there are any.

    Args:
        shapes: of the parameters.
    """

    shapes: Sequence[tuple[int, ...]]

    @cached_property
    def groups(self) -> list[list[int]]:
        """Which parameters each vector has."""
        sizes = [math.prod(shape) for shape in self.shapes]
        small = [i for i, size in enumerate(sizes) if size < LARGE]
        large = [[i] for i, size in enumerate(sizes) if size >= LARGE]
        return [small, *large] if small else large

    def apart(self, vectors: Sequence[Vector]) -> list[Vector]:
        """The parameters, in their order, out of arrays of JAX's or NumPy's."""
        found: dict[int, Vector] = {}
        for k, members in enumerate(self.groups):
            start = 0
            for i in members:
                end = start + math.prod(self.shapes[i])
                found[i] = (vectors[k] if len(members) == 1 else vectors[k][start:end]).reshape(self.shapes[i])
                start = end
        return [found[i] for i in range(len(self.shapes))]

    def together(self, parts: Sequence[Vector], join: Callable[[list[Vector]], Vector]) -> list[Vector]:
        """What :meth:`apart` takes apart."""
        flat = [part.reshape(-1) for part in parts]
        return [flat[group[0]] if len(group) == 1 else join([flat[i] for i in group]) for group in self.groups]

    def grouped(self, flat: Array) -> list[Array]:
        """The vectors out of one of all parameters, in their order."""
        edges = np.cumsum([0, *(math.prod(shape) for shape in self.shapes)])
        return self.together([flat[a:b] for a, b in itertools.pairwise(edges)], np.concatenate)


def _stepping(
    function: Callable[..., jax.Array],
    cut: Cut,
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
            (value, error), parts = jax.value_and_grad(loss, has_aux=True)(
                cut.apart(x), noise[i], own, batch, constants
            )
            gradients = cut.together(parts, jnp.concatenate)
            # A gradient whose square overflows would be the last step of its parameter: Adam divides by it ever after.
            squares = jnp.stack([jnp.vdot(gradient, gradient) for gradient in gradients]).sum()
            fine = jnp.isfinite(value) & jnp.isfinite(squares)
            if clip_norm is not None:
                shorter = jnp.minimum(1.0, clip_norm / (jnp.sqrt(squares) + 1e-6))
                gradients = [gradient * shorter for gradient in gradients]
            new_t = t + 1
            of_m, of_v = 1 - adam.beta1**new_t, 1 - adam.beta2**new_t

            # What a step that is not fine leaves as it is, factors leave: to choose between old and new arrays takes copies of both.
            kept = [jnp.where(fine, beta, 1.0) for beta in (adam.beta1, adam.beta2)]
            added = [jnp.where(fine, 1 - beta, 0.0) for beta in (adam.beta1, adam.beta2)]
            rate = jnp.where(fine, rates[i], 0.0)

            def moved(
                x: jax.Array, m: jax.Array, v: jax.Array, gradient: jax.Array
            ) -> tuple[jax.Array, jax.Array, jax.Array]:
                known = jnp.where(fine, gradient, 0.0)
                m = kept[0] * m + added[0] * known
                v = kept[1] * v + added[1] * known**2
                return x - rate * m / of_m / (jnp.sqrt(v / of_v) + adam.eps), m, v

            each = [moved(*group) for group in zip(x, m, v, gradients, strict=True)]
            now = [a for a, _, _ in each], [b for _, b, _ in each], [c for _, _, c in each], jnp.where(fine, new_t, t)
            return now, table.at[i].set(jnp.stack([value, error, fine.astype(value.dtype)]))

        return jax.lax.fori_loop(0, count, step, (state, jnp.zeros((len(rates), 3), rates.dtype)))

    return chunk
