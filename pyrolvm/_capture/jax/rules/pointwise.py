"""Operations that act on each element by itself.

Where a derivative is a matter of convention (at a bound, at a tie, at zero), the rule takes torch's.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import jax.scipy.special as special
from jax import Array
from jax.typing import ArrayLike

from pyrolvm._capture.jax.rules import bounds
from pyrolvm._capture.jax.rules.kinds import Rule

__all__ = ["RULES", "log_one_plus_exp"]

_ROOT_HALF = 0.5**0.5


def _alike(x: ArrayLike, y: ArrayLike, *others: ArrayLike) -> list[Array]:
    """Both in one shape and the dtype that they and others have in common."""
    dtype = jnp.result_type(x, y, *others)
    return jnp.broadcast_arrays(jnp.asarray(x, dtype), jnp.asarray(y, dtype))


def _power(x: Array, y: Array) -> Array:
    """A whole exponent known in advance is a product: exact, and differentiable where the base is negative or zero."""
    if isinstance(y, float) and y.is_integer():
        y = int(y)
    if isinstance(y, int) or not jnp.issubdtype(jnp.result_type(x, y), jnp.floating):
        return jnp.power(x, y)
    return jnp.sqrt(x) if isinstance(y, float) and y == 0.5 else _real_power(*_alike(x, y))


@jax.custom_jvp
def _real_power(x: Array, y: Array) -> Array:
    """Powers whose derivatives at zero are torch's."""
    return jnp.power(x, y)


@_real_power.defjvp
def _real_power_jvp(at: tuple[Array, ...], towards: tuple[Array, ...]) -> tuple[Array, Array]:
    (x, y), (dx, dy) = at, towards
    value = _real_power(x, y)
    by_x = jnp.where(y == 0, 0, y * jnp.power(x, jnp.where(y == 0, 1, y - 1)))
    flat = (x == 0) & (y >= 0)
    by_y = jnp.where(flat, 0, value * jnp.log(jnp.where(flat, 1, x)))
    return value, dx * by_x + dy * by_y


def absolute(x: Array) -> Array:
    """The absolute value, whose derivative at zero is zero."""
    return _real_absolute(x) if jnp.issubdtype(jnp.result_type(x), jnp.floating) else jnp.abs(x)


@jax.custom_jvp
def _real_absolute(x: Array) -> Array:
    return jnp.abs(x)


@_real_absolute.defjvp
def _real_absolute_jvp(at: tuple[Array, ...], towards: tuple[Array, ...]) -> tuple[Array, Array]:
    return _real_absolute(at[0]), towards[0] * jnp.sign(at[0])


def _sign(x: Array) -> Array:
    """Zero for what is not a number."""
    return jnp.where(jnp.isnan(x), 0, jnp.sign(x))


@jax.custom_jvp
def _log_ndtr(x: Array) -> Array:
    """The logarithm of the normal distribution function, by what is exact on either side."""
    left = jnp.where(x < -1, x, -1)
    below = jnp.log(special.erfcx(-left * _ROOT_HALF) / 2) - left * left / 2
    return jnp.where(x < -1, below, jnp.log1p(-special.erfc(x * _ROOT_HALF) / 2))


@_log_ndtr.defjvp
def _log_ndtr_jvp(at: tuple[Array, ...], towards: tuple[Array, ...]) -> tuple[Array, Array]:
    slope = 2 * _ROOT_HALF / jnp.sqrt(jnp.pi) / special.erfcx(-at[0] * _ROOT_HALF)
    return _log_ndtr(at[0]), towards[0] * slope


@jax.custom_jvp
def _copysign(x: Array, y: Array) -> Array:
    return jnp.copysign(x, y)


@_copysign.defjvp
def _copysign_jvp(at: tuple[Array, ...], towards: tuple[Array, ...]) -> tuple[Array, Array]:
    value = _copysign(*at)
    return value, towards[0] * jnp.where(at[0] == 0, 0, value / jnp.where(at[0] == 0, 1, at[0]))


@jax.custom_jvp
def _atan2(y: Array, x: Array) -> Array:
    """The angle, whose derivative at the origin is zero."""
    return jnp.arctan2(y, x)


