"""How draws move with the parameters of their distribution, where torch has an operation for it.

The derivative of a draw x by a parameter a is -(dF/da)/f, with F and f the distribution function and the density. For a
Beta there is no closed form; these are torch's own approximations, so that both engines take the same step.

References:
    Martin Jankowiak and Fritz Obermeyer, *Pathwise Derivatives Beyond the Reparameterization Trick*, ICML 2018,
    https://arxiv.org/abs/1806.01851.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import digamma

from pyrolvm._capture.jax.rules.kinds import Rule

__all__ = ["RULES"]

# fmt: off
_NUMERATOR = np.array([
    [[1.003668233, -0.01061107488, -0.0657888334, 0.01201642863],
     [0.6336835991, -0.3557432599, 0.05486251648, -0.001465281033],
     [-0.03276231906, 0.004474107445, 0.002429354597, -0.0001557569013]],
    [[0.221950385, -0.3187676331, 0.01799915743, 0.01074823814],
     [-0.2951249643, 0.06219954479, 0.01535556598, 0.001550077057],
     [0.02155310298, 0.004170831599, 0.001292462449, 6.976601077e-05]],
    [[-0.05980841433, 0.008441916499, 0.01085618172, 0.002319392565],
     [0.02911413504, 0.01400243777, -0.002721828457, 0.000751041181],
     [0.005900514878, -0.001936558688, -9.495446725e-06, 5.385558597e-05]],
])
_DENOMINATOR = np.array([
    [[1, -0.02924021934, -0.04438342661, 0.007285809825],
     [0.6357567472, -0.3473456711, 0.05454656494, -0.002407477521],
     [-0.03301322327, 0.004845219414, 0.00231480583, -0.0002307248149]],
    [[0.5925320577, -0.1757678135, 0.01505928619, 0.000564515273],
     [0.1014815858, -0.06589186703, 0.01272886114, -0.0007316646956],
     [-0.007258481865, 0.001096195486, 0.0003934994223, -4.12701925e-05]],
    [[0.06469649321, -0.0236701437, 0.002902096474, -5.896963079e-05],
     [0.001925008108, -0.002869809258, 0.0008000589141, -6.063713228e-05],
     [-0.0003477407336, 6.959756487e-05, 1.097287507e-05, -1.650964693e-06]],
])
# fmt: on


def _alpha_near_zero(x: Array, alpha: Array, beta: Array) -> Array:
    """By alpha, for x near 0: a Taylor series."""
    factor = digamma(alpha) - digamma(alpha + beta) - jnp.log(x)
    numerator = jnp.ones_like(x)
    series = numerator / alpha * (factor + 1 / alpha)
    for i in range(1, 11):
        numerator = numerator * (i - beta) * x / i
        series = series + numerator / (alpha + i) * (factor + 1 / (alpha + i))
    result = x * (1 - x) ** -beta * series
    return jnp.where(jnp.isnan(result), 0, result)


def _beta_near_zero(x: Array, alpha: Array, beta: Array) -> Array:
    """By beta, for x near 0: a Taylor series."""
    factor = digamma(alpha + beta) - digamma(beta)
    numerator, betas, slopes, series = jnp.ones_like(x), jnp.ones_like(x), jnp.zeros_like(x), factor / alpha
    for i in range(1, 9):
        numerator = numerator * -x / i
        slopes = slopes * (beta - i) + betas
        betas = betas * (beta - i)
        series = series + numerator / (alpha + i) * (slopes + factor * betas)
    result = -((1 - x) ** (1 - beta)) * series
    return jnp.where(jnp.isnan(result), 0, result)


def _alpha_large(x: Array, alpha: Array, beta: Array) -> Array:
    """By alpha, where both parameters are large: a saddle point expansion, and a polynomial about its singularity."""
    total = alpha + beta
    mean, deviation = alpha / total, jnp.sqrt(alpha * beta / (total + 1)) / total
    central = jnp.abs(x - mean) <= 0.1 * deviation
    poly = 47 * x * beta**4 + alpha * (
        (43 + 20 * (16 + 27 * beta) * x) * beta**3
        + alpha
        * (
            3 * (59 + 180 * beta - 90 * x) * beta**2
            + alpha * ((453 + 1620 * beta * (1 - x) - 455 * x) * beta + alpha * (8 * (1 - x) * (135 * beta - 11)))
        )
    )
    ahead = (1 + 12 * alpha) * (1 + 12 * beta) / total**2
    middle = ahead / (1 - x) * poly / (12960 * alpha**3 * beta**2 * (1 + 12 * total))
    x = jnp.where(central, 0.5 * mean, x)
    stirling = _stirling(alpha) * _stirling(beta) / _stirling(total)
    distance = alpha * (x - 1) + beta * x
    first = (2 * alpha**2 * (x - 1) + alpha * beta * (x - 1) - x * beta**2) / (
        jnp.sqrt(2 * alpha / beta) * total**1.5 * distance**2
    )
    half = 0.5 * jnp.log(alpha / (total * x))
    third = jnp.sqrt(8 * alpha * beta / total) / distance
    fourth = (beta * jnp.log(beta / (total * (1 - x))) + alpha * jnp.log(alpha / (total * x))) ** -1.5
    outer = first + half * (third + jnp.where(x < mean, fourth, -fourth))
    return jnp.where(central, middle, stirling * -x / jnp.sqrt(2 * alpha * beta / total) * outer)


def _stirling(x: Array) -> Array:
    return 1 + 1 / (12 * x) + 1 / (288 * x * x)


def _between(x: Array, alpha: Array, total: Array) -> Array:
    """By alpha, elsewhere: an analytic approximation with a rational correction."""
    u = jnp.log(x)
    a = jnp.log(alpha) - u
    b = jnp.log(total) - a
    powers = [jnp.stack([base**i for i in range(n)]) for base, n in ((u, 3), (a, 3), (b, 4))]
    p, q = (jnp.einsum("ijk,i...,j...,k...->...", c.astype(x.dtype), *powers) for c in (_NUMERATOR, _DENOMINATOR))
    return p / q * x * (digamma(total) - digamma(alpha)) / (total - alpha)


def _dirichlet_grad(x: Array, alpha: Array, total: Array) -> Array:
    """For Beta(alpha, total - alpha): the derivative of its draw x by alpha, over 1 - x."""
    beta, edge = total - alpha, total * x * (1 - x)
    return jnp.select(
        [(x <= 0.5) & (edge < 2.5), (x >= 0.5) & (edge < 0.75), (alpha > 6) & (beta > 6)],
        [_alpha_near_zero(x, alpha, beta), -_beta_near_zero(1 - x, beta, alpha), _alpha_large(x, alpha, beta)],
        _between(x, alpha, total),
    )


RULES: dict[str, Rule] = {
    "_dirichlet_grad": _dirichlet_grad,
    "_standard_gamma_grad": lambda alpha, x: jax.lax.random_gamma_grad(alpha, x),
}
