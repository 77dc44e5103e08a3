"""What is learnt before the first kept draw: coordinates in which the posterior is about standard normal, and the kernel's numbers.

All chains learn together, and what they learn is frozen. A third of the warmup finds a step size, a third the moments of all chains'
draws, by which the coordinates are made new, and the last third tunes the kernel there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pyrolvm._base.numerics import Array
from pyrolvm._compat import blackjax
from pyrolvm._methods.kernels.kinds import ENERGY_VARIANCE, KERNELS, Density, Kernel, Key, Row, Setting, State, Value

__all__ = ["Ensemble", "Tuned", "Whole", "density_at", "tune"]

DENSE = 200
"""Up to so many unknowns correlations are learnt, above only scales."""

FORGOTTEN = 10
"""Moves after which draws of a warmup count as independent."""

GAIN, DECAY = 3.0, 0.6
"""The k-th update of the log step size is by ``GAIN / (k + 5)**DECAY`` times what is amiss."""

CHEES_RATE = 0.02
"""The learning rate of the length of trajectories."""


class Whole(NamedTuple):
    """Where chains move: ``z = mean + root @ x``, where ``root`` is a matrix or, of shape ``(n,)``, its diagonal."""

    mean: Value
    root: Value

    def plain(self, x: Value) -> State:
        """The unconstrained point of a point, or of points along leading dimensions."""
        return self.mean + (self.root * x if self.root.ndim == 1 else x @ self.root.T)

    def inverse(self, z: Array) -> Array:
        """Points whose unconstrained points are known, shape ``(count, n)``."""
        away = z - self.mean
        return away / self.root if self.root.ndim == 1 else np.linalg.solve(self.root, away.T).T

    def moved(self, mean: Array, covariance: Array, draws: float) -> Whole:
        """The coordinates in which draws with these moments in the present ones are standard normal.

        Args:
            mean: theirs, shape ``(n,)``.
            covariance: theirs, shape ``(n, n)`` or, of scales alone, ``(n,)``.
            draws: how many they count as: few are shrunk to the present scales.
        """
        share = draws / (draws + 5 * len(mean))
        if covariance.ndim == 1:
            scale = np.sqrt(share * covariance + (1 - share))
            return Whole(self.plain(mean), self.root * scale)
        root = np.linalg.cholesky(share * covariance + (1 - share) * np.eye(len(mean)))
        return Whole(self.plain(mean), self.root[:, None] * root if self.root.ndim == 1 else self.root @ root)

    def typed(self, dtype: np.dtype[Any]) -> Whole:
        return Whole(np.asarray(self.mean, dtype), np.asarray(self.root, dtype))


@dataclass(frozen=True)
class Ensemble:
    """What chains are run on.

    Attributes:
        kernel: how they move.
        potential: the potential energy on JAX, ``potential(z, *data)``.
        data: its constants.
        size: the number of unknowns.
        dtype: NumPy's dtype.
        keys: a random key for each chain, shape ``(chains, 2)``.
        warmup: moves before the first draw that is kept.
    """

    kernel: Kernel
    potential: Callable[..., Value]
    data: tuple[Value, ...]
    size: int
    dtype: np.dtype[Any]
    keys: Key
    warmup: int


@dataclass(frozen=True)
class Tuned:
    """What warmup leaves: coordinates, the kernel's numbers, where the chains are, and the gradients that it took of each."""

    whole: Whole
    setting: Setting
    states: State
    gradients: int


def density_at(ensemble: Ensemble, whole: Whole, data: tuple[Value, ...]) -> Density:
    """The log density in the coordinates of the chains."""
    return lambda x: -ensemble.potential(whole.plain(x), *data)