@_atan2.defjvp
def _atan2_jvp(at: tuple[Array, ...], towards: tuple[Array, ...]) -> tuple[Array, Array]:
    (y, x), (dy, dx) = at, towards
    squared = x * x + y * y
    return _atan2(y, x), jnp.where(squared == 0, 0, (dy * x - dx * y) / jnp.where(squared == 0, 1, squared))


@jax.custom_jvp
def _logaddexp(x: Array, y: Array) -> Array:
    """log(exp(x) + exp(y)), whose derivatives stay between zero and one where one of the two is infinite."""
    return jnp.logaddexp(x, y)


@_logaddexp.defjvp
def _logaddexp_jvp(at: tuple[Array, ...], towards: tuple[Array, ...]) -> tuple[Array, Array]:
    (x, y), (dx, dy) = at, towards
    return _logaddexp(x, y), dx / (1 + jnp.exp(y - x)) + dy / (1 + jnp.exp(x - y))


@jax.custom_jvp
def _lgamma(x: Array) -> Array:
    return special.gammaln(x)


@_lgamma.defjvp
def _lgamma_jvp(at: tuple[Array, ...], towards: tuple[Array, ...]) -> tuple[Array, Array]:
    return _lgamma(at[0]), towards[0] * _digamma(at[0])


@jax.custom_jvp
def _digamma(x: Array) -> Array:
    """The digamma function, infinite at zero."""
    return jnp.where(x == 0, jnp.copysign(jnp.inf, -x), special.digamma(x))


@_digamma.defjvp
def _digamma_jvp(at: tuple[Array, ...], towards: tuple[Array, ...]) -> tuple[Array, Array]:
    return _digamma(at[0]), towards[0] * _trigamma(at[0])


def _trigamma(x: Array) -> Array:
    """The derivative of digamma, by reflection where JAX's has no digits."""
    left = x <= 0
    right = special.polygamma(1, jnp.where(left, 1 - x, x))
    return jnp.where(left, (jnp.pi / jnp.sin(jnp.pi * (x - jnp.rint(x)))) ** 2 - right, right)


def _polygamma(n: int, x: Array) -> Array:
    return (_digamma, _trigamma)[n](x) if n < 2 else special.polygamma(n, x)


@jax.custom_jvp
def _bessel_i0(x: Array) -> Array:
    return special.i0(x)


@_bessel_i0.defjvp
def _bessel_i0_jvp(at: tuple[Array, ...], towards: tuple[Array, ...]) -> tuple[Array, Array]:
    return _bessel_i0(at[0]), towards[0] * special.i1(at[0])


def _divide(x: Array, y: Array, rounding_mode: str | None = None) -> Array:
    if rounding_mode is None:
        return jnp.true_divide(x, y)
    if rounding_mode == "floor":
        return jnp.floor_divide(x, y)
    if jnp.issubdtype(jnp.result_type(x, y), jnp.integer):
        return jax.lax.div(*_alike(x, y))
    return jnp.trunc(jnp.true_divide(x, y))


def _sinc(x: Array) -> Array:
    """Of what times pi is infinite there is none, as torch has it."""
    return jnp.where(jnp.isinf(jnp.pi * x), jnp.nan, jnp.sinc(x))


def _softplus(x: Array, beta: float = 1, threshold: float = 20) -> Array:
    far = x * beta > threshold
    return jnp.where(far, x, jnp.log1p(jnp.exp(jnp.where(far, 0, x * beta))) / beta)


@jax.custom_jvp
def log_one_plus_exp(x: Array) -> Array:
    """``log(1 + exp(x))``, whose derivative is one logistic function: that of ``logaddexp`` takes twice as many operations."""
    return jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


@log_one_plus_exp.defjvp
def _log_one_plus_exp_jvp(at: tuple[Array], towards: tuple[Array]) -> tuple[Array, Array]:
    return log_one_plus_exp(*at), towards[0] * jax.nn.sigmoid(at[0])


def _log_sigmoid(x: Array) -> tuple[Array, Array]:
    return -log_one_plus_exp(-x), jnp.exp(-jnp.abs(x))


@jax.custom_jvp
def _xlogy(x: Array, y: Array) -> Array:
    """``x log y``, which is 0 where x is."""
    return jnp.where((x == 0) & ~jnp.isnan(y), 0, x * jnp.log(y))


