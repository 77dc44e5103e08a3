"""Operations that draw random numbers: each takes a JAX key before its own arguments.

Draws from JAX's generator are not torch's draws: they agree in distribution, and in how they move with their parameters.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array

from pyrolvm._capture.jax.rules.kinds import Rule

__all__ = ["DRAWS"]


def _tiny(x: Array) -> float:
    return float(jnp.finfo(x.dtype).tiny)


def _gamma(key: Array, alpha: Array) -> Array:
    """Drawn as a logarithm: draws for a small concentration keep a gradient, and none is zero."""
    return jnp.maximum(jnp.exp(jax.random.loggamma(key, alpha, dtype=alpha.dtype)), _tiny(alpha))


def _dirichlet(key: Array, alpha: Array) -> Array:
    """Gammas over their sum, in logarithms, so that some always remains when all are tiny."""
    shares = jax.nn.softmax(jax.random.loggamma(key, alpha, dtype=alpha.dtype), axis=-1)
    return jnp.maximum(shares, _tiny(alpha))


def _bernoulli(key: Array, x: Array, p: Array | None = None) -> Array:
    chance = jax.lax.stop_gradient(x) if p is None else p
    return jax.random.bernoulli(key, chance, x.shape)


def _normal(key: Array, mean: float = 0.0, std: float = 1.0, shape: Sequence[int] | None = None, **_: object) -> Array:
    """As an operation of its own it has no gradient, in torch: ``rsample`` is a product and a sum."""
    mean, std = jax.lax.stop_gradient(mean), jax.lax.stop_gradient(std)
    wanted = jnp.broadcast_shapes(jnp.shape(mean), jnp.shape(std)) if shape is None else tuple(shape)
    return mean + std * jax.random.normal(key, wanted)


def _open(key: Array, x: Array) -> Array:
    """Uniform on (0, 1): safe to take a logarithm of, at both ends."""
    return jax.random.uniform(key, x.shape, x.dtype, minval=_tiny(x))


def _exponential(key: Array, x: Array, lambd: float = 1.0) -> Array:
    return jax.random.exponential(key, x.shape, x.dtype) / lambd


def _geometric(key: Array, x: Array, p: Array) -> Array:
    return jnp.maximum(jnp.ceil(jnp.log(_open(key, x)) / jnp.log1p(-p)), 1)


def _uniform(key: Array, x: Array, low: float = 0.0, high: float = 1.0, **ends: float) -> Array:
    low, high = ends.get("from", low), ends.get("to", high)
    return low + (high - low) * jax.random.uniform(key, x.shape, x.dtype)


def _poisson(key: Array, rate: Array) -> Array:
    return jax.random.poisson(key, jax.lax.stop_gradient(rate))


def _binomial(key: Array, count: Array, prob: Array) -> Array:
    count, prob = jnp.broadcast_arrays(jax.lax.stop_gradient(count), jax.lax.stop_gradient(prob))
    return jax.random.binomial(key, count, prob)


def _multinomial(key: Array, weights: Array, count: int, replacement: bool = False) -> Array:
    """Rows of indices: without replacement by the largest of perturbed logarithms."""
    logits = jnp.log(jax.lax.stop_gradient(weights))
    if replacement:
        return jnp.moveaxis(jax.random.categorical(key, logits, shape=(count, *logits.shape[:-1])), 0, -1)
    perturbed = logits + jax.random.gumbel(key, logits.shape, logits.dtype)
    return jax.lax.top_k(perturbed, count)[1]


def _randint(key: Array, low: int, high: int, shape: Sequence[int]) -> Array:
    return jax.random.randint(key, tuple(shape), low, high)


def _random(key: Array, x: Array, low: int = 0, high: int | None = None) -> Array:
    """Without a bound, all whole numbers that the dtype holds."""
    if high is None:
        high = 2 ** (jnp.finfo(x.dtype).nmant + 1) if jnp.issubdtype(x.dtype, jnp.floating) else jnp.iinfo(x.dtype).max
    return jax.random.randint(key, x.shape, low, high)


def _native_dropout(key: Array, x: Array, p: float, train: bool | None = True) -> tuple[Array, Array]:
    if train is False or p == 0:
        return x, jnp.ones(x.shape, bool)
    kept = jax.random.bernoulli(key, 1 - p, x.shape)
    return jnp.where(kept, x / (1 - p) if p < 1 else 0, 0), kept


def _rrelu(
    key: Array, x: Array, noise: Array, low: float = 1 / 8, high: float = 1 / 3, training: bool = False
) -> tuple[Array, Array]:
    slope = jax.random.uniform(key, x.shape, x.dtype, low, high) if training else (low + high) / 2
    return jnp.where(x > 0, x, slope * x), jnp.where(x > 0, 1, slope)


DRAWS: dict[str, Rule] = {
    "randn": lambda key, shape, **_: jax.random.normal(key, tuple(shape)),
    "randn_like": lambda key, x, **_: jax.random.normal(key, x.shape),
    "rand": lambda key, shape, **_: jax.random.uniform(key, tuple(shape)),
    "rand_like": lambda key, x, **_: jax.random.uniform(key, x.shape),
    "randint": lambda key, high, shape, **_: _randint(key, 0, high, shape),
    "randint.low": lambda key, low, high, shape, **_: _randint(key, low, high, shape),
    "randint_like": lambda key, x, high, **_: _randint(key, 0, high, x.shape),
    "randint_like.low_dtype": lambda key, x, low, high, **_: _randint(key, low, high, x.shape),
    "randperm": lambda key, n, **_: jax.random.permutation(key, n),
    "normal": _normal,
    "normal_functional": lambda key, x, mean=0.0, std=1.0, **_: _normal(key, mean, std, x.shape),
    "log_normal": lambda key, x, mean=1.0, std=2.0: jnp.exp(_normal(key, mean, std, x.shape)),
    "uniform": _uniform,
    "exponential": _exponential,
    "geometric": _geometric,
    "cauchy": lambda key, x, median=0.0, sigma=1.0: median + sigma * jax.random.cauchy(key, x.shape, x.dtype),
    "random": _random,
    "random.from": _random,
    "random.to": lambda key, x, high: _random(key, x, 0, high),
    "bernoulli": _bernoulli,
    "multinomial": _multinomial,
    "poisson": _poisson,
    "binomial": _binomial,
    "_standard_gamma": _gamma,
    "_sample_dirichlet": _dirichlet,
    "native_dropout": _native_dropout,
    "rrelu_with_noise_functional": _rrelu,
}