def tune(ensemble: Ensemble, starts: Array, whole: Whole) -> Tuned:
    """Warms up.

    Args:
        ensemble: the chains.
        starts: unconstrained points, shape ``(chains, n)``.
        whole: the coordinates to begin with.
    """
    own = ensemble.kernel if ensemble.kernel.name not in _ACROSS else KERNELS["barker"]
    adapter = _Adapter(ensemble, own)
    third = ensemble.warmup // 3
    whole = whole.typed(ensemble.dtype)
    states = adapter.begin(whole.inverse(starts).astype(ensemble.dtype), whole, 0)
    setting = {name: np.asarray(value, ensemble.dtype) for name, value in own.setting(ensemble.size).items()}
    states, setting, _, spent = adapter.run(states, setting, whole, 1, third)
    states, setting, moments, more = adapter.run(states, setting, whole, 2, third)
    positions = whole.plain(np.asarray(states.position, np.float64))
    found = moments.of() if moments is not None else None
    if found is not None:
        whole = whole.moved(*found, len(starts) * third / FORGOTTEN).typed(ensemble.dtype)
    at = whole.inverse(positions).astype(ensemble.dtype)
    left = ensemble.warmup - 2 * third
    if ensemble.kernel is own:
        states = adapter.begin(at, whole, 3)
        states, setting, _, last = adapter.run(states, setting, whole, 3, left)
        return Tuned(whole, setting, states, spent + more + last)
    setting, states = _ACROSS[ensemble.kernel.name](ensemble, whole, at, left)
    return Tuned(whole, setting, states, spent + more)


# --- step sizes -------------------------------------------------------------------------------------------------------


@dataclass
class _Moments:
    """Sums over draws of all chains."""

    count: float
    total: Array
    squares: Array

    def of(self) -> tuple[Array, Array] | None:
        """Mean and covariance, if they are finite."""
        mean = self.total / self.count
        square = self.squares / self.count
        covariance = square - (np.outer(mean, mean) if square.ndim == 2 else mean**2)
        diagonal = covariance.diagonal() if covariance.ndim == 2 else covariance
        return (mean, covariance) if np.isfinite(square).all() and (diagonal > 0).all() else None