@_xlogy.defjvp
def _xlogy_jvp(at: tuple[Array, ...], towards: tuple[Array, ...]) -> tuple[Array, Array]:
    (x, y), (dx, dy) = at, towards
    by_x = jnp.where((x == 0) & (y <= 0), 0, jnp.log(y))
    return _xlogy(x, y), dx * by_x + dy * x / y


@jax.custom_jvp
def _xlog1py(x: Array, y: Array) -> Array:
    """``x log(1 + y)``, which is 0 where x is."""
    return jnp.where((x == 0) & ~jnp.isnan(y), 0, x * jnp.log1p(y))


@_xlog1py.defjvp
def _xlog1py_jvp(at: tuple[Array, ...], towards: tuple[Array, ...]) -> tuple[Array, Array]:
    (x, y), (dx, dy) = at, towards
    by_x = jnp.where((x == 0) & (y <= -1), 0, jnp.log1p(y))
    return _xlog1py(x, y), dx * by_x + dy * x / (1 + y)


def _floats(function: Rule) -> Rule:
    """The function of two arrays of the same shape and floating dtype."""
    return lambda x, y: function(*_alike(x, y, 0.0))


@jax.custom_jvp
def root_or_zero(x: Array) -> Array:
    """The root, whose derivative at zero is called zero."""
    return jnp.sqrt(x)


@root_or_zero.defjvp
def root_or_zero_jvp(at: tuple[Array, ...], towards: tuple[Array, ...]) -> tuple[Array, Array]:
    root = root_or_zero(at[0])
    return root, towards[0] * jnp.where(root == 0, 0, 0.5 / jnp.where(root == 0, 1, root))


@jax.custom_jvp
def _hypot(x: Array, y: Array) -> Array:
    return jnp.hypot(x, y)


@_hypot.defjvp
def _hypot_jvp(at: tuple[Array, ...], towards: tuple[Array, ...]) -> tuple[Array, Array]:
    value = _hypot(*at)
    return value, towards[0] * (at[0] / value) + towards[1] * (at[1] / value)


@jax.custom_jvp
def _log_odds(x: Array) -> Array:
    return jnp.log(x / (1 - x))


@_log_odds.defjvp
def _log_odds_jvp(at: tuple[Array, ...], towards: tuple[Array, ...]) -> tuple[Array, Array]:
    """Infinite at zero and one, and none outside."""
    x = at[0]
    return _log_odds(x), towards[0] * jnp.where((x < 0) | (x > 1), jnp.nan, 1 / (x * (1 - x)))


def _logit(x: Array, eps: float | None = None) -> Array:
    return _log_odds(x if eps is None else bounds.within(x, eps, 1 - eps))


def _nan_to_num(x: Array, nan: Array | None = None, posinf: Array | None = None, neginf: Array | None = None) -> Array:
    return jnp.nan_to_num(x, nan=0.0 if nan is None else nan, posinf=posinf, neginf=neginf)


def _round(x: Array, decimals: int = 0) -> Array:
    return jnp.round(x, decimals)


def _gelu(x: Array, approximate: str = "none") -> Array:
    return jax.nn.gelu(x, approximate=approximate == "tanh")


