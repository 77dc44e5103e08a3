"""BlackJAX's kernels under one interface: where a chain stands, how it makes one draw, and what is tuned before.

All of them move in coordinates in which the posterior is about standard normal, so that lengths mean the same for each: a
microcanonical trajectory goes a unit a unit of time, and turns by a quarter within ``pi / 2 * sqrt(unknowns)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from pyrolvm._compat import blackjax

__all__ = ["ENERGY_VARIANCE", "KERNELS", "Density", "Kernel", "Key", "Row", "Setting", "State", "Value"]

Key = Any
"""A key of ``jax.random``."""

Value = Any
"""An array of JAX, or a tracer of one."""

State = Any
"""Where a chain, or several along a leading dimension, stand: a tuple of BlackJAX's."""

Density = Callable[[Value], Value]
"""From a point to its log density, on JAX."""

Setting = dict[str, Value]
"""The numbers that a kernel is tuned by, by name."""

MOST_STEPS = 1024
"""A bound on the gradients of one draw."""

QUARTER = math.pi / 2

ENERGY_VARIANCE = 5e-4
"""The variance of a microcanonical step's energy error, an unknown, that its size is adapted to where nothing corrects for it."""


class Row(NamedTuple):
    """What is kept of a draw, beside where it is: numbers of shape ``()``.

    Attributes:
        lp: the log density, up to a constant.
        accept: the acceptance probability, of the mean move; 1 where nothing is rejected.
        diverging: whether energy grew beyond bounds, or was not finite.
        gradients: how many were evaluated.
        error: the squared energy error of a step, an unknown; 0 where moves are accepted or rejected by it.
    """

    lp: Value
    accept: Value
    diverging: Value
    gradients: Value
    error: Value


@dataclass(frozen=True)
class Kernel:
    """One way to move.

    Attributes:
        name: as it is asked for.
        does: one line of what it is.
        begin: ``(key, point, density)`` to a chain's state, which has ``position``, ``logdensity`` and ``logdensity_grad``.
        move: ``(key, state, density, setting)`` to the next state and its :class:`Row`.
        setting: ``(unknowns)`` to the numbers to begin with, ``step_size`` among them.
        target: what the step size is adapted to: an acceptance probability; ``None`` where BlackJAX tunes it across the chains.
        exact: whether its draws, after many, are of the posterior; otherwise they are of something near.
        least: the number of unknowns from which on it can move.
    """

    name: str
    does: str
    begin: Callable[..., State]
    move: Callable[..., tuple[State, Row]]
    setting: Callable[[int], Setting]
    target: float | None
    exact: bool = True
    least: int = 1


# --- microcanonical ---------------------------------------------------------------------------------------------------


def _lengths(unknowns: int) -> Setting:
    root = math.sqrt(unknowns)
    return {"step_size": 0.25 * root, "length": QUARTER * root}


def _uniform_steps(key: Key, mean: Value) -> State:
    """Uniform between one and twice the mean, so that no trajectory comes back to where it began each time."""
    import jax
    import jax.numpy as jnp

    return jnp.clip(jnp.ceil(2 * mean * jax.random.uniform(key)), 1, MOST_STEPS).astype(jnp.int32)


def _begin_mams(key: Key, point: Value, density: Density) -> State:
    return blackjax.installed().adjusted_mclmc_dynamic.init(point, density, key)


def _move_mams(key: Key, state: State, density: Density, setting: Setting) -> tuple[State, Row]:
    move = blackjax.installed().adjusted_mclmc_dynamic.build_kernel(integration_steps_fn=_uniform_steps)
    mean = setting["length"] / setting["step_size"]
    state, info = move(key, state, density, setting["step_size"], integration_steps_params=(mean,))
    return state, _row(state, info, 2 * info.num_integration_steps)


def _begin_mclmc(key: Key, point: Value, density: Density) -> State:
    return blackjax.installed().mclmc.init(point, density, key)


def _move_mclmc(key: Key, state: State, density: Density, setting: Setting) -> tuple[State, Row]:
    """As many steps as a decoherence takes, none of them rejected."""
    import jax
    import jax.numpy as jnp

    move = blackjax.installed().mclmc.build_kernel()
    step, length = setting["step_size"], setting["length"]
    steps = jnp.clip(jnp.ceil(length / step), 1, MOST_STEPS).astype(jnp.int32)

    def one(i: Value, carry: Value) -> State:
        state, squares, finite = carry
        state, info = move(
            jax.random.fold_in(key, i), state, density, jnp.ones_like(state.position), L=length, step_size=step
        )
        return state, squares + info.energy_change**2, finite & info.nonans

    begun = (state, jnp.zeros_like(state.logdensity), jnp.asarray(True))
    state, squares, finite = jax.lax.fori_loop(0, steps, one, begun)
    error = squares / (steps * state.position.size)
    return state, Row(state.logdensity, jnp.ones_like(state.logdensity), ~finite, 2 * steps, error)