class _Adapter:
    """Chains that move and adapt one step size: compiled once, run in parts."""

    def __init__(self, ensemble: Ensemble, kernel: Kernel) -> None:
        import jax

        self.ensemble, self.kernel = ensemble, kernel
        self._begin = jax.jit(self._begun)
        self._run = jax.jit(self._moved)

    def begin(self, points: Array, whole: Whole, part: int) -> State:
        """The chains' first states."""
        return self._begin(points, self._keys(part), whole, self.ensemble.data)

    def run(
        self, states: State, setting: Setting, whole: Whole, part: int, count: int
    ) -> tuple[State, Setting, _Moments | None, int]:
        """Moves the chains so often; returns states, numbers with the mean step size of the second half, moments, and gradients."""
        if not count:
            return states, setting, None, 0
        states, log_step, sums, gradients = self._run(
            states, setting, self._keys(part), np.int32(count), whole, self.ensemble.data
        )
        total, squares = (np.asarray(one, np.float64) for one in sums)
        step = np.asarray(np.exp(np.asarray(log_step)), self.ensemble.dtype)
        chains = len(self.ensemble.keys)
        return states, setting | {"step_size": step}, _Moments(chains * count, total, squares), int(gradients)

    def _keys(self, part: int) -> State:
        import jax

        return jax.vmap(lambda key: jax.random.fold_in(key, part))(self.ensemble.keys)

    def _begun(self, points: Any, keys: Key, whole: Whole, data: tuple[Value, ...]) -> State:
        import jax

        density = density_at(self.ensemble, whole, data)
        return jax.vmap(lambda key, x: self.kernel.begin(key, x, density))(keys, points)

    def _moved(
        self, states: State, setting: Setting, keys: Key, count: Value, whole: Whole, data: tuple[Value, ...]
    ) -> State:
        import jax
        import jax.numpy as jnp

        density = density_at(self.ensemble, whole, data)
        root = math.sqrt(self.ensemble.size)
        dense = self.ensemble.size <= DENSE

        def body(t: Value, carry: Value) -> State:
            states, log_step, late, (total, squares), gradients = carry
            now = setting | {"step_size": jnp.exp(log_step)}
            inside = jax.vmap(lambda key: jax.random.fold_in(key, t))(keys)
            states, rows = jax.vmap(lambda key, state: self.kernel.move(key, state, density, now))(inside, states)
            amiss = self._amiss(rows)
            log_step = log_step + GAIN / (t + 5.0) ** DECAY * amiss
            log_step = jnp.clip(log_step, -12.0, math.log(2 * root)).astype(states.position.dtype)
            x = states.position
            more = jnp.einsum("ci,cj->ij", x, x) if dense else jnp.sum(x**2, axis=0)
            late = late + jnp.where(2 * t >= count, log_step, 0.0)
            return (
                states,
                log_step,
                late,
                (total + x.sum(0), squares + more),
                gradients + jnp.max(rows.gradients).astype(jnp.int32),
            )

        n = self.ensemble.size
        kind = states.position.dtype
        sums = (jnp.zeros(n, kind), jnp.zeros((n, n) if dense else n, kind))
        log_step = jnp.log(setting["step_size"])
        begun = (states, log_step, jnp.zeros_like(log_step), sums, jnp.zeros((), jnp.int32))
        states, log_step, late, sums, gradients = jax.lax.fori_loop(0, count, body, begun)
        return states, late / (count - (count + 1) // 2), sums, gradients

    def _amiss(self, rows: Row) -> State:
        """How much the log step size is too small, about."""
        import jax.numpy as jnp

        if self.kernel.target is not None:
            accepted = jnp.where(jnp.isfinite(rows.accept) & ~rows.diverging, rows.accept, 0.0)
            return jnp.mean(accepted) - self.kernel.target
        # An energy error's variance grows as the sixth power of the step.
        error = jnp.mean(jnp.where(jnp.isfinite(rows.error) & ~rows.diverging, rows.error, 1.0))
        return jnp.clip(jnp.log(ENERGY_VARIANCE) - jnp.log(error + 1e-12), -6.0, 6.0) / 6


# --- kernels that BlackJAX tunes across chains ------------------------------------------------------------------------


def _tune_chees(ensemble: Ensemble, whole: Whole, points: Array, moves: int) -> tuple[Setting, State]:
    """The trajectory by which squared distances from the mean change most for its length."""
    import jax
    import optax

    setting = ensemble.kernel.setting(ensemble.size)

    def run(key: Key, at: Value, whole: Whole, data: tuple[Value, ...]) -> State:
        tuner = blackjax.installed().chees_adaptation(
            density_at(ensemble, whole, data), len(points), adaptation_info_fn=lambda *_: None
        )
        (states, found), _ = tuner.run(key, at, setting["step_size"], optax.adam(CHEES_RATE), moves)
        return states, found["step_size"], found["step_size"] * found["integration_steps_params"][0]

    states, step, length = jax.jit(run)(_key(ensemble), points, whole, ensemble.data)
    return {"step_size": step, "length": length}, states


def _tune_meads(ensemble: Ensemble, whole: Whole, points: Array, moves: int) -> tuple[Setting, State]:
    """Steps and damping by the largest eigenvalues of what other chains show."""
    import jax

    def run(key: Key, at: Value, whole: Whole, data: tuple[Value, ...]) -> State:
        tuner = blackjax.installed().meads_adaptation(
            density_at(ensemble, whole, data), len(points), num_folds=4, adaptation_info_fn=lambda *_: None
        )
        (states, found), _ = tuner.run(key, at, moves)
        return states, found

    states, found = jax.jit(run)(_key(ensemble), points, whole, ensemble.data)
    return {
        "step_size": found["step_size"], "scale": found["momentum_inverse_scale"], "alpha": found["alpha"],
        "delta": found["delta"],
    }, states  # fmt: skip


def _key(ensemble: Ensemble) -> State:
    import jax

    return jax.random.fold_in(ensemble.keys[0], 4)


_ACROSS = {"chees": _tune_chees, "meads": _tune_meads}