def _elu(x: Array, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Array:
    below = alpha * jnp.expm1(jnp.where(x > 0, 0, x) * input_scale)
    return scale * jnp.where(x > 0, x, below)


def _where(condition: Array, x: Array, y: Array) -> Array:
    return jnp.where(condition, x, y)


def _masked_fill(x: Array, mask: Array, value: Array) -> Array:
    return jnp.where(mask, jnp.asarray(value, x.dtype), x)


def _fmod(x: Array, y: Array) -> Array:
    return jax.lax.rem(*_alike(x, y))


ARITHMETIC: dict[str, Rule] = {
    "add": lambda x, y, alpha=1: x + (y if alpha == 1 else alpha * y),
    "sub": lambda x, y, alpha=1: x - (y if alpha == 1 else alpha * y),
    "rsub": lambda x, y, alpha=1: y - (x if alpha == 1 else alpha * x),
    "mul": jnp.multiply,
    "div": _divide,
    "floor_divide": jnp.floor_divide,
    "remainder": jnp.remainder,
    "fmod": _fmod,
    "neg": jnp.negative,
    "positive": jnp.positive,
    "reciprocal": jnp.reciprocal,
    "addcmul": lambda x, a, b, value=1: x + value * a * b,
    "addcdiv": lambda x, a, b, value=1: x + value * a / b,
    "lerp": lambda x, y, weight: x + weight * (y - x),
    "square": jnp.square,
    "pow": _power,
    "float_power": _power,
    "sqrt": jnp.sqrt,
    "rsqrt": jax.lax.rsqrt,
    "hypot": _floats(_hypot),
    "abs": absolute,
    "sign": _sign,
    "sgn": _sign,
    "copysign": _floats(_copysign),
    "ceil": jnp.ceil,
    "floor": jnp.floor,
    "trunc": jnp.trunc,
    "fix": jnp.trunc,
    "frac": lambda x: x - jnp.trunc(x),
    "round": _round,
    "heaviside": jnp.heaviside,
    "nextafter": jnp.nextafter,
    "gcd": jnp.gcd,
    "lcm": jnp.lcm,
    "deg2rad": jnp.deg2rad,
    "rad2deg": jnp.rad2deg,
    "real": jnp.real,
    "imag": jnp.imag,
    "conj": jnp.conj,
    "_conj": jnp.conj,
    "conj_physical": jnp.conj,
    "_conj_physical": jnp.conj,
    "resolve_conj": lambda x: x,
    "resolve_neg": lambda x: x,
    "complex": lambda x, y: jax.lax.complex(*_alike(x, y)),
    "polar": lambda r, angle: r * jnp.exp(1j * angle),
    "angle": jnp.angle,
}

TRANSCENDENTAL: dict[str, Rule] = {
    "exp": jnp.exp,
    "exp2": jnp.exp2,
    "expm1": jnp.expm1,
    "log": jnp.log,
    "log1p": jnp.log1p,
    "log2": jnp.log2,
    "log10": jnp.log10,
    "logaddexp": _floats(_logaddexp),
    "logaddexp2": jnp.logaddexp2,
    "sin": jnp.sin,
    "cos": jnp.cos,
    "tan": jnp.tan,
    "sinh": jnp.sinh,
    "cosh": jnp.cosh,
    "tanh": jnp.tanh,
    "asin": jnp.arcsin,
    "acos": jnp.arccos,
    "atan": jnp.arctan,
    "atan2": _floats(_atan2),
    "asinh": jnp.arcsinh,
    "acosh": jnp.arccosh,
    "atanh": jnp.arctanh,
    "sinc": _sinc,
    "xlogy": _floats(_xlogy),
    "special_xlog1py": _floats(_xlog1py),
    "logit": _logit,
    # Gradients inside a program, as of a guide that takes steps of its own.
    "tanh_backward": lambda gradient, y: gradient * (1 - y * y),
    "sigmoid_backward": lambda gradient, y: gradient * y * (1 - y),
    "log_sigmoid_backward": lambda gradient, x, buffer: gradient * jax.nn.sigmoid(-x),
    "softplus_backward": lambda gradient, x, beta, threshold: (
        gradient * jnp.where(x * beta > threshold, 1.0, jax.nn.sigmoid(x * beta))
    ),
    "threshold_backward": lambda gradient, x, threshold: jnp.where(x > threshold, gradient, 0),
    "lgamma": _lgamma,
    "digamma": _digamma,
    "polygamma": _polygamma,
    "mvlgamma": lambda x, p: special.multigammaln(x, p),
    "erf": special.erf,
    "erfc": special.erfc,
    "erfinv": special.erfinv,
    "i0": _bessel_i0,
    "special_i0e": special.i0e,
    "special_i1": special.i1,
    "special_i1e": special.i1e,
    "special_modified_bessel_i0": _bessel_i0,
    "special_modified_bessel_i1": special.i1,
    "special_erfcx": special.erfcx,
    "special_entr": special.entr,
    "special_ndtri": special.ndtri,
    "special_log_ndtr": _log_ndtr,
    "special_zeta": special.zeta,
    "igamma": special.gammainc,
    "igammac": special.gammaincc,
}

ACTIVATIONS: dict[str, Rule] = {
    "sigmoid": jax.nn.sigmoid,
    "log_sigmoid_forward": _log_sigmoid,
    "softplus": _softplus,
    "relu": jax.nn.relu,
    "relu6": lambda x: bounds.hardtanh(x, 0, 6),
    "hardtanh": bounds.hardtanh,
    "hardsigmoid": lambda x: bounds.hardtanh(x + 3, 0, 6) / 6,
    "hardswish": lambda x: x * bounds.within(x + 3, 0, 6) / 6,
    "leaky_relu": lambda x, slope=0.01: jnp.where(x > 0, x, slope * x),
    "_prelu_kernel": lambda x, slope: jnp.where(x > 0, x, slope * x),
    "threshold": lambda x, threshold, value: jnp.where(x <= threshold, value, x),
    "elu": _elu,
    "celu": lambda x, alpha=1.0: _elu(x, alpha, 1, 1 / alpha),
    "selu": lambda x: _elu(x, 1.6732632423543772848170429916717, 1.0507009873554804934193349852946),
    "gelu": _gelu,
    "silu": lambda x: x * jax.nn.sigmoid(x),
    "mish": lambda x: x * jnp.tanh(_softplus(x)),
    "softshrink": lambda x, lambd=0.5: jnp.where(x > lambd, x - lambd, jnp.where(x < -lambd, x + lambd, 0)),
    "hardshrink": lambda x, lambd=0.5: jnp.where((x >= -lambd) & (x <= lambd), 0, x),
    "glu": lambda x, dim=-1: jax.nn.glu(x, axis=dim),
}

COMPARISONS: dict[str, Rule] = {
    "lt": jnp.less,
    "le": jnp.less_equal,
    "gt": jnp.greater,
    "ge": jnp.greater_equal,
    "eq": jnp.equal,
    "ne": jnp.not_equal,
    "isnan": jnp.isnan,
    "isinf": jnp.isinf,
    "isfinite": jnp.isfinite,
    "isposinf": jnp.isposinf,
    "isneginf": jnp.isneginf,
    "signbit": jnp.signbit,
    "isin.Tensor_Tensor": lambda x, tests, assume_unique=False, invert=False: jnp.isin(x, tests, invert=invert),
    "logical_and": jnp.logical_and,
    "logical_or": jnp.logical_or,
    "logical_xor": jnp.logical_xor,
    "logical_not": jnp.logical_not,
    "bitwise_and": jnp.bitwise_and,
    "bitwise_or": jnp.bitwise_or,
    "bitwise_xor": jnp.bitwise_xor,
    "bitwise_not": jnp.bitwise_not,
    "__and__": jnp.bitwise_and,
    "__or__": jnp.bitwise_or,
    "__xor__": jnp.bitwise_xor,
    "bitwise_left_shift": jnp.left_shift,
    "bitwise_right_shift": jnp.right_shift,
    "__lshift__": jnp.left_shift,
    "__rshift__": jnp.right_shift,
}

SELECTION: dict[str, Rule] = {
    "where": _where,
    "masked_fill": _masked_fill,
    "nan_to_num": _nan_to_num,
}

COPIES: dict[str, Rule] = {
    "detach": jax.lax.stop_gradient,
    "detach_": jax.lax.stop_gradient,
    "alias": lambda x: x,
    "clone": lambda x, **_: x,
    "contiguous": lambda x, **_: x,
    "lift_fresh": lambda x: x,
    "lift_fresh_copy": lambda x: x,
    "_to_copy": lambda x, **_: jnp.asarray(x),
    "to": lambda x, *_, **__: jnp.asarray(x),
    "copy": lambda x, source, non_blocking=False: jnp.broadcast_to(source, x.shape),
    "fill": lambda x, value: jnp.broadcast_to(jnp.asarray(value, x.dtype), x.shape),
    "zero": jnp.zeros_like,
}

RULES: dict[str, Rule] = {
    **ARITHMETIC,
    **TRANSCENDENTAL,
    **ACTIVATIONS,
    **COMPARISONS,
    **SELECTION,
    **bounds.RULES,
    **COPIES,
}