# --- Hamiltonian ------------------------------------------------------------------------------------------------------


def _begin_chees(key: Key, point: Value, density: Density) -> State:
    return blackjax.installed().dynamic_hmc.init(point, density, 0)


def _move_chees(key: Key, state: State, density: Density, setting: Setting) -> tuple[State, Row]:
    """A trajectory of jittered length, the same for all chains at a time: nothing waits for the longest."""
    import jax.numpy as jnp

    def steps(count: Value, most: Value) -> State:
        return jnp.clip(jnp.ceil(most * _halton(count)), 1, MOST_STEPS).astype(jnp.int32)

    move = blackjax.installed().dynamic_hmc.build_kernel(
        integration_steps_fn=steps, next_random_arg_fn=lambda count: count + 1
    )
    most = setting["length"] / setting["step_size"]
    state, info = move(
        key, state, density, setting["step_size"], jnp.ones_like(state.position), integration_steps_params=(most,)
    )
    return state, _row(state, info, info.num_integration_steps)


def _halton(count: Value) -> State:
    """The base-two van der Corput sequence: numbers between 0 and 1 that fill it evenly."""
    import jax.numpy as jnp

    bits = jnp.arange(16)
    return jnp.sum(((count + 1) // 2**bits) % 2 / 2.0 ** (bits + 1))


def _begin_meads(key: Key, point: Value, density: Density) -> State:
    return blackjax.installed().ghmc.init(point, density, key)


def _move_meads(key: Key, state: State, density: Density, setting: Setting) -> tuple[State, Row]:
    """As many steps with a momentum that is half kept as make a unit of time."""
    import jax
    import jax.numpy as jnp

    move = blackjax.installed().ghmc.build_kernel()
    steps = jnp.clip(jnp.ceil(1.0 / setting["step_size"]), 1, MOST_STEPS).astype(jnp.int32)

    def one(i: Value, carry: Value) -> State:
        state, accepted, diverging = carry
        state, info = move(
            jax.random.fold_in(key, i), state, density, setting["step_size"], setting["scale"], setting["alpha"],
            setting["delta"],
        )  # fmt: skip
        return state, accepted + info.is_accepted, diverging | info.is_divergent

    zero = jnp.zeros_like(state.logdensity)
    state, accepted, diverging = jax.lax.fori_loop(0, steps, one, (state, zero, jnp.asarray(False)))
    return state, Row(state.logdensity, accepted / steps, diverging, steps, zero)


# --- one gradient a move ----------------------------------------------------------------------------------------------


def _begin_barker(key: Key, point: Value, density: Density) -> State:
    return blackjax.installed().barker.init(point, density)


def _move_barker(key: Key, state: State, density: Density, setting: Setting) -> tuple[State, Row]:
    """As many proposals as it takes to be elsewhere, which grow with the unknowns to the power of a third."""
    import jax
    import jax.numpy as jnp

    move = blackjax.installed().barker.build_kernel()
    steps = 2 * math.ceil(state.position.size ** (1 / 3))

    def one(i: Value, carry: Value) -> State:
        state, accepted = carry
        state, info = move(jax.random.fold_in(key, i), state, density, setting["step_size"])
        return state, accepted + info.acceptance_rate

    zero = jnp.zeros_like(state.logdensity)
    state, accepted = jax.lax.fori_loop(0, steps, one, (state, zero))
    return state, Row(state.logdensity, accepted / steps, jnp.asarray(False), jnp.asarray(steps), zero)


def _row(state: State, info: State, gradients: Value) -> Row:
    import jax.numpy as jnp

    return Row(state.logdensity, info.acceptance_rate, info.is_divergent, gradients, jnp.zeros_like(state.logdensity))


KERNELS = {
    made.name: made
    for made in (
        Kernel(
            "mams", "microcanonical trajectories, accepted or rejected", _begin_mams, _move_mams, _lengths, 0.9, least=2
        ),
        Kernel(
            "mclmc", "microcanonical Langevin steps, none rejected: biased", _begin_mclmc, _move_mclmc, _lengths, None,
            exact=False, least=2,
        ),
        Kernel(
            "chees", "Hamiltonian trajectories whose length is learnt across chains", _begin_chees, _move_chees,
            lambda unknowns: {"step_size": 0.5 * unknowns**-0.25, "length": QUARTER}, None,
        ),
        Kernel(
            "meads", "Hamiltonian steps with persistent momentum, tuned across chains", _begin_meads, _move_meads,
            lambda unknowns: {"step_size": 0.5 * unknowns**-0.25}, None,
        ),
        Kernel(
            "barker", "proposals skewed by the gradient: robust where scales are wrong", _begin_barker, _move_barker,
            lambda unknowns: {"step_size": unknowns ** (-1 / 6)}, 0.57,
        ),
    )
}  # fmt: skip
"""All kernels, by name."""
